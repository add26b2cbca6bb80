"""`edge evaluate`: frames whose truth is known go through the one pipeline, and what comes out is counted."""

from __future__ import annotations

import contextlib
import json as jsonlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edge import config as configuration
from edge.artifacts import sha256_of
from edge.calibrate import learned_id
from edge.dataset import Sample, Unreadable, frames, read_manifest
from edge.decode import Limits
from edge.errors import DataError
from edge.evaluation_counts import Section, sections
from edge.evaluation_figures import (
    Outcome,
    PixelTally,
    bootstrap,
    global_threshold_metrics,
    image_metrics,
    intervals,
    matrix,
    part_metrics,
    pixel_metrics,
    positive,
    rates,
    tally,
    view_metrics,
)
from edge.evaluation_promise import exchangeability, promises
from edge.evaluation_table import show
from edge.judge.ranking import PixelCounts
from edge.options import parse_range
from edge.pipeline import Inspection, Inspector
from edge.real_defects import RealDefects
from edge.recipes import find_recipe, open_recipe, value_range_of
from edge.truth import read_truth, to_frame
from edge.types import DEFAULT_VIEW

LEARNING = ("train", "validation", "val", "calibration")


@dataclass(slots=True)
class Gathered:
    """What a run over a manifest gathered."""

    outcomes: list[Outcome] = field(default_factory=list)
    pixels: PixelCounts = field(default_factory=PixelCounts)
    sections: Sequence[Section] = ()
    unreadable: list[Unreadable] = field(default_factory=list)
    infer_s: float = 0.0
    wall_s: float = 0.0


def run_evaluate(
    *,
    recipe: str,
    manifest: Path,
    split: str | None,
    report: Path | None,
    value_range: str | None,
    config: Path | None,
    json: bool,
) -> int:
    """The command: evaluate, print, write the report. Gives the exit code."""
    settings = configuration.site(config)
    stored = parse_range(value_range)
    listed = read_manifest(manifest)
    rows = [s for s in listed if s.label in ("good", "defect") and (split is None or s.split == split)]
    if not rows:
        raise DataError(
            f"{manifest}: no rows labelled good or defect" + (f" with split {split!r}" if split else ""),
            hint="evaluation needs frames whose label is known",
        )
    inspector = open_recipe(settings, recipe)
    limits = Limits(settings.runtime.max_pixels, settings.runtime.max_pages)
    if value_range is None:
        stored = value_range_of(settings, recipe)
    gathered = evaluate(inspector, rows, limits, stored)
    document = summary(recipe, inspector, gathered, find_recipe(settings, recipe).views, listed)
    if report is not None:
        from edge.evaluation_report import write_report

        write_report(report, document, gathered.outcomes, gathered.unreadable, inspector, limits, stored)
    if json:
        print(jsonlib.dumps(document, allow_nan=False))
    else:
        show(document, Console())
    for sentence in document.get("warnings", ()):
        print(f"edge: WARNING {sentence}", file=sys.stderr)
    for bad in gathered.unreadable:
        print(f"edge: {bad}", file=sys.stderr)
    return 0


def evaluate(
    inspector: Inspector,
    rows: Sequence[Sample],
    limits: Limits,
    value_range: tuple[float, float] | None = None,
) -> Gathered:
    """Inspect every row; one frame in memory at a time."""
    manifest = inspector.bundle.manifest
    learned = frozenset(manifest.training.get("learned_from", ()))
    gathered = Gathered(sections=[*sections(manifest), RealDefects()])
    began = time.monotonic()
    for sample, frame in frames(
        rows, manifest.preprocess, limits, value_range, gathered.unreadable, inspector.bundle.folder
    ):
        (inspection,) = inspector.inspect([frame])
        gathered.infer_s += inspection.infer_s
        judgement, score = inspection.judgement, inspection.score
        gathered.outcomes.append(
            Outcome(
                sample,
                frame.identity.view or DEFAULT_VIEW,
                sample.label == "defect",
                judgement.evaluation,
                judgement.score,
                score.raw if np.isfinite(score.raw) else None,
                frame.image.page,
                score.foreground_ratio,
                learned_id(frame.image.sha256) in learned,
                _count_pixels(gathered, inspector, sample, inspection),
            )
        )
    for bad in gathered.unreadable:
        sample = next(s for s in rows if s.path == bad.path)
        gathered.outcomes.append(
            Outcome(sample, sample.view or DEFAULT_VIEW, sample.label == "defect", "NotDecidable", None, None)
        )
    gathered.wall_s = time.monotonic() - began
    return gathered


def _count_pixels(
    gathered: Gathered, inspector: Inspector, sample: Sample, inspection: Inspection
) -> PixelTally | None:
    """Compare the map with the mask in the frame's own pixels; None where there is no map or no truth."""
    assert inspector.calibration is not None
    frame, score = inspection.frame, inspection.score
    view = frame.identity.view
    limits = inspector.calibration.of(view) or inspector.calibration.estimate(view, score.foreground_ratio)
    truth = read_truth(sample, frame.image.height, frame.image.width)
    if limits is None or truth is None or not np.isfinite(score.map).all():
        return None
    for section in gathered.sections:
        section.add(inspection, truth, limits.pixel_threshold)
    values = to_frame(score.map / np.float32(limits.pixel_threshold), frame)
    gathered.pixels.add(values, truth.defect)
    return tally(values, truth.defect)


def summary(
    recipe: str,
    inspector: Inspector,
    gathered: Gathered,
    views: Sequence[str] = (),
    listed: Sequence[Sample] = (),
) -> dict[str, Any]:
    """The document of the contract; what cannot be computed is absent. `listed` are all rows of the manifest.

    In `confusion`, precision and recall a frame is positive unless it was called OK: NotDecidable frames are
    taken out of the line as NotOK ones are. `rates` keep the two apart.
    """
    assert inspector.calibration is not None
    outcomes = gathered.outcomes
    boot = bootstrap(outcomes)
    alike = exchangeability(outcomes, inspector.calibration)
    pixel = pixel_metrics(gathered.pixels, outcomes)
    document: dict[str, Any] = {
        "recipe": recipe,
        "frames": len(outcomes),
        "image": image_metrics(outcomes),
        "pixel": pixel,
        "rates": rates(outcomes),
        "intervals": intervals(outcomes, boot, pixel),
        "bootstrap": {
            "parts": boot.groups,
            "resamples": boot.resamples,
            "level": boot.level,
            "seed": boot.seed,
        },
        "global_threshold": global_threshold_metrics(outcomes, inspector.calibration.global_threshold),
        "per_view": {
            view: view_metrics([o for o in outcomes if o.view == view])
            for view in sorted({o.view for o in outcomes})
        },
        "confusion": matrix(positive(outcomes), outcomes),
        "parts": part_metrics(outcomes, views),
        **{section.name: section.document() for section in gathered.sections},
        "promise": promises(outcomes, inspector.calibration),
        "exchangeability": alike,
        **leakage(outcomes, listed, frozenset(inspector.bundle.manifest.training.get("learned_from", ()))),
        "timing": {
            "wall_s": round(gathered.wall_s, 3),
            "frames_per_s": round(len(outcomes) / gathered.wall_s, 2) if gathered.wall_s else None,
            "infer_s_per_frame": round(gathered.infer_s / max(1, len(outcomes)), 5),
        },
        "model": {
            "sha256": inspector.model.sha256,
            "runtime": inspector.model.runtime,
            "precision": inspector.model.precision,
            "calibration_sha256": inspector.model.calibration_sha256,
        },
    }
    if alike is not None and "warning" in alike:
        document["warnings"] = [*(document["warnings"] or ()), alike.pop("warning")]
    cleaned: dict[str, Any] = _without_none(document)
    return cleaned


def leakage(outcomes: Sequence[Outcome], listed: Sequence[Sample], learned: frozenset[str]) -> dict[str, Any]:
    """What of the evaluated frames the engine may know already, with a sentence for each kind.

    `learned_from_overlap`: evaluated frames that the bundle was learned from, or whose part has another row
    in the manifest that it was learned from (of rows not evaluated only those of such parts are read).
    `parts_in_two_splits`: parts with rows both of split test and of one for learning. Absent where none are.
    """
    evaluated = {o.sample.file for o in outcomes}
    parts = {o.sample.part for o in outcomes if o.sample.part}
    known = {o.sample.part for o in outcomes if o.was_learned_from and o.sample.part}
    for sample in listed if learned else ():
        if sample.part is None or sample.part not in parts - known or sample.file in evaluated:
            continue
        with contextlib.suppress(OSError):  # what cannot be read was not learned from
            if learned_id(sha256_of(sample.file)) in learned:
                known.add(sample.part)
    same_file = sum(o.was_learned_from for o in outcomes)
    overlap = sum(o.was_learned_from or o.sample.part in known for o in outcomes)
    test, learning = ({s.part for s in listed if s.part and s.split in use} for use in (("test",), LEARNING))
    torn = test & learning
    warnings = []
    if overlap:
        warnings.append(
            f"{overlap} of {len(outcomes)} frames are of parts that the engine was learned from "
            f"({same_file} are the very files): the figures are better than new parts will be"
        )
    if torn:
        warnings.append(
            f"{len(torn)} parts of the manifest, as {min(torn)}, have frames both in split test and "
            "in one for learning: the rows of a part belong together"
        )
    return {
        "learned_from_overlap": overlap or None,
        "parts_in_two_splits": len(torn) or None,
        "warnings": warnings or None,
    }


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
