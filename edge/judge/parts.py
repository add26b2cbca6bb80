"""Several views, one part: when it is complete, and what it is then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edge.types import Evaluation


@dataclass(frozen=True, slots=True)
class ViewResult:
    """The latest frame verdict of one view of a part."""

    view: str
    result_id: str
    evaluation: Evaluation
    score: float | None
    repeated: bool = False  # another frame of this view came in the same round, and was no worse


@dataclass(frozen=True, slots=True)
class PartJudgement:
    """What the views of a part say together."""

    evaluation: Evaluation
    reasons: tuple[str, ...]
    is_partial: bool
    missing: tuple[str, ...]


def is_complete(expected: Sequence[str], results: Mapping[str, ViewResult]) -> bool:
    """Whether every expected view has arrived."""
    return all(view in results for view in expected)


def judge_part(expected: Sequence[str], results: Mapping[str, ViewResult]) -> PartJudgement:
    """NotOK if any view is NotOK; OK only if all expected views are there and OK; else NotDecidable."""
    missing = tuple(view for view in expected if view not in results)
    evaluations = {result.evaluation for result in results.values()}
    reasons = []
    if "NotOK" in evaluations:
        reasons.append("view_not_ok")
    if "NotDecidable" in evaluations:
        reasons.append("view_not_decidable")
    if missing:
        reasons.append("views_missing")
    evaluation: Evaluation = "OK"
    if reasons:
        evaluation = "NotOK" if "NotOK" in evaluations else "NotDecidable"
    if any(result.repeated for result in results.values()):
        reasons.append("view_repeated")
    return PartJudgement(evaluation, tuple(reasons), bool(missing), missing)


def worse(first: ViewResult, second: ViewResult) -> ViewResult:
    """Of two frames of one view in one round the worse counts, so that no name collision hides a defect."""
    order: dict[Evaluation, int] = {"OK": 0, "NotDecidable": 1, "NotOK": 2}
    kept = first if order[first.evaluation] > order[second.evaluation] else second
    return replace(kept, repeated=True)


def starts_new_round(closed: bool, is_partial: bool, view: str, results: Mapping[str, ViewResult]) -> bool:
    """Whether a frame of an already judged part begins a new inspection of it.

    A view that came too late completes its part and gives a new part result; the same view again, or any
    view of a part that was complete, means that the part is being inspected anew.
    """
    return closed and (not is_partial or view in results)
