"""Restoration in the frequency domain: a U-Net redraws a window of which it sees only the fine detail.

After Liu et al., "FAIR: Frequency-aware image restoration for industrial visual anomaly detection",
arXiv:2309.07068 (2023). What is taken away, grey level and slow changes, is what the detail of good texture
foretells and the detail of a fault does not; so faults cannot simply be copied through, as a U-Net with
skips would otherwise do. The residual is taken of the whole window, not of its detail.

The network is as thin as the synthetic-anomaly segmenter's (11 GFLOP per Mpx): pixels folded into channels,
skips added, one convolution a level on the way up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FOLD = 2  # pixels a side that become channels
DESIGN_PX = 256  # of the grid that the filter's weights are computed on


@dataclass(frozen=True, slots=True)
class FrequencyUNetConfig:
    """What the network is built from."""

    channels: tuple[int, ...] = (16, 32, 64, 96, 128)  # at 1/2, 1/4, 1/8, … of the size
    cutoff: float = 30 / 256  # cycles per pixel, where half of the amplitude passes
    order: int = 2  # of the Butterworth filter
    filter_px: int = 21  # side of its weights; odd

    @property
    def multiple_px(self) -> int:
        """Height and width of the tiles are multiples of this."""
        return FOLD << (len(self.channels) - 1)


class FrequencyUNet(nn.Module):
    """(n, 1, h, w) float in 0..1 → its restoration, same shape; h, w multiples of `config.multiple_px`."""

    def __init__(self, config: FrequencyUNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.detail = HighPass(config)
        self.down = nn.ModuleList([_Level(i, o) for i, o in pairwise((FOLD * FOLD, *channels))])
        self.reduce = nn.ModuleList([nn.Conv2d(i, o, 1, bias=False) for o, i in pairwise(channels)])
        self.up = nn.ModuleList([_conv(width, width) for width in channels[:-1]])
        self.head = nn.Conv2d(channels[0], FOLD * FOLD, 3, padding=1)

    def forward(self, tiles: Tensor) -> Tensor:
        x = nn.functional.pixel_unshuffle(self.detail(tiles) / DETAIL_STD, FOLD)  # (n, 4, h/2, w/2)
        skips = []
        for k, level in enumerate(self.down):
            x = level(nn.functional.max_pool2d(x, 2) if k else x)  # (n, 16, h/2, w/2) … (n, 128, h/32, w/32)
            skips.append(x)
        for skip, reduce, level in reversed(list(zip(skips, self.reduce, self.up, strict=False))):
            x = nn.functional.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = level(x + skip)
        return torch.sigmoid(nn.functional.pixel_shuffle(self.head(x), FOLD))


# About that of textures; it only brings the input to the order of 1 that the first layer's weights expect
DETAIL_STD = 0.1


class HighPass(nn.Module):
    """(n, 1, h, w) → what passes a Butterworth high-pass, same shape, around 0; borders mirrored.

    One convolution with fixed weights: the same in learning and in the exported graph, at every tile size.
    """

    weights: Tensor

    def __init__(self, config: FrequencyUNetConfig) -> None:
        super().__init__()
        kernel = highpass_weights(config.cutoff, config.order, config.filter_px)
        self.register_buffer("weights", torch.from_numpy(kernel.astype(np.float32))[None, None])

    def forward(self, tiles: Tensor) -> Tensor:
        half = self.weights.shape[-1] // 2
        padded = nn.functional.pad(tiles, (half, half, half, half), mode="reflect")
        return nn.functional.conv2d(padded, self.weights)


def butterworth(frequency: NDArray[np.float64], cutoff: float, order: int) -> NDArray[np.float64]:
    """How much of an amplitude passes, 1 / (1 + (cutoff / f)^2n); both in cycles per pixel; 0 at f = 0.

    Gonzalez & Woods, "Digital Image Processing", 4th ed. (2018), section 4.9.
    """
    powered = frequency ** (2 * order)
    return powered / (powered + cutoff ** (2 * order))


@lru_cache(maxsize=4)
def highpass_weights(cutoff: float, order: int, side_px: int) -> NDArray[np.float64]:
    """(side, side) weights whose sum is 0: the filter's impulse response, cut off around its centre.

    Of 21 px at 30/256 cycles per pixel and order 2 the response differs from the formula's by at most 0.01.
    """
    if side_px % 2 == 0 or side_px >= DESIGN_PX:
        raise ValueError(f"side_px must be odd and below {DESIGN_PX}, not {side_px}")
    along = np.fft.fftfreq(DESIGN_PX)
    response = butterworth(np.hypot(along[:, None], along[None, :]), cutoff, order)
    low = np.fft.fftshift(np.fft.ifft2(1 - response).real)
    centre, half = DESIGN_PX // 2, side_px // 2
    inside = slice(centre - half, centre + half + 1)
    kernel: NDArray[np.float64] = -low[inside, inside] / low[inside, inside].sum()
    kernel[half, half] += 1
    return kernel


class _Level(nn.Module):
    """Two convolutions; the second adds to the first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs), _conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = self.second(x)
        return x + y


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
