"""Every fragment of every plane, once an epoch, in an order that looks random and is never written down.

A film of 5,000×1,000 pixels has 5,000 fragments at half steps, and millions at single steps. What is kept of
them is a run for each row of windows: (plane, y, first column, count). The order of an epoch is a keyed
permutation of 0…N−1, computed for the indices of a batch when it is asked for: a Feistel network over the
next power of four, walked until it falls below N (Black and Rogaway, "Ciphers with arbitrary finite domains",
2002).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.errors import DataError
from edge.learn.datasets import Augmentation, mirrored
from edge.preprocess import TileSpec, Tiling
from edge.types import FloatImage

ROUNDS = 4  # of the Feistel network: Luby and Rackoff, 1988
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment and multipliers (Steele et al., 2014)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Sliceable(Protocol):
    """A plane that gives parts of itself: a numpy array or memmap, or a dataset of HDF5.

    Floats are in 0..1; unsigned integers stand for 0..1 over their whole range.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Runs:
    """Neighbouring windows of one row each, in the order of planes, rows and columns."""

    plane: NDArray[np.int32]
    y: NDArray[np.int32]  # of the window's kept centre
    column: NDArray[np.int32]  # of the first window, in steps
    offset: NDArray[np.int64]  # how many fragments come before; one more at the end: all of them


class FragmentBatches:
    """Fragments as inspection would cut them, shuffled; a `Batches` for `Fit`."""

    def __init__(
        self,
        planes: Sequence[Sliceable],
        tiles: TileSpec,
        batch: int,
        augmentation: Augmentation,
        seed: int,
        truths: Sequence[Sliceable | None] | None = None,
    ) -> None:
        """`truths` (h, w), non-zero where there is a defect: fragments that see any of it are left out, so
        that the good regions of a bad film can be learned from. They are read once, one at a time.

        Raises:
            DataError: no fragment is left.
        """
        self.planes, self.tiles, self.batch = planes, tiles, batch
        self.augmentation, self.seed, self.size_px = augmentation, seed, tiles.size_px
        self._runs = _find_runs(planes, tiles, truths or [None] * len(planes))
        if not len(self):
            raise DataError(
                f"no fragment of {len(planes)} frames is free of defects",
                hint="add frames with good regions, or give masks that mark the defects only",
                reason="too_few_frames",
            )

    def __len__(self) -> int:
        """Fragments in an epoch."""
        return int(self._runs.offset[-1])

    def at(self, step: int) -> Tensor:
        """The step's fragments, (batch, 1, size, size) float32 in 0..1: a function of seed and step alone.

        Epochs follow each other without a gap: a batch may hold the end of one and the beginning of the next.
        """
        size = self.size_px
        windows = np.empty((self.batch, 1, size, size), np.float32)
        for k, (plane, y, x) in enumerate(self.places(step)):
            windows[k, 0] = self._cut(self.planes[plane], y, x)
        rng = np.random.default_rng((self.seed, step))
        return torch.from_numpy(_turned(windows, rng, self.augmentation))

    def places(self, step: int) -> Iterator[tuple[int, int, int]]:
        """(plane, y, x) of the kept centres of a step's fragments."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)
        epochs, within = np.divmod(positions, len(self))
        index = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            index[chosen] = permuted(within[chosen], len(self), (self.seed, int(epoch)))
        runs = self._runs
        run = np.searchsorted(runs.offset, index, side="right") - 1
        column = runs.column[run] + (index - runs.offset[run])
        keep, step_px = self.tiles.keep_px, self.tiles.step_px
        for at, j in zip(run, column, strict=True):
            plane = int(runs.plane[at])
            last = max(0, self.planes[plane].shape[1] - keep)
            yield plane, int(runs.y[at]), min(int(j) * step_px, last)

    def _cut(self, plane: Sliceable, y: int, x: int) -> FloatImage:
        rows, columns = (
            mirrored(np.arange(start, start + self.size_px) - self.tiles.margin_px, length)
            for start, length in zip((y, x), plane.shape, strict=True)
        )
        top, left = rows.min(), columns.min()
        piece = np.asarray(plane[top : rows.max() + 1, left : columns.max() + 1])
        return in_unit_range(piece)[np.ix_(rows - top, columns - left)]


def permuted(index: NDArray[np.int64], count: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    """Where a keyed permutation of 0…count−1 takes these indices: (n,) → (n,), each in 0…count−1.

    Distinct indices give distinct answers. Nothing of size `count` is made.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64).astype(np.uint64)
    found = index.astype(np.uint64)
    outside = np.ones(len(found), bool)
    while outside.any():
        found[outside] = _feistel(found[outside], half, keys)
        outside = found >= np.uint64(count)
    return found.astype(np.int64)


def in_unit_range(piece: NDArray[Any]) -> FloatImage:
    """Float32 in 0..1 of a piece of a plane; unsigned integers by their whole range."""
    if np.issubdtype(piece.dtype, np.unsignedinteger):
        scale = np.float32(1.0 / np.iinfo(piece.dtype).max)
        return np.asarray(piece, np.float32) * scale
    return np.asarray(piece, np.float32)


def _feistel(values: NDArray[np.uint64], half: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of the numbers below 4^half."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function; arrays wrap around silently, as it wants."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))


def _find_runs(planes: Sequence[Sliceable], tiles: TileSpec, truths: Sequence[Sliceable | None]) -> _Runs:
    found: list[NDArray[np.int64]] = []  # (runs, 4): plane, y, first column, count
    for number, (plane, truth) in enumerate(zip(planes, truths, strict=True)):
        tiling = Tiling(plane.shape[0], plane.shape[1], tiles)
        if truth is None:
            rows, columns = len(tiling.ys), len(tiling.xs)
            whole = [np.full(rows, number), tiling.ys, np.zeros(rows, int), np.full(rows, columns)]
            found.append(np.stack(whole, 1))
        else:
            found.append(_clear_runs(number, tiling, np.asarray(truth[:, :]) != 0))
    runs = np.concatenate(found) if found else np.zeros((0, 4), np.int64)
    offset = np.concatenate([[0], np.cumsum(runs[:, 3])])
    plane_, y, column = (runs[:, k].astype(np.int32) for k in range(3))
    return _Runs(plane_, y, column, offset.astype(np.int64))


def _clear_runs(number: int, tiling: Tiling, truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Runs of windows that see no defect; what is mirrored at a border is in the window anyway."""
    margin, keep = tiling.spec.margin_px, tiling.spec.keep_px
    sums = cv2.integral(truth.astype(np.uint8))
    tops, lefts = np.maximum(tiling.ys - margin, 0), np.maximum(tiling.xs - margin, 0)
    bottoms = np.minimum(tiling.ys + keep + margin, tiling.height)
    rights = np.minimum(tiling.xs + keep + margin, tiling.width)
    runs = []
    for y, top, bottom in zip(tiling.ys, tops, bottoms, strict=True):
        hit = sums[bottom, rights] - sums[top, rights] - sums[bottom, lefts] + sums[top, lefts]
        edges = np.diff(np.concatenate([[0], (hit == 0).astype(np.int8), [0]]))
        begins, ends = np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0]
        runs += [
            (number, int(y), int(begin), int(end - begin)) for begin, end in zip(begins, ends, strict=True)
        ]
    return np.array(runs, np.int64).reshape(-1, 4)


def _turned(windows: FloatImage, rng: np.random.Generator, augmentation: Augmentation) -> FloatImage:
    """Fragments (n, 1, s, s) mirrored and turned, each by its own chance."""
    if augmentation == "none":
        return windows
    flip_rows, flip_columns, transpose = rng.random((3, len(windows))) < 0.5
    windows[flip_rows] = windows[flip_rows, :, ::-1]
    windows[flip_columns] = windows[flip_columns, :, :, ::-1]
    if augmentation == "dihedral":
        windows[transpose] = windows[transpose].swapaxes(2, 3)
    return windows
