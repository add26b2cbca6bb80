"""Picture → plane: grey, window, rectify, resize, mask, illumination, CLAHE; pure functions of arrays and a
spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.preprocess.clahe import equalise
from edge.preprocess.foreground import (
    close,
    from_probability,
    k_means,
    masked,
    otsu,
    watershed,
    without_specks,
)
from edge.preprocess.rectify import edges_to_frame, homography_from_points, rectify
from edge.preprocess.spec import ANY_VIEW, MaskSpec, PreprocessSpec, Rectify
from edge.types import DEFAULT_VIEW, GREATEST, FloatImage, Mask, Picture, TileArray, as_float

# Luma weights of R, G, B: ITU-R BT.601-7 §2.5.1, BT.709-6 §3.2
GRAY_WEIGHTS = {
    "bt601": (0.299, 0.587, 0.114),
    "bt709": (0.2126, 0.7152, 0.0722),
    "mean": (1 / 3, 1 / 3, 1 / 3),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Aids:
    """What some recipes need besides the picture."""

    view: str | None = None
    segment: Callable[[FloatImage], FloatImage] | None = None  # plane → probability of foreground, any size
    mean_masks: Mapping[str, FloatImage] = field(default_factory=dict)  # view → share of good frames, (h, w)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture as the engine shall see it."""

    grey: TileArray  # (h, w) float32 in 0..1, 0 outside the foreground; or as stored, see `is_as_stored`
    foreground: Mask | None = None  # (h, w); None: the recipe masks nothing
    to_frame: NDArray[np.float64] | None = None  # (3, 3) plane → frame pixels; None: only resized

    @property
    def plane(self) -> FloatImage:
        """(h, w) float32 in 0..1."""
        return as_float(self.grey)


NO_AIDS = Aids()
AS_IT_IS = PreprocessSpec()  # neither resized nor anything else
BAND_PIXELS = 1 << 17  # 512 kB of float32
LARGEST, NARROWEST = 1e37, 1e-37  # of a value range: what float32 can still be scaled by


def to_plane(
    picture: Picture, spec: PreprocessSpec, value_range: tuple[float, float] | None = None
) -> FloatImage:
    """The (h, w) float32 plane in 0..1 that is cut into tiles; see `prepare`."""
    return prepare(picture, spec, value_range).plane


def prepare(
    picture: Picture,
    spec: PreprocessSpec,
    value_range: tuple[float, float] | None = None,
    aids: Aids = NO_AIDS,
) -> Prepared:
    """Picture → plane and foreground.

    `value_range` (black, white) in stored values goes before the spec's, and that before what the file
    declares: a scanner that writes 12 bits into 16 may be replaced by one that does not.

    Raises:
        DataError: the pixels cannot be brought to a plane (not finite, wrong dimensions, a range that cannot
            be scaled by), or the view has no rectification or mask.
    """
    low, high = value_range or spec.value_range or (picture.low, picture.high)
    if spec.window == "percentile":
        gray = to_gray(picture.pixels, spec.gray)
        check_finite(gray)
        a, b = np.percentile(gray, spec.percentiles)
        low, high = (a, b) if low <= high else (b, a)
    check_range(float(low), float(high))
    if is_as_stored(picture.pixels, spec, float(low), float(high)):
        return Prepared(np.ascontiguousarray(picture.pixels))
    to_frame: NDArray[np.float64] | None = None
    tall, wide = (*picture.pixels.shape, 0)[:2]
    if spec.rectify is None:
        plane = windowed(picture.pixels, spec, float(low), float(high))
    else:
        homography = homography_of(spec.rectify, aids.view)
        plane = windowed(
            picture.pixels, AS_IT_IS.model_copy(update={"gray": spec.gray}), float(low), float(high)
        )
        plane = rectify(plane, homography, spec.rectify.size_px)
        to_frame = edges_to_frame(homography)
        tall, wide = plane.shape
        plane = resize(plane, spec)
    scaled = np.diag([wide / plane.shape[1], tall / plane.shape[0], 1.0])
    if spec.fit == "pad" and spec.size_px is not None:
        plane, corner = padded(plane, spec.size_px)
        scaled = scaled @ np.array([[1.0, 0.0, -corner[0]], [0.0, 1.0, -corner[1]], [0.0, 0.0, 1.0]])
        to_frame = np.eye(3) if to_frame is None else to_frame
    if to_frame is not None:
        to_frame = to_frame @ scaled
    foreground = None if spec.mask is None else find_foreground(plane, spec.mask, aids)
    if spec.illumination == "median":
        plane = divide_by_median(plane, foreground)
    if foreground is not None:
        plane = masked(plane, foreground)
    if spec.clahe is not None:
        plane = equalise(plane, spec.clahe.clip, spec.clahe.tiles)
        if foreground is not None:
            plane = masked(plane, foreground)  # equalisation lifts the background's zeros
    return Prepared(np.ascontiguousarray(plane), foreground, to_frame)


def is_as_stored(pixels: NDArray[Any], spec: PreprocessSpec, low: float, high: float) -> bool:
    """Whether stored values are the plane's already, as shares of their type's greatest value.

    Nothing is to be done to them then, and engines scale them themselves.
    """
    most = GREATEST.get(pixels.dtype.name)
    does_nothing = (
        spec.window == "declared" and spec.illumination == "none"
        and spec.rectify is None and spec.mask is None and spec.clahe is None and spec.fit == "stretch"
    )  # fmt: skip
    if pixels.ndim != 2 or most is None or (low, high) != (0.0, float(most)) or not does_nothing:
        return False
    return new_size(pixels.shape[0], pixels.shape[1], spec) == pixels.shape[::-1]


def homography_of(spec: Rectify, view: str | None) -> NDArray[np.float64]:
    """(3, 3) frame → rectified pixels of a view.

    Raises:
        DataError: neither the view nor any ("*") has one.
    """
    for key in (view or DEFAULT_VIEW, ANY_VIEW):
        if key in spec.homographies:
            return np.array(spec.homographies[key], np.float64).reshape(3, 3)
        if key in spec.points:
            return homography_from_points(spec.points[key], spec.size_px)
    known = ", ".join(sorted({*spec.points, *spec.homographies}))
    raise DataError(
        f"view {view or DEFAULT_VIEW} has no rectification; there are some for {known}",
        hint='give it four points, or points for "*"',
        reason="view_not_rectified",
    )


def find_foreground(plane: FloatImage, spec: MaskSpec, aids: Aids) -> Mask:
    """(h, w) True where the part is, closed and without specks; all False where nothing was found.

    Raises:
        DataError: the view has no mean mask.
    """
    if spec.method == "unet":
        assert aids.segment is not None, "prepare_file opens the network of such recipes"
        mask = from_probability(aids.segment(plane), plane.shape, spec.threshold)
    elif spec.method == "mean":
        mean = aids.mean_masks.get(aids.view or DEFAULT_VIEW)
        if mean is None:
            raise DataError(
                f"view {aids.view or DEFAULT_VIEW} has no mean mask; there are some for "
                f"{', '.join(sorted(aids.mean_masks)) or 'none'}",
                hint="learn the recipe with good frames of that view",
                reason="view_not_masked",
            )
        mask = from_probability(mean, plane.shape, spec.threshold)
    elif spec.method == "kmeans":
        mask = k_means(plane, spec.clusters, spec.polarity)
    elif spec.method == "watershed":
        mask = watershed(plane, spec.polarity)
    else:
        mask = otsu(plane, spec.polarity)
    if spec.close_px:
        mask = close(mask, spec.close_px, spec.close_times)
    return without_specks(mask, spec.min_area_ratio)


def windowed(pixels: NDArray[Any], spec: PreprocessSpec, low: float, high: float) -> FloatImage:
    """(h, w) or (h, w, 3) stored values → grey, windowed and resized plane.

    It goes by bands of rows that fit into the cache: a large frame is never there as float32 in full size,
    unless its rows cannot be averaged apart from each other.

    Raises:
        DataError: "pixels_not_finite", or what `to_gray` says.
    """
    if pixels.ndim not in (2, 3):
        raise DataError(f"cannot make grey of pixels of shape {pixels.shape}", reason="unsupported_format")
    height, width = pixels.shape[:2]
    new_width, new_height = new_size(height, width, spec)
    rows, columns = height // new_height, width // new_width
    apart = (rows * new_height, columns * new_width) == (height, width)  # each new row is of rows of its own
    if not apart:
        rows, (new_height, new_width) = 1, (height, width)
    plane: FloatImage = np.empty((new_height, new_width), np.float32)
    band = max(1, BAND_PIXELS // (width * rows))  # of new rows
    for top in range(0, new_height, band):
        stop = min(new_height, top + band)
        gray = to_gray(pixels[top * rows : stop * rows], spec.gray)
        if pixels.dtype.kind == "f":
            check_finite(gray)
        gray = window(gray, low, high)
        if gray.shape != (stop - top, new_width):
            gray = cv2.resize(gray, (new_width, stop - top), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]  # float32
        plane[top:stop] = gray
    return plane if apart else resize(plane, spec)


def to_gray(pixels: NDArray[Any], rule: str) -> FloatImage:
    """(h, w) or (h, w, 3) RGB stored values → (h, w) float32 stored values by the declared rule."""
    if pixels.ndim == 2:
        return pixels.astype(np.float32)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(f"cannot make grey of pixels of shape {pixels.shape}", reason="unsupported_format")
    weights = np.asarray(GRAY_WEIGHTS[rule], np.float32)
    return cv2.transform(pixels.astype(np.float32), weights[None, :])  # type: ignore[return-value]  # one channel


def check_finite(gray: FloatImage) -> None:
    """Raises DataError "pixels_not_finite" where a pixel is NaN or infinite."""
    if not np.isfinite(gray).all():
        raise DataError("the frame has pixels that are not finite numbers", reason="pixels_not_finite")


def check_range(low: float, high: float) -> None:
    """Refuse black and white that would make a plane of infinities.

    Raises:
        DataError: "range_unusable".
    """
    if not (abs(low) <= LARGEST and abs(high) <= LARGEST and (low == high or abs(high - low) >= NARROWEST)):
        raise DataError(
            f"black at {low:g} and white at {high:g} cannot be scaled by",
            hint="mend what the file declares, or set value_range in the source",
            reason="range_unusable",
        )


def window(gray: FloatImage, low: float, high: float) -> FloatImage:
    """Stored values → 0..1, clipped; `low > high` turns the picture around. A flat window gives zeros."""
    if high == low:
        return np.zeros_like(gray)
    plane = (gray - np.float32(low)) * np.float32(1.0 / (high - low))
    return np.clip(plane, 0.0, 1.0, out=plane)


def resize(plane: FloatImage, spec: PreprocessSpec) -> FloatImage:
    """To the spec's size or scale: area averaging down, linear up. To be padded: as large as fits into it."""
    height, width = plane.shape
    new_width, new_height = new_size(height, width, spec)
    if (new_width, new_height) == (width, height):
        return plane
    shrinks = new_width * new_height < width * height
    return cv2.resize(  # type: ignore[return-value]  # float32 in, float32 out
        plane, (new_width, new_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def new_size(height: int, width: int, spec: PreprocessSpec) -> tuple[int, int]:
    """(width, height) that frames of a size are brought to, before any padding."""
    if spec.size_px is None:
        return max(1, round(width * spec.scale)), max(1, round(height * spec.scale))
    new_width, new_height = spec.size_px
    if spec.fit == "pad":
        factor = min(new_width / width, new_height / height)
        return max(1, round(width * factor)), max(1, round(height * factor))
    return new_width, new_height


def padded(plane: FloatImage, size_px: tuple[int, int]) -> tuple[FloatImage, tuple[int, int]]:
    """The plane in the middle of a black one of (width, height) `size_px`, and its corner there, (x, y)."""
    width, height = size_px
    left, top = (width - plane.shape[1]) // 2, (height - plane.shape[0]) // 2
    around: FloatImage = np.zeros((height, width), np.float32)
    around[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return around, (left, top)


def divide_by_median(plane: FloatImage, foreground: Mask | None = None) -> FloatImage:
    """Brings the median (of the foreground) to 0.5, so that exposure and gain fall out; values above 1 are
    clipped."""
    seen = plane if foreground is None else plane[foreground]
    median = float(np.median(seen)) if seen.size else 0.0
    if median <= 0:
        return plane
    scaled: FloatImage = plane * np.float32(0.5 / median)
    return np.clip(scaled, 0.0, 1.0, out=scaled)
