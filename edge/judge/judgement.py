"""A score held against its view's calibration: the evaluation, its reasons, and where the defects are."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.judge.calibration import Calibration, ViewCalibration
from edge.types import Defect, FloatImage, Judgement, Score

MAX_DEFECTS = 50  # the largest by score; a frame that is all defect needs no list of ten thousand boxes


def judge(
    score: Score, view: str | None, calibration: Calibration, scale: tuple[float, float] = (1.0, 1.0)
) -> Judgement:
    """OK only for a finite score at most the view's threshold on a frame that looks as good frames do.

    `scale` is frame pixels per map pixel (x, y); defects come back in the frame's own pixels.
    """
    limits = calibration.of(view)
    if limits is None:
        return Judgement("NotDecidable", ("view_not_calibrated",))
    if not (math.isfinite(score.raw) and np.isfinite(score.map).all()):
        return Judgement("NotDecidable", ("score_not_finite",), threshold_raw=limits.threshold)
    normalised = score.raw / limits.threshold
    if normalised > 1.0:
        return Judgement(
            "NotOK",
            ("score_above_threshold",),
            score=normalised,
            threshold_raw=limits.threshold,
            defects=find_defects(score, limits.pixel_threshold, scale),
        )
    unlike = _unlike_good(score, limits)
    return Judgement(
        "NotDecidable" if unlike else "OK", unlike, score=normalised, threshold_raw=limits.threshold
    )


def _unlike_good(score: Score, limits: ViewCalibration) -> tuple[str, ...]:
    """Why a low score proves nothing: a black frame, or a magnified one, is easy to reconstruct."""
    reasons = []
    if not limits.plane_mean[0] <= score.plane_mean <= limits.plane_mean[1]:
        reasons.append("brightness_outside_calibration")
    if not limits.plane_std[0] <= score.plane_std <= limits.plane_std[1]:
        reasons.append("contrast_outside_calibration")
    for side_px, allowed in zip(score.map.shape, (limits.height_px, limits.width_px), strict=True):
        if allowed is not None and not allowed[0] <= side_px <= allowed[1]:
            reasons.append("size_outside_calibration")
            break
    return tuple(reasons)


def find_defects(score: Score, threshold: float, scale: tuple[float, float]) -> tuple[Defect, ...]:
    """Connected regions of the map above the threshold, strongest first, in frame pixels.

    The window with the highest mean, which is what rejects a frame, is always among them: a broad, faint
    defect may have no pixel above the threshold.
    """
    values = score.map
    mask = (values > threshold).astype(np.uint8)
    left, top, wide, tall = score.peak_box
    mask[top : top + tall, left : left + wide] = 1
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    peaks = _peaks(np.asarray(labels), values, np.asarray(stats))
    order = sorted(range(1, count), key=lambda i: -peaks[i])[:MAX_DEFECTS]
    sx, sy = scale
    defects = []
    for i in order:
        x, y, w, h, area = (int(v) for v in stats[i])
        left, top = int(x * sx), int(y * sy)
        box = left, top, max(1, math.ceil((x + w) * sx) - left), max(1, math.ceil((y + h) * sy) - top)
        area_px = max(1, round(area * sx * sy))
        defects.append(Defect("anomaly", area_px, area / mask.size, box, score=peaks[i] / threshold))
    return tuple(defects)


def _peaks(labels: NDArray[Any], values: FloatImage, stats: NDArray[Any]) -> list[float]:
    """Largest value of each region, looking only at its own box; 0 for the background."""
    peaks = [0.0]
    for i in range(1, len(stats)):
        x, y, w, h, _ = stats[i]
        inside = labels[y : y + h, x : x + w] == i
        peaks.append(float(values[y : y + h, x : x + w][inside].max()))
    return peaks
