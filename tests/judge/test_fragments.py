"""Fragments: their statistics, the defects they merge into, and how separation is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from edge.judge.fragments import (
    FragmentCounts,
    as_scores,
    covered,
    fragment_statistics,
    merge_fragments,
    without_defects,
)
from edge.types import FRAGMENT_STATISTICS, MAX_DEFECTS, Fragments, Placement

SHAPE = (100, 200)
SAME = Placement.scaled(SHAPE, 200, 100)


def residuals(n: int = 5, side: int = 16, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).normal(0, 0.1, (n, side, side)).astype(np.float32)


def boxes(*rows: tuple[int, int, int, int]) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(rows, np.int32).reshape(-1, 4)


def test_statistics_are_what_their_names_say() -> None:
    residual = residuals()
    found = fragment_statistics(residual)
    assert tuple(found) == FRAGMENT_STATISTICS
    for k, one in enumerate(residual.astype(np.float64)):
        expected = {
            "sum": np.abs(one).sum(), "mse": (one**2).mean(), "std": one.std(), "min": one.min(),
            "max": one.max(), "absmax": np.abs(one).max(), "mean": one.mean(),
        }  # fmt: skip
        for name, value in expected.items():
            assert found[name][k] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}


def test_smoothing_lets_a_cavity_stand_out_of_noise() -> None:
    residual = residuals(2, 32)
    residual[1, 10:16, 10:16] -= 0.15  # less than the noise's extremes, but on 36 pixels
    rough, smooth = (fragment_statistics(residual, sigma)["min"] for sigma in (0.0, 1.5))
    assert smooth[1] / smooth[0] > 1.5 * rough[1] / rough[0]


def test_smoothing_does_not_leak_between_fragments() -> None:
    residual = residuals(3)
    alone = fragment_statistics(residual[1:2], 2.0)
    residual[[0, 2]] = 100
    assert fragment_statistics(residual, 2.0)["absmax"][1] == alone["absmax"][0]


def test_only_the_kept_centre_counts_but_smoothing_sees_its_surroundings() -> None:
    residual = np.zeros((1, 16, 16), np.float32)
    residual[0, 3, 8] = 1.0  # just outside the centre of 8
    assert fragment_statistics(residual, 0.0, 8)["max"] == 0
    assert fragment_statistics(residual, 1.0, 8)["max"] > 0.05
    whole, kept = fragment_statistics(residuals()), fragment_statistics(residuals(), 0.0, 16)
    assert all((whole[name] == kept[name]).all() for name in FRAGMENT_STATISTICS)


def test_signed_extremes_score_their_own_direction() -> None:
    darker = np.full((1, 8, 8), -0.3, np.float32)
    found = fragment_statistics(darker)
    assert as_scores("min", found["min"]) == pytest.approx([0.3])
    assert as_scores("max", found["max"]) == pytest.approx([0.0])
    assert as_scores("mean", found["mean"]) == pytest.approx([0.3])


def test_fragments_that_overlap_or_touch_become_one_defect() -> None:
    rows = boxes((0, 0, 16, 16), (8, 0, 16, 16), (24, 0, 16, 16), (100, 50, 16, 16))
    scores = np.array([2.0, 5.0, 3.0, 4.0], np.float32)
    first, second = merge_fragments(rows, scores, 2.0 - 1e-3, SAME, SHAPE)
    assert (first.bbox, first.area_px, first.kind) == ((0, 0, 40, 16), 40 * 16, "anomaly")
    assert first.score == pytest.approx(5 / (2 - 1e-3))
    assert (second.bbox, second.area_px) == ((100, 50, 16, 16), 256)
    assert second.area_ratio == pytest.approx(256 / 20_000)


def test_fragments_at_or_below_the_threshold_are_no_defects() -> None:
    rows = boxes((0, 0, 16, 16), (50, 0, 16, 16))
    assert merge_fragments(rows, np.array([1.0, 0.5], np.float32), 1.0, SAME, SHAPE) == ()
    assert merge_fragments(boxes(), np.zeros(0, np.float32), 1.0, SAME, SHAPE) == ()


def test_boxes_are_in_the_pixels_of_the_frame_and_inside_it() -> None:
    placement = Placement.scaled(SHAPE, 400, 300)
    (defect,) = merge_fragments(boxes((190, 90, 16, 16)), np.ones(1, np.float32), 0.5, placement, SHAPE)
    assert defect.bbox == (380, 270, 20, 30)
    assert defect.area_px == 20 * 30


cells = st.tuples(st.integers(-8, 199), st.integers(-8, 99), st.integers(1, 40), st.integers(1, 40))


@given(st.lists(st.tuples(cells, st.floats(0, 4, width=32)), max_size=40))
def test_merging_covers_what_is_above_and_nothing_else(
    found: list[tuple[tuple[int, int, int, int], float]],
) -> None:
    rows, scores = boxes(*(box for box, _ in found)), np.array([s for _, s in found], np.float32)
    union = np.zeros(SHAPE, bool)
    for (x, y, w, h), score in found:
        if score > 1:
            union[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = True
    defects = merge_fragments(rows, scores, 1.0, SAME, SHAPE)
    assert sum(d.area_px for d in defects) == union.sum()
    assert [d.score for d in defects] == sorted((d.score for d in defects), reverse=True)
    inside = [s for ((x, y, w, h), s) in found if s > 1 and x + w > 0 and y + h > 0]
    assert max((d.score for d in defects), default=0) == pytest.approx(max(inside, default=0))


def test_a_film_that_is_all_defects_lists_only_the_strongest() -> None:
    rows = boxes(*((x, y, 2, 2) for x in range(0, 200, 4) for y in range(0, 100, 4)))
    scores = np.linspace(1.1, 9, len(rows)).astype(np.float32)
    defects = merge_fragments(rows, scores, 1.0, SAME, SHAPE)
    assert len(defects) == MAX_DEFECTS
    assert defects[0].score == pytest.approx(9)


@given(st.integers(0, 50))
def test_cover_is_the_share_of_the_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(SHAPE) < 0.1
    rows = boxes(*((int(rng.integers(180)), int(rng.integers(80)), 20, 20) for _ in range(9)))
    assert covered(rows, truth) == pytest.approx([truth[y : y + h, x : x + w].mean() for x, y, w, h in rows])


def test_separation_is_that_of_an_exact_count_over_all_planes() -> None:
    rng = np.random.default_rng(3)
    counts, exact, marks = FragmentCounts(least_share=0), [], []
    for _ in range(3):
        truth = np.zeros(SHAPE, bool)
        truth[20:30, 20:60] = True
        rows = boxes(*((x, y, 10, 10) for x in range(0, 190, 5) for y in range(0, 90, 5)))
        bad = covered(rows, truth) > 0
        values = rng.normal(-0.2, 0.05, len(rows)) - 0.05 * bad
        counts.add(Fragments(rows, {"min": values.astype(np.float32)}), truth)
        exact.append(-values)
        marks.append(bad)
    wanted = roc_auc_score(np.concatenate(marks), np.concatenate(exact))
    assert counts.auroc()["min"] == pytest.approx(wanted, abs=1e-3)
    assert (counts.defect, counts.between) == (sum(m.sum() for m in marks), 0)
    assert counts.defect + counts.good == 3 * len(rows)


def test_fragments_that_a_defect_barely_touches_are_not_counted() -> None:
    truth = np.zeros(SHAPE, bool)
    truth[0, 0] = truth[50:60, 50:60] = True
    rows = boxes((0, 0, 64, 64), (100, 0, 64, 64), (40, 36, 64, 64), (60, 0, 20, 20))
    rows[0] = (0, 0, 40, 40)
    counts = FragmentCounts()
    counts.add(Fragments(rows, {"max": np.array([9, 1, 2, 1], np.float32)}), truth)
    assert (counts.defect, counts.between, counts.good) == (1, 1, 2)
    assert counts.auroc() == {"max": 1.0}
    assert FragmentCounts().auroc() == {}


def test_good_fragments_of_a_bad_film_can_be_told_apart() -> None:
    truth = np.zeros(SHAPE, bool)
    truth[10, 10] = True
    rows = boxes((0, 0, 11, 11), (0, 0, 10, 10), (11, 0, 64, 64))
    good = without_defects(Fragments(rows, {"min": np.array([-3, -1, -2], np.float32)}), truth)
    assert good.boxes.tolist() == rows[1:].tolist()
    assert good.statistics["min"].tolist() == [-1, -2]
