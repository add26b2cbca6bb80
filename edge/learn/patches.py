"""Patches of labelled planes, half of them defects: what the patch classifier of system A learns from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge.errors import DataError
from edge.learn.datasets import mirrored
from edge.learn.fit import Batch
from edge.learn.labels import LabelledPlane
from edge.types import FloatImage, Mask

PatchRule = Literal["pure", "centre"]
"""Which patches are learned, and as what: those that are all good or all defect, as the origin did; or any,
by their centre pixel, so that the borders of defects are learned too."""

POSITIONS = 1 << 22  # kept of all planes together, at 4 bytes each
LEAST_POSITIONS = 256  # kept of a plane and class, however many planes there are


@dataclass(frozen=True, slots=True)
class PatchAugmentation:
    """How patches are varied; ranges are symmetric about "as it is", and every value in them is as likely."""

    flips: bool = True
    rotation_deg: float = 180.0
    zoom: float = 0.15  # relative
    shear_deg: float = 10.0
    warped: float = 0.5  # share of patches; the others stay sharp, as inspection will see them

    def reach(self) -> float:
        """Side of what a warped patch is cut from, relative to the patch."""
        turned = math.sqrt(2) if self.rotation_deg else 1.0
        return turned * (1 + self.zoom) * (1 + math.tan(math.radians(self.shear_deg)))


AS_IT_IS = PatchAugmentation(flips=False, rotation_deg=0, zoom=0, shear_deg=0, warped=0)
"""No augmentation: for validation."""


class PatchBatches:
    """Random patches with labels; which ones depends on nothing but the seed and the step.

    Half of a batch are defects, drawn evenly over the frames that have any, then over their pixels; the other
    half is drawn alike from the good pixels. A patch may lie wherever inspection judges one, so that borders
    are mirrored. By the rule "pure" the patch is pure before it is warped; its turned corners may not be.

    Of each plane a random choice of positions is kept, never a list of all.

    Raises:
        DataError: no patch of one of the two classes.
    """

    def __init__(
        self,
        planes: Sequence[LabelledPlane],
        patch_px: int,
        batch: int,
        *,
        rule: PatchRule = "centre",
        augmentation: PatchAugmentation = AS_IT_IS,
        seed: int = 0,
    ) -> None:
        self.planes, self.patch_px, self.batch = planes, patch_px, batch
        self.augmentation, self.seed = augmentation, seed
        limit = max(LEAST_POSITIONS, POSITIONS // (2 * max(1, len(planes))))
        rng = np.random.default_rng((seed, len(planes)))
        self._good: list[tuple[int, NDArray[np.int32]]] = []
        self._defect: list[tuple[int, NDArray[np.int32]]] = []
        for index, plane in enumerate(planes):
            good, defect = conforming(plane.truth != 0, patch_px, rule)
            for found, kept in ((good, self._good), (defect, self._defect)):
                if len(positions := _some(found, limit, rng)):
                    kept.append((index, positions))
        for name, kept in (("good", self._good), ("defect", self._defect)):
            if not kept:
                raise DataError(
                    f"no {patch_px}×{patch_px} patch of {len(planes)} frames is {name} by the rule {rule!r}",
                    hint='use the rule "centre", or smaller patches'
                    if rule == "pure"
                    else "look at the masks",
                    reason="no_patches",
                )

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The step's patches, (batch, 1, patch, patch) float32 in 0..1, and labels (batch,), 1 = defect."""
        rng = np.random.default_rng((self.seed, step))
        labels = (np.arange(self.batch) % 2).astype(np.float32)
        patches = np.empty((self.batch, 1, self.patch_px, self.patch_px), np.float32)
        for k, label in enumerate(labels):
            kept = self._defect if label else self._good
            index, positions = kept[rng.integers(len(kept))]
            plane = self.planes[index].plane
            y, x = divmod(int(positions[rng.integers(len(positions))]), plane.shape[1])
            patches[k, 0] = self._patch(plane, y, x, rng)
        return torch.from_numpy(patches), torch.from_numpy(labels)

    def _patch(self, plane: NDArray[np.float16], y: int, x: int, rng: np.random.Generator) -> FloatImage:
        spec, side = self.augmentation, self.patch_px
        if rng.random() >= spec.warped:
            patch = cut(plane, y, x, side)
        else:
            wide = cut(plane, y, x, 2 * math.ceil(side * spec.reach() / 2) + 1)
            patch = warped(wide, side, _matrix(spec, rng))
        if spec.flips:
            patch = patch[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        return patch


def patch_loss(answers: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy of logits (n,) against the labels (n,) of `(patches, labels)`, as a scalar."""
    return functional.binary_cross_entropy_with_logits(answers, batch[1])


def conforming(defect: Mask, patch_px: int, rule: PatchRule) -> tuple[Mask, Mask]:
    """Where a good patch may be centred, and where a defect; each (h, w) bool, borders mirrored."""
    if rule == "centre":
        return ~defect, defect
    square = np.ones((patch_px, patch_px), np.uint8)
    truth = defect.astype(np.uint8)
    all_defect = cv2.erode(truth, square, borderType=cv2.BORDER_REFLECT_101)
    any_defect = cv2.dilate(truth, square, borderType=cv2.BORDER_REFLECT_101)
    return any_defect == 0, all_defect == 1


def cut(plane: NDArray[np.float16], y: int, x: int, side: int) -> FloatImage:
    """The (side, side) float32 square about a pixel, side odd; mirrored where it reaches over the border."""
    top, left = y - side // 2, x - side // 2
    height, width = plane.shape
    if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        return plane[top : top + side, left : left + side].astype(np.float32)
    rows, columns = (
        mirrored(np.arange(start, start + side), n) for start, n in ((top, height), (left, width))
    )
    return plane[np.ix_(rows, columns)].astype(np.float32)


def warped(square: FloatImage, side: int, matrix: NDArray[np.float64]) -> FloatImage:
    """The (side, side) patch whose pixel at r from its centre is the square's at `matrix @ r` from its own.

    (x, y) in pixels, bilinear; the caller sees to it that the square is large enough.
    """
    shift = square.shape[0] // 2 - matrix @ np.full(2, side // 2)
    return cv2.warpAffine(  # type: ignore[return-value]  # float32 in, float32 out
        square, np.column_stack([matrix, shift]), (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip


def _matrix(spec: PatchAugmentation, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rotation · shear · zoom, (2, 2)."""
    angle = math.radians(spec.rotation_deg) * rng.uniform(-1, 1)
    shear = math.tan(math.radians(spec.shear_deg) * rng.uniform(-1, 1))
    zoom = 1 + spec.zoom * rng.uniform(-1, 1)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix: NDArray[np.float64] = zoom * turn @ np.array([[1.0, shear], [0.0, 1.0]])
    return matrix


def _some(where: Mask, limit: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """At most so many positions, flat indices, all as likely."""
    positions = np.flatnonzero(where).astype(np.int32)
    return positions if len(positions) <= limit else rng.choice(positions, limit, replace=False)
