"""What is old enough to go, by a clock that may be wrong."""

from __future__ import annotations

LONGEST_GAP_S = 30 * 86400.0


def clock_jumped(gone_unix_s: float, kept_unix_s: float, max_age_s: float) -> bool:
    """Whether the clock seems to have jumped, from the newest of what would go and the oldest of what stays.

    A line that ran all the time has results on both sides of the limit of age, close to each other. Where
    they lie further apart than 30 days (or than the whole age), a clock that is years ahead is as likely as a
    line that stood still, and nothing before the gap goes until the limit has passed all of it. This needs no
    memory of what the clock once was: it holds over restarts, and costs a line that did stand still only that
    its old results stay for as much longer. With nothing to go (-inf) there is no gap.
    """
    return gone_unix_s > float("-inf") and kept_unix_s - gone_unix_s > min(LONGEST_GAP_S, max_age_s)
