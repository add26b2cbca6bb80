"""The network of the synthetic-anomaly segmenter: a small U-Net that says where a frame is not good.

Ronneberger et al., "U-Net" (2015), with its cost cut: pixels are folded into channels first (Shi et al.,
"Real-time single image super-resolution …", 2016, read backwards), skips are added instead of concatenated,
and a decoder's level has one convolution. It answers at half resolution, which is brought back by linear
interpolation: 11 GFLOP a megapixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

FOLD = 2  # pixels a side that become channels, unless the config says otherwise


@dataclass(frozen=True, slots=True)
class AnomalyUNetConfig:
    """`fold` pixels a side (an even number) become channels; `channels` are at 1/fold, 1/(2 fold), … of the
    size."""

    fold: int = FOLD
    channels: tuple[int, ...] = (16, 32, 64, 96, 128)

    @property
    def multiple_px(self) -> int:
        """Height and width of the tiles are multiples of this."""
        return self.fold << (len(self.channels) - 1)


class AnomalyUNet(nn.Module):
    """(n, 1, h, w) float in 0..1 → logits (n, 1, h/fold, w/fold); sides multiples of `config.fold`."""

    def __init__(self, config: AnomalyUNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.down = nn.ModuleList([_Down(i, o) for i, o in pairwise((config.fold**2, *channels))])
        self.reduce = nn.ModuleList([nn.Conv2d(i, o, 1, bias=False) for o, i in pairwise(channels)])
        self.up = nn.ModuleList([_conv(width, width) for width in channels[:-1]])
        self.head = nn.Conv2d(channels[0], 1, 1)
        nn.init.constant_(self.head.bias, -3.0)  # type: ignore[arg-type]  # anomalies are rare

    @property
    def folded(self) -> nn.Conv2d:
        """The convolution over folded pixels."""
        return cast(nn.Conv2d, cast(_Down, self.down[0]).first[0])

    def forward(self, tiles: Tensor) -> Tensor:
        return self.from_folded(self.folded(nn.functional.pixel_unshuffle(tiles, self.config.fold)))

    def from_folded(self, x: Tensor) -> Tensor:
        """What comes after the convolution over folded pixels."""
        x = cast(_Down, self.down[0]).after_first(x)
        skips = [x]
        for level in list(self.down)[1:]:
            x = level(nn.functional.max_pool2d(x, 2, ceil_mode=True))
            skips.append(x)
        for skip, reduce, level in reversed(list(zip(skips, self.reduce, self.up, strict=False))):
            x = nn.functional.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = level(x[:, :, : skip.shape[2], : skip.shape[3]] + skip)  # odd sides were rounded up
        logits: Tensor = self.head(x)
        return logits


class AnomalyMap(nn.Module):
    """What is exported: probabilities at the tiles' own resolution, from tiles of any size.

    It computes what the network does, by operations that runtimes are quick at and that no size is written
    into: folding pixels and the convolution after it are one convolution with a stride, and interpolation is
    a transposed one.
    """

    def __init__(self, network: AnomalyUNet) -> None:
        super().__init__()
        self.network = network
        self.fold = network.config.fold
        self.fold_weights = nn.Parameter(_strided(network.folded.weight.detach(), self.fold))
        self.kernel = nn.Parameter(_linear(self.fold))

    def forward(self, tiles: Tensor) -> Tensor:
        """(n, 1, h, w) → (n, 1, h, w) in 0..1."""
        folded = nn.functional.conv2d(tiles, self.fold_weights, stride=self.fold, padding=self.fold)
        logits = self.network.from_folded(folded)
        around = nn.functional.pad(
            logits, (1, 1, 1, 1), mode="replicate"
        )  # as interpolation has it at borders
        whole = nn.functional.conv_transpose2d(
            around, self.kernel, stride=self.fold, padding=self.fold + self.fold // 2
        )
        return torch.sigmoid(whole)


def _strided(weight: Tensor, fold: int) -> Tensor:
    """Weights over folded pixels, (out, fold², 3, 3), as those over pixels, (out, 1, 3 fold, 3 fold)."""
    outputs = weight.shape[0]
    split = weight.reshape(outputs, fold, fold, 3, 3)  # channel = row × fold + column
    return split.permute(0, 3, 1, 4, 2).reshape(outputs, 1, 3 * fold, 3 * fold)


def _linear(fold: int) -> Tensor:
    """(1, 1, 2 fold, 2 fold): linear interpolation by an even factor, pixel centres at halves."""
    ramp = (torch.arange(fold) + 0.5) / fold
    sides = torch.cat((ramp, ramp.flip(0)))
    return torch.outer(sides, sides)[None, None]


class _Down(nn.Module):
    """Two convolutions; the second adds to the first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = _conv(inputs, outputs), _conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_first(self.first[0](x))

    def after_first(self, x: Tensor) -> Tensor:
        """What comes after the first convolution."""
        x = self.first[2](self.first[1](x))
        y: Tensor = self.second(x)
        return x + y


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
