"""What a calibration achieved and what it changed, in sentences for whoever has to trust it."""

from __future__ import annotations

from collections.abc import Mapping

from edge.judge.calibration import Basis, Calibration, Recall, ViewCalibration
from edge.judge.cross import cv_plus_bound
from edge.judge.exchangeability import compare, one_a_part
from edge.judge.part_promise import PartPromise
from edge.judge.thresholds import ASSUMPTIONS, frames_needed

ALMOST = 1e-9  # of a rate

BASIS: Mapping[Basis, str] = {
    "view": "its own scores",
    "pool": "its own largest score or higher",
    "maximum": "the largest score and a factor",
    "part": "whole parts",
    "adaptive": "other views",
    "recall": "the recall demanded",
    "f1": "the best F1 over good and defect frames",
    "pixels": "the best Dice over pixels, as there is no good frame",
}


def shortfalls(made: Calibration) -> list[str]:
    """What was not achieved of the wanted false-reject rates, a sentence a view; empty where all was."""
    frames = [
        _frame_shortfall(view, limits, made)
        for view, limits in made.views.items()
        if limits.false_reject_bound > made.false_reject + ALMOST and limits.basis != "part"
    ]
    return [
        *frames,
        *(_part_shortfall(made.part, made.folds) if made.part else ()),
        *(_recall_shortfall(made.recall) if made.recall else ()),
        *_review_shortfall(made),
        *_nothing_rejected(made),
    ]


def changes(before: Calibration, made: Calibration) -> list[str]:
    """What a new calibration of the same engine changes, a sentence a view."""
    old, new = before.views, made.views
    return [
        *(_change(view, old[view], new[view]) for view in new if view in old),
        *(f"view {view}: {_promise(new[view])}; it had none" for view in new if view not in old),
        *(f"view {view}: no threshold any more" for view in old if view not in new),
    ]


def counted(limits: ViewCalibration) -> str:
    """How many calibration frames a view has, and of how many parts where those are fewer."""
    frames = len(limits.scores)
    of = f" of {_plural(limits.parts_count, 'part')}" if limits.parts_count < frames else ""
    return f"{_plural(frames, 'calibration frame')}{of}"


def _frame_shortfall(view: str, limits: ViewCalibration, made: Calibration) -> str:
    wanted, estimate = made.false_reject, limits.false_reject_estimate
    if made.folds is None or estimate is None:
        return (
            f"view {view}: {counted(limits)} bound false rejects to {limits.false_reject_bound:.1%} of good "
            f"frames ({BASIS[limits.basis]}), not {wanted:.1%}{_estimated(limits)}{_more(limits, wanted)}"
        )
    crossed = cv_plus_bound(estimate, max(limits.parts_count, made.folds), made.folds)
    return (
        f"view {view}: {counted(limits)}, each scored by a network that had not learned from it, let about "
        f"{estimate:.1%} of good frames be rejected, as far as the network learned from all of them scores "
        f"alike; nothing is proved (were the {made.folds} networks to judge together: {crossed:.1%})"
        f"{_more(limits, wanted) if estimate > wanted + ALMOST else ''}"
    )


def _estimated(limits: ViewCalibration) -> str:
    """What is hoped for beyond the bound, and on what condition."""
    if limits.false_reject_estimate is None:
        return ""
    share = f"{limits.false_reject_estimate:.2%}"
    if limits.basis == "pool":
        return f"; all views together estimate {share}, as far as they are alike but for a factor"
    return f"; {limits.method} estimates {share}, as far as {ASSUMPTIONS[limits.method]}"


def _more(limits: ViewCalibration, wanted: float) -> str:
    """How many more frames would keep the promise, where that is a matter of their number."""
    more = frames_needed(wanted) - limits.parts_count
    if more <= 0 or limits.basis not in ("view", "pool", "maximum"):
        return ""
    kind = "part" if limits.parts_count < len(limits.scores) else "frame"
    by = "" if limits.method in ("conformal", "max") else " by conformal"
    return f"; {more} more {kind}{'s' if more > 1 else ''} would allow {wanted:.1%}{by}"


def _part_shortfall(part: PartPromise, folds: int | None) -> list[str]:
    """What was not achieved of the rate per part."""
    if part.bound <= part.demanded + ALMOST:
        return []
    whole = f"{_plural(part.parts, 'part')} with all views"
    if part.incomplete:
        whole += f" ({part.incomplete} lack{'' if part.incomplete > 1 else 's'} one)"
    said = f"bound false rejects to {part.bound:.1%} of good parts, not {part.demanded:.1%}"
    if part.estimate is not None:
        why = "the views' medians are known too little" if folds is None else "other networks scored them"
        said = f"let about {part.estimate:.1%} of good parts be rejected; nothing is proved, as {why}"
    more = frames_needed(part.demanded) - part.parts
    return [f"parts: {whole} {said}" + (f"; {more} more would allow {part.demanded:.1%}" if more > 0 else "")]


def _recall_shortfall(recall: Recall) -> list[str]:
    """What the defects at hand do not prove of the recall that was demanded."""
    if recall.lower_bound >= recall.demanded:
        return []
    needed = f"{recall.defects_needed} would" if recall.defects_needed else "no number of defects would"
    return [
        f"recall {recall.measured:.1%} on {recall.defects} defect frames proves {recall.lower_bound:.1%} at "
        f"{recall.confidence:.0%} confidence, not {recall.demanded:.1%}; {needed} prove it"
    ]


def _review_shortfall(made: Calibration) -> list[str]:
    """Views that have no review band, though one was wanted."""
    bare = [view for view, limits in made.views.items() if limits.review_threshold is None]
    if made.review_rate is None or not bare:
        return []
    needed = frames_needed(made.review_rate)
    return [
        f"view {', '.join(bare)}: no review band at {made.review_rate:.1%}, which takes {needed} calibration "
        "frames of different parts that do not all score the same"
    ]


def _nothing_rejected(made: Calibration) -> list[str]:
    """Views whose threshold is the highest score there is."""
    return [
        f"view {view}: good frames are as surely defects as any can be (score 1): its threshold is 1, and no "
        "frame of it will be rejected; learn again, or look whether they are good"
        for view, limits in made.views.items()
        if made.bounded and limits.threshold >= 1
    ]


def _promise(limits: ViewCalibration) -> str:
    return f"threshold {limits.threshold:.4g} from {counted(limits)}, bound {limits.false_reject_bound:.1%}"


def _change(view: str, old: ViewCalibration, new: ViewCalibration) -> str:
    """Old and new threshold of a view, what they promise, and whether the good frames changed themselves."""
    text = (
        f"view {view}: threshold {old.threshold:.4g} → {new.threshold:.4g} "
        f"({new.threshold / old.threshold - 1:+.1%}), from {len(old.scores)} → {counted(new)}, "
        f"bound {old.false_reject_bound:.1%} → {new.false_reject_bound:.1%}"
    )
    if set(old.scores) & set(new.scores):  # the same frames once more are no second sample
        return text
    found = compare({view: one_a_part(new.scores, new.parts)}, {view: one_a_part(old.scores, old.parts)})
    if found is None or not found.refuted:
        return text
    return f"{text}; good frames no longer score as they did (p = {found.p:.2g})"


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
