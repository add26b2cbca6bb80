"""Whether frames show the same scene at the same place, and whether mirrored ones would be good, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.learn.anomalies.shapes import texture_direction
from edge.types import FloatImage

COMMON_PX = 192  # the longer side that frames are brought to
BAND_PX = (2.0, 16.0)  # standard deviations: finer is noise, coarser is light
MOST_PAIRS = 64  # that are shifted against each other
MOST_SHIFT = 0.25  # of a side
LEAST_SHIFTED_PX = 64  # the shorter common side: shifted at will, any two smaller frames fit somehow
SAME = 0.5  # correlation: most of what is seen is common
CELLS = 4  # along a side, of the features that are compared with their mirror image
FEW = 8  # frames; fewer are cut into quarters
UNSEEN = 0.02  # a relative grey value, coherence or logarithm that differs by less is seen by nobody
TELLING = 2.0  # mean over standard deviation: a mirrored frame is told from a good one 49 times in 50
MOST_TELLING = 100.0  # more is no better known
# Student's t that chance passes once in 2,160 times, either way, by degrees of freedom
CRITICAL_T = (
    (1e6, 3.50), (63, 3.69), (31, 3.91), (23, 4.08), (15, 4.46),
    (11, 4.91), (7, 6.16), (5, 8.11), (4, 10.51), (3, 16.75),
)  # fmt: skip

Mirror = Literal["left-right", "top-bottom", "transposed"]
MIRRORS: dict[Mirror, Callable[[NDArray[Any]], NDArray[Any]]] = {  # of (…, h, w)
    "left-right": lambda stack: stack[..., ::-1],
    "top-bottom": lambda stack: stack[..., ::-1, :],
    "transposed": lambda stack: np.swapaxes(stack, -1, -2),
}
Kind = Literal["aligned", "movable", "texture", "unknown"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Facts of what frames have in common; correlations of σ 2–16 px band-passed frames. None: one frame."""

    scope: Literal["view", "all"]  # frames are compared within a view, or all where views have one each
    correlation: float | None  # of two frames, mean
    twin: float | None  # of a frame with the one most like it, median
    moved: (
        float | None
    )  # of two frames, one of them shifted by up to a quarter; median; None: too small to say
    moved_px: float | None  # by how much, in pixels of the plane
    residual: (
        float | None
    )  # what is left when a frame's view's median is taken off, of its standard deviation

    @property
    def kind(self) -> Kind:
        """aligned: the same scene at the same place; movable: not quite at the same place."""
        if self.correlation is None:
            return "unknown"
        if self.correlation >= SAME:
            return "aligned"
        return "movable" if self.moved is not None and self.moved >= SAME else "texture"


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Whether good frames look like good frames when mirrored."""

    mirror: Mirror
    telling: float  # the most telling feature: its mean asymmetry over its spread; 0: it may be chance
    feature: str
    correlation: float | None  # of a frame with other frames mirrored, where they are aligned
    allowed: bool


def layout_of(planes: Sequence[FloatImage], views: Sequence[str]) -> tuple[Layout, tuple[Symmetry, ...]]:
    """Facts of (h, w) planes in 0..1, and the view of each."""
    small, scale = _common(planes)
    bands = _banded(small)
    groups = [np.flatnonzero([name == view for name in views]) for view in sorted(set(views))]
    groups = [group for group in groups if len(group) > 1]
    scope: Literal["view", "all"] = "view" if groups or len(planes) < 2 else "all"
    if not groups and len(planes) > 1:
        groups = [np.arange(len(planes))]
    facts = _correlations(bands, groups, scope, scale)
    features = _features(planes)
    found = []
    for mirror in MIRRORS:
        telling, feature = _telling(features, mirror)
        mirrored = _mirrored_correlation(bands, groups, mirror) if facts.kind == "aligned" else None
        alike = mirrored is None or facts.correlation is None or mirrored >= 0.9 * facts.correlation
        # a rectangle that is always filled the same way cannot lie across
        fits = facts.kind != "aligned" or mirror != "transposed" or mirrored is not None
        found.append(Symmetry(mirror, telling, feature, mirrored, alike and fits and telling < TELLING))
    return facts, tuple(found)


def _common(planes: Sequence[FloatImage]) -> tuple[NDArray[np.float32], float]:
    """(frames at a common size (n, h, w), pixels of the plane per pixel of theirs)."""
    height, width = np.median([plane.shape for plane in planes], axis=0)
    scale = max(1.0, max(height, width) / COMMON_PX)
    size = (max(8, round(width / scale)), max(8, round(height / scale)))
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in planes]), scale


def _banded(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """Band-passed frames of mean 0 and norm 1 (0 where there is nothing)."""
    bands = np.stack(
        [cv2.GaussianBlur(v, (0, 0), BAND_PX[0]) - cv2.GaussianBlur(v, (0, 0), BAND_PX[1]) for v in small]
    )
    bands -= bands.mean(axis=(1, 2), keepdims=True)
    norms = np.sqrt(np.square(bands).sum(axis=(1, 2), keepdims=True))
    normed: NDArray[np.float32] = np.divide(bands, norms, out=np.zeros_like(bands), where=norms > 1e-4)
    return normed


def _correlations(
    bands: NDArray[np.float32],
    groups: Sequence[NDArray[np.intp]],
    scope: Literal["view", "all"],
    scale: float,
) -> Layout:
    if not groups:
        return Layout(scope, None, None, None, None, None)
    pairs: list[float] = []
    twins: list[float] = []
    residuals: list[float] = []
    for group in groups:
        members = bands[group].reshape(len(group), -1)
        products = members @ members.T
        others = ~np.eye(len(group), dtype=np.bool_)
        pairs.extend(products[others])
        twins.extend(np.where(others, products, -1).max(axis=1))
        left = np.square(members - np.median(members, axis=0)).sum(axis=1)  # of norm 1
        residuals.extend(np.sqrt(left * len(group) / (len(group) - 1)))
    moved = _moved(bands, groups) if min(bands.shape[1:]) >= LEAST_SHIFTED_PX else None
    return Layout(
        scope=scope,
        correlation=float(np.mean(pairs)),
        twin=float(np.median(twins)),
        moved=moved and moved[0],
        moved_px=moved and moved[1] * scale,
        residual=float(np.median(residuals)),
    )


def _moved(bands: NDArray[np.float32], groups: Sequence[NDArray[np.intp]]) -> tuple[float, float]:
    """(correlation, shift [px]) of frames shifted to fit their neighbours in the list; medians."""
    neighbours = [(int(a), int(b)) for group in groups for a, b in zip(group, np.roll(group, 1), strict=True)]
    step = max(1, len(neighbours) // MOST_PAIRS)
    correlation, shift = np.median([_shifted(bands[a], bands[b]) for a, b in neighbours[::step]], axis=0)
    return float(correlation), float(shift)


def _shifted(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, float]:
    """(largest correlation over cyclic shifts of up to a quarter, that shift [px])."""
    h, w = one.shape
    answer = np.fft.irfft2(np.fft.rfft2(one) * np.conj(np.fft.rfft2(other)), (h, w))
    y, x = (np.minimum(np.arange(n), n - np.arange(n)) for n in (h, w))
    reachable = (y[:, None] <= MOST_SHIFT * h) & (x[None, :] <= MOST_SHIFT * w)
    best = int(np.argmax(np.where(reachable, answer, -1)))
    return float(answer.flat[best]), float(np.hypot(y[best // w], x[best % w]))


def _mirrored_correlation(
    bands: NDArray[np.float32], groups: Sequence[NDArray[np.intp]], mirror: Mirror
) -> float | None:
    """Mean correlation of frames with *other* ones mirrored; None: a transposed one has another shape."""
    if mirror == "transposed" and not 0.95 < bands.shape[1] / bands.shape[2] < 1.05:
        return None
    pairs: list[float] = []
    for group in groups:
        members = bands[group]
        mirrored = MIRRORS[mirror](members)
        if mirrored.shape != members.shape:
            mirrored = np.stack([cv2.resize(v, members.shape[:0:-1]) for v in mirrored])
        products = members.reshape(len(group), -1) @ mirrored.reshape(len(group), -1).T
        pairs.extend(products[~np.eye(len(group), dtype=np.bool_)])
    return float(np.mean(pairs))


@dataclass(frozen=True, slots=True)
class _Features:
    """What mirroring may change, of n windows."""

    direction: NDArray[np.float64]  # (n, 2): coherence times cosine and sine of twice the angle
    shading: NDArray[np.float64]  # (n, 2): skewness of the gradient across, and down
    grey: NDArray[np.float64]  # (n, 4, 4): means of cells, relative to the window's
    structure: NDArray[np.float64]  # (n, 4, 4): logarithm of the gradients' energy in cells

    def mirrored(self, mirror: Mirror) -> _Features:
        """Of the mirrored windows."""
        turn = MIRRORS[mirror]
        if mirror == "transposed":  # θ → π/2 − θ
            direction, shading = self.direction * (-1, 1), self.shading[:, ::-1]
        else:  # θ → −θ
            direction = self.direction * (1, -1)
            shading = self.shading * ((-1, 1) if mirror == "left-right" else (1, -1))
        return _Features(direction, shading, turn(self.grey), turn(self.structure))

    def named(self) -> dict[str, NDArray[np.float64]]:
        """Each (n,)."""
        found = {
            "direction along or across": self.direction[:, 0],
            "direction aslant": self.direction[:, 1],
            "shading across": self.shading[:, 0],
            "shading down": self.shading[:, 1],
        }
        for row, column in np.ndindex(CELLS, CELLS):
            found[f"grey at {row},{column}"] = self.grey[:, row, column]
            found[f"structure at {row},{column}"] = self.structure[:, row, column]
        return found


def _telling(features: _Features, mirror: Mirror) -> tuple[float, str]:
    """(effect size, name) of the feature that tells mirrored windows from good ones best.

    A feature less that of the mirrored window is as often positive as negative if good frames are symmetric.
    Mean over standard deviation (Cohen's d) says how well one frame gives it away; it counts where Student's
    t test of the mean, at 5 % over all features (Bonferroni), says that it is not by chance.
    """
    best, most = "none", 0.0
    mirrored = features.mirrored(mirror).named()
    for name, values in features.named().items():
        asymmetry = values - mirrored[name]
        mean, spread = abs(float(asymmetry.mean())), float(asymmetry.std(ddof=1))
        if mean <= 2 * UNSEEN:  # the difference counts it twice
            continue
        effect = min(MOST_TELLING, mean / max(spread, 1e-6))
        if effect * math.sqrt(len(values)) > _critical_t(len(values) - 1) and effect > most:
            best, most = name, effect
    return most, best


def _critical_t(freedom: int) -> float:
    """Two-sided, at 0.05 / (3 · 36), interpolated over 1 / degrees of freedom."""
    known, values = zip(*CRITICAL_T, strict=True)
    return float(np.interp(1 / freedom, 1 / np.array(known), values))


def _features(planes: Sequence[FloatImage]) -> _Features:
    """Of frames (h, w); of the quarters of few frames, so that there are several."""
    windows = list(planes) if len(planes) >= FEW else [part for plane in planes for part in _quarters(plane)]
    small, _ = _common(windows)
    angles, coherences = np.array([texture_direction(window) for window in windows]).T
    doubled = 2 * angles
    smooth = [cv2.GaussianBlur(window, (0, 0), 1.0) for window in small]
    gx, gy = (np.stack([cv2.Sobel(v, -1, *order) for v in smooth]) for order in ((1, 0), (0, 1)))
    energy = gx * gx + gy * gy
    total = np.maximum(energy.mean(axis=(1, 2)), 1e-9) ** 1.5
    grey = _cells(small)
    return _Features(
        direction=coherences[:, None] * np.column_stack([np.cos(doubled), np.sin(doubled)]),
        shading=np.column_stack([(g * g * g).mean(axis=(1, 2)) / total for g in (gx, gy)]),
        grey=grey / np.maximum(grey.mean(axis=(1, 2), keepdims=True), 1e-3),
        structure=np.log(_cells(energy) + 1e-5),
    )


def _cells(stack: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 4, 4) means."""
    cells = [cv2.resize(v, (CELLS, CELLS), interpolation=cv2.INTER_AREA) for v in stack]
    return np.stack(cells).astype(np.float64)


def _quarters(plane: FloatImage) -> list[FloatImage]:
    h, w = plane.shape[0] // 2, plane.shape[1] // 2
    return [plane[y : y + h, x : x + w] for y in (0, h) for x in (0, w)]
