"""Test defects of known size and contrast, planted in prepared planes: plain shapes with a soft edge.

They are what a recipe is tested with, so they share nothing with what networks learn from
(`edge.learn.anomalies`): an ellipse or a straight line through optics of one known blur. Most add to what is
under them, as shade or a pore does; an opaque spot, dark or bright, hides the texture under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from edge.types import Box, FloatImage, Mask

Shape = Literal["dark spot", "bright spot", "opaque spot", "line"]

SHAPES: tuple[Shape, ...] = ("dark spot", "bright spot", "opaque spot", "line")
# diameters of spots and widths of lines, in pixels of the plane
SPOTS_PX = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
SIZES_PX: dict[Shape, tuple[float, ...]] = {
    "dark spot": SPOTS_PX,
    "bright spot": SPOTS_PX,
    "opaque spot": SPOTS_PX,
    "line": (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
}
CONTRASTS = (0.02, 0.04, 0.08, 0.16, 0.32)  # of the full scale
LINE_PX = 48.0  # length
EDGE_PX = 0.7  # standard deviation of the edge's blur
FLATTEST = 0.6  # short over long axis of a spot
INSIDE = 0.5  # of the cover: from here on a pixel belongs to the defect
SURROUNDINGS_PX = 64  # the least window whose standard deviation is the place's
LEAST_STD = 0.5 / 255
LEAST_ROOM = 0.7  # of the contrast wanted: less is left over where the place is black or white already
MOST_OF_SIDE = 0.25  # a defect's size against the plane's shorter side
TRIES = 12


@dataclass(frozen=True, slots=True)
class Wanted:
    """A test defect before it has a place."""

    shape: Shape
    size_px: float  # diameter of a spot (of the circle of its area), width of a line; in the plane
    contrast: float  # of the full scale


@dataclass(frozen=True, slots=True)
class Planted:
    """A test defect in a plane."""

    wanted: Wanted
    box: Box  # around the pixels that belong to it
    contrast: float  # as it came out: less than wanted where the scale ends
    local_std: float  # of the good plane around it
    touched: Box  # around every pixel that changed
    pixels: FloatImage  # the plane inside `touched`, with the defect


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a test defect lies and how it is turned."""

    x: float
    y: float
    turn: float = 0.0  # of the long axis, in radians
    ratio: float = 1.0  # short over long axis of a spot
    length_px: float = LINE_PX  # of a line


def random_defect(rng: np.random.Generator) -> Wanted:
    """Of any shape, size and contrast that test defects have."""
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    return Wanted(shape, float(rng.choice(SIZES_PX[shape])), float(rng.choice(CONTRASTS)))


def plant(
    plane: FloatImage, wanted: Wanted, rng: np.random.Generator, foreground: Mask | None = None
) -> Planted | None:
    """The defect somewhere in a plane (h, w) in 0..1, all of it in sight, its middle on the foreground if
    there is one; None where no place of those tried has room for the contrast."""
    h, w = plane.shape
    if wanted.size_px > MOST_OF_SIDE * min(h, w):
        return None
    for _ in range(TRIES):
        pose = Pose(0, 0, rng.uniform(0, math.pi), rng.uniform(FLATTEST, 1), min(LINE_PX, min(h, w) / 2))
        either = int(rng.choice((-1, 1)))
        sign = {"dark spot": -1, "bright spot": 1}.get(wanted.shape, either)
        middle = _middle((h, w), _half_extent(wanted, pose), rng, foreground)
        if middle is None:
            continue
        planted = planted_at(plane, wanted, replace(pose, x=middle[0], y=middle[1]), sign, foreground)
        if planted.contrast >= LEAST_ROOM * wanted.contrast:
            return planted
    return None


def planted_at(
    plane: FloatImage, wanted: Wanted, pose: Pose, sign: int, foreground: Mask | None = None
) -> Planted:
    """The defect at a place of a plane (h, w) in 0..1, brighter by its contrast, or (sign −1) darker.

    Outside a foreground nothing changes: its middle must be on it.
    """
    h, w = plane.shape
    reach = math.ceil(max(_half_extent(wanted, pose)) + 4 * EDGE_PX + 1)
    left, top, side = math.floor(pose.x) - reach, math.floor(pose.y) - reach, 2 * reach + 2
    drawn = cover(wanted, side, replace(pose, x=pose.x - left, y=pose.y - top))
    x0, y0, x1, y1 = max(0, left), max(0, top), min(w, left + side), min(h, top + side)
    drawn = drawn[y0 - top : y1 - top, x0 - left : x1 - left]
    if foreground is not None:
        drawn = drawn * foreground[y0:y1, x0:x1]
    before = plane[y0:y1, x0:x1]
    change = np.full_like(before, sign * wanted.contrast)
    if wanted.shape == "opaque spot":
        change += before.mean() - before
    after = np.clip(before + change * drawn, 0, 1).astype(np.float32)
    inside = drawn >= INSIDE
    ys, xs = np.nonzero(inside)
    box = (x0 + int(xs.min()), y0 + int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
    # of a pixel that has all of it: that its edge is soft makes no defect fainter
    if wanted.shape == "opaque spot":
        middle = float(before.mean())
        contrast = abs(float(np.clip(middle + sign * wanted.contrast, 0, 1)) - middle)
    else:
        contrast = float(np.abs(after - before)[inside].sum() / drawn[inside].sum())
    return Planted(wanted, box, contrast, local_std(plane, box), (x0, y0, x1 - x0, y1 - y0), after)


def cover(wanted: Wanted, side_px: int, pose: Pose) -> FloatImage:
    """(side, side) float32 in 0..1: how much of the defect each pixel has, 1 in its middle.

    The outline is drawn to a fraction of a pixel, blurred by EDGE_PX, and scaled back to 1, so that a small
    defect has the contrast that is said of it.
    """
    y, x = np.mgrid[:side_px, :side_px].astype(np.float64)
    dx, dy = x - pose.x, y - pose.y
    along = dx * math.cos(pose.turn) + dy * math.sin(pose.turn)
    across = dy * math.cos(pose.turn) - dx * math.sin(pose.turn)
    if wanted.shape == "line":
        beyond = np.maximum(np.abs(along) - max(0.0, pose.length_px - wanted.size_px) / 2, 0)
        outside_px = np.hypot(beyond, across) - wanted.size_px / 2
    else:
        a, b = _axes(wanted, pose)
        norm = np.hypot(along / a, across / b)
        slope = np.hypot(along / a**2, across / b**2)
        outside_px = np.where(norm > 1e-9, (norm - 1) * norm / np.maximum(slope, 1e-9), -b)  # to first order
    hard = np.clip(0.5 - outside_px, 0, 1).astype(np.float32)
    soft = cv2.GaussianBlur(hard, (0, 0), EDGE_PX, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(soft / max(1e-6, float(soft.max())), np.float32)


def with_defect(plane: FloatImage, planted: Planted) -> FloatImage:
    """A copy of the plane (h, w) with the defect in it."""
    x, y, w, h = planted.touched
    changed = plane.copy()
    changed[y : y + h, x : x + w] = planted.pixels
    return changed


def local_std(plane: FloatImage, box: Box) -> float:
    """Standard deviation of a plane in and around a box."""
    x, y, w, h = box
    wide, tall = max(w, (SURROUNDINGS_PX - w) // 2), max(h, (SURROUNDINGS_PX - h) // 2)
    around = plane[max(0, y - tall) : y + h + tall, max(0, x - wide) : x + w + wide]
    return max(LEAST_STD, float(around.std()))


def _axes(wanted: Wanted, pose: Pose) -> tuple[float, float]:
    """Half axes of an ellipse with the area of a circle of that diameter."""
    radius, root = wanted.size_px / 2, math.sqrt(pose.ratio)
    return radius / root, radius * root


def _half_extent(wanted: Wanted, pose: Pose) -> tuple[float, float]:
    """Half the width and height of the upright box around it, in pixels."""
    c, s = abs(math.cos(pose.turn)), abs(math.sin(pose.turn))
    if wanted.shape == "line":
        reach, thick = max(0.0, pose.length_px - wanted.size_px) / 2, wanted.size_px / 2
        return c * reach + thick, s * reach + thick
    a, b = _axes(wanted, pose)
    return math.hypot(a * c, b * s), math.hypot(a * s, b * c)


def _middle(
    shape: tuple[int, int], half: tuple[float, float], rng: np.random.Generator, foreground: Mask | None
) -> tuple[float, float] | None:
    """x, y somewhere in the plane (or on its foreground) from where the defect is in sight; None: nowhere."""
    left, top = half[0] + 0.5, half[1] + 0.5
    right, bottom = shape[1] - 1 - left, shape[0] - 1 - top
    if right < left or bottom < top:
        return None
    for _ in range(TRIES * TRIES):
        x, y = float(rng.uniform(left, right)), float(rng.uniform(top, bottom))
        if foreground is None or foreground[int(y) : int(y) + 2, int(x) : int(x) + 2].all():
            return x, y
    return None
