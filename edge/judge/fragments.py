"""Fragments: numbers drawn from the residual of each, one list of defects, and how well the numbers separate.

A film is judged window by window (64×64 at half steps), each against its own reconstruction. Seven statistics
are kept of every fragment's residual, as the origin compared them; any of them can be the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.judge.ranking import PixelCounts
from edge.types import MAX_DEFECTS, Defect, FloatImage, Fragments, Mask, Placement

# A fragment whose defect covers less than this of it (40 pixels of 64×64: the corner of one, or one that is
# smaller than what a person marks) is neither a good fragment nor a fair example of a defect
LEAST_SHARE = 0.01


def fragment_statistics(
    residual: FloatImage, smooth_px: float = 0.0, keep_px: int | None = None
) -> dict[str, FloatImage]:
    """FRAGMENT_STATISTICS of each fragment's residual (n, h, w), plane − reconstruction: (n,) float32 each.

    `sum` of the absolute residual · `mse` mean square · `std` standard deviation · `min` and `max` the signed
    extremes: how much darker or brighter than expected · `absmax` the larger of the two · `mean` signed.

    `smooth_px` is the standard deviation of a Gaussian over the signed residual, first of all: single pixels
    of noise cancel, a cavity of some pixels stays. It is what makes the extremes usable on radiographs.
    After that only the centre of side `keep_px` counts (None: all of it): a network sees less around a pixel
    at a fragment's border, and errs more there.
    """
    if smooth_px > 0:
        residual = _smoothed(residual, smooth_px)
    if keep_px is not None:
        margin = (residual.shape[1] - keep_px) // 2
        residual = residual[:, margin : margin + keep_px, margin : margin + keep_px]
    flat = residual.reshape(len(residual), -1)
    size = np.abs(flat)
    return {
        "sum": size.sum(1),
        "mse": np.square(flat).mean(1),
        "std": flat.std(1),
        "min": flat.min(1),
        "max": flat.max(1),
        "absmax": size.max(1),
        "mean": flat.mean(1),
    }


def as_scores(name: str, values: FloatImage) -> FloatImage:
    """A statistic as a score: (n,) float32 ≥ 0, the larger the less like good.

    `min` is turned around; a fragment nowhere darker (`max`: nowhere brighter) than expected scores 0.
    """
    if name == "min":
        values = -values
    scores = np.abs(values) if name == "mean" else np.maximum(values, 0)
    return scores.astype(np.float32, copy=False)


def merge_fragments(
    boxes: NDArray[np.int32],
    scores: FloatImage,
    threshold: float,
    placement: Placement,
    shape: tuple[int, int],
    kind: str = "anomaly",
) -> tuple[Defect, ...]:
    """One defect for each group of overlapping or touching fragments above the threshold, strongest first.

    `boxes` (n, 4) are x, y, w, h in the plane of that `shape` (h, w), and may reach beyond it; what comes
    back is in the frame's own pixels: the box around the group, the area that its fragments cover together,
    and the highest score relative to the threshold. No more than MAX_DEFECTS.
    """
    mask = np.zeros(shape, np.uint8)
    (above,) = np.nonzero(scores > threshold)
    corners = _corners(boxes[above], shape)
    seen = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    corners, above = corners[seen], above[seen]
    for left, top, right, bottom in corners:
        mask[top:bottom, left:right] = 1
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    peaks = np.zeros(count, np.float64)
    group: NDArray[np.int32] = np.asarray(labels, np.int32)[corners[:, 1], corners[:, 0]]
    np.maximum.at(peaks, group, scores[above])
    order = sorted(range(1, count), key=lambda i: -peaks[i])[:MAX_DEFECTS]
    return tuple(_defect(kind, stats[i], float(peaks[i]) / threshold, mask.size, placement) for i in order)


class FragmentCounts:
    """How well each statistic tells fragments with a defect from good ones, in constant memory.

    A fragment is a defect if at least `least_share` of its pixels are, and good if none is; those between are
    not counted. With 0 any pixel makes a defect, and every fragment counts.
    """

    def __init__(self, least_share: float = LEAST_SHARE) -> None:
        self.least_share = least_share
        self.defect = self.good = self.between = 0
        self._counts: dict[str, PixelCounts] = {}

    def add(self, fragments: Fragments, truth: Mask) -> None:
        """Count a plane's fragments; `truth` is (h, w) of the plane, True where there is a defect."""
        share = covered(fragments.boxes, truth)
        is_good = share == 0
        is_defect = ~is_good & (share >= self.least_share)
        kept = is_good | is_defect
        self.defect += int(is_defect.sum())
        self.good += int(is_good.sum())
        self.between += int((~kept).sum())
        for name, values in fragments.statistics.items():
            counts = self._counts.setdefault(name, PixelCounts())
            counts.add(as_scores(name, values)[kept], is_defect[kept])

    def auroc(self) -> Mapping[str, float]:
        """Statistic → area under its ROC curve; empty without both kinds."""
        found = {name: counts.curve().auroc() for name, counts in self._counts.items()}
        return {name: value for name, value in found.items() if value is not None}


def without_defects(fragments: Fragments, truth: Mask) -> Fragments:
    """The fragments that see no defect: what a film that has some still says about good ones.

    `truth` is (h, w) of the plane.
    """
    good = covered(fragments.boxes, truth) == 0
    statistics = {name: values[good] for name, values in fragments.statistics.items()}
    return Fragments(fragments.boxes[good], statistics)


def covered(boxes: NDArray[np.int32], truth: Mask) -> NDArray[np.float64]:
    """Which share of each box (n, 4: x, y, w, h) is True in `truth` (h, w); the rest is not counted."""
    sums = cv2.integral(truth.astype(np.uint8))  # (h + 1, w + 1)
    left, top, right, bottom = _corners(boxes, truth.shape).T
    hit = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    area = np.maximum(1, (right - left) * (bottom - top))
    return np.asarray(hit / area, np.float64)


def _corners(boxes: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(n, 4): left, top, right, bottom, clipped to the shape (h, w)."""
    corners = boxes.astype(np.int64)
    corners[:, 2:] += corners[:, :2]
    return np.clip(corners, 0, [shape[1], shape[0], shape[1], shape[0]])


def _defect(kind: str, stats: NDArray[Any], score: float, plane_px: int, placement: Placement) -> Defect:
    x, y, w, h, area = (int(value) for value in stats)
    box = (x, y, w, h)
    return Defect(kind, placement.area_px(area, box), area / plane_px, placement.box(box), score)


def _smoothed(residual: FloatImage, sigma_px: float) -> FloatImage:
    """Each fragment by itself, mirrored at its borders."""
    out = np.empty_like(residual)
    for fragment, target in zip(residual, out, strict=True):
        cv2.GaussianBlur(fragment, (0, 0), sigma_px, target, borderType=cv2.BORDER_REFLECT_101)
    return out
