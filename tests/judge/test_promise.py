"""Whether a promise is kept is itself judged by tests that are right as often as they say."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import UsageError
from edge.judge.promise import promise_interval, promise_p_value

COUNTS = st.integers(1, 60).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@given(COUNTS, st.floats(0, 1))
def test_the_interval_holds_what_was_measured_and_keeps_what_is_not_below_it(
    counts: tuple[int, int], promised: float
) -> None:
    rejected, total = counts
    low, high, kept = promise_interval(rejected, total, promised)
    assert 0 <= low <= rejected / total <= high <= 1
    assert kept == (promised >= low)


def test_the_interval_is_clopper_and_pearsons() -> None:
    low, high, kept = promise_interval(4, 100, 0.01)
    assert (low, high) == (pytest.approx(0.011004, abs=1e-6), pytest.approx(0.099258, abs=1e-6))
    assert not kept
    assert promise_interval(3, 100, 0.01).kept
    assert promise_interval(0, 5, 0.01).low == 0.0


def test_a_kept_promise_is_seldom_called_broken() -> None:
    rng = np.random.default_rng(0)
    kept = cache(lambda rejected: promise_interval(rejected, 200, 0.05).kept)
    broken = [not kept(int(rejected)) for rejected in rng.binomial(200, 0.05, 1000)]
    assert np.mean(broken) < 0.03


def test_the_draw_of_the_calibration_is_part_of_the_promise() -> None:
    """The threshold is one of few calibrations: many reject more than the rate, and that was promised."""
    rng = np.random.default_rng(0)
    kept = cache(lambda rejected: promise_interval(rejected, 300, 0.05).kept)
    p_value = cache(lambda rejected: promise_p_value(rejected, 300, frames=19, bound=0.05))
    plain, whole = [], []
    for _ in range(400):
        threshold = rng.random(19).max()
        rejected = int((rng.random(300) > threshold).sum())
        plain.append(kept(rejected))
        whole.append(p_value(rejected) > 0.025)
    assert np.mean(plain) < 0.85
    assert np.mean(whole) == pytest.approx(0.975, abs=0.02)


@given(st.integers(1, 40), st.integers(1, 30), st.data())
def test_p_values_of_a_promise_fall_with_the_rejects_and_begin_at_one(
    frames: int, total: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, frames))
    p = [promise_p_value(x, total, frames=frames, bound=1 - k / (frames + 1)) for x in range(total + 1)]
    assert p[0] == pytest.approx(1.0)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(p))
    # the mean number of rejects is what the bound says
    assert sum(p[1:]) == pytest.approx(total * (1 - k / (frames + 1)), rel=1e-6)


def test_what_was_never_counted_or_never_promised_is_refused() -> None:
    for rejected, total in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(UsageError, match="rejected of"):
            promise_interval(rejected, total, 0.05)
    with pytest.raises(UsageError, match="5 frames cannot bound"):
        promise_p_value(1, 10, frames=5, bound=0.01)
