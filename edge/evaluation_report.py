"""What `edge evaluate --report` writes: figures, curves, scores, and the frames it got most wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from edge.artifacts import write_atomic
from edge.dataset import Unreadable, frames
from edge.decode import Limits
from edge.evaluation_figures import Outcome
from edge.evaluation_table import with_interval
from edge.explain import fired
from edge.judge.ranking import Curve, curve
from edge.neighbours import Neighbours, open_neighbours
from edge.pipeline import Inspector
from edge.report import PICTURE_SIDE_PX, data_url, environment_of_this_machine, heat, render
from edge.report.charts import area_scatter, curves, f_chart, interval_bar, score_strip
from edge.report.explained import similar
from edge.truth import read_truth
from edge.types import FloatImage, Frame, Judgement, Mask

WORST_FRAMES = 6
WIDE = 3  # times as wide as tall: beyond it a frame is a strip, and an excerpt is shown
COLOURS = {"truth": "#2fb344", "found": "#2f7bff"}
FIGURES = {
    "image.auroc": "AUROC of frames",
    "image.auprc": "AUPRC of frames",
    "image.precision": "precision",
    "image.recall": "recall",
    "image.f1": "F1",
    "image.f2": "F2",
    "rates.false_reject": "false rejects",
    "rates.escape": "escapes",
    "rates.not_decidable": "not decidable",
    "pixel.auroc": "AUROC of pixels",
    "pixel.auprc": "AUPRC of pixels",
    "pixel.dice": "Dice",
    "pixel.iou": "IoU",
}


def write_report(
    file: Path,
    document: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    unreadable: Sequence[Unreadable],
    inspector: Inspector,
    limits: Limits,
    value_range: tuple[float, float] | None,
) -> None:
    """Render the document of `edge evaluate` and what it rests on as one self-contained file."""
    scored = [o for o in outcomes if o.score is not None and o.raw is not None]
    truth = [o.is_defect for o in scored]
    both = (curve([o.score or 0.0 for o in scored], truth), curve([o.raw or 0.0 for o in scored], truth))
    has_both = both[0].positives > 0 and both[0].negatives > 0
    text = render(
        "evaluated.html",
        document=document,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        roc=_roc(*both) if has_both else "",
        pr=_precision_recall(*both) if has_both else "",
        f_chart=f_chart(both[0].thresholds.tolist(), both[0].f_beta(1).tolist(), both[0].f_beta(2).tolist())
        if has_both
        else "",
        shown=partial(with_interval, document),
        figures=_figures(document),
        views=[_view(name, row, scored) for name, row in document["per_view"].items()],
        worst=_worst(
            scored, partial(_picture, inspector, open_neighbours(inspector.bundle), limits, value_range)
        ),
        by_size=_by_size(document.get("defects_by_size")),
        colours=COLOURS,
        unreadable=unreadable,
        environment=environment_of_this_machine(),
    )
    write_atomic(file, text.encode())


def _roc(normalised: Curve, raw: Curve) -> Markup:
    lines = []
    for kind, one in (("train", raw), ("validation", normalised)):
        xs = [0.0, *(one.false_positives / one.negatives)]
        lines.append((kind, xs, [0.0, *(one.true_positives / one.positives)]))
    return curves(lines, "ROC")


def _precision_recall(normalised: Curve, raw: Curve) -> Markup:
    lines = []
    for kind, one in (("train", raw), ("validation", normalised)):
        precision = one.true_positives / (one.true_positives + one.false_positives)
        lines.append((kind, list(one.true_positives / one.positives), list(precision)))
    return curves(lines, "precision over recall")


def _view(name: str, row: Mapping[str, Any], scored: Sequence[Outcome]) -> dict[str, Any]:
    mine = [o for o in scored if o.view == name]
    good = [o.score for o in mine if not o.is_defect and o.score is not None]
    defect = [o.score for o in mine if o.is_defect and o.score is not None]
    return {"name": name, "row": row, "chart": score_strip(good, defect), "area": _area(mine)}


def _area(mine: Sequence[Outcome]) -> Markup | str:
    """Scores over the foreground's area, where it differs from frame to frame."""
    if len({round(o.foreground_ratio, 4) for o in mine}) < 2:
        return ""
    at = [(o.is_defect, (o.foreground_ratio, o.score or 0.0)) for o in mine]
    return area_scatter([p for is_defect, p in at if not is_defect], [p for is_defect, p in at if is_defect])


def _figures(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures that have an interval: name, text, bar."""
    rows = []
    for place, name in FIGURES.items():
        if place not in document["intervals"]:
            continue
        group, key = place.split(".")
        low, high = document["intervals"][place]
        percent = group == "rates"
        text = with_interval(document, place, percent)
        rows.append({"name": name, "text": text, "bar": interval_bar(document[group][key], low, high)})
    return rows


def _worst(
    scored: Sequence[Outcome], picture: Callable[[Outcome], dict[str, Any]]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The defect frames with the lowest and the good frames with the highest scores."""
    by_score = sorted(scored, key=lambda o: o.score or 0.0)
    escapes = [o for o in by_score if o.is_defect][:WORST_FRAMES]
    rejects = [o for o in reversed(by_score) if not o.is_defect][:WORST_FRAMES]
    return [
        ("Defect frames with the lowest scores", [picture(o) for o in escapes]),
        ("Good frames with the highest scores", [picture(o) for o in rejects]),
    ]


def _picture(
    inspector: Inspector,
    good: Neighbours | None,
    limits: Limits,
    value_range: tuple[float, float] | None,
    outcome: Outcome,
) -> dict[str, Any]:
    sample = outcome.sample
    bundle = inspector.bundle
    pages = frames([sample], bundle.manifest.preprocess, limits, value_range, assets=bundle.folder)
    frame = next(frame for _, frame in pages if frame.image.page == outcome.page)
    plane = frame.plane
    (inspection,) = inspector.inspect([frame])
    score = inspection.score
    threshold = inspection.judgement.pixel_threshold or float(score.map.max()) or 1.0
    known = read_truth(sample, frame.image.height, frame.image.width)
    truth = known.on_plane(frame) if known else np.zeros(plane.shape, bool)
    part = excerpt(truth, score.map)
    reason = fired(score, bundle.manifest.score, inspection.judgement.threshold_raw)
    overlay = drawn(heat(plane, score.map, threshold), frame, truth, inspection.judgement, part)
    return {
        "path": sample.path,
        "view": outcome.view,
        "defect": sample.defect,
        "score": outcome.score,
        "fired": reason.text(frame.placement),
        "similar": similar(good, plane, reason.box, frame.identity.view),
        "frame": data_url(np.repeat((plane[part][..., None] * 255).astype(np.uint8), 3, axis=2)),
        "overlay": data_url(overlay),
        "is_excerpt": plane[part].shape != plane.shape,
    }


def _by_size(counted: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The cells of `RealDefects` as a table: a row a contrast, a column a size."""
    if counted is None:
        return None

    def span(low: float, high: float | None, factor: float) -> str:
        ends = f"{factor * low:.0f}", "" if high is None else f"{factor * high:.0f}"
        return f"≥ {ends[0]}" if high is None else f"{ends[0]}–{ends[1]}" if low else f"< {ends[1]}"

    sizes, contrasts, cells = {}, {}, {}
    for cell in counted["cells"]:
        sizes[cell["size_from"]] = span(cell["size_from"], cell.get("size_to"), 1)
        contrasts[cell["contrast_from"]] = span(cell["contrast_from"], cell.get("contrast_to"), 255)
        cells[cell["contrast_from"], cell["size_from"]] = f"{cell['found']}/{cell['regions']}"
    return {
        "sizes": [sizes[size] for size in sorted(sizes)],
        "rows": [
            {"contrast": contrasts[c], "cells": [cells.get((c, size), "–") for size in sorted(sizes)]}
            for c in sorted(contrasts)
        ],
    }


def excerpt(truth: Mask, values: FloatImage) -> tuple[slice, slice]:
    """Rows and columns to show of a plane: all; of a strip those about its largest defect, or the map's peak.

    Both are (h, w).
    """
    height, width = truth.shape
    if width <= WIDE * height:
        return slice(0, height), slice(0, width)
    _, _, regions, centres = cv2.connectedComponentsWithStats(truth.astype(np.uint8))
    if len(regions) > 1:
        middle = int(centres[1 + int(regions[1:, cv2.CC_STAT_AREA].argmax())][0])
    else:
        middle = int(values.argmax()) % width
    left = min(max(0, middle - height), width - 2 * height)
    return slice(0, height), slice(left, left + 2 * height)


def drawn(
    overlay: NDArray[np.uint8], frame: Frame, truth: Mask, judgement: Judgement, part: tuple[slice, slice]
) -> NDArray[np.uint8]:
    """The part of an overlay, (h, w, 3) BGR, with the truth's outline and boxes of what was found."""
    picture = overlay.copy()
    seen = picture[part].shape[:2]
    thick = max(1, round(1.5 * max(seen) / PICTURE_SIDE_PX))  # it is made that small
    for defect in judgement.defects:
        x, y, w, h = frame.placement.inverse_box(defect.bbox)
        cv2.rectangle(picture, (x, y), (x + w - 1, y + h - 1), _bgr(COLOURS["found"]), thick)
    outlines, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, outlines, -1, _bgr(COLOURS["truth"]), thick)
    return np.ascontiguousarray(picture[part])


def _bgr(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return blue, green, red
