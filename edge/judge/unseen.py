"""Thresholds of views that were never calibrated, estimated from those that were: off unless asked for.

The logarithm of a view's threshold is a line over the logarithm of its foreground ratio (a larger part in
sight scores differently), plus what its neighbours lie above that line: view "07" lies between "06" and "08".
Both terms are drawn from the calibrated views by least squares, and each view is estimated from the others to
learn how wrong that is: the estimate is raised by a margin that this error gives, and where there is nothing
to go by there is no estimate.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edge.errors import DataError

LEAST_VIEWS = 5  # fewer say nothing of how wrong an estimate is
CONFIDENCE = 0.9  # share of views left out whose own threshold the estimate and its margin should reach
LEAST_SPREAD = 0.05  # of log foreground ratios, standard deviation: below it there is no line to be drawn
EXTRAPOLATION = 1.25  # foreground ratios this far beyond those of calibrated views are still estimated
FULL_CIRCLE = 360.0
# A view left out leaves a gap of two steps between its neighbours: wider gaps were never tried
WIDEST_GAP_STEPS = 2.0

Points = Mapping[str, tuple[float, float]]  # view → log threshold, log foreground ratio
Numbers = Mapping[str, float] | None  # view → its number; None where names have none


@dataclass(frozen=True, slots=True)
class SeenView:
    """A calibrated view, as the regression sees it."""

    name: str
    threshold: float
    foreground_ratio: float  # median of its good frames


class AdaptiveModel(BaseModel):
    """The regression, with the error it has on views left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    views: dict[str, tuple[float, float]]  # name → log threshold, log foreground ratio
    intercept: float
    slope: float  # of log threshold over log foreground ratio
    neighbour_weight: float = Field(ge=0, le=1)  # how much of the neighbours' residual a view takes over
    cycle: float | None  # of view numbers: 360 for angles all round, None where the numbers have two ends
    margin: float = Field(ge=0)  # added to the log threshold of a view between calibrated neighbours
    margin_alone: float = Field(ge=0)  # of a view that has none
    loo_error: float = Field(ge=0)  # root mean square of log thresholds, each view estimated by the others
    loo_error_alone: float = Field(ge=0)
    foreground_ratio: tuple[float, float]  # beyond it nothing is estimated

    def threshold(self, view: str, foreground_ratio: float) -> float | None:
        """The estimated threshold of a view with its margin; None where it would be a guess."""
        low, high = self.foreground_ratio
        if not low <= foreground_ratio <= high:
            return None
        estimate = self.intercept + self.slope * math.log(foreground_ratio)
        if not self.neighbour_weight:
            return math.exp(estimate + self.margin_alone)
        residuals = {name: y - self.intercept - self.slope * x for name, (y, x) in self.views.items()}
        numbers = view_numbers([view, *residuals])
        near = neighbours_residual(view, residuals, numbers, self.cycle)
        if near is None:
            return math.exp(estimate + self.margin_alone)
        return math.exp(estimate + self.neighbour_weight * near + self.margin)


def fit_adaptive(seen: Sequence[SeenView], cycle: float | None = None) -> AdaptiveModel:
    """The regression over calibrated views. `cycle` is the number at which view numbers start anew; angles
    all round (0, 15, … 345) are recognised without it.

    Raises:
        DataError: too few views.
    """
    if len(seen) < LEAST_VIEWS:
        raise DataError(
            f"thresholds of unseen views need {LEAST_VIEWS} calibrated views or more; there are {len(seen)}",
            hint="give frames of more views, or leave out --unseen-views adaptive",
            reason="too_few_views",
        )
    points = {
        view.name: (math.log(view.threshold), math.log(max(view.foreground_ratio, 1e-6))) for view in seen
    }
    numbers = view_numbers(list(points))
    cycle = cycle or _full_circle(numbers)
    intercept, slope = _line(points)
    alone, beside = _errors_left_out(points, numbers, cycle)
    helps = len(beside) >= LEAST_VIEWS
    ratios = [math.exp(x) for _, x in points.values()]
    return AdaptiveModel(
        views=points,
        intercept=intercept,
        slope=slope,
        neighbour_weight=_neighbour_weight(points, (intercept, slope), numbers, cycle) if helps else 0.0,
        cycle=cycle,
        margin=_margin(beside if helps else alone),
        margin_alone=_margin(alone),
        loo_error=_rms(beside if helps else alone),
        loo_error_alone=_rms(alone),
        foreground_ratio=(min(ratios) / EXTRAPOLATION, min(1.0, max(ratios) * EXTRAPOLATION)),
    )


def neighbours_residual(
    view: str, residuals: Mapping[str, float], numbers: Numbers, cycle: float | None
) -> float | None:
    """Residual at a view's number, interpolated between the calibrated numbers on either side of it.

    The view's own residual is not looked at. None without numbers, or where it has no neighbour on one side
    (unless the numbers are a cycle), or the gap between the neighbours is more than two usual steps.
    """
    if numbers is None:
        return None
    at = numbers[view] % cycle if cycle else numbers[view]
    others = sorted(
        (numbers[name] % cycle if cycle else numbers[name], value)
        for name, value in residuals.items()
        if name != view
    )
    if cycle:
        (first, low), (last, high) = others[0], others[-1]
        others = [(last - cycle, high), *others, (first + cycle, low)]
    right = bisect_left(others, (at, -math.inf))
    if right == len(others) or (right == 0 and others[0][0] > at):
        return None
    (after, high) = others[right]
    if after == at:
        return high
    before, low = others[right - 1]
    if after - before > WIDEST_GAP_STEPS * _usual_step([number for number, _ in others]) * (1 + 1e-9):
        return None
    return low + (high - low) * (at - before) / (after - before)


def view_numbers(names: Sequence[str]) -> Numbers:
    """The number in each name, such as 7 in "07" and "cam07"; None unless all have one, and are alike around
    it."""
    found = {name: re.fullmatch(r"(\D*)(\d+(?:\.\d+)?)(\D*)", name) for name in names}
    if any(match is None for match in found.values()):
        return None
    if len({(match[1], match[3]) for match in found.values() if match}) != 1:
        return None
    return {name: float(match[2]) for name, match in found.items() if match}


def _errors_left_out(
    points: Points, numbers: Numbers, cycle: float | None
) -> tuple[list[float], list[float]]:
    """Errors of log thresholds, each view estimated by a fit without it: by area alone, for all views; with
    neighbours, for those that have any."""
    alone, beside = [], []
    for name, (y, x) in points.items():
        others = {other: point for other, point in points.items() if other != name}
        line = intercept, slope = _line(others)
        alone.append(y - intercept - slope * x)
        near = neighbours_residual(name, _residuals(others, line), numbers, cycle)
        if near is not None:
            beside.append(alone[-1] - _neighbour_weight(others, line, numbers, cycle) * near)
    return alone, beside


def _neighbour_weight(
    points: Points, line: tuple[float, float], numbers: Numbers, cycle: float | None
) -> float:
    """Least squares of residuals on what each one's neighbours say, kept within 0..1."""
    residuals = _residuals(points, line)
    pairs = [
        (near, own)
        for name, own in residuals.items()
        if (near := neighbours_residual(name, residuals, numbers, cycle)) is not None
    ]
    squares = sum(near * near for near, _ in pairs)
    if squares <= 1e-18:
        return 0.0
    return min(1.0, max(0.0, sum(near * own for near, own in pairs) / squares))


def _residuals(points: Points, line: tuple[float, float]) -> dict[str, float]:
    return {name: y - line[0] - line[1] * x for name, (y, x) in points.items()}


def _line(points: Points) -> tuple[float, float]:
    """(intercept, slope) by least squares; no slope where the foreground is about the same in all views."""
    y, x = np.array(list(points.values())).T
    if float(x.std()) < LEAST_SPREAD:
        return float(y.mean()), 0.0
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())
    return float(y.mean() - slope * x.mean()), slope


def _margin(errors: Sequence[float]) -> float:
    """The order statistic of errors that the next view stays below in nine of ten cases, or the largest."""
    rank = min(len(errors), math.ceil((len(errors) + 1) * CONFIDENCE - 1e-9))
    return max(0.0, sorted(errors)[rank - 1])


def _rms(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error * error for error in errors) / len(errors))


def _usual_step(numbers: Sequence[float]) -> float:
    return median([after - before for before, after in pairwise(numbers) if after > before] or [0.0])


def _full_circle(numbers: Numbers) -> float | None:
    """360 where view numbers are angles all round, as 0, 15, … 345 are; one at the end may be missing."""
    if numbers is None:
        return None
    ordered = sorted(numbers.values())
    step = _usual_step(ordered)
    open_deg = FULL_CIRCLE - (ordered[-1] - ordered[0]) - step
    return FULL_CIRCLE if step > 0 and -step / 2 <= open_deg <= 1.5 * step else None
