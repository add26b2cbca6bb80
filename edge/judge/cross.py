"""Scores from several networks: none learned from the frame it scores, so that no good frame is wasted.

The frames are dealt into folds, one network a fold learns from the others, and scores the fold. The recipe's
own network then learns from all frames, and the thresholds come from the scores of the fold networks. This
is the jackknife (with folds: cross-validation). Jackknife+ and CV+ (Barber, Candès, Ramdas & Tibshirani,
"Predictive inference with the jackknife+", Ann. Statist. 49, 2021, theorems 1 and 4) reject at most about
twice the wanted rate, but only where every fold network judges the new frame, too. With a single network
nothing is proved unless learning is stable; the same paper shows that it can fail altogether. So such
thresholds carry an estimate and no bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_PARTS_A_FOLD = 5  # a median of fewer is no scale
ALIGN_BELOW = 0.01  # folds differ by chance as much with this probability: then it is the networks
PERMUTATIONS = 999
LEAST_SCORE = 1e-12


@dataclass(frozen=True, slots=True)
class Aligned:
    """What each fold's scores are multiplied by, to be on one scale."""

    factors: dict[int, float]
    p: float | None  # that folds dealt by chance differ as much; None: too few parts to tell

    @property
    def changed(self) -> bool:
        return any(factor != 1.0 for factor in self.factors.values())


def align(
    scores: Sequence[float], views: Sequence[str], folds: Sequence[int], parts: Sequence[str]
) -> Aligned:
    """Bring the networks of several folds to one scale, where they differ in it more than chance explains.

    Scores are divided by the median of their view, the logarithms averaged over each part; folds differ where
    the Kruskal-Wallis statistic of these is exceeded in fewer than one in a hundred deals of the same parts
    into folds of the same sizes. Then each fold is scaled to the median of the folds' medians.

    It assumes that parts were dealt into folds by chance, that networks differ by a factor alone, and that
    the network learned from all frames has the folds' usual scale. With fewer than five parts in a fold
    nothing is scaled: it would take away what parts differ by, and the thresholds would be too low.
    """
    raw, where = np.asarray(scores, np.float64), np.asarray(views)
    relative = np.empty(len(raw))
    for view in sorted(set(views)):
        here = where == view
        relative[here] = raw[here] / max(float(np.median(raw[here])), LEAST_SCORE)
    logs = np.log(np.maximum(relative, LEAST_SCORE))
    names = sorted(set(zip(folds, parts, strict=True)))
    at = {name: number for number, name in enumerate(names)}
    owner = np.array([at[name] for name in zip(folds, parts, strict=True)])
    values = np.bincount(owner, weights=logs) / np.bincount(owner)  # (parts,)
    labels = np.array([fold for fold, _ in names])
    kinds = sorted(set(folds))
    untouched = dict.fromkeys(kinds, 1.0)
    if len(kinds) < 2 or min(int((labels == kind).sum()) for kind in kinds) < LEAST_PARTS_A_FOLD:
        return Aligned(untouched, None)
    p = _chance(values, labels)
    if p >= ALIGN_BELOW:
        return Aligned(untouched, p)
    centres = {kind: float(np.median(values[labels == kind])) for kind in kinds}
    usual = float(np.median(list(centres.values())))
    return Aligned({kind: float(np.exp(usual - centre)) for kind, centre in centres.items()}, p)


def cv_plus_bound(rate: float, frames: int, folds: int) -> float:
    """The false-reject rate that CV+ would bound, were all fold networks to judge a frame (theorem 4)."""
    more = min(2 * (1 - 1 / folds) / (frames / folds + 1), (1 - folds / frames) / (folds + 1))
    return min(1.0, 2 * rate + max(0.0, more))


def _chance(values: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Permutation test of Kruskal and Wallis' statistic (JASA 47, 1952), drawn by a fixed seed."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)
    for value in np.unique(values):  # ties share their mean rank
        same = values == value
        order[same] = order[same].mean()
    members = np.stack([labels == kind for kind in np.unique(labels)]).astype(np.float64)  # (folds, parts)

    def statistic(ranks: NDArray[np.float64]) -> float:
        return float((np.square(members @ ranks) / members.sum(axis=1)).sum())

    rng, seen = np.random.default_rng(0), statistic(order)
    as_high = sum(statistic(rng.permutation(order)) >= seen * (1 - 1e-12) for _ in range(PERMUTATIONS))
    return (1 + as_high) / (1 + PERMUTATIONS)
