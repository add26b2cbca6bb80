"""Tests that must not cry wolf: their error rates are counted over all ways to deal the same scores."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.judge.exchangeability import (
    compare,
    log_martingale,
    martingale,
    one_a_part,
    online_p_values,
    two_sample,
)

FEW = st.lists(st.integers(0, 4).map(float), min_size=4, max_size=7)


def statistic(first: np.ndarray, second: np.ndarray) -> float:
    at = np.concatenate([first, second])
    return float(
        np.abs((first[None] <= at[:, None]).mean(axis=1) - (second[None] <= at[:, None]).mean(axis=1)).max()
    )


def deals(values: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    chosen = [np.isin(np.arange(len(values)), c) for c in combinations(range(len(values)), count)]
    return [(values[mask], values[~mask]) for mask in chosen]


@given(st.permutations(range(9)), st.integers(2, 7))
@settings(max_examples=30)
def test_the_two_sample_p_value_is_the_share_of_deals_that_differ_as_much(
    order: list[int], count: int
) -> None:
    values = np.array(order, float)
    seen = statistic(values[:count], values[count:])
    share = np.mean([statistic(*deal) >= seen - 1e-9 for deal in deals(values, count)])
    assert two_sample(values[:count], values[count:]) == pytest.approx(share, abs=1e-12)


@given(FEW, st.integers(2, 3), st.sampled_from([0.05, 0.2, 0.5]))
@settings(max_examples=50)
def test_with_ties_it_refutes_no_more_often_than_its_level(
    values: list[float], count: int, level: float
) -> None:
    p = [two_sample(*deal) for deal in deals(np.array(values), count)]
    assert np.mean(np.array(p) <= level) <= level + 1e-12


def test_the_two_sample_test_is_scipys_exact_one() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (2, 9), (19, 40), (150, 120)):
        first, second = rng.normal(size=n), rng.normal(0.4, 1, size=m)
        expected = stats.ks_2samp(first, second, method="exact").pvalue
        assert two_sample(first, second) == pytest.approx(expected, rel=1e-9)


def test_a_view_that_changed_is_named_and_many_views_do_not_cry_wolf() -> None:
    rng = np.random.default_rng(0)
    known = {f"{v:02d}": rng.lognormal(0, 0.3, 40).tolist() for v in range(24)}
    same = compare({view: rng.lognormal(0, 0.3, 30).tolist() for view in known}, known)
    assert same is not None
    assert not same.refuted
    assert min(same.views.values()) < 0.05  # one of 24 looks odd by chance, which is why their number counts
    assert same.frames == 24 * 30
    moved = compare({view: rng.lognormal(0.4 * (view == "07"), 0.3, 40).tolist() for view in known}, known)
    assert moved is not None
    assert moved.refuted
    assert moved.worst == "07"


def test_views_without_calibration_or_with_one_frame_are_not_compared() -> None:
    assert compare({"a": [1.0, 2.0], "b": [1.0]}, {"b": [1.0, 2.0]}) is None
    assert compare({}, {"a": [1.0, 2.0]}) is None


@given(FEW, st.integers(1, 3))
@settings(max_examples=25)
def test_betting_against_exchangeable_scores_wins_nothing_on_average(values: list[float], known: int) -> None:
    # over all orders of the same scores, ties among them: the mean is 1 at every moment
    won = [
        10 ** martingale(online_p_values(order[known:], order[:known])) for order in permutations(values[:6])
    ]
    assert np.mean(won, axis=0) == pytest.approx(1.0, abs=1e-9)


def test_an_alarm_at_a_hundred_is_rarer_than_one_in_a_hundred_ever() -> None:
    rng = np.random.default_rng(0)
    highest = [martingale(online_p_values(rng.pareto(1, 200), rng.pareto(1, 30))).max() for _ in range(1500)]
    assert np.mean(np.array(highest) >= 2) <= 0.01
    assert np.mean(np.array(highest) >= 1) > 0.002  # it does bet


@pytest.mark.parametrize("shift", [-0.8, 0.8])
def test_rising_and_falling_scores_are_both_noticed(shift: float) -> None:
    rng = np.random.default_rng(1)
    known, new = rng.lognormal(0, 0.5, 60), rng.lognormal(shift, 0.5, 200)
    assert log_martingale(new.tolist(), known.tolist()) > 6
    assert log_martingale(rng.lognormal(0, 0.5, 200).tolist(), known.tolist()) < 1


def test_a_few_defects_among_good_frames_are_no_drift() -> None:
    rng = np.random.default_rng(2)
    new = rng.lognormal(0, 0.5, 200)
    new[::20] *= 50
    assert log_martingale(new.tolist(), rng.lognormal(0, 0.5, 100).tolist()) < 2


def test_the_unit_of_scores_does_not_matter_and_nothing_known_says_nothing() -> None:
    rng = np.random.default_rng(3)
    new, known = rng.random(50), rng.random(20)
    assert log_martingale((8 * new).tolist(), (8 * known).tolist()) == log_martingale(
        new.tolist(), known.tolist()
    )
    assert log_martingale([], known.tolist()) == 0.0
    assert log_martingale(new.tolist(), []) == 0.0


def test_p_values_count_calibration_and_what_came_before() -> None:
    found = online_p_values([5.0, 1.0, 5.0], [2.0, 6.0])
    assert found == pytest.approx([1.5 / 3, 3.5 / 4, (1 + 2 / 2) / 5])


def test_the_first_frame_of_each_part_speaks_for_it() -> None:
    assert one_a_part([3.0, 1.0, 2.0], ["a", "b", "a"]) == [3.0, 1.0]
    assert one_a_part([3.0, 1.0], None) == [3.0, 1.0]
