"""Thresholds of scores that are probabilities: they stay probabilities, whatever raises them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.calibration_report import shortfalls
from edge.judge.calibration import (
    SMALL_SAMPLE_ODDS,
    Calibration,
    GoodFrame,
    ViewCalibration,
    beyond,
    calibrate,
    load_calibration,
    save_calibration,
)
from edge.judge.odds import CERTAIN, Odds, odds_of, probability_of

PROBABILITIES = st.floats(0, 1, width=32)  # as networks answer them


def good(view: str, scores: list[float], highest: float | None = None) -> list[GoodFrame]:
    return [GoodFrame(view, s, s if highest is None else highest, 0.5, 0.1, 48, 64) for s in scores]


def make(
    frames: list[GoodFrame], rate: float = 0.05, too_few: str = "bound", bounded: bool = True, **how: Any
) -> Calibration:
    return calibrate(
        frames, recipe="r", bundle_sha256="b" * 64, statistic="peak", false_reject=rate,
        too_few=too_few, bounded=bounded, **how,  # type: ignore[arg-type]
    )  # fmt: skip


def only(calibration: Calibration) -> ViewCalibration:
    (limits,) = calibration.views.values()
    return limits


@given(st.lists(PROBABILITIES, min_size=1, max_size=12), st.floats(1, 1e6))
def test_odds_come_back_and_keep_their_order(known: list[float], factor: float) -> None:
    odds = Odds(known)
    assert [odds.back(odds_of(p)) for p in known] == known
    for p in known:
        assert p <= odds.back(odds_of(p) * factor) <= 1
    values = sorted([*map(odds_of, known), *(odds_of(p) * factor for p in known)])
    back = [odds.back(value) for value in values]
    assert all(below <= above for below, above in pairwise(back))


@given(PROBABILITIES.filter(lambda p: 0 < p < 1))
def test_above_the_highest_score_is_room_below_1(highest: float) -> None:
    raised = beyond([highest / 2, highest], bounded=True)
    assert highest < raised < 1
    assert odds_of(raised) == pytest.approx(SMALL_SAMPLE_ODDS * odds_of(highest), rel=1e-3)


def test_a_small_probability_is_raised_by_the_factor_of_its_odds() -> None:
    assert beyond([1e-4], bounded=True) == pytest.approx(2e-4, rel=1e-3)
    assert beyond([0.9], bounded=True) == pytest.approx(18 / 19)
    assert beyond([0.9], bounded=False) == pytest.approx(1.125)
    assert beyond([0.0], bounded=True) == 0
    assert probability_of(CERTAIN) < 1


def test_too_few_probabilities_give_a_probability_for_frames_pixels_and_all_views() -> None:
    made = make(good("a", [0.2, 0.9, 0.5], highest=0.9999))
    limits = only(made)
    assert limits.basis == "maximum"
    assert limits.threshold == pytest.approx(18 / 19)
    assert 0.9999 < limits.pixel_threshold < 1
    assert limits.pixel_threshold == pytest.approx(19998 / 19999)
    assert made.global_threshold == pytest.approx(18 / 19)
    assert limits.scores == (0.2, 0.9, 0.5)
    assert shortfalls(made)[0].startswith("view a: 3 calibration frames bound false rejects to 25.0%")


@given(st.lists(PROBABILITIES, min_size=19, max_size=30))
def test_enough_probabilities_give_the_threshold_that_any_scores_would(scores: list[float]) -> None:
    frames = good("a", scores)
    odds, plain = only(make(frames)), only(make(frames, bounded=False))
    assert odds.scores == plain.scores
    assert (odds.threshold, odds.pixel_threshold) == pytest.approx((plain.threshold, plain.pixel_threshold))
    # one that is a score has to stay it to the last bit: equal scores of good frames lie at the threshold
    assert odds.threshold in scores or odds.threshold < 1e-11  # never 0
    assert odds.false_reject_bound == plain.false_reject_bound


def test_pooled_views_give_a_probability_that_keeps_the_pooled_rate() -> None:
    """A view whose good frames score high has room above them, too."""
    rng = np.random.default_rng(0)
    low = [probability_of(0.001 * float(x)) for x in rng.lognormal(0, 0.8, 60)]
    high = [probability_of(4.0 * float(x)) for x in rng.lognormal(0, 0.8, 5)]
    frames = good("low", low) + good("high", high)
    made = make(frames, too_few="pool")
    limits = made.views["high"]
    assert limits.basis == "pool"
    assert max(high) <= limits.threshold < 1
    fresh = np.array([probability_of(4.0 * float(x)) for x in rng.lognormal(0, 0.8, 2000)])
    assert limits.false_reject_estimate is not None
    assert (fresh > limits.threshold).mean() < 3 * limits.false_reject_estimate
    plain = make(frames, too_few="pool", bounded=False).views["high"]
    assert plain.threshold > 1, "what the odds are for: nothing would ever be rejected"


@pytest.mark.parametrize("method", ["mad", "evt", "quantile", "median-max"])
def test_no_rule_gives_more_than_a_probability(method: str) -> None:
    scores = [probability_of(float(x)) for x in np.random.default_rng(0).lognormal(1, 1.5, 60)]
    limits = only(make(good("a", scores), rate=0.005, method=method))
    assert 0.5 < limits.threshold < 1
    assert limits.pixel_threshold == pytest.approx(limits.threshold)


def of_parts(count: int, seed: int = 0) -> list[GoodFrame]:
    rng = np.random.default_rng(seed)
    return [
        replace(good(view, [probability_of(level * float(rng.lognormal(0, 0.3)))])[0], part=f"P{part}")
        for part in range(count)
        for view, level in (("a", 0.01), ("b", 5.0))
    ]


def test_a_rate_per_part_is_kept_by_probabilities() -> None:
    made = make(of_parts(40), false_reject_part=0.05)
    assert made.part is not None
    rejected = {f.part for f in of_parts(400, seed=1) if f.raw > made.views[f.view].threshold}
    assert len(rejected) <= 0.1 * 400
    for view, limits in made.views.items():
        assert limits.basis == "part"
        assert max(limits.scores) * 0.9 < limits.threshold < 1
        assert odds_of(limits.threshold) == pytest.approx(made.part.threshold(view))


def test_the_review_band_is_of_probabilities() -> None:
    scores = [0.5 + i / 250 for i in range(99)]
    limits = only(make(good("a", scores), rate=0.01, review_band=0.1))
    assert (limits.threshold, limits.review_threshold) == (scores[98], scores[89])


def test_networks_of_folds_differ_in_odds_and_none_of_their_frames_gets_more_than_a_probability() -> None:
    rng = np.random.default_rng(0)
    frames = [
        replace(good("a", [probability_of((6.0 if k % 4 == 0 else 1.0) * float(rng.lognormal(0, 0.3)))])[0],
                part=f"P{k}", fold=k % 4)
        for k in range(80)
    ]  # fmt: skip
    made = make(frames)
    assert made.folds_aligned
    assert 0.5 < max(only(made).scores) < 1
    assert only(made).threshold < 1


def test_views_never_seen_are_estimated_as_probabilities(tmp_path: Path) -> None:
    frames = [
        GoodFrame(f"{15 * n:03d}", p, p, 0.5, 0.1, 48, 64, 0.4 + 0.1 * math.cos(math.radians(30 * n)))
        for n in range(24)
        for k in range(20)
        for p in [probability_of(8 * math.exp(math.sin(math.radians(15 * n))) * (1 + k / 20))]
    ]
    whole = make(frames)
    made = make([f for f in frames if f.view != "090"], unseen_views="adaptive")
    saved = save_calibration(tmp_path / "c.json", made)
    limits = load_calibration(tmp_path / "c.json", "b" * 64).estimate("090", 0.3)
    assert limits is not None
    assert saved.bounded
    assert limits.threshold < 1
    assert limits.pixel_threshold == pytest.approx(limits.threshold)
    assert odds_of(limits.threshold) == pytest.approx(odds_of(whole.views["090"].threshold), rel=0.3)


def test_a_good_frame_of_score_1_keeps_the_promise_and_is_said_aloud() -> None:
    made = make(good("a", [0.1, 1.0, 0.2]))
    assert only(made).threshold == 1
    assert any("no frame of it will be rejected" in sentence for sentence in shortfalls(made))
    assert not any("no frame of it" in sentence for sentence in shortfalls(make(good("a", [0.1, 0.999]))))
