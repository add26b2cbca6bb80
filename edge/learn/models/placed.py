"""What a map usually is at each place of frames that always show the same scene.

A network that knows no places is unsure of the same things in every good frame: the end of a bar, a corner.
Taken off place by place, what is left is news. Places are only damped: one that is usually quieter than most
is treated as most are, since it may be chance that a few frames were quiet there. Frames of several sorts
(views, variants) have a usual map each; a place may be usual in any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.learn.labels import LabelledPlane
from edge.learn.models.sorts import sorts_of

SMOOTH_PX = 3.0  # σ, of what is usual: the scene may lie a little beside where it lay
LEAST_SPREAD = 1e-3  # of log-odds: maps that never vary are not divided by nothing


class UsualMap(nn.Module):
    """(n, 1, h, w) maps of one size → how far each place is above what is usual, in standard deviations.

    Usual is what is usual at most places (their median), or at that place if that is more; so is the standard
    deviation. The least over the sorts of frames. Before `fit` it changes nothing.
    """

    mean: Tensor  # (sorts, h, w)
    spread: Tensor

    def __init__(self, side_px: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, side_px, side_px))
        self.register_buffer("spread", torch.ones(1, side_px, side_px))

    def forward(self, maps: Tensor) -> Tensor:
        return ((maps - self.mean) / self.spread).amin(1, keepdim=True)

    def fit(
        self,
        apply: Callable[[Tensor], Tensor],
        planes: Sequence[LabelledPlane],
        most_sorts: int,
        seed: int,
    ) -> None:
        """Learn what is usual in the maps that `apply` makes of good planes of this size, one at a time."""
        found = [self._usual(apply, of) for of in sorts_of(planes, most_sorts, seed)]
        self.mean = torch.from_numpy(np.stack([mean for mean, _ in found]))
        self.spread = torch.from_numpy(np.stack([spread for _, spread in found]))

    def _usual(
        self, apply: Callable[[Tensor], Tensor], planes: Sequence[LabelledPlane]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        total = np.zeros(self.mean.shape[1:], np.float64)
        squares = np.zeros_like(total)
        with torch.no_grad():
            for labelled in planes:
                found = apply(torch.from_numpy(labelled.plane.astype(np.float32))[None, None])[0, 0].numpy()
                total += found
                squares += np.square(found, dtype=np.float64)
        mean = total / len(planes)
        bessel = len(planes) / max(1, len(planes) - 1)
        spread = _smooth(np.sqrt(np.maximum(squares / len(planes) - mean * mean, 0) * bessel))
        usual = _smooth(mean)
        pooled = max(LEAST_SPREAD, math.sqrt(float(np.square(spread).mean())))
        return np.maximum(usual, np.median(usual)), np.maximum(spread, np.float32(pooled))


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), SMOOTH_PX), np.float32)
