"""Statistical process control over batches: the quality index nQI, and whether it shows a change.

nQI (normalised quality index) of a batch and view is the mean, over the batch's frames of that view, of the
raw score divided by the mean score of the view's good calibration frames: 1 is as good as calibration, 1.2 is
a score a fifth higher. The origin names such an index over views and batches but its text was not at hand:
this is our reading of it, and `nqi` is the one place that says so.

Limits come from calibration too. Good frames have a relative standard deviation σ there; the mean of n frames
has σ/√n, and the 1 that it is held against is itself the mean of m calibration frames. Frames of a batch
count as independent: where batches differ more than their frames do, calibrate with frames of many batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

SHEWHART_L = 3.0  # Shewhart, Economic Control of Quality of Manufactured Product, 1931
EWMA_WEIGHT = 0.2  # λ; Roberts, "Control chart tests based on geometric moving averages", 1959
EWMA_L = 3.0
LEAST_REFERENCE_FRAMES = 8  # a σ of fewer frames gives no limits

ABOVE, BELOW, EWMA_ABOVE, EWMA_BELOW = "above_limit", "below_limit", "ewma_above", "ewma_below"


@dataclass(frozen=True, slots=True)
class Reference:
    """What the good calibration frames of a view scored."""

    mean: float  # raw
    sigma: float | None  # relative to the mean; None: too few frames for limits
    frames: int


class BatchSums(Protocol):
    """What is kept of a batch and view; `edge.record.batches.BatchRow` is one."""

    @property
    def frames(self) -> int: ...

    @property
    def total(self) -> float:
        """Σ raw / reference."""
        ...

    @property
    def squares(self) -> float:
        """Σ (raw / reference)²."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a figure may lie while nothing has changed."""

    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Point:
    """A batch on the control charts."""

    nqi: float
    deviation: float | None  # standard deviation of its frames' relative scores; None of a single frame
    ewma: float
    limits: Limits | None  # of nQI; None without a σ, as the next one
    ewma_limits: Limits | None
    rules: tuple[str, ...]  # those it breaks

    @property
    def in_control(self) -> bool:
        """Whether it breaks no rule; without limits there is none to break."""
        return not self.rules


def reference(scores: Sequence[float]) -> Reference | None:
    """The reference of a view from its raw calibration scores; None without scores, or if all are 0."""
    mean = float(np.mean(scores)) if len(scores) else 0.0
    if not (math.isfinite(mean) and mean > 0):
        return None
    sigma = float(np.std(scores, ddof=1)) / mean if len(scores) >= LEAST_REFERENCE_FRAMES else 0.0
    return Reference(mean, sigma if sigma > 0 else None, len(scores))


def nqi(batch: BatchSums) -> float:
    """The quality index of a batch and view: mean of its frames' relative scores."""
    return batch.total / batch.frames


def batch_key(batch: str | None, unix_s: float) -> tuple[str, str]:
    """(batch, day): frames whose names carry no batch are grouped by the UTC day they were judged on."""
    return (batch, "") if batch else ("", datetime.fromtimestamp(unix_s, UTC).date().isoformat())


def shewhart(frames: int, view: Reference) -> Limits | None:
    """Limits of the mean of so many frames: 1 ± 3σ√(1/n + 1/m), with m frames behind the 1 itself.

    With m → ∞ this is Shewhart's x̄ chart; a score cannot be negative, so neither is the lower limit.
    """
    if view.sigma is None:
        return None
    return _around(SHEWHART_L * view.sigma * math.sqrt(1 / frames + 1 / view.frames))


def chart(batches: Sequence[BatchSums], view: Reference) -> tuple[Point, ...]:
    """Points of the batches in their order. Batches hold one frame or more.

    The EWMA begins at 1. Its limits have the exact variance at each step, λ² Σᵢ (1−λ)^(2(t−i)) / nᵢ for
    batches of n₁, n₂, … independent frames (for equal n Roberts' λ/(2−λ) · (1 − (1−λ)^(2t)) / n), and the
    error of the centre, which the EWMA has taken in to the share 1 − (1−λ)^t.
    """
    points: list[Point] = []
    smoothed, variance, taken = 1.0, 0.0, 0.0
    for batch in batches:
        index = nqi(batch)
        smoothed += EWMA_WEIGHT * (index - smoothed)
        variance = (1 - EWMA_WEIGHT) ** 2 * variance + EWMA_WEIGHT**2 / batch.frames
        taken += EWMA_WEIGHT * (1 - taken)
        limits = shewhart(batch.frames, view)
        around = None
        if view.sigma is not None:
            around = _around(EWMA_L * view.sigma * math.sqrt(variance + taken * taken / view.frames))
        rules = _broken(index, limits, (ABOVE, BELOW)) + _broken(smoothed, around, (EWMA_ABOVE, EWMA_BELOW))
        points.append(Point(index, _deviation(batch), smoothed, limits, around, rules))
    return tuple(points)


def _around(reach: float) -> Limits:
    return Limits(max(0.0, 1 - reach), 1 + reach)


def _broken(value: float, limits: Limits | None, names: tuple[str, str]) -> tuple[str, ...]:
    if limits is None or limits.lower <= value <= limits.upper:
        return ()
    return (names[0] if value > limits.upper else names[1],)


def _deviation(batch: BatchSums) -> float | None:
    if batch.frames < 2:
        return None
    spread = batch.squares - batch.total * batch.total / batch.frames
    return math.sqrt(max(0.0, spread) / (batch.frames - 1))
