"""Thresholds of views never seen, on views whose law is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DataError
from edge.judge.unseen import SeenView, fit_adaptive, neighbours_residual, view_numbers


def law(angle: float, foreground: float) -> float:
    """A threshold that grows with the foreground and goes round with the angle."""
    return math.exp(-3 + 0.7 * math.log(foreground) + 0.3 * math.sin(math.radians(angle)))


def all_round(noise: float = 0.0, leave_out: tuple[int, ...] = (), seed: int = 0) -> list[SeenView]:
    """24 views, 15° apart, whose foreground goes round too."""
    rng = np.random.default_rng(seed)
    views = []
    for number in range(24):
        foreground = 0.35 + 0.2 * math.cos(math.radians(30 * number))
        value = law(15.0 * number, foreground) * math.exp(noise * rng.normal())
        if number not in leave_out:
            views.append(SeenView(f"{15 * number:03d}", value, foreground))
    return views


@pytest.mark.parametrize("number", range(24))
def test_a_view_left_out_is_estimated_from_area_and_neighbours(number: int) -> None:
    model = fit_adaptive(all_round(leave_out=(number,)))
    foreground = 0.35 + 0.2 * math.cos(math.radians(30 * number))
    estimate = model.threshold(f"{15 * number:03d}", foreground)
    assert estimate is not None
    assert estimate / law(15.0 * number, foreground) == pytest.approx(1.0, abs=0.12)


def test_the_stated_error_is_that_on_views_left_out() -> None:
    model, errors = fit_adaptive(all_round(noise=0.05)), []
    for number in range(24):
        others = fit_adaptive(all_round(noise=0.05, leave_out=(number,)))
        own = all_round(noise=0.05)[number]
        estimate = others.threshold(own.name, own.foreground_ratio)
        assert estimate is not None
        errors.append(math.log(own.threshold) - (math.log(estimate) - others.margin))
    assert model.loo_error == pytest.approx(math.sqrt(np.mean(np.square(errors))), rel=1e-6)
    assert model.loo_error < model.loo_error_alone  # neighbours help here


def test_nine_of_ten_unseen_thresholds_are_reached_with_the_margin() -> None:
    reached = []
    for seed in range(60):
        number = seed % 24
        own = all_round(noise=0.1, seed=seed)[number]
        estimate = fit_adaptive(all_round(noise=0.1, leave_out=(number,), seed=seed)).threshold(
            own.name, own.foreground_ratio
        )
        assert estimate is not None
        reached.append(own.threshold <= estimate)
    assert 0.8 < np.mean(reached) <= 1.0


def test_views_that_share_nothing_are_given_a_wide_margin() -> None:
    rng = np.random.default_rng(5)
    views = [SeenView(f"{k:02d}", math.exp(rng.normal()), 1.0) for k in range(24)]
    model = fit_adaptive(views)
    assert model.slope == 0.0  # the foreground is the same everywhere
    assert model.loo_error > 0.7
    assert model.margin > 0.7


def test_no_estimate_where_there_is_nothing_to_go_by() -> None:
    model = fit_adaptive(all_round(leave_out=(5,)))
    assert model.threshold("075", 0.35) is not None
    assert model.threshold("075", 0.9) is None  # more in sight than any calibrated view had
    assert model.threshold("075", 0.0) is None
    with pytest.raises(DataError, match="5 calibrated views or more; there are 4"):
        fit_adaptive(all_round()[:4])


def test_a_view_without_a_number_is_estimated_by_its_area_alone() -> None:
    model = fit_adaptive(all_round())
    x = math.log(0.35)
    assert model.threshold("top", 0.35) == pytest.approx(
        math.exp(model.intercept + model.slope * x + model.margin_alone)
    )


RESIDUALS = {"01": 0.1, "02": 0.2, "04": 0.4, "05": 0.5, "06": 0.6}


@pytest.mark.parametrize(
    ("view", "cycle", "expected"),
    [
        ("03", None, 0.3),
        ("02", None, 0.25),  # a view is not its own neighbour: between 01 and 04 it would be too far
        ("07", None, None),  # beyond the end
        ("07", 6.0, 0.35),  # 07 is 01 again, between 06 and 02
        ("x3", None, None),
        ("top", None, None),
        ("3.5", None, 0.35),
    ],
)
def test_neighbours_are_those_on_either_side(view: str, cycle: float | None, expected: float | None) -> None:
    residuals = dict(RESIDUALS)
    if view == "02":
        residuals["03"] = 0.4
    if view == "07" and cycle:
        del residuals["01"]
        residuals["02"] = 0.1
    found = neighbours_residual(view, residuals, view_numbers([view, *residuals]), cycle)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_wide_gap_is_not_bridged() -> None:
    residuals = {"01": 0.0, "02": 0.0, "03": 0.0, "08": 1.0, "09": 1.0}
    assert neighbours_residual("05", residuals, view_numbers(["05", *residuals]), None) is None


def test_angles_all_round_are_known_as_a_circle_and_counts_only_where_that_is_said() -> None:
    assert fit_adaptive(all_round(leave_out=(7,))).cycle == 360
    half = [view for view in all_round() if int(view.name) < 180]
    assert fit_adaptive(half).cycle is None
    counted = [SeenView(f"{k + 1:02d}", v.threshold, v.foreground_ratio) for k, v in enumerate(all_round())]
    assert fit_adaptive(counted).cycle is None
    assert fit_adaptive(counted[1:], 24).threshold("01", 0.5) is not None


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(0.05, 1.0)), min_size=5, max_size=12),
    st.floats(0.1, 10),
)
def test_estimates_go_with_the_unit_of_the_thresholds(views: list[tuple[float, float]], unit: float) -> None:
    def model(factor: float):  # type: ignore[no-untyped-def]
        return fit_adaptive([SeenView(f"{k:02d}", factor * y, f) for k, (y, f) in enumerate(views)])

    ratio = float(np.median([f for _, f in views]))
    one, other = model(1.0).threshold("03.5", ratio), model(unit).threshold("03.5", ratio)
    assert one is not None  # it lies between two views that were seen
    assert other is not None
    assert other / unit == pytest.approx(one, rel=1e-5)
