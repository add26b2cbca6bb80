"""Which pixels are the part: masks from grey levels, from a network's probabilities, and their mean.

A mask is (h, w) bool, True on the part. Flat planes have no part to find, so every method answers a mask
without foreground for them; so does a plane without pixels. None raises on what a camera may deliver.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.types import FloatImage, Mask

Polarity = Literal["bright", "dark", "auto"]

LEAST_CONTRAST = 1e-3  # of 0..1; a plane with less between its darkest and brightest pixel is flat
SURE_DISTANCE = 0.5  # watershed: foreground for sure is this share of the greatest depth inside
BACKGROUND_PX = 3  # watershed: background for sure is this far outside
K_MEANS_SIDE_PX = 128  # k-means sees the plane at this longer side: the clusters are the same, sooner
K_MEANS_ITERATIONS = 30
LOCAL_MEAN_SHARE = 1 / 32  # of the reduced plane's longer side: the window of the local mean


def otsu(plane: FloatImage, polarity: Polarity = "auto") -> Mask:
    """Foreground by the threshold that separates two grey levels best.

    Otsu, "A Threshold Selection Method from Gray-Level Histograms" (1979), over 256 levels between the
    plane's darkest and brightest pixel. With "auto", foreground is the side that touches the border least.
    """
    levels = _levels(plane)
    if levels is None:
        return np.zeros(plane.shape, bool)
    _, bright = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return _by_polarity(bright.astype(bool), polarity)


def watershed(plane: FloatImage, polarity: Polarity = "auto") -> Mask:
    """Foreground flooded from markers up to the strongest edges.

    Markers come from Otsu's mask: deep inside (by distance transform) is foreground for sure, a few pixels
    outside is background for sure, the rest is decided by the flood. Meyer, "Color image segmentation"
    (1992), as `cv2.watershed`. Where Otsu finds nothing, or nothing but foreground, its answer stands.
    """
    coarse = otsu(plane, polarity)
    levels = _levels(plane)
    if levels is None or coarse.all() or not coarse.any():
        return coarse
    depth = cv2.distanceTransform(coarse.astype(np.uint8), cv2.DIST_L2, 5)
    # each piece by its own depth: a small part beside a large one keeps its marker
    count, found = cv2.connectedComponents(coarse.astype(np.uint8))
    pieces = found.astype(np.int32)
    deepest = np.zeros(count, np.float32)
    np.maximum.at(deepest, pieces, depth)
    inside = coarse & (depth >= SURE_DISTANCE * deepest[pieces])
    outside = ~_dilated(coarse, BACKGROUND_PX)
    if not outside.any():
        return coarse
    markers = np.where(inside, 2, np.where(outside, 1, 0)).astype(np.int32)
    flooded = cv2.watershed(cv2.cvtColor(levels, cv2.COLOR_GRAY2BGR), markers)
    # the flood leaves a line of -1 between basins and around the frame, where the coarse mask decides
    return np.where(flooded == -1, coarse, flooded == 2)


def k_means(plane: FloatImage, clusters: int = 2, polarity: Polarity = "auto") -> Mask:
    """Foreground by clustering grey level and local mean of the plane at a reduced size.

    "bright" is the brightest cluster, "dark" the darkest; with "auto" the cluster that touches the border
    most is background and all others are foreground. Nothing in it is drawn by chance.

    Raises:
        ValueError: not 2 to 4 clusters.
    """
    if not 2 <= clusters <= 4:
        raise ValueError(f"k-means has 2 to 4 clusters here, not {clusters}")
    if _levels(plane) is None:
        return np.zeros(plane.shape, bool)
    reduced = _reduced(plane, K_MEANS_SIDE_PX)
    if len(np.unique(reduced)) < clusters:
        return otsu(plane, polarity)
    centres = _centres(_features(reduced, max(reduced.shape)).reshape(-1, 2), clusters)
    # every pixel of the full plane goes to the centre that is nearest to it
    features = _features(plane, max(plane.shape))
    distances = [((features - centre) ** 2).sum(axis=2) for centre in centres]  # darkest centre first
    labels = np.argmin(distances, axis=0)
    if polarity == "bright":
        return np.asarray(labels == clusters - 1)
    if polarity == "dark":
        return np.asarray(labels == 0)
    return np.asarray(labels != np.bincount(_border(labels), minlength=clusters).argmax())


def close(mask: Mask, side_px: int = 5, times: int = 3) -> Mask:
    """Morphological closing with a cross: gaps up to about (side_px - 1) × times are filled (5 px, 3 times:
    the origin's). The cross has a middle, so an even side counts as the next odd one.

    Closing happens as if the plane went on beyond its border without foreground, so nothing is closed
    against the border.
    """
    if mask.size == 0:
        return mask.copy()
    side_px |= 1
    margin_px = side_px * times
    padded = np.pad(mask.astype(np.uint8), margin_px)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (side_px, side_px))
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, cross, iterations=times)
    height, width = mask.shape
    return closed[margin_px : margin_px + height, margin_px : margin_px + width].astype(bool)


def without_specks(mask: Mask, least_ratio: float) -> Mask:
    """Without the 8-connected pieces that are smaller than `least_ratio` of the plane's area."""
    if mask.size == 0:
        return mask.copy()
    _, labels, measured, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = measured[:, cv2.CC_STAT_AREA] >= least_ratio * mask.size
    kept[0] = False  # label 0 is the background
    return np.asarray(kept[labels])


def to_square(plane: NDArray[Any], size_px: int) -> FloatImage:
    """A (h, w) plane or mask as a mask network sees it: (size_px, size_px) float32, whatever its sides were.

    Learning and inspection both use this one. Averages areas where it shrinks, interpolates where it grows.
    """
    return _resized(plane.astype(np.float32, copy=False), (size_px, size_px))


def from_probability(probability: FloatImage, shape: tuple[int, int], threshold: float = 0.5) -> Mask:
    """A network's (s, s) answer, of any size, back at the plane's (h, w): foreground above the threshold.

    Probabilities are interpolated before they are compared, so the outline is finer than the answer's
    pixels. What is not a number is not above the threshold.
    """
    return np.asarray(_resized(probability.astype(np.float32, copy=False), shape) > threshold)


def masked(plane: FloatImage, mask: Mask, value: float = 0.0) -> FloatImage:
    """The plane with `value` wherever the mask is not.

    Raises:
        DataError: they do not have the same size.
    """
    if plane.shape != mask.shape:
        raise _sizes_differ("the mask", mask.shape, "the plane", plane.shape)
    return np.where(mask, plane, np.float32(value))


class MeanMask:
    """The mean of masks, streamed: memory is that of one plane however many are added."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: NDArray[np.int32] | None = None  # (h, w)

    def add(self, mask: Mask) -> None:
        """Count one more mask.

        Raises:
            DataError: it has another size than those before.
        """
        if self._sums is None:
            self._sums = np.zeros(mask.shape, np.int32)
        if mask.shape != self._sums.shape:
            raise _sizes_differ(f"mask {self.count + 1}", mask.shape, "those before", self._sums.shape)
        self._sums += mask
        self.count += 1

    def mean(self) -> FloatImage:
        """(h, w) float32 in 0..1: the share of masks that are foreground there.

        Raises:
            DataError: no mask was added.
        """
        if self._sums is None:
            raise DataError(
                "there is no mask to take the mean of", hint="give at least one frame of the view"
            )
        return (self._sums / np.float32(self.count)).astype(np.float32)

    def mask(self, threshold: float = 0.5) -> Mask:
        """Where more than `threshold` of the masks are foreground. Raises as `mean`."""
        return np.asarray(self.mean() > threshold)


def _levels(plane: FloatImage) -> NDArray[np.uint8] | None:
    """The plane's own range as 0..255; None where there is no range. Not-finite pixels count as dark."""
    finite = np.isfinite(plane)
    if not finite.any():
        return None
    low, high = float(plane[finite].min()), float(plane[finite].max())
    if high - low < LEAST_CONTRAST:
        return None
    scaled = (np.where(finite, plane, low) - low) * (255 / (high - low))
    return np.rint(scaled).astype(np.uint8)


def _by_polarity(bright: Mask, polarity: Polarity) -> Mask:
    if polarity == "auto":
        return ~bright if 2 * np.count_nonzero(_border(bright)) > len(_border(bright)) else bright
    return bright if polarity == "bright" else ~bright


def _border(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The outermost pixels of a (h, w) array, corners twice."""
    return np.concatenate((values[0], values[-1], values[:, 0], values[:, -1]))


def _dilated(mask: Mask, by_px: int) -> Mask:
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=by_px).astype(bool)


def _features(plane: FloatImage, longer_px: int) -> FloatImage:
    """(h, w, 2): grey level, and its mean over a window that is the same share of every size."""
    window = max(1, round(longer_px * LOCAL_MEAN_SHARE)) | 1
    clean = np.nan_to_num(plane, nan=0.0, posinf=1.0, neginf=0.0).astype(np.float32)
    local = cv2.blur(clean, (window, window), borderType=cv2.BORDER_REFLECT_101)
    return np.stack((clean, local), axis=2).astype(np.float32)


def _centres(samples: FloatImage, clusters: int) -> FloatImage:
    """(clusters, 2), the darkest first. Lloyd's algorithm, started from evenly spread quantiles instead of by
    chance, so that the same plane has the same mask everywhere."""
    ranks = np.argsort(np.argsort(samples.sum(axis=1), kind="stable"), kind="stable")
    start = (ranks * clusters // len(ranks)).astype(np.int32)[:, None]
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, K_MEANS_ITERATIONS, 1e-4)
    _, _, centres = cv2.kmeans(samples, clusters, start, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    return centres[np.argsort(centres[:, 0], kind="stable")].astype(np.float32)


def _reduced(plane: FloatImage, longer_px: int) -> FloatImage:
    height, width = plane.shape
    scale = min(1.0, longer_px / max(height, width))
    finite = np.nan_to_num(plane, nan=0.0, posinf=1.0, neginf=0.0)
    return _resized(finite.astype(np.float32), (max(1, round(height * scale)), max(1, round(width * scale))))


def _resized(plane: FloatImage, shape: tuple[int, int]) -> FloatImage:
    """To (h, w). An answer without pixels gives zeros."""
    if plane.shape == shape:
        return plane
    if plane.size == 0 or 0 in shape:
        return np.zeros(shape, np.float32)
    shrinks = shape[0] * shape[1] < plane.size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(plane, shape[::-1], interpolation=interpolation).astype(np.float32, copy=False)


def _sizes_differ(
    one: str, one_shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]
) -> DataError:
    sizes = [" × ".join(map(str, reversed(shape))) for shape in (one_shape, other_shape)]
    return DataError(
        f"{one} is {sizes[0]} px, {other} {sizes[1]} px",
        hint="frames of one view need one size: set size_px in the preprocessing",
        reason="mask_size",
    )
