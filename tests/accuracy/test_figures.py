"""Figures against sklearn and hand-made counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from edge.accuracy.evidence import load, pooled, save
from edge.accuracy.figures import clopper_pearson, figures, recall_at
from edge.errors import DataError
from tests.accuracy.frames import RATES, evidence


def test_auroc_is_that_of_the_pooled_folds_and_the_mean_over_seeds() -> None:
    truth = [False, False, False, True, True]
    a = evidence(list("abcde"), truth, [0.1, 0.5, 0.9, 0.7, 2.0])
    b = evidence(list("fghde"), truth, [0.2, 0.3, 1.4, 1.2, 1.1])
    both = pooled([a, b])
    expected = roc_auc_score([*truth, *truth], both.scores)
    found = figures([both, a], RATES)
    assert found.image_auroc is not None
    assert found.image_auroc.seeds == pytest.approx((expected, roc_auc_score(truth, a.scores)))
    assert found.image_auroc.lowest == pytest.approx(min(expected, 5 / 6))
    assert found.image_auroc.mean == pytest.approx((expected + 5 / 6) / 2)


def test_pixels_are_pooled_exactly() -> None:
    a = evidence(list("abc"), [False, True, True], [0.1, 3.0, 0.05])
    b = evidence(list("de"), [False, True], [0.1, 2.0])
    both = pooled([a, b])
    truth = np.repeat([True, True, True, False], [10, 10, 10, 450])
    scores = np.repeat([3.0, 2.0, 0.05, 0.1], [10, 10, 10, 450])
    found = figures([both], RATES)
    assert found.pixel_auroc is not None
    assert found.pixel_ap is not None
    assert found.pixel_auroc.mean == pytest.approx(roc_auc_score(truth, scores))
    assert found.pixel_ap.mean == pytest.approx(average_precision_score(truth, scores))
    assert found.pixel_auroc.interval is not None
    low, high = found.pixel_auroc.interval
    assert low < found.pixel_auroc.mean <= high


def test_recall_by_rank_takes_the_lowest_threshold_that_enough_good_frames_stay_below() -> None:
    good = np.arange(1, 41.0)  # 40 good frames at 1 … 40: two of them, 39 and 40, may be above
    scores = np.concatenate([good, [38.5, 37.5, 50.0, 20.0]])
    truth = np.arange(44) >= 40
    order = np.argsort(-scores)
    true, false = truth[order][None].astype(float), ~truth[order][None]
    assert recall_at(true, false.astype(float))[0] == pytest.approx(0.5)
    assert np.isnan(recall_at(true, np.zeros_like(true))).all()


@given(st.integers(1, 60), st.data())
def test_clopper_pearson_holds_the_share_and_grows_with_the_count(of: int, data: st.DataObject) -> None:
    hits = data.draw(st.floats(0, of))
    low, high = clopper_pearson(hits, of)
    assert 0 <= low <= hits / of <= high <= 1
    if hits + 0.5 <= of:
        above = clopper_pearson(hits + 0.5, of)
        assert above[0] >= low
        assert above[1] >= high


def test_clopper_pearson_of_a_known_case() -> None:
    assert clopper_pearson(2, 20) == pytest.approx((0.01235, 0.31698), abs=1e-4)
    assert clopper_pearson(0, 10) == pytest.approx((0, 1 - 0.025**0.1), abs=1e-6)


@pytest.mark.parametrize(("above", "kept"), [(0, "below"), (4, "inside"), (15, "BROKEN")])
def test_promises_are_held_against_the_interval(above: int, kept: str) -> None:
    scores = [2.0] * above + [0.5] * (100 - above) + [3.0]
    one = evidence([str(k) for k in range(101)], [False] * 100 + [True], scores, bound=0.05)
    (_, promise) = figures([one], RATES).promises
    assert promise.measured == pytest.approx(above / 100)
    assert promise.promised == pytest.approx(0.05)
    assert promise.kept == kept
    assert promise.escapes is not None
    assert promise.escapes.mean == 0


def test_without_good_frames_there_are_figures_of_pixels_only() -> None:
    found = figures([evidence(["a", "b"], [True, True], [2.0, 0.5])], RATES)
    assert found.image_auroc is None
    assert found.recall_at_rank is None
    assert found.pixel_auroc is not None
    assert found.promises[0].measured is None
    assert found.promises[0].kept is None


def test_evidence_comes_back_as_it_was_saved_and_damage_is_noticed(tmp_path: Path) -> None:
    one = replace(
        evidence(list("abcd"), [False, True, True, True], [0.1, 3.0, 2.0, 0.5]),
        scores=np.array([0.1, 3.0, np.nan, 0.5]),
    )
    save(tmp_path / "one.npz", one)
    again = load(tmp_path / "one.npz")
    assert figures([again], RATES) == figures([one], RATES)
    np.testing.assert_array_equal(again.coarse, one.coarse)
    (tmp_path / "one.npz").write_bytes((tmp_path / "one.npz").read_bytes()[:-50])
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "one.npz")
