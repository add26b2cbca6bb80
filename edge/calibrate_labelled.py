"""Thresholds of supervised recipes: from good and defect frames that were not learned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge.calibrate import NOTHING_FOUND, Calibrated, CalibrationFrame, learned_id, part_of
from edge.dataset import Sample, Unreadable, frames
from edge.decode import Limits
from edge.errors import DataError
from edge.infer.bundle import Bundle
from edge.infer.runtime import Runtime
from edge.judge.calibration import (
    Basis,
    Calibration,
    GoodFrame,
    Recall,
    beyond,
    calibrate,
    owners,
    save_calibration,
)
from edge.judge.operating_point import Scale, best_f, lower_bound, operating_point
from edge.judge.ranking import PixelCounts
from edge.judge.thresholds import ThresholdRule, counts_parts, frames_needed_by, threshold
from edge.pipeline import Inspector, good_frame_of, planes_of
from edge.truth import read_truth
from edge.types import Frame, Mask

LEAST_THRESHOLD = 1e-9  # below it a score says nothing
LEAST_PIXEL_THRESHOLD = 1e-6
PROBABLE = 0.5
LEAST_MARKED = 5
BELOW = 1 - 1e-3  # what lies in the same bin of PixelCounts


@dataclass(slots=True)
class _Seen:
    """What calibration keeps of labelled frames."""

    frames: list[CalibrationFrame] = field(default_factory=list)
    is_defect: list[bool] = field(default_factory=list)
    pixels: PixelCounts = field(default_factory=PixelCounts)
    marked: int = 0  # defect frames with masks
    learned: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    def of(self, is_defect: bool) -> list[GoodFrame]:
        return [f.good for f, d in zip(self.frames, self.is_defect, strict=True) if d == is_defect]


def calibrate_labelled(
    wanted: Sequence[Sample],
    bundle: Bundle,
    runtime: Runtime,
    file: Path,
    *,
    recipe: str,
    rule: ThresholdRule,
    limits: Limits,
    min_recall: float | None = None,
    value_range: tuple[float, float] | None = None,
    views: Collection[str] = (),
    on_frame: Callable[[int, int], None] = lambda done, of: None,
) -> Calibrated:
    """Score labelled frames through the pipeline and save their thresholds as `file`.

    One threshold holds for all views: supervised networks answer probabilities, and defects are few. It is
    the highest one with `min_recall` where that is demanded; else the rule's over the good frames, where
    there are enough of them; else the one with the best F1. The pixel threshold is the one with the best
    Dice. Frames stream: one is in memory at a time; those that were learned from are left out.

    Raises:
        DataError: no usable frame, or a recall is demanded and there is no defect.
    """
    known = frozenset(bundle.manifest.training.get("learned_from", ()))
    inspector, seen = Inspector(bundle, runtime), _Seen()
    spec, done = bundle.manifest.preprocess, 0
    for sample, frame in frames(wanted, spec, limits, value_range, seen.unreadable, bundle.folder):
        on_frame(min(done, len(wanted) - 1), len(wanted))
        done += 1
        if learned_id(frame.image.sha256) in known:
            seen.learned.append(sample.path)
            continue
        _add(seen, inspector, sample, frame)
    if not seen.frames:
        raise DataError(
            f"none of {len(wanted)} labelled frames can be calibrated with: {len(seen.learned)} were learned "
            f"from, {len(seen.unreadable)} cannot be read",
            hint="give frames that the network has not seen",
            reason="too_few_frames",
        )
    calibration = _calibration(seen, bundle, recipe, rule, min_recall)
    missing = sorted(set(views) - set(calibration.views))
    if missing:
        raise DataError(
            f"no labelled frame of view {', '.join(missing)}, which would lose its thresholds",
            hint="add frames of the missing views, or give --drop-views",
            reason="views_missing",
        )
    return Calibrated(
        file=file,
        calibration=save_calibration(file, calibration),
        frames=tuple(f for f, d in zip(seen.frames, seen.is_defect, strict=True) if not d),
        defects=tuple(f for f, d in zip(seen.frames, seen.is_defect, strict=True) if d),
        learned=tuple(dict.fromkeys(seen.learned)),
        unreadable=tuple(seen.unreadable),
    )


def _add(seen: _Seen, inspector: Inspector, sample: Sample, frame: Frame) -> None:
    (score,) = inspector.score([planes_of(frame)])
    if not math.isfinite(score.raw):
        seen.unreadable.append(Unreadable(sample.path, "score_not_finite", NOTHING_FOUND))
        return
    found = replace(good_frame_of(frame, score), part=part_of(sample))
    seen.frames.append(CalibrationFrame(sample, frame.image.page, found))
    seen.is_defect.append(sample.label == "defect")
    truth = _truth(sample, frame)
    if truth is not None:
        seen.pixels.add(score.map, truth)
        seen.marked += sample.label == "defect"


def _truth(sample: Sample, frame: Frame) -> Mask | None:
    """(h, w) True where a defect is, on the plane; None where nothing is known of pixels."""
    truth = read_truth(sample, frame.image.height, frame.image.width)
    return None if truth is None else truth.on_plane(frame, 0.5)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A raw threshold for all views, and what it rests on."""

    threshold: float
    basis: Basis
    false_reject_bound: float
    recall: Recall | None = None


def _chosen(
    seen: _Seen, rule: ThresholdRule, min_recall: float | None, pixel: float, scale: Scale
) -> _Chosen:
    goods, defects = seen.of(False), [defect.raw for defect in seen.of(True)]
    scores = [f.good.raw for f in seen.frames]
    if min_recall is not None:
        point = operating_point(scores, seen.is_defect, min_recall, scale=scale)
        if point.threshold < LEAST_THRESHOLD:
            silent = sum(score < LEAST_THRESHOLD for score in defects)
            raise DataError(
                f"recall {min_recall:.1%} cannot be had: {silent} of {len(defects)} defect frames score 0, "
                "as good frames may",
                hint="demand less, learn longer, or choose another --statistic or a smaller --min-area",
                reason="recall_not_reached",
            )
        recall = Recall(
            demanded=min_recall,
            measured=point.recall,
            lower_bound=point.recall_lower_bound,
            confidence=point.confidence,
            defects=point.defects,
            defects_needed=point.defects_needed,
            precision=point.precision,
        )
        return _Chosen(point.threshold, "recall", _most_rejected(goods, point.threshold), recall)
    raw, parts = [good.raw for good in goods], [good.part for good in goods]
    counted = len(set(parts)) if counts_parts(rule) else len(goods)
    if goods and (counted >= frames_needed_by(rule) or not defects):
        drawn = threshold(raw, rule, parts=parts)
        if drawn is not None:
            return _Chosen(drawn.value, "view", drawn.bound)
    if goods and not defects:
        return _Chosen(beyond(raw, bounded=scale == "log-odds"), "maximum", 1 / (len(set(parts)) + 1))
    if goods:
        _, best = best_f(scores, seen.is_defect, 1.0, scale=scale)
        return _Chosen(best, "f1", _most_rejected(goods, best))
    return _Chosen(pixel, "pixels", 1.0)  # nothing good to compare with: what the pixels say has to do


def _most_rejected(goods: Sequence[GoodFrame], limit: float) -> float:
    """The largest share of good parts with a rejected frame that these do not contradict, at the usual
    confidence; of frames no larger a share is rejected."""
    rejected = {good.part for good in goods if good.raw > limit}
    parts = len({good.part for good in goods})
    return 1.0 - lower_bound(parts - len(rejected), parts) if goods else 1.0


def _pixel_threshold(seen: _Seen, goods: Sequence[GoodFrame], bundle: Bundle) -> float:
    """Where Dice over the pixels is best; without any defect pixel, above all that good frames show.

    A segmenter sees good and defect pixels as they come, so that a probability of one half is meant; a few
    defect frames are no reason to think otherwise. A patch network learns from as many of either.
    """
    if bundle.manifest.classes and seen.marked < LEAST_MARKED:
        return PROBABLE
    best = seen.pixels.curve().best_f1()
    if best is not None:
        return max(best[1] * BELOW, LEAST_PIXEL_THRESHOLD)  # a pixel counts above its threshold, not at it
    highest = max((good.map_max for good in goods), default=0.0)
    return max(highest, PROBABLE)


def _calibration(
    seen: _Seen, bundle: Bundle, recipe: str, rule: ThresholdRule, min_recall: float | None
) -> Calibration:
    """Ranges of brightness and size from all frames, since defects are small; one threshold for all views."""
    ranges = calibrate(
        [f.good for f in seen.frames],
        recipe=recipe,
        bundle_sha256=bundle.digest,
        bounded=bundle.manifest.score.map == "probability",
        statistic=bundle.manifest.score.statistic,
        false_reject=rule.false_reject,
        too_few="bound",
        method=rule.method,
        k=rule.k,
        quantile=rule.quantile,
    )
    goods = seen.of(False)
    pixel = _pixel_threshold(seen, goods, bundle)
    scale: Scale = "log-odds" if bundle.manifest.output == "probability" else "linear"
    chosen = _chosen(seen, rule, min_recall, pixel, scale)
    limit = max(chosen.threshold, LEAST_THRESHOLD)
    common: dict[str, Any] = {
        "threshold": limit,
        # a classifier's map has the frame's probability where it speaks, so the two are one
        "pixel_threshold": limit if seen.marked == 0 and seen.of(True) else pixel,
        "basis": chosen.basis,
        "method": rule.method,
        "false_reject_bound": chosen.false_reject_bound,
        "false_reject_estimate": None,
    }
    views = {}
    for view, ranged in ranges.views.items():
        of_view = [good for good in goods if good.view == view] or goods
        scores, parts = tuple(good.raw for good in of_view), owners([good.part for good in of_view])
        views[view] = ranged.model_copy(update={**common, "scores": scores, "parts": parts})
    return ranges.model_copy(update={"views": views, "global_threshold": limit, "recall": chosen.recall})
