"""Features and a distance to the good ones, in closed form: for aligned objects and for tiny data.

A filter bank says how much of which structure there is around a place; what is learned is only how that
varies over good frames, so ten frames are enough and learning takes seconds. Three distances:

* `gaussian`: one Gaussian for all places (Mahalanobis distance); for even textures.
* `aligned`: a Gaussian for each place of a frame that always shows the same object the same way (Defard et
  al., "PaDiM", 2021). A place may also fit its neighbours' Gaussians, so a few pixels of play do no harm.
* `memory`: the distance to the nearest of some remembered good places (Roth et al., "Towards total recall in
  industrial anomaly detection", PatchCore, 2022); for textures and objects that are not aligned.

The features may also be those of a learned encoder (`EncoderFeatures`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.errors import DataError
from edge.learn.closed_form import Array, coreset, gaussian, inverse_root, ledoit_wolf, whitening
from edge.learn.labels import LabelledPlane
from edge.learn.models.anomaly_unet import AnomalyUNet
from edge.learn.models.feature_maps import Grid, common, feature_maps, mean_of, rows_of
from edge.learn.models.sorts import LEAST_OF_A_SORT, sorts_of

Distance = Literal["gaussian", "aligned", "memory"]

LEAST_ALIGNED = LEAST_OF_A_SORT  # planes
ALIKE = 4  # sorts of frames at most that are dealt evenly to both halves: views often come in turn
CANDIDATES = 20_000  # places that the memory is chosen from
LEAST_LOCAL_VARIANCE = 0.05  # of a place, relative to the mean of all: few frames cannot make us surer
UNDECIDED_SHARE = 0.999  # of good places are nearer than where the map says 1/2
UNLIKELY = np.log(19)  # log-odds below that of the middle of good places: 1/20
MOST_POWER = 4.0  # steeper would be no map any more
MOST = 1e6  # times the scale, before the power: float32 ends at 1e38
FAR = 1e30  # the distance to a Gaussian beyond the frame's border


@dataclass(frozen=True, slots=True)
class BankConfig:
    """Gabor filters at several scales, their energies pooled onto a grid."""

    stride_px: int = 8  # of the grid; a power of two
    orientations: int = 4
    side_px: int = 7  # of a filter
    sigma_px: float = 1.4
    frequency: float = 0.2  # cycles per pixel
    floor: float = 0.01  # of an amplitude: below is noise

    @property
    def levels(self) -> int:
        """Scales, each half the last; at the coarsest one a pixel is a place of the grid."""
        return self.stride_px.bit_length()


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """What the network is built from."""

    distance: Distance
    size_px: int = 0  # aligned: side of the frame, a multiple of the stride; otherwise any
    bank: BankConfig = field(default_factory=BankConfig)
    play_px: int = 2  # aligned: good frames may lie so much beside each other
    tolerance: int = 1  # aligned: places around one that it may also belong to
    kinds: int = 1  # aligned: sorts of frames at most, each with its own Gaussians: views, variants
    remembered: int = 1024  # memory: good places


class FilterBank(nn.Module):
    """(n, 1, h, w) float → features (n, c, h/stride, w/stride); h and w multiples of the stride.

    For each scale and orientation the logarithms of the mean and of the largest amplitude around a place (a
    crack is large, but not on average); at the coarsest scale also the mean grey level and the filters' own
    answers, which tell bright from dark and here from beside.
    """

    filters: Tensor
    binomial: Tensor

    def __init__(self, config: BankConfig) -> None:
        super().__init__()
        self.config = config
        self.stride_px = config.stride_px
        self.channels = config.levels * 2 * config.orientations + 1 + 2 * config.orientations
        self.register_buffer("filters", torch.from_numpy(gabor_filters(config).astype(np.float32))[:, None])
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("binomial", (row[:, None] * row)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        config, half, found = self.config, self.config.side_px // 2, []
        for level in range(config.levels):
            if level:
                x = functional.conv2d(_bordered(x, 2), self.binomial, stride=2)
            answers = functional.conv2d(_bordered(x, half), self.filters)  # (n, 2·orientations, h, w)
            even, odd = answers[:, 0::2], answers[:, 1::2]
            amplitude = torch.sqrt(even * even + odd * odd + config.floor**2)
            step = config.stride_px >> level
            found += [
                torch.log(_mean_around(amplitude, step)),
                torch.log(functional.max_pool2d(*_window(amplitude, step, step))),
            ]
        return torch.cat([*found, x, answers], 1)


def gabor_filters(config: BankConfig) -> Array:
    """(2·orientations, side, side): an even and an odd filter for each orientation, of norm 1, blind to grey.

    Daugman, "Uncertainty relation for resolution in space, spatial frequency, and orientation optimized by
    two-dimensional visual cortical filters", 1985. Their amplitude does not depend on where the wave begins.
    """
    half = config.side_px // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    window = np.exp(-(x * x + y * y) / (2 * config.sigma_px**2))
    filters = []
    for angle in np.pi * np.arange(config.orientations) / config.orientations:
        phase = 2 * np.pi * config.frequency * (x * np.cos(angle) + y * np.sin(angle))
        even, odd = window * np.cos(phase), window * np.sin(phase)
        even -= window * even.sum() / window.sum()
        filters += [even / np.linalg.norm(even), odd / np.linalg.norm(odd)]
    return np.stack(filters)


def _bordered(x: Tensor, around: int) -> Tensor:
    """Mirrored borders; where the map is too small for that, the last pixel repeated."""
    mode = "reflect" if min(x.shape[-2:]) > around else "replicate"
    return functional.pad(x, (around, around, around, around), mode=mode)


def _mean_around(x: Tensor, step: int) -> Tensor:
    """Means of windows twice the step, one each step: neighbours share half of what they see."""
    return functional.avg_pool2d(*_window(x, 2 * step if step > 1 else 3, step))


def _window(x: Tensor, side: int, step: int) -> tuple[Tensor, int, int]:
    around = (side - step) // 2
    padded = functional.pad(x, (around, around, around, around), mode="replicate") if around else x
    return padded, side, step


class EncoderFeatures(nn.Module):
    """The first levels of a learned encoder as features, (n, c, h/8, w/8); its weights stay as they are."""

    def __init__(self, network: AnomalyUNet, levels: int = 3) -> None:
        super().__init__()
        self.network = network
        self.levels = levels
        self.stride_px = network.config.fold << (levels - 1)
        self.channels = sum(network.config.channels[:levels])

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pixel_unshuffle(x, self.network.config.fold)
        found = []
        for k, level in enumerate(self.network.down[: self.levels]):
            x = level(functional.max_pool2d(x, 2) if k else x)
            step = 1 << (self.levels - 1 - k)
            found.append(functional.avg_pool2d(x, step) if step > 1 else x)
        return torch.cat(found, 1)


def features_of(encoder: AnomalyUNet, config: FeaturesConfig) -> FeatureDistance:
    """A distance over a learned encoder's features instead of the filter bank's; still to be fitted."""
    return FeatureDistance(config, EncoderFeatures(encoder))


class FeatureDistance(nn.Module):
    """(n, 1, t, t) float in 0..1 → how far each place is from good ones, (n, 1, t, t) in 0..1.

    r / (1 + r), r = (d² / c)ᵏ: d² the squared distance per feature, c and k such that of good places not
    learned from half are below 1/20 and one in a thousand is above 1/2. Not a probability, but between the
    same limits and as monotonic, so `ScoreSpec(map="probability")` takes it. Before `fit` it answers 0.
    """

    scale: Tensor
    power: Tensor
    mean: Tensor
    root: Tensor

    def __init__(self, config: FeaturesConfig, features: FilterBank | EncoderFeatures | None = None) -> None:
        super().__init__()
        self.config = config
        self.features = features or FilterBank(config.bank)
        channels = self.features.channels
        self.register_buffer("scale", torch.tensor(torch.inf))
        self.register_buffer("power", torch.tensor(1.0))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("root", torch.eye(channels))  # a root of the inverse covariance: whitens
        self.distance = self._distance(channels)

    def _distance(self, channels: int) -> nn.Module:
        config = self.config
        if config.distance == "memory":
            return Nearest(config.remembered, channels)
        if config.distance == "gaussian":
            return Norm()
        if config.size_px <= 0 or config.size_px % self.features.stride_px:
            raise ValueError(f"size_px must be a multiple of {self.features.stride_px}, not {config.size_px}")
        side = config.size_px // self.features.stride_px
        return AnyOf([Placed(side, channels, config.tolerance)])  # as many as there are sorts, once fitted

    def forward(self, tiles: Tensor) -> Tensor:
        ratio = (self.squared(tiles) / self.scale).clamp(max=MOST) ** self.power
        stride = float(self.features.stride_px)
        coarse = ratio / (1 + ratio)
        return functional.interpolate(coarse, scale_factor=stride, mode="bilinear", align_corners=False)

    def squared(self, tiles: Tensor) -> Tensor:
        """d² per feature on the grid, (n, 1, t/stride, t/stride)."""
        distance: Tensor = self.distance(self.whitened(tiles))
        return distance / self.features.channels

    @property
    def grid(self) -> Grid:
        """How planes are read for it."""
        return Grid(self.features.stride_px, self.config.distance == "aligned")

    def whitened(self, tiles: Tensor) -> Tensor:
        """Features (n, c, g, g) with mean 0 and covariance 1 over the good places."""
        found = self.features(tiles) - self.mean[:, None, None]
        return functional.conv2d(found, self.root[:, :, None, None])


class Norm(nn.Module):
    """The squared length of whitened features: the squared Mahalanobis distance."""

    def forward(self, z: Tensor) -> Tensor:
        return (z * z).sum(1, keepdim=True)


class Nearest(nn.Module):
    """The squared distance to the nearest remembered place."""

    places: Tensor

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("places", torch.zeros(count, channels))

    def forward(self, z: Tensor) -> Tensor:
        """(n, c, g, g) → (n, 1, g, g): ‖z‖² + min over m of ‖m‖² − 2 z·m."""
        lengths = (self.places * self.places).sum(1)
        others = lengths[:, None, None] - 2 * functional.conv2d(z, self.places[:, :, None, None])
        nearest = (z * z).sum(1, keepdim=True) + others.amin(1, keepdim=True)
        return nearest.clamp(min=0)  # rounding


class Placed(nn.Module):
    """The squared Mahalanobis distance to the place's own Gaussian, or to a neighbour's if that is nearer.

    Neighbours' models are taken by moving the features there and the distances back, so that the models,
    which are most of the memory, exist once.
    """

    means: Tensor
    roots: Tensor

    def __init__(self, side: int, channels: int, tolerance: int) -> None:
        super().__init__()
        self.tolerance = tolerance
        self.register_buffer("means", torch.zeros(side, side, channels))
        self.register_buffer("roots", torch.zeros(side, side, channels, channels))

    def forward(self, z: Tensor) -> Tensor:
        """(n, c, g, g) → (n, 1, g, g)."""
        t, side = self.tolerance, self.means.shape[0]
        moves = [(y, x) for y in range(2 * t + 1) for x in range(2 * t + 1)]
        around = functional.pad(z, (t, t, t, t)) if t else z
        moved = torch.stack([around[:, :, y : y + side, x : x + side] for y, x in moves], -1)
        off = moved.permute(0, 2, 3, 1, 4) - self.means[..., None]  # (n, g, g, c, moves)
        squared = (self.roots @ off).square().sum(3)  # (n, g, g, moves)
        back = functional.pad(squared.permute(0, 3, 1, 2), (t, t, t, t), value=FAR) if t else squared
        if not t:
            return squared.permute(0, 3, 1, 2)
        # what was read at p + (y − t, x − t) was laid upon p; its own place is there
        own = [
            back[:, k, 2 * t - y : 2 * t - y + side, 2 * t - x : 2 * t - x + side]
            for k, (y, x) in enumerate(moves)
        ]
        return torch.stack(own, 1).amin(1, keepdim=True)


class AnyOf(nn.Module):
    """The least of the distances to several sorts of frames, place by place."""

    def __init__(self, kinds: Sequence[Placed]) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(kinds)

    def forward(self, z: Tensor) -> Tensor:
        """(n, c, g, g) → (n, 1, g, g)."""
        return torch.cat([kind(z) for kind in self.kinds], 1).amin(1, keepdim=True)


def fit(network: nn.Module, planes: Sequence[LabelledPlane], seed: int) -> None:
    """Learn from good planes in closed form; the same planes and seed give the same network.

    Planes are read one after another, several times, so they need not be in memory. With more than one, the
    scale is that of planes the distances were not learned from: first half of each sort is learned and the
    rest measured, then all are learned.

    Raises:
        DataError: no planes; of `aligned`, fewer than three, or of another size than the network's.
    """
    if not isinstance(network, FeatureDistance):
        raise TypeError(f"{type(network).__name__} is not fitted in closed form here")
    _check(network, planes)
    network.eval()
    sorts = sorts_of(planes, network.config.kinds, seed)
    dealt = [halves(of, seed) for of in sorts]
    rest = [labelled for _, second in dealt for labelled in second] or planes
    with torch.no_grad():
        _fit_distance(network, [first for first, _ in dealt], seed)
        maps = feature_maps(network.squared, rest, network.grid)
        distances = np.concatenate([values.ravel() for values in maps])
        middle, scale = np.maximum(np.quantile(distances, (0.5, UNDECIDED_SHARE)), 1e-6)
        if len(planes) > 1:
            _fit_distance(network, sorts, seed)
        network.scale.fill_(float(scale))
        network.power.fill_(float(np.clip(UNLIKELY / np.log(max(scale / middle, 1.001)), 1, MOST_POWER)))


def halves(planes: Sequence[LabelledPlane], seed: int) -> tuple[list[LabelledPlane], list[LabelledPlane]]:
    """Every other plane of each sort, and the others."""
    sorts = sorts_of(planes, ALIKE, seed)
    return [one for of in sorts for one in of[::2]], [one for of in sorts for one in of[1::2]]


def _check(network: FeatureDistance, planes: Sequence[LabelledPlane]) -> None:
    if not planes:
        raise DataError("no frames to learn features from", reason="no_frames")
    if network.config.distance != "aligned":
        return
    if len(planes) < LEAST_ALIGNED:
        raise DataError(
            f"{len(planes)} frames cannot say how each place of an object varies",
            hint=f"give at least {LEAST_ALIGNED}, better 10, or choose features-memory",
            reason="too_few_frames",
        )
    side = network.config.size_px
    for labelled in planes:
        if labelled.plane.shape != (side, side):
            raise DataError(f"a plane of {labelled.plane.shape}, not of {side} × {side}", reason="wrong_size")


def _fit_distance(network: FeatureDistance, sorts: Sequence[Sequence[LabelledPlane]], seed: int) -> None:
    if network.config.distance == "aligned":
        _fit_placed(network, sorts)
        return
    planes = [labelled for of in sorts for labelled in of]
    mean, covariance = gaussian(lambda: map(rows_of, feature_maps(network.features, planes, network.grid)))
    _whiten_by(network, mean, covariance)
    if isinstance(network.distance, Nearest):
        places = _some_places(network, planes, np.random.default_rng(seed))
        remembered = network.distance.places
        remembered.copy_(torch.from_numpy(coreset(places, len(remembered))))


def _whiten_by(network: FeatureDistance, mean: Array, covariance: Array) -> None:
    network.mean.copy_(torch.from_numpy(mean))
    network.root.copy_(torch.from_numpy(whitening(covariance)))


def _fit_placed(network: FeatureDistance, sorts: Sequence[Sequence[LabelledPlane]]) -> None:
    """For each sort of frames: each place's mean; the covariance common to all places and sorts; each place's
    own in units of that, shrunk."""

    def frames(apply: Callable[[Tensor], Tensor], of: Sequence[LabelledPlane]) -> Iterator[Array]:
        for values in feature_maps(apply, of, network.grid, network.config.play_px):
            yield values.transpose(1, 2, 0)  # (g, g, c)

    means = [mean_of(frames(network.features, of)) for of in sorts]
    spread = mean_of(
        common((f - mean).reshape(-1, f.shape[-1]))
        for of, mean in zip(sorts, means, strict=True)
        for f in frames(network.features, of)
    )
    _whiten_by(network, np.mean([mean.mean((0, 1)) for mean in means], 0), spread)
    kinds = []
    _, side, channels = means[0].shape
    for of in sorts:
        kinds.append(Placed(side, channels, network.config.tolerance))
        _fit_sort(kinds[-1], lambda of=of: frames(network.whitened, of), len(of))  # type: ignore[misc]
    network.distance = AnyOf(kinds).eval()


def _fit_sort(kind: Placed, frames: Callable[[], Iterator[Array]], planes: int) -> None:
    means = mean_of(frames())
    own = np.zeros((*means.shape, means.shape[-1]))
    fourth, count = np.zeros(means.shape[:2]), 0
    for f in frames():
        z = f - means
        own += z[..., :, None] * z[..., None, :]
        fourth += (z * z).sum(-1) ** 2
        count += 1
    shrunk = ledoit_wolf(own / count, fourth / count, planes)
    shrunk += LEAST_LOCAL_VARIANCE * np.eye(shrunk.shape[-1])
    kind.means.copy_(torch.from_numpy(means))
    kind.roots.copy_(torch.from_numpy(inverse_root(shrunk)))


def _some_places(
    network: FeatureDistance, planes: Sequence[LabelledPlane], rng: np.random.Generator
) -> Array:
    """Whitened features of places drawn evenly over the planes, (≤ CANDIDATES, c)."""
    quota = -(-CANDIDATES // len(planes))
    drawn = []
    for labelled in planes:
        maps = feature_maps(network.whitened, [labelled], network.grid)
        rows = np.concatenate([rows_of(found) for found in maps])
        drawn.append(rows[rng.permutation(len(rows))[:quota]])
    return np.concatenate(drawn)[:CANDIDATES]
