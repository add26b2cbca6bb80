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

LEVEL_STEPS = 10  # each halves where `largest_level` may lie

Binary = NDArray[np.uint8]  # (h, w), 0 or 1
Masks = NDArray[np.bool_]  # (classes, h, w)
Counts = NDArray[np.int64]  # (classes,)
Figures = NDArray[np.float64]  # (classes,)


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """One class: above which probability it is there, and how small a region of it is a speck."""

    name: str
    threshold: float = 0.5
    min_area_px: int = 0  # in pixels of the plane, whatever they are of the frame; smaller is no defect


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
        masks[k], areas[spec.name], defects = _find(layers[k], spec, place)
        found += defects
    found.sort(key=lambda defect: (-defect.score, defect.bbox, defect.kind))
    return ClassFindings(masks, areas, tuple(found[:MAX_DEFECTS]))


def largest_level(plane: FloatImage, min_area_px: int) -> float:
    """The highest level that all of a connected region of at least `min_area_px` pixels of (h, w) reaches.

    A frame's raw score where specks are left out: `find_classes` finds a defect if this is above the class's
    threshold. It is found by at most LEVEL_STEPS bisections, and so never too high, but may be too low by up
    to 1/1024 of the plane's range: a defect that `find_classes` finds has a level above the threshold, or
    that near to it. 0 where even the whole plane is too small.
    """
    area_px = max(1, min_area_px)
    if plane.size < area_px:
        return 0.0
    low, high = _bounds(plane, area_px)
    within = np.ones(plane.shape, np.uint8)  # what is in no region large enough is in none higher up either
    for _ in range(LEVEL_STEPS):
        if low >= high:
            break
        middle = max(np.float32(low + (high - low) / 2), np.nextafter(np.float32(low), np.float32(np.inf)))
        above = within & (plane >= middle)
        regions = _large_regions(above, area_px)
        if regions is None:
            high = cv2.minMaxLoc(plane, within - above)[1]
        else:
            within, low = regions, cv2.minMaxLoc(plane, regions)[0]
    return low


def _bounds(plane: FloatImage, area_px: int) -> tuple[float, float]:
    """Two levels of a plane of at least that area, below and above its `largest_level` or equal to it.

    A square that large is a region; a region that large needs so many pixels.
    """
    highest = float(np.partition(plane, plane.size - area_px, axis=None)[plane.size - area_px])
    side = math.isqrt(area_px - 1) + 1
    if side > min(plane.shape):
        return float(plane.min()), highest
    lowest = cv2.erode(plane, np.ones((side, side), np.uint8), anchor=(0, 0))
    height, width = plane.shape
    return float(lowest[: height - side + 1, : width - side + 1].max()), highest


def _find(plane: FloatImage, spec: ClassSpec, place: Placement) -> tuple[Mask, int, list[Defect]]:
    """The mask of one class without its specks, its area in frame pixels, and its strongest regions."""
    mask = plane > spec.threshold
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= spec.min_area_px
    kept[0] = False  # the background
    peaks = np.zeros(count, np.float32)
    region: NDArray[np.int32] = np.asarray(labels, np.int32)[mask]
    np.maximum.at(peaks, region, plane[mask])
    (regions,) = np.nonzero(kept)
    boxes, areas = stats[regions, :4], stats[regions, cv2.CC_STAT_AREA]
    areas_px = place.areas_px(areas, boxes)
    order = np.lexsort((*boxes.T[::-1], -peaks[regions]))[:MAX_DEFECTS]  # as `find_classes` has them
    defects = []
    for i in order:
        x, y, w, h = (int(v) for v in boxes[i])
        score = float(peaks[regions[i]]) / spec.threshold
        share = int(areas[i]) / plane.size
        defects.append(Defect(spec.name, int(areas_px[i]), share, place.box((x, y, w, h)), score))
    return kept[labels], int(areas_px.sum()), defects


def _large_regions(mask: Binary, area_px: int) -> Binary | None:
    """The connected regions of at least so many pixels; None without any."""
    _, labels = cv2.connectedComponents(mask, connectivity=8)
    large = np.bincount(labels.ravel()) >= area_px
    large[0] = False  # the background
    return large.astype(np.uint8)[labels] if large.any() else None


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
