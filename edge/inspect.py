"""`edge inspect`: frames judged once, by the same pipeline as the daemon's, without folders or databases."""

from __future__ import annotations

import json as jsonlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
from rich.console import Console
from ulid import ULID

from edge import config as configuration
from edge.app import open_recipe
from edge.decode import Limits
from edge.errors import CannotWriteError, DataError, MissingInputError, UsageError
from edge.intake.naming import Naming, compile_naming
from edge.pipeline import Inspection, Inspector, PrepareJob, prepare_file
from edge.publish.payload import frame_payload
from edge.record import evidence
from edge.types import Identity, ImageInfo, Judgement

INCLUDE = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm"}
EXIT_NOT_OK = 1
SORTED = {"OK": "io", "NotOK": "nio", "NotDecidable": "undecided"}


def run_inspect(
    paths: Sequence[Path],
    *,
    recipe: str,
    out: Path | None,
    template: str | None,
    value_range: str | None,
    config: Path | None,
    json: bool,
) -> int:
    """The command: a verdict a line on stdout; 0 if all are OK, else 1."""
    settings = configuration.site(config)
    files = list(_files(paths))
    naming = naming_of(template)
    stored = parse_range(value_range)
    inspector = open_recipe(settings, recipe)
    limits = Limits(settings.runtime.max_pixels, settings.runtime.max_pages)
    console = Console()
    all_ok = True
    for file, name in files:
        for payload, inspection in verdicts(
            file, name, inspector, naming, limits, stored, station=settings.station.name, recipe=recipe
        ):
            all_ok &= payload["resultEvaluation"] == "OK"
            if out is not None:
                _keep(out, file, name, payload, inspection, inspector)
            if json:
                print(jsonlib.dumps(payload, allow_nan=False), flush=True)
            else:
                console.print(_line(payload), soft_wrap=True, highlight=False)
    return 0 if all_ok else EXIT_NOT_OK


def verdicts(
    file: Path,
    name: str,
    inspector: Inspector,
    naming: Naming,
    limits: Limits,
    value_range: tuple[float, float] | None,
    *,
    station: str,
    recipe: str,
) -> Iterator[tuple[dict[str, Any], Inspection | None]]:
    """A payload for each page of a file; what cannot be inspected is NotDecidable with its reason."""

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
            **rest,
        )

    try:
        job = PrepareJob(file, name, None, inspector.bundle.manifest.preprocess, limits, value_range)
        frames = prepare_file(job)
        frames = [replace(f, identity=naming(name, f.tags, f.image.page, f.image.pages)) for f in frames]
    except DataError as error:
        print(f"edge: {file}: {error}", file=sys.stderr)
        yield payload(ImageInfo(name, ""), Identity(), Judgement("NotDecidable", (error.reason,))), None
        return
    for inspection in inspector.inspect(frames):
        frame = inspection.frame
        times = {**frame.times_s, "infer_s": inspection.infer_s, "judge_s": inspection.judge_s}
        times["total_s"] = sum(times.values())
        yield (
            payload(frame.image, frame.identity, inspection.judgement, score=inspection.score, times_s=times),
            inspection,
        )


def naming_of(template: str | None) -> Naming:
    """The rule of --template.

    Raises:
        UsageError: it is malformed.
    """
    try:
        return compile_naming(template)
    except ValueError as error:
        raise UsageError(f"--template {template!r}: {error}", hint="such as {batch}/{part}_{view}") from None


def parse_range(text: str | None) -> tuple[float, float] | None:
    """ "LOW:HIGH" → (low, high).

    Raises:
        UsageError: it is not two different numbers.
    """
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        values = float(low), float(high)
    except ValueError:
        colon = ""
        values = 0.0, 0.0
    if not colon or values[0] == values[1]:
        raise UsageError(f"--value-range {text!r}: not LOW:HIGH", hint="two numbers, such as 0:4095")
    return values


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Files with the names that verdicts give them: as typed, or relative to the folder that was typed."""
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in INCLUDE and p.is_file())
            if not found:
                raise MissingInputError(
                    f"{path}: no frames in it", hint=f"edge reads {' '.join(sorted(INCLUDE))}"
                )
            yield from ((file, file.relative_to(path).as_posix()) for file in found)
        elif path.exists():
            yield path, path.as_posix()
        else:
            raise MissingInputError(f"{path}: no such file or folder", hint="check the path")


def _keep(
    out: Path,
    file: Path,
    name: str,
    payload: dict[str, Any],
    inspection: Inspection | None,
    inspector: Inspector,
) -> None:
    """Copy the frame to io/ or nio/ (undecided/), its overlay and map beside it."""
    page = payload["image"].get("page")
    relative = Path(name.lstrip("/").replace("../", ""))
    target = out / SORTED[payload["resultEvaluation"]] / relative
    stem = relative.as_posix() + ("" if page is None else f"_{page + 1:02d}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        if inspection is not None:
            assert inspector.calibration is not None
            threshold = inspector.calibration.pixel_threshold(inspection.frame.identity.view)
            pictures = evidence.pictures(inspection.frame, inspection.score, inspection.judgement, threshold)
            for kind, picture in pictures.items():
                folder, suffix = kind.split(".")
                picture_file = out / folder / f"{stem}.{suffix}"
                picture_file.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(picture_file), picture)
    except OSError as error:
        raise CannotWriteError(f"{out}: {error}", hint="check space and permissions") from None


def _line(payload: dict[str, Any]) -> str:
    colour = {"OK": "green", "NotOK": "red", "NotDecidable": "yellow"}[payload["resultEvaluation"]]
    score = "     –" if payload["score"] is None else f"{payload['score']:6.2f}"
    view = f" view {payload['view']}" if payload["view"] else ""
    reasons = ", ".join(payload["reasons"])
    path = payload["image"]["path"]
    return f"[{colour}]{payload['resultEvaluation']:>12}[/] {score}  {path}{view}  {reasons}"
