"""U-Nets: masks of system B, the four defect classes of system C, and a small one for thin defects.

One network under one config; the origins' two keep their own widths, activations and dropout.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015); the residual
blocks of `SMALL` are those of He et al., "Identity Mappings in Deep Residual Networks" (2016), in the order
convolution, normalisation, activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["relu", "elu", "silu"]
Up = Literal["transposed", "bilinear"]


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """What the network is built from; it has as many levels as `channels`."""

    channels: tuple[int, ...]  # at 1, 1/2, 1/4, … of the size
    dropout: tuple[float, ...]  # of each level, down and up; 0 for none
    classes: int = 1
    activation: Activation = "relu"
    normalised: bool = False  # batch norm after each convolution
    residual: bool = False  # each level's second convolution adds to what the first gave
    up: Up = "transposed"

    @property
    def multiple_px(self) -> int:
        """Height and width of the tiles are multiples of this."""
        return 1 << (len(self.channels) - 1)


# system B: 16 … 256 filters, dropout 0.1–0.3, 512×512 frames, one mask
MASKS = UNetConfig(channels=(16, 32, 64, 128, 256), dropout=(0.1, 0.1, 0.2, 0.2, 0.3))
# system C: 8 … 128 filters, ELU, 256×1600 frames, four classes that may overlap
STEEL = UNetConfig(
    channels=(8, 16, 32, 64, 128), dropout=(0.1, 0.1, 0.2, 0.2, 0.3), classes=4, activation="elu"
)
# ours: six levels see 200 px and more around a pixel, which tells a hair crack from a scratch or an edge
SMALL = UNetConfig(
    channels=(16, 32, 48, 64, 96, 128),
    dropout=(0.0, 0.0, 0.0, 0.0, 0.1, 0.2),
    activation="silu",
    normalised=True,
    residual=True,
    up="bilinear",
)


class UNet(nn.Module):
    """(n, 1, h, w) float in 0..1 → logits (n, classes, h, w); h and w multiples of `config.multiple_px`."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels, dropout = config.channels, config.dropout
        if len(dropout) != len(channels):
            raise ValueError(f"{len(dropout)} dropouts for {len(channels)} levels")
        self.config = config
        self.down = nn.ModuleList(
            [_Level(i, o, p, config) for (i, o), p in zip(pairwise((1, *channels)), dropout, strict=True)]
        )
        above = list(pairwise(reversed(channels)))  # (256, 128), (128, 64), …
        self.grow = nn.ModuleList([_doubled(i, o, config.up) for i, o in above])
        self.up = nn.ModuleList(
            [_Level(2 * o, o, p, config) for (_, o), p in zip(above, reversed(dropout[:-1]), strict=True)]
        )
        self.head = nn.Conv2d(channels[0], config.classes, 1)

    def forward(self, tiles: Tensor) -> Tensor:
        x = self.down[0](tiles)  # (n, 16, h, w)
        skips = []
        for level in self.down[1:]:
            skips.append(x)
            x = level(nn.functional.max_pool2d(x, 2))  # (n, 32, h/2, w/2) … (n, 256, h/16, w/16)
        for grow, level, skip in zip(self.grow, self.up, reversed(skips), strict=True):
            x = level(torch.cat((grow(x), skip), 1))  # (n, 128, h/8, w/8) … (n, 16, h, w)
        logits: Tensor = self.head(x)
        return logits


class Probabilities(nn.Module):
    """What is exported: a network that answers logits, with the sigmoid that makes them probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles: Tensor) -> Tensor:
        """(n, 1, h, w) → (n, classes, h, w) in 0..1; classes may overlap, so they need not sum to 1."""
        return torch.sigmoid(self.network(tiles))


class _Level(nn.Module):
    """Two 3×3 convolutions with dropout between them."""

    def __init__(self, inputs: int, outputs: int, dropout: float, config: UNetConfig) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, config)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.second = _conv(outputs, outputs, config)
        self.residual = config.residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = self.second(self.dropout(x))
        return x + y if self.residual else y


def _conv(inputs: int, outputs: int, config: UNetConfig) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not config.normalised)
    _initialise(convolution)
    normalisation = [nn.BatchNorm2d(outputs)] if config.normalised else []
    return nn.Sequential(convolution, *normalisation, _activation(config.activation))


def _initialise(convolution: nn.Conv2d) -> None:
    """He et al. (2015): without it nets that are not normalised answer nearly nothing at first."""
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def _activation(name: Activation) -> nn.Module:
    kinds: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}
    return kinds[name]()


def _doubled(inputs: int, outputs: int, up: Up) -> nn.Module:
    """Twice the height and width. Bilinear leaves no checkerboard in thin structures."""
    if up == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    )
