"""Windows of scores against calibration's: what is chance, what matters, what it will cost."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edge.judge.calibration import GoodFrame, calibrate
from edge.judge.drift import Drift, DriftRule, Reference, ks_p, measure, psi, rank_sum_p, state_of
from edge.judge.exchangeability import two_sample

RULE = DriftRule()


def reference(
    count: int = 200, *, seed: int = 0, bounded: bool = False, false_reject: float = 0.05
) -> Reference:
    """A view whose good scores are log-normal with a spread of 0.3."""
    raw = 0.02 * np.exp(0.3 * np.random.default_rng(seed).standard_normal(count))
    good = [GoodFrame("1", float(one), float(one), 0.5, 0.1, 8, 8) for one in raw]
    made = calibrate(
        good, recipe="r", bundle_sha256="b" * 64, statistic="peak", false_reject=false_reject,
        too_few="refuse", bounded=bounded,
    )  # fmt: skip
    limits = made.of("1")
    assert limits is not None
    return Reference.of(made, limits)


def window(of: Reference, count: int = 300, *, shift: float = 0.0, seed: int = 1) -> list[float]:
    """Normalised scores of production, higher by `shift` standard deviations."""
    z = np.random.default_rng(seed).standard_normal(count) + shift
    return [float(0.02 * np.exp(0.3 * one) / of.threshold) for one in z]


def test_scores_like_calibrations_are_ok() -> None:
    of = reference()
    state, why = state_of(measure(window(of), of), RULE, "ok")
    assert (state, why) == ("ok", "")


def test_the_forecast_is_the_share_that_is_rejected() -> None:
    """Against the share that really lies above the threshold, for a shift that triples it."""
    of = reference(2000)
    found = measure(window(of, 2000, shift=0.6), of)
    rejected = np.mean(np.array(window(of, 200_000, shift=0.6, seed=9)) > 1)
    assert rejected > 0.12
    assert found.forecast == pytest.approx(rejected, rel=0.15)
    assert found.median_ratio == pytest.approx(math.exp(0.3 * 0.6), rel=0.05)


def test_a_shift_is_an_alarm_before_false_rejects_have_doubled() -> None:
    of = reference(500)
    shift = 0.33  # 9.4 % of good frames above a threshold for 5 %
    state, why = state_of(measure(window(of, 1000, shift=shift), of), RULE, "ok")
    assert state == "alarm"
    assert "of good frames are rejected so, 5.0% promised" in why


def test_lower_scores_are_an_alarm_too() -> None:
    of = reference()
    state, why = state_of(measure(window(of, shift=-1.5), of), RULE, "ok")
    assert state == "alarm"
    assert "lower than calibration's; defects may score otherwise, too" in why


def test_few_frames_say_nothing() -> None:
    of = reference()
    assert state_of(measure(window(of, 49, shift=3), of), RULE, "ok")[0] == "too_few"
    assert state_of(measure(window(of, 50, shift=3), of), RULE, "ok")[0] == "alarm"


def test_an_alarm_that_is_on_ends_later_than_it_begins() -> None:
    found = Drift(
        frames=500, psi=0.05, ks_p=0.002, shift_p=0.0004, median_ratio=1.1, forecast=0.065, promised=0.05
    )
    assert state_of(found, RULE, "ok")[0] == "watch"
    assert state_of(found, RULE, "alarm")[0] == "alarm"
    assert state_of(replace(found, forecast=0.06), RULE, "alarm")[0] == "ok"
    assert state_of(replace(found, shift_p=0.0006), RULE, "alarm")[0] == "watch"


def test_psi_has_no_bias_by_few_frames() -> None:
    rng = np.random.default_rng(5)
    raw = [psi(np.sort(rng.standard_normal(60)), np.sort(rng.standard_normal(40))) for _ in range(400)]
    assert np.mean(raw) < 0.1  # uncorrected it is 0.29, above what is commonly called a drift
    moved = psi(np.sort(rng.standard_normal(2000) + 1), np.sort(rng.standard_normal(2000)))
    assert moved == pytest.approx(1.0, rel=0.2)  # of a normal body moved by one deviation: about its square


def test_large_samples_have_the_p_value_of_the_exact_test() -> None:
    rng = np.random.default_rng(6)
    for shift in (0.0, 0.15, 0.3):
        a, b = np.sort(rng.standard_normal(150)), np.sort(rng.standard_normal(120) + shift)
        assert ks_p(a, b) == pytest.approx(two_sample(a.tolist(), b.tolist()), rel=0.15, abs=0.01)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_sums_are_as_rare_as_said(ties: bool) -> None:
    rng = np.random.default_rng(7)
    p = []
    for _ in range(2000):
        a, b = rng.standard_normal(50), rng.standard_normal(19)
        if ties:
            a, b = np.round(a), np.round(b)
        p.append(rank_sum_p(np.sort(a), np.sort(b)))
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


def test_equal_scores_are_no_drift_and_have_no_forecast() -> None:
    of = reference()
    flat = Reference(np.zeros(30), 1.0, 0.05, False, np.zeros(30))
    found = measure([1.0] * 60, flat)
    assert (found.psi, found.p, found.forecast) == (0.0, 1.0, None)
    assert state_of(found, RULE, "ok")[0] == "ok"
    assert of.scores.std() > 0


def test_scores_that_are_probabilities_are_compared_by_their_odds() -> None:
    of = reference(bounded=True)
    found = measure([0.999 / of.threshold] * 60, of)
    assert found.median_ratio > 1000  # 0.999 against 0.02: by probabilities it would be 50
    assert found.forecast == pytest.approx(1.0)


def test_a_small_calibration_sees_more_with_the_first_scores_of_production_beside_it() -> None:
    of = reference(19, seed=11)
    moved = window(of, 600, shift=0.4, seed=12)
    wider = of.beside(window(of, 500, seed=13))
    assert measure(moved, of).p > RULE.alarm_share > measure(moved, wider).p
