"""What is said of a calibration: at every number of frames a sentence that is true and of use."""

from __future__ import annotations

import numpy as np
import pytest

from edge.calibration_report import changes, shortfalls
from edge.judge.calibration import Calibration, GoodFrame, TooFew, calibrate
from edge.judge.thresholds import ThresholdMethod


def made(
    frames: int,
    *,
    rate: float = 0.05,
    too_few: TooFew = "pool",
    frames_a_part: int = 1,
    views: str = "1",
    seed: int = 0,
    level: float = 1.0,
    method: ThresholdMethod = "conformal",
    part: float | None = None,
    review: float | None = None,
) -> Calibration:
    rng = np.random.default_rng(seed)
    good = [
        GoodFrame(view, raw := float(level * rng.lognormal(0, 0.2)), raw, 0.5, 0.1, 48, 64,
                  part=f"P{n // frames_a_part}")
        for view in views
        for n in range(frames)
    ]  # fmt: skip
    return calibrate(
        good, recipe="r", bundle_sha256="b" * 64, statistic="peak", false_reject=rate, too_few=too_few,
        false_reject_part=part, review_band=review, method=method,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "rate", "says"),
    [
        (1, 0.05, "view 1: 1 calibration frame bound false rejects to 50.0% of good frames (the largest "
                  "score and a factor), not 5.0%; 18 more frames would allow 5.0%"),
        (2, 0.05, "2 calibration frames bound false rejects to 33.3%"),
        (3, 0.05, "25.0% of good frames (the largest score and a factor), not 5.0%; 16 more frames"),
        (5, 0.05, "16.7% of good frames (the largest score and a factor), not 5.0%; 14 more frames"),
        (18, 0.05, "; 1 more frame would allow 5.0%"),
        (19, 0.05, None),
        (20, 0.05, None),
        (20, 0.01, "4.8% of good frames (the largest score and a factor), not 1.0%; 79 more frames would"),
        (99, 0.01, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("too_few", ["pool", "bound"])
def test_few_frames_say_what_they_bound_and_how_many_more_would_do(
    frames: int, rate: float, says: str | None, too_few: TooFew
) -> None:
    found = shortfalls(made(frames, rate=rate, too_few=too_few))
    assert len(found) == (says is not None)
    if says is not None:
        assert says in found[0]


def test_frames_of_few_parts_are_counted_as_parts() -> None:
    (sentence,) = shortfalls(made(40, frames_a_part=10))
    assert sentence.startswith("view 1: 40 calibration frames of 4 parts bound false rejects to 20.0%")
    assert sentence.endswith("; 15 more parts would allow 5.0%")


def test_pooled_views_say_what_is_proved_and_what_is_hoped_for() -> None:
    first, _ = shortfalls(made(12, views="ab"))
    assert "bound false rejects to 7.7% of good frames (its own largest score or higher), not 5.0%" in first
    assert "all views together estimate 4.00%, as far as they are alike but for a factor" in first
    assert first.endswith("; 7 more frames would allow 5.0%")


def test_a_rule_that_more_frames_do_not_help_names_the_one_that_they_help() -> None:
    (sentence,) = shortfalls(made(12, method="mad"))
    assert sentence.endswith("as far as scores are normal; 7 more frames would allow 5.0% by conformal")


def test_parts_say_what_they_bound_and_how_many_more_would_do() -> None:
    (sentence,) = shortfalls(made(30, views="ab", part=0.01))
    assert sentence == (
        "parts: 30 parts with all views bound false rejects to 3.2% of good parts, not 1.0%; "
        "69 more would allow 1.0%"
    )
    assert shortfalls(made(30, views="ab", part=0.05)) == []


def test_a_review_band_that_cannot_be_had_is_said() -> None:
    assert shortfalls(made(20, review=0.2)) == []
    *_, sentence = shortfalls(made(3, review=0.2))
    assert sentence == (
        "view 1: no review band at 20.0%, which takes 4 calibration frames of different parts that do not "
        "all score the same"
    )


def test_changes_say_whether_good_frames_themselves_changed() -> None:
    before = made(40)
    (alike,) = changes(before, made(60, seed=1))
    (other,) = changes(before, made(60, seed=1, level=1.5))
    assert "from 40 → 60 calibration frames, bound 4.9% → 4.9%" in alike
    assert "no longer score" not in alike
    assert "good frames no longer score as they did (p = " in other
    assert changes(before, made(40, views="2"))[-1] == "view 1: no threshold any more"
