"""How well scores separate good from defect: rank metrics, exact for frames, streamed for pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Pixels are counted in bins of the upper bits of their float32 score, which order as the scores do: sign and
# exponent and 11 bits of mantissa, so that scores within 0.05 % of each other count as ties.
_DROPPED_BITS = 12
_BINS = 1 << (32 - _DROPPED_BITS)

# A frame's own counts are kept in far fewer: 8 to each doubling of the score, from 2⁻²⁰ to 2¹²
COARSE_BINS = 256
_COARSE_DROPPED_BITS = 20
_COARSE_FIRST = int(np.float32(2.0**-20).view(np.uint32)) >> _COARSE_DROPPED_BITS


@dataclass(frozen=True, slots=True)
class Curve:
    """Counts above each threshold, from the highest down; `thresholds[i]` admits scores ≥ it."""

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    positives: float
    negatives: float

    def auroc(self) -> float | None:
        """Area under the ROC curve, ties count half (Fawcett, 2006); None without both kinds."""
        if not (self.positives and self.negatives):
            return None
        tpr = np.concatenate([[0.0], self.true_positives / self.positives])
        fpr = np.concatenate([[0.0], self.false_positives / self.negatives])
        return float(np.trapezoid(tpr, fpr))

    def average_precision(self) -> float | None:
        """Σ (Rᵢ − Rᵢ₋₁) Pᵢ, as scikit-learn's average_precision_score; None without both kinds."""
        if not (self.positives and self.negatives):
            return None
        recall = self.true_positives / self.positives
        precision = self.true_positives / (self.true_positives + self.false_positives)
        return float(np.sum(np.diff(recall, prepend=0.0) * precision))

    def best_f1(self) -> tuple[float, float] | None:
        """(F1, threshold) where F1 is highest; None without both kinds."""
        if not (self.positives and self.negatives):
            return None
        f1 = self.f_beta(1)
        best = int(np.argmax(f1))
        return float(f1[best]), float(self.thresholds[best])

    def f_beta(self, beta: float) -> NDArray[np.float64]:
        """F-measure at each threshold; zeros without defects."""
        weight = beta * beta
        denominator = self.true_positives + self.false_positives + weight * self.positives
        return (1 + weight) * self.true_positives / denominator


def curve(scores: Sequence[float], is_defect: Sequence[bool]) -> Curve:
    """The exact curve of a few scores."""
    values, truth = np.asarray(scores, np.float64), np.asarray(is_defect, bool)
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    last_of_tie = np.nonzero(np.append(np.diff(values), -1.0))[0] if len(values) else np.arange(0)
    true, false = np.cumsum(truth, dtype=np.float64), np.cumsum(~truth, dtype=np.float64)
    return Curve(
        values[last_of_tie], true[last_of_tie], false[last_of_tie], float(truth.sum()), float((~truth).sum())
    )


class PixelCounts:
    """Scores of any number of pixels in constant memory."""

    def __init__(self) -> None:
        self._defect = np.zeros(_BINS, np.int64)
        self._good = np.zeros(_BINS, np.int64)

    def add(self, scores: NDArray[np.float32], is_defect: NDArray[np.bool_]) -> None:
        """Count the pixels of a frame; scores are float32 ≥ 0, shapes are equal."""
        bins = np.ascontiguousarray(scores, np.float32).view(np.uint32) >> _DROPPED_BITS
        self._defect += np.bincount(bins[is_defect], minlength=_BINS)
        self._good += np.bincount(bins[~is_defect], minlength=_BINS)

    def curve(self) -> Curve:
        """The curve over all pixels so far."""
        used = np.nonzero(self._defect + self._good)[0][::-1]
        thresholds = (used.astype(np.uint32) << _DROPPED_BITS).view(np.float32).astype(np.float64)
        true, false = np.cumsum(self._defect[used]), np.cumsum(self._good[used])
        return Curve(
            thresholds,
            true.astype(np.float64),
            false.astype(np.float64),
            float(self._defect.sum()),
            float(self._good.sum()),
        )

    def at(self, threshold: float) -> tuple[int, int, int]:
        """(true positives, false positives, false negatives) of `score > threshold`, to the bin's width."""
        first = int(np.array([threshold], np.float32).view(np.uint32)[0] >> _DROPPED_BITS) + 1
        true, false = int(self._defect[first:].sum()), int(self._good[first:].sum())
        return true, false, int(self._defect.sum()) - true


def coarse_counts(scores: NDArray[np.float32], is_defect: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Defect and good pixels of a frame by score, (2, COARSE_BINS), lowest first; scores are float32 ≥ 0.

    Scores beyond the ends count in the last bins.
    """
    upper = np.ascontiguousarray(scores, np.float32).view(np.uint32) >> _COARSE_DROPPED_BITS
    bins = np.clip(upper.astype(np.int64) - _COARSE_FIRST, 0, COARSE_BINS - 1)
    return np.stack([np.bincount(bins[truth], minlength=COARSE_BINS) for truth in (is_defect, ~is_defect)])


def f_beta(true_positives: int, false_positives: int, false_negatives: int, beta: float) -> float | None:
    """F-measure weighting recall beta times as much as precision (van Rijsbergen, 1979)."""
    weight = beta * beta
    denominator = (1 + weight) * true_positives + weight * false_negatives + false_positives
    return (1 + weight) * true_positives / denominator if denominator else None
