"""CLAHE that keeps the bit depth.

OpenCV's 16-bit CLAHE spreads its histogram over 65,536 bins, so the same clip limit means something else
than at 8 bits, and an 8-bit picture stored in 16 bits is equalised differently. Here the histogram has 256
bins whatever the depth, and the mapping is interpolated between them, so no grey level is lost.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.types import FloatImage

BINS = 256


def equalise(plane: FloatImage, clip: float, tiles: int) -> FloatImage:
    """Contrast-limited adaptive histogram equalisation of a (h, w) float32 plane in 0..1.

    Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV (1994): the histogram of
    each of tiles×tiles regions is clipped at `clip` times its mean bin, the excess is spread evenly, and the
    cumulative mappings of the four nearest regions are interpolated at each pixel.
    """
    height, width = plane.shape
    rows, columns = min(tiles, height), min(tiles, width)
    curves = _curves(plane, clip, rows, columns)  # (rows, columns, BINS + 1) float32
    value = plane * np.float32(BINS - 1)
    index = value.astype(np.int32)
    value -= index
    # where each pixel lies between region centres
    y = np.clip((np.arange(height, dtype=np.float32) + 0.5) * rows / height - 0.5, 0, rows - 1)
    x = np.clip((np.arange(width, dtype=np.float32) + 0.5) * columns / width - 0.5, 0, columns - 1)
    y0, x0 = y.astype(np.int32), x.astype(np.int32)
    out = np.empty_like(plane)
    for top in range(rows):
        (in_row,) = np.nonzero(y0 == top)
        for left in range(columns):
            (in_column,) = np.nonzero(x0 == left)
            if not (len(in_row) and len(in_column)):
                continue
            area = np.s_[in_row[0] : in_row[-1] + 1, in_column[0] : in_column[-1] + 1]
            wy, wx = (y[area[0]] - top)[:, None], (x[area[1]] - left)[None, :]
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            out[area] = (
                (1 - wy) * (1 - wx) * _apply(curves[top, left], index[area], value[area])
                + (1 - wy) * wx * _apply(curves[top, right], index[area], value[area])
                + wy * (1 - wx) * _apply(curves[below, left], index[area], value[area])
                + wy * wx * _apply(curves[below, right], index[area], value[area])
            )
    return out


def _curves(plane: FloatImage, clip: float, rows: int, columns: int) -> FloatImage:
    height, width = plane.shape
    curves = np.empty((rows, columns, BINS + 1), np.float32)
    for row in range(rows):
        for column in range(columns):
            region = plane[
                row * height // rows : (row + 1) * height // rows,
                column * width // columns : (column + 1) * width // columns,
            ]
            histogram = cv2.calcHist([np.ascontiguousarray(region)], [0], None, [BINS], [0.0, 1.0 + 1e-6])
            counts = histogram.ravel().astype(np.float64)
            limit = max(1.0, clip * region.size / BINS)
            excess = np.maximum(counts - limit, 0).sum()
            mapping = np.cumsum(np.minimum(counts, limit) + excess / BINS) / region.size
            curves[row, column, :BINS] = mapping
            curves[row, column, BINS] = mapping[-1]
    return curves


def _apply(curve: FloatImage, index: NDArray[np.int32], fraction: FloatImage) -> FloatImage:
    below = curve[index]
    return below + fraction * (curve[index + 1] - below)
