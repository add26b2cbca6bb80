"""Which good frames are learned from, and which are kept for thresholds and stopping: whole parts only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from edge.errors import DataError
from edge.judge.calibration import TooFew, check_enough
from edge.judge.thresholds import ThresholdRule, counts_parts, frames_needed_by

CALIBRATION_SHARE = 0.25
VALIDATION_SHARE = 0.1
LABELLED_VALIDATION_SHARE = 0.2  # 16 of the 80 % that 64/16/20 leaves beside the test
DEFECTS_HELD_SHARE = 0.3  # of few defects beside good frames
LEAST_DEFECT_GROUPS_TO_HOLD = 4
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
    rule: ThresholdRule,
    too_few: TooFew,
    share: float = CALIBRATION_SHARE,
) -> Split:
    """Split groups, each with the views of its frames, so that every view can be calibrated.

    A view gives `share` of its frames to calibration, or more (up to half) where that reaches what its own
    threshold needs, unless several views may be pooled; never fewer than one. No group is on two sides.

    Raises:
        DataError: fewer than two groups, or (`too_few="refuse"`) a view would be short of frames; the message
            says how many are needed, and for what.
    """
    if len(groups) < 2:
        raise DataError(
            f"good frames of {len(groups)} part only: at least 2 are needed, from different parts: "
            f"one to learn, one to calibrate a threshold with; {frames_needed_by(rule)} more for a "
            f"threshold that rejects at most {rule.estimate:.1%} of good frames",
            hint="give more good frames, or change the split of some rows in the manifest",
            reason="too_few_frames",
        )
    if counts_parts(rule):  # several frames of a part in one view count once
        groups = {name: tuple(dict.fromkeys(views)) for name, views in groups.items()}
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(groups))]
    totals = _count(groups, groups)
    # of several views each could take half of its frames; where they may be pooled, networks need them more
    needed = 0 if too_few == "pool" and len(totals) > 1 else frames_needed_by(rule)
    wanted = {view: _calibration_frames(n, share, needed) for view, n in totals.items()}
    calibration = _take(order, groups, totals, wanted)
    counts = {view: 0 for view in totals} | _count(groups, calibration)
    check_enough(counts, rule.false_reject, too_few, rule)
    rest = [name for name in order if name not in calibration]
    held = _held_for_validation(len(rest))
    return Split(
        train=tuple(sorted(rest[held:])),
        validation=tuple(sorted(rest[:held])),
        calibration=tuple(sorted(calibration)),
    )


def _calibration_frames(total: int, share: float, needed: int) -> int:
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


@dataclass(frozen=True, slots=True)
class Labelled:
    """A frame of a group, as the split of supervised networks sees it."""

    group: str
    is_defect: bool
    split: str = ""  # as the manifest proposes


def split_labelled(
    frames: Sequence[Labelled], *, seed: int, share: float = LABELLED_VALIDATION_SHARE
) -> Split:
    """Groups to learn from, and groups that stop the learning and give the thresholds.

    Rows that a manifest puts into validation (or calibration) are those; otherwise `share` of the groups with
    defects and of those without, drawn by the seed, at least one of each kind where there are two. No group
    is on two sides: one with a row in validation is there as a whole.

    Raises:
        DataError: nothing is left to learn from, or no defect.
    """
    has_defect: dict[str, bool] = {}
    for frame in frames:
        has_defect[frame.group] = has_defect.get(frame.group, False) or frame.is_defect
    proposed = {f.group for f in frames if f.split in ("validation", "val", "calibration")}
    held = proposed or set(_drawn(has_defect, seed, share))
    train = [group for group in has_defect if group not in held]
    if not (any(has_defect[group] for group in train) and any(has_defect[group] for group in held)):
        raise DataError(
            f"defect frames of {sum(has_defect.values())} parts: at least 2 are needed, from different "
            "parts: one to learn, one to choose thresholds with",
            hint="give more defect frames, or leave some out of split = validation",
            reason="too_few_frames",
        )
    validation = tuple(sorted(held))
    return Split(train=tuple(sorted(train)), validation=validation, calibration=validation)


def _drawn(has_defect: Mapping[str, bool], seed: int, share: float) -> Iterable[str]:
    for kind in (True, False):
        names = sorted(name for name, defect in has_defect.items() if defect == kind)
        if len(names) > 1:
            order = np.random.default_rng((seed, kind)).permutation(names)
            yield from (str(name) for name in order[: max(1, round(share * len(names)))])


@dataclass(frozen=True, slots=True)
class DefectFrame:
    """A defect frame of a group, as the split of real defects beside good frames sees it."""

    group: str
    is_marked: bool  # by a mask that says where
    split: str = ""  # as the manifest proposes


@dataclass(frozen=True, slots=True)
class DefectSplit:
    """Groups with defects, each sorted: masks to learn from, and frames that only measure."""

    train: tuple[str, ...]
    held: tuple[str, ...]


def split_defects(
    frames: Sequence[DefectFrame],
    good: Split,
    *,
    seed: int,
    recall_demanded: bool,
    share: float = DEFECTS_HELD_SHARE,
) -> DefectSplit:
    """Real defects beside good frames that were split already; no group is on two sides.

    Held are the groups without a mask, those that a manifest puts into validation or calibration, those whose
    good frames calibrate, and of the rest, from `LEAST_DEFECT_GROUPS_TO_HOLD` on, as many as make `share` of
    all. With fewer all masks are learned from; where a recall is demanded at least one group is held, since
    no threshold can come from defects that were learned from. What would be held, but for good frames of the
    group that are learned from, is neither.
    """
    marked: dict[str, bool] = {}
    for frame in frames:
        marked[frame.group] = marked.get(frame.group, False) or frame.is_marked
    proposed = {f.group for f in frames if f.split in ("validation", "val", "calibration")}
    learned = {*good.train, *good.validation}
    held = {g for g, mask in marked.items() if not mask or g in proposed or g in good.calibration} - learned
    free = sorted(g for g, mask in marked.items() if mask and g not in held and g not in learned)
    if len(marked) >= LEAST_DEFECT_GROUPS_TO_HOLD:
        wanted = round(share * len(marked)) - len(held)
    else:
        wanted = int(recall_demanded and not held)
    order = [str(name) for name in np.random.default_rng((seed, 2)).permutation(free)]
    held.update(order[: max(0, wanted)])
    train = {g for g, mask in marked.items() if mask and g not in held and g not in proposed}
    return DefectSplit(train=tuple(sorted(train)), held=tuple(sorted(held)))


def all_to_learn(groups: Mapping[str, Sequence[str]], *, seed: int) -> Split:
    """Nothing kept for thresholds: what `edge train` does."""
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(groups))]
    held = _held_for_validation(len(order))
    return Split(train=tuple(sorted(order[held:])), validation=tuple(sorted(order[:held])), calibration=())


def _held_for_validation(groups: int) -> int:
    return round(VALIDATION_SHARE * groups) if groups >= LEAST_GROUPS_TO_VALIDATE else 0
