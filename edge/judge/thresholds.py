"""Thresholds from the scores of good frames: several rules, and what each of them can promise.

Two figures say how good a threshold is. The `bound` holds for any distribution, as long as a new good frame
is exchangeable with those of calibration: a threshold that cannot be below the k-th smallest of n scores is
exceeded by the next one with probability at most 1 − k/(n+1) (Vovk et al., Algorithmic Learning in a Random
World, 2005). The `estimate` is what a rule aims at; it holds only as far as the rule's own assumption does.

What is exchangeable is the part: several frames of one part are alike, and say less than as many parts do. So
each part weighs one, whatever the number of its frames, and n counts parts: hierarchical conformal prediction
(Dunn, Wasserman & Ramdas, JASA 2023; Lee, Barber & Willett, "Distribution-free inference with hierarchical
data", 2023). With one frame a part this is split-conformal.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

ThresholdMethod = Literal["conformal", "max", "median-max", "quantile", "mad", "evt"]
METHODS: tuple[ThresholdMethod, ...] = get_args(ThresholdMethod)

MAD_TO_SIGMA = 1.4826  # of a normal distribution
LEAST_FRAMES_MAD = 10  # a median absolute deviation of fewer says little
LEAST_GROUPS = 3
LEAST_EXCEEDANCES = 10  # that a tail is fitted to
TAIL_SHARE = 0.1  # of the scores, the highest: the tail, where that is enough exceedances
ALMOST = 1e-9  # against 0.95 × 20 = 19.000000000000004


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """How thresholds are set. `k` is only for mad, `quantile` only for quantile; None: from false_reject."""

    method: ThresholdMethod = "conformal"
    false_reject: float = 0.05  # the share of good frames that may be rejected
    k: float | None = None
    quantile: float | None = None

    @property
    def estimate(self) -> float:
        """The share of good frames that the rule aims to reject."""
        if self.method == "quantile" and self.quantile is not None:
            return 1 - self.quantile
        if self.method == "mad" and self.k is not None:
            return 1 - NormalDist().cdf(self.k)
        return self.false_reject


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold, and what it promises: the share of good frames that it rejects."""

    value: float
    bound: float  # at most this, whatever the distribution
    estimate: float | None = None  # about this, if `ASSUMPTIONS` of the method holds; None: only the bound


ASSUMPTIONS: Mapping[ThresholdMethod, str] = {
    "conformal": "",
    "max": "",
    "median-max": "groups are alike",
    "quantile": "there are many frames",
    "mad": "scores are normal",
    "evt": "the tail of the scores is a generalised Pareto distribution",
}


@dataclass(frozen=True, slots=True)
class _Good:
    """What a threshold is drawn from."""

    scores: NDArray[np.float64]  # (n,)
    weights: NDArray[np.float64]  # (n,) one over the number of frames of the score's part
    groups: Sequence[str | None] | None

    @property
    def parts(self) -> int:
        return round(float(self.weights.sum()))


class _Method(Protocol):
    def __call__(self, good: _Good, rule: ThresholdRule) -> Threshold | None: ...


def threshold(
    scores: Sequence[float],
    rule: ThresholdRule,
    groups: Sequence[str | None] | None = None,
    parts: Sequence[str | None] | None = None,
) -> Threshold | None:
    """The threshold of good scores, or None where they are too few, or too equal, for the rule.

    `groups` names the batch or part of each score, where known; only median-max looks at it. `parts` names
    the part of each score, for all rules: the frames of one part count as one. Without a name a frame is a
    part of its own.
    """
    if not len(scores):
        return None
    return _METHODS[rule.method](_Good(np.asarray(scores, np.float64), _weights(scores, parts), groups), rule)


def frames_needed(false_reject: float) -> int:
    """How many calibration frames, each of another part, a conformal threshold for this rate needs.

    With n exchangeable scores the k-th smallest bounds the rate by 1 − k/(n+1); k ≤ n needs n ≥ 1/rate − 1.
    """
    return math.ceil(1 / false_reject - 1 - ALMOST)


def conformal_rank(n: int, false_reject: float) -> int:
    """The smallest k for which 1 − k/(n+1) is at most the rate; above n where n is too few."""
    return math.ceil((n + 1) * (1 - false_reject) - ALMOST)


def counts_parts(rule: ThresholdRule) -> bool:
    """Whether `frames_needed_by` counts parts; the other rules are shaped by frames."""
    return rule.method in ("conformal", "max")


def frames_needed_by(rule: ThresholdRule) -> int:
    """How many frames a rule needs to give a threshold at all; conformal and max: to keep their promise."""
    if rule.method in ("conformal", "max"):
        return frames_needed(rule.false_reject)
    if rule.method == "quantile":  # with fewer the level lies beyond the second highest score
        return max(2, math.ceil(1 / rule.estimate + 1 - ALMOST))
    if rule.method == "median-max":
        return LEAST_GROUPS * group_size(rule.false_reject)
    return LEAST_FRAMES_MAD if rule.method == "mad" else 2 * LEAST_EXCEEDANCES


def conformal_threshold(scores: Sequence[float], false_reject: float) -> float | None:
    """The split-conformal threshold, or None if there are too few scores for that rate."""
    found = threshold(scores, ThresholdRule("conformal", false_reject))
    return found.value if found else None


def group_size(false_reject: float) -> int:
    """Frames a group, so that the median of the groups' maxima is exceeded at about this rate.

    The maximum of m independent scores has the median F⁻¹(2^(−1/m)); 1 − 2^(−1/m) = rate gives m.
    """
    return max(1, math.ceil(math.log(2) / -math.log1p(-false_reject) - ALMOST))


def gpd_fit(excesses: NDArray[np.float64]) -> tuple[float, float] | None:
    """(shape ξ, scale σ) of a generalised Pareto distribution, 1 − (1 + ξ y/σ)^(−1/ξ); None if not possible.

    Probability-weighted moments with plotting positions (i − 0.35)/n: Hosking & Wallis, "Parameter and
    quantile estimation for the generalized Pareto distribution", Technometrics 29, 1987 (their k is −ξ).
    Where the fitted upper end lies below the largest excess, the shape is raised until it does not: Dupuis &
    Tsao, "A hybrid estimator for generalized Pareto and extreme-value distributions", 1998.
    """
    ordered = np.sort(excesses)
    n = len(ordered)
    if n < 2 or ordered[-1] <= 0:
        return None
    at = (np.arange(1, n + 1) - 0.35) / n
    mean, weighted = float(ordered.mean()), float(((1 - at) * ordered).mean())
    spread = mean - 2 * weighted
    if spread <= 1e-12 * mean:
        return None
    shape, scale = 2 - mean / spread, 2 * mean * weighted / spread
    if scale <= 0:
        return None
    return max(shape, -scale / float(ordered[-1])), scale


def _weights(scores: Sequence[float], parts: Sequence[str | None] | None) -> NDArray[np.float64]:
    """(n,) one over the number of frames that the part of each score has."""
    if parts is None:
        return np.ones(len(scores))
    frames = Counter(part for part in parts if part is not None)
    return np.array([1.0 if part is None else 1 / frames[part] for part in parts])


def _conformal(good: _Good, rule: ThresholdRule) -> Threshold | None:
    """Conformal: the smallest score that parts of a total weight of (parts + 1)(1 − rate) do not exceed."""
    wanted = (good.parts + 1) * (1 - rule.false_reject)
    if (good.weights == 1).all():
        wanted = conformal_rank(good.parts, rule.false_reject)
    order = np.argsort(good.scores, kind="stable")
    rank = int(np.searchsorted(np.cumsum(good.weights[order]), wanted - ALMOST))
    if rank >= len(order):
        return None
    return Threshold(float(good.scores[order[rank]]), 1 - wanted / (good.parts + 1))


def _max(good: _Good, rule: ThresholdRule) -> Threshold | None:
    """The highest good score, as the origin had it: at most 1/(n+1) are rejected, whatever was wanted."""
    return Threshold(float(good.scores.max()), _bound(len(good.scores), good))


def _median_max(good: _Good, rule: ThresholdRule) -> Threshold | None:
    """The median over groups of the highest score in each: one bad calibration frame does not move it."""
    scores = good.scores
    members = _known_groups(scores, good.groups) or _drawn_groups(scores, group_size(rule.false_reject))
    if len(members) < LEAST_GROUPS:
        return None
    sizes = sorted(len(member) for member in members)
    value = float(np.median([member.max() for member in members]))
    half = sum(sizes[: (len(sizes) + 1) // 2])  # at least half of the groups lie below it altogether
    return Threshold(value, _bound(half, good), float(1 - 2 ** (-1 / np.median(sizes))))


def _known_groups(
    scores: NDArray[np.float64], groups: Sequence[str | None] | None
) -> list[NDArray[np.float64]]:
    """The scores of each group, where every score has one and the groups are more than single frames."""
    if groups is None or any(group is None for group in groups):
        return []
    names = np.asarray(groups, object)
    members = [scores[names == name] for name in dict.fromkeys(groups)]
    enough = len(members) >= LEAST_GROUPS and np.median([len(member) for member in members]) >= 2
    return members if enough else []


def _drawn_groups(scores: NDArray[np.float64], size: int) -> list[NDArray[np.float64]]:
    """Groups of at least `size` scores, drawn by a fixed seed: the same scores give the same threshold."""
    count = len(scores) // size
    if not count:
        return []
    return np.array_split(np.random.default_rng(0).permutation(np.sort(scores)), count)


def _quantile(good: _Good, rule: ThresholdRule) -> Threshold | None:
    """The quantile of the scores themselves, interpolated (Hyndman & Fan 1996, type 7)."""
    scores, n, level = good.scores, len(good.scores), 1 - rule.estimate
    if n < frames_needed_by(rule):
        return None
    below = math.floor((n - 1) * level + ALMOST) + 1
    return Threshold(float(np.quantile(scores, level)), _bound(below, good), rule.estimate)


def _mad(good: _Good, rule: ThresholdRule) -> Threshold | None:
    """Median + k × 1.4826 × median absolute deviation, k standard deviations of a normal distribution."""
    scores, n = good.scores, len(good.scores)
    centre = float(np.median(scores))
    deviation = MAD_TO_SIGMA * float(np.median(np.abs(scores - centre)))
    if n < LEAST_FRAMES_MAD or deviation <= 0:
        return None
    k = NormalDist().inv_cdf(1 - rule.false_reject) if rule.k is None else rule.k
    return Threshold(centre + k * deviation, _bound((n + 1) // 2, good), rule.estimate)


def _evt(good: _Good, rule: ThresholdRule) -> Threshold | None:
    """Peaks over threshold: a generalised Pareto tail above a high score (Pickands 1975; Coles 2001, ch. 4).

    The tail is the highest tenth of the scores, but at least ten and at most half of them. A level beyond the
    highest score is extrapolated, which no other rule here does: there it rejects up to three times what it
    estimates (log-normal and gamma scores, 60 to 200 frames, rates from 1/100 to 1/1000).
    """
    n, ordered = len(good.scores), np.sort(good.scores)
    wanted = max(LEAST_EXCEEDANCES, math.ceil(max(TAIL_SHARE, 2 * rule.false_reject) * n - ALMOST))
    tail = min(n // 2, wanted)
    if tail < LEAST_EXCEEDANCES:
        return None
    start = float(ordered[n - tail - 1])
    fit = gpd_fit(ordered[n - tail :] - start)
    if fit is None:
        return None
    shape, scale = fit
    depth = math.log(tail / n / rule.false_reject)  # how far into the tail, on the scale of exceedances' logs
    if depth < 0:
        return None
    beyond = scale * (depth if abs(shape) < 1e-9 else math.expm1(shape * depth) / shape)
    return Threshold(start + beyond, _bound(n - tail, good), rule.estimate)


def _bound(rank: int, good: _Good) -> float:
    """What a threshold not below the rank-th smallest score bounds: 1 − rank/(n+1) with one frame a part.

    Otherwise the scores above it may be those that weigh most, and what is left weighs at least this.
    """
    above = np.sort(good.weights)[::-1][: len(good.weights) - rank]
    return min(1.0, 1 - (good.parts - float(above.sum())) / (good.parts + 1))


_METHODS: Mapping[ThresholdMethod, _Method] = {
    "conformal": _conformal,
    "max": _max,
    "median-max": _median_max,
    "quantile": _quantile,
    "mad": _mad,
    "evt": _evt,
}
