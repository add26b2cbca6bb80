"""Scores that are probabilities, on a scale without an upper end: their odds, and the way back.

A factor over a probability soon gives 1 or more, which no frame ever exceeds; over its odds it gives another
probability. Of small ones odds and probability are the same, so that a factor means what it does elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

CERTAIN = 1e12  # odds of what is certain


def odds_of(probability: float) -> float:
    """p / (1 − p); of 1 a large number."""
    return probability / max(1.0 - probability, 1 / CERTAIN)


def probability_of(odds: float) -> float:
    """The probability with these odds, within 0..1."""
    return odds / (1.0 + odds)


class Odds:
    """The way back for odds that come from known probabilities: these come back as they were, to the last
    bit, and what lies above one of them never comes back below it. So a threshold that is a score stays so.
    """

    def __init__(self, known: Iterable[float]) -> None:
        self._known = sorted(set(known))
        self._odds = [odds_of(probability) for probability in self._known]

    def back(self, odds: float) -> float:
        """The probability with these odds."""
        at = bisect_right(self._odds, odds) - 1
        if at < 0:
            return probability_of(odds)
        below = self._known[at]
        return below if self._odds[at] == odds else max(below, probability_of(odds))
