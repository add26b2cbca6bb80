"""Defects painted into any good frame: arrays and a generator in, the changed plane and its exact mask out.

They teach supervised models and try out thresholds where real defects are missing. They are not real defects:
a figure measured on them says what the model does with these, and is reported as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.types import FloatImage, Mask

Kind = Literal["scratch", "pit", "stain", "blend"]
Place = tuple[float, float]  # x, y in pixels

KINDS: tuple[Kind, ...] = ("scratch", "pit", "stain", "blend")
VISIBLE = 2 / 255  # of full scale: less than this is no change, in 8 bits at least two grey levels
MIN_AREA_PX = 6  # a defect of fewer changed pixels is tried again elsewhere
CONTRAST = 0.03  # mean change over the mask that a defect should have …
CONTRAST_OF_TEXTURE = 0.35  # … and relative to the standard deviation of what it covers
ATTEMPTS = 12  # then the one of the highest contrast is taken

# Limits of what is drawn. Lengths are shares of the unit, the square root of the region's area; strengths are
# shares of the grey value (towards black) or of what is missing to white (towards white).
SCRATCH_LENGTH = (0.10, 0.45)
SCRATCH_WIDTH = (0.003, 0.008)
SCRATCH_STRENGTH = (0.30, 0.75)
PIT_RADIUS = (0.008, 0.028)
PIT_STRENGTH = (0.35, 0.70)
STAIN_RADIUS = (0.04, 0.12)
STAIN_STRENGTH = (0.15, 0.45)
BLEND_SIDE = (0.08, 0.25)
BLEND_OPACITY = (0.5, 1.0)
# how far from its start a defect of each kind can extend
REACH: dict[Kind, float] = {"scratch": 0.26, "pit": 0.26, "stain": 0.19, "blend": 0.14}
OPTICS_PX = 0.6  # σ of the blur that every painted edge gets: a defect is seen through the same lens


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A plane with a defect in it."""

    plane: FloatImage  # (h, w) float32 in 0..1; equal to the good one outside the mask, bit by bit
    mask: Mask  # (h, w): the pixels that differ from the good plane, each by VISIBLE at least


def plant(
    plane: FloatImage,
    rng: np.random.Generator,
    kind: Kind,
    region: Mask | None = None,
    donor: FloatImage | None = None,
) -> Anomaly:
    """Paint one defect somewhere in the region.

    Args:
        plane: (h, w) float32 in 0..1, a good frame.
        rng: place, size, shape and strength; the same generator gives the same defect.
        kind: one of `KINDS`.
        region: (h, w) where a defect may be; None: everywhere.
        donor: (h, w) float32 in 0..1, whose texture `blend` takes; None: the plane itself, from elsewhere.

    Raises:
        DataError: the region is too small, or nothing painted there can be seen (all black, say).
    """
    allowed = np.ones(plane.shape, np.bool_) if region is None else region
    if np.count_nonzero(allowed) < MIN_AREA_PX:
        raise DataError("the region for defects is empty", hint="look at the foreground mask")
    starts = _starts(allowed)
    unit = float(np.sqrt(np.count_nonzero(allowed)))
    best, best_contrast = None, 0.0
    for _ in range(ATTEMPTS):
        x, y = map(int, starts[int(rng.integers(len(starts)))])
        window, place = _window(plane.shape, x, y, math.ceil(REACH[kind] * unit) + 16)
        painter = PAINTERS[kind]
        painted = plane.copy()
        painted[window] = painter(plane[window], rng, place, unit, plane if donor is None else donor)
        found = visible(plane, painted, allowed)
        if np.count_nonzero(found.mask) < MIN_AREA_PX:
            continue
        contrast = _contrast(plane, found)
        if contrast >= 1:
            return found
        if contrast > best_contrast:
            best, best_contrast = found, contrast
    if best is None:
        raise DataError(
            f"a {kind} cannot be seen anywhere in this frame",
            hint="leave it out, or choose another of --kinds",
        )
    return best


def visible(before: FloatImage, after: FloatImage, region: Mask) -> Anomaly:
    """Of a changed plane only what can be seen, inside the region; the rest is as it was."""
    after = np.clip(after, 0, 1).astype(np.float32)
    mask = np.asarray((np.abs(after - before) >= VISIBLE) & region)
    return Anomaly(np.where(mask, after, before), mask)


def perlin(shape: tuple[int, int], cell_px: float, rng: np.random.Generator) -> FloatImage:
    """Gradient noise with cells of `cell_px`, (h, w) float32, about -0.7..0.7 and 0 in the mean.

    Perlin, "An image synthesizer", SIGGRAPH 1985, with the quintic fade of "Improving noise", 2002.
    """
    h, w = shape
    y, x = np.arange(h) / cell_px, np.arange(w) / cell_px
    y0, x0 = y.astype(int), x.astype(int)
    turn = rng.uniform(0, 2 * np.pi, (y0[-1] + 2, x0[-1] + 2))
    gradients = np.stack([np.cos(turn), np.sin(turn)])  # x, y
    v, u = (y - y0)[:, None], (x - x0)[None, :]

    def corner(down: int, right: int) -> NDArray[np.float64]:
        gx, gy = gradients[:, y0[:, None] + down, x0[None, :] + right]
        return np.asarray(gx * (u - right) + gy * (v - down))

    fade_u, fade_v = (t * t * t * (t * (6 * t - 15) + 10) for t in (u, v))
    top = corner(0, 0) * (1 - fade_u) + corner(0, 1) * fade_u
    bottom = corner(1, 0) * (1 - fade_u) + corner(1, 1) * fade_u
    return np.asarray(top * (1 - fade_v) + bottom * fade_v, np.float32)


def _window(shape: tuple[int, ...], x: int, y: int, reach: int) -> tuple[tuple[slice, slice], Place]:
    """The part of the plane that a defect at x, y can touch, and the place inside that part."""
    top, left = max(0, y - reach), max(0, x - reach)
    return np.s_[top : min(shape[0], y + reach), left : min(shape[1], x + reach)], (x - left, y - top)


def _contrast(before: FloatImage, found: Anomaly) -> float:
    """The mean change relative to what stands out of the texture it lies on; 1 is enough."""
    under = before[found.mask]
    change = float(np.abs(found.plane[found.mask] - under).mean())
    return change / max(CONTRAST, CONTRAST_OF_TEXTURE * float(under.std()))


def _starts(allowed: Mask) -> NDArray[np.intp]:
    """(n, 2) x, y where a defect may begin: not near the region's border, if the region is wide enough."""
    framed = np.pad(allowed.astype(np.uint8), 1)  # the frame's border is a border too
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    inner = depth > min(0.5 * float(depth.max()), 0.04 * np.sqrt(np.count_nonzero(allowed)))
    rows, columns = np.nonzero(inner & allowed)
    return np.column_stack([columns, rows])


def _scratch(
    plane: FloatImage, rng: np.random.Generator, start: Place, unit: float, _: FloatImage
) -> FloatImage:
    """A shallow arc whose depth comes and goes: a bright burr, a dark furrow beside it, or both."""
    steps = 32
    length = rng.uniform(*SCRATCH_LENGTH) * unit
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.7, 0.7) * np.linspace(-0.5, 0.5, steps)
    angle += np.cumsum(rng.normal(0, 0.03, steps))
    steps_xy = np.column_stack([np.cos(angle), np.sin(angle)]) * length / steps
    line = np.cumsum(steps_xy, axis=0)
    line += np.array(start) - line[steps // 2]
    width = max(1.0, rng.uniform(*SCRATCH_WIDTH) * unit)
    taper = np.sin(np.linspace(0.02, 0.98, steps) * np.pi) ** 0.5 * rng.uniform(0.75, 1.0, steps)
    across = width * np.array([-np.sin(angle[steps // 2]), np.cos(angle[steps // 2])])
    strength = rng.uniform(*SCRATCH_STRENGTH) / (1 - math.exp(-width))  # what the lens takes from a thin line
    bright, dark = [(1.0, 0.8), (0.0, 1.0), (1.0, 0.0)][int(rng.integers(3))]
    burr = strength * bright * _lens(_stroke(plane.shape, line, taper, width))
    furrow = strength * dark * _lens(_stroke(plane.shape, line + across, taper, width))
    return np.asarray((plane + np.clip(burr, 0, 1) * (1 - plane)) * np.clip(1 - furrow, 0.05, 1), np.float32)


def _pit(plane: FloatImage, rng: np.random.Generator, start: Place, unit: float, _: FloatImage) -> FloatImage:
    """One to four hollows: dull inside, shaded on the lamp's side and lit on the other."""
    cover = np.zeros(plane.shape, np.float32)
    radius = max(1.5, rng.uniform(*PIT_RADIUS) * unit)
    for number in range(int(rng.integers(1, 5))):
        size = radius * (1.0 if number == 0 else rng.uniform(0.4, 0.8))
        centre = np.array(start) + (rng.normal(0, 2.5, 2) * radius if number else 0)
        axes = np.rint(8 * np.array([size, max(1.0, size * rng.uniform(0.6, 1.0))])).astype(int)
        at = np.rint(8 * centre).astype(int)
        turn = float(rng.uniform(0, 180))
        centre_px, axes_px = (int(at[0]), int(at[1])), (int(axes[0]), int(axes[1]))
        cv2.ellipse(cover, centre_px, axes_px, turn, 0, 360, 1.0, -1, cv2.LINE_AA, 3)
    hollow = cv2.GaussianBlur(cover, (0, 0), max(OPTICS_PX, 0.35 * radius))
    lamp = rng.uniform(0, 2 * np.pi)
    dy, dx = np.gradient(hollow)
    slope = (dx * np.cos(lamp) + dy * np.sin(lamp)) / max(1e-6, float(np.hypot(dx, dy).max()))
    strength = rng.uniform(*PIT_STRENGTH)
    shade = np.clip(strength * (0.8 * hollow + 0.6 * np.clip(slope, 0, None)), 0, 0.9)
    glint = np.clip(0.5 * strength * np.clip(-slope, 0, None) * plane, 0, 1)
    return np.asarray(plane * (1 - shade) + glint * (1 - plane), np.float32)


def _stain(
    plane: FloatImage, rng: np.random.Generator, start: Place, unit: float, _: FloatImage
) -> FloatImage:
    """A dried drop: an irregular soft patch, strongest at its rim; the texture shows through."""
    radius = max(3.0, rng.uniform(*STAIN_RADIUS) * unit)
    h, w = plane.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    turn, flat = rng.uniform(0, np.pi), rng.uniform(0.55, 1.0)
    along = (x - start[0]) * np.cos(turn) + (y - start[1]) * np.sin(turn)
    across = (-(x - start[0]) * np.sin(turn) + (y - start[1]) * np.cos(turn)) / flat
    wobble = perlin((h, w), radius * 0.9, rng) + 0.4 * perlin((h, w), radius * 0.35, rng)
    inside = 1 - np.hypot(along, across) / radius + 0.45 * wobble  # > 0 in the drop
    soft = rng.uniform(0.08, 0.20)
    cover = np.clip(inside / soft, 0, 1)
    rim = np.exp(-(((inside - soft) / 0.12) ** 2))
    clouds = 1 + 0.5 * perlin((h, w), max(4.0, radius * 0.5), rng)
    strength = rng.uniform(*STAIN_STRENGTH)
    film = np.clip(strength * cover * (0.6 + 0.4 * rim) * clouds, 0, 0.9).astype(np.float32)
    if rng.random() < 0.25:  # a bright residue
        return np.asarray(plane + 0.6 * film * (1 - plane), np.float32)
    return np.asarray(plane * (1 - film), np.float32)


def _blend(
    plane: FloatImage, rng: np.random.Generator, start: Place, unit: float, donor: FloatImage
) -> FloatImage:
    """Foreign texture under a torn mask, blended in.

    I' = (1 - M) I + M ((1 - β) I + β A), M a thresholded Perlin noise: Zavrtanik et al., "DRAEM", ICCV 2021,
    eq. 1. A is a patch from elsewhere, turned and mirrored, as in Li et al., "CutPaste", CVPR 2021; its grey
    value is moved half way to that of the place, so that texture counts and not brightness alone.
    """
    h, w = plane.shape
    # no larger than the frame or the donor, and at least a few pixels
    fit = min(h, w, *donor.shape)
    sides = [min(fit, max(6, round(rng.uniform(*BLEND_SIDE) * unit))) for _ in range(2)]
    top, left = (
        int(np.clip(round(middle - side / 2), 0, most - side))
        for middle, side, most in zip((start[1], start[0]), sides, (h, w), strict=True)
    )
    place = np.s_[top : top + sides[0], left : left + sides[1]]
    patch = _patch(donor, rng, (sides[0], sides[1]))
    here = plane[place]
    patch = np.clip(patch + 0.5 * (here.mean() - patch.mean()), 0, 1)
    if abs(float(patch.mean() - here.mean())) < 0.06:  # a patch of the same grey: shift it, or hardly visible
        patch = np.clip(patch + rng.choice((-1, 1)) * rng.uniform(0.06, 0.15), 0, 1)
    cover = _torn(rng, (sides[0], sides[1]))
    opacity = rng.uniform(*BLEND_OPACITY) * cover
    out = plane.copy()
    out[place] = (1 - opacity) * here + opacity * patch
    return out


def _patch(donor: FloatImage, rng: np.random.Generator, sides: tuple[int, int]) -> FloatImage:
    """A window of the donor, turned by quarters and perhaps mirrored."""
    turned = np.rot90(donor, int(rng.integers(4)))
    if rng.random() < 0.5:
        turned = turned[:, ::-1]
    top, left = (int(rng.integers(most - side + 1)) for most, side in zip(turned.shape, sides, strict=True))
    return np.asarray(turned[top : top + sides[0], left : left + sides[1]], np.float32)


def _torn(rng: np.random.Generator, sides: tuple[int, int]) -> FloatImage:
    """A ragged cover in 0..1, 0 at the window's border: Perlin noise over a dome, thresholded, blurred."""
    h, w = sides
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)[None, :]
    dome = 1 - np.hypot(x, y)
    noise = perlin(sides, max(2.0, min(sides) / 4), rng)
    cover = (dome + 0.8 * noise > 0.25).astype(np.float32)
    cover[[0, -1], :], cover[:, [0, -1]] = 0, 0
    return _lens(cover)


def _stroke(
    shape: tuple[int, ...], points: NDArray[np.float64], depth: NDArray[np.float64], width_px: float
) -> FloatImage:
    """An anti-aliased line along (n, 2) x, y points whose depth 0..1 changes from point to point."""
    plane = np.zeros(shape, np.float32)
    fixed = np.rint(points * 8).astype(np.int32)
    ends = [(int(px), int(py)) for px, py in fixed]
    for begin, end, value in zip(ends[:-1], ends[1:], depth[1:], strict=True):
        cv2.line(plane, begin, end, float(value), max(1, round(width_px)), cv2.LINE_AA, 3)
    return plane


def _lens(cover: FloatImage) -> FloatImage:
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), OPTICS_PX), np.float32)


PAINTERS: dict[Kind, Callable[[FloatImage, np.random.Generator, Place, float, FloatImage], FloatImage]] = {
    "scratch": _scratch,
    "pit": _pit,
    "stain": _stain,
    "blend": _blend,
}


def plant_several(
    plane: FloatImage,
    rng: np.random.Generator,
    kinds: Sequence[Kind],
    region: Mask | None = None,
    donor: FloatImage | None = None,
) -> Anomaly:
    """One defect after another; the mask is where the last plane visibly differs from the first.

    Raises:
        DataError: as `plant`.
    """
    allowed = np.ones(plane.shape, np.bool_) if region is None else region
    painted = plane
    for kind in kinds:
        painted = plant(painted, rng, kind, allowed, donor).plane
    return visible(plane, painted, allowed)
