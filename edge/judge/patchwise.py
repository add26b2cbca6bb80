"""The patch-wise confusion of system A: a frame judged by the squares of a grid, as its origin did."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.types import FloatImage, Mask

PatchTruth = Literal["any", "majority", "pure"]
"""When a patch of the grid is a defect by the mask: with any defect pixel; with more defect than good pixels;
or only when all of it is, and then mixed patches are not counted at all (the origin's patches)."""

Confusion = tuple[tuple[int, int], tuple[int, int]]
"""((true negatives, false positives), (false negatives, true positives)), as `edge evaluate` gives it."""


def patch_confusion(
    probability: FloatImage, truth: Mask, patch_px: int, threshold: float, *, rule: PatchTruth = "majority"
) -> Confusion:
    """Counts over the whole patches of a grid that begins at the upper left corner.

    `probability` and `truth` are (h, w); a patch is called a defect where the probability at its centre is
    above the threshold. What is left at the right and lower border, less than a patch wide, is not counted.

    Raises:
        ValueError: the shapes differ, or the patch has no size.
    """
    if probability.shape != truth.shape or patch_px < 1:
        raise ValueError(f"map {probability.shape}, truth {truth.shape}, patches of {patch_px} px")
    rows, columns = (length // patch_px for length in truth.shape)
    middle = patch_px // 2
    called = probability[middle::patch_px, middle::patch_px][:rows, :columns] > threshold
    share = _shares(truth[: rows * patch_px, : columns * patch_px], patch_px)
    defect, counted = _judged(share, rule)
    return _count(defect, called, counted)


def _shares(truth: Mask, patch_px: int) -> NDArray[np.float64]:
    """Share of defect pixels of each patch, (rows, columns); sides are multiples of the patch."""
    rows, columns = (length // patch_px for length in truth.shape)
    shares: NDArray[np.float64] = truth.reshape(rows, patch_px, columns, patch_px).mean(axis=(1, 3))
    return shares


def _judged(share: NDArray[np.float64], rule: PatchTruth) -> tuple[Mask, Mask]:
    """(is a defect, is counted), each (rows, columns)."""
    if rule == "pure":
        return share == 1, (share == 0) | (share == 1)
    return share > (0 if rule == "any" else 0.5), np.ones(share.shape, bool)


def _count(defect: Mask, called: Mask, counted: Mask) -> Confusion:
    cells = [
        [int((counted & (defect == d) & (called == c)).sum()) for c in (False, True)] for d in (False, True)
    ]
    (tn, fp), (fn, tp) = cells
    return (tn, fp), (fn, tp)
