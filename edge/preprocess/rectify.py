"""A flat thing seen at an angle, made square; and where it lies in the frame, for a `Placement`.

Points are pixel centres, as in OpenCV: (0, 0) is the middle of the first pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.types import FloatImage

Homography = NDArray[np.float64]  # (3, 3): frame pixels → rectified pixels

CORNERS = ("top left", "top right", "bottom right", "bottom left")
LEAST_BEND = 1e-3  # a corner with less (cross product over the largest span squared) is on a line
LEAST_SEEN = 0.98  # of what is to be rectified must lie in the frame: what is unseen cannot be called OK
MOST_SAMPLES = 8  # per rectified pixel and axis
MOST_SAMPLED_PX = 64_000_000  # in all; a picture that is larger itself has one sample a pixel
MOST_SIDE_PX = 32_766  # of OpenCV's warps
EDGES = np.array([[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1.0]])  # from pixel centres to the edges of pixels


def homography_from_points(points: Sequence[Sequence[float]], size_px: tuple[int, int]) -> Homography:
    """The (3, 3) map that brings four points to the corners of a (width, height) picture.

    `points` are (x, y) in frame pixels: top left, top right, bottom right, bottom left of what shall fill it.
    Given in another turn the picture is turned.

    Raises:
        DataError: they are not four corners of a convex shape in clockwise order; the message names them.
    """
    corners = np.array(points, np.float64) if len({len(point) for point in points}) == 1 else np.empty(0)
    if corners.shape != (4, 2) or not np.isfinite(corners).all():
        raise _refused(points, "they are not four finite (x, y) pairs")
    _refuse_degenerate(corners)
    width, height = _checked_size(size_px)
    target = _corners(width, height).astype(np.float32)
    # OpenCV takes float32, so the fit is made about the corners' centre, where they are small numbers
    centre = corners.mean(axis=0)
    fitted = cv2.getPerspectiveTransform((corners - centre).astype(np.float32), target)
    return _normalised(fitted @ np.array([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, 1]]))


def rectify(
    plane: FloatImage, homography: Homography, size_px: tuple[int, int], least_seen: float = LEAST_SEEN
) -> FloatImage:
    """A (h, w) plane under a homography, as (height, width) of `size_px`; beyond the plane it is 0.

    Where a rectified pixel covers several of the frame's, it is their mean: it is sampled that often along
    each axis (at most 8 times, less in a large picture: memory is bounded) and averaged over its area.

    Raises:
        DataError: the homography cannot be inverted, its horizon crosses the picture, or more than a
            fiftieth of it, between its corners' pixel centres, lies beyond the plane (frames of another size
            than the points were taken in).
    """
    width, height = _checked_size(size_px)
    to_frame = _inverse(homography)
    _mapped(to_frame, _outline(width, height))  # refuses a horizon
    _refuse_unseen(_mapped(to_frame, _corners(width, height)), plane.shape, least_seen)
    k = _samples(to_frame, width, height)
    fine = np.array([[k, 0, (k - 1) / 2], [0, k, (k - 1) / 2], [0, 0, 1]]) @ _normalised(homography)
    sampled = cv2.warpPerspective(
        plane, fine, (width * k, height * k), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    if k > 1:
        sampled = cv2.resize(sampled, (width, height), interpolation=cv2.INTER_AREA)
    return sampled.astype(np.float32, copy=False)


def edges_to_frame(homography: Homography) -> Homography:
    """(3, 3): rectified → frame, both counted from the outer edge of the first pixel, as boxes are.

    Raises:
        DataError: the homography cannot be inverted.
    """
    return np.asarray(EDGES @ _inverse(homography) @ np.linalg.inv(EDGES))


def _outline(width: int, height: int) -> NDArray[np.float64]:
    """(4, 2): the outer edges of a picture's pixels."""
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64) - 0.5


def _corners(width: int, height: int) -> NDArray[np.float64]:
    """(4, 2): the centres of a picture's corner pixels."""
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)


def _mapped(matrix: Homography, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) points under a homography; they must lie on one side of its horizon."""
    homogeneous = np.column_stack((points, np.ones(len(points)))) @ matrix.T
    depth = homogeneous[:, 2]
    if np.abs(depth).min() < 1e-9 * np.abs(depth).max() or (depth > 0).any() != (depth > 0).all():
        raise DataError(
            "the rectification's horizon crosses the picture",
            hint="give four points around what is to be rectified, nearer to each other",
            reason="rectify_horizon",
        )
    return np.asarray(homogeneous[:, :2] / depth[:, None])


def _inverse(homography: Homography) -> Homography:
    normal = _normalised(homography)
    # rows and columns have units of their own, so what is singular shows only once they are balanced
    balanced = normal / np.maximum(np.abs(normal).max(axis=0), 1e-300)
    balanced = balanced / np.maximum(np.abs(balanced).max(axis=1, keepdims=True), 1e-300)
    if abs(np.linalg.det(balanced)) < 1e-9:
        raise DataError(
            f"the homography {np.round(normal, 6).tolist()} cannot be inverted",
            hint="give four points instead, or three independent rows",
            reason="rectify_singular",
        )
    return np.asarray(np.linalg.inv(normal))


def _normalised(homography: Homography) -> Homography:
    matrix = np.asarray(homography, np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or not matrix.any():
        raise DataError(
            f"a homography has 3 × 3 finite numbers, not {np.shape(homography)}",
            hint="give nine numbers, row by row",
            reason="rectify_singular",
        )
    return np.asarray(matrix / np.abs(matrix).max() if matrix[2, 2] == 0 else matrix / matrix[2, 2])


def _samples(to_frame: Homography, width: int, height: int) -> int:
    """Samples per rectified pixel and axis, so that neighbouring samples are at most a frame pixel apart
    along the most shrunken of the picture's edges."""
    corners = _corners(width, height)
    there = _mapped(to_frame, corners)
    steps = [
        np.abs(_mapped(to_frame, corners + step) - there).max()
        for step in ([0.5, 0.0], [0.0, 0.5], [-0.5, 0.0], [0.0, -0.5])
    ]
    room = min(MOST_SIDE_PX // max(width, height), math.isqrt(MOST_SAMPLED_PX // (width * height)))
    wanted = math.ceil(2 * float(max(steps)) - 0.05)
    return max(1, min(wanted, MOST_SAMPLES, room))


def _refuse_unseen(corners: NDArray[np.float64], shape: tuple[int, ...], least_seen: float) -> None:
    height, width = shape
    wanted = abs(cv2.contourArea(corners.astype(np.float32)))
    frame = _outline(width, height).astype(np.float32)
    seen, _ = cv2.intersectConvexConvex(corners.astype(np.float32), frame)
    if seen < least_seen * wanted:
        spans = ", ".join(f"({x:.0f}, {y:.0f})" for x, y in corners)
        raise DataError(
            f"the rectification looks at {spans}, {1 - seen / wanted:.0%} of it beyond the frame's "
            f"{width} × {height} px",
            hint="take the four points in frames of this size",
            reason="rectify_beyond_frame",
        )


def _refuse_degenerate(corners: NDArray[np.float64]) -> None:
    """A convex shape in clockwise order (y points down) turns the same way at all its corners."""
    into, out = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    span = float(np.ptp(corners, axis=0).max())
    turns = (into[:, 0] * out[:, 1] - into[:, 1] * out[:, 0]) / max(span**2, 1e-12)
    flat = [name for name, turn in zip(CORNERS, turns, strict=True) if abs(turn) < LEAST_BEND]
    if flat:
        raise _refused(corners, f"{flat[0]} is on a line with its neighbours")
    if (turns < 0).all():
        raise _refused(corners, "they go anticlockwise, which would mirror the picture")
    if (turns < 0).sum() == 2:
        raise _refused(corners, "their outline crosses itself")
    if (turns < 0).any():
        raise _refused(corners, f"{CORNERS[int(turns.argmin())]} is inside the triangle of the others")


def _refused(points: Sequence[Sequence[float]] | NDArray[np.float64], why: str) -> DataError:
    if len(points) == 4:
        named = ", ".join(
            f"{name} ({', '.join(f'{value:g}' for value in point)})"
            for name, point in zip(CORNERS, points, strict=True)
        )
    else:
        named = f"{len(points)} given"
    return DataError(
        f"the points cannot be rectified: {why}: {named}",
        hint="give top left, top right, bottom right, bottom left in frame pixels, in this order",
        reason="rectify_points",
    )


def _checked_size(size_px: tuple[int, int]) -> tuple[int, int]:
    width, height = size_px
    if not 2 <= min(width, height) <= max(width, height) <= MOST_SIDE_PX:
        raise DataError(
            f"a rectified picture of {width} × {height} px cannot be made",
            hint=f"each side needs 2 to {MOST_SIDE_PX} px",
            reason="rectify_size",
        )
    return width, height
