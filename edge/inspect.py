"""`edge inspect`: frames judged once, by the same pipeline as the daemon's, without folders or databases."""

from __future__ import annotations

import json as jsonlib
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
from rich.console import Console
from ulid import ULID

from edge import config as configuration
from edge.config import FRAME_PATTERNS
from edge.dataset import about, frames_below
from edge.decode import Limits
from edge.errors import CannotWriteError, DataError, MissingInputError, UsageError
from edge.explain import fired, open_explainer
from edge.intake.naming import Naming, compile_naming, unnamed
from edge.judge.judgement import IN_REVIEW_BAND
from edge.neighbours import nearest, open_neighbours, strip
from edge.options import parse_range, relative_score
from edge.pipeline import Inspection, Inspector, PrepareJob, prepare_file
from edge.publish.payload import frame_payload
from edge.recipes import naming_of, open_recipe, value_range_of
from edge.record import evidence
from edge.types import Frame, Identity, ImageInfo, Judgement

EXIT_NOT_OK = 1
AHEAD = 2  # files that are read before they are asked for; each may be large
SORTED = {"OK": "io", "NotOK": "nio", "NotDecidable": "undecided"}

Reading = tuple[PrepareJob, Future[list[Frame]]]
"""A file that is being read, with what comes of it."""


def run_inspect(
    paths: Sequence[Path],
    *,
    recipe: str,
    out: Path | None,
    template: str | None,
    pattern: str | None,
    value_range: str | None,
    config: Path | None,
    json: bool,
    sort: Literal["copy", "link"] | None = None,
) -> int:
    """The command: a verdict a line on stdout; 0 if all are OK, else 1."""
    if sort is not None and out is None:
        raise UsageError(f"--sort {sort} needs a folder to sort into", hint="give --out")
    settings = configuration.site(config)
    files = distinct(list(frame_files(paths)), out)
    by_hand = naming_by_hand(template, pattern)
    stored = parse_range(value_range)
    inspector = open_recipe(settings, recipe)
    naming = by_hand or naming_of(settings, recipe)
    if value_range is None:
        stored = value_range_of(settings, recipe)
    folders = [] if by_hand else [s.directory for s in settings.source if s.recipe == recipe]
    limits = Limits(settings.runtime.max_pixels, settings.runtime.max_pages)
    console = Console()
    keeper = None if out is None else Keeper(out, inspector, sort or "copy")
    all_ok = True
    bundle = inspector.bundle
    jobs = [
        PrepareJob(
            file, name, None, bundle.manifest.preprocess, limits, stored, bundle.folder,
            naming=naming, named=below(file, folders) or name,
        )
        for file, name in files
    ]  # fmt: skip
    cv2.setNumThreads(1)  # the cores are the engine's, and the reader's
    for job, payload, inspection in verdicts(jobs, inspector, station=settings.station.name, recipe=recipe):
        all_ok &= payload["resultEvaluation"] == "OK"
        if keeper is not None:
            keeper.keep(job.file, job.path, payload, inspection)
        if json:
            print(jsonlib.dumps(payload, allow_nan=False), flush=True)
        else:
            console.print(_line(payload, _why(inspection, inspector)), soft_wrap=True, highlight=False)
    return 0 if all_ok else EXIT_NOT_OK


def read_ahead(jobs: Iterable[PrepareJob]) -> Iterator[Reading]:
    """Files in order, a few of them read by a thread of their own before they are asked for."""
    with ThreadPoolExecutor(1, "read") as reader:
        reading: deque[Reading] = deque()
        try:
            for job in jobs:
                reading.append((job, reader.submit(prepare_file, job)))
                if len(reading) > AHEAD:
                    yield reading.popleft()
            while reading:
                yield reading.popleft()
        finally:
            for _, future in reading:
                future.cancel()


def verdicts(
    jobs: Iterable[PrepareJob],
    inspector: Inspector,
    *,
    station: str,
    recipe: str,
    read: Callable[[Iterable[PrepareJob]], Iterator[Reading]] = read_ahead,
    is_historical: bool = False,
) -> Iterator[tuple[PrepareJob, dict[str, Any], Inspection | None]]:
    """A payload for each page of each file, in order; what cannot be inspected is NotDecidable and says why.

    While a frame is judged the next ones are read: `read` says where, and how many ahead.
    """

    def payload(image: ImageInfo, identity: Identity, judgement: Judgement, **rest: Any) -> dict[str, Any]:
        created = time.time()
        return frame_payload(
            result_id=str(ULID.from_timestamp(created)),
            created_unix_s=created,
            station=station,
            recipe=recipe,
            identity=identity,
            image=image,
            judgement=judgement,
            model=inspector.model,
            is_historical=is_historical,
            **rest,
        )

    for job, found in _inspected(read(jobs), inspector):
        if isinstance(found, DataError):
            print(f"edge: {about(str(job.file), str(found))}", file=sys.stderr)
            why = Judgement("NotDecidable", (found.reason,))
            yield job, payload(ImageInfo(job.path, ""), Identity(), why), None
            continue
        frame = found.frame
        times = {**frame.times_s, "infer_s": found.infer_s, "judge_s": found.judge_s}
        times["total_s"] = sum(times.values())
        said = payload(frame.image, frame.identity, found.judgement, score=found.score, times_s=times)
        yield job, said, found


def _inspected(
    reading: Iterable[Reading], inspector: Inspector
) -> Iterator[tuple[PrepareJob, Inspection | DataError]]:
    """Each file's pages, or why there are none, in order."""
    order: deque[tuple[PrepareJob, DataError | None]] = deque()  # of pages on their way, and files without

    def frames() -> Iterator[Frame]:
        for job, future in reading:
            naming = job.naming or unnamed
            try:
                pages = [
                    replace(f, identity=naming(job.named, f.tags, f.image.page, f.image.pages))
                    for f in future.result()
                ]
            except DataError as error:
                order.append((job, error))
                continue
            order.extend((job, None) for _ in pages)
            yield from pages

    def without() -> Iterator[tuple[PrepareJob, DataError]]:
        while order and order[0][1] is not None:
            job, error = order.popleft()
            assert error is not None, "just looked at"
            yield job, error

    for inspection in inspector.inspect(frames()):
        yield from without()
        yield order.popleft()[0], inspection
    yield from without()


def naming_by_hand(template: str | None, pattern: str | None) -> Naming | None:
    """The rule of --template or --pattern, if one is given.

    Raises:
        UsageError: both are, or it is malformed.
    """
    if template is None and pattern is None:
        return None
    if template is not None and pattern is not None:
        raise UsageError("--template and --pattern are two ways to say the same", hint="leave one out")
    try:
        return compile_naming(template, pattern)
    except ValueError as error:
        option, hint = ("--pattern", "named groups are part, view, batch")
        if template is not None:
            option, hint = ("--template", "such as {batch}/{part}_{view}")
        raise UsageError(f"{option} {template or pattern!r}: {error}", hint=hint) from None


def below(file: Path, folders: Sequence[Path]) -> str | None:
    """A file's path as its source would give it, if it lies below one of these folders."""
    absolute = file.absolute()
    return next((absolute.relative_to(f).as_posix() for f in folders if absolute.is_relative_to(f)), None)


def frame_files(paths: Sequence[Path]) -> Iterator[tuple[Path, str, str]]:
    """Files with the names that verdicts give them (as typed, or relative to the folder that was typed), and
    with the folder as typed before it."""
    for path in paths:
        if path.is_dir():
            found = list(frames_below(path))
            if not found:
                raise MissingInputError(
                    f"{path}: no frames in it", hint=f"edge reads {' '.join(FRAME_PATTERNS)}"
                )
            yield from ((file, file.relative_to(path).as_posix(), file.as_posix()) for file in found)
        elif path.exists():
            yield path, path.as_posix(), path.as_posix()
        else:
            raise MissingInputError(f"{path}: no such file or folder", hint="check the path")


def distinct(found: Sequence[tuple[Path, str, str]], out: Path | None) -> list[tuple[Path, str]]:
    """Every file once, under a name that no other one has; without what an earlier run left in `out`.

    Raises:
        UsageError: all of them lie in `out`.
    """
    if out is not None:  # a link in it is not followed: it leads to the frame itself
        inside = out.resolve()
        outside = [f for f in found if not (f[0].parent.resolve() / f[0].name).is_relative_to(inside)]
        if not outside:
            raise UsageError(f"--out {out} holds all these frames", hint="keep it outside of them")
        found = outside
    first: dict[Path, tuple[Path, str, str]] = {}
    for file, name, full in found:
        first.setdefault(file.absolute(), (file, name, full))
    unique = list(first.values())
    several = len({name for _, name, _ in unique}) < len(unique)
    return [(file, full if several else name) for file, name, full in unique]


class Keeper:
    """Sorts frames into io/ and nio/ (undecided/), and keeps pictures of what was found beside them."""

    def __init__(self, out: Path, inspector: Inspector, sort: Literal["copy", "link"] = "copy") -> None:
        self.out, self.inspector, self.sort = out, inspector, sort
        self._explain = open_explainer(inspector.bundle)
        self._good = open_neighbours(inspector.bundle)

    def keep(self, file: Path, name: str, payload: dict[str, Any], inspection: Inspection | None) -> None:
        """One verdict's frame and pictures.

        Raises:
            CannotWriteError: no space or no permission.
        """
        page = payload["image"].get("page")
        relative = Path(name.lstrip("/").replace("../", ""))
        stem = relative.as_posix() + ("" if page is None else f"_{page + 1:02d}")
        try:
            self._sort(file, relative, SORTED[payload["resultEvaluation"]])
            if inspection is None:
                return
            for kind, picture in self._pictures(inspection).items():
                folder, suffix = kind.rsplit(".", 1)
                picture_file = self.out / folder / f"{stem}.{suffix}"
                picture_file.parent.mkdir(parents=True, exist_ok=True)
                # not cv2.imwrite: it ends the process where a name is not UTF-8
                encoded, data = cv2.imencode(picture_file.suffix, picture)
                if not encoded:
                    raise OSError(f"{picture_file} cannot be encoded")
                picture_file.write_bytes(data.tobytes())
            if inspection.score.fragments is not None:
                table = self.out / "fragments" / f"{stem}.csv"
                table.parent.mkdir(parents=True, exist_ok=True)
                table.write_text(evidence.fragments_csv(inspection.score))
        except OSError as error:
            raise CannotWriteError(f"{self.out}: {error}", hint="check space and permissions") from None

    def _sort(self, file: Path, relative: Path, folder: str) -> None:
        """The frame into its folder, and out of those where an earlier run put it."""
        for known in SORTED.values():  # a link goes, never what it points to
            (self.out / known / relative).unlink(missing_ok=True)
        target = self.out / folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.sort == "link":
            target.symlink_to(file.resolve())
        else:
            shutil.copyfile(file, target)

    def _pictures(self, inspection: Inspection) -> dict[str, evidence.Picture]:
        frame, classes = inspection.frame, self.inspector.bundle.manifest.classes
        found = evidence.pictures(frame, inspection.score, inspection.judgement, classes)
        if self._good is not None and inspection.judgement.evaluation == "NotOK":
            box = fired(inspection.score, self.inspector.bundle.manifest.score, None).box
            alike = nearest(self._good, frame.plane, box, view=frame.identity.view)
            if (picture := strip(frame.plane, box, alike)) is not None:
                found["neighbours.png"] = picture
        if self._explain is not None:
            for method, values in self._explain(frame.plane).items():
                found[f"{method}.jpg"] = evidence.overlay(frame.plane, values, 0.5)
        return found


def _why(inspection: Inspection | None, inspector: Inspector) -> str:
    """What rejected a frame, and where."""
    if inspection is None or inspection.judgement.evaluation != "NotOK":
        return ""
    spec, frame = inspector.bundle.manifest.score, inspection.frame
    return fired(inspection.score, spec, inspection.judgement.threshold_raw).text(frame.placement)


def _shown(name: str) -> str:
    """A name from the scanner's folder, in one line: it may hold anything, escape sequences too."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in name)


def _line(payload: dict[str, Any], why: str = "") -> str:
    colour = {"OK": "green", "NotOK": "red", "NotDecidable": "yellow"}[payload["resultEvaluation"]]
    if IN_REVIEW_BAND in payload["reasons"]:
        colour = "cyan"
    score = "     –" if payload["score"] is None else f"{relative_score(payload['score']):>6}"
    view = f" view {_shown(payload['view'])}" if payload["view"] else ""
    reasons = ", ".join(payload["reasons"]) + (f": {why}" if why else "")
    path = _shown(payload["image"]["path"])
    return f"[{colour}]{payload['resultEvaluation']:>12}[/] {score}  {path}{view}  {reasons}"
