"""Where good frames lie in what is measured beside the score, widened: outside it nothing is called OK."""

from __future__ import annotations

import math
from collections.abc import Sequence

SIZE_FACTOR = 1.5
SHARPNESS_FACTOR = 1.05


def brightness(means: Sequence[float]) -> tuple[float, float]:
    """Where a plane's mean may lie: the range of good frames, widened by at least a tenth of the scale."""
    low, high = min(means), max(means)
    margin = max(0.1, (high - low) / 2, (high + low) / 8)
    return max(0.0, low - margin), min(1.0, high + margin)


def contrast(stds: Sequence[float]) -> tuple[float, float]:
    """Where a plane's standard deviation may lie: half the smallest to twice the largest of good ones."""
    return min(stds) / 2, max(stds) * 2


def extent(sides_px: Sequence[int]) -> tuple[float, float]:
    """What a plane's side may measure: half as much again beyond good frames, either way."""
    return min(sides_px) / SIZE_FACTOR, max(sides_px) * SIZE_FACTOR


def foreground(ratios: Sequence[float]) -> tuple[float, float]:
    """Which share of a plane may be foreground: the range of good frames, widened by a quarter at least."""
    low, high = min(ratios), max(ratios)
    half = (high - low) / 2
    return max(0.0, low - max(half, low / 4)), min(1.0, high + max(half, high / 4))


def sharpness(values: Sequence[float | None]) -> tuple[float, float] | None:
    """How sharp a plane may be: the range of good frames, widened by half of itself either way, as a factor.

    None where that is not known of all.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    low, high = min(known), max(known)
    factor = max(SHARPNESS_FACTOR, math.sqrt(high / low))
    return low / factor, high * factor


def distinct(channels: Sequence[int | None]) -> tuple[int, ...] | None:
    """How many channels good frames had, each number once; None where that is not known of all."""
    known = [count for count in channels if count is not None]
    return tuple(sorted(set(known))) if known and len(known) == len(channels) else None


def hull(ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The range that holds all of these."""
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def known_hull(ranges: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    """The same of those that are known; None where none is."""
    known = [limits for limits in ranges if limits is not None]
    return hull(known) if known else None


def room(value: float, limits: tuple[float, float], *, by_ratio: bool = False) -> float:
    """How far a value is from the nearer end of a range: 1 in its middle, 0 at an end, less beyond.

    `by_ratio`: of a range whose ends are factors from good frames, its geometric middle.
    """
    low, high = limits
    if by_ratio:
        low, high, value = (math.log(max(one, 1e-9)) for one in (low, high, value))
    half = (high - low) / 2
    return 1 - abs(value - (low + high) / 2) / half if half > 0 else float(value == low)
