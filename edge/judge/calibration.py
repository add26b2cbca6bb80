"""Thresholds from the scores of good frames that were not learned from, one per view."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edge.artifacts import read_signed_json, write_signed_json
from edge.errors import BundleError, DataError
from edge.types import DEFAULT_VIEW

TooFew = Literal["refuse", "pool", "bound"]

# Where a threshold has to be the largest of too few scores, it is set this far above it: the largest of n
# scores is exceeded by the next good frame with probability 1/(n+1), which for small n is far too often.
SMALL_SAMPLE_FACTOR = 1.25

SIZE_FACTOR = 1.5


class ViewCalibration(BaseModel):
    """What a view's good frames looked like to the engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(gt=0)  # of the raw score
    pixel_threshold: float = Field(gt=0)  # of the score map: good frames stay below it all over
    basis: Literal["view", "pool", "maximum"]
    false_reject_bound: float = Field(
        ge=0, le=1
    )  # the conformal bound that the basis gives, before any factor
    scores: tuple[float, ...]  # raw, of the view's calibration frames
    plane_mean: tuple[float, float]  # range over good frames, widened; outside it no frame is called OK
    plane_std: tuple[float, float]
    height_px: tuple[float, float] | None = None  # of the plane, widened likewise; None: not looked at
    width_px: tuple[float, float] | None = None


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
    digest: str = ""

    def of(self, view: str | None) -> ViewCalibration | None:
        """The calibration of a view, or None where that view was never calibrated."""
        return self.views.get(view or DEFAULT_VIEW)

    def pixel_threshold(self, view: str | None) -> float | None:
        """The map's threshold for a view, or None where that view was never calibrated."""
        limits = self.of(view)
        return limits.pixel_threshold if limits else None


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


def frames_needed(false_reject: float) -> int:
    """How many calibration frames a split-conformal threshold for this false-reject rate needs.

    With n exchangeable scores the k-th smallest bounds the rate by 1 − k/(n+1) (Vovk et al., Algorithmic
    Learning in a Random World, 2005); k ≤ n needs n ≥ 1/rate − 1.
    """
    return math.ceil(1 / false_reject - 1 - 1e-9)


def conformal_threshold(scores: Sequence[float], false_reject: float) -> float | None:
    """The split-conformal threshold, or None if there are too few scores for that rate."""
    n = len(scores)
    rank = math.ceil((n + 1) * (1 - false_reject) - 1e-9)
    return sorted(scores)[rank - 1] if rank <= n else None


def calibrate(
    good: Sequence[GoodFrame],
    *,
    recipe: str,
    bundle_sha256: str,
    statistic: str,
    false_reject: float,
    too_few: TooFew,
    now: datetime | None = None,
) -> Calibration:
    """Thresholds per view from good frames that were not learned from.

    Raises:
        DataError: no frames, scores that are not finite, or (`too_few="refuse"`) too few frames for a view.
    """
    if not good:
        raise DataError(
            "no good frames to calibrate with", hint="give good frames that were not learned from"
        )
    if not all(math.isfinite(frame.raw) and frame.raw >= 0 for frame in good):
        raise DataError("a good frame has a score that is not finite", reason="score_not_finite")
    by_view: dict[str, list[GoodFrame]] = {}
    for frame in good:
        by_view.setdefault(frame.view, []).append(frame)
    check_enough({view: len(frames) for view, frames in by_view.items()}, false_reject, too_few)
    medians = {view: _centre([f.raw for f in frames]) for view, frames in by_view.items()}
    pool = [frame.raw / medians[frame.view] for frame in good]
    views = {
        view: _calibrate_view(frames, medians[view], pool, false_reject, too_few)
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
    )


def check_enough(counts: Mapping[str, int], false_reject: float, too_few: TooFew) -> None:
    """Say how many frames each view needs, and refuse where the caller wants that.

    Raises:
        DataError: `too_few` is "refuse" and a view has fewer calibration frames than needed.
    """
    needed = frames_needed(false_reject)
    short = {view: count for view, count in counts.items() if count < needed}
    if short and too_few == "refuse":
        listed = ", ".join(f"view {view}: {count}" for view, count in sorted(short.items()))
        raise DataError(
            f"a threshold that rejects at most {false_reject:.1%} of good frames needs {needed} good "
            f"calibration frames per view; there are {listed}",
            hint="give more good frames, allow a higher --false-reject, or let views share their scores "
            "with --too-few pool (or take what can be had with --too-few bound)",
            reason="too_few_frames",
        )


def _calibrate_view(
    frames: Sequence[GoodFrame], median: float, pool: Sequence[float], false_reject: float, too_few: TooFew
) -> ViewCalibration:
    scores = [frame.raw for frame in frames]
    basis: Literal["view", "pool", "maximum"] = "view"
    threshold = conformal_threshold(scores, false_reject)
    bound = _bound(len(scores), false_reject)
    if threshold is None and too_few == "pool":
        pooled = conformal_threshold(pool, false_reject)
        if pooled is not None:
            basis, threshold, bound = (
                "pool",
                max(pooled * median, max(scores)),
                _bound(len(pool), false_reject),
            )
    if threshold is None:
        basis, threshold, bound = "maximum", max(scores) * SMALL_SAMPLE_FACTOR, 1 / (len(scores) + 1)
    maxima = [frame.map_max for frame in frames]
    pixel = conformal_threshold(maxima, false_reject) or max(maxima) * SMALL_SAMPLE_FACTOR
    return ViewCalibration(
        threshold=_positive(threshold),
        pixel_threshold=_positive(pixel),
        basis=basis,
        false_reject_bound=bound,
        scores=tuple(scores),
        plane_mean=_brightness([frame.plane_mean for frame in frames]),
        plane_std=_contrast([frame.plane_std for frame in frames]),
        height_px=_extent([frame.height_px for frame in frames]),
        width_px=_extent([frame.width_px for frame in frames]),
    )


def _bound(n: int, false_reject: float) -> float:
    rank = min(n, math.ceil((n + 1) * (1 - false_reject) - 1e-9))
    return 1 - rank / (n + 1)


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
