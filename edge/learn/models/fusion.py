"""Several networks on the same tile, their maps made comparable and fused into one: one exported graph.

What one method misses another may find, but their maps have different units. Each is first brought to a scale
on which it is 0 where half of the good pixels are and 1 where one in a hundred is above, which a member's few
odd pixels do not move; then the members are added, or the loudest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.errors import DataError
from edge.judge.statistics import SSIM_C1, SSIM_C2, SSIM_SIGMA_PX, SSIM_WINDOW_PX
from edge.learn.datasets import Plane16, Windows
from edge.learn.labels import LabelledPlane
from edge.learn.models import features
from edge.learn.models.anomaly_unet import AnomalyMap, AnomalyUNet
from edge.learn.models.features import FeatureDistance
from edge.learn.models.placed import UsualMap
from edge.preprocess import TileSpec

Answer = Literal["probability", "distance", "l2", "ssim"]
"""What a member's answer is: a map in 0..1 (`probability`, `distance`), or a reconstruction, whose residual
is taken in the graph as `edge.judge.statistics` takes it."""

Rule = Literal["log-odds", "mean", "max"]
"""`log-odds`: the mean of the members' standardised log-odds (of which the sum differs by a factor), `mean`:
of their probabilities after that, `max`: the member that is surest of a defect."""

LEAST = 1e-6  # of a map, before its logarithm
MIDDLE, HIGH = 0.5, 0.99  # quantiles of good pixels that become 0 and 1
LEAST_SPREAD = 0.05  # between them, in a member's units: what is the same everywhere is not blown up
UNDECIDED = 3.0  # on that scale the fused map says 1/2: far beyond good pixels
PLACED_SMOOTH_PX = 2.0  # σ, of a U-Net's map before what is usual at a place is taken off
WINDOWS, BATCH = 32, 4  # good windows that the quantiles are taken of
PIXELS = 4096  # of each


@dataclass(frozen=True, slots=True)
class Member:
    """A network that is exported within the fusion, and how its answer is read."""

    network: nn.Module  # (n, 1, h, w) in 0..1 → (n, 1, h, w)
    answer: Answer
    smooth_px: float = 0.0  # σ of a Gaussian over its map, before the logarithm
    weight: float = 1.0  # in `log-odds` and `mean`
    usual: UsualMap | None = None  # taken off, where frames always show the same scene


class Fusion(nn.Module):
    """(n, 1, h, w) float in 0..1 → how little all members together think it good, (n, 1, h, w) in 0..1.

    For `ScoreSpec(map="probability")`, though no probability: 1/2 is where the fused map is three times as
    far above the middle of good pixels as their highest hundredth.
    """

    middle: Tensor
    spread: Tensor
    weights: Tensor

    def __init__(self, members: Sequence[Member], rule: Rule = "log-odds") -> None:
        super().__init__()
        if not members:
            raise ValueError("a fusion needs members")
        self.rule = rule
        self.maps = nn.ModuleList([MemberMap(member) for member in members])
        weights = torch.tensor([member.weight for member in members])
        self.register_buffer("weights", weights / weights.sum())
        self.register_buffer("middle", torch.zeros(len(members)))
        self.register_buffer("spread", torch.ones(len(members)))

    def forward(self, tiles: Tensor) -> Tensor:
        z = (self.raw(tiles) - self.middle[:, None, None]) / self.spread[:, None, None]
        weights = self.weights[:, None, None]
        if self.rule == "max":
            return torch.sigmoid(z.amax(1, keepdim=True) - UNDECIDED)
        if self.rule == "mean":
            return (weights * torch.sigmoid(z - UNDECIDED)).sum(1, keepdim=True)
        return torch.sigmoid((weights * z).sum(1, keepdim=True) - UNDECIDED)

    def raw(self, tiles: Tensor) -> Tensor:
        """The members' maps in log-odds (residuals: logarithms), (n, members, h, w)."""
        return torch.cat([member(tiles) for member in self.maps], 1)


class MemberMap(nn.Module):
    """A member's answer as an anomaly map in log-odds, or the logarithm of its residual."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.network = member.network
        self.answer = member.answer
        self.smooth = GaussianBlur(member.smooth_px) if member.smooth_px > 0 else nn.Identity()
        self.window = GaussianBlur(SSIM_SIGMA_PX, SSIM_WINDOW_PX)
        self.usual = member.usual or nn.Identity()

    def forward(self, tiles: Tensor) -> Tensor:
        found: Tensor = self.usual(self.plain(tiles))
        return found

    def plain(self, tiles: Tensor) -> Tensor:
        """Before what is usual is taken off."""
        answer = self.network(tiles)
        if self.answer == "l2":
            return torch.log(self.smooth((answer - tiles).square()).clamp(min=LEAST))
        if self.answer == "ssim":
            return torch.log(self.smooth(self.dissimilarity(tiles, answer)).clamp(min=LEAST))
        p = self.smooth(answer).clamp(LEAST, 1 - LEAST)
        return torch.log(p) - torch.log1p(-p)

    def dissimilarity(self, x: Tensor, y: Tensor) -> Tensor:
        """(1 − SSIM)/2 per pixel, as `edge.judge.statistics.dissimilarity`: Wang et al., 2004."""
        mean_x, mean_y = self.window(x), self.window(y)
        variance_x = self.window(x * x) - mean_x * mean_x
        variance_y = self.window(y * y) - mean_y * mean_y
        covariance = self.window(x * y) - mean_x * mean_y
        ssim: Tensor = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
        ssim = ssim / ((mean_x * mean_x + mean_y * mean_y + SSIM_C1) * (variance_x + variance_y + SSIM_C2))
        return ((1 - ssim) * 0.5).clamp(0.0, 1.0)


class GaussianBlur(nn.Module):
    """Gaussian means of (n, 1, h, w), rows and then columns; borders mirrored as OpenCV's REFLECT_101.

    Without a side it reaches 4σ, as OpenCV's does for float images. Maps must be larger than half the side.
    """

    weights: Tensor

    def __init__(self, sigma_px: float, side_px: int = 0) -> None:
        super().__init__()
        side = side_px or round(sigma_px * 8 + 1) | 1
        offsets = torch.arange(side, dtype=torch.float64) - side // 2
        weights = torch.exp(-(offsets**2) / (2 * sigma_px**2))
        self.register_buffer("weights", (weights / weights.sum()).float())

    def forward(self, x: Tensor) -> Tensor:
        half = self.weights.shape[0] // 2
        x = functional.pad(x, (half, half, half, half), mode="reflect")
        return functional.conv2d(
            functional.conv2d(x, self.weights[None, None, None]), self.weights[None, None, :, None]
        )


def standardise(fusion: Fusion, planes: Sequence[Plane16], tiles: TileSpec, seed: int) -> None:
    """Learn each member's scale from windows of good planes; best of planes that no member has learned from.

    Raises:
        DataError: no planes.
    """
    if not planes:
        raise DataError("no frames to compare the members on", reason="no_frames")
    fusion.eval()
    windows = Windows(planes, tiles, tiles.size_px, BATCH, "none", seed)
    rng = np.random.default_rng(seed)
    taken = []
    with torch.no_grad():
        for step in range(math.ceil(WINDOWS / BATCH)):
            values = fusion.raw(windows.at(step)).transpose(0, 1).flatten(1).numpy()  # (members, pixels)
            taken.append(values[:, rng.integers(values.shape[1], size=BATCH * PIXELS)])
    low, high = np.quantile(np.concatenate(taken, 1), (MIDDLE, HIGH), axis=1)
    fusion.middle.copy_(torch.from_numpy(low))
    fusion.spread.copy_(torch.from_numpy(np.maximum(high - low, LEAST_SPREAD)))


class SegmenterWithFeatures(nn.Module):
    """An anomaly U-Net, learned by gradients as ever, and a feature distance fitted beside it afterwards.

    While learning it answers the U-Net's logits, so objective and batches are the U-Net's; `fit` does the
    rest, and `fused` is what is exported. A distance of places also takes off the U-Net's map what is usual
    at each of them.
    """

    def __init__(self, network: AnomalyUNet, distance: FeatureDistance, rule: Rule = "log-odds") -> None:
        super().__init__()
        self.network = network
        self.distance = distance
        aligned = distance.config.distance == "aligned"
        usual = UsualMap(distance.config.size_px) if aligned else None
        smooth_px = PLACED_SMOOTH_PX if aligned else 0.0
        members = (
            Member(AnomalyMap(network), "probability", smooth_px, usual=usual),
            Member(distance, "distance"),
        )
        self.fused = Fusion(members, rule)

    def forward(self, tiles: Tensor) -> Tensor:
        """(n, 1, h, w) → the U-Net's logits (n, 1, h/2, w/2)."""
        logits: Tensor = self.network(tiles)
        return logits


def fit(network: nn.Module, planes: Sequence[LabelledPlane], seed: int, tiles: TileSpec) -> None:
    """After the U-Net has learned: fit the distance and the scales of both, from good planes.

    Where there are enough planes half of each sort is kept from the distance, and from what is usual at each
    place, while the scales are measured, since both are smaller where they were learned; then both are fitted
    to all.

    Raises:
        DataError: no planes, or too few for the distance.
    """
    if not isinstance(network, SegmenterWithFeatures):
        raise TypeError(f"{type(network).__name__} has no members to fit")
    aligned = network.distance.config.distance == "aligned"
    network.eval()
    several = len(planes) >= 2 * (features.LEAST_ALIGNED if aligned else 1)
    first, rest = features.halves(planes, seed) if several else (planes, planes)
    _fit_members(network, first, seed)
    standardise(network.fused, [labelled.plane for labelled in rest], tiles, seed)
    if several:
        _fit_members(network, planes, seed)


def _fit_members(network: SegmenterWithFeatures, planes: Sequence[LabelledPlane], seed: int) -> None:
    features.fit(network.distance, planes, seed)
    segmenter = network.fused.maps[0]
    if isinstance(segmenter, MemberMap) and isinstance(segmenter.usual, UsualMap):
        segmenter.usual.fit(segmenter.plain, planes, network.distance.config.kinds, seed)
