"""What goes wrong on a machined surface, painted where it can be: scratch, pit, stain, crack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.types import FloatImage

Place = tuple[float, float]  # x, y in surface pixels


@dataclass(frozen=True, slots=True)
class Flaw:
    """What a defect does to a surface; all planes (h, w) float32."""

    reflectance: FloatImage  # 1: unchanged
    height: FloatImage  # added, in part units
    cover: FloatImage  # 0..1: which part of the pixel is defect


def paint(
    rng: np.random.Generator,
    defect: str | None,
    solid: FloatImage,
    flat: NDArray[np.bool_],
    px_per_unit: float,
) -> Flaw:
    """A defect somewhere on the flat of a surface, or a flaw that changes nothing.

    Args:
        rng: place, size and strength.
        defect: a key of `DEFECTS`, or None.
        solid: (h, w) 0..1, the material; a defect never leaves it.
        flat: (h, w) True where a defect may start.
        px_per_unit: surface pixels per part unit.

    Raises:
        KeyError: no such defect.
    """
    if defect is None:
        return Flaw(np.ones_like(solid), np.zeros_like(solid), np.zeros_like(solid))
    rows, columns = np.nonzero(flat)
    pick = int(rng.integers(len(rows)))
    flaw = DEFECTS[defect](rng, (float(columns[pick]), float(rows[pick])), solid.shape, px_per_unit)
    inside = (solid > 0.5).astype(np.float32)
    return Flaw(1 + (flaw.reflectance - 1) * inside, flaw.height * inside, flaw.cover * inside)


def _scratch(rng: np.random.Generator, start: Place, shape: tuple[int, ...], unit: float) -> Flaw:
    """A long shallow arc: a bright burr, and a dark furrow beside it."""
    length, heading = rng.uniform(0.45, 0.9) * unit, rng.uniform(0, np.pi)
    turn = rng.uniform(-0.6, 0.6)
    t = np.linspace(-0.5, 0.5, 24)
    angle = heading + turn * t
    step = length / (len(t) - 1)
    line = np.column_stack([np.cumsum(np.cos(angle)), np.cumsum(np.sin(angle))]) * step
    line += np.array(start) - line[len(t) // 2]
    width = max(1, round(rng.uniform(0.018, 0.028) * unit))
    across = width * np.array([-np.sin(heading), np.cos(heading)])
    burr, furrow = _line(shape, line, width), _line(shape, line + across, width)
    strength = rng.uniform(0.35, 0.6)
    reflectance = (1 + strength * burr) * (1 - 0.8 * strength * furrow)
    return Flaw(reflectance, np.zeros(shape, np.float32), np.maximum(burr, furrow))


def _pit(rng: np.random.Generator, start: Place, shape: tuple[int, ...], unit: float) -> Flaw:
    """One to three round hollows: shaded by the lamp, and dull inside."""
    cover = np.zeros(shape, np.float32)
    for hollow_number in range(int(rng.integers(1, 4))):
        radius = rng.uniform(0.030, 0.060) * unit
        spread = 0.07 * unit if hollow_number else 0.0  # the first one stays on the flat
        centre = np.array(start) + rng.normal(0, 1, 2) * spread
        axes = (round(radius), max(1, round(radius * rng.uniform(0.7, 1.0))))
        at = (round(float(centre[0])), round(float(centre[1])))
        cv2.ellipse(cover, at, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA)
    hollow = cv2.GaussianBlur(cover, (0, 0), 0.012 * unit)
    return Flaw(1 - rng.uniform(0.35, 0.6) * cover, (-0.04 * hollow).astype(np.float32), cover)


def _stain(rng: np.random.Generator, start: Place, shape: tuple[int, ...], unit: float) -> Flaw:
    """A dried drop: a soft-edged irregular patch, darkest at its rim."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.full(48, rng.uniform(0.10, 0.20) * unit)
    for lobe in (2, 3, 5):
        radius *= 1 + rng.uniform(0.05, 0.16) * np.cos(lobe * turn + rng.uniform(0, 2 * np.pi))
    rim = np.column_stack([np.cos(turn), np.sin(turn)]) * radius[:, None] + np.array(start)
    cover = np.zeros(shape, np.float32)
    cv2.fillPoly(cover, [np.rint(rim).astype(np.int32)], 1.0, cv2.LINE_AA)
    soft = cv2.GaussianBlur(cover, (0, 0), 0.015 * unit)
    inner = cv2.GaussianBlur(cover, (0, 0), 0.05 * unit)
    strength = rng.uniform(0.22, 0.40)
    reflectance = 1 - strength * soft * (1.25 - 0.5 * inner)
    return Flaw(reflectance.astype(np.float32), np.zeros(shape, np.float32), cover)


def _crack(rng: np.random.Generator, start: Place, shape: tuple[int, ...], unit: float) -> Flaw:
    """A jagged dark line with a branch."""
    length, heading = rng.uniform(0.35, 0.65) * unit, rng.uniform(0, 2 * np.pi)
    steps = 16
    angle = heading + np.cumsum(rng.normal(0, 0.30, steps)) * 0.6 + rng.normal(0, 0.35, steps)
    line = np.column_stack([np.cumsum(np.cos(angle)), np.cumsum(np.sin(angle))]) * length / steps
    line += np.array(start) - line[steps // 2]
    width = max(1, round(rng.uniform(0.018, 0.026) * unit))
    cover = _line(shape, line, width)
    fork = int(rng.integers(4, 10))
    side = angle[fork] + rng.choice((-1, 1)) * rng.uniform(0.5, 0.9)
    tip = line[fork] + 0.25 * length * np.array([np.cos(side), np.sin(side)])
    cover = np.maximum(cover, _line(shape, np.stack([line[fork], tip]), max(1, width - 1)))
    return Flaw(1 - rng.uniform(0.55, 0.75) * cover, np.zeros(shape, np.float32), cover)


def _line(shape: tuple[int, ...], points: NDArray[np.float64], width_px: int) -> FloatImage:
    """An anti-aliased polyline of (n, 2) x, y points, 0..1, with eighth-pixel ends."""
    plane = np.zeros(shape, np.float32)
    fixed = np.rint(points * 8).astype(np.int32)
    cv2.polylines(plane, [fixed.reshape(-1, 1, 2)], False, 1.0, width_px, cv2.LINE_AA, shift=3)
    return plane


DEFECTS: dict[str, Callable[[np.random.Generator, Place, tuple[int, ...], float], Flaw]] = {
    "scratch": _scratch,
    "pit": _pit,
    "stain": _stain,
    "crack": _crack,
}
