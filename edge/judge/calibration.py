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
from edge.judge.thresholds import (
    Threshold,
    ThresholdMethod,
    ThresholdRule,
    conformal_threshold,
    frames_needed_by,
    threshold,
)
from edge.judge.unseen import AdaptiveModel, SeenView, fit_adaptive
from edge.types import DEFAULT_VIEW

TooFew = Literal["refuse", "pool", "bound"]
UnseenViews = Literal["refuse", "adaptive"]
Basis = Literal["view", "pool", "maximum", "adaptive", "recall", "f1", "pixels"]

# Where a threshold has to be the largest of too few scores, it is set this far above it: the largest of n
# scores is exceeded by the next good frame with probability 1/(n+1), which for small n is far too often.
SMALL_SAMPLE_FACTOR = 1.25

SIZE_FACTOR = 1.5


class ViewCalibration(BaseModel):
    """What a view's good frames looked like to the engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        pixel = float(np.median([limits.pixel_threshold / limits.threshold for limits in seen]))
        return ViewCalibration(
            threshold=_positive(raw),
            pixel_threshold=_positive(raw * pixel),
            basis="adaptive",
            method=seen[0].method,
            false_reject_bound=1.0,
            scores=(),
            plane_mean=_hull([limits.plane_mean for limits in seen]),
            plane_std=_hull([limits.plane_std for limits in seen]),
            height_px=_known_hull([limits.height_px for limits in seen]),
            width_px=_known_hull([limits.width_px for limits in seen]),
            foreground_ratio=_known_hull([limits.foreground_ratio for limits in seen]),
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
    now: datetime | None = None,
) -> Calibration:
    """Thresholds per view from good frames that were not learned from.

    `method`, `k` and `quantile` are those of `ThresholdRule`; `view_cycle` that of `fit_adaptive`.

    Raises:
        DataError: no frames, scores that are not finite, (`too_few="refuse"`) too few frames for a view, or
            (`unseen_views="adaptive"`) too few views.
    """
    rule = ThresholdRule(method, false_reject, k, quantile)
    if not good:
        raise DataError(
            "no good frames to calibrate with", hint="give good frames that were not learned from"
        )
    if not all(math.isfinite(frame.raw) and frame.raw >= 0 for frame in good):
        raise DataError("a good frame has a score that is not finite", reason="score_not_finite")
    by_view: dict[str, list[GoodFrame]] = {}
    for frame in good:
        by_view.setdefault(frame.view, []).append(frame)
    check_enough({view: len(frames) for view, frames in by_view.items()}, false_reject, too_few, rule)
    medians = {view: _centre([f.raw for f in frames]) for view, frames in by_view.items()}
    pool = [replace(frame, raw=frame.raw / medians[frame.view]) for frame in good]
    views = {
        view: _calibrate_view(frames, medians[view], pool, rule, too_few)
        for view, frames in sorted(by_view.items())
    }
    raw = [frame.raw for frame in good]
    return Calibration(
        recipe=recipe,
        bundle_sha256=bundle_sha256,
        created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        statistic=statistic,
        false_reject=false_reject,
        views=views,
        global_threshold=_positive(conformal_threshold(raw, false_reject) or max(raw) * SMALL_SAMPLE_FACTOR),
        adaptive=_adaptive(by_view, views, view_cycle) if unseen_views == "adaptive" else None,
    )


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
            "with --too-few pool (or take what can be had with --too-few bound)",
            reason="too_few_frames",
        )


def _calibrate_view(
    frames: Sequence[GoodFrame],
    median: float,
    pool: Sequence[GoodFrame],
    rule: ThresholdRule,
    too_few: TooFew,
) -> ViewCalibration:
    scores = [frame.raw for frame in frames]
    groups = [frame.group for frame in frames]
    basis: Basis = "view"
    found = threshold(scores, rule, groups)
    if found is None and too_few == "pool":
        pooled = threshold([frame.raw for frame in pool], rule, [frame.group for frame in pool])
        if pooled is not None:
            basis, found = "pool", replace(pooled, value=max(pooled.value * median, max(scores)))
    if found is None and too_few == "refuse":
        raise DataError(
            f"view {frames[0].view}: too many equal scores for a threshold by {rule.method}",
            hint="give other good frames, or take another --threshold",
            reason="scores_equal",
        )
    if found is None:
        basis, found = "maximum", Threshold(max(scores) * SMALL_SAMPLE_FACTOR, 1 / (len(scores) + 1))
    maxima = [frame.map_max for frame in frames]
    pixel = threshold(maxima, rule, groups)
    return ViewCalibration(
        threshold=_positive(found.value),
        pixel_threshold=_positive(pixel.value if pixel else max(maxima) * SMALL_SAMPLE_FACTOR),
        basis=basis,
        method=rule.method,
        false_reject_bound=found.bound,
        false_reject_estimate=found.estimate,
        scores=tuple(scores),
        plane_mean=_brightness([frame.plane_mean for frame in frames]),
        plane_std=_contrast([frame.plane_std for frame in frames]),
        height_px=_extent([frame.height_px for frame in frames]),
        width_px=_extent([frame.width_px for frame in frames]),
        foreground_ratio=_foreground([frame.foreground_ratio for frame in frames]),
    )


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


def _brightness(means: Sequence[float]) -> tuple[float, float]:
    """Where a plane's mean may lie: the range of good frames, widened by at least a tenth of the scale."""
    low, high = min(means), max(means)
    margin = max(0.1, (high - low) / 2, (high + low) / 8)
    return max(0.0, low - margin), min(1.0, high + margin)


def _contrast(stds: Sequence[float]) -> tuple[float, float]:
    """Where a plane's standard deviation may lie: half the smallest to twice the largest of good ones."""
    return min(stds) / 2, max(stds) * 2


def _extent(sides_px: Sequence[int]) -> tuple[float, float]:
    """What a plane's side may measure: half as much again beyond good frames, either way."""
    return min(sides_px) / SIZE_FACTOR, max(sides_px) * SIZE_FACTOR


def _foreground(ratios: Sequence[float]) -> tuple[float, float]:
    """Which share of a plane may be foreground: the range of good frames, widened by a quarter at least."""
    low, high = min(ratios), max(ratios)
    half = (high - low) / 2
    return max(0.0, low - max(half, low / 4)), min(1.0, high + max(half, high / 4))


def _hull(ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _known_hull(ranges: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [limits for limits in ranges if limits is not None]
    return _hull(known) if known else None


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
