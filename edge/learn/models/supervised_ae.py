"""The supervised autoencoder of system D: one latent that redraws the frame and tells good from defect.

Reconstruction keeps the latent from fitting a few defects by heart (Le, Patterson & White, "Supervised
autoencoders", NeurIPS 2018). Two views of a learned network are exported: `Evidence`, which is what a bundle
holds, and `Explain`, from which class activation maps are computed without torch (`edge.judge.cam`). Both
need the gradient of the logit; the head is small enough to write it down, so the graph is all they need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.errors import DataError
from edge.learn.datasets import Plane16

# Where all evidence in a frame is below this (in log-odds), it is noise: the map is then flat
LEAST_EVIDENCE = 1e-3
LEAST_STD = 1e-3  # of the training planes; flat frames are not blown up


@dataclass(frozen=True, slots=True)
class SupervisedAeConfig:
    """What the network is built from."""

    size_px: int = 256  # of the frame, a square
    channels: tuple[int, ...] = (8, 16, 32, 64, 64)  # of the levels, at 1/2, 1/4, 1/8 … of the size
    latent: int = 32  # channels of the last feature map
    hidden: int = 32  # of the classifier
    sharpness: float = 2.0  # of the soft maximum; 0 would be the mean
    dropout: float = 0.2


# As many pixels as the origin's, half the channels. Trials at 64, 96 and 128 px had a higher validation loss
# (solder joints of 8 to 281 px); on the frames set aside 128 px judged as well
SMALL = SupervisedAeConfig()
ORIGIN = SupervisedAeConfig(size_px=256, channels=(16, 32, 64, 128, 256), latent=64, hidden=64)


class SupervisedAe(nn.Module):
    """(n, 1, s, s) float in 0..1 → its reconstruction, same shape, and the log-odds of a defect, (n,)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: SupervisedAeConfig) -> None:
        super().__init__()
        self.config = config
        widths = (1, *config.channels)
        self.down = nn.Sequential(*[_down(i, o) for i, o in pairwise(widths)])
        self.latent = nn.Sequential(_conv(config.channels[-1], config.latent, 1), nn.ReLU())
        ups = (config.latent, *(width // 2 for width in reversed(config.channels)))
        self.up = nn.Sequential(*[_up(i, o) for i, o in pairwise(ups)])
        self.draw = nn.Conv2d(ups[-1], 1, 3, padding=1)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Linear(2 * config.latent, config.hidden)
        self.logit = nn.Linear(config.hidden, 1)
        self.register_buffer("mean", torch.tensor(0.5))
        self.register_buffer("std", torch.tensor(0.25))

    def normalise_by(self, mean: float, std: float) -> None:
        """Take in the training planes' mean and standard deviation; the graph needs nothing beside it."""
        self.mean.fill_(mean)
        self.std.fill_(max(std, LEAST_STD))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        activations = self.encode(frames)
        return torch.sigmoid(self.draw(self.up(activations))), self.classify(activations)

    def encode(self, frames: Tensor) -> Tensor:
        """The last feature map ≥ 0, (n, k, h, w): 8×8 for SMALL and ORIGIN."""
        x: Tensor = self.latent(self.down((frames - self.mean) / self.std))
        return x

    def classify(self, activations: Tensor) -> Tensor:
        """Log-odds of a defect, (n,), from the feature map (n, k, h, w)."""
        hidden = torch.relu(self.hidden(self.dropout(self._pool(activations))))
        return self.logit(hidden).squeeze(1)  # type: ignore[no-any-return]  # torch's own gap

    def gradients(self, activations: Tensor) -> Tensor:
        """∂ log-odds / ∂ activations, (n, k, h, w), written out: no autograd, so it can be exported.

        Chain rule through Linear, ReLU, Linear and the two poolings; dropout is taken to be off.
        """
        pooled = self._pool(activations)
        alive = (self.hidden(pooled) > 0).to(pooled.dtype)  # (n, hidden)
        of_mean, of_peak = torch.chunk((alive * self.logit.weight) @ self.hidden.weight, 2, dim=1)
        pixels = activations.shape[2] * activations.shape[3]
        share = torch.softmax(self.config.sharpness * activations.flatten(2), 2).reshape(activations.shape)
        return of_mean[:, :, None, None] / pixels + of_peak[:, :, None, None] * share

    def _pool(self, activations: Tensor) -> Tensor:
        """(n, 2k): mean over the map, and its soft maximum, which a small defect moves too.

        log-mean-exp as in Pinheiro & Collobert, "From image-level to pixel-level labeling with convolutional
        networks", CVPR 2015; the maximum is taken out of the exponent, so nothing overflows.
        """
        flat, r = activations.flatten(2), self.config.sharpness
        highest = flat.amax(2)
        peak = highest + torch.log(torch.exp(r * (flat - highest[:, :, None])).mean(2)) / r
        return torch.cat([flat.mean(2), peak], 1)


class Evidence(nn.Module):
    """(n, 1, s, s) in 0..1 → where the network sees a defect, (n, 1, s, s) in 0..1; its maximum is exactly p.

    E = p · (U + ε) / (max U + ε): p the frame's defect probability, U the class activation map
    ReLU(Σₖ Gₖ ⊙ Aₖ) (HiResCAM: Draelos & Carin, arXiv:2011.08891) brought to the frame's size bilinearly, in
    log-odds. Where nothing speaks for a defect, U is 0 and E is p all over.
    """

    def __init__(self, network: SupervisedAe) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles: Tensor) -> Tensor:
        activations = self.network.encode(tiles)  # (n, k, h, w)
        probability = torch.sigmoid(self.network.classify(activations))[:, None, None, None]
        gradients = self.network.gradients(activations)
        coarse = torch.relu((gradients * activations).sum(1, keepdim=True))  # (n, 1, h, w)
        size = list(tiles.shape[2:])
        fine = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        return probability * (fine + LEAST_EVIDENCE) / (fine.amax((2, 3), keepdim=True) + LEAST_EVIDENCE)


class Explain(nn.Module):
    """(n, 1, s, s) in 0..1 → the last feature map, and the log-odds' gradient in it, (n, k, h, w) each."""

    def __init__(self, network: SupervisedAe) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        activations = self.network.encode(tiles)
        return activations, self.network.gradients(activations)


def normalisation(planes: Sequence[Plane16]) -> tuple[float, float]:
    """Mean and standard deviation over all pixels of planes in 0..1.

    Raises:
        DataError: no planes.
    """
    if not planes:
        raise DataError("no frames to take the mean and standard deviation of", reason="no_frames")
    pixels = sum(plane.size for plane in planes)
    mean = sum(float(plane.sum(dtype=np.float64)) for plane in planes) / pixels
    square = sum(float(np.square(plane, dtype=np.float64).sum()) for plane in planes) / pixels
    return mean, math.sqrt(max(0.0, square - mean * mean))


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(inputs, outputs, 3, stride=2), nn.ReLU(), _conv(outputs, outputs, 3), nn.ReLU()
    )


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
