"""A score held against its view's calibration: the evaluation, its reasons, and where the defects are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.judge.calibration import Calibration, ViewCalibration
from edge.judge.classes import ClassFindings, ClassSpec, find_classes
from edge.judge.fragments import as_scores, merge_fragments
from edge.judge.ranges import room
from edge.types import (
    MAX_DEFECTS,
    Defect,
    Evaluation,
    FloatImage,
    Judgement,
    ObjectJudgement,
    Placement,
    Score,
)

FLAT = 1e-3  # relative: what varies less shows no place
ESTIMATED = "threshold_estimated"  # the view was never calibrated: its threshold comes from its neighbours
IN_REVIEW_BAND = "in_review_band"  # OK, but only few good frames of calibration scored as high


def judge(
    score: Score,
    view: str | None,
    calibration: Calibration,
    placement: Placement | None = None,
    classes: Sequence[str] = (),
    min_area_px: int = 0,
    channels: int | None = None,
) -> Judgement:
    """OK only for a finite score at most the view's threshold on a frame that looks as good frames do.

    What is OK, but above the view's review threshold, has the reason `in_review_band`.
    Defects, objects and areas come back in the frame's own pixels: `placement` says where the plane lies in
    it (None: they are the same). `classes` names the channels of a segmenter's answer, whose regions below
    `min_area_px` pixels of the plane are specks. `channels` is the frame's as stored; None: not looked at.
    """
    limits = calibration.of(view)
    flags: tuple[str, ...] = ()
    if limits is None:
        limits = calibration.estimate(view, score.foreground_ratio)
        if limits is None:
            return Judgement("NotDecidable", ("view_not_calibrated",))
        flags = (ESTIMATED,)
    if not _is_finite(score):
        return Judgement("NotDecidable", ("score_not_finite", *flags), threshold_raw=limits.threshold)
    place = placement or Placement.scaled(score.map.shape, score.map.shape[1], score.map.shape[0])
    normalised = score.raw / limits.threshold
    unlike = _unlike_good(score, limits, channels)
    found = _Found(score, limits, place, classes, calibration.statistic, min_area_px)
    common: dict[str, Any] = {
        "score": normalised,
        "threshold_raw": limits.threshold,
        "pixel_threshold": limits.pixel_threshold,
        "class_areas": found.class_areas(),
        "objects": found.objects("NotDecidable" if unlike else "OK"),
    }
    if score.raw > limits.threshold:
        return Judgement("NotOK", ("score_above_threshold", *flags), defects=found.defects(), **common)
    if unlike:
        return Judgement("NotDecidable", (*unlike, *flags), **common)
    review = limits.review_threshold
    band = (IN_REVIEW_BAND,) if review is not None and score.raw > review else ()
    return Judgement("OK", (*band, *flags), **common)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a score shows of a frame, in the frame's own pixels."""

    score: Score
    limits: ViewCalibration
    place: Placement
    classes: Sequence[str]
    statistic: str
    min_area_px: int

    def defects(self) -> tuple[Defect, ...]:
        """Fragments, regions of classes, or regions of the map; strongest first."""
        score, limits = self.score, self.limits
        if score.fragments is not None:
            scores = as_scores(self.statistic, score.fragments.statistics[self.statistic])
            shape = score.map.shape[0], score.map.shape[1]
            return merge_fragments(score.fragments.boxes, scores, limits.threshold, self.place, shape)
        if self.classes:
            # `level` rejects by its own threshold, which may be lower: what rejected is listed
            above = limits.pixel_threshold
            if self.statistic == "level":
                above = min(above, limits.threshold)
            return self._classes(above).defects
        return find_defects(score, limits.pixel_threshold, self.place)

    def class_areas(self) -> Mapping[str, int]:
        """Each class's area above the pixel threshold, in frame pixels; empty where there are no classes."""
        return self._classes(self.limits.pixel_threshold).areas_px if self.classes else {}

    def _classes(self, threshold: float) -> ClassFindings:
        specs = [ClassSpec(name, threshold, self.min_area_px) for name in self.classes]
        layers = self.score.map[None] if self.score.layers is None else self.score.layers
        return find_classes(layers, specs, self.place)

    def objects(self, below: Evaluation) -> tuple[ObjectJudgement, ...]:
        """Each object held against the threshold; `below` it is what the frame itself allows."""
        judged = []
        for one in self.score.objects:
            normalised = one.raw / self.limits.threshold if math.isfinite(one.raw) else None
            evaluation: Evaluation = "NotDecidable" if normalised is None else below
            if normalised is not None and one.raw > self.limits.threshold:
                evaluation = "NotOK"
            area_px = self.place.area_px(one.area_px, one.box)
            judged.append(ObjectJudgement(self.place.box(one.box), area_px, normalised, evaluation))
        return tuple(judged)


def _is_finite(score: Score) -> bool:
    """Whether every number that a verdict rests on is one."""
    raws = (score.raw, *(one.raw for one in score.objects))
    return all(map(math.isfinite, raws)) and bool(np.isfinite(score.map).all())


def _unlike_good(score: Score, limits: ViewCalibration, channels: int | None) -> tuple[str, ...]:
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
    allowed = limits.foreground_ratio
    if allowed is not None and not allowed[0] <= score.foreground_ratio <= allowed[1]:
        reasons.append("foreground_outside_calibration")
    if _is_outside(score.sharpness, limits.sharpness):
        reasons.append("sharpness_outside_calibration")  # out of focus, moved, or another noise
    if channels is not None and limits.channels is not None and channels not in limits.channels:
        reasons.append("colour_outside_calibration")  # another camera, or another mode of it
    return tuple(reasons)


def margins(score: Score, limits: ViewCalibration) -> dict[str, float]:
    """By reason how far a picture is from its gate: 1 in the middle of the range, 0 at its end."""
    found = {
        "brightness_outside_calibration": room(score.plane_mean, limits.plane_mean),
        "contrast_outside_calibration": room(score.plane_std, limits.plane_std, by_ratio=True),
    }
    if score.sharpness is not None and limits.sharpness is not None:
        found["sharpness_outside_calibration"] = room(score.sharpness, limits.sharpness, by_ratio=True)
    return found


def _is_outside(value: float | None, limits: tuple[float, float] | None) -> bool:
    """Of what is known on both sides."""
    return value is not None and limits is not None and not limits[0] <= value <= limits[1]


def find_defects(score: Score, threshold: float, place: Placement) -> tuple[Defect, ...]:
    """Connected regions of the map above the threshold, strongest first, in frame pixels.

    The window with the highest mean is always among them: a broad, faint defect may have no pixel above the
    threshold.
    """
    values = score.map
    mask = (values > threshold).astype(np.uint8)
    left, top, wide, tall = score.peak_box
    if float(np.ptp(values)) <= FLAT * float(values.max()):  # nothing is more of a defect than the rest
        left, top, (tall, wide) = 0, 0, values.shape
    mask[top : top + tall, left : left + wide] = 1
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    peaks = _peaks(np.asarray(labels), values, np.asarray(stats))
    order = sorted(range(1, count), key=lambda i: -peaks[i])[:MAX_DEFECTS]
    defects = []
    for i in order:
        x, y, w, h, area = (int(v) for v in stats[i])
        box = x, y, w, h
        area_px = place.area_px(area, box)
        defects.append(
            Defect("anomaly", area_px, area / mask.size, place.box(box), score=peaks[i] / threshold)
        )
    return tuple(defects)


def _peaks(labels: NDArray[Any], values: FloatImage, stats: NDArray[Any]) -> list[float]:
    """Largest value of each region, looking only at its own box; 0 for the background."""
    peaks = [0.0]
    for i in range(1, len(stats)):
        x, y, w, h, _ = stats[i]
        inside = labels[y : y + h, x : x + w] == i
        peaks.append(float(values[y : y + h, x : x + w][inside].max()))
    return peaks
