"""The promise of whole parts: it holds for every set of scores, not only on average."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DataError
from edge.judge.part_promise import MOST_SLACK, PartPromise, promise_parts, slack
from edge.judge.promise import promise_interval

RATES = st.sampled_from([0.05, 0.1, 0.2, 0.4])


def parts_of(raw: np.ndarray) -> dict[str, dict[str, float]]:
    return {f"P{p}": {f"v{v}": float(x) for v, x in enumerate(row)} for p, row in enumerate(raw)}


def promise(raw: np.ndarray, rate: float, refuse: bool = False) -> PartPromise:
    return promise_parts(parts_of(raw), [f"v{v}" for v in range(raw.shape[1])], rate, refuse=refuse)


def rejects(made: PartPromise, row: np.ndarray) -> bool:
    return any(x > made.threshold(f"v{v}") * (1 + 1e-12) for v, x in enumerate(row))


def left_out(raw: np.ndarray, rate: float) -> tuple[int, float]:
    """How many parts are rejected by the thresholds of all others, and the worst bound these stated."""
    made = [promise(np.delete(raw, p, axis=0), rate) for p in range(len(raw))]
    return sum(rejects(one, row) for one, row in zip(made, raw, strict=True)), max(m.bound for m in made)


@st.composite
def tables(draw: st.DrawFn) -> np.ndarray:
    parts, views = draw(st.integers(2, 24)), draw(st.integers(1, 5))
    values = st.one_of(st.floats(0.5, 2), st.floats(1e-3, 1e3), st.sampled_from([1.0, 2.0, 3.0]))
    cells = draw(st.lists(values, min_size=parts * views, max_size=parts * views))
    return np.array(cells).reshape(parts, views)


@given(tables(), RATES)
def test_whichever_part_is_the_new_one_no_more_are_rejected_than_the_bound_says(
    raw: np.ndarray, rate: float
) -> None:
    # exchangeable: each of the parts is the new one with the same probability
    rejected, bound = left_out(raw, rate)
    assert rejected <= bound * len(raw) + 1e-9


@pytest.mark.parametrize(("parts", "rate"), [(20, 0.05), (40, 0.05), (10, 0.2), (31, 0.1)])
def test_the_rank_is_exact_where_there_is_one_view(parts: int, rate: float) -> None:
    raw = np.random.default_rng(0).lognormal(size=(parts, 1))
    rejected, bound = left_out(raw, rate)
    assert rejected == round(bound * parts)  # one rank lower rejects one part more


def test_the_largest_score_is_raised_where_parts_are_too_few() -> None:
    raw = np.array([[1.0], [2.0], [4.0]])
    made = promise(raw, 0.05)
    assert made.threshold("v0") == pytest.approx(4.0 * MOST_SLACK)
    assert (made.bound, made.estimate, made.parts) == (pytest.approx(1 / 4), None, 3)
    with pytest.raises(DataError, match="need 19 parts with all views"):
        promise(raw, 0.05, refuse=True)


def test_parts_that_lack_a_view_are_left_out_and_counted() -> None:
    raw = np.random.default_rng(0).lognormal(0, 0.1, (20, 2))
    parts = parts_of(raw)
    parts["half"] = {"v0": 1e6}
    made = promise_parts(parts, ["v0", "v1"], 0.05, refuse=True)
    assert (made.parts, made.incomplete) == (20, 1)
    assert made.threshold("v0") < 10
    with pytest.raises(DataError, match="there are 0"):
        promise_parts({"half": {"v0": 1.0}}, ["v0", "v1"], 0.05, refuse=False)


@given(tables(), st.integers(0, 4), st.floats(0, 1e4))
def test_no_further_part_moves_a_median_against_another_by_more_than_the_slack(
    raw: np.ndarray, seed: int, largest: float
) -> None:
    further = np.random.default_rng(seed).random((1, raw.shape[1])) * largest
    before, after = np.median(raw, axis=0), np.median(np.concatenate([raw, further]), axis=0)
    moved = (after / before).max() / (after / before).min()
    assert moved <= slack(raw) * (1 + 1e-9) or raw.shape[1] == 1


def test_medians_that_one_part_can_move_far_prove_nothing() -> None:
    raw = np.random.default_rng(0).lognormal(0, 3, (19, 6))
    made = promise(raw, 0.05)
    assert (made.bound, made.estimate) == (1.0, pytest.approx(0.05))


@pytest.mark.parametrize("draw", ["heavy", "discrete", "light"])
@pytest.mark.parametrize("views", [1, 6])
def test_the_promise_is_kept_on_new_parts(draw: str, views: int) -> None:
    rng = np.random.default_rng(3)

    def parts(count: int) -> np.ndarray:
        shape = (count, views)
        level = np.linspace(1, 5, views)  # views differ, and a part's views are alike
        if draw == "heavy":
            return level * (3 + rng.pareto(1.2, (count, 1)) + rng.pareto(1.2, shape))
        if draw == "discrete":
            return level * (20 + rng.poisson(2, (count, 1)) + rng.poisson(2, shape))
        return level * rng.lognormal(0, 0.2, shape)

    made = [promise(parts(60), 0.05) for _ in range(700)]
    rejected = sum(rejects(one, parts(1)[0]) for one in made)
    assert promise_interval(rejected, len(made), max(one.bound for one in made)).kept


def test_thresholds_view_by_view_would_reject_several_times_as_many_parts() -> None:
    rng = np.random.default_rng(4)
    raw, new = rng.lognormal(0, 0.3, (99, 12)), rng.lognormal(0, 0.3, (2000, 12))
    each = np.sort(raw, axis=0)[94]  # 95 of 100: 5 % of the frames of a view
    together = np.array([promise(raw, 0.05).threshold(f"v{v}") for v in range(12)])
    assert (new > each).any(axis=1).mean() > 0.3
    assert (new > together).any(axis=1).mean() < 0.08
