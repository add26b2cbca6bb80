"""Cutting a plane into tiles and putting the answers back together; every pixel is covered."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.preprocess.spec import TileSpec
from edge.types import FloatImage


class Tiling:
    """The windows of one plane. Borders are mirrored; the last window of a row or column is shifted inwards,
    so that a plane larger than a tile is never padded by more than the margin."""

    def __init__(self, height: int, width: int, spec: TileSpec) -> None:
        self.height, self.width, self.spec = height, width, spec
        self.ys = _starts(height, spec)
        self.xs = _starts(width, spec)

    def __len__(self) -> int:
        return len(self.ys) * len(self.xs)

    def pad(self, plane: FloatImage) -> FloatImage:
        """The plane with its mirrored borders; the origin of window i is `origin(i)` in it."""
        margin, keep = self.spec.margin_px, self.spec.keep_px
        return cv2.copyMakeBorder(  # type: ignore[return-value]  # float32 in, float32 out
            plane,
            margin, margin + max(0, keep - self.height),
            margin, margin + max(0, keep - self.width),
            cv2.BORDER_REFLECT_101,
        )  # fmt: skip

    def origin(self, index: int) -> tuple[int, int]:
        """(y, x) of a window's kept centre in the plane, and of its corner in the padded plane."""
        row, column = divmod(index, len(self.xs))
        return int(self.ys[row]), int(self.xs[column])

    def box(self, index: int) -> tuple[int, int, int, int]:
        """x, y, width, height of a window's kept centre in the plane, clipped to it."""
        y, x = self.origin(index)
        keep = self.spec.keep_px
        return x, y, min(keep, self.width - x), min(keep, self.height - y)

    def cut(self, padded: FloatImage, start: int, stop: int) -> FloatImage:
        """Windows start…stop as (n, 1, size, size) float32."""
        size = self.spec.size_px
        tiles = np.empty((stop - start, 1, size, size), np.float32)
        for k in range(start, stop):
            y, x = self.origin(k)
            tiles[k - start, 0] = padded[y : y + size, x : x + size]
        return tiles


class Stitcher:
    """Puts tile answers back into a plane; where kept centres overlap their mean counts."""

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling
        keep = tiling.spec.keep_px
        self._shape = max(tiling.height, keep), max(tiling.width, keep)
        self._sum: FloatImage | None = None  # (channels, h, w), once the number of channels is known
        rows = _coverage(tiling.ys, self._shape[0], keep)
        columns = _coverage(tiling.xs, self._shape[1], keep)
        self._weight = 1.0 / (rows[:, None] * columns[None, :])  # float32

    def add(self, start: int, answers: FloatImage) -> None:
        """Answers to windows start…, (n, channels, s, s) float32: s is the whole tile, or its kept centre."""
        keep = self.tiling.spec.keep_px
        margin = self.tiling.spec.margin_px if answers.shape[-1] > keep else 0
        if self._sum is None:
            self._sum = np.zeros((answers.shape[1], *self._shape), np.float32)
        for k, answer in enumerate(answers):
            y, x = self.tiling.origin(start + k)
            self._sum[:, y : y + keep, x : x + keep] += answer[
                :, margin : margin + keep, margin : margin + keep
            ]

    def result(self) -> FloatImage:
        """The stitched plane: (h, w) float32, or (channels, h, w) where there are several."""
        assert self._sum is not None, "no answers were added"
        whole = (self._sum * self._weight)[:, : self.tiling.height, : self.tiling.width]
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
