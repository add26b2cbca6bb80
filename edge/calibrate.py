"""Good frames and a bundle → thresholds: what `edge calibrate` does, and the last step of `edge learn`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge.artifacts import read_signed_json
from edge.dataset import Sample, Unreadable, frames
from edge.decode import Limits
from edge.errors import BundleError, DataError, UsageError
from edge.infer.bundle import Bundle
from edge.infer.runtime import Runtime
from edge.judge.calibration import (
    Calibration,
    GoodFrame,
    Recall,
    TooFew,
    UnseenViews,
    ViewCalibration,
    calibrate,
    save_calibration,
)
from edge.judge.fragments import without_defects
from edge.judge.thresholds import ASSUMPTIONS, ThresholdMethod
from edge.pipeline import Inspector, good_frame_of, of_fragments, planes_of
from edge.truth import read_truth
from edge.types import DEFAULT_VIEW, Frame, Score

NOTHING_FOUND = "nothing to judge was found in it"


@dataclass(frozen=True, slots=True)
class CalibrationFrame:
    """A good frame, and what the engine said of it."""

    sample: Sample
    page: int
    good: GoodFrame


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A saved calibration, and what it rests on."""

    file: Path
    calibration: Calibration
    frames: tuple[CalibrationFrame, ...]
    learned: tuple[str, ...]  # paths left out, because the network was learned from them
    unreadable: tuple[Unreadable, ...]
    defects: tuple[CalibrationFrame, ...] = ()  # of supervised recipes: the defect frames among them

    def shortfalls(self) -> list[str]:
        """What was not achieved of the wanted false-reject rate, a sentence a view; empty where all was."""
        wanted = self.calibration.false_reject
        return [
            f"view {view}: {len(limits.scores)} calibration frames bound false rejects to "
            f"{limits.false_reject_bound:.1%} of good frames ({BASIS[limits.basis]}), not {wanted:.1%}"
            f"{_estimated(limits)}"
            for view, limits in self.calibration.views.items()
            if limits.false_reject_bound > wanted + 1e-9
        ] + _recall_shortfall(self.calibration.recall)


BASIS = {
    "view": "its own scores",
    "pool": "the scores of all views together",
    "maximum": "the largest score and a factor",
    "adaptive": "other views",
    "recall": "the recall demanded",
    "f1": "the best F1 over good and defect frames",
    "pixels": "the best Dice over pixels, as there is no good frame",
}


def _recall_shortfall(recall: Recall | None) -> list[str]:
    """What the defects at hand do not prove of the recall that was demanded."""
    if recall is None or recall.lower_bound >= recall.demanded:
        return []
    needed = f"{recall.defects_needed} would" if recall.defects_needed else "no number of defects would"
    return [
        f"recall {recall.measured:.1%} on {recall.defects} defect frames proves {recall.lower_bound:.1%} at "
        f"{recall.confidence:.0%} confidence, not {recall.demanded:.1%}; {needed} prove it"
    ]


def _estimated(limits: ViewCalibration) -> str:
    """What the method hopes for beyond its bound, and on what condition."""
    if limits.false_reject_estimate is None:
        return ""
    share = f"{limits.false_reject_estimate:.2%}"
    return f"; {limits.method} estimates {share}, as far as {ASSUMPTIONS[limits.method]}"


def calibrate_recipe(
    wanted: Sequence[Sample],
    bundle: Bundle,
    runtime: Runtime,
    file: Path,
    *,
    recipe: str,
    false_reject: float,
    too_few: TooFew,
    limits: Limits,
    threshold: ThresholdMethod = "conformal",
    k: float | None = None,
    quantile: float | None = None,
    unseen_views: UnseenViews = "refuse",
    view_cycle: float | None = None,
    value_range: tuple[float, float] | None = None,
    views: Collection[str] = (),
    on_frame: Callable[[int, int], None] = lambda done, of: None,
) -> Calibrated:
    """Score good frames through the pipeline and save their thresholds as `file`.

    Frames stream: one is in memory at a time. Those that the network was learned from are left out, by the
    sha256 of their bytes: a network reconstructs what it has seen better than what it will see.
    `threshold`, `k` and `quantile` are the rule's (`edge.judge.thresholds`), `unseen_views` and `view_cycle`
    those of `edge.judge.unseen`.

    Raises:
        DataError: no usable frame, or (`too_few="refuse"`) too few for a view, or none of one of `views`, or
            too few views to estimate others from.
    """
    known = frozenset(bundle.manifest.training.get("learned_from", ()))
    learned: list[str] = []
    unreadable: list[Unreadable] = []
    seen: list[tuple[Sample, int]] = []

    inspector, good = Inspector(bundle, runtime), []
    for sample, frame in frames(_counted(wanted, on_frame), bundle.manifest.preprocess, limits, value_range,
                                unreadable, bundle.folder):  # fmt: skip
        if learned_id(frame.image.sha256) in known:
            learned.append(sample.path)
            continue
        (score,) = inspector.score([planes_of(frame)])
        if sample.label == "defect":
            found = _good_regions(score, sample, frame, bundle)
            if found is None:
                unreadable.append(Unreadable(sample.path, "no_good_fragment", "every fragment has a defect"))
                continue
            score = found
        if not math.isfinite(score.raw):
            unreadable.append(Unreadable(sample.path, "score_not_finite", NOTHING_FOUND))
            continue
        seen.append((sample, frame.image.page))
        good.append(replace(good_frame_of(frame, score), group=_group(sample)))
    if not good:
        raise DataError(
            f"none of {len(wanted)} good frames can be calibrated with: {len(learned)} were learned from, "
            f"{len(unreadable)} cannot be read",
            hint="give good frames that the network has not seen",
            reason="too_few_frames",
        )
    _check_kept(views, {frame.view for frame in good})
    calibration = calibrate(
        good,
        recipe=recipe,
        bundle_sha256=bundle.digest,
        statistic=bundle.manifest.score.statistic,
        false_reject=false_reject,
        too_few=too_few,
        method=threshold,
        k=k,
        quantile=quantile,
        unseen_views=unseen_views,
        view_cycle=view_cycle,
    )
    return Calibrated(
        file=file,
        calibration=save_calibration(file, calibration),
        frames=tuple(CalibrationFrame(*at, frame) for at, frame in zip(seen, good, strict=True)),
        learned=tuple(dict.fromkeys(learned)),
        unreadable=tuple(unreadable),
    )


def check_rule(
    threshold: ThresholdMethod,
    *,
    k: float | None = None,
    quantile: float | None = None,
    unseen_views: UnseenViews = "refuse",
    view_cycle: float | None = None,
) -> None:
    """Options that would say nothing are a mistake of whoever gave them.

    Raises:
        UsageError: naming the option and the one that it belongs to.
    """
    for option, given, belongs, there in (
        ("--k", k, "--threshold mad", threshold == "mad"),
        ("--quantile", quantile, "--threshold quantile", threshold == "quantile"),
        ("--view-cycle", view_cycle, "--unseen-views adaptive", unseen_views == "adaptive"),
    ):
        if given is not None and not there:
            raise UsageError(
                f"{option} {given:g}: only with {belongs}", hint=f"add {belongs}, or leave it out"
            )
    if view_cycle is not None and view_cycle <= 0:
        raise UsageError(f"--view-cycle {view_cycle:g}: not above 0", hint="such as 24, or 360")


def _good_regions(score: Score, sample: Sample, frame: Frame, bundle: Bundle) -> Score | None:
    """What of a defect frame's score says something about good ones: the fragments that see no defect; None
    where there is none.

    Raises:
        DataError: it is not known where the frame is good.
    """
    truth = read_truth(sample, frame.image.height, frame.image.width)
    if truth is None or score.fragments is None:
        raise DataError(
            f"{sample.path}: a defect frame whose good fragments are not known",
            hint="calibrate with good frames, or with defect frames that have masks and a score of fragments",
        )
    defect = truth.on_plane(frame)
    left = without_defects(score.fragments, defect)
    if not len(left.boxes):
        return None
    kept = of_fragments(score, left, bundle.manifest.score.statistic)
    highest = float(np.where(defect, 0, score.map).max())
    return replace(kept, statistics={**kept.statistics, "max": highest})


def calibrated_views(file: Path) -> tuple[str, ...]:
    """The views that have thresholds in a calibration; none where it is missing or damaged."""
    try:
        return tuple(read_signed_json(file, Calibration).views)
    except BundleError:
        return ()


def _check_kept(wanted: Collection[str], found: Collection[str]) -> None:
    """A view without thresholds is NotDecidable from then on: not by mistake."""
    lost = sorted(set(wanted) - set(found))
    if not lost:
        return
    raise DataError(
        f"no good frame of view {', '.join(lost)}, which would lose its thresholds; there are frames of "
        f"{', '.join('no named view' if view == DEFAULT_VIEW else f'view {view}' for view in sorted(found))}",
        hint="say which view each frame shows with --template, --pattern or --manifest, add frames of the "
        "missing views, or give --drop-views",
        reason="views_missing",
    )


def _group(sample: Sample) -> str | None:
    """The batch, where the part's name has one ("B17/P3"), else the part: what median-max groups by."""
    if sample.part is None:
        return None
    batch, _, part = sample.part.rpartition("/")
    return batch or part


def learned_id(sha256: str) -> str:
    """How a bundle remembers a frame it was learned from: 64 bits of the file's digest."""
    return sha256[:16]


def _counted(wanted: Sequence[Sample], on_frame: Callable[[int, int], None]) -> Iterable[Sample]:
    for done, sample in enumerate(wanted):
        on_frame(done, len(wanted))
        yield sample
