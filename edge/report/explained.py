"""What the reports show of planted defects and of good crops that are like a suspicious place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edge.detectability import Curves, Detectability, SizeFigure, Trial
from edge.judge.detection import CONFIDENCE, PROBABILITY, Detection
from edge.neighbours import Neighbours, around, nearest
from edge.report import data_url
from edge.report.detection_chart import Line, detection_chart
from edge.types import Box, FloatImage

POINTS = 60  # of a fitted curve
LEVELS = 255  # grey levels of the full scale, in which contrasts are told
NAMES = {
    "dark spot": "Dark spots",
    "bright spot": "Bright spots",
    "opaque spot": "Opaque spots",
    "line": "Lines",
}
NEIGHBOURS = 3
ASIDE_PX = 4  # of a mark, so that a faint defect stays to be seen
MARK = (60, 160, 255)  # BGR


@dataclass(frozen=True, slots=True)
class Similar:
    """A crop with what it is."""

    picture: str  # data: URL
    text: str
    title: str
    is_place: bool = False  # the place itself, not one of the good crops


def similar(good: Neighbours | None, plane: FloatImage, box: Box, view: str | None) -> list[Similar]:
    """The place in a box of a plane, and the good crops most like it; nothing where there are none."""
    crop = around(plane, box)
    if good is None or crop is None:
        return []
    found = nearest(good, plane, box, NEIGHBOURS, view)
    if not found:
        return []
    place = Similar(_picture(crop), "the place", "the place that scored highest", is_place=True)
    return [place] + [
        Similar(_picture(one.crop), f"{one.distance:.2f}", f"{one.source} at {one.box[0]},{one.box[1]}")
        for one in found
    ]


def detectability_view(found: Detectability) -> dict[str, Any]:
    """What the template shows."""
    return {
        "frames": found.frames,
        "learned_frames": found.learned_frames,
        "planted": found.planted,
        "caution": found.caution(),
        "no_room": found.no_room,
        "seconds": found.seconds,
        "probability": PROBABILITY,
        "confidence": CONFIDENCE,
        "shapes": [_shape(one) for one in found.curves if one.trials],
    }


def _shape(one: Curves) -> dict[str, Any]:
    found, missed = one.examples()
    return {
        "name": NAMES[one.shape],
        "size": "width" if one.shape == "line" else "diameter",
        "planted": len(one.trials),
        "rejected": one.rejected,
        "found": one.found,
        "chart": detection_chart(_lines(one), PROBABILITY),
        "sizes": [_row(figure, f"{LEVELS * figure.contrast:.0f}") for figure in one.sizes()],
        "relative": [_row(figure, f"{figure.contrast:g} σ") for figure in one.sizes_relative()],
        "grid": _grid(one),
        "misfit": one.misfit(),
        "found_examples": [_example(trial) for trial in found],
        "missed_examples": [_example(trial) for trial in missed],
    }


def _lines(one: Curves) -> list[Line]:
    sizes = [trial.size_px for trial in one.trials]
    curve = np.geomspace(min(sizes), max(sizes), POINTS).tolist()
    lines = []
    for contrast in sorted({trial.nominal_contrast for trial in one.trials}):
        mine = [trial for trial in one.trials if trial.nominal_contrast == contrast]
        counted = []
        for nominal in sorted({trial.nominal_px for trial in mine}):
            cell = [trial for trial in mine if trial.nominal_px == nominal]
            size = math.exp(float(np.mean([math.log(trial.size_px) for trial in cell])))
            counted.append((size, sum(trial.found for trial in cell), len(cell)))
        fitted = [] if one.by_contrast is None else _curve(one.by_contrast, contrast, curve)
        lines.append(Line(f"{LEVELS * contrast:.0f}", fitted, counted))
    return lines


def _curve(fit: Detection, contrast: float, sizes: Sequence[float]) -> list[tuple[float, float]]:
    return [(size, fit.probability(size, contrast)) for size in sizes]


def _row(figure: SizeFigure, name: str) -> dict[str, str]:
    counted = f"{figure.found}/{figure.planted}"
    return {"contrast": name, "counted": counted, "a90": figure.a90, "a90_95": figure.a90_95}


def _grid(one: Curves) -> dict[str, Any]:
    """Found of planted, a row a contrast, a column a size (in pixels of the plane)."""
    cells = one.cells()
    sizes, contrasts = sorted({size for size, _ in cells}), sorted({contrast for _, contrast in cells})
    rows = []
    for contrast in contrasts:
        counts = [cells.get((size, contrast)) for size in sizes]
        texts = [
            {"text": f"{c[2]}/{c[0]}", "share": c[2] / c[0]} if c else {"text": "–", "share": 0.0}
            for c in counts
        ]
        rows.append({"contrast": f"{LEVELS * contrast:.0f}", "cells": texts})
    return {"sizes": [f"{size:g}" for size in sizes], "rows": rows}


def _example(trial: Trial) -> Similar:
    text = f"{trial.size_px:.3g} px, {LEVELS * trial.contrast:.0f}"
    picture = cv2.cvtColor(cv2.resize(trial.crop, None, fx=2, fy=2), cv2.COLOR_GRAY2BGR)
    x, y, w, h = (2 * side for side in trial.place)
    aside = 2 * ASIDE_PX
    cv2.rectangle(picture, (x - aside, y - aside), (x + w + aside, y + h + aside), MARK, 2)
    title = f"{trial.frame}, {trial.relative:.1f} σ of its surroundings" + (
        ", the frame was rejected for another place" if trial.rejected and not trial.found else ""
    )
    return Similar(data_url(np.asarray(picture, np.uint8)), text, title)


def _picture(crop: FloatImage) -> str:
    gray = (np.clip(crop, 0, 1) * 255).astype(np.uint8)
    return data_url(np.repeat(gray[..., None], 3, axis=2))
