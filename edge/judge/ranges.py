"""Where good frames lie in what is measured beside the score, widened: outside it nothing is called OK."""

from __future__ import annotations

import math
from collections.abc import Sequence

SIZE_FACTOR = 1.5
# The range of good frames is widened at either end by this share of itself, and by so much at least: of good
# frames that are not calibration's about 0.5 % lie beyond (`python -m bench.picture_gates`, docs/drift.md)
RANGE_SHARE = 0.6
BRIGHTNESS_MARGIN, BRIGHTNESS_SHARE = 0.03, 1 / 8  # of the scale; of the brightness in the middle
CONTRAST_FACTOR = 1.25
SHARPNESS_FACTOR = 1.05
MANY = 10  # frames: fewer show less of the range, which is widened by as much more


def brightness(means: Sequence[float]) -> tuple[float, float]:
    """Where a plane's mean may lie: the range of good frames, widened."""
    low, high = min(means), max(means)
    margin = max(BRIGHTNESS_MARGIN, RANGE_SHARE * (high - low), BRIGHTNESS_SHARE * (high + low) / 2) * _fewer(
        means
    )
    return max(0.0, low - margin), min(1.0, high + margin)


def contrast(stds: Sequence[float]) -> tuple[float, float]:
    """Where a plane's standard deviation may lie: the range of good frames, widened by a factor."""
    return _widened(stds, CONTRAST_FACTOR)


def _fewer(values: Sequence[object]) -> float:
    return max(1.0, MANY / len(values))


def _widened(values: Sequence[float], least: float) -> tuple[float, float]:
    """The range and its margins on a scale of ratios; of values that may be 0."""
    low, high = min(values), max(values)
    factor = max(least, (high / low) ** RANGE_SHARE if low > 0 else least) ** _fewer(values)
    return low / factor, high * factor


def extent(sides_px: Sequence[int]) -> tuple[float, float]:
    """What a plane's side may measure: half as much again beyond good frames, either way."""
    return min(sides_px) / SIZE_FACTOR, max(sides_px) * SIZE_FACTOR


def foreground(ratios: Sequence[float]) -> tuple[float, float]:
    """Which share of a plane may be foreground: the range of good frames, widened by a quarter at least."""
    low, high = min(ratios), max(ratios)
    half = (high - low) / 2
    return max(0.0, low - max(half, low / 4)), min(1.0, high + max(half, high / 4))


def sharpness(values: Sequence[float | None]) -> tuple[float, float] | None:
    """How sharp a plane may be: the range of good frames, widened by a factor.

    None where that is not known of all.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return _widened(known, SHARPNESS_FACTOR)


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
