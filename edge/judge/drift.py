"""Whether a window of recent scores has left those of calibration, and what it will cost if it goes on.

Three figures, each for a question of its own. The population stability index (PSI) says how much the scores
have moved, two tests say whether chance alone does as much, and the forecast says which share of good frames
will be rejected now. An alarm takes both: a change that matters, and one that is not chance. Scores are one a
part (`one_a_part`); a window is looked at again and again, so what is promised is the share of time in alarm,
as of `edge.judge.exchangeability`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.judge.calibration import Calibration, ViewCalibration
from edge.judge.exchangeability import one_a_part, two_sample
from edge.judge.odds import odds_of

State = Literal["too_few", "ok", "watch", "alarm"]

BINS = 10
FRAMES_A_BIN = 5  # of calibration, at least: fewer bins where its scores are few
LEAST_REFERENCE = 5  # calibration scores, one a part; below it nothing is said
EXACT_UP_TO = 10_000  # n·m: beyond it the limit distribution is as good, and a thousand times faster
WATCH_P = 0.01
WATCH_SHARE = 0.5  # of what makes an alarm: where a watch begins and an alarm ends
STANDARD = NormalDist()


@dataclass(frozen=True, slots=True)
class DriftRule:
    """When a window says something, and when it is an alarm; see [drift] of config.toml."""

    min_frames: int = 50  # of the window, one a part
    psi_alarm: float = 0.25
    forecast_alarm: float = 1.5  # times the promised share of false rejects
    alarm_share: float = 0.001  # share of time in alarm while nothing drifts, at most


@dataclass(frozen=True, slots=True)
class Reference:
    """What a view's window is held against."""

    scores: NDArray[np.float64]  # (n,) log of the raw score, of odds where scores are probabilities; sorted
    threshold: float  # raw
    promised: float  # share of good frames rejected while nothing drifts
    bounded: bool
    tested: NDArray[np.float64]  # what tests and forecast compare with: these, and more like them; sorted

    @classmethod
    def of(cls, calibration: Calibration, limits: ViewCalibration) -> Reference:
        raw = np.array(one_a_part(limits.scores, limits.parts), np.float64)
        promised = limits.false_reject_estimate
        if promised is None:
            promised = (
                limits.false_reject_bound if limits.false_reject_bound < 1 else calibration.false_reject
            )
        logs = np.sort(_logs(raw, calibration.bounded))
        return cls(logs, limits.threshold, min(max(promised, 1e-6), 0.5), calibration.bounded, logs)

    def beside(self, normalised: Sequence[float]) -> Reference:
        """With scores of production that are like calibration's, for the tests and the forecast: what has
        changed since. PSI and medians stay against calibration alone."""
        return replace(self, tested=np.sort(np.concatenate([self.scores, self.logs(normalised)])))

    def logs(self, normalised: Sequence[float]) -> NDArray[np.float64]:
        """Scores as verdicts say them, on the reference's scale."""
        return _logs(np.asarray(normalised, np.float64) * self.threshold, self.bounded)


@dataclass(frozen=True, slots=True)
class Drift:
    """A window of a view held against its calibration."""

    frames: int  # of the window, one a part
    psi: float  # less what chance adds; 0: as calibration
    ks_p: float  # of Kolmogorov and Smirnov's two-sample test
    shift_p: float  # of Wilcoxon's rank sum, two-sided: sharper where all scores move
    median_ratio: float
    forecast: float | None  # share of good frames rejected at this shift; None: scores do not vary
    promised: float

    @property
    def p(self) -> float:
        """Of both tests (Bonferroni)."""
        return min(1.0, 2 * min(self.ks_p, self.shift_p))


def measure(normalised: Sequence[float], reference: Reference) -> Drift:
    """A window's scores, one a part, in units of the threshold; one at least, and `LEAST_REFERENCE` there."""
    window = np.sort(reference.logs(normalised))
    shift = float(np.median(window) - np.median(reference.scores))
    return Drift(
        frames=len(window),
        psi=psi(window, reference.scores),
        ks_p=ks_p(window, reference.tested),
        shift_p=rank_sum_p(window, reference.tested),
        median_ratio=math.exp(min(shift, 700.0)),
        forecast=_forecast(_middle(window) - _middle(reference.tested), reference),
        promised=reference.promised,
    )


def state_of(drift: Drift, rule: DriftRule, before: State) -> tuple[State, str]:
    """The state and why, in words.

    An alarm stays until the change or the evidence is half of what raised it. It is only on while p is below
    `alarm_share`: chance alone has it on for that share of the time at most.
    """
    if drift.frames < rule.min_frames:
        return "too_few", f"{drift.frames} of {rule.min_frames} frames"
    level = rule.alarm_share
    size = max(drift.psi / rule.psi_alarm, _excess(drift) / (rule.forecast_alarm - 1))
    why = describe(drift)
    if before == "alarm" and size >= WATCH_SHARE and drift.p < level:
        return "alarm", why
    if size >= 1 and drift.p < level / 2:
        return "alarm", why
    if size >= WATCH_SHARE and drift.p < WATCH_P:
        return "watch", why
    return "ok", ""


def describe(drift: Drift) -> str:
    """One sentence for a person."""
    change = drift.median_ratio - 1
    moved = f"the median score is {abs(change):.0%} {'higher' if change > 0 else 'lower'} than calibration's"
    if abs(change) < 0.005:
        moved = "scores spread otherwise than calibration's, around the same median"
    if drift.forecast is None or drift.forecast <= drift.promised:
        return f"{moved}; defects may score otherwise, too"
    return (
        f"{moved}; about {drift.forecast:.1%} of good frames are rejected so, {drift.promised:.1%} promised"
    )


def psi(window: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Population stability index Σ (q − p) ln(q / p) over bins with equal shares of the reference, never
    below 0; both (n,) sorted.

    Half a frame is added to each bin, so that an empty one is finite. While nothing changes the sum is about
    (1/n + 1/m) times a χ² of as many degrees of freedom as there are bins, less one (Yurdakul & Naranjo,
    "Statistical properties of the population stability index", J. Risk Model Validation 14, 2020): its mean
    is taken off, without which few frames look like a drift.
    """
    n, m = len(reference), len(window)
    bins = max(2, min(BINS, n // FRAMES_A_BIN))
    inner = np.unique(np.quantile(reference, np.arange(1, bins) / bins))
    p, q = (
        (np.bincount(np.searchsorted(inner, values, "left"), minlength=len(inner) + 1) + 0.5)
        / (len(values) + 0.5 * (len(inner) + 1))
        for values in (reference, window)
    )
    return max(0.0, float(np.sum((q - p) * np.log(q / p))) - len(inner) * (1 / n + 1 / m))


def ks_p(window: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Two-sided p-value of Kolmogorov and Smirnov's test; both (n,) sorted.

    Exact of few. Of many by the limit distribution with the correction of Stephens ("Use of the
    Kolmogorov-Smirnov, Cramér-von Mises and related statistics without extensive tables", JRSS B 32, 1970).
    """
    n, m = len(window), len(reference)
    if n * m <= EXACT_UP_TO:
        return two_sample(window.tolist(), reference.tolist())
    at = np.concatenate([window, reference])
    apart = np.searchsorted(window, at, "right") / n - np.searchsorted(reference, at, "right") / m
    root = math.sqrt(n * m / (n + m))
    reach = (root + 0.12 + 0.11 / root) * float(np.abs(apart).max())
    if reach < 0.2:  # the series below needs many terms, and says 1
        return 1.0
    total = sum((-1.0) ** (k - 1) * math.exp(-2 * (k * reach) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * total))


def rank_sum_p(window: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Two-sided p-value of Wilcoxon's rank sum by its normal limit, with ties and continuity corrected."""
    n, m = len(window), len(reference)
    _, inverse, ties = np.unique(np.concatenate([window, reference]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[inverse]
    total = n + m
    tied = float((ties.astype(np.float64) ** 3 - ties).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - tied)
    if variance <= 0:  # all are equal
        return 1.0
    away = abs(float(ranks[:n].sum()) - n * (total + 1) / 2) - 0.5
    return math.erfc(max(0.0, away) / math.sqrt(2 * variance))


def _forecast(shift: float, reference: Reference) -> float | None:
    """The promised share after calibration's log-normal body has moved by `shift`.

    Anchored at the promise, not at calibration's own tail: of 19 scores the tail is one score.
    """
    low, high = np.quantile(reference.tested, [0.1587, 0.8413])  # ± one standard deviation of a normal one
    sigma = float(high - low) / 2
    if sigma <= 0:
        return None
    return STANDARD.cdf(STANDARD.inv_cdf(reference.promised) + max(-40.0, min(40.0, shift / sigma)))


def _middle(ordered: NDArray[np.float64]) -> float:
    """Mean without the tenth at either end: defects do not move it, and it is less noisy than a median."""
    cut = len(ordered) // 10
    return float(ordered[cut : len(ordered) - cut].mean())


def _excess(drift: Drift) -> float:
    """By how much of the promise the forecast is beyond it."""
    return 0.0 if drift.forecast is None else max(0.0, drift.forecast / drift.promised - 1)


def _logs(raw: NDArray[np.float64], bounded: bool) -> NDArray[np.float64]:
    values = np.array([odds_of(float(one)) for one in raw]) if bounded else raw
    logs: NDArray[np.float64] = np.log(np.maximum(values, 1e-12))
    return logs
