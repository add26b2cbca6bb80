"""Changes that leave a label true: shifts, turns, light; and the batches that masks are learned from.

How far a picture may be shifted or turned before another verdict would be right depends on the product, so
the limits are always given; all zero, nothing changes. Which change a step makes follows from the seed and
the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.learn.datasets import Plane16, drawn, span
from edge.learn.labels import LabelledPlane
from edge.preprocess.foreground import to_square
from edge.preprocess.spec import TileSpec
from edge.types import FloatImage

FOREGROUND_BIT = 0  # of a truth plane, where a mask is learned


@dataclass(frozen=True, slots=True)
class Movement:
    """How far a plane may be moved."""

    degrees: float = 0.0  # turned by at most this, either way
    shift_px: float = 0.0  # along each axis, either way
    flips: bool = False  # mirrored along each axis half of the time

    def __post_init__(self) -> None:
        if not (0 <= self.degrees <= 180 and 0 <= self.shift_px < math.inf):
            raise ValueError(f"movement needs 0 to 180 degrees and a shift from 0 px on: {self}")


@dataclass(frozen=True, slots=True)
class Light:
    """How far grey levels may change."""

    gain: float = 0.0  # values times 1 ± this
    gamma: float = 0.0  # values to the power of 2 to the ± this
    noise: float = 0.0  # up to this standard deviation is added, in 0..1

    def __post_init__(self) -> None:
        if not (0 <= self.gain < 1 and 0 <= self.gamma <= 3 and 0 <= self.noise <= 1):
            raise ValueError(f"light needs a gain in 0 to 1, gamma in 0 to 3, noise in 0 to 1: {self}")


def affine(shape: tuple[int, int], movement: Movement, rng: np.random.Generator) -> NDArray[np.float64]:
    """2×3 matrix from a (h, w) plane's pixels to where they move, drawn within the limits.

    Turns and mirrors about the plane's centre; what is enlarged or cut is nothing.
    """
    height, width = shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    radians = math.radians(rng.uniform(-movement.degrees, movement.degrees))
    cosine, sine = math.cos(radians), math.sin(radians)
    linear = np.array([[cosine, sine], [-sine, cosine]])
    if movement.flips:
        linear = linear @ np.diag(rng.choice([-1.0, 1.0], 2))
    shift = rng.uniform(-movement.shift_px, movement.shift_px, 2)
    return np.column_stack((linear, centre + shift - linear @ centre))


def moved(plane: FloatImage, matrix: NDArray[np.float64]) -> FloatImage:
    """A (h, w) plane under a 2×3 affine map; beyond its borders it is mirrored. Values are interpolated."""
    if np.array_equal(matrix, np.eye(2, 3)):
        return plane
    return _warped(plane.astype(np.float32, copy=False), matrix, cv2.INTER_LINEAR).astype(np.float32)


def moved_truth(truth: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A (h, w) plane of class bits under the same map: each pixel keeps the bits of one source pixel."""
    return _warped(truth, matrix, cv2.INTER_NEAREST).astype(np.uint8)


def placed(
    labelled: LabelledPlane, movement: Movement, light: Light, rng: np.random.Generator
) -> LabelledPlane:
    """A labelled plane, moved and lit otherwise within the limits; its truth moves with it."""
    matrix = affine(labelled.plane.shape, movement, rng)
    plane = relit(moved(labelled.plane.astype(np.float32), matrix), light, rng)
    return LabelledPlane(plane.astype(np.float16), moved_truth(labelled.truth, matrix), labelled.label)


def relit(plane: FloatImage, light: Light, rng: np.random.Generator) -> FloatImage:
    """A plane in 0..1 under other light: (gain · x) ** gamma + noise, clipped to 0..1."""
    gain = 1 + rng.uniform(-light.gain, light.gain)
    gamma = 2 ** rng.uniform(-light.gamma, light.gamma)
    sigma = rng.uniform(0, light.noise)
    changed: FloatImage = np.clip(plane * np.float32(gain), 0, 1)
    if light.gamma:
        changed = changed ** np.float32(gamma)
    if light.noise:
        changed = changed + np.float32(sigma) * rng.standard_normal(plane.shape, np.float32)
    clipped: FloatImage = np.clip(changed, 0, 1, dtype=np.float32)
    return clipped


@dataclass(frozen=True, slots=True)
class PlacedWindows:
    """Random windows as `datasets.Windows` cuts them, each turned and lit otherwise: for autoencoders.

    A window lies anywhere in the plane, so of the movement only degrees and flips matter here.
    """

    planes: Sequence[Plane16]
    tiles: TileSpec
    size_px: int  # at most the tiles' own size
    batch: int
    movement: Movement
    light: Light
    seed: int

    def at(self, step: int) -> Tensor:
        """The step's windows, (batch, 1, size, size) float32 in 0..1. Every place is as likely."""
        rng = np.random.default_rng((self.seed, step))
        windows = np.empty((self.batch, 1, self.size_px, self.size_px), np.float32)
        for k, plane in enumerate(drawn(self.planes, self.batch, rng)):
            windows[k, 0] = self._window(plane, rng)
        return torch.from_numpy(windows)

    def _window(self, plane: Plane16, rng: np.random.Generator) -> FloatImage:
        # a surrounding that still fills the window after any turn
        margin = math.ceil((math.sqrt(2) - 1) / 2 * self.size_px) + 1 if self.movement.degrees else 0
        rows, columns = (span(length, self.tiles, self.size_px, rng, margin) for length in plane.shape)
        surrounding = plane[np.ix_(rows, columns)].astype(np.float32)
        turn = Movement(self.movement.degrees, 0.0, self.movement.flips)
        turned = moved(surrounding, affine(surrounding.shape, turn, rng))
        inner = slice(margin, margin + self.size_px)
        return relit(turned[inner, inner], self.light, rng)


@dataclass(frozen=True, slots=True)
class MaskBatches:
    """Whole planes with their foreground, all at one square size: what a mask network learns from.

    Each run through the planes is in another order; which planes a step gets follows from seed and step.
    """

    planes: Sequence[LabelledPlane]  # bit 0 of the truth is foreground
    size_px: int
    batch: int
    movement: Movement  # its shift in pixels of the square
    light: Light
    seed: int

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, masks), both (batch, 1, size, size) float32 in 0..1.

        Masks are shares: where the frame is larger than the square, a pixel on the outline is partly
        foreground, which tells a network where between two pixels the outline runs.
        """
        rng = np.random.default_rng((self.seed, step))
        shape = (self.batch, 1, self.size_px, self.size_px)
        inputs, masks = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for k in range(self.batch):
            labelled = self.planes[self._index(step * self.batch + k)]
            foreground = (labelled.truth >> FOREGROUND_BIT) & 1
            matrix = affine((self.size_px, self.size_px), self.movement, rng)
            inputs[k, 0] = relit(moved(to_square(labelled.plane, self.size_px), matrix), self.light, rng)
            masks[k, 0] = moved(to_square(foreground, self.size_px), matrix)
        np.clip(masks, 0, 1, out=masks)  # averaging rounds to a little more than 1
        return torch.from_numpy(inputs), torch.from_numpy(masks)

    def _index(self, nth: int) -> int:
        around, place = divmod(nth, len(self.planes))
        return int(np.random.default_rng((self.seed, 1, around)).permutation(len(self.planes))[place])


def shrunk(labelled: LabelledPlane, size_px: int) -> LabelledPlane:
    """A labelled plane at the size that `MaskBatches` learns at, so that large frames need not be kept.

    The foreground is where more than half of a pixel was.
    """
    foreground = (labelled.truth >> FOREGROUND_BIT) & 1
    plane = to_square(labelled.plane, size_px).astype(np.float16)
    truth = (to_square(foreground, size_px) > 0.5).astype(np.uint8) << FOREGROUND_BIT
    return LabelledPlane(plane, truth.astype(np.uint8), labelled.label)


def _warped(plane: NDArray[Any], matrix: NDArray[np.float64], flags: int) -> NDArray[Any]:
    height, width = plane.shape
    return cv2.warpAffine(plane, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
