"""The most similar good crops to a suspicious place: what it should have looked like, as far as was seen.

A bundle carries a few hundred crops of the good frames it was learned from, chosen so that every kind is
among them. They explain verdicts; they have no part in them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.infer.bundle import Bundle
from edge.types import Box, FloatImage, Mask

FILE = "neighbours.npz"
SIDE_PX = 64
MOST_CROPS = 512  # 2 MB before compression
CANDIDATES = 2048
LEAST_FOREGROUND = 0.25  # share of a crop that must be foreground
THUMBNAIL = 8  # pixels a side: brightness from place to place
CELLS, DIRECTIONS = 4, 8  # of the histogram of gradients
GRADIENT_WEIGHT = 1.0  # against the thumbnail
STILL = 0.02  # of the scale, a pixel: gradients well below it are noise

# the first bin of each pixel's cell
_CELL = DIRECTIONS * np.add.outer(
    np.arange(SIDE_PX) * CELLS // SIDE_PX * CELLS, np.arange(SIDE_PX) * CELLS // SIDE_PX
)

Gray = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GoodPlane:
    """A good frame to take crops from."""

    source: str
    view: str
    plane: FloatImage | NDArray[np.float16]  # (h, w) in 0..1
    foreground: Mask | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A good crop, and how unlike the place it is."""

    crop: FloatImage  # (64, 64) in 0..1
    distance: float  # root mean square of the descriptors' difference; 0: the same
    source: str
    box: Box  # in the source's plane


@dataclass(frozen=True)
class Neighbours:
    """Good crops with where they are from."""

    crops: Gray  # (n, 64, 64)
    source: NDArray[np.int32]  # (n,) into `sources`
    corner: NDArray[np.int32]  # (n, 2) x, y in the source's plane
    view: NDArray[np.int32]  # (n,) into `views`
    sources: tuple[str, ...]
    views: tuple[str, ...]

    @cached_property
    def descriptors(self) -> Floats:
        """(n, d), worked out anew: the crops say it all."""
        if not len(self.crops):
            return np.empty((0, THUMBNAIL**2 + CELLS**2 * DIRECTIONS), np.float32)
        return np.stack([descriptor(_gray(crop)) for crop in self.crops])


def descriptor(crop: FloatImage) -> Floats:
    """(d,) float32 of a crop (64, 64) in 0..1: an 8×8 thumbnail about its mean, in standard deviations of a
    middling texture, and histograms of gradient directions in 4×4 cells (Dalal & Triggs, CVPR 2005)."""
    small = cv2.resize(crop, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    thumbnail = (small - small.mean()).ravel() / np.float32(0.1)
    gx = cv2.Sobel(crop, cv2.CV_32F, 1, 0, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    gy = cv2.Sobel(crop, cv2.CV_32F, 0, 1, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    strength = np.hypot(gx, gy)
    turn = np.mod(np.arctan2(gy, gx), np.pi) * (DIRECTIONS / np.pi)
    low = turn.astype(np.int64)
    share = turn - low
    # each pixel counts for its two nearest directions
    bins = np.concatenate([(_CELL + low % DIRECTIONS).ravel(), (_CELL + (low + 1) % DIRECTIONS).ravel()])
    weights = np.concatenate([(strength * (1 - share)).ravel(), (strength * share).ravel()])
    histogram = np.bincount(bins, weights, CELLS**2 * DIRECTIONS) * (CELLS / SIDE_PX) ** 2
    gradient = np.sqrt(histogram / np.float32(STILL)) * np.float32(GRADIENT_WEIGHT)
    return np.concatenate([thumbnail, gradient]).astype(np.float32)


def gather(good: Iterable[GoodPlane], frames: int, *, most: int = MOST_CROPS, seed: int = 0) -> Neighbours:
    """At most `most` crops of about `frames` good frames, every one as far as can be from those before it.

    Farthest-point sampling (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985) over
    CANDIDATES random places: no crop that was a candidate is farther from a chosen one than it need be.
    Planes smaller than a crop give none.
    """
    rng = np.random.default_rng((seed, 0x9E16))
    each = max(4, -(-CANDIDATES // max(1, frames)))
    sources: dict[str, int] = {}
    views: dict[str, int] = {}
    crops: list[Gray] = []
    at: list[tuple[int, int, int, int]] = []
    for one in good:
        if len(crops) >= CANDIDATES:
            break
        for x, y in _places(one, each, rng):
            cut = np.asarray(one.plane[y : y + SIDE_PX, x : x + SIDE_PX], np.float32)
            crops.append(np.rint(np.clip(cut, 0, 1) * 255).astype(np.uint8))
            source = sources.setdefault(one.source, len(sources))
            at.append((source, x, y, views.setdefault(one.view, len(views))))
    if not crops:
        nothing = np.empty(0, np.int32)
        return Neighbours(
            np.empty((0, SIDE_PX, SIDE_PX), np.uint8), nothing, nothing.reshape(0, 2), nothing, (), ()
        )
    features = np.stack([descriptor(_gray(crop)) for crop in crops])
    chosen = np.sort(farthest(features, most))
    rows = np.array(at, np.int32)[chosen]
    return Neighbours(
        np.stack(crops)[chosen], rows[:, 0], rows[:, 1:3], rows[:, 3], tuple(sources), tuple(views)
    )


def farthest(features: Floats, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` of (n, d), none twice the same: the first nearest to the mean, each further
    one farthest from those before it."""
    squares = np.einsum("ij,ij->i", features, features)
    first = int(np.square(features - features.mean(axis=0)).sum(axis=1).argmin())
    chosen, gap = [first], np.full(len(features), np.inf, np.float32)
    while True:
        latest = chosen[-1]
        gap = np.minimum(gap, squares + squares[latest] - 2 * (features @ features[latest]))
        gap[latest] = 0
        following = int(gap.argmax())
        if len(chosen) >= most or gap[following] <= 1e-6 * max(1.0, float(squares[following])):
            return np.array(chosen, np.int64)
        chosen.append(following)


def nearest(
    neighbours: Neighbours, plane: FloatImage, box: Box, count: int = 3, view: str | None = None
) -> list[Neighbour]:
    """The good crops most like the 64×64 of a plane (h, w) around the middle of a box, nearest first.

    Only those of the view, where there are any; at most one of those that overlap in the same frame.
    """
    crop = around(plane, box)
    if crop is None or not len(neighbours.crops):
        return []
    gaps = neighbours.descriptors - descriptor(crop)
    distances = np.sqrt(np.square(gaps).mean(axis=1))
    if view in neighbours.views:
        distances = np.where(neighbours.view == neighbours.views.index(view), distances, np.inf)
    found: list[Neighbour] = []
    for i in np.argsort(distances, kind="stable"):
        if len(found) == count or not np.isfinite(distances[i]):
            break
        x, y = (int(v) for v in neighbours.corner[i])
        source = neighbours.sources[int(neighbours.source[i])]
        if any(
            n.source == source and max(abs(n.box[0] - x), abs(n.box[1] - y)) < SIDE_PX // 2 for n in found
        ):
            continue
        picture = _gray(neighbours.crops[i])
        found.append(Neighbour(picture, float(distances[i]), source, (x, y, SIDE_PX, SIDE_PX)))
    return found


def around(plane: FloatImage, box: Box) -> FloatImage | None:
    """(64, 64) of a plane about the middle of a box, shifted inside; None where the plane is smaller."""
    height, width = plane.shape
    if min(height, width) < SIDE_PX:
        return None
    x = min(max(0, box[0] + box[2] // 2 - SIDE_PX // 2), width - SIDE_PX)
    y = min(max(0, box[1] + box[3] // 2 - SIDE_PX // 2), height - SIDE_PX)
    return np.asarray(plane[y : y + SIDE_PX, x : x + SIDE_PX], np.float32)


def pack(neighbours: Neighbours) -> bytes:
    """As the bytes of an .npz: arrays and names, nothing that would be executed."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        crops=neighbours.crops,
        source=neighbours.source,
        corner=neighbours.corner,
        view=neighbours.view,
        sources=np.array(neighbours.sources, np.str_),
        views=np.array(neighbours.views, np.str_),
    )
    return file.getvalue()


def read(data: bytes) -> Neighbours:
    """What `pack` gave."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return Neighbours(
            stored["crops"],
            stored["source"],
            stored["corner"],
            stored["view"],
            tuple(str(name) for name in stored["sources"]),
            tuple(str(name) for name in stored["views"]),
        )


def open_neighbours(bundle: Bundle) -> Neighbours | None:
    """A bundle's good crops; None where it has none."""
    return read(bundle.read(FILE)) if bundle.has(FILE) else None


def strip(plane: FloatImage, box: Box, found: list[Neighbour], enlarged: int = 3) -> Gray | None:
    """The place, and right of it the good crops nearest to it, as one picture (h, w); None where there are
    none."""
    crop = around(plane, box)
    if crop is None or not found:
        return None
    side, gap = SIDE_PX * enlarged, 4 * enlarged
    picture = np.full((side, side * (len(found) + 1) + gap * (len(found) + 1)), 255, np.uint8)
    for k, one in enumerate([crop, *(neighbour.crop for neighbour in found)]):
        left = k * side + (gap * (k + 1) if k else 0)  # a wider gap after the place itself
        big = cv2.resize(one, (side, side), interpolation=cv2.INTER_NEAREST)
        picture[:, left : left + side] = (np.clip(big, 0, 1) * 255).astype(np.uint8)
    return picture


def _gray(crop: Gray) -> FloatImage:
    """In 0..1."""
    return crop.astype(np.float32) / np.float32(255)


def _places(one: GoodPlane, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """x, y of crops inside a plane, with enough foreground."""
    height, width = one.plane.shape
    if min(height, width) < SIDE_PX:
        return []
    xs = rng.integers(0, width - SIDE_PX + 1, count)
    ys = rng.integers(0, height - SIDE_PX + 1, count)
    places = list(dict.fromkeys(zip(xs.tolist(), ys.tolist(), strict=True)))
    if one.foreground is None:
        return places
    covered = cv2.integral(one.foreground.astype(np.uint8))
    least = LEAST_FOREGROUND * SIDE_PX**2

    def seen(x: int, y: int) -> int:
        right, bottom = x + SIDE_PX, y + SIDE_PX
        return int(covered[bottom, right] - covered[y, right] - covered[bottom, x] + covered[y, x])

    return [(x, y) for x, y in places if seen(x, y) >= least]
