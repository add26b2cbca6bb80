"""Thresholds for a demanded recall: what they reach, what they prove, and where they lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import fbeta_score

from edge.errors import DataError, UsageError
from edge.judge.operating_point import (
    at_least,
    best_f,
    defects_needed,
    lower_bound,
    operating_point,
)

SCORES = st.lists(
    st.tuples(st.floats(0, 1, allow_subnormal=False, width=32), st.booleans()), min_size=1, max_size=60
).filter(lambda frames: any(truth for _, truth in frames))


def divided(frames: list[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [score for score, _ in frames], [truth for _, truth in frames]


@settings(deadline=None)
@given(SCORES, st.sampled_from([0.5, 0.9, 0.99, 1.0]), st.sampled_from(["linear", "log-odds"]))
def test_recall_is_reached_and_no_higher_threshold_reaches_it(
    frames: list[tuple[float, bool]], demanded: float, scale: str
) -> None:
    scores, truth = divided(frames)
    point = operating_point(scores, truth, demanded, scale=scale)  # type: ignore[arg-type]
    defects = [score for score, is_defect in frames if is_defect]
    assert point.recall == sum(score > point.threshold for score in defects) / len(defects)
    assert point.recall >= demanded - 1e-9
    for higher in sorted(set(scores)):
        if higher > point.threshold and sum(s > higher for s in scores) < sum(
            s > point.threshold for s in scores
        ):
            assert sum(score > higher for score in defects) / len(defects) < demanded


@settings(deadline=None)
@given(SCORES)
def test_counts_are_those_of_the_rule_score_above_threshold(frames: list[tuple[float, bool]]) -> None:
    scores, truth = divided(frames)
    point = operating_point(scores, truth, 0.9)
    rejected = [is_defect for score, is_defect in frames if score > point.threshold]
    goods = truth.count(False)
    assert point.precision == sum(rejected) / len(rejected)
    assert point.false_reject == (rejected.count(False) / goods if goods else None)
    assert (point.defects, point.goods) == (sum(truth), goods)


def test_threshold_lies_in_the_middle_of_the_gap() -> None:
    scores, truth = [0.1, 0.2, 0.8, 0.9], [False, False, True, True]
    assert operating_point(scores, truth, 1.0).threshold == pytest.approx(0.5)
    probabilities = [1e-6, 1e-4, 0.99, 0.999]
    point = operating_point(probabilities, truth, 1.0, scale="log-odds")
    odds = (math.log(1e-4 / (1 - 1e-4)) + math.log(0.99 / 0.01)) / 2
    assert math.log(point.threshold / (1 - point.threshold)) == pytest.approx(odds)
    assert (point.recall, point.precision, point.false_reject) == (1, 1, 0)


def test_saturated_probabilities_still_have_a_gap() -> None:
    point = operating_point([0.0, 0.0, 1.0, 1.0], [False, False, True, True], 1.0, scale="log-odds")
    assert point.threshold == pytest.approx(0.5)


def test_neighbours_in_floating_point_are_still_told_apart() -> None:
    low, high = 0.5, np.nextafter(0.5, 1)
    point = operating_point([low, float(high)], [False, True], 1.0)
    assert (point.recall, point.precision) == (1, 1)


def test_a_defect_that_nothing_scores_below_has_the_threshold_just_below_it() -> None:
    point = operating_point([0.4, 0.9], [True, False], 1.0)
    assert 0.39 < point.threshold < 0.4
    assert point.false_reject == 1


def test_a_missed_defect_is_allowed_where_the_demand_allows_it() -> None:
    scores = [0.01] + [0.9] * 99 + [0.1] * 50
    truth = [True] * 100 + [False] * 50
    point = operating_point(scores, truth, 0.99)
    assert point.recall == 0.99
    assert point.false_reject == 0
    assert operating_point(scores, truth, 1.0).false_reject == 1


def test_so_few_defects_prove_less_than_was_demanded_and_it_says_so() -> None:
    point = operating_point([0.9] * 21 + [0.1] * 200, [True] * 21 + [False] * 200, 0.99)
    assert point.recall == 1
    assert point.recall_lower_bound == pytest.approx(0.05 ** (1 / 21))
    assert not point.proven
    assert point.defects_needed == 299
    many = operating_point([0.9] * 299 + [0.1], [True] * 299 + [False], 0.99)
    assert many.proven


@settings(deadline=None)
@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_bound_is_clopper_and_pearsons(of: int, data: st.DataObject, confidence: float) -> None:
    found = data.draw(st.integers(0, of))
    wanted = stats.beta.ppf(1 - confidence, found, of - found + 1) if found else 0.0
    assert lower_bound(found, of, confidence) == pytest.approx(wanted, abs=1e-9)


@settings(deadline=None)
@given(st.integers(1, 2000), st.data(), st.floats(0.001, 0.999))
def test_tail_is_the_binomials(of: int, data: st.DataObject, share: float) -> None:
    found = data.draw(st.integers(0, of))
    assert at_least(found, of, share) == pytest.approx(stats.binom.sf(found - 1, of, share), abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_tail_at_the_ends(share: float) -> None:
    assert at_least(3, 5, share) == share
    assert at_least(0, 5, share) == 1


@pytest.mark.parametrize(("recall", "misses"), [(0.99, 0), (0.99, 1), (0.95, 3), (0.5, 0), (0.999, 2)])
def test_that_many_defects_prove_it_and_one_fewer_does_not(recall: float, misses: int) -> None:
    needed = defects_needed(recall, 0.95, misses)
    assert needed is not None
    assert lower_bound(needed - misses, needed) >= recall
    assert lower_bound(needed - 1 - misses, needed - 1) < recall


def test_no_number_of_defects_proves_that_all_are_found() -> None:
    assert defects_needed(1.0) is None
    assert defects_needed(1 - 1e-9) is None


@settings(max_examples=30, deadline=None)
@given(SCORES, st.sampled_from([0.5, 1.0, 2.0]))
def test_best_f_is_the_best_of_all_thresholds(frames: list[tuple[float, bool]], beta: float) -> None:
    scores, truth = divided(frames)
    best, threshold = best_f(scores, truth, beta)

    def f(at: float) -> float:
        return float(fbeta_score(truth, [score > at for score in scores], beta=beta, zero_division=0))

    assert f(threshold) == pytest.approx(best)
    assert best == pytest.approx(max(f(at) for at in [*scores, -1.0]))


@pytest.mark.parametrize(
    ("scores", "truth", "said"),
    [([0.1, 0.2], [False, False], "no defect"), ([0.1], [True, False], "1 scores for 2"),
     ([0.1, math.nan], [True, False], "not finite")],
)  # fmt: skip
def test_frames_that_cannot_give_a_threshold_are_refused(
    scores: list[float], truth: list[bool], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        operating_point(scores, truth, 0.99)
    with pytest.raises(DataError, match=said):
        best_f(scores, truth, 1.0)


@pytest.mark.parametrize(("recall", "confidence"), [(0, 0.95), (1.1, 0.95), (0.9, 1.0), (0.9, 0)])
def test_impossible_demands_are_refused(recall: float, confidence: float) -> None:
    with pytest.raises(UsageError):
        operating_point([0.1, 0.9], [False, True], recall, confidence)


def test_scores_that_are_no_probabilities_have_no_log_odds() -> None:
    with pytest.raises(DataError, match="not a probability"):
        operating_point([0.1, 7.0], [False, True], 1.0, scale="log-odds")
