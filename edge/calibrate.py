"""Good frames and a bundle → thresholds: what `edge calibrate` does, and the last step of `edge learn`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifacts import read_signed_json
from edge.calibration_report import BASIS as BASIS  # what the report of learning writes
from edge.calibration_report import changes, shortfalls
from edge.dataset import Sample, Unreadable, frames
from edge.decode import Limits
from edge.errors import BundleError, DataError, UsageError
from edge.infer.bundle import Bundle
from edge.infer.runtime import Runtime
from edge.judge.calibration import (
    Calibration,
    GoodFrame,
    TooFew,
    UnseenViews,
    calibrate,
    load_calibration,
    save_calibration,
)
from edge.judge.fragments import without_defects
from edge.judge.thresholds import ThresholdMethod
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
    before: Calibration | None = None  # what it replaces, where that was made for the same engine

    def shortfalls(self) -> list[str]:
        """What was not achieved of the wanted false-reject rates, in sentences; empty where all was."""
        return shortfalls(self.calibration)

    def changes(self) -> list[str]:
        """What is new against the calibration it replaces, in sentences; empty where there was none."""
        return changes(self.before, self.calibration) if self.before else []


@dataclass(frozen=True, slots=True)
class Fold:
    """A network, and the good frames to score with it: of parts that it has not learned from."""

    samples: Sequence[Sample]
    bundle: Bundle
    runtime: Runtime


@dataclass(slots=True)
class _Scored:
    """What the engine said of good frames, and what was left out."""

    frames: list[CalibrationFrame] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


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
    false_reject_part: float | None = None,
    review_band: float | None = None,
    value_range: tuple[float, float] | None = None,
    views: Collection[str] = (),
    learned_too: bool = False,
    on_frame: Callable[[int, int], None] = lambda done, of: None,
) -> Calibrated:
    """Score good frames through the pipeline and save their thresholds as `file`.

    Frames stream: one is in memory at a time. Those that the network was learned from are left out, by the
    sha256 of their bytes: a network reconstructs what it has seen better than what it will see.
    `threshold`, `k` and `quantile` are the rule's (`edge.judge.thresholds`), `unseen_views` and `view_cycle`
    those of `edge.judge.unseen`; with `learned_too` frames that were learned from count as well, and nothing
    is promised; `false_reject_part` and `review_band` of `edge.judge.calibration.calibrate`.

    Raises:
        DataError: no usable frame, or (`too_few="refuse"`) too few for a view, or none of one of `views`, or
            too few views to estimate others from, or no part with all views where a rate per part is wanted.
    """
    scored = _Scored()
    _score(scored, Fold(wanted, bundle, runtime), None, limits, value_range, on_frame, learned_too)
    return _calibrated(
        scored, bundle, file, views, promised=not learned_too,
        recipe=recipe, false_reject=false_reject, too_few=too_few, method=threshold, k=k, quantile=quantile,
        unseen_views=unseen_views, view_cycle=view_cycle, false_reject_part=false_reject_part,
        review_band=review_band,
    )  # fmt: skip


def calibrate_crossed(
    folds: Sequence[Fold],
    bundle: Bundle,
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
    false_reject_part: float | None = None,
    review_band: float | None = None,
    value_range: tuple[float, float] | None = None,
    on_frame: Callable[[int, int], None] = lambda done, of: None,
) -> Calibrated:
    """Thresholds for `bundle`, which learned from all frames, from the scores of the networks of folds.

    Each frame is scored by the network of its fold, which has not learned from it (`edge.judge.cross` says
    what that proves: an estimate, no bound). All must preprocess and score as `bundle` does.

    Raises:
        UsageError: fewer than two folds, or a part in two of them.
        DataError: a fold's network scores otherwise than `bundle`, or as `calibrate_recipe`.
    """
    _check_folds(folds, bundle)
    scored, of = _Scored(), sum(len(fold.samples) for fold in folds)
    for number, fold in enumerate(folds):
        done = sum(len(earlier.samples) for earlier in folds[:number])
        _score(scored, fold, number, limits, value_range, _further(on_frame, done, of))
    return _calibrated(
        scored, bundle, file, (),
        recipe=recipe, false_reject=false_reject, too_few=too_few, method=threshold, k=k, quantile=quantile,
        unseen_views=unseen_views, view_cycle=view_cycle, false_reject_part=false_reject_part,
        review_band=review_band,
    )  # fmt: skip


def _check_folds(folds: Sequence[Fold], bundle: Bundle) -> None:
    if len(folds) < 2:
        raise UsageError("a single fold: crossing needs two or more", hint="deal the parts into folds")
    wanted = bundle.manifest.preprocess.digest, bundle.manifest.score
    owner: dict[str, int] = {}
    for number, fold in enumerate(folds):
        if (fold.bundle.manifest.preprocess.digest, fold.bundle.manifest.score) != wanted:
            raise DataError(
                f"the network of fold {number} preprocesses or scores otherwise than {bundle.manifest.name}",
                hint="learn all folds with the same settings",
            )
        for part in map(part_of, fold.samples):
            if owner.setdefault(part, number) != number:
                raise UsageError(
                    f"{part} is in folds {owner[part]} and {number}", hint="keep each part in one fold"
                )


def _score(
    scored: _Scored,
    fold: Fold,
    number: int | None,
    limits: Limits,
    value_range: tuple[float, float] | None,
    on_frame: Callable[[int, int], None],
    learned_too: bool = False,
) -> None:
    """Add the frames of a fold and what its network says of them."""
    bundle = fold.bundle
    known = frozenset(() if learned_too else bundle.manifest.training.get("learned_from", ()))
    inspector, wanted = Inspector(bundle, fold.runtime), _counted(fold.samples, on_frame)
    for sample, frame in frames(
        wanted, bundle.manifest.preprocess, limits, value_range, scored.unreadable, bundle.folder
    ):
        if learned_id(frame.image.sha256) in known:
            scored.learned.append(sample.path)
            continue
        (score,) = inspector.score([planes_of(frame)])
        if sample.label == "defect":
            found = _good_regions(score, sample, frame, bundle)
            if found is None:
                why = "every fragment has a defect"
                scored.unreadable.append(Unreadable(sample.path, "no_good_fragment", why))
                continue
            score = found
        if not math.isfinite(score.raw):
            scored.unreadable.append(Unreadable(sample.path, "score_not_finite", NOTHING_FOUND))
            continue
        good = replace(good_frame_of(frame, score), group=_group(sample), part=part_of(sample), fold=number)
        scored.frames.append(CalibrationFrame(sample, frame.image.page, good))


def _calibrated(
    scored: _Scored, bundle: Bundle, file: Path, views: Collection[str], promised: bool = True, **how: Any
) -> Calibrated:
    """Thresholds from what was scored, saved."""
    if not scored.frames:
        raise DataError(
            f"none of {len(scored.learned) + len(scored.unreadable)} good frames can be calibrated with: "
            f"{len(scored.learned)} were learned from, {len(scored.unreadable)} cannot be read",
            hint="give good frames that the network has not seen",
            reason="too_few_frames",
        )
    _check_kept(views, {entry.good.view for entry in scored.frames})
    calibration = calibrate(
        [entry.good for entry in scored.frames],
        bundle_sha256=bundle.digest,
        bounded=bundle.manifest.score.map == "probability",
        statistic=bundle.manifest.score.statistic,
        **how,
    )
    if not promised:
        nothing = {"false_reject_bound": 1.0, "false_reject_estimate": None}
        unproved = {view: limits.model_copy(update=nothing) for view, limits in calibration.views.items()}
        calibration = calibration.model_copy(update={"views": unproved})
    before = _before(file, bundle)
    return Calibrated(
        file=file,
        calibration=save_calibration(file, calibration),
        frames=tuple(scored.frames),
        learned=tuple(dict.fromkeys(scored.learned)),
        unreadable=tuple(scored.unreadable),
        before=before,
    )


def _before(file: Path, bundle: Bundle) -> Calibration | None:
    """The calibration that is about to be replaced; None where its scores are another engine's."""
    try:
        return load_calibration(file, bundle.digest)
    except BundleError:
        return None


def check_rule(
    threshold: ThresholdMethod,
    *,
    k: float | None = None,
    quantile: float | None = None,
    unseen_views: UnseenViews = "refuse",
    view_cycle: float | None = None,
    false_reject: float | None = None,
    review_band: float | None = None,
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
    if review_band is not None and false_reject is not None and review_band <= false_reject:
        raise UsageError(
            f"--review-band {review_band:g}: not above --false-reject {false_reject:g}",
            hint="the band holds good frames that score high, beside those that may be rejected",
        )


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


def part_of(sample: Sample) -> str:
    """What is exchangeable: the part, or the file of a frame that names none (whose pages go together)."""
    return f"part {sample.part}" if sample.part else f"file {sample.path}"


def _group(sample: Sample) -> str | None:
    """The batch, where the part's name has one ("B17/P3"), else the part: what median-max groups by."""
    if sample.part is None:
        return None
    batch, _, part = sample.part.rpartition("/")
    return batch or part


def learned_id(sha256: str) -> str:
    """How a bundle remembers a frame it was learned from: 64 bits of the file's digest."""
    return sha256[:16]


def _further(on_frame: Callable[[int, int], None], done: int, of: int) -> Callable[[int, int], None]:
    """Progress of a fold as progress of all."""
    return lambda at, _: on_frame(done + at, of)


def _counted(wanted: Sequence[Sample], on_frame: Callable[[int, int], None]) -> Iterable[Sample]:
    for done, sample in enumerate(wanted):
        on_frame(done, len(wanted))
        yield sample
