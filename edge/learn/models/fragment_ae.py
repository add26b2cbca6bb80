"""A fragment autoencoder that can only draw shading: for radiographs, whose defects are small.

System E's network (fragment_cae.py) keeps a grid of numbers and learns absolute grey levels: it redraws
cavities, and another film's exposure is an anomaly to it. Here a fragment's mean is taken out before and put
back after, a few numbers stand for the rest of the whole fragment, and what comes back is drawn on a coarse
grid. A cavity of some pixels cannot pass. It is also several times cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

SIDE_PX = 64  # of a fragment; the latent sees all of it, so it is no other
GRID_PX = 4  # of a cell of the coarse grid
GAIN = 4.0  # on what is left without the mean, so that the layers see about unit variance


@dataclass(frozen=True, slots=True)
class FragmentAeConfig:
    """What the network is built from."""

    channels: tuple[int, int, int] = (32, 64, 128)  # of the levels, at 1/2, 1/4, 1/8 of the size
    latent: int = 8  # numbers for a fragment, besides its mean


class FragmentAe(nn.Module):
    """(n, 1, 64, 64) float → its shading, same shape; not clipped to 0..1."""

    def __init__(self, config: FragmentAeConfig) -> None:
        super().__init__()
        one, two, three = config.channels
        self.down = nn.Sequential(
            nn.AvgPool2d(2), _conv(1, one), nn.MaxPool2d(2), _conv(one, two), nn.MaxPool2d(2),
            _conv(two, three), nn.MaxPool2d(2),
        )  # fmt: skip
        self.squeeze = nn.Conv2d(three, config.latent, 4)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(config.latent, three, 4), nn.LeakyReLU(0.1), _up(three, two), _up(two, one)
        )
        self.head = nn.Conv2d(one, 1, 3, padding=1)
        self.fine = nn.Upsample(scale_factor=GRID_PX, mode="bilinear", align_corners=False)

    def forward(self, tiles: Tensor) -> Tensor:
        mean = tiles.mean((2, 3), keepdim=True)
        x = self.down((tiles - mean) * GAIN)  # (n, 128, 4, 4)
        x = self.squeeze(x)  # (n, 8, 1, 1)
        x = self.head(self.up(x))  # (n, 1, 16, 16)
        answer: Tensor = self.fine(x) / GAIN + mean  # (n, 1, 64, 64)
        return answer


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
    )
