"""The convolutional autoencoder of system E: 64×64 fragments at half steps, for wide films.

Three levels of 32-64-128 channels with pooling, a latent narrower than the fragment, and the way back up.
Without the narrow latent 8×8×128 numbers would hold the 64×64 pixels twice over, defects included.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class FragmentCaeConfig:
    """What the network is built from."""

    channels: tuple[int, ...] = (32, 64, 128)  # of the levels, at 1, 1/2, 1/4 of the size
    latent: int = 8  # channels at 1/8: 8×8×8 numbers for 64×64 pixels


class FragmentCae(nn.Module):
    """(n, 1, h, w) float in 0..1 → its reconstruction, same shape; h and w multiples of 8."""

    def __init__(self, config: FragmentCaeConfig) -> None:
        super().__init__()
        self.down = nn.Sequential(*[_down(i, o) for i, o in pairwise((1, *config.channels))])
        self.latent = nn.Conv2d(config.channels[-1], config.latent, 1)
        widths = (config.latent, *reversed(config.channels))
        self.up = nn.Sequential(*[_up(i, o) for i, o in pairwise(widths)])
        self.head = nn.Conv2d(config.channels[0], 1, 3, padding=1)

    def forward(self, tiles: Tensor) -> Tensor:
        x = self.down(tiles)  # (n, 128, h/8, w/8)
        x = self.latent(x)  # (n, 8, h/8, w/8)
        x = self.up(x)  # (n, 32, h, w)
        return torch.sigmoid(self.head(x))  # (n, 1, h, w)


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(2),
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
    )
