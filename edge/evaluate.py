"""`edge evaluate`: frames whose truth is known go through the one pipeline, and what comes out is counted."""

from __future__ import annotations

import json as jsonlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge import config as configuration
from edge.dataset import Outcome, Sample, Unreadable, frames, read_manifest
from edge.decode import Limits
from edge.errors import DataError
from edge.judge.parts import ViewResult, judge_part
from edge.judge.ranking import PixelCounts, curve, f_beta
from edge.options import parse_range
from edge.pipeline import Inspection, Inspector
from edge.recipes import find_recipe, open_recipe, value_range_of
from edge.types import DEFAULT_VIEW, Evaluation

MASK_ABOVE = 127


@dataclass(slots=True)
class Gathered:
    """What a run over a manifest gathered."""

    outcomes: list[Outcome] = field(default_factory=list)
    pixels: PixelCounts = field(default_factory=PixelCounts)
    pixel_frames: int = 0
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
    rows = [s for s in read_manifest(manifest) if s.label in ("good", "defect")]
    rows = [s for s in rows if split is None or s.split == split]
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
    document = summary(recipe, inspector, gathered, find_recipe(settings, recipe).views)
    if report is not None:
        from edge.evaluation_report import write_report

        write_report(report, document, gathered.outcomes, gathered.unreadable, inspector, limits, stored)
    if json:
        print(jsonlib.dumps(document, allow_nan=False))
    else:
        show(document, Console())
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
    gathered = Gathered()
    began = time.monotonic()
    spec = inspector.bundle.manifest.preprocess
    for sample, frame in frames(rows, spec, limits, value_range, gathered.unreadable):
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
            )
        )
        _count_pixels(gathered, inspector, sample, inspection)
    for bad in gathered.unreadable:
        sample = next(s for s in rows if s.path == bad.path)
        gathered.outcomes.append(
            Outcome(sample, sample.view or DEFAULT_VIEW, sample.label == "defect", "NotDecidable", None, None)
        )
    gathered.wall_s = time.monotonic() - began
    return gathered


def _count_pixels(gathered: Gathered, inspector: Inspector, sample: Sample, inspection: Inspection) -> None:
    """Compare the map with the mask in the frame's own pixels; a good frame without mask is all good."""
    assert inspector.calibration is not None
    limits = inspector.calibration.of(inspection.frame.identity.view)
    if limits is None or (sample.mask is None and sample.label != "good"):
        return
    image = inspection.frame.image
    values = (inspection.score.map / np.float32(limits.pixel_threshold)).astype(np.float32)
    if values.shape != (image.height, image.width):
        resized = cv2.resize(values, (image.width, image.height), interpolation=cv2.INTER_LINEAR)
        values = np.maximum(resized, 0).astype(np.float32)
    gathered.pixels.add(values, read_mask(sample, image.height, image.width))
    gathered.pixel_frames += 1


def read_mask(sample: Sample, height: int, width: int) -> NDArray[np.bool_]:
    """The truth of a frame's pixels; True is defect. A mask of another size is a DataError."""
    if sample.mask is None:
        return np.zeros((height, width), bool)
    mask = cv2.imread(str(sample.mask), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise DataError(f"{sample.mask}: no readable mask", hint="masks are PNG, above 127 is defect")
    if mask.shape != (height, width):
        raise DataError(
            f"{sample.mask}: is {mask.shape[1]}×{mask.shape[0]}, its frame {width}×{height}",
            hint="a mask has the size of its frame",
        )
    truth: NDArray[np.bool_] = np.asarray(mask) > MASK_ABOVE
    return truth


def summary(
    recipe: str, inspector: Inspector, gathered: Gathered, views: Sequence[str] = ()
) -> dict[str, Any]:
    """The document of the contract; what cannot be computed is absent.

    In `confusion`, precision and recall a frame is positive unless it was called OK: NotDecidable frames are
    taken out of the line as NotOK ones are. `rates` keep the two apart.
    """
    assert inspector.calibration is not None
    outcomes = gathered.outcomes
    document: dict[str, Any] = {
        "recipe": recipe,
        "frames": len(outcomes),
        "image": _image_metrics(outcomes),
        "pixel": _pixel_metrics(gathered),
        "rates": rates(outcomes),
        "global_threshold": global_threshold_metrics(outcomes, inspector.calibration.global_threshold),
        "per_view": {
            view: _view_metrics([o for o in outcomes if o.view == view])
            for view in sorted({o.view for o in outcomes})
        },
        "confusion": _matrix(_positive(outcomes), outcomes),
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
    if parts := _part_metrics(outcomes, views):
        document["parts"] = parts
    cleaned: dict[str, Any] = _without_none(document)
    return cleaned


def rates(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Good frames called NotOK, defect frames called OK, and frames that could not be decided."""
    good = [o for o in outcomes if not o.is_defect]
    defect = [o for o in outcomes if o.is_defect]
    return {
        "false_reject": _share(o.evaluation == "NotOK" for o in good),
        "escape": _share(o.evaluation == "OK" for o in defect),
        "not_decidable": _share(o.evaluation == "NotDecidable" for o in outcomes),
    }


def global_threshold_metrics(outcomes: Sequence[Outcome], threshold: float) -> dict[str, Any]:
    """What one threshold on raw scores, the same for all views, would have done."""
    scored = [o for o in outcomes if o.raw is not None]
    raw = curve([o.raw for o in scored if o.raw is not None], [o.is_defect for o in scored])
    rejected = [o.raw is None or o.raw > threshold for o in outcomes]
    return {
        "auroc": raw.auroc(),
        "auprc": raw.average_precision(),
        "false_reject": _share(r for r, o in zip(rejected, outcomes, strict=True) if not o.is_defect),
        "escape": _share(not r for r, o in zip(rejected, outcomes, strict=True) if o.is_defect),
        "confusion": _matrix(rejected, outcomes),
    }


def _image_metrics(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    scored = [o for o in outcomes if o.score is not None]
    normalised = curve([o.score for o in scored if o.score is not None], [o.is_defect for o in scored])
    (_, fp), (fn, tp) = _matrix(_positive(outcomes), outcomes)
    return {
        "auroc": normalised.auroc(),
        "auprc": normalised.average_precision(),
        "f1": f_beta(tp, fp, fn, 1),
        "f2": f_beta(tp, fp, fn, 2),
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "threshold_source": "calibration",
    }


def _pixel_metrics(gathered: Gathered) -> dict[str, Any] | None:
    if not gathered.pixel_frames:
        return None
    counts = gathered.pixels.curve()
    best = counts.best_f1()
    if best is None:
        return None
    tp, fp, fn = gathered.pixels.at(1.0)  # maps are in units of their view's pixel threshold
    return {
        "auroc": counts.auroc(),
        "auprc": counts.average_precision(),
        "f1_max": best[0],
        "iou": tp / (tp + fp + fn) if tp + fp + fn else None,
        "dice": f_beta(tp, fp, fn, 1),
        "frames": gathered.pixel_frames,
    }


def _view_metrics(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "frames": len(outcomes),
        "defects": sum(o.is_defect for o in outcomes),
        "auroc": _image_metrics(outcomes)["auroc"],
        **rates(outcomes),
    }


def _part_metrics(outcomes: Sequence[Outcome], views: Sequence[str]) -> dict[str, Any] | None:
    """Parts with several views, judged as the daemon does; without a list of views those that are there."""
    parts: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.sample.part is not None:
            parts[outcome.sample.part].append(outcome)
    if not any(len({o.view for o in frames_}) > 1 for frames_ in parts.values()):
        return None
    judged: list[tuple[bool, Evaluation]] = []
    for members in parts.values():
        results = {o.view: ViewResult(o.view, "", o.evaluation, o.score) for o in members}
        verdict = judge_part(views or sorted(results), results)
        judged.append((any(o.is_defect for o in members), verdict.evaluation))
    confusion = [[0, 0], [0, 0]]
    for is_defect, evaluation in judged:
        confusion[is_defect][evaluation != "OK"] += 1
    return {
        "parts": len(judged),
        "confusion": confusion,
        "false_reject": _share(e == "NotOK" for d, e in judged if not d),
        "escape": _share(e == "OK" for d, e in judged if d),
        "not_decidable": _share(e == "NotDecidable" for _, e in judged),
    }


def _positive(outcomes: Sequence[Outcome]) -> list[bool]:
    return [o.evaluation != "OK" for o in outcomes]


def _matrix(positive: Sequence[bool], outcomes: Sequence[Outcome]) -> list[list[int]]:
    """[[true negatives, false positives], [false negatives, true positives]]."""
    matrix = [[0, 0], [0, 0]]
    for is_positive, outcome in zip(positive, outcomes, strict=True):
        matrix[outcome.is_defect][is_positive] += 1
    return matrix


def _share(truths: Iterable[bool]) -> float | None:
    listed = list(truths)
    return sum(listed) / len(listed) if listed else None


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def show(document: dict[str, Any], console: Console) -> None:
    """The document for a person."""
    (tn, fp), (fn, tp) = document["confusion"]
    console.print(f"recipe {document['recipe']}: {document['frames']} frames, "
                  f"{document['timing'].get('frames_per_s', 0)} frames/s")  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "AUROC", "AUPRC", "F1", "false rejects", "escapes", "not decidable"):
        table.add_column(column, justify="right" if column else "left")
    image, rest = document["image"], document["rates"]
    table.add_row("frames", *_cells(image, "auroc", "auprc", "f1"), *_percent(rest, "false_reject", "escape",
                  "not_decidable"))  # fmt: skip
    one = document["global_threshold"]
    table.add_row("  one global threshold", *_cells(one, "auroc", "auprc"), "",
                  *_percent(one, "false_reject", "escape"), "")  # fmt: skip
    for view, row in document["per_view"].items():
        table.add_row(f"  view {view} ({row['frames']})", *_cells(row, "auroc"), "", "",
                      *_percent(row, "false_reject", "escape", "not_decidable"))  # fmt: skip
    if "pixel" in document:
        table.add_row("pixels", *_cells(document["pixel"], "auroc", "auprc", "f1_max"), "", "", "")
    if "parts" in document:
        row = document["parts"]
        table.add_row(f"parts ({row['parts']})", "", "", "",
                      *_percent(row, "false_reject", "escape", "not_decidable"))  # fmt: skip
    console.print(table)
    console.print(f"good: {tn} OK, {fp} not · defect: {tp} not OK, {fn} called OK")


def _cells(row: dict[str, Any], *keys: str) -> list[str]:
    return [f"{row[key]:.3f}" if key in row else "–" for key in keys]


def _percent(row: dict[str, Any], *keys: str) -> list[str]:
    return [f"{row[key]:.1%}" if key in row else "–" for key in keys]
