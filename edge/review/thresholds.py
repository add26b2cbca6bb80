"""What people's reviews would change in a recipe's thresholds: proposed, shown, and only then accepted.

Frames that people called good although they were rejected join the scores of their view, and the threshold of
the same rate is drawn again. They are no random good frames: they were looked at *because* they scored above
the threshold. So they take their place among all frames that the engine judged: those that passed count as
good frames below the threshold. One overruled frame in ten thousand says that the promise is kept, and moves
nothing; one in ten, that it is not. Their number proves nothing about the next good frame.

What is proved stays proved all the same: no threshold falls below the one drawn without reviews, and what
does not exceed that one exceeds none above it. So the bound of the calibration's own frames is kept as it
is, and no better one is claimed. The reviewed scores are written beside the others, not among them, as drift
is measured against frames that nobody chose.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge import app
from edge.calibrate import learned_id
from edge.config import Settings
from edge.errors import DataError, MissingInputError
from edge.infer.bundle import Bundle
from edge.judge.calibration import Calibration, ViewCalibration, beyond
from edge.judge.thresholds import ThresholdRule, threshold
from edge.recipes import calibration_of, load_engine
from edge.record.reviews_reader import Queued, Reviewed, ReviewReader
from edge.types import DEFAULT_VIEW

DAY_S = 86400.0
DAYS = 30
MOST_LISTED = 200
SUPERVISED = ("recall", "f1", "pixels")  # one threshold for all views, chosen with defects
STATEMENT = (
    "The bound of each view is the one that its calibration frames prove: no threshold falls below theirs, "
    "so it still holds for good frames like those. Reviewed frames were looked at because of their scores: "
    "beside the frames that passed, which count as good, they raise a threshold where more good frames were "
    "rejected than was asked for, and prove no smaller rate. What is no longer NotOK is OK, or NotDecidable "
    "where its picture is unlike those of calibration."
)


@dataclass(frozen=True, slots=True)
class Told:
    """A reviewed frame as the recipe's current engine scores it."""

    item: Reviewed
    view: str
    raw: float | None  # None: it cannot be scored

    @property
    def part(self) -> str:
        """What it is not independent of."""
        said = self.item.payload
        return f"{said['batchId']}/{said['partId']}" if said.get("partId") else str(said["image"]["sha256"])

    @property
    def is_good(self) -> bool:
        return self.item.review.evaluation == "OK"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A calibration that could replace the one in use, and what it would change."""

    before: Calibration
    after: Calibration
    told: tuple[Told, ...]
    document: Mapping[str, Any]

    @property
    def changes(self) -> bool:
        """Whether any threshold is another one."""
        old, new = self.before.views, self.after.views
        return any(new[view].threshold != limits.threshold for view, limits in old.items())

    @property
    def escapes(self) -> Sequence[Mapping[str, Any]]:
        """Defects that people confirmed, are rejected, and would pass."""
        found: Sequence[Mapping[str, Any]] = self.document["escapes"]
        return found


Rescore = Callable[[Bundle, Sequence[Reviewed]], Mapping[str, float]]


def propose(
    settings: Settings,
    recipe: str,
    *,
    days: float = DAYS,
    rescore: Rescore = lambda bundle, items: {},
    now_unix_s: float | None = None,
) -> Proposal:
    """Thresholds with reviewed frames, and which stored verdicts of the last days would be others.

    `rescore` gives the raw scores, by result id, of frames that another engine has judged.

    Raises:
        MissingInputError: there is no calibration, database, or review of a frame of the recipe.
        DataError: a supervised recipe, whose threshold is not drawn from good frames alone.
    """
    bundle = load_engine(settings, recipe)
    before = calibration_of(settings, recipe, bundle)
    if before is None:
        raise MissingInputError(f"recipe {recipe}: no calibration yet", hint="run edge calibrate first")
    _check_kind(recipe, before)
    reader = ReviewReader(settings.paths.state / app.DATABASE)
    try:
        items = _once(reader.reviewed(Queued(recipe)))
        told = _told(items, bundle, before, rescore)
        if not told:
            raise MissingInputError(
                f"no frame of recipe {recipe} has a review that says OK or NotOK",
                hint="review some: edge review",
            )
        passed = {view or DEFAULT_VIEW: n for view, n in reader.passed(recipe, bundle.digest).items()}
        views = {
            name: _with(name, old, before, told, passed.get(name, 0)) for name, old in before.views.items()
        }
        after = before.model_copy(update={"views": views})
        since = (time.time() if now_unix_s is None else now_unix_s) - days * DAY_S
        recent = Queued(recipe, since_unix_s=since)
        document = _document(before, after, told, bundle, reader, recent, days, passed)
    finally:
        reader.close()
    return Proposal(before, after, told, document)


def _check_kind(recipe: str, before: Calibration) -> None:
    if any(limits.basis in SUPERVISED for limits in before.views.values()):
        raise DataError(
            f"recipe {recipe} has one threshold for all views, chosen with labelled frames",
            hint="export the reviewed frames (edge review --export reviewed.csv) and run edge calibrate with "
            "a manifest of all labelled frames",
            reason="supervised",
        )


def _once(items: Sequence[Reviewed]) -> list[Reviewed]:
    """A frame that was judged several times counts once: by its latest verdict."""
    last: dict[tuple[Any, ...], Reviewed] = {}
    for item in items:
        image = item.payload.get("image") or {}
        if item.review.evaluation != "NotDecidable" and image.get("sha256"):
            last[image["sha256"], image.get("page", 0), item.payload["view"]] = item
    return list(last.values())


def _told(
    items: Sequence[Reviewed], bundle: Bundle, before: Calibration, rescore: Rescore
) -> tuple[Told, ...]:
    """Scores from stored verdicts where this engine made them; the files of others are scored anew."""
    own = {one.review.result_id: one.payload.get("scoreRaw") for one in items if _by(one.payload, bundle)}
    scores = {**rescore(bundle, [one for one in items if one.review.result_id not in own]), **own}
    known = frozenset(bundle.manifest.training.get("learned_from", ()))
    found = []
    for one in items:
        raw = scores.get(one.review.result_id)
        usable = raw is not None and math.isfinite(raw) and raw >= 0
        if one.review.evaluation == "OK" and learned_id(one.payload["image"]["sha256"]) in known:
            usable = False  # a network knows what it has learned from: its score says nothing of others
        view = one.payload["view"] or DEFAULT_VIEW
        found.append(Told(one, view, raw if usable and view in before.views else None))
    return tuple(found)


def _by(payload: Mapping[str, Any], bundle: Bundle) -> bool:
    return (payload.get("model") or {}).get("sha256") == bundle.digest


def _with(
    view: str, limits: ViewCalibration, made: Calibration, told: Sequence[Told], passed: int
) -> ViewCalibration:
    """A view's limits with the good frames of its reviews: never below the threshold without any.

    `passed`: so many frames beside them were judged, and are taken to be good.
    """
    good = [(one.raw, one.part) for one in told if one.view == view and one.is_good and one.raw is not None]
    alone = limits.threshold if limits.unreviewed_threshold is None else limits.unreviewed_threshold
    if not good:  # or none any more: who called them good has taken it back
        kept = {"threshold": alone, "reviewed": (), "unreviewed_threshold": None}
        return limits.model_copy(update=kept)
    owners = limits.parts or tuple(range(len(limits.scores)))
    scores = [*limits.scores, *(raw for raw, _ in good), *([0.0] * passed)]
    parts = [*(f"\n{owner}" for owner in owners), *(part for _, part in good), *([None] * passed)]
    found = threshold(scores, ThresholdRule("conformal", made.false_reject), parts=parts)
    value = found.value if found else beyond(scores, bounded=made.bounded)
    reviewed = tuple(sorted(raw for raw, _ in good))
    raised = {"threshold": max(alone, value), "reviewed": reviewed, "unreviewed_threshold": alone}
    return limits.model_copy(update=raised)


def _document(
    before: Calibration, after: Calibration, told: Sequence[Told], bundle: Bundle, reader: ReviewReader,
    recent: Queued, days: float, passed: Mapping[str, int],
) -> dict[str, Any]:  # fmt: skip
    stored = [(said, review) for said, review in reader.rejected(recent) if _by(said, bundle)]
    frames: dict[str, int] = {}
    for view, _, count in reader.counts(recent):
        frames[view or DEFAULT_VIEW] = frames.get(view or DEFAULT_VIEW, 0) + count
    changed = [_brief(said, review) for said, review in stored if _passes(said, after)]
    defects = [one for one in told if not one.is_good and one.raw is not None]
    passing = [one for one in defects if one.raw is not None and one.raw <= after.views[one.view].threshold]
    already = [one for one in passing if one.raw is not None and one.raw <= before.views[one.view].threshold]
    missing = [one for one in told if one.raw is None]
    return {
        "recipe": before.recipe,
        "days": days,
        "bundleSha256": bundle.digest,
        "calibrationSha256": before.digest,
        "views": [
            {**_view(view, before, after, told, frames, stored), "passed": passed.get(view, 0)}
            for view in before.views
        ],
        "changedCount": len(changed),
        "changed": changed[-MOST_LISTED:],
        "escapes": [_brief(one.item.payload, "NotOK") for one in passing if one not in already],
        "alreadyPassing": [_brief(one.item.payload, "NotOK") for one in already],
        "notScored": {
            "good": sum(one.is_good for one in missing),
            "defects": sum(not one.is_good for one in missing),
        },
        "statement": STATEMENT,
    }


def _view(
    view: str, before: Calibration, after: Calibration, told: Sequence[Told], frames: Mapping[str, int],
    stored: Sequence[tuple[Mapping[str, Any], str | None]],
) -> dict[str, Any]:  # fmt: skip
    old, new = before.views[view], after.views[view]
    rejected = [(said, review) for said, review in stored if (said["view"] or DEFAULT_VIEW) == view]
    freed = [review for said, review in rejected if _passes(said, after)]
    here = [one for one in told if one.view == view and one.raw is not None]
    return {
        "view": view,
        "thresholdBefore": old.threshold,
        "thresholdAfter": new.threshold,
        "falseRejectBoundBefore": old.false_reject_bound,
        "falseRejectBound": new.false_reject_bound,
        "basis": new.basis,
        "calibrationFrames": len(old.scores),
        "reviewedGood": sum(one.is_good for one in here),
        "reviewedDefects": sum(not one.is_good for one in here),
        "frames": frames.get(view, 0),
        "notOkBefore": len(rejected),
        "notOkAfter": len(rejected) - len(freed),
        "falseRejectsGone": freed.count("OK"),
        "unreviewedChanged": freed.count(None),
    }


def _passes(said: Mapping[str, Any], after: Calibration) -> bool:
    """Whether a frame that was rejected would no longer be."""
    limits, raw = after.of(said["view"]), said.get("scoreRaw")
    return limits is not None and raw is not None and raw <= limits.threshold


def _brief(said: Mapping[str, Any], review: str | None) -> dict[str, Any]:
    return {
        "resultId": said["resultId"],
        "view": said["view"],
        "partId": said["partId"],
        "batchId": said["batchId"],
        "path": (said.get("image") or {}).get("path"),
        "scoreRaw": said.get("scoreRaw"),
        "before": said["resultEvaluation"],
        "review": review,
    }
