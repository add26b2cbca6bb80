"""What the autoencoders minimise: the very measures that the judge later takes of their residual."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge.judge.statistics import SSIM_C1, SSIM_C2, SSIM_SIGMA_PX, SSIM_WINDOW_PX

LossName = Literal["l2", "ssim", "ssim+l2"]

# Weight of the squared residual beside SSIM: enough to hold the grey level where SSIM is blind (flat regions)
L2_WEIGHT = 1.0


def reconstruction_loss(kind: LossName, tiles: Tensor, answers: Tensor) -> Tensor:
    """Mean loss over (n, 1, h, w) tiles and answers in 0..1, as a scalar."""
    if kind == "l2":
        return functional.mse_loss(answers, tiles)
    loss = dissimilarity(tiles, answers).mean()
    if kind == "ssim+l2":
        loss = loss + L2_WEIGHT * functional.mse_loss(answers, tiles)
    return loss


def dissimilarity(x: Tensor, y: Tensor) -> Tensor:
    """(1 − SSIM)/2 per pixel of (n, 1, h, w) float32, as `edge.judge.statistics.dissimilarity` gives it.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    mean_x, mean_y = _window(x), _window(y)
    variance_x = _window(x * x) - mean_x * mean_x
    variance_y = _window(y * y) - mean_y * mean_y
    covariance = _window(x * y) - mean_x * mean_y
    ssim: Tensor = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    ssim = ssim / ((mean_x * mean_x + mean_y * mean_y + SSIM_C1) * (variance_x + variance_y + SSIM_C2))
    return ((1 - ssim) * 0.5).clamp(0.0, 1.0)


def _window(values: Tensor) -> Tensor:
    """Gaussian means over 11×11 of (n, 1, h, w), borders mirrored as OpenCV's REFLECT_101.

    As two matrix products: several times faster on a CPU than convolving one channel.
    """
    height, width = values.shape[-2:]
    return _blur_matrix(height).to(values) @ values @ _blur_matrix(width).to(values).T


@lru_cache(maxsize=8)
def _blur_matrix(length: int) -> Tensor:
    """(length, length): row i holds the weights of the samples around i, mirrored at both ends."""
    half = SSIM_WINDOW_PX // 2
    offsets = np.arange(-half, half + 1)
    weights = np.exp(-(offsets**2) / (2 * SSIM_SIGMA_PX**2))
    matrix = np.zeros((length, length))
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        at = np.abs(np.arange(length) + offset)
        at = np.where(at >= length, 2 * (length - 1) - at, at)
        np.add.at(matrix, (np.arange(length), at), weight)
    return torch.from_numpy(matrix.astype(np.float32))
