"""Several defect classes in one frame: a mask, an area and a list of defects for each, and how good they are.

Pure functions of arrays. A segmenter gives one probability plane a class; classes may overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.types import MAX_DEFECTS, Defect, FloatImage, Mask, Placement

Masks = NDArray[np.bool_]  # (classes, h, w)
Counts = NDArray[np.int64]  # (classes,)
Figures = NDArray[np.float64]  # (classes,)


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """One class: above which probability it is there, and how small a region of it is a speck."""

    name: str
    threshold: float = 0.5
    min_area_px: int = 0  # in frame pixels; smaller regions are no defects


@dataclass(frozen=True, slots=True)
class ClassFindings:
    """What a frame's probability planes say, specks left out."""

    masks: Masks  # as large as the planes
    areas_px: Mapping[str, int]  # class → area in frame pixels; every class is there
    defects: tuple[Defect, ...]  # strongest first, in frame pixels


def find_classes(layers: FloatImage, classes: Sequence[ClassSpec], place: Placement) -> ClassFindings:
    """Masks, areas and defects of (classes, h, w) probabilities whose plane lies in its frame at `place`.

    A defect's score is its highest probability relative to its class's threshold, so that 1.0 is the
    operating point whatever the class.
    """
    if len(layers) != len(classes):
        raise ValueError(f"{len(layers)} planes for {len(classes)} classes")
    masks = np.zeros(layers.shape, bool)
    found: list[Defect] = []
    areas = {}
    for k, spec in enumerate(classes):
        masks[k], defects = _find(layers[k], spec, place)
        areas[spec.name] = sum(defect.area_px for defect in defects)
        found += defects
    found.sort(key=lambda defect: (-defect.score, defect.bbox, defect.kind))
    return ClassFindings(masks, areas, tuple(found[:MAX_DEFECTS]))


def largest_level(plane: FloatImage, min_area_px: float) -> float:
    """The highest level that all of a connected region of at least `min_area_px` pixels of (h, w) reaches.

    A frame's raw score where specks are left out: `find_classes` finds a defect exactly if this is above the
    class's threshold. 0 where even the whole plane is too small.
    """
    levels = np.unique(plane)
    low, high = -1, len(levels) - 1  # a region at levels[low] and above; none at levels[high] or beyond
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _largest(plane >= levels[middle]) >= min_area_px else (low, middle - 1)
    return float(levels[low]) if low >= 0 else 0.0


def _find(plane: FloatImage, spec: ClassSpec, place: Placement) -> tuple[Mask, list[Defect]]:
    """The mask of one class without its specks, and its regions as defects."""
    mask = plane > spec.threshold
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = np.zeros(count, bool)
    defects = []
    for i in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[i])
        area_px = place.area_px(area, (x, y, w, h))
        if area_px < spec.min_area_px:
            continue
        kept[i] = True
        peak = float(plane[y : y + h, x : x + w][labels[y : y + h, x : x + w] == i].max())
        box = place.box((x, y, w, h))
        defects.append(Defect(spec.name, area_px, area / plane.size, box, score=peak / spec.threshold))
    return kept[labels], defects


def _largest(mask: Mask) -> int:
    """Pixels of the largest connected region."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return int(stats[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0


@dataclass(slots=True)
class ClassCounts:
    """Pixels right and wrong, frame after frame in constant memory, and the Dice and IoU they come to.

    Two means are in use, and they differ much where most frames are good, so both are given:

    - **pooled**: one fraction over the pixels of all frames (Dice = 2tp / (2tp + fp + fn)). Good frames count
      by what is found falsely on them. A class that is nowhere, neither in truth nor found, has none: NaN.
    - **per frame**: the mean of each frame's own fraction, 1 for a frame where the class is neither in truth
      nor found and 0 where only one of them has it, as the Severstal steel competition counts.
    - **per defect frame**: the same mean over frames that have the class in truth; NaN without any.
    """

    names: Sequence[str]
    frames: int = 0
    tp: Counts = field(init=False)
    fp: Counts = field(init=False)
    fn: Counts = field(init=False)
    defect_frames: Counts = field(init=False)
    _dice_sum: Figures = field(init=False)
    _iou_sum: Figures = field(init=False)
    _dice_sum_defect: Figures = field(init=False)
    _iou_sum_defect: Figures = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.names)
        self.tp, self.fp, self.fn, self.defect_frames = (np.zeros(n, np.int64) for _ in range(4))
        self._dice_sum, self._iou_sum, self._dice_sum_defect, self._iou_sum_defect = (
            np.zeros(n) for _ in range(4)
        )

    def add(self, found: Masks, truth: Masks) -> None:
        """One frame's masks, (classes, h, w) both."""
        tp = (found & truth).sum(axis=(1, 2))
        fp = (found & ~truth).sum(axis=(1, 2))
        fn = (~found & truth).sum(axis=(1, 2))
        self.frames += 1
        self.tp += tp
        self.fp += fp
        self.fn += fn
        defect = tp + fn > 0
        dice, iou = (_fraction(top, bottom, 1.0) for top, bottom in _terms(tp, fp, fn))
        self.defect_frames += defect
        self._dice_sum += dice
        self._iou_sum += iou
        self._dice_sum_defect += np.where(defect, dice, 0.0)
        self._iou_sum_defect += np.where(defect, iou, 0.0)

    def figures(self) -> dict[str, dict[str, float]]:
        """Class → its figures; what is not defined is NaN."""
        pooled_dice, pooled_iou = (
            _fraction(top, bottom, math.nan) for top, bottom in _terms(self.tp, self.fp, self.fn)
        )
        frames = np.full(len(self.names), self.frames)
        columns = {
            "dice": pooled_dice,
            "iou": pooled_iou,
            "dice_per_frame": _fraction(self._dice_sum, frames, math.nan),
            "iou_per_frame": _fraction(self._iou_sum, frames, math.nan),
            "dice_per_defect_frame": _fraction(self._dice_sum_defect, self.defect_frames, math.nan),
            "iou_per_defect_frame": _fraction(self._iou_sum_defect, self.defect_frames, math.nan),
            "defect_frames": self.defect_frames,
            "area_px": self.tp + self.fn,
            "found_px": self.tp + self.fp,
        }
        return {
            name: {key: float(values[k]) for key, values in columns.items()}
            for k, name in enumerate(self.names)
        }


def _terms(tp: Counts, fp: Counts, fn: Counts) -> tuple[tuple[Counts, Counts], tuple[Counts, Counts]]:
    """Numerators and denominators of Dice and of IoU."""
    return (2 * tp, 2 * tp + fp + fn), (tp, tp + fp + fn)


def _fraction(top: NDArray[np.generic], bottom: Counts, where_none: float) -> Figures:
    """top / bottom, another value where there is nothing below."""
    values = np.full(len(bottom), where_none)
    np.divide(top, bottom, out=values, where=bottom > 0)
    return values
