"""What `edge evaluate` says of the calibration's promise: whether it is kept, and whether it can be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from edge.evaluation_figures import Outcome
from edge.judge.calibration import Calibration
from edge.judge.exchangeability import compare, one_a_part
from edge.judge.promise import promise_interval


def exchangeability(outcomes: Sequence[Outcome], calibration: Calibration) -> dict[str, Any] | None:
    """Scores of the good frames against those of calibration, view by view, one frame a part.

    Frames that were learned from are left out. None where no view has two of each.
    """
    new: dict[str, dict[str, float]] = defaultdict(dict)
    for outcome in outcomes:
        if not outcome.is_defect and not outcome.was_learned_from and outcome.raw is not None:
            new[outcome.view].setdefault(outcome.group, outcome.raw)
    known = {view: one_a_part(limits.scores, limits.parts) for view, limits in calibration.views.items()}
    found = compare({view: list(scores.values()) for view, scores in new.items()}, known)
    if found is None:
        return None
    document: dict[str, Any] = {
        "p": found.p,
        "frames": found.frames,
        "calibration_frames": sum(len(known[view]) for view in found.views),
        "exchangeable": not found.refuted,
        "views": dict(found.views),
    }
    if found.refuted:
        document["warning"] = (
            f"good frames of view {found.worst} do not score as those of calibration did (p = {found.p:.2g}, "
            f"{found.frames} frames): the promised false-reject rate does not hold for them; find what "
            "changed, or calibrate again with frames such as these"
        )
    return document


def promises(outcomes: Sequence[Outcome], calibration: Calibration) -> dict[str, Any] | None:
    """The false-reject rates that were promised, and those measured on good frames not learned from.

    Of frames, the promise is the mean of their views' bounds; of parts, that of the calibration where there
    is one, and only parts with all its views are counted. Where nothing is proved it is the estimate. None
    without a good frame of a calibrated view.
    """
    good = [
        outcome
        for outcome in outcomes
        if not outcome.is_defect and not outcome.was_learned_from and outcome.view in calibration.views
    ]
    if not good:
        return None
    views = {
        view: _promised(limits.false_reject_bound, limits.false_reject_estimate)
        for view, limits in calibration.views.items()
    }
    bounds = [views[outcome.view] for outcome in good]
    rejected = [outcome.evaluation == "NotOK" for outcome in good]
    document = {"frame": _held(rejected, sum(bounds) / len(bounds))}
    part = calibration.part
    if part is not None:
        parts: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in good:
            parts[outcome.group].append(outcome)
        whole = [
            members for members in parts.values() if {o.view for o in members} >= calibration.views.keys()
        ]
        if whole:
            lost = [any(o.evaluation == "NotOK" for o in members) for members in whole]
            document["part"] = _held(lost, _promised(part.bound, part.estimate))
    return document


def _promised(bound: float, estimate: float | None) -> float:
    return estimate if bound >= 1 and estimate is not None else bound


def _held(rejected: Sequence[bool], promised: float) -> dict[str, Any]:
    interval = promise_interval(sum(rejected), len(rejected), promised)
    return {
        "promised": promised,
        "measured": sum(rejected) / len(rejected),
        "count": len(rejected),
        "interval": [interval.low, interval.high],
        "kept": interval.kept,
    }
