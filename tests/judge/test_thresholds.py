"""Threshold rules: what each promises, held against simulated good frames."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge.judge.promise import promise_interval
from edge.judge.thresholds import (
    ASSUMPTIONS,
    METHODS,
    Threshold,
    ThresholdMethod,
    ThresholdRule,
    conformal_threshold,
    frames_needed,
    frames_needed_by,
    gpd_fit,
    group_size,
    threshold,
)

SCORES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=120)
RATES = st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.2, 0.4])


@given(st.integers(1, 99).map(lambda percent: percent / 100))
def test_frames_needed_is_the_smallest_number_that_gives_a_threshold(rate: float) -> None:
    needed = frames_needed(rate)
    assert conformal_threshold([1.0] * needed, rate) is not None
    if needed > 1:
        assert conformal_threshold([1.0] * (needed - 1), rate) is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_every_rule_gives_a_threshold_from_as_many_frames_as_it_says(
    method: ThresholdMethod, rate: float
) -> None:
    rule = ThresholdRule(method, rate)
    scores = np.random.default_rng(1).lognormal(size=frames_needed_by(rule))
    assert threshold(scores.tolist(), rule) is not None
    if method != "max":  # it always has one, and says what it is worth
        assert threshold(scores.tolist()[:-1], rule) is None


@given(SCORES, RATES, st.sampled_from(METHODS))
def test_the_bound_counts_scores_that_the_threshold_surely_covers(
    scores: list[float], rate: float, method: ThresholdMethod
) -> None:
    found = threshold(scores, ThresholdRule(method, rate))
    if found is None:
        return
    surely = round((1 - found.bound) * (len(scores) + 1))
    assert sum(score <= found.value * (1 + 1e-12) for score in scores) >= surely
    assert 0 < found.bound < 1
    assert (found.estimate is None) == (ASSUMPTIONS[method] == "")


@given(SCORES, st.sampled_from(METHODS), st.floats(0.5, 1e3))
def test_thresholds_go_with_the_unit_of_the_scores(
    scores: list[float], method: ThresholdMethod, unit: float
) -> None:
    rule = ThresholdRule(method, 0.05)
    found, scaled = threshold(scores, rule), threshold([unit * score for score in scores], rule)
    if found is not None and scaled is not None and method != "evt":  # whose fit is ill-conditioned on ties
        assert scaled.value == pytest.approx(unit * found.value, rel=1e-9)
        assert scaled.bound == found.bound


@given(
    st.lists(st.floats(0, 1), min_size=20, max_size=60),
    st.sampled_from(("conformal", "max", "quantile", "mad")),
)
def test_fewer_false_rejects_never_need_a_lower_threshold(
    scores: list[float], method: ThresholdMethod
) -> None:
    found = [threshold(scores, ThresholdRule(method, rate)) for rate in (0.4, 0.2, 0.1)]
    values = [entry.value for entry in found if entry is not None]
    assert values == sorted(values)


@given(SCORES, st.sampled_from(METHODS), st.randoms())
def test_the_order_of_frames_does_not_matter(scores: list[float], method: ThresholdMethod, random) -> None:  # type: ignore[no-untyped-def]
    rule = ThresholdRule(method, 0.05)
    shuffled = list(scores)
    random.shuffle(shuffled)
    found, again = threshold(scores, rule), threshold(shuffled, rule)
    assert (found is None) == (again is None)
    if found is not None and again is not None:
        assert again.value == pytest.approx(found.value, rel=1e-12)


def rejected(method: ThresholdMethod, n: int, rate: float, draw, repeats: int = 600) -> float:  # type: ignore[no-untyped-def]
    """Mean share of new good frames above the threshold of n others, and of the bounds it promised."""
    rng = np.random.default_rng(7)
    shares, bounds = [], []
    for _ in range(repeats):
        found = threshold(draw(rng, n).tolist(), ThresholdRule(method, rate))
        assert found is not None
        shares.append((draw(rng, 200) > found.value).mean())
        bounds.append(found.bound)
    assert np.mean(shares) <= np.mean(bounds) + 0.006
    return float(np.mean(shares))


def lognormal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.lognormal(0.0, 0.6, n)


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_conformal_promise_holds_on_new_frames(rate: float) -> None:
    # exchangeable scores: at most the rate on average, and not much below it (1/(n+1))
    assert rate - 1 / 40 - 0.01 < rejected("conformal", 39, rate, lognormal) < rate + 0.006


def test_the_maximum_rejects_one_in_n_plus_1() -> None:
    assert rejected("max", 39, 0.05, lognormal) == pytest.approx(1 / 40, abs=0.005)


def test_the_median_of_maxima_rejects_about_what_it_estimates() -> None:
    assert rejected("median-max", 140, 0.05, lognormal) == pytest.approx(0.05, abs=0.015)


def test_the_quantile_rejects_a_little_more_than_its_level() -> None:
    assert 0.05 < rejected("quantile", 60, 0.05, lognormal) < 0.05 + 1.5 / 60


def test_mad_is_right_for_normal_scores_and_too_low_for_skewed_ones() -> None:
    def normal(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal(10, 1, n)

    assert rejected("mad", 200, 0.02, normal) == pytest.approx(0.02, abs=0.006)
    assert rejected("mad", 200, 0.02, lognormal) > 0.04  # why its bound, not its estimate, is the promise


def test_an_extreme_value_tail_reaches_rates_that_no_order_statistic_can() -> None:
    def exponential(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.exponential(1.0, n)

    assert (
        threshold(exponential(np.random.default_rng(0), 200).tolist(), ThresholdRule("conformal", 0.001))
        is None
    )
    values = [
        threshold(exponential(np.random.default_rng(seed), 400).tolist(), ThresholdRule("evt", 0.001))
        for seed in range(200)
    ]
    middle = float(np.median([entry.value for entry in values if entry is not None]))
    assert middle == pytest.approx(-math.log(0.001), rel=0.1)


@pytest.mark.parametrize("shape", [-0.4, -0.2, 0.0, 0.2, 0.4])
def test_a_generalised_pareto_is_recovered_from_its_own_samples(shape: float) -> None:
    at = np.random.default_rng(3).random(40_000)
    excesses = 2.0 * (-np.log(at) if shape == 0 else np.expm1(-shape * np.log(at)) / shape)
    fit = gpd_fit(excesses)
    assert fit is not None
    assert fit == (pytest.approx(shape, abs=0.03), pytest.approx(2.0, rel=0.04))


@given(st.lists(st.floats(0, 100), min_size=2, max_size=40))
def test_a_fitted_tail_never_ends_below_what_was_seen(values: list[float]) -> None:
    fit = gpd_fit(np.asarray(values))
    assume(fit is not None and fit[0] < 0)
    assert fit is not None
    assert -fit[1] / fit[0] >= max(values) * (1 - 1e-9)


def test_equal_scores_have_no_spread_to_go_by() -> None:
    for method in ("mad", "evt"):
        assert threshold([1.0] * 200, ThresholdRule(method, 0.05)) is None  # type: ignore[arg-type]
    for method in ("conformal", "max", "median-max", "quantile"):
        found = threshold([1.0] * 200, ThresholdRule(method, 0.05))  # type: ignore[arg-type]
        assert found is not None
        assert found.value == 1.0


def test_known_groups_are_kept_together_and_one_bad_batch_does_not_move_the_median_of_maxima() -> None:
    scores = [1.0, 1.1, 1.2, 1.3, 1.0, 1.25, 9.0, 9.5]
    groups = ["a", "a", "b", "b", "c", "c", "d", "d"]
    found = threshold(scores, ThresholdRule("median-max", 0.3), groups)
    assert found is not None
    assert found.value == pytest.approx((1.25 + 1.3) / 2)
    assert found.bound == pytest.approx(1 - 4 / 9)  # two of four groups lie below it altogether
    assert found.estimate == pytest.approx(1 - 2 ** (-1 / 2))


def test_parts_with_one_frame_a_view_are_no_groups() -> None:
    scores = np.random.default_rng(0).random(60).tolist()
    rule = ThresholdRule("median-max", 0.05)
    single = [str(k) for k in range(60)]
    assert threshold(scores, rule, single) == threshold(scores, rule, None)
    assert group_size(0.05) == 14


def test_k_and_the_level_can_be_given() -> None:
    scores = np.random.default_rng(0).normal(10, 1, 500).tolist()
    by_k = threshold(scores, ThresholdRule("mad", 0.05, k=3.0))
    by_level = threshold(scores, ThresholdRule("quantile", 0.05, quantile=0.99))
    assert by_k is not None
    assert by_level is not None
    assert by_k.value == pytest.approx(13, abs=0.3)
    assert by_k.estimate == pytest.approx(1 - NormalDist().cdf(3))
    assert by_level.value == pytest.approx(np.quantile(scores, 0.99))
    assert by_level.estimate == pytest.approx(0.01)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=45), RATES)
def test_whichever_frame_is_the_new_one_no_more_are_rejected_than_the_bound_says(
    scores: list[float], rate: float
) -> None:
    # exchangeable: each of the frames is the new one with the same probability, ties or none
    found = [
        threshold(scores[:i] + scores[i + 1 :], ThresholdRule("conformal", rate)) for i in range(len(scores))
    ]
    if found[0] is None:
        return
    above = sum(score > entry.value for score, entry in zip(scores, found, strict=True) if entry)
    assert above <= found[0].bound * len(scores) + 1e-9
    assert found[0].bound <= rate + 1e-9
    if len(set(scores)) == len(scores):  # one rank lower would reject one more
        assert above == round(found[0].bound * len(scores))


@given(
    st.lists(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5), min_size=3, max_size=30),
    RATES,
    st.sampled_from(("conformal", "max")),
)
def test_whichever_part_is_the_new_one_its_frames_are_rejected_no_more_often_than_the_bound_says(
    parts: list[list[float]], rate: float, method: ThresholdMethod
) -> None:
    rejected, bounds = 0.0, []
    for new in range(len(parts)):
        others = [(score, str(p)) for p, frames in enumerate(parts) if p != new for score in frames]
        scores, owners = zip(*others, strict=True)
        found = threshold(scores, ThresholdRule(method, rate), parts=owners)
        if found is None:
            return
        rejected += sum(score > found.value for score in parts[new]) / len(parts[new])
        bounds.append(found.bound)
    assert rejected <= max(bounds) * len(parts) + 1e-9


HEAVY = {
    "pareto": lambda rng, n: rng.pareto(0.8, n),
    "cauchy": lambda rng, n: np.abs(rng.standard_cauchy(n)),
    "two peaks": lambda rng, n: rng.normal(1 + 9 * (rng.random(n) < 0.03), 0.1),
    "discrete": lambda rng, n: rng.poisson(2, n).astype(float),
    "mostly nothing": lambda rng, n: rng.exponential(1, n) * (rng.random(n) < 0.1),
}


@pytest.mark.parametrize("draw", HEAVY)
@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (39, 0.05), (120, 0.01)])
def test_the_promise_is_kept_whatever_the_distribution(draw: str, n: int, rate: float) -> None:
    rng = np.random.default_rng(11)
    rejected, repeats, bound = 0, 3000, 0.0
    for _ in range(repeats):  # one new frame a calibration: their number is binomial
        found = threshold(HEAVY[draw](rng, n), ThresholdRule("conformal", rate))  # type: ignore[no-untyped-call]
        assert found is not None
        bound = found.bound
        rejected += bool(HEAVY[draw](rng, 1)[0] > found.value)  # type: ignore[no-untyped-call]
    low, high, kept = promise_interval(rejected, repeats, bound)
    assert kept
    if draw in ("pareto", "cauchy", "two peaks"):  # without ties nothing is given away either
        assert low <= bound <= high


def test_many_frames_of_few_parts_promise_what_few_parts_can() -> None:
    rng = np.random.default_rng(5)

    def parts(count: int, frames: int) -> np.ndarray:
        return rng.lognormal(0, 1, (count, 1)) * rng.lognormal(0, 0.05, (count, frames))

    by_frames, by_parts = 0, 0
    names = [str(p) for p in range(4) for _ in range(10)]
    for _ in range(400):
        known, new = parts(4, 10).ravel().tolist(), float(parts(1, 1)[0, 0])
        naive, found = (
            threshold(known, ThresholdRule("conformal", 0.05)),
            threshold(known, ThresholdRule("max"), None, names),
        )
        assert threshold(known, ThresholdRule("conformal", 0.05), None, names) is None
        assert naive is not None
        assert found is not None
        assert found.bound == pytest.approx(1 / 5)
        by_frames, by_parts = by_frames + (new > naive.value), by_parts + (new > found.value)
    assert not promise_interval(by_frames, 400, 0.05).kept  # forty frames that are four
    assert promise_interval(by_parts, 400, 0.2).kept


def test_a_part_weighs_one_whatever_the_number_of_its_frames() -> None:
    scores = [9.0] * 50 + [float(k) for k in range(1, 10)]
    parts = ["many"] * 50 + [None] * 9
    found = threshold(scores, ThresholdRule("conformal", 0.2), None, parts)
    assert found is not None
    assert found.value == 9.0
    assert threshold(scores, ThresholdRule("conformal", 0.3), None, parts) == Threshold(
        8.0, pytest.approx(0.3)
    )  # type: ignore[arg-type]
