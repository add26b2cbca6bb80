"""Thresholds from the scores of good frames that were not learned from, one per view."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edge.artifacts import read_signed_json, write_signed_json
from edge.errors import BundleError, DataError
from edge.judge.cross import align
from edge.judge.odds import Odds, odds_of, probability_of
from edge.judge.part_promise import PartPromise, promise_parts
from edge.judge.ranges import brightness, contrast, distinct, extent, foreground, hull, known_hull, sharpness
from edge.judge.thresholds import (
    Threshold,
    ThresholdMethod,
    ThresholdRule,
    conformal_threshold,
    counts_parts,
    frames_needed_by,
    threshold,
)
from edge.judge.unseen import AdaptiveModel, SeenView, fit_adaptive
from edge.types import DEFAULT_VIEW

TooFew = Literal["refuse", "pool", "bound"]
UnseenViews = Literal["refuse", "adaptive"]
Basis = Literal["view", "pool", "maximum", "part", "adaptive", "recall", "f1", "pixels"]
# split: scores by the recipe's own network, of frames it never saw; cross: each by another network, that has
# not learned from the frame (`edge.judge.cross`)
Procedure = Literal["split", "cross"]

# Where a threshold has to be the largest of too few scores, it is set this far above it: the largest of n
# scores is exceeded by the next good frame with probability 1/(n+1), which for small n is far too often.
SMALL_SAMPLE_FACTOR = 1.25
SMALL_SAMPLE_ODDS = 2.0  # of probabilities, whose odds are raised instead: 1.25 × 0.9 would be none any more


class ViewCalibration(BaseModel):
    """What a view's good frames looked like to the engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float = Field(gt=0)  # of the raw score
    pixel_threshold: float = Field(gt=0)  # of the score map: good frames stay below it all over
    basis: Basis  # whose scores it rests on; "adaptive": other views', by regression
    method: ThresholdMethod = "conformal"  # what drew it from them, unless the basis is "maximum"
    # at most this share of good frames is rejected, whatever their distribution; 1: nothing is promised
    false_reject_bound: float = Field(ge=0, le=1)
    false_reject_estimate: float | None = None  # about this share, where the method's assumption holds
    scores: tuple[float, ...]  # raw, of the view's calibration frames; none of a view never seen
    plane_mean: tuple[float, float]  # range over good frames, widened; outside it no frame is called OK
    plane_std: tuple[float, float]
    height_px: tuple[float, float] | None = None  # of the plane, widened likewise; None: not looked at
    width_px: tuple[float, float] | None = None
    foreground_ratio: tuple[float, float] | None = None  # share of the plane, widened; None: not looked at
    channels: tuple[int, ...] | None = None  # 1: grey, 3: colour; those of good frames; None: not looked at
    sharpness: tuple[float, float] | None = None  # range, widened; None: not looked at
    parts: tuple[int, ...] | None = None  # whose each score is, by number; None: each of another part
    # raw, of frames that people called good: they may have raised the threshold, and prove nothing
    reviewed: tuple[float, ...] = ()
    unreviewed_threshold: float | None = None  # that of `scores` alone, where `reviewed` has any
    review_threshold: float | None = None  # above it a frame that is OK is for review; None: no band

    @property
    def parts_count(self) -> int:
        """How many parts the scores are of."""
        return len(self.scores) if self.parts is None else len(set(self.parts))


class Recall(BaseModel):
    """What a supervised recipe's threshold was chosen for, on defect frames that were not learned from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    demanded: float
    measured: float
    lower_bound: float  # one-sided, at `confidence`
    confidence: float
    defects: int
    defects_needed: int | None  # to prove the demanded recall; None: no number does
    precision: float


class Calibration(BaseModel):
    """`calibration/NAME.json`, bound to its bundle's digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal["edge/calibration/1"] = Field("edge/calibration/1", alias="schema")
    recipe: str
    bundle_sha256: str
    created: str
    statistic: str
    false_reject: float  # what was asked for, per frame
    views: dict[str, ViewCalibration]
    global_threshold: float  # one threshold over all views' raw scores, kept for comparison only
    adaptive: AdaptiveModel | None = None  # thresholds of views never seen, where that was asked for
    recall: Recall | None = None  # of supervised recipes, where one was demanded
    part: PartPromise | None = None  # what is promised of whole parts, where that was demanded
    review_rate: float | None = None  # share of good frames above the review thresholds, and below the others
    procedure: Procedure = "split"
    folds: int | None = None  # of procedure cross: the networks that scored the frames
    folds_aligned: bool = False  # whether their scores were brought to one scale
    bounded: bool = False  # scores are probabilities: factors and regressions are over their odds
    digest: str = ""

    def of(self, view: str | None) -> ViewCalibration | None:
        """The calibration of a view, or None where that view was never calibrated."""
        return self.views.get(view or DEFAULT_VIEW)

    def estimate(self, view: str | None, foreground_ratio: float = 1.0) -> ViewCalibration | None:
        """What a view that was never calibrated is held to: its threshold by regression over the others, and
        their limits taken together. None unless that was asked for and the model can say something.

        A verdict by it carries the reason `threshold_estimated`.
        """
        raw = self.adaptive.threshold(view or DEFAULT_VIEW, foreground_ratio) if self.adaptive else None
        if raw is None:
            return None
        seen = list(self.views.values())
        to, back = (odds_of, probability_of) if self.bounded else (_same, _same)
        pixel = float(np.median([to(limits.pixel_threshold) / to(limits.threshold) for limits in seen]))
        return ViewCalibration(
            threshold=_positive(back(raw)),
            pixel_threshold=_positive(back(raw * pixel)),
            basis="adaptive",
            method=seen[0].method,
            false_reject_bound=1.0,
            scores=(),
            plane_mean=hull([limits.plane_mean for limits in seen]),
            plane_std=hull([limits.plane_std for limits in seen]),
            height_px=known_hull([limits.height_px for limits in seen]),
            width_px=known_hull([limits.width_px for limits in seen]),
            foreground_ratio=known_hull([limits.foreground_ratio for limits in seen]),
            sharpness=known_hull([limits.sharpness for limits in seen]),
            channels=distinct([n for limits in seen for n in limits.channels or (None,)]),
        )


@dataclass(frozen=True, slots=True)
class GoodFrame:
    """What calibration keeps of one good frame."""

    view: str
    raw: float
    map_max: float  # the highest value of its score map
    plane_mean: float
    plane_std: float
    height_px: int
    width_px: int
    foreground_ratio: float = 1.0  # share of the plane that is foreground
    group: str | None = None  # its batch or part, where known
    part: str | None = None  # what it is not independent of; None: it stands alone
    fold: int | None = None  # whose network scored it, where that is not the recipe's own
    channels: int | None = None  # of the frame as stored; None: not known
    sharpness: float | None = None  # None: too small or too flat to say


def calibrate(
    good: Sequence[GoodFrame],
    *,
    recipe: str,
    bundle_sha256: str,
    statistic: str,
    false_reject: float,
    too_few: TooFew,
    method: ThresholdMethod = "conformal",
    k: float | None = None,
    quantile: float | None = None,
    unseen_views: UnseenViews = "refuse",
    view_cycle: float | None = None,
    false_reject_part: float | None = None,
    review_band: float | None = None,
    bounded: bool = False,
    now: datetime | None = None,
) -> Calibration:
    """Thresholds per view from good frames that were not learned from.

    `method`, `k` and `quantile` are those of `ThresholdRule`; `view_cycle` that of `fit_adaptive`;
    `false_reject_part` the rate of `promise_parts`, whose thresholds then hold (but never below those of
    `false_reject` where that is the smaller rate); `review_band` a larger rate than `false_reject`, whose
    thresholds begin the band. Frames with a fold are calibrated by `edge.judge.cross`. `bounded` scores are
    probabilities: all is done with their odds (`edge.judge.odds`), and thresholds are probabilities again.

    Raises:
        DataError: no frames, scores that are not finite, (`too_few="refuse"`) too few frames for a view, no
            part with all views though a rate per part is demanded, frames with a fold and others, or
            (`unseen_views="adaptive"`) too few views.
    """
    rule = ThresholdRule(method, false_reject, k, quantile)
    if not good:
        raise DataError(
            "no good frames to calibrate with", hint="give good frames that were not learned from"
        )
    if not all(math.isfinite(frame.raw) and frame.raw >= 0 for frame in good):
        raise DataError("a good frame has a score that is not finite", reason="score_not_finite")
    odds = Odds(value for frame in good for value in (frame.raw, frame.map_max)) if bounded else None
    if odds is not None:
        good = [replace(f, raw=odds_of(f.raw), map_max=odds_of(f.map_max)) for f in good]
    factor = SMALL_SAMPLE_FACTOR if odds is None else SMALL_SAMPLE_ODDS
    good, folds, aligned = _one_scale(good)
    by_view: dict[str, list[GoodFrame]] = {}
    for frame in good:
        by_view.setdefault(frame.view, []).append(frame)
    counts = {view: _counted(frames, rule) for view, frames in by_view.items()}
    check_enough(counts, false_reject, too_few, rule)
    medians = {view: _centre([f.raw for f in frames]) for view, frames in by_view.items()}
    pool = [replace(frame, raw=frame.raw / medians[frame.view]) for frame in good]
    views = {
        view: _calibrate_view(frames, medians[view], pool, rule, too_few, factor)
        for view, frames in sorted(by_view.items())
    }
    part = None
    if false_reject_part is not None:
        highest = _highest_of_parts(good)
        part = promise_parts(highest, list(views), false_reject_part, refuse=too_few == "refuse")
        views = {view: _held_to_part(view, limits, part, rule) for view, limits in views.items()}
    if review_band is not None:
        views = {view: _with_review(limits, by_view[view], review_band) for view, limits in views.items()}
    if folds is not None:
        views = {view: limits.model_copy(update=_unproved(limits)) for view, limits in views.items()}
        part = part and part.model_copy(update={"bound": 1.0, "estimate": _estimate_of(part)})
    raw = [frame.raw for frame in good]
    made = Calibration(
        recipe=recipe,
        bundle_sha256=bundle_sha256,
        created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        statistic=statistic,
        false_reject=false_reject,
        views=views,
        global_threshold=_positive(conformal_threshold(raw, false_reject) or max(raw) * factor),
        adaptive=_adaptive(by_view, views, view_cycle) if unseen_views == "adaptive" else None,
        part=part,
        review_rate=review_band,
        procedure="split" if folds is None else "cross",
        folds=folds,
        folds_aligned=aligned,
        bounded=bounded,
    )
    return made if odds is None else _in_probabilities(made, odds)


def check_enough(
    counts: Mapping[str, int], false_reject: float, too_few: TooFew, rule: ThresholdRule | None = None
) -> None:
    """Say how many frames each view needs, and refuse where the caller wants that; without a rule: conformal.

    Raises:
        DataError: `too_few` is "refuse" and a view has fewer calibration frames than needed.
    """
    rule = rule or ThresholdRule("conformal", false_reject)
    needed = frames_needed_by(rule)
    short = {view: count for view, count in counts.items() if count < needed}
    if short and too_few == "refuse":
        listed = ", ".join(f"view {view}: {count}" for view, count in sorted(short.items()))
        by = "" if rule.method == "conformal" else f" by {rule.method}"
        raise DataError(
            f"a threshold{by} that rejects at most {rule.estimate:.1%} of good frames needs {needed} good "
            f"calibration frames per view; there are {listed}",
            hint="give more good frames, allow a higher --false-reject, or let views share their scores "
            "with --too-few pool (or take what can be had with --too-few bound)"
            + ("; frames of one part count once" if counts_parts(rule) else ""),
            reason="too_few_frames",
        )


def _calibrate_view(
    frames: Sequence[GoodFrame],
    median: float,
    pool: Sequence[GoodFrame],
    rule: ThresholdRule,
    too_few: TooFew,
    factor: float,
) -> ViewCalibration:
    scores = [frame.raw for frame in frames]
    groups, parts = [frame.group for frame in frames], [frame.part for frame in frames]
    alone = 1 / (len(_numbers(parts)) + 1)  # what the largest score bounds
    basis: Basis = "view"
    found = threshold(scores, rule, groups, parts)
    if found is None and too_few == "pool":
        pooled = threshold([f.raw for f in pool], rule, [f.group for f in pool], [_cell(f) for f in pool])
        if pooled is not None:
            value = max(pooled.value * median, max(scores))
            hoped = pooled.bound if pooled.estimate is None else pooled.estimate
            basis, found = "pool", Threshold(value, alone, hoped)
    if found is None and too_few == "refuse":
        raise DataError(
            f"view {frames[0].view}: too many equal scores for a threshold by {rule.method}",
            hint="give other good frames, or take another --threshold",
            reason="scores_equal",
        )
    if found is None:
        basis, found = "maximum", Threshold(max(scores) * factor, alone)
    maxima = [frame.map_max for frame in frames]
    pixel = threshold(maxima, rule, groups, parts)
    return ViewCalibration(
        threshold=_positive(found.value),
        pixel_threshold=_positive(pixel.value if pixel else max(maxima) * factor),
        basis=basis,
        method=rule.method,
        false_reject_bound=found.bound,
        false_reject_estimate=found.estimate,
        scores=tuple(scores),
        plane_mean=brightness([frame.plane_mean for frame in frames]),
        plane_std=contrast([frame.plane_std for frame in frames]),
        height_px=extent([frame.height_px for frame in frames]),
        width_px=extent([frame.width_px for frame in frames]),
        foreground_ratio=foreground([frame.foreground_ratio for frame in frames]),
        channels=distinct([frame.channels for frame in frames]),
        sharpness=sharpness([frame.sharpness for frame in frames]),
        parts=owners(parts),
    )


def _one_scale(good: Sequence[GoodFrame]) -> tuple[Sequence[GoodFrame], int | None, bool]:
    """Frames scored by the networks of folds on one scale, how many networks, and whether that took a change.

    Raises:
        DataError: only some frames have a fold.
    """
    folds = [frame.fold for frame in good if frame.fold is not None]
    if not folds:
        return good, None, False
    if len(folds) < len(good):
        raise DataError(
            f"{len(good) - len(folds)} of {len(good)} frames have no fold",
            hint="score all frames by the networks of folds, or none",
        )
    parts = [frame.part or f"frame {number}" for number, frame in enumerate(good)]
    found = align([f.raw for f in good], [f.view for f in good], folds, parts)
    scaled = [
        replace(frame, raw=frame.raw * found.factors[fold], map_max=frame.map_max * found.factors[fold])
        for frame, fold in zip(good, folds, strict=True)
    ]
    return scaled, len(found.factors), found.changed


def _counted(frames: Sequence[GoodFrame], rule: ThresholdRule) -> int:
    """What the rule needs enough of: parts, or frames."""
    return len(_numbers([frame.part for frame in frames])) if counts_parts(rule) else len(frames)


def _numbers(parts: Sequence[str | None]) -> dict[str | int, int]:
    """Parts by name, numbered in their order; a frame without one is a part of its own."""
    names = dict.fromkeys(at if part is None else part for at, part in enumerate(parts))
    return {name: number for number, name in enumerate(names)}


def owners(parts: Sequence[str | None]) -> tuple[int, ...] | None:
    """The number of each frame's part; None where no part has two frames."""
    numbers = _numbers(parts)
    if len(numbers) == len(parts):
        return None
    return tuple(numbers[at if part is None else part] for at, part in enumerate(parts))


def _cell(frame: GoodFrame) -> str | None:
    """A part in a view: what counts as one where views are pooled."""
    return None if frame.part is None else f"{frame.view}\n{frame.part}"


def _highest_of_parts(good: Sequence[GoodFrame]) -> dict[str, dict[str, float]]:
    """part → view → the highest raw score of its frames; frames without a part are parts of one view."""
    parts: dict[str, dict[str, float]] = {}
    for number, frame in enumerate(good):
        views = parts.setdefault(f"\n{number}" if frame.part is None else frame.part, {})
        views[frame.view] = max(frame.raw, views.get(frame.view, 0.0))
    return parts


def _held_to_part(
    view: str, limits: ViewCalibration, part: PartPromise, rule: ThresholdRule
) -> ViewCalibration:
    """A view's threshold by the promise of whole parts: who rejects no part rejects none of its frames."""
    value, bound = part.threshold(view), part.bound
    if part.demanded > rule.false_reject:  # then a frame is promised more than a part is
        if value < limits.threshold:
            return limits
        bound = min(bound, limits.false_reject_bound)
    return limits.model_copy(
        update={
            "threshold": _positive(value),
            "basis": "part",
            "false_reject_bound": bound,
            "false_reject_estimate": part.estimate,
        }
    )


def _with_review(limits: ViewCalibration, frames: Sequence[GoodFrame], rate: float) -> ViewCalibration:
    """The band below the threshold; none where the frames are too few for its rate."""
    found = threshold(
        [f.raw for f in frames], ThresholdRule("conformal", rate), parts=[f.part for f in frames]
    )
    if found is None or not 0 < found.value < limits.threshold:
        return limits
    return limits.model_copy(update={"review_threshold": found.value})


def _unproved(limits: ViewCalibration) -> dict[str, float]:
    """What is left of a promise where the scores are not the recipe's own network's."""
    estimate = limits.false_reject_estimate
    if estimate is None:
        estimate = limits.false_reject_bound
    return {"false_reject_bound": 1.0, "false_reject_estimate": estimate}


def _estimate_of(part: PartPromise) -> float:
    return part.bound if part.estimate is None else part.estimate


def beyond(scores: Sequence[float], *, bounded: bool) -> float:
    """What is set above the highest of too few scores; of probabilities another probability."""
    highest = max(scores)
    if not bounded:
        return highest * SMALL_SAMPLE_FACTOR
    return Odds([highest]).back(odds_of(highest) * SMALL_SAMPLE_ODDS)


def _in_probabilities(made: Calibration, odds: Odds) -> Calibration:
    """Thresholds and scores that are odds as probabilities; what is over odds on purpose stays so."""

    def of_view(limits: ViewCalibration) -> ViewCalibration:
        review = limits.review_threshold
        return limits.model_copy(
            update={
                "threshold": odds.back(limits.threshold),
                "pixel_threshold": odds.back(limits.pixel_threshold),
                "review_threshold": None if review is None else odds.back(review),
                "scores": tuple(odds.back(score) for score in limits.scores),
            }
        )

    views = {view: of_view(limits) for view, limits in made.views.items()}
    return made.model_copy(update={"views": views, "global_threshold": odds.back(made.global_threshold)})


def _same(value: float) -> float:
    return value


def _adaptive(
    by_view: Mapping[str, Sequence[GoodFrame]], views: Mapping[str, ViewCalibration], cycle: float | None
) -> AdaptiveModel:
    seen = [
        SeenView(name, limits.threshold, float(np.median([f.foreground_ratio for f in by_view[name]])))
        for name, limits in views.items()
    ]
    return fit_adaptive(seen, cycle)


def _centre(scores: Sequence[float]) -> float:
    return _positive(float(np.median(scores)))


def _positive(value: float) -> float:
    return max(value, 1e-12)


def drift_ratio(recent: Iterable[float], limits: ViewCalibration) -> float:
    """Median of recent normalised scores over the median of the calibration's: 1 while nothing drifts."""
    usual = float(np.median(limits.scores)) / limits.threshold
    return float(np.median(list(recent))) / _positive(usual)


def save_calibration(path: Path, calibration: Calibration) -> Calibration:
    """Write it with its digest; gives back what a later load will see."""
    write_signed_json(path, calibration)
    return read_signed_json(path, Calibration)


def load_calibration(path: Path, bundle_sha256: str) -> Calibration:
    """Read a calibration and hold it to its bundle.

    Raises:
        BundleError: damaged, or made for another bundle.
    """
    calibration = read_signed_json(path, Calibration)
    if calibration.bundle_sha256 != bundle_sha256:
        raise BundleError(
            f"{path}: made for bundle {calibration.bundle_sha256[:12]}, not for {bundle_sha256[:12]}",
            hint="run `edge calibrate` for this bundle, or copy the calibration that belongs to it",
        )
    return calibration
