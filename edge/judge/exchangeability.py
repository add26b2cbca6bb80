"""Whether new scores still look like those of calibration: without that no promise holds.

Two questions, two tools. Of a set of good frames: could both sets of scores have been dealt by chance? That
is the exact test of Kolmogorov and Smirnov, view by view. Of a daemon that never ends: is there evidence now?
That is a conformal test martingale, money won by betting against exchangeability (Vovk, Nouretdinov &
Gammerman, "Testing exchangeability on-line", ICML 2003; Vovk, "Testing randomness online", Statist. Sci. 36,
2021). Frames of one part are alike whatever happens: give one score a part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.01  # below it scores are called not exchangeable
LEAST_FRAMES = 2  # of either side
JUMP = 0.01  # share of the money that is dealt anew between the bets, each frame


@dataclass(frozen=True, slots=True)
class Exchangeable:
    """How likely chance alone makes new good frames differ as much from those of calibration."""

    p: float  # over all views: the smallest, times their number (Bonferroni)
    frames: int  # that were compared, one a part and view
    views: Mapping[str, float]  # p of each view

    @property
    def refuted(self) -> bool:
        return self.p < LEVEL

    @property
    def worst(self) -> str:
        """The view that differs most."""
        return min(self.views, key=lambda view: self.views[view])


def compare(
    new: Mapping[str, Sequence[float]], calibration: Mapping[str, Sequence[float]]
) -> Exchangeable | None:
    """Hold the scores of each view against its calibration's; None where no view has two of each."""
    pairs = {
        view: (scores, calibration[view])
        for view, scores in new.items()
        if min(len(scores), len(calibration.get(view, ()))) >= LEAST_FRAMES
    }
    if not pairs:
        return None
    views = {view: two_sample(*pair) for view, pair in pairs.items()}
    p = min(1.0, len(views) * min(views.values()))
    return Exchangeable(p, sum(len(scores) for scores, _ in pairs.values()), views)


def two_sample(first: Sequence[float], second: Sequence[float]) -> float:
    """Exact two-sided p-value of Kolmogorov and Smirnov's two-sample test; with ties it is an upper bound.

    The largest difference of the two distribution functions, and how often dealing the same scores anew gives
    as large a one: lattice paths that leave a band (Hodges, "The significance probability of the Smirnov
    two-sample test", Arkiv för Matematik 3, 1958), counted as probabilities, diagonal by diagonal.
    """
    a, b = np.sort(np.asarray(first, np.float64)), np.sort(np.asarray(second, np.float64))
    n, m = len(a), len(b)
    at = np.concatenate([a, b])
    steps = np.searchsorted(a, at, "right") * m - np.searchsorted(b, at, "right") * n
    return _leaves_band(n, m, int(np.abs(steps).max()))


def _leaves_band(n: int, m: int, reach: int) -> float:
    """P that a path from (0, 0) to (n, m), all equally likely, meets |i·m − j·n| ≥ reach."""
    if reach <= 0:
        return 1.0
    outside = np.zeros(1)  # of the points (i, s − i) of diagonal s: P(left the band on the way there)
    low = 0  # the smallest i of the diagonal
    for s in range(1, n + m + 1):
        first, last = max(0, s - m), min(n, s)
        i = np.arange(first, last + 1)
        from_left = _at(outside, i - 1 - low)  # (i − 1, j), with probability i/s
        from_below = _at(outside, i - low)  # (i, j − 1)
        outside = (i * from_left + (s - i) * from_below) / s
        outside[np.abs(i * m - (s - i) * n) >= reach] = 1.0
        low = first
    return min(1.0, float(outside[-1]))


def _at(values: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values by index; beyond the ends 0, whose weight is 0 there."""
    inside = (index >= 0) & (index < len(values))
    return np.where(inside, values[np.clip(index, 0, len(values) - 1)], 0.0)


def online_p_values(scores: Sequence[float], calibration: Sequence[float]) -> NDArray[np.float64]:
    """Of each score its conformal p-value among calibration and all before it, (n,) within 0..1.

    (number higher + half the number equal, itself among them) / number so far. Without ties they are
    independent, and with the half their mean is exactly 1/2 whatever the ties, which is all that the bets of
    `martingale` need. p-values against the calibration alone would share its sampling error for ever.
    """
    k, values = len(calibration), np.asarray(scores, np.float64)
    ordered = np.sort(np.asarray(calibration, np.float64))
    higher = k - np.searchsorted(ordered, values, "right")
    equal = k - higher - np.searchsorted(ordered, values, "left")
    before = np.tri(len(values), k=-1, dtype=bool)  # [t, j]: j came before t
    higher = higher + ((values[None, :] > values[:, None]) & before).sum(axis=1)
    equal = equal + ((values[None, :] == values[:, None]) & before).sum(axis=1) + 1
    return np.asarray((higher + equal / 2) / (k + np.arange(1, len(values) + 1)), np.float64)


def martingale(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """log10 of the simple jumper after each p-value, (n,): what betting one coin has brought.

    Three accounts bet 1 + ε(p − 1/2) with ε of −1, 0 and 1, and deal a hundredth of all money anew before
    each bet (Vovk et al., "Retrain or not retrain: conformal test martingales for change-point detection",
    COPA 2021, algorithm 1). While scores are exchangeable its mean is 1, so that 1/δ is reached with
    probability δ at most: at any one moment, and without ties (Ville, 1939) ever.
    """
    rising = nothing = falling = 1 / 3  # shares of the money that bet on scores that do so
    kept, dealt, log10 = 1 - JUMP, JUMP / 3, 0.0
    values = np.empty(len(p_values))
    for t, p in enumerate(np.asarray(p_values, np.float64).tolist()):
        rising = (kept * rising + dealt) * (1.5 - p)
        nothing = kept * nothing + dealt
        falling = (kept * falling + dealt) * (0.5 + p)
        won = rising + nothing + falling
        rising, nothing, falling = rising / won, nothing / won, falling / won
        log10 += math.log10(won)
        values[t] = log10
    return values


def log_martingale(recent: Sequence[float], calibration: Sequence[float]) -> float:
    """log10 of the martingale over recent scores, oldest first; 0 where there is nothing to hold them to.

    It keeps no state: recent scores and calibration give the same figure after any restart. At each moment it
    exceeds log10(1/δ) with probability δ at most while nothing has changed, so that over any time, however
    long, alarms are expected for a share δ of the frames at most.
    """
    if not len(recent) or not len(calibration):
        return 0.0
    return float(martingale(online_p_values(recent, calibration))[-1])


def one_a_part(scores: Sequence[float], parts: Sequence[object] | None) -> list[float]:
    """The first score of each part; None as parts: each score is of its own."""
    if parts is None:
        return list(scores)
    first: dict[object, float] = {}
    for score, part in zip(scores, parts, strict=True):
        first.setdefault(part, score)
    return list(first.values())
