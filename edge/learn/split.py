"""Which good frames are learned from, and which are kept for thresholds and stopping: whole parts only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from edge.errors import DataError
from edge.judge.calibration import TooFew, check_enough, frames_needed

CALIBRATION_SHARE = 0.3
VALIDATION_SHARE = 0.1
# With fewer groups than this all are learned from, and validation takes its own windows of the same frames
LEAST_GROUPS_TO_VALIDATE = 10


@dataclass(frozen=True, slots=True)
class Split:
    """Groups (parts, or files without a part) by their use, each sorted."""

    train: tuple[str, ...]
    validation: tuple[str, ...]  # empty: validated on windows of the training frames
    calibration: tuple[str, ...]


def split(
    groups: Mapping[str, Sequence[str]],
    *,
    seed: int,
    false_reject: float,
    too_few: TooFew,
    share: float = CALIBRATION_SHARE,
) -> Split:
    """Split groups, each with the views of its frames, so that every view can be calibrated.

    A view gives `share` of its frames to calibration, or more (up to half) where that reaches what its own
    threshold needs; never fewer than one. No group is on two sides.

    Raises:
        DataError: fewer than two groups, or (`too_few="refuse"`) a view would be short of frames; the message
            says how many are needed, and for what.
    """
    if len(groups) < 2:
        raise DataError(
            f"good frames of {len(groups)} part only: at least 2 are needed, from different parts: "
            f"one to learn, one to calibrate a threshold with; {frames_needed(false_reject)} more for a "
            f"threshold that rejects at most {false_reject:.1%} of good frames",
            hint="give more good frames, or allow learning from rows that are split = test",
            reason="too_few_frames",
        )
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(groups))]
    totals = _count(groups, groups)
    wanted = {view: _calibration_frames(n, share, false_reject) for view, n in totals.items()}
    calibration = _take(order, groups, totals, wanted)
    check_enough({view: 0 for view in totals} | _count(groups, calibration), false_reject, too_few)
    rest = [name for name in order if name not in calibration]
    held = _held_for_validation(len(rest))
    return Split(
        train=tuple(sorted(rest[held:])),
        validation=tuple(sorted(rest[:held])),
        calibration=tuple(sorted(calibration)),
    )


def _calibration_frames(total: int, share: float, false_reject: float) -> int:
    needed = frames_needed(false_reject)
    return max(1, round(share * total), needed if needed <= total // 2 else 0)


def _take(
    order: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    totals: Mapping[str, int],
    wanted: Mapping[str, int],
) -> Set[str]:
    """Groups until every view has what it wants: first those most of whose views are short, then any."""
    taken: set[str] = set()
    have = dict.fromkeys(totals, 0)
    for need_share in (0.5, 0.0):
        for name in order:
            views = groups[name]
            short = sum(have[view] < wanted[view] for view in views)
            if name in taken or short == 0 or short < need_share * len(views) or len(taken) == len(order) - 1:
                continue
            taken.add(name)
            for view in views:
                have[view] += 1
    return taken


def _count(groups: Mapping[str, Sequence[str]], names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        for view in groups[name]:
            counts[view] = counts.get(view, 0) + 1
    return counts


def all_to_learn(groups: Mapping[str, Sequence[str]], *, seed: int) -> Split:
    """Nothing kept for thresholds: what `edge train` does."""
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(groups))]
    held = _held_for_validation(len(order))
    return Split(train=tuple(sorted(order[held:])), validation=tuple(sorted(order[:held])), calibration=())


def _held_for_validation(groups: int) -> int:
    return round(VALIDATION_SHARE * groups) if groups >= LEAST_GROUPS_TO_VALIDATE else 0
