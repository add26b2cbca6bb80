"""Thresholds from labelled frames: the recall that is demanded, and what the frames at hand prove of it.

Scores are of frames that were not learned from; a frame is rejected where its score is above the threshold,
as the judge does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError, UsageError
from edge.judge.ranking import f_beta

Scale = Literal["linear", "log-odds"]

CONFIDENCE = 0.95
MOST_DEFECTS = 1_000_000  # where `defects_needed` gives up: no one will collect as many
ALONE_MARGIN = 1e-3  # relative, below a defect that nothing scores lower than
LEAST_MARGIN = 2.0**-40  # from 0 and from 1, where log-odds end


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold, and what it did to the frames it was chosen on."""

    threshold: float  # of the raw score; above it a frame is rejected
    recall: float  # share of the defects rejected
    recall_lower_bound: float  # what of it holds for further frames, at `confidence`
    precision: float  # share of defects among the rejected
    false_reject: float | None  # share of the good frames rejected; None: there were none
    defects: int
    goods: int
    min_recall: float  # that was demanded
    confidence: float
    defects_needed: int | None  # to prove the demanded recall with as many misses as there were; None: never

    @property
    def proven(self) -> bool:
        """Whether the demanded recall holds at this confidence, not only on these frames."""
        return self.recall_lower_bound >= self.min_recall


def operating_point(
    scores: Sequence[float],
    is_defect: Sequence[bool],
    min_recall: float,
    confidence: float = CONFIDENCE,
    *,
    scale: Scale = "linear",
) -> OperatingPoint:
    """The highest threshold whose recall on these frames is at least `min_recall`.

    All thresholds between two neighbouring scores judge these frames alike. The one in the middle is taken,
    so that both sides keep a margin: between the weakest defect that must be found and the next weaker frame,
    on the `scale` given. Probabilities belong in `log-odds`: there 0.001 and 0.1 are as far apart as 0.9 and
    0.999, and a network's outputs crowd at both ends. With nothing weaker it is just below that defect.

    The bound of recall is Clopper and Pearson's (Biometrika 26, 1934), one-sided. With k of n defects found
    it is also the tolerance bound of the k-th highest score (Wilks, Ann. Math. Stat. 12, 1941), so that it is
    not weakened by choosing the threshold on the same defects; it holds for defects of the same kinds.

    Raises:
        DataError: no defect, lengths that differ, or a score that is not finite.
        UsageError: `min_recall` is not within 0..1, or 0; `confidence` is not within 0..1.
    """
    values, truth = _checked(scores, is_defect)
    if not 0 < min_recall <= 1 or not 0 < confidence < 1:
        raise UsageError(
            f"recall {min_recall:g} at confidence {confidence:g} cannot be demanded",
            hint="recall is above 0 and at most 1, confidence between 0 and 1",
        )
    defects = np.sort(values[truth])[::-1]
    must_find = max(1, math.ceil(min_recall * len(defects) - 1e-9))
    threshold = _between(values, float(defects[must_find - 1]), scale)
    rejected = values > threshold
    found, false = int((rejected & truth).sum()), int((rejected & ~truth).sum())
    goods = int((~truth).sum())
    return OperatingPoint(
        threshold=threshold,
        recall=found / len(defects),
        recall_lower_bound=lower_bound(found, len(defects), confidence),
        precision=found / (found + false),
        false_reject=false / goods if goods else None,
        defects=len(defects),
        goods=goods,
        min_recall=min_recall,
        confidence=confidence,
        defects_needed=defects_needed(min_recall, confidence, misses=len(defects) - found),
    )


def best_f(
    scores: Sequence[float], is_defect: Sequence[bool], beta: float, *, scale: Scale = "linear"
) -> tuple[float, float]:
    """(F-measure, threshold) where F is highest on these frames; of equals the highest threshold.

    Placed between its neighbouring scores as `operating_point` places it.

    Raises:
        DataError: no defect, lengths that differ, or a score that is not finite.
    """
    values, truth = _checked(scores, is_defect)
    best = (-1.0, 0.0)
    for lowest_rejected in np.unique(values[truth])[::-1]:  # between defects, fewer good ones is better
        rejected = values >= lowest_rejected
        found, false = int((rejected & truth).sum()), int((rejected & ~truth).sum())
        f = f_beta(found, false, int(truth.sum()) - found, beta) or 0.0
        if f > best[0]:
            best = (f, float(lowest_rejected))
    return best[0], _between(values, best[1], scale)


def lower_bound(found: int, of: int, confidence: float = CONFIDENCE) -> float:
    """The smallest share that `found` of `of` does not contradict (one-sided Clopper and Pearson, 1934).

    The p at which as many or more are found with probability 1 − confidence; 0 where none are found.
    """
    if found == 0:
        return 0.0
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if at_least(found, of, middle) < 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def at_least(found: int, of: int, share: float) -> float:
    """P(X ≥ found) for a binomial X of `of` trials, each with probability `share`."""
    if found <= 0 or share >= 1.0:
        return 1.0
    if share <= 0.0:
        return 0.0
    odds = math.log(share) - math.log1p(-share)
    none = of * math.log1p(-share)
    constant = math.lgamma(of + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(constant - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * odds + none)
            for k in range(found, of + 1)
        ),
    )


def defects_needed(min_recall: float, confidence: float = CONFIDENCE, misses: int = 0) -> int | None:
    """How many defects prove `min_recall` at this confidence if `misses` of them are not found.

    Without misses it is ln(1 − confidence) / ln(min_recall): 299 for 0.99 at 0.95. None: no number does.
    """
    if min_recall >= 1:
        return None

    def proven(defects: int) -> bool:  # were recall only min_recall, so few misses would be unlikely
        return at_least(defects - misses, defects, min_recall) <= 1 - confidence

    low, high = misses, misses + 1
    while not proven(high):
        low, high = high, 2 * high
        if high > MOST_DEFECTS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proven(middle) else (middle, high)
    return high


def _checked(
    scores: Sequence[float], is_defect: Sequence[bool]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, truth = np.asarray(scores, np.float64), np.asarray(is_defect, bool)
    if values.shape != truth.shape or values.ndim != 1:
        raise DataError(
            f"{values.size} scores for {truth.size} frames", hint="score every frame of the validation set"
        )
    if not np.isfinite(values).all():
        raise DataError("a frame has a score that is not finite", reason="score_not_finite")
    if not truth.any():
        raise DataError(
            f"no defect among {len(truth)} frames: a recall cannot be measured",
            hint="give a manifest with defects in split = validation",
            reason="too_few_frames",
        )
    return values, truth


def _between(values: NDArray[np.float64], rejected: float, scale: Scale) -> float:
    """A threshold that `rejected` is above, and every lower score is not: in the middle between both."""
    weaker = values[values < rejected]
    if not len(weaker):
        return rejected - max(abs(rejected) * ALONE_MARGIN, LEAST_MARGIN)
    accepted = float(weaker.max())
    if scale == "log-odds":
        middle = 1 / (1 + math.exp(-(_log_odds(accepted) + _log_odds(rejected)) / 2))
    else:
        middle = accepted + (rejected - accepted) / 2
    return middle if accepted <= middle < rejected else accepted  # neighbours in floating point


def _log_odds(probability: float) -> float:
    if not 0 <= probability <= 1:
        raise DataError(f"{probability:g} is not a probability", hint="use the linear scale")
    within = min(max(probability, LEAST_MARGIN), 1 - LEAST_MARGIN)
    return math.log(within) - math.log1p(-within)
