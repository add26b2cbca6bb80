"""How figures would have come out with other parts: bootstrap confidence intervals.

Frames of one part resemble each other, so parts are drawn, not frames; the interval is the range between
percentiles of the figure over all resamples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
ch. 13). Parts with a defect and parts without are drawn apart, as many of each as there are: how many of each
a test set holds was somebody's choice, not chance.

All that a resample needs of a frame is how often its part was drawn: a weight. So figures are computed from
weighted counts, for all resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
LEAST_DEFINED = 0.9  # share of the resamples in which a figure must exist
AT_ONCE = 1 << 22  # weights in memory at a time: 32 MB

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]
Figure = Callable[[Floats], Floats]
"""(b, frames) weights → (b,) values, NaN where the figure does not exist."""


class Bootstrap:
    """Resamples of parts: the same ones for every figure asked for, so that figures may be subtracted."""

    def __init__(
        self,
        groups: Sequence[str],
        is_defect: Sequence[bool],
        resamples: int = RESAMPLES,
        level: float = LEVEL,
        seed: int = 0,
    ) -> None:
        """`groups` names each frame's part, `is_defect` says whether the frame has a defect."""
        self.resamples, self.level, self.seed = resamples, level, seed
        names, self._group = np.unique(np.asarray(groups, str), return_inverse=True)  # (frames,)
        self.groups = len(names)
        has_defect = np.zeros(len(names), bool)
        np.logical_or.at(has_defect, self._group, np.asarray(is_defect, bool))
        rng = np.random.default_rng(seed)
        self._drawn = np.zeros((resamples, len(names)))
        for kind in (False, True):
            (stratum,) = np.nonzero(has_defect == kind)
            if n := len(stratum):
                self._drawn[:, stratum] = rng.multinomial(n, np.full(n, 1 / n), resamples)

    def values(self, figure: Figure) -> Floats:
        """The figure in every resample, (resamples,)."""
        step = max(1, AT_ONCE // max(1, len(self._group)))
        parts = (self._drawn[at : at + step][:, self._group] for at in range(0, self.resamples, step))
        return np.concatenate([figure(weights) for weights in parts])

    def limits(self, values: Floats, *rests_on: Bools) -> Interval | None:
        """The percentile interval of a figure's values.

        None where the figure does not exist in more than a tenth of the resamples, or where all frames of one
        of the kinds it rests on, (frames,) each, are of one part: then nothing is known of other parts.
        """
        defined = values[np.isfinite(values)]
        if len(defined) < LEAST_DEFINED * self.resamples or any(self.parts(k) < 2 for k in rests_on):
            return None
        tail = 50 * (1 - self.level)
        low, high = np.percentile(defined, [tail, 100 - tail])
        return float(low), float(high)

    def interval(self, figure: Figure, *rests_on: Bools) -> Interval | None:
        """The interval of a figure; None as for `limits`."""
        return self.limits(self.values(figure), *rests_on)

    def share(self, hits: Bools, among: Bools) -> Interval | None:
        """The interval of the share of the frames `among` that are `hits`; both (frames,).

        Where the share is 0 or 1, all resamples agree, which proves nothing. Then the far limit is the exact
        one of as many independent trials as there are parts (Clopper and Pearson, 1934).
        """
        hits = hits & among
        trials = self.parts(among)
        if not trials:
            return None
        unseen = 1 - ((1 - self.level) / 2) ** (1 / trials)
        if not hits.any():
            return 0.0, unseen
        if (hits == among).all():
            return 1 - unseen, 1.0
        return self.interval(lambda w: ratio(w @ hits, w @ among), among)

    def parts(self, frames: Bools) -> int:
        """How many parts these frames, a mask (frames,), are of."""
        return len(np.unique(self._group[frames]))


def auroc(true: Floats, false: Floats) -> Floats:
    """Areas under ROC curves (b,) from counts of defect and good at each score (b, k), highest first."""
    good = false.sum(axis=1)
    below = good[:, None] - np.cumsum(false, axis=1) + false / 2  # ties count half
    return ratio((true * below).sum(axis=1), true.sum(axis=1) * good)


def average_precision(true: Floats, false: Floats) -> Floats:
    """Σ (Rᵢ − Rᵢ₋₁) Pᵢ (b,) from counts as for `auroc`."""
    found = np.cumsum(true, axis=1)
    precision = found / np.maximum(found + np.cumsum(false, axis=1), 1e-300)
    of_all = ratio((true * precision).sum(axis=1), true.sum(axis=1))
    return np.where(false.sum(axis=1) > 0, of_all, np.nan)


def f_measure(true: Floats, false: Floats, missed: Floats, beta: float) -> Floats:
    """F-measure (b,) from true positives, false positives and false negatives (b,) (van Rijsbergen, 1979)."""
    weight = beta * beta
    return ratio((1 + weight) * true, (1 + weight) * true + weight * missed + false)


def rank_counts(
    scores: Sequence[float | None], is_defect: Bools
) -> Callable[[Floats], tuple[Floats, Floats]]:
    """weights (b, frames) → counts of defect and good frames at each score, (b, scores) each, highest first.

    Frames without a score are not counted.
    """
    values = np.array([np.nan if score is None else score for score in scores], np.float64)
    order = np.argsort(-values, kind="stable")[: int(np.isfinite(values).sum())]  # NaN comes last
    truth = is_defect[order]
    starts = np.nonzero(np.diff(values[order], prepend=np.inf))[0]

    def count(weights: Floats) -> tuple[Floats, Floats]:
        if not len(order):
            return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
        ranked = weights[:, order]
        return (
            np.add.reduceat(ranked * truth, starts, axis=1),
            np.add.reduceat(ranked * ~truth, starts, axis=1),
        )

    return count


def ratio(over: Floats, under: Floats) -> Floats:
    """Quotients, NaN for those by zero."""
    quotients = np.full(np.shape(over), np.nan)
    np.divide(over, under, out=quotients, where=np.asarray(under) > 0)
    return quotients
