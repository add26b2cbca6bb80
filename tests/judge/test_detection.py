"""Probability of detection: known curves are found again, and what the data do not bound is not claimed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from edge.judge.detection import Detection, fit_detection

SIZES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
CONTRASTS = (0.02, 0.04, 0.08, 0.16, 0.32)


def simulated(
    seed: int, each: int, truth: tuple[float, float, float] = (2.0, 3.0, 2.0)
) -> list[tuple[float, float, bool]]:
    rng = np.random.default_rng(seed)
    rows = []
    for size in SIZES:
        for contrast in CONTRASTS:
            odds = truth[0] + truth[1] * math.log(size) + truth[2] * math.log(contrast)
            rows += [(size, contrast, bool(rng.random() < 1 / (1 + math.exp(-odds)))) for _ in range(each)]
    return rows


def fitted(rows: list[tuple[float, float, bool]]) -> Detection:
    found = fit_detection(*zip(*rows, strict=True))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_the_parameters_that_made_the_data_are_found_again() -> None:
    fit = fitted(simulated(0, 100))
    errors = np.sqrt(np.diag(fit.covariance))
    off = (np.array([fit.intercept, fit.by_size, fit.by_contrast]) - (2, 3, 2)) / errors
    assert np.abs(off).max() < 3
    assert errors.max() < 0.4
    a90 = math.exp((math.log(9) - 2 - 2 * math.log(0.08)) / 3)
    assert fit.size_at(0.08) == pytest.approx(a90, rel=0.1)
    assert fit.probability(a90, 0.08) == pytest.approx(0.9, abs=0.03)


def test_with_many_defects_it_is_the_likelihoods_own_answer() -> None:
    rows = simulated(1, 100)
    x = np.log([[size, contrast] for size, contrast, _ in rows])
    other = LogisticRegression(C=1e9, tol=1e-8, max_iter=1000).fit(x, [hit for *_, hit in rows])
    fit = fitted(rows)
    assert [fit.by_size, fit.by_contrast] == pytest.approx(other.coef_[0], rel=0.02)


def test_the_proved_size_is_beyond_the_true_one_in_95_of_100_experiments() -> None:
    true = math.exp((math.log(9) - 2 - 2 * math.log(0.08)) / 3)
    proved = [fitted(simulated(seed, 4)).size_proved(0.08) for seed in range(200)]
    held = np.mean([size is None or size >= true for size in proved])
    assert 0.91 <= held <= 0.99


def test_the_proved_size_comes_nearer_with_more_defects() -> None:
    gaps = []
    for each in (2, 10, 50):
        fit = fitted(simulated(2, each))
        a90, proved = fit.size_at(0.08), fit.size_proved(0.08)
        assert a90 is not None
        assert proved is not None
        gaps.append(proved / a90)
    assert gaps[0] > gaps[1] > gaps[2] > 1


def test_at_the_proved_size_the_lower_limit_is_the_probability_asked_for() -> None:
    fit = fitted(simulated(3, 8))
    size = fit.size_proved(0.04)
    assert size is not None
    at = np.array([1, math.log(size), math.log(0.04)])
    odds = float(at @ [fit.intercept, fit.by_size, fit.by_contrast])
    lower = odds - 1.6448536 * math.sqrt(float(at @ np.array(fit.covariance) @ at))
    assert lower == pytest.approx(math.log(9), abs=1e-4)


@pytest.mark.parametrize("found", [True, False])
def test_all_found_or_none_bounds_nothing(found: bool) -> None:
    rows = [(size, contrast, found) for size in SIZES for contrast in CONTRASTS]
    assert fit_detection(*zip(*rows, strict=True)) is None  # type: ignore[arg-type]


def test_a_detector_without_noise_has_a_finite_curve_at_its_limit() -> None:
    """One line separates found from missed: the plain likelihood has no maximum."""
    rows = [(s, c, s * c > 0.5) for s in SIZES for c in CONTRASTS for _ in range(10)]
    fit = fitted(rows)
    middle = fit.size_at(0.08, 0.5)
    assert middle is not None
    assert 4 < middle < 8  # found at 8 px, not at 6
    assert fit.by_size < 1000


def test_where_size_has_no_effect_no_size_is_named() -> None:
    rng = np.random.default_rng(0)
    rows = [(s, c, bool(rng.random() < 0.5)) for s in SIZES for c in CONTRASTS for _ in range(5)]
    assert fitted(rows).size_proved(0.08) is None


def test_one_contrast_alone_gives_a_curve_over_size() -> None:
    fit = fitted([row for row in simulated(4, 50) if row[1] == 0.08])
    assert fit.by_contrast == 0
    assert fit.size_at(0.08) == pytest.approx(math.exp((math.log(9) - 2 - 2 * math.log(0.08)) / 3), rel=0.3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from(CONTRASTS), st.booleans()), max_size=80))
def test_whatever_was_found_it_answers(rows: list[tuple[float, float, bool]]) -> None:
    fit = fit_detection([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
    if fit is None:
        return
    assert np.isfinite([fit.intercept, fit.by_size, fit.by_contrast, *np.ravel(fit.covariance)]).all()
    for contrast in CONTRASTS:
        a90, proved = fit.size_at(contrast), fit.size_proved(contrast)
        assert a90 is None or a90 > 0
        assert proved is None or (a90 is not None and proved >= a90 * (1 - 1e-9))
