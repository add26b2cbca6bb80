import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from edge.judge.bootstrap import (
    Bootstrap,
    Floats,
    auroc,
    average_precision,
    f_measure,
    rank_counts,
)

rows = st.lists(
    st.tuples(st.integers(0, 6).map(float), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40
)


@given(rows)
def test_weighted_rank_figures_are_those_of_repeated_frames(rows: list[tuple[float, bool, int]]) -> None:
    scores, truth, weights = zip(*rows, strict=True)
    repeated_truth = np.repeat(truth, weights)
    repeated_scores = np.repeat(scores, weights)
    counts = rank_counts(scores, np.array(truth))(np.array([weights], np.float64))
    area, precision = auroc(*counts)[0], average_precision(*counts)[0]
    if len(set(repeated_truth.tolist())) < 2:
        assert np.isnan(area)
        assert np.isnan(precision)
    else:
        assert area == pytest.approx(roc_auc_score(repeated_truth, repeated_scores))
        assert precision == pytest.approx(average_precision_score(repeated_truth, repeated_scores))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_f_measure_is_scikit_learns(pairs: list[tuple[bool, bool]]) -> None:
    truth, called = np.array(pairs).T
    counts = [np.array([float(n.sum())]) for n in (truth & called, ~truth & called, truth & ~called)]
    value = f_measure(*counts, 1)[0]
    if not (truth | called).any():
        assert np.isnan(value)
    else:
        assert value == pytest.approx(f1_score(truth, called, zero_division=0.0))


def auroc_of(scores: Floats, truth: np.ndarray) -> tuple[float, float] | None:
    counts = rank_counts(scores.tolist(), truth)
    boot = Bootstrap([str(i) for i in range(len(truth))], truth.tolist())
    return boot.interval(lambda w: auroc(*counts(w)), truth, ~truth)


def test_intervals_hold_what_they_should_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(80) < 40
    true_auroc = 0.8555  # of normals one and a half standard deviations apart: Φ(1.5/√2)
    held = 0
    for _ in range(60):
        low, high = auroc_of(rng.standard_normal(80) + 1.5 * truth, truth) or (1.0, 0.0)
        held += low <= true_auroc <= high
    assert 51 <= held <= 60  # 95 % would be 57; percentile intervals are known to be a little narrow


def test_frames_of_one_part_are_drawn_together() -> None:
    """Ten copies of every frame are no news, unless they were parts of their own."""
    rng = np.random.default_rng(1)
    truth = np.repeat([True, False], 20)
    hit = rng.random(40) < 0.5

    def width(groups: list[str]) -> float:
        low, high = Bootstrap(groups, many.tolist()).share(np.repeat(hit, 10), many) or (0, 0)
        return high - low

    many = np.repeat(truth, 10)
    by_part = width([str(i // 10) for i in range(400)])
    low, high = Bootstrap([str(i) for i in range(40)], truth.tolist()).share(hit, truth) or (0, 0)
    assert by_part == pytest.approx(high - low, abs=0.02)
    assert width([str(i) for i in range(400)]) < by_part / 2


def test_every_resample_has_as_many_parts_of_each_kind_as_there_are() -> None:
    truth = np.array([True, False, False, True, False, False, False])
    boot = Bootstrap(["a", "a", "b", "c", "d", "e", "e"], truth.tolist(), resamples=50)
    drawn = boot._drawn  # a, c have a defect; b, d, e have none
    np.testing.assert_array_equal(drawn[:, [0, 2]].sum(1), 2)
    np.testing.assert_array_equal(drawn[:, [1, 3, 4]].sum(1), 3)
    assert len(np.unique(drawn, axis=0)) > 5


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    truth = np.arange(30) < 15
    hit = np.arange(30) % 3 == 0
    groups = [str(i) for i in range(30)]
    first, again, other = (
        Bootstrap(groups, truth.tolist(), seed=seed, resamples=101).values(lambda w: w @ hit)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_escape_among_few_parts_is_no_proof_of_none() -> None:
    truth = np.arange(40) < 30
    never = np.zeros(40, bool)
    boot = Bootstrap([str(i) for i in range(40)], truth.tolist())
    assert boot.share(never, truth) == (0.0, pytest.approx(1 - 0.025 ** (1 / 30)))
    assert boot.share(truth, truth) == (pytest.approx(0.025 ** (1 / 30)), 1.0)
    assert boot.share(never, never) is None


def test_figures_that_rest_on_one_part_have_no_interval() -> None:
    truth = np.arange(10) < 4
    groups = ["a"] * 4 + [str(i) for i in range(6)]
    boot = Bootstrap(groups, truth.tolist())
    scores = rank_counts(np.arange(10.0).tolist(), truth)
    assert boot.interval(lambda w: auroc(*scores(w)), truth, ~truth) is None
    assert boot.share(np.arange(10) % 2 == 0, truth) is None
    assert boot.share(np.arange(10) % 2 == 0, ~truth) is not None


def test_a_figure_that_mostly_does_not_exist_has_no_interval() -> None:
    boot = Bootstrap(["a", "b", "c"], [False] * 3)
    assert boot.interval(lambda w: np.where(w[:, 0] > 1, 1.0, np.nan)) is None


def test_frames_without_a_score_are_left_out() -> None:
    truth = np.array([True, False, True, False])
    weights = np.ones((1, 4))
    assert auroc(*rank_counts([2.0, 1.0, None, None], truth)(weights))[0] == 1.0
    assert np.isnan(auroc(*rank_counts([None] * 4, truth)(weights))[0])


def test_two_thousand_frames_take_less_than_two_seconds() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(2000) < 0.2
    scores = rng.random(2000)
    began = time.process_time()  # of this process: other work on the machine does not count
    boot = Bootstrap([str(i // 3) for i in range(2000)], truth.tolist())
    counts = rank_counts(scores.tolist(), truth)
    for figure in (auroc, average_precision):
        assert boot.interval(lambda w, figure=figure: figure(*counts(w)), truth, ~truth)
    assert boot.share(scores > 0.5, truth)
    assert time.process_time() - began < 2
