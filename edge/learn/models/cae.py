"""The convolutional autoencoder of system B: 320-px tiles through a latent space too narrow for a defect.

Thirty-one layers: five levels of two 3×3 convolutions (10) with pooling between them (4), a dropout at the
bottom (1), a 1×1 latent of 100-25-100 (3), four levels of a transposed and two plain convolutions back up
(12), and the 1×1 convolution to grey (1). Every size that is a multiple of 16 goes through.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class CaeConfig:
    """What the network is built from."""

    channels: tuple[int, ...] = (16, 32, 64, 128, 256)  # of the levels, at 1, 1/2, 1/4, 1/8, 1/16 of the size
    latent: tuple[int, ...] = (100, 25, 100)
    dropout: float = 0.1


class Cae(nn.Module):
    """(n, 1, h, w) float in 0..1 → its reconstruction, same shape."""

    def __init__(self, config: CaeConfig) -> None:
        super().__init__()
        channels, latent = config.channels, config.latent
        self.down = nn.ModuleList([_level(i, o) for i, o in pairwise((1, *channels))])
        self.dropout = nn.Dropout2d(config.dropout)
        self.latent = nn.Sequential(*[_point(i, o) for i, o in pairwise((channels[-1], *latent))])
        above = tuple(reversed(channels[:-1]))  # 128, 64, 32, 16
        self.up = nn.ModuleList([_level_up(i, o) for i, o in pairwise((latent[-1], *above))])
        self.head = nn.Conv2d(above[-1], 1, 1)

    def forward(self, tiles: Tensor) -> Tensor:
        x = self.down[0](tiles)  # (n, 16, h, w)
        for level in self.down[1:]:
            x = level(nn.functional.max_pool2d(x, 2))  # (n, 32, h/2, w/2) … (n, 256, h/16, w/16)
        x = self.latent(self.dropout(x))  # (n, 100, h/16, w/16), through 25 channels
        for level in self.up:
            x = level(x)  # (n, 128, h/8, w/8) … (n, 16, h, w)
        return torch.sigmoid(self.head(x))  # (n, 1, h, w)


def _level(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs), _conv(outputs, outputs))


def _level_up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 2, stride=2), _conv(outputs, outputs), _conv(outputs, outputs)
    )


def _point(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.LeakyReLU(0.1))


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)
    )
