"""What a replay compares and counts: old verdict beside new, frame by frame, without pictures of all."""

from __future__ import annotations

import heapq
import random
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

from edge.replay.stored import Held
from edge.types import DEFAULT_VIEW, Evaluation

EVALUATIONS: tuple[Evaluation, ...] = ("OK", "NotOK", "NotDecidable")
MOST_LISTED = 1000  # flips and gone frames in the document; frames.jsonl has all
MOST_SHOWN = 12  # with pictures, of each kind of flip
MOST_DOTS = 1500  # of unchanged frames in the chart, chosen by chance; as many of the flips
CHOSEN_BY = 7  # seed of that choice


@dataclass(frozen=True, slots=True)
class Said:
    """What a recipe says of a frame."""

    evaluation: Evaluation
    score: float | None  # 1.0 is the view's threshold
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Said:
        return cls(payload["resultEvaluation"], payload["score"], tuple(payload["reasons"]))

    def document(self) -> dict[str, Any]:
        return {"evaluation": self.evaluation, "score": self.score, "reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class Compared:
    """A frame with what is said of it before and now."""

    path: str
    page: int
    view: str | None
    batch: str | None
    part: str | None
    result_id: str | None  # of the stored verdict
    old: Said
    new: Said
    review: Evaluation | None  # what a person said last

    @property
    def is_flip(self) -> bool:
        return self.old.evaluation != self.new.evaluation

    @property
    def passes_a_defect(self) -> bool:
        """A person confirmed a defect, and the candidate would let it pass."""
        return self.review == "NotOK" and self.new.evaluation == "OK"

    @property
    def change(self) -> float:
        """How far the score moves, in thresholds; 0 where one of them has none."""
        if self.old.score is None or self.new.score is None:
            return 0.0
        return abs(self.new.score - self.old.score)

    def document(self) -> dict[str, Any]:
        return {
            "resultId": self.result_id,
            "path": self.path,
            "page": self.page,
            "view": self.view,
            "batchId": self.batch,
            "partId": self.part,
            "old": self.old.document(),
            "new": self.new.document(),
            "review": self.review,
        }


@dataclass(slots=True)
class Shown:
    """A flip that the report shows, its pictures as data: URLs."""

    compared: Compared
    item: Held  # where its frame can be had again
    old_picture: str  # empty: not to be had so far
    new_picture: str


Matrix = dict[Evaluation, Counter[Evaluation]]


def _matrix() -> Matrix:
    return {evaluation: Counter() for evaluation in EVALUATIONS}


@dataclass(slots=True)
class View:
    """What is counted of one view."""

    matrix: Matrix = field(default_factory=_matrix)
    old: array[float] = field(default_factory=lambda: array("f"))
    new: array[float] = field(default_factory=lambda: array("f"))

    def add(self, one: Compared) -> None:
        self.matrix[one.old.evaluation][one.new.evaluation] += 1
        for scores, said in ((self.old, one.old), (self.new, one.new)):
            if said.score is not None:
                scores.append(said.score)


class Reservoir:
    """At most `most` of many things, each with the same chance (Vitter 1985, algorithm R)."""

    def __init__(self, most: int) -> None:
        self.kept: list[tuple[float, float]] = []
        self._most, self._seen, self._random = most, 0, random.Random(CHOSEN_BY)

    @property
    def is_full(self) -> bool:
        """Whether some were left out."""
        return self._seen > self._most

    def add(self, point: tuple[float, float]) -> None:
        self._seen += 1
        if len(self.kept) < self._most:
            self.kept.append(point)
        elif (place := self._random.randrange(self._seen)) < self._most:
            self.kept[place] = point


class Tally:
    """Counts compared frames, and keeps the largest flips."""

    def __init__(self) -> None:
        self.frames = 0
        self.views: dict[str, View] = {}
        self.flips: list[Compared] = []  # the first MOST_LISTED
        self.flips_count = 0
        self.passing: list[Compared] = []  # confirmed defects that the candidate calls OK
        self.passing_count = 0
        self.gone: list[dict[str, Any]] = []
        self.gone_because: Counter[str] = Counter()
        self.models: Counter[tuple[str, str]] = Counter()  # (bundle, calibration) of the stored verdicts
        self.reviewed = 0
        self.right: Counter[str] = Counter()  # "old", "new": frames judged as the person did
        self.same, self.changed = Reservoir(MOST_DOTS), Reservoir(MOST_DOTS)
        self._shown: dict[tuple[Evaluation, Evaluation], list[tuple[tuple[bool, float], int, Shown]]] = {}
        self._order = count()

    def add(self, one: Compared, show: Callable[[], Shown]) -> None:
        """Count a frame; `show` makes its pictures, and is called only where they are kept for now."""
        self.frames += 1
        self.views.setdefault(one.view or DEFAULT_VIEW, View()).add(one)
        if one.review in ("OK", "NotOK"):
            self.reviewed += 1
            self.right["old"] += one.old.evaluation == one.review
            self.right["new"] += one.new.evaluation == one.review
        if one.passes_a_defect:
            self.passing_count += 1
            if len(self.passing) < MOST_LISTED:
                self.passing.append(one)
        if one.old.score is not None and one.new.score is not None:
            (self.changed if one.is_flip else self.same).add((one.old.score, one.new.score))
        if one.is_flip:
            self.flips_count += 1
            if len(self.flips) < MOST_LISTED:
                self.flips.append(one)
            self._keep(one, show)

    def add_gone(self, name: str, page: int, result_id: str | None, why: str) -> None:
        """A frame that cannot be looked at again: it is neither unchanged nor changed."""
        self.gone_because[why] += 1
        if len(self.gone) < MOST_LISTED:
            self.gone.append({"path": name, "page": page, "resultId": result_id, "why": why})

    def shown(self) -> dict[tuple[Evaluation, Evaluation], list[Shown]]:
        """Of each kind of flip those that pass a confirmed defect, then the largest changes."""
        return {
            kind: [shown for _, _, shown in sorted(kept, reverse=True, key=lambda entry: entry[:2])]
            for kind, kept in sorted(self._shown.items())
        }

    def matrix(self) -> Matrix:
        """Over all views."""
        total = _matrix()
        for view in self.views.values():
            for evaluation, counts in view.matrix.items():
                total[evaluation].update(counts)
        return total

    def _keep(self, one: Compared, show: Callable[[], Shown]) -> None:
        kept = self._shown.setdefault((one.old.evaluation, one.new.evaluation), [])
        rank = (one.passes_a_defect, one.change)
        if len(kept) < MOST_SHOWN:
            heapq.heappush(kept, (rank, next(self._order), show()))
        elif rank > kept[0][0]:
            heapq.heapreplace(kept, (rank, next(self._order), show()))


def summary(tally: Tally) -> dict[str, Any]:
    """The counts as `edge replay --json` says them."""
    matrix = tally.matrix()
    document: dict[str, Any] = {
        "frames": tally.frames,
        "flips": tally.flips_count,
        "evaluations": _plain(matrix),
        "perView": {name: _view(view) for name, view in sorted(tally.views.items())},
        "reviews": None,
        "gone": {
            "frames": tally.gone_because.total(),
            "because": dict(tally.gone_because.most_common()),
            "listed": tally.gone,
        },
        "listed": [one.document() for one in sorted(tally.flips, key=lambda one: -one.change)],
        "notListed": tally.flips_count - len(tally.flips),
    }
    if tally.reviewed:
        document["reviews"] = {
            "frames": tally.reviewed,
            "oldRight": tally.right["old"],
            "newRight": tally.right["new"],
            "confirmedDefectsThatPass": tally.passing_count,
            "passing": [one.document() for one in tally.passing],
        }
    return document


def _plain(matrix: Matrix) -> dict[str, dict[str, int]]:
    """Old evaluation → new evaluation → frames; all nine, in order."""
    return {old: {new: matrix[old][new] for new in EVALUATIONS} for old in EVALUATIONS}


def _view(view: View) -> dict[str, Any]:
    return {
        "frames": sum(counts.total() for counts in view.matrix.values()),
        "flips": sum(n for old, counts in view.matrix.items() for new, n in counts.items() if old != new),
        "evaluations": _plain(view.matrix),
        "medianScore": {"old": _median(view.old), "new": _median(view.new)},
    }


def _median(scores: Sequence[float]) -> float | None:
    return round(median(scores), 6) if scores else None
