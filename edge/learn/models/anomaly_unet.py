"""The network of the synthetic-anomaly segmenter: a small U-Net that says where a frame is not good.

Ronneberger et al., "U-Net" (2015), with its cost cut: pixels are folded into channels first (Shi et al.,
"Real-time single image super-resolution …", 2016, read backwards), skips are added instead of concatenated,
and a decoder's level has one convolution. It answers at half resolution, which is brought back by linear
interpolation: 11 GFLOP a megapixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

FOLD = 2  # pixels a side that become channels, unless the config says otherwise


@dataclass(frozen=True, slots=True)
class AnomalyUNetConfig:
    """`fold` pixels a side become channels; `channels` are those at 1/fold, 1/(2 fold), … of the size."""

    fold: int = FOLD
    channels: tuple[int, ...] = (16, 32, 64, 96, 128)

    @property
    def multiple_px(self) -> int:
        """Height and width of the tiles are multiples of this."""
        return self.fold << (len(self.channels) - 1)


class AnomalyUNet(nn.Module):
    """(n, 1, h, w) float in 0..1 → logits (n, 1, h/fold, w/fold); sides multiples of `config.multiple_px`."""

    def __init__(self, config: AnomalyUNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.down = nn.ModuleList([_Down(i, o) for i, o in pairwise((config.fold**2, *channels))])
        self.reduce = nn.ModuleList([nn.Conv2d(i, o, 1, bias=False) for o, i in pairwise(channels)])
        self.up = nn.ModuleList([_conv(width, width) for width in channels[:-1]])
        self.head = nn.Conv2d(channels[0], 1, 1)
        nn.init.constant_(self.head.bias, -3.0)  # type: ignore[arg-type]  # anomalies are rare

    def forward(self, tiles: Tensor) -> Tensor:
        x = nn.functional.pixel_unshuffle(tiles, self.config.fold)
        skips = []
        for k, level in enumerate(self.down):
            x = level(nn.functional.max_pool2d(x, 2) if k else x)
            skips.append(x)
        for skip, reduce, level in reversed(list(zip(skips, self.reduce, self.up, strict=False))):
            x = nn.functional.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = level(x + skip)
        logits: Tensor = self.head(x)
        return logits


class AnomalyMap(nn.Module):
    """What is exported: probabilities at the tiles' own resolution."""

    def __init__(self, network: AnomalyUNet) -> None:
        super().__init__()
        self.network = network
        self.fold = float(network.config.fold)

    def forward(self, tiles: Tensor) -> Tensor:
        """(n, 1, h, w) → (n, 1, h, w) in 0..1."""
        logits = self.network(tiles)
        whole = nn.functional.interpolate(
            logits, scale_factor=self.fold, mode="bilinear", align_corners=False
        )
        return torch.sigmoid(whole)


class _Down(nn.Module):
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
