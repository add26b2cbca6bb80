"""How sharp a picture is, whatever it shows: held against good frames, a lens out of focus is seen."""

from __future__ import annotations

import math

import numpy as np

from edge.types import FloatImage, Mask, TileArray

NEAR_PX, FAR_PX = 1, 8  # chosen by trial: `python -m bench.picture_gates --measures`, docs/drift.md
SAMPLED_PX = 1_000_000  # of a plane, about: whole rows, spread evenly
LEAST_PX = 64  # pairs of pixels, along either axis


def sharpness(plane: TileArray, foreground: Mask | None = None) -> float | None:
    """RMS difference of neighbours over that of pixels 8 apart, along x and along y: the smaller, above 0.

    A ratio of two points of the structure function: contrast, brightness and the scale of the numbers divide
    out. Blur takes it down, along one axis if it is of motion; noise and enlargement move it, too. Only pairs
    within the foreground count. None: too small, or flat.
    """
    height, width = plane.shape
    if min(height, width) <= FAR_PX:
        return None
    rows = np.arange(0, height - FAR_PX, max(1, plane.size // SAMPLED_PX))
    here = plane[rows].astype(np.float32)
    inside = None if foreground is None else foreground[rows]
    along: list[float | None] = []
    for axis in (0, 1):
        near, far = (
            _rms_difference(plane, foreground, rows, here, inside, axis, d) for d in (NEAR_PX, FAR_PX)
        )
        along.append(near / far if near is not None and far else None)
    known = [one for one in along if one is not None and one > 0]
    return min(known) if len(known) == len(along) else None


def _rms_difference(
    plane: TileArray,
    foreground: Mask | None,
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
    here: FloatImage,
    inside: Mask | None,
    axis: int,
    apart_px: int,
) -> float | None:
    """Of pixels `apart_px` apart along an axis, in the sampled rows."""
    if axis:
        difference = here[:, apart_px:] - here[:, :-apart_px]
        both = None if inside is None else inside[:, apart_px:] & inside[:, :-apart_px]
    else:
        difference = plane[rows + apart_px].astype(np.float32) - here
        both = None if inside is None or foreground is None else inside & foreground[rows + apart_px]
    values = difference.ravel() if both is None else difference[both]
    if values.size < LEAST_PX:
        return None
    square = float(np.dot(values, values)) / values.size
    return math.sqrt(square) if math.isfinite(square) else None
