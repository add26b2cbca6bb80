"""Whether a measured false-reject rate agrees with what was promised."""

from __future__ import annotations

import math
from typing import NamedTuple

from edge.errors import UsageError
from edge.judge.operating_point import lower_bound

CONFIDENCE = 0.95


class PromiseInterval(NamedTuple):
    """The rates that a count of false rejects does not contradict, and whether the promise is kept."""

    low: float
    high: float
    kept: bool  # the promise is not below `low`


def promise_interval(
    rejected: int, total: int, promised: float, confidence: float = CONFIDENCE
) -> PromiseInterval:
    """The two-sided interval of Clopper and Pearson (Biometrika 26, 1934) of a measured rate.

    It takes the threshold as given. The promise is an average over calibrations, too: of one that kept 19
    frames for a rate of 5 %, an eighth rejects more than 10 %; `promise_p_value` takes that into account.

    Raises:
        UsageError: no frames, or more rejected than there are.
    """
    _check(rejected, total)
    level = 1 - (1 - confidence) / 2
    low = lower_bound(rejected, total, level)
    return PromiseInterval(low, 1 - lower_bound(total - rejected, total, level), promised >= low)


def promise_p_value(rejected: int, total: int, *, frames: int, bound: float) -> float:
    """The probability of as many false rejects or more, if the promise holds: small means that it does not.

    The threshold is the k-th smallest of `frames` calibration scores, `bound` = 1 − k/(frames + 1). Scores
    being exchangeable and without ties, the number of `total` new ones above it is beta-binomial with the
    parameters frames + 1 − k and k (Wilks, "Determination of sample sizes for setting tolerance limits",
    Ann. Math. Stat. 12, 1941). Frames (or parts) must be independent of each other.

    Raises:
        UsageError: no frames, more rejected than there are, or a bound that these frames cannot give.
    """
    _check(rejected, total)
    k = round((1 - bound) * (frames + 1))
    if not 1 <= k <= frames:
        raise UsageError(f"{frames} frames cannot bound a rate by {bound:g}", hint="give those of its view")
    a = frames + 1 - k
    constant = _log_beta(a, k)
    logs = [
        math.lgamma(total + 1)
        - math.lgamma(x + 1)
        - math.lgamma(total - x + 1)
        + _log_beta(x + a, total - x + k)
        - constant
        for x in range(rejected, total + 1)
    ]
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _check(rejected: int, total: int) -> None:
    if not 0 <= rejected <= total or total == 0:
        raise UsageError(f"{rejected} rejected of {total} frames", hint="count frames of known truth")
