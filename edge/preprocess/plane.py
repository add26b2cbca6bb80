"""Picture → plane: grey, window, resize, illumination, CLAHE; pure functions of arrays and a spec."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.preprocess.clahe import equalise
from edge.preprocess.spec import PreprocessSpec
from edge.types import FloatImage, Picture

# Luma weights of R, G, B: ITU-R BT.601-7 §2.5.1, BT.709-6 §3.2
GRAY_WEIGHTS = {
    "bt601": (0.299, 0.587, 0.114),
    "bt709": (0.2126, 0.7152, 0.0722),
    "mean": (1 / 3, 1 / 3, 1 / 3),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
}


def to_plane(
    picture: Picture, spec: PreprocessSpec, value_range: tuple[float, float] | None = None
) -> FloatImage:
    """The (h, w) float32 plane in 0..1 that is cut into tiles.

    `value_range` (black, white) in stored values goes before the spec's, and that before what the file
    declares: a scanner that writes 12 bits into 16 may be replaced by one that does not.

    Raises:
        DataError: the pixels cannot be brought to a plane (not finite, wrong dimensions).
    """
    low, high = value_range or spec.value_range or (picture.low, picture.high)
    gray = to_gray(picture.pixels, spec.gray)
    if not np.isfinite(gray).all():
        raise DataError("the frame has pixels that are not finite numbers", reason="pixels_not_finite")
    if spec.window == "percentile":
        a, b = np.percentile(gray, spec.percentiles)
        low, high = (a, b) if low <= high else (b, a)
    plane = window(gray, float(low), float(high))
    plane = resize(plane, spec)
    if spec.illumination == "median":
        plane = divide_by_median(plane)
    if spec.clahe is not None:
        plane = equalise(plane, spec.clahe.clip, spec.clahe.tiles)
    return np.ascontiguousarray(plane)


def to_gray(pixels: NDArray[Any], rule: str) -> FloatImage:
    """(h, w) or (h, w, 3) RGB stored values → (h, w) float32 stored values by the declared rule."""
    if pixels.ndim == 2:
        return pixels.astype(np.float32)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(f"cannot make grey of pixels of shape {pixels.shape}", reason="unsupported_format")
    weights = np.asarray(GRAY_WEIGHTS[rule], np.float32)
    return cv2.transform(pixels.astype(np.float32), weights[None, :])  # type: ignore[return-value]  # one channel


def window(gray: FloatImage, low: float, high: float) -> FloatImage:
    """Stored values → 0..1, clipped; `low > high` turns the picture around. A flat window gives zeros."""
    if high == low:
        return np.zeros_like(gray)
    plane = (gray - np.float32(low)) * np.float32(1.0 / (high - low))
    return np.clip(plane, 0.0, 1.0, out=plane)


def resize(plane: FloatImage, spec: PreprocessSpec) -> FloatImage:
    """To the spec's size or scale: area averaging down, linear up."""
    height, width = plane.shape
    if spec.size_px is not None:
        new_width, new_height = spec.size_px
    else:
        new_width, new_height = max(1, round(width * spec.scale)), max(1, round(height * spec.scale))
    if (new_width, new_height) == (width, height):
        return plane
    shrinks = new_width * new_height < width * height
    return cv2.resize(  # type: ignore[return-value]  # float32 in, float32 out
        plane, (new_width, new_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def divide_by_median(plane: FloatImage) -> FloatImage:
    """Brings the median to 0.5, so that exposure and gain fall out; values above 1 are clipped."""
    median = float(np.median(plane))
    if median <= 0:
        return plane
    scaled: FloatImage = plane * np.float32(0.5 / median)
    return np.clip(scaled, 0.0, 1.0, out=scaled)
