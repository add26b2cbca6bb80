"""A false-reject rate per part: a part is rejected where any view is, so that views are judged together.

Each view is measured in units of its own median, a part scores as its highest view does, and a conformal rank
over whole parts gives one factor: every view's threshold is that factor times its median. Thresholds view by
view would reject up to as many times more parts as there are views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edge.errors import DataError
from edge.judge.thresholds import conformal_rank, frames_needed

# Where the factor rests on the largest of too few parts it is raised by this; and medians that are less well
# known than this prove nothing
MOST_SLACK = 1.25
LEAST_CENTRE = 1e-12

PartScores = Mapping[str, Mapping[str, float]]  # part → view → the highest raw score of its frames


class PartPromise(BaseModel):
    """What is promised of whole parts, and what the thresholds of all views come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    demanded: float  # share of good parts that may be rejected
    factor: float = Field(gt=0)  # a view's threshold over its centre
    centres: dict[str, float]  # median over complete parts of each view's raw score
    bound: float = Field(ge=0, le=1)  # at most this share of good parts is rejected; 1: nothing is proved
    estimate: float | None = None  # about this share, where the bound is not proved
    parts: int  # that have all views
    incomplete: int = 0  # parts left out, because a view of theirs is missing

    def threshold(self, view: str) -> float:
        """The raw threshold of a view; of probabilities its odds, as `factor` and `centres` are."""
        return self.factor * self.centres[view]


def promise_parts(parts: PartScores, views: Sequence[str], rate: float, *, refuse: bool) -> PartPromise:
    """The factor that rejects at most `rate` of good parts, from parts that were not learned from.

    With n complete parts the k-th smallest of their scores bounds the rate by 1 − k/(n+1), if a new part is
    exchangeable with them. It is, once it takes part in the medians, too; which it cannot, as the thresholds
    are there before it. So the factor is raised by the most that one more part can move one median against
    another (`slack`), after which the bound holds as it stands; with one view that is nothing. With too few
    parts the largest score and a factor are taken, and the bound is what they give.

    Raises:
        DataError: no part has all views, or (`refuse`) they are too few for the rate.
    """
    complete = [scores for scores in parts.values() if set(views) <= set(scores)]
    n, needed = len(complete), frames_needed(rate)
    if not complete or (refuse and n < needed):
        raise DataError(
            f"thresholds that reject at most {rate:.1%} of good parts need {needed} parts with all views "
            f"({', '.join(views)}); there are {n}",
            hint="say which part each frame shows with --template, --pattern or --manifest, give more parts, "
            "or leave out --false-reject-part",
            reason="too_few_frames",
        )
    raw = np.array([[scores[view] for view in views] for scores in complete])  # (parts, views)
    centres = np.maximum(np.median(raw, axis=0), LEAST_CENTRE)
    highest = np.sort((raw / centres).max(axis=1))
    rank = min(n, conformal_rank(n, rate))
    moved = slack(raw)
    proved = moved <= MOST_SLACK
    factor = float(highest[rank - 1]) * (min(moved, MOST_SLACK) if n >= needed else MOST_SLACK)
    reached = 1 - rank / (n + 1)
    return PartPromise(
        demanded=rate,
        factor=max(factor, LEAST_CENTRE),
        centres={view: float(centre) for view, centre in zip(views, centres, strict=True)},
        bound=reached if proved else 1.0,
        estimate=None if proved else reached,
        parts=n,
        incomplete=len(parts) - n,
    )


def slack(raw: np.ndarray) -> float:
    """By how much one more part can at most raise one view's median against another's; 1 with one view.

    `raw` is (parts, views), not negative.
    """
    views = raw.shape[1]
    if views == 1:
        return 1.0
    edge = np.zeros((1, views))
    middle = np.median(raw, axis=0)
    lowest = np.median(np.concatenate([raw, edge]), axis=0)
    highest = np.median(np.concatenate([raw, edge + np.inf]), axis=0)
    if (lowest <= 0).any():
        return float("inf")
    up, down = highest / middle, middle / lowest
    return max(float(up[v] * down[u]) for v in range(views) for u in range(views) if u != v)
