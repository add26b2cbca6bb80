"""What a network makes of whole planes: read in pieces, so that large ones need no more memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.learn.closed_form import Array
from edge.learn.datasets import mirrored
from edge.learn.labels import LabelledPlane

PIECE_PX = 1024  # large planes are read in pieces
AROUND_PX = 64  # of its surroundings that a piece is read with


@dataclass(frozen=True, slots=True)
class Grid:
    """Where there are features, and how planes are read."""

    stride_px: int
    one_piece: bool = False  # planes as they are: every place of a frame has its own model


def feature_maps(
    apply: Callable[[Tensor], Tensor], planes: Sequence[LabelledPlane], grid: Grid, play_px: int = 0
) -> Iterator[Array]:
    """What `apply` makes of every plane, (c, h, w) on the grid, in pieces; with play, of it moved as well.

    Planes are continued by mirroring, as tiles are.
    """
    ends = (-play_px, play_px) if play_px else ()
    moves = ((0, 0), *((y, x) for y in ends for x in ends))
    around = 0 if grid.one_piece else AROUND_PX
    cut = around // grid.stride_px
    for labelled in planes:
        height, width = labelled.plane.shape
        for top, left in _corners(height, width, grid.one_piece):
            rows, columns = _span(top, height, grid), _span(left, width, grid)
            for y, x in moves:
                piece = labelled.plane[np.ix_(mirrored(rows + y, height), mirrored(columns + x, width))]
                found = apply(torch.from_numpy(piece.astype(np.float32))[None, None])[0].double().numpy()
                yield found[:, cut : found.shape[1] - cut, cut : found.shape[2] - cut]


def _corners(height: int, width: int, one_piece: bool) -> Iterator[tuple[int, int]]:
    step = max(height, width) if one_piece else PIECE_PX
    for top in range(0, height, step):
        for left in range(0, width, step):
            yield top, left


def _span(start: int, length: int, grid: Grid) -> NDArray[np.int64]:
    """Indices of a piece and its surroundings, a multiple of the stride; they may reach beyond the plane."""
    side = length if grid.one_piece else min(PIECE_PX, length - start)
    side = max(grid.stride_px, side - side % grid.stride_px)  # a last incomplete place is left out
    around = 0 if grid.one_piece else AROUND_PX
    return np.arange(start - around, start + side + around)


def rows_of(maps: Array) -> Array:
    """(c, h, w) → (h·w, c)."""
    return maps.reshape(len(maps), -1).T


def common(rows: Array) -> Array:
    """(k, c) features with mean 0 → their covariance (c, c)."""
    return rows.T @ rows / len(rows)


def mean_of(arrays: Iterator[Array]) -> Array:
    """Mean of arrays of one shape, one in memory at a time."""
    total, count = next(arrays).copy(), 1
    for array in arrays:
        total += array
        count += 1
    return total / count
