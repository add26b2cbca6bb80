"""Windows with the truth of their pixels, for networks that name each pixel's class.

Defects are rare: of a steel strip's frames half have none, of a commutator's surface one pixel in two
hundred is crack. So a share of the windows is cut around a pixel that is defect, every class as often as the
others; the rest lie anywhere, on good frames as well, so that the network also learns what good looks like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.learn.datasets import mirrored
from edge.learn.labels import MOST_CLASSES, LabelledPlane
from edge.types import FloatImage

Truth = NDArray[np.uint8]  # (h, w): bit k is set where class k is
Coordinates = NDArray[np.float32]  # (h, w) rows or columns of the plane, between its pixels

MOST_PLACES = 4096  # defect pixels remembered of a plane and class: enough for every place of a window
ELASTIC_CELL_PX = 32  # distance of the random shifts that an elastic deformation goes through


@dataclass(frozen=True, slots=True)
class SegmentAugmentation:
    """How a window is varied; what moves pixels moves the truth with them. 0 and False leave it alone."""

    flip_across: bool = False  # left-right
    flip_down: bool = False  # top-bottom
    brightness: float = 0.0  # at most so much is added to all of the window
    contrast: float = 0.0  # relative: differences from the mean are multiplied by 1 ± at most this
    gamma: float = 0.0  # values to the power of 1 + g, or its inverse, g at most this
    noise: float = 0.0  # standard deviation of what is added to each pixel, at most
    rotation_deg: float = 0.0
    scale: float = 0.0  # relative: 0.1 for 0.9 … 1.1
    elastic_px: float = 0.0  # standard deviation of the shifts, ELASTIC_CELL_PX apart


UNCHANGED = SegmentAugmentation()
# For a handful of masks: with less turning and bending a segmenter knew only cracks like those it had seen
# (commutators: Dice of a thick, oblique one 0.56 → 0.75 on validation frames, after as many steps)
DEFAULT = SegmentAugmentation(
    flip_across=True,
    flip_down=True,
    brightness=0.08,
    contrast=0.2,
    gamma=0.2,
    rotation_deg=45.0,
    scale=0.35,
    elastic_px=2.0,
)


class SegmentBatches:
    """Random windows of labelled planes and their masks; which ones depends on the seed and the step only."""

    def __init__(
        self,
        planes: Sequence[LabelledPlane],
        *,
        classes: int,
        window_px: tuple[int, int],
        batch: int,
        seed: int,
        defect_share: float = 0.5,
        margin_px: int = 0,
        augmentation: SegmentAugmentation = UNCHANGED,
    ) -> None:
        """`window_px` is (height, width); a window may lie `margin_px` beyond a plane's mirrored border.

        `defect_share` of a batch's windows are cut around a defect, as long as there is any.
        """
        if not 1 <= classes <= MOST_CLASSES:
            raise ValueError(f"{classes} classes; 1 … {MOST_CLASSES}")
        self.planes, self.classes, self.batch, self.seed = planes, classes, batch, seed
        self.window_px, self.margin_px = window_px, margin_px
        self.defect_share, self.augmentation = defect_share, augmentation
        areas = np.array([plane.plane.size for plane in planes], np.float64)
        self._shares = areas / areas.sum()
        # class → (index of a plane, (n, 2) rows and columns of its pixels): only where there are any
        self._places = [
            found for k in range(classes) if (found := _places(planes, k, np.random.default_rng((seed, k))))
        ]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The step's windows (batch, 1, h, w) float32 in 0..1, and masks (batch, classes, h, w), 0 or 1."""
        rng = np.random.default_rng((self.seed, step))
        height, width = self.window_px
        inputs = np.empty((self.batch, 1, height, width), np.float32)
        masks = np.empty((self.batch, self.classes, height, width), np.float32)
        # as many around defects in every batch, so that batches do not differ by chance
        around = np.arange(self.batch) < math.ceil(self.batch * self.defect_share)
        for k in range(self.batch):
            labelled, top, left = self._place(rng, bool(around[k]))
            window, truth = self._cut(labelled, top, left, rng)
            inputs[k, 0] = window
            masks[k] = truth[None] >> np.arange(self.classes, dtype=np.uint8)[:, None, None] & 1
        return torch.from_numpy(inputs), torch.from_numpy(masks)

    def _place(self, rng: np.random.Generator, around_defect: bool) -> tuple[LabelledPlane, int, int]:
        """A plane, and where the window's corner lies in it: over a pixel of a defect, or anywhere."""
        if not (around_defect and self._places):
            labelled = self.planes[int(rng.choice(len(self.planes), p=self._shares))]
            top, left = (
                self._start(rng, length, side)
                for length, side in zip(labelled.plane.shape, self.window_px, strict=True)
            )
            return labelled, top, left
        of_class = self._places[int(rng.integers(len(self._places)))]
        index, pixels = of_class[int(rng.integers(len(of_class)))]
        labelled = self.planes[index]
        pixel = pixels[int(rng.integers(len(pixels)))]
        top, left = (
            self._start(rng, length, side, int(at))
            for length, side, at in zip(labelled.plane.shape, self.window_px, pixel, strict=True)
        )
        return labelled, top, left

    def _start(self, rng: np.random.Generator, length: int, side: int, over: int | None = None) -> int:
        """A window's first row or column: within the margins, and over pixel `over` where there is one."""
        first, last = -self.margin_px, max(-self.margin_px, length + self.margin_px - side)
        if over is not None:
            first, last = max(first, over - side + 1), min(last, over)
        return int(rng.integers(first, max(first, last) + 1))

    def _cut(
        self, labelled: LabelledPlane, top: int, left: int, rng: np.random.Generator
    ) -> tuple[FloatImage, Truth]:
        a = self.augmentation
        if a.rotation_deg or a.scale or a.elastic_px:
            window, truth = _moved(labelled, top, left, *_coordinates(self.window_px, a, rng))
        else:
            window, truth = _straight(labelled, top, left, self.window_px)
        for axis, allowed in enumerate((a.flip_down, a.flip_across)):
            if allowed and rng.random() < 0.5:
                window, truth = np.flip(window, axis), np.flip(truth, axis)
        return _shaded(window, a, rng), truth


def _places(
    planes: Sequence[LabelledPlane], k: int, rng: np.random.Generator
) -> list[tuple[int, NDArray[np.int32]]]:
    """The planes that have class k, and where: (n, 2) rows and columns, drawn from all of its pixels."""
    found = []
    for index, labelled in enumerate(planes):
        pixels = np.argwhere(labelled.truth >> k & 1).astype(np.int32)
        if len(pixels) > MOST_PLACES:
            pixels = rng.choice(pixels, MOST_PLACES, replace=False)
        if len(pixels):
            found.append((index, pixels))
    return found


def _coordinates(
    window_px: tuple[int, int], augmentation: SegmentAugmentation, rng: np.random.Generator
) -> tuple[Coordinates, Coordinates]:
    """Rows and columns, (h, w) each, that a turned, scaled and bent window samples, from its own corner."""
    a = augmentation
    height, width = window_px
    angle = np.deg2rad(rng.uniform(-a.rotation_deg, a.rotation_deg))
    factor = 1 + rng.uniform(-a.scale, a.scale)
    y = (np.arange(height) - (height - 1) / 2)[:, None]
    x = (np.arange(width) - (width - 1) / 2)[None, :]
    rows = (np.cos(angle) * y + np.sin(angle) * x) / factor + (height - 1) / 2
    columns = (np.cos(angle) * x - np.sin(angle) * y) / factor + (width - 1) / 2
    if a.elastic_px:
        rows = rows + _bent(window_px, a.elastic_px, rng)
        columns = columns + _bent(window_px, a.elastic_px, rng)
    return rows.astype(np.float32), columns.astype(np.float32)


def _bent(window_px: tuple[int, int], sigma_px: float, rng: np.random.Generator) -> FloatImage:
    """Smooth random shifts (h, w): independent ones on a coarse grid, cubic between.

    After Ronneberger et al. (2015), section 3.1: displacements on a coarse grid, bicubic interpolation.
    """
    height, width = window_px
    coarse = rng.normal(0, sigma_px, (height // ELASTIC_CELL_PX + 2, width // ELASTIC_CELL_PX + 2))
    return cv2.resize(  # type: ignore[return-value]  # float32 in, float32 out
        coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )


def _straight(
    labelled: LabelledPlane, top: int, left: int, window_px: tuple[int, int]
) -> tuple[FloatImage, Truth]:
    """What lies under a window whose corner is at (top, left); borders mirrored."""
    height, width = labelled.plane.shape
    rows = mirrored(np.arange(top, top + window_px[0]), height)
    columns = mirrored(np.arange(left, left + window_px[1]), width)
    there = np.ix_(rows, columns)
    return labelled.plane[there].astype(np.float32), labelled.truth[there]


def _moved(
    labelled: LabelledPlane, top: int, left: int, rows: Coordinates, columns: Coordinates
) -> tuple[FloatImage, Truth]:
    """The same at coordinates between pixels: grey values linear, the truth of the nearest pixel."""
    above, before = int(np.floor(rows.min())), int(np.floor(columns.min()))
    side_px = int(np.ceil(rows.max())) - above + 1, int(np.ceil(columns.max())) - before + 1
    window, truth = _straight(labelled, top + above, left + before, side_px)
    x, y = columns - np.float32(before), rows - np.float32(above)
    border = cv2.BORDER_REPLICATE  # nothing lies beyond: the window holds all that is sampled
    grey = cv2.remap(window, x, y, cv2.INTER_LINEAR, borderMode=border)
    classes = cv2.remap(truth, x, y, cv2.INTER_NEAREST, borderMode=border)
    return np.asarray(grey, np.float32), np.asarray(classes, np.uint8)


def _shaded(window: FloatImage, augmentation: SegmentAugmentation, rng: np.random.Generator) -> FloatImage:
    """Another light: contrast, brightness, gamma and noise, in 0..1."""
    a = augmentation
    if not (a.brightness or a.contrast or a.gamma or a.noise):
        return window
    mean = window.mean()
    shaded = (window - mean) * (1 + rng.uniform(-a.contrast, a.contrast)) + mean
    shaded = np.clip(shaded + rng.uniform(-a.brightness, a.brightness), 0.0, 1.0)
    if a.gamma:
        power = 1 + rng.uniform(0, a.gamma)
        shaded = shaded ** (power if rng.random() < 0.5 else 1 / power)
    if a.noise:
        noise = rng.standard_normal(window.shape, np.float32) * rng.uniform(0, a.noise)
        shaded = np.clip(shaded + noise, 0.0, 1.0)
    return np.asarray(shaded, np.float32)
