import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from edge.judge.bootstrap import auroc
from edge.judge.ranking import COARSE_BINS, PixelCounts, coarse_counts, curve, f_beta

rows = st.lists(st.tuples(st.integers(0, 8).map(float), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({truth for _, truth in pairs}) == 2
)


@given(rows)
def test_rank_metrics_agree_with_scikit_learn(pairs: list[tuple[float, bool]]) -> None:
    scores, truth = [s for s, _ in pairs], [t for _, t in pairs]
    ours = curve(scores, truth)
    assert ours.auroc() == pytest.approx(roc_auc_score(truth, scores))
    assert ours.average_precision() == pytest.approx(average_precision_score(truth, scores))


def test_one_kind_only_has_no_rank_metric() -> None:
    assert curve([1.0, 2.0], [True, True]).auroc() is None
    assert curve([], []).average_precision() is None


def test_streamed_pixels_agree_with_exact_metrics() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((200, 300)) < 0.03
    scores = (rng.lognormal(size=truth.shape) * np.where(truth, 2.0, 1.0)).astype(np.float32)
    counts = PixelCounts()
    counts.add(scores[:90], truth[:90])
    counts.add(scores[90:], truth[90:])
    assert counts.curve().auroc() == pytest.approx(roc_auc_score(truth.ravel(), scores.ravel()), abs=1e-4)
    exact = average_precision_score(truth.ravel(), scores.ravel())
    assert counts.curve().average_precision() == pytest.approx(exact, abs=1e-3)
    tp, fp, fn = counts.at(1.0)
    assert tp == pytest.approx((truth & (scores > 1)).sum(), abs=5)
    assert fp == pytest.approx((~truth & (scores > 1)).sum(), abs=60)
    assert tp + fn == truth.sum()


def test_f_beta_weighs_recall() -> None:
    assert f_beta(8, 2, 8, 1) == pytest.approx(2 * 8 / (2 * 8 + 2 + 8))
    assert f_beta(8, 2, 8, 2) == pytest.approx(5 * 8 / (5 * 8 + 4 * 8 + 2))
    assert f_beta(0, 0, 0, 1) is None


@given(rows, st.sampled_from([1, 2]))
def test_f_beta_at_each_threshold_is_that_of_calling_what_is_at_or_above_it(
    pairs: list[tuple[float, bool]], beta: int
) -> None:
    ours = curve([s for s, _ in pairs], [t for _, t in pairs])
    for threshold, value in zip(ours.thresholds, ours.f_beta(beta), strict=True):
        tp = sum(t for s, t in pairs if s >= threshold)
        fp = sum(not t for s, t in pairs if s >= threshold)
        assert value == pytest.approx(f_beta(tp, fp, sum(t for _, t in pairs) - tp, beta))


def test_coarse_counts_keep_every_pixel_and_nearly_the_ranking() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((200, 300)) < 0.1
    scores = (rng.lognormal(size=truth.shape) * np.where(truth, 2.0, 1.0)).astype(np.float32)
    scores[0, :3] = 0.0, 1e-30, 1e30  # beyond both ends
    counts = coarse_counts(scores, truth)
    assert counts.shape == (2, COARSE_BINS)
    assert counts.sum(axis=1).tolist() == [truth.sum(), (~truth).sum()]
    coarse = auroc(*counts[:, None, ::-1].astype(float))[0]
    assert coarse == pytest.approx(roc_auc_score(truth.ravel(), scores.ravel()), abs=2e-3)
