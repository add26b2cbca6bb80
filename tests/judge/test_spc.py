"""Control charts: limits against simulation and against sums done the long way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.judge.spc import (
    ABOVE,
    BELOW,
    EWMA_ABOVE,
    EWMA_WEIGHT,
    Reference,
    batch_key,
    chart,
    nqi,
    reference,
    shewhart,
)

MANY = 10**9  # calibration frames: the centre is known


@dataclass(frozen=True)
class Batch:
    frames: int
    total: float
    squares: float


def batch(*scores: float) -> Batch:
    return Batch(len(scores), sum(scores), sum(score * score for score in scores))


SIZES = st.lists(st.integers(1, 500), min_size=1, max_size=40)


def test_nqi_is_1_where_frames_score_as_the_calibration_did() -> None:
    raw = [0.02, 0.03, 0.025, 0.03, 0.02, 0.025, 0.02, 0.03]
    view = reference(raw)
    assert view is not None
    assert nqi(batch(*(score / view.mean for score in raw))) == pytest.approx(1.0)
    assert nqi(batch(*(1.3 * score / view.mean for score in raw))) == pytest.approx(1.3)


def ewma_variance(sizes: list[int]) -> float:
    """Of an EWMA of means of so many independent values of variance 1, by its weights."""
    last = len(sizes) - 1
    weights = [EWMA_WEIGHT * (1 - EWMA_WEIGHT) ** (last - i) for i in range(len(sizes))]
    return sum(weight * weight / n for weight, n in zip(weights, sizes, strict=True))


@given(st.integers(1, 100), st.integers(1, 60))
def test_equal_batches_have_the_limits_of_roberts_formula(n: int, t: int) -> None:
    *_, point = chart([batch(*[1.0] * n)] * t, Reference(0.02, 0.01, MANY))
    roberts = EWMA_WEIGHT / (2 - EWMA_WEIGHT) * (1 - (1 - EWMA_WEIGHT) ** (2 * t)) / n
    assert point.ewma_limits is not None
    assert point.ewma_limits.upper - 1 == pytest.approx(3 * 0.01 * math.sqrt(roberts), rel=1e-6)


@given(SIZES, st.floats(0.01, 0.4))
def test_the_chart_has_the_limits_of_the_formulas(sizes: list[int], sigma: float) -> None:
    view = Reference(0.02, sigma, 50)
    points = chart([batch(*[1.0] * n) for n in sizes], view)
    for step, (point, n) in enumerate(zip(points, sizes, strict=True), 1):
        assert point.limits == shewhart(n, view)
        taken = 1 - (1 - EWMA_WEIGHT) ** step
        reach = 3 * sigma * math.sqrt(ewma_variance(sizes[:step]) + taken**2 / 50)
        assert point.ewma_limits is not None
        assert point.ewma_limits.upper == pytest.approx(1 + reach, rel=1e-9)
        assert point.ewma_limits.lower == pytest.approx(max(0.0, 1 - reach), rel=1e-9)
        assert point.rules == ()


def test_larger_batches_have_narrower_limits_and_a_known_centre_gives_shewharts() -> None:
    view = Reference(0.02, 0.3, MANY)
    widths = [limits.upper - 1 for n in (1, 4, 100) if (limits := shewhart(n, view))]
    assert widths == [
        pytest.approx(0.9, rel=1e-6),
        pytest.approx(0.45, rel=1e-6),
        pytest.approx(0.09, rel=1e-6),
    ]
    few = shewhart(10_000, Reference(0.02, 0.3, 20))
    assert few is not None
    assert few.upper - 1 > 3 * 0.3 / math.sqrt(20)  # no batch tells more than 20 calibration frames do


def test_false_alarms_are_as_rare_as_three_sigma_says() -> None:
    rng = np.random.default_rng(0)
    alarms, of = 0, 0
    for _ in range(300):
        good = rng.normal(1.0, 0.2, 60)
        view = reference((0.02 * good).tolist())
        assert view is not None
        sizes = rng.integers(5, 80, 20)
        points = chart([batch(*(0.02 * rng.normal(1.0, 0.2, n) / view.mean)) for n in sizes], view)
        alarms += sum(bool({ABOVE, BELOW} & set(point.rules)) for point in points)
        of += len(points)
    assert alarms / of < 0.012  # 0.27 % for a known σ, more for one from 60 frames


def test_a_jump_is_found_by_the_mean_and_a_small_lasting_shift_by_the_ewma() -> None:
    view = Reference(1.0, 0.2, MANY)
    usual = [batch(*[1.0] * 16)] * 5
    (*before, jump) = chart([*usual, batch(*[1.5] * 16)], view)
    assert not any(point.rules for point in before)
    assert ABOVE in jump.rules
    assert not jump.in_control
    shifted = chart([*usual, *[batch(*[1.1] * 16)] * 8], view)  # 2 σ of a mean: below its limit
    assert all(ABOVE not in point.rules for point in shifted)
    assert EWMA_ABOVE in shifted[-1].rules
    assert BELOW in chart([batch(*[0.7] * 16)], view)[0].rules


def test_too_few_or_equal_calibration_scores_give_an_index_without_limits() -> None:
    for scores in ([1.0, 1.1, 0.9], [1.0] * 20):
        view = reference(scores)
        assert view is not None
        (point,) = chart([batch(5.0)], view)
        assert (point.limits, point.ewma_limits, point.rules) == (None, None, ())
    assert reference([]) is None
    assert reference([0.0] * 20) is None


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=50))
def test_deviation_is_that_of_the_frames(scores: list[float]) -> None:
    (point,) = chart([batch(*scores)], Reference(1.0, 0.1, 20))
    assert point.deviation == pytest.approx(np.std(scores, ddof=1), rel=1e-4, abs=1e-6)


def test_frames_without_a_batch_are_grouped_by_their_day() -> None:
    noon = 1_795_176_000.0  # 2026-11-20T12:00Z
    assert batch_key("B17", noon) == ("B17", "")
    assert batch_key(None, noon) == ("", "2026-11-20")
    assert batch_key("", noon + 12 * 3600) == ("", "2026-11-21")
