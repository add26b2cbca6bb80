"""Cutting a plane into tiles and putting the answers back together; every pixel is covered."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.preprocess.spec import TileSpec
from edge.types import FloatImage, Mask, TileArray

# Of `whole` windows: two in flight fit into the memory that the daemon keeps to; and where a plane needs
# several, each pixel's answer comes from the window whose border is farther away.
MOST_WINDOW_PIXELS = 1 << 21
WINDOW_OVERLAP_PX = 128


class Tiling:
    """The windows of one plane. Borders are mirrored; the last window of a row or column is shifted inwards,
    so that a plane larger than a tile is never padded by more than the margin.

    With `whole` the windows are as few as have at most MOST_WINDOW_PIXELS, and not square.
    """

    def __init__(self, height: int, width: int, spec: TileSpec) -> None:
        self.height, self.width, self.spec = height, width, spec
        self.margin = spec.margin_px
        self.window = (spec.size_px, spec.size_px)  # height, width of what the network sees
        if spec.whole:
            rows, columns = _fewest(height, width, self.margin, spec.whole_px)
            self.window = (
                _side(height, rows, self.margin, spec.whole_px),
                _side(width, columns, self.margin, spec.whole_px),
            )
        self.keep = self.window[0] - 2 * self.margin, self.window[1] - 2 * self.margin
        if spec.whole:
            self.ys, self.xs = _spread(height, rows, self.keep[0]), _spread(width, columns, self.keep[1])
        else:
            self.ys, self.xs = _starts(height, spec), _starts(width, spec)

    def __len__(self) -> int:
        return len(self.ys) * len(self.xs)

    def pad(self, plane: TileArray) -> TileArray:
        """The plane with its mirrored borders; the origin of window i is `origin(i)` in it."""
        below, right = max(0, self.keep[0] - self.height), max(0, self.keep[1] - self.width)
        if not (self.margin or below or right):
            return plane
        return cv2.copyMakeBorder(  # type: ignore[return-value]  # its own type in and out
            plane, self.margin, self.margin + below, self.margin, self.margin + right, cv2.BORDER_REFLECT_101
        )

    def origin(self, index: int) -> tuple[int, int]:
        """(y, x) of a window's kept centre in the plane, and of its corner in the padded plane."""
        row, column = divmod(index, len(self.xs))
        return int(self.ys[row]), int(self.xs[column])

    def box(self, index: int) -> tuple[int, int, int, int]:
        """x, y, width, height of a window's kept centre in the plane, clipped to it."""
        y, x = self.origin(index)
        return x, y, min(self.keep[1], self.width - x), min(self.keep[0], self.height - y)

    def cut(self, padded: TileArray, start: int, stop: int) -> TileArray:
        """Windows start…stop as (n, 1, h, w) of the plane's type; see `cut_these`."""
        return self.cut_these(padded, np.arange(start, stop))

    def cut_these(self, padded: TileArray, windows: NDArray[np.intp]) -> TileArray:
        """Those windows as (n, 1, h, w) of the plane's type; a single one may be a view of the plane."""
        height, width = self.window
        if len(windows) == 1:
            y, x = self.origin(int(windows[0]))
            return np.ascontiguousarray(padded[y : y + height, x : x + width])[None, None]
        tiles = np.empty((len(windows), 1, height, width), padded.dtype)
        for tile, window in zip(tiles, windows, strict=True):
            y, x = self.origin(int(window))
            tile[0] = padded[y : y + height, x : x + width]
        return tiles

    def seen(self, foreground: Mask) -> NDArray[np.intp]:
        """The windows whose kept centre has foreground: of the others nothing is asked."""
        covered = cv2.integral(foreground.astype(np.uint8))
        boxes = np.array([self.box(i) for i in range(len(self))], np.intp)
        x, y, w, h = boxes.T
        inside = covered[y + h, x + w] - covered[y, x + w] - covered[y + h, x] + covered[y, x]
        return np.flatnonzero(inside > 0)


class Stitcher:
    """Puts tile answers back into a plane. Where the kept centres of squares overlap their mean counts; where
    those of `whole` windows do, the window whose border is farther away. A window without an answer is zero.
    """

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling
        self._shape = max(tiling.height, tiling.keep[0]), max(tiling.width, tiling.keep[1])
        self._sum: FloatImage | None = None  # (channels, h, w), once the number of channels is known
        self._weight: FloatImage | None = None
        if not tiling.spec.whole:
            rows = _coverage(tiling.ys, self._shape[0], tiling.keep[0])
            columns = _coverage(tiling.xs, self._shape[1], tiling.keep[1])
            self._weight = 1.0 / (rows[:, None] * columns[None, :])  # float32
        self._own = (
            _shares(tiling.ys, tiling.height, tiling.keep[0]),
            _shares(tiling.xs, tiling.width, tiling.keep[1]),
        )

    def add(self, start: int, answers: FloatImage) -> None:
        """Answers to windows start…, (n, channels, h, w) float32: of the whole tile, or its kept centre."""
        self.add_these(range(start, start + len(answers)), answers)

    def add_these(self, windows: range | NDArray[np.intp], answers: FloatImage) -> None:
        """As `add`, for any windows."""
        tall, wide = self.tiling.keep
        margin = self.tiling.margin if answers.shape[-1] > wide else 0
        kept = answers[:, :, margin : margin + tall, margin : margin + wide]
        if self._weight is None:
            self._place(windows, kept)
            return
        if self._sum is None:
            self._sum = np.zeros((answers.shape[1], *self._shape), np.float32)
        for window, answer in zip(windows, kept, strict=True):
            y, x = self.tiling.origin(int(window))
            self._sum[:, y : y + tall, x : x + wide] += answer

    def _place(self, windows: range | NDArray[np.intp], kept: FloatImage) -> None:
        if len(self.tiling) == 1:  # nothing to put together
            self._sum = kept[0]
            return
        if self._sum is None:
            self._sum = np.zeros((kept.shape[1], self.tiling.height, self.tiling.width), np.float32)
        for window, answer in zip(windows, kept, strict=True):
            row, column = divmod(int(window), len(self.tiling.xs))
            y, x = self.tiling.origin(int(window))
            (top, bottom), (left, right) = self._own[0][row], self._own[1][column]
            self._sum[:, top:bottom, left:right] = answer[:, top - y : bottom - y, left - x : right - x]

    def result(self) -> FloatImage:
        """The stitched plane: (h, w) float32, or (channels, h, w) where there are several."""
        if self._sum is None:  # of no window was anything asked
            self._sum = np.zeros((1, *self._shape), np.float32)
        whole = self._sum if self._weight is None else self._sum * self._weight
        whole = whole[:, : self.tiling.height, : self.tiling.width]
        return np.ascontiguousarray(whole[0] if len(whole) == 1 else whole)


def _starts(length: int, spec: TileSpec) -> NDArray[np.int64]:
    last = max(0, length - spec.keep_px)
    starts = np.arange(0, last + 1, spec.step_px)
    return starts if starts[-1] == last else np.append(starts, last)


def _coverage(starts: NDArray[np.int64], length: int, keep: int) -> FloatImage:
    counts = np.zeros(length, np.float32)
    for start in starts:
        counts[start : start + keep] += 1
    return counts


@lru_cache(64)
def _fewest(height: int, width: int, margin: int, multiple: int) -> tuple[int, int]:
    """(rows, columns) of `whole` windows that compute the fewest pixels; of equals, the fewest windows."""
    least, best = math.inf, (1, 1)
    for rows in range(1, 1 + math.ceil(height / WINDOW_OVERLAP_PX)):
        tall = _side(height, rows, margin, multiple)
        for columns in range(1, 1 + math.ceil(width / WINDOW_OVERLAP_PX)):
            pixels = tall * _side(width, columns, margin, multiple)
            if pixels > MOST_WINDOW_PIXELS:
                continue
            cost = rows * columns * pixels * (1 + 1e-6 * rows * columns)
            if cost < least:
                least, best = cost, (rows, columns)
            break  # more columns only add overlaps
    return best


def _side(length: int, count: int, margin: int, multiple: int) -> int:
    """Of one of `count` overlapping windows that cover a length, with its margins."""
    kept = math.ceil((length + (count - 1) * WINDOW_OVERLAP_PX) / count)
    return math.ceil((kept + 2 * margin) / multiple) * multiple


def _spread(length: int, count: int, keep: int) -> NDArray[np.int64]:
    return np.round(np.linspace(0, max(0, length - keep), count)).astype(np.int64)


def _shares(starts: NDArray[np.int64], length: int, keep: int) -> list[tuple[int, int]]:
    """What of a length each window answers for: overlaps are shared half and half."""
    inner = [int(after + before + keep) // 2 for before, after in pairwise(starts)]
    edges = [0, *inner, length]
    return list(pairwise(edges))
