"""`edge replay`: frames that were judged before are judged again by a candidate, and what changes is shown.

The candidate goes the daemon's own way: decode workers, preprocessing, engine, judge. Nothing of the site is
changed: a replay leaves a folder with `report.html`, `replay.json` and a line a frame in `frames.jsonl`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import cv2
from ulid import ULID

from edge import __version__, app
from edge import config as configuration
from edge.artifacts import make_folder, sync_folder
from edge.config import Settings
from edge.decode.workers import DecodeWorkers
from edge.errors import CannotWriteError, UsageError
from edge.inspect import below, distinct, frame_files
from edge.learn.progress import console
from edge.pipeline import PrepareJob, prepare_file, warm_up
from edge.recipes import naming_of, open_recipe, value_range_of
from edge.replay.candidate import candidate_site
from edge.replay.counts import summary
from edge.replay.judging import Replay
from edge.replay.report import write_report
from edge.replay.stored import Held, Selection, StoredVerdicts, no_verdicts, parse_time, stored
from edge.replay.table import show
from edge.types import ModelInfo

KEPT = 20  # of those folders, the newest
LAST = 1000  # stored verdicts, where nothing else is said
EXIT_A_DEFECT_PASSES = 1
EXIT_INTERRUPTED = 130
DOCUMENT, REPORT, FRAMES = "replay.json", "report.html", "frames.jsonl"
UNFINISHED = ".unfinished"
UNFINISHED_S = 86_400.0  # after which nobody is writing it any more


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    recipe: str
    engine: str | None = None
    calibration: str | None = None
    since: str | None = None
    until: str | None = None
    batch: str | None = None
    last: int | None = None
    paths: Sequence[Path] = ()
    out: Path | None = None
    json: bool = False


def run_replay(options: Options, config: Path | None) -> int:
    """The command: judge again, compare, print, write the report. Gives the exit code."""
    settings = configuration.load(configuration.find(config))
    wanted, out = _selection(options), _out(settings, options.out)
    with ExitStack() as stack:
        items, total = _chosen(settings, options, wanted, stack)
        unfinished = _begin(out)
        stack.callback(shutil.rmtree, unfinished, ignore_errors=True)
        with (unfinished / FRAMES).open("w") as lines, console() as listen:
            replay = _open(settings, options, lines, stack)
            is_interrupted = replay.run(items, total, listen)
        document = _document(options, wanted, replay, total) | {"interrupted": is_interrupted}
        _finish(settings, replay, document, unfinished, out)
    if options.json:
        print(json.dumps({**document, "folder": str(out)}, allow_nan=False))
    else:
        show(document, out / REPORT)
    if is_interrupted:
        return EXIT_INTERRUPTED
    return EXIT_A_DEFECT_PASSES if replay.tally.passing_count else 0


def prune(root: Path, keep: int = KEPT, now_unix_s: float | None = None) -> None:
    """Forget the oldest replays beyond so many, and what was left unfinished long ago.

    Names are ULIDs, which sort by time.
    """
    now_unix_s = time.time() if now_unix_s is None else now_unix_s
    done = sorted(folder for folder in root.iterdir() if (folder / DOCUMENT).is_file())
    left = [one for one in root.glob(f".*{UNFINISHED}") if now_unix_s - one.stat().st_mtime > UNFINISHED_S]
    for folder in (*done[: max(0, len(done) - keep)], *left):
        shutil.rmtree(folder, ignore_errors=True)


def _selection(options: Options) -> Selection:
    """What is asked of the database.

    Raises:
        UsageError: a time is none, or folders are named as well.
    """
    since, until = parse_time("--since", options.since), parse_time("--until", options.until)
    is_given = any(value is not None for value in (since, until, options.batch, options.last))
    if options.paths and is_given:
        raise UsageError(
            "frames of a folder have no stored verdicts to choose from",
            hint="leave out --since, --until, --batch and --last, or leave out the folders",
        )
    if options.paths and options.engine is None and options.calibration is None:
        raise UsageError(
            "nothing to compare: these frames would be judged twice by the same recipe",
            hint="name the new engine with --engine, or the new calibration with --calibration",
        )
    return Selection(options.recipe, since, until, options.batch, options.last if is_given else LAST)


def _chosen(
    settings: Settings, options: Options, wanted: Selection, stack: ExitStack
) -> tuple[Iterable[Held], int]:
    """The files to judge again, and how many frames they are about.

    Raises:
        MissingInputError: there is none.
    """
    if options.paths:
        naming, stored_range = naming_of(settings, options.recipe), value_range_of(settings, options.recipe)
        folders = [source.directory for source in settings.source if source.recipe == options.recipe]
        files = [
            Held(name, file, naming, below(file, folders) or name, stored_range)
            for file, name in distinct(list(frame_files(options.paths)), options.out)
        ]
        return files, len(files)
    reader = StoredVerdicts(settings.paths.state / app.DATABASE)
    stack.callback(reader.close)
    if not (total := reader.count(wanted)):
        raise no_verdicts(reader, wanted)
    return stored(reader, settings, wanted), total


def _open(settings: Settings, options: Options, lines: TextIO, stack: ExitStack) -> Replay:
    """Candidate, the recipe it is held against, and decode workers."""
    changed = candidate_site(settings, options.recipe, options.engine, options.calibration)
    candidate = open_recipe(changed, options.recipe)
    current = open_recipe(settings, options.recipe) if options.paths else None
    runtime = settings.runtime
    workers = DecodeWorkers[PrepareJob](
        prepare_file,
        workers=runtime.decode_workers or app.decode_workers(os.cpu_count() or 1),
        timeout_s=runtime.decode_timeout_s,
        memory_bytes=runtime.decode_memory,
        warm_up=partial(warm_up, app.masks_of(one for one in (candidate, current) if one is not None)),
    )
    stack.callback(workers.close)
    cv2.setNumThreads(1)  # the cores are the engine's, and the workers'
    return Replay(settings, options.recipe, candidate, current, workers, lines)


def _out(settings: Settings, out: Path | None) -> Path:
    """Where the report goes.

    Raises:
        CannotWriteError: something is there already.
    """
    if out is None:
        return settings.paths.state / app.REPLAYS / str(ULID())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CannotWriteError(
            f"--out {out}: something is there already", hint="name a new folder", retryable=False
        )
    return out.absolute()


def _begin(out: Path) -> Path:
    """The folder that becomes `out` once all of it is there."""
    unfinished = out.with_name(f".{out.name}{UNFINISHED}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        make_folder(unfinished)
    except OSError as error:
        raise CannotWriteError(f"{out}: {error}", hint="check space and permissions") from None
    return unfinished


def _finish(
    settings: Settings, replay: Replay, document: Mapping[str, Any], unfinished: Path, out: Path
) -> None:
    """The report, then the folder's own name; the oldest ones of the site go."""
    try:
        (unfinished / DOCUMENT).write_text(json.dumps(document, allow_nan=False) + "\n")
        write_report(unfinished / REPORT, replay, document)
        sync_folder(unfinished)
        unfinished.rename(out)
        sync_folder(out.parent)
        if out.parent == settings.paths.state / app.REPLAYS:
            prune(out.parent)
    except OSError as error:
        raise CannotWriteError(f"{out}: {error}", hint="check space and permissions") from None


def _document(options: Options, wanted: Selection, replay: Replay, total: int) -> dict[str, Any]:
    return {
        "edge": __version__,
        "recipe": options.recipe,
        "station": replay.settings.station.name,
        "createdAt": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "selection": {
            "since": options.since,
            "until": options.until,
            "batch": options.batch,
            "last": None if options.paths else wanted.last,
            "paths": [str(path) for path in options.paths],
        },
        "asked": total,
        "candidate": model_of(replay.candidate.model),
        "against": _against(replay),
        **summary(replay.tally),
    }


def _against(replay: Replay) -> dict[str, Any]:
    """What the candidate is held against: the current recipe, or those that made the stored verdicts."""
    if replay.current is not None:
        return {"kind": "recipe", "models": [model_of(replay.current.model)]}
    models = [
        {"sha256": sha256, "calibrationSha256": calibration, "frames": frames}
        for (sha256, calibration), frames in replay.tally.models.most_common()
    ]
    return {"kind": "verdicts", "models": models}


def model_of(model: ModelInfo) -> dict[str, Any]:
    """A model's digests, in the words of the wire."""
    return {
        "bundle": model.bundle,
        "sha256": model.sha256,
        "calibrationSha256": model.calibration_sha256,
        "runtime": model.runtime,
        "precision": model.precision,
    }
