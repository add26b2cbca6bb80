"""One run of the leaderboard: a model learned from a fold's frames, and what it said of those left out."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import __version__
from edge import config as configuration
from edge.accuracy.evidence import Evidence, evidence_of
from edge.accuracy.folds import Fold
from edge.accuracy.frame_sets import FrameSet
from edge.accuracy.learning import Learner, write_manifest, write_site
from edge.calibrate import learned_id
from edge.calibrate_labelled import calibrate_labelled
from edge.decode import Limits
from edge.errors import DataError, TryAgainError
from edge.evaluate import evaluate, leakage
from edge.infer.bundle import BundleManifest
from edge.judge.calibration import Calibration, GoodFrame, TooFew, ViewCalibration, calibrate
from edge.judge.judgement import judge
from edge.judge.thresholds import ThresholdRule
from edge.learn.progress import Event, console
from edge.pipeline import Inspection, Inspector
from edge.preprocess import Tiling
from edge.recipes import open_recipe
from edge.types import Evaluation, Frame, Judgement

RECIPE = "trial"
CALIBRATION = "calibration"  # below a run's folder, as an empty config.toml has it
LIMITS = Limits(configuration.Runtime().max_pixels, configuration.Runtime().max_pages)


class LeakageError(DataError):
    """A frame that is tested was learned from: no figure of such a run means anything."""

    reason = "leakage"


@dataclass(frozen=True, slots=True)
class Run:
    """A model, a fold, a seed."""

    frames: FrameSet
    model: str
    fold: int  # from 0
    folds: int
    seed: int
    division: Fold
    supervised: bool = False

    def __str__(self) -> str:
        return f"{self.frames.name} · {self.model} · fold {self.fold + 1} of {self.folds} · seed {self.seed}"

    def key(self, learner: Learner, rates: Sequence[float]) -> str:
        """Changes with all that decides what the run gives: frames, split, budget, options, version."""
        about = (
            self.frames.sha256, self.model, self.fold, self.folds, self.seed, learner.budget.words,
            learner.false_reject, learner.options, tuple(rates), __version__,
            *(sorted(row.sha256 for row in rows) for rows in (self.division.learn, self.division.test)),
        )  # fmt: skip
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of a run."""

    evidence: Evidence
    facts: Mapping[str, Any]  # plain JSON


def perform(run: Run, learner: Learner, rates: Sequence[float], work: Path) -> Judged:
    """Learn and judge. Thresholds at the highest rate are those of `edge learn`, at the others drawn from the
    same scores; the scores of tested frames are relative to the former.

    An interrupted run leaves in the work folder what its learning goes on from.

    Raises:
        LeakageError: what is tested was learned from.
        EdgeError: as `edge learn` and `edge evaluate`.
    """
    check_apart(run.division)
    site = work / run.key(learner, rates)[:16]
    config, manifest = write_site(site), site / "learn.csv"
    write_manifest(manifest, run.division.learn)
    try:
        learned = learner.learn(manifest, RECIPE, run.model, run.seed, config)
        opened = open_recipe(configuration.load(config), RECIPE)
        judged = _judge(run, learner, rates, opened, learned)
    except (TryAgainError, KeyboardInterrupt):
        raise
    except Exception:
        shutil.rmtree(site, ignore_errors=True)
        raise
    shutil.rmtree(site, ignore_errors=True)  # engines are as many as runs, and can be learned again
    return judged


def _judge(
    run: Run, learner: Learner, rates: Sequence[float], opened: Inspector, learned: Mapping[str, Any]
) -> Judged:
    known = opened.bundle.manifest.training.get("learned_from", ())
    check_unseen(known, run.division)
    assert opened.calibration is not None, "open_recipe was asked for one"
    calibrations = [
        opened.calibration if rate == learner.false_reject else recalibrate(run, opened, learner, rate)
        for rate in rates
    ]
    tested = [row.sample for row in run.division.test]
    with console() as listen:

        def on_frame(done: int) -> None:
            listen(Event("judge", f"frame {done} of {len(tested)}", min(1.0, done / len(tested))))

        inspector = AtEachRate(opened, calibrations, on_frame)
        gathered = evaluate(inspector, tested, LIMITS)
    found = leakage(gathered.outcomes, [row.sample for row in run.division.learn], frozenset(known))
    if found["learned_from_overlap"]:
        raise LeakageError(found["warnings"][0], hint="this is a fault in edge, or frames changed meanwhile")
    unread = len(gathered.outcomes) - len(inspector.evaluations)
    evidence = evidence_of(
        gathered.outcomes,
        {row.sample.file: row.group for row in run.division.test},
        [[*(one[k] for one in inspector.evaluations), *["NotDecidable"] * unread] for k in range(len(rates))],
        [{view: promised(v) for view, v in c.views.items()} for c in calibrations],
        gathered.pixels,
    )
    return Judged(evidence, _facts(learned, opened, inspector, gathered.infer_s))


def check_apart(division: Fold) -> None:
    """No file, copy or part on both sides, before anything is learned.

    Raises:
        LeakageError: one is.
    """
    for what, name in (("group", "part"), ("sha256", "file")):
        both = {getattr(r, what) for r in division.learn} & {getattr(r, what) for r in division.test}
        if both:
            raise LeakageError(
                f"{len(both)} {name}s would be learned from and tested: {min(both)}",
                hint="this is a fault in edge: report it with the manifest",
            )


def check_unseen(learned: Sequence[str], division: Fold) -> None:
    """What the bundle says that it was learned from must be of the fold, and nothing of what is tested.

    Raises:
        LeakageError: it is not; or the bundle does not say.
    """
    meant = {learned_id(row.sha256) for row in division.learn}
    tested = {learned_id(row.sha256) for row in division.test}
    if not learned or not set(learned) <= meant or tested & set(learned):
        raise LeakageError(
            f"the bundle says that it was learned from {len(learned)} frames: {len(set(learned) - meant)} of "
            f"them are not of its manifest, and {len(tested & set(learned))} are tested",
            hint="this is a fault in edge: report it with the manifest",
        )


def recalibrate(run: Run, opened: Inspector, learner: Learner, rate: float) -> Calibration:
    """The thresholds of the same engine from the same scores, at another false-reject rate."""
    options = learner.parsed()
    rule = ThresholdRule(options["threshold"], rate, options["k"], options["quantile"])
    bundle = opened.bundle
    if run.supervised:
        file = bundle.folder.parent.parent / CALIBRATION / f"{bundle.manifest.name}.at-{rate:g}.json"
        return calibrate_labelled(
            [row.sample for row in run.division.learn], bundle, opened.runtime, file,
            recipe=bundle.manifest.name, rule=rule, limits=LIMITS, min_recall=options["min_recall"],
        ).calibration  # fmt: skip
    assert opened.calibration is not None, "open_recipe was asked for one"
    bounded = bundle.manifest.score.map == "probability"
    return at_rate(opened.calibration, rule, options["too_few"], bounded=bounded)


def at_rate(
    calibration: Calibration, rule: ThresholdRule, too_few: TooFew, *, bounded: bool = False
) -> Calibration:
    """Other thresholds from the scores that a calibration keeps; all else stays as it is.

    Where the scores are those of folds' networks nothing is proved, and what would be is an estimate
    (`edge.judge.cross`).
    """
    good = [
        GoodFrame(
            view=view, raw=score, map_max=score, plane_mean=0.5, plane_std=0.1, height_px=1, width_px=1,
            part=None if limits.parts is None else f"{view} {limits.parts[k]}",
        )
        for view, limits in calibration.views.items()
        for k, score in enumerate(limits.scores)
    ]  # fmt: skip
    found = calibrate(
        good, recipe=calibration.recipe, bundle_sha256=calibration.bundle_sha256,
        statistic=calibration.statistic, false_reject=rule.false_reject, too_few=too_few, method=rule.method,
        k=rule.k, quantile=rule.quantile, bounded=bounded,
    )  # fmt: skip
    views = {}
    for view, limits in calibration.views.items():
        new = found.views[view]
        bound, estimate = new.false_reject_bound, new.false_reject_estimate
        if calibration.procedure == "cross":
            bound, estimate = 1.0, bound if estimate is None else estimate
        kept = {"threshold": new.threshold, "basis": new.basis}
        promise = {"false_reject_bound": bound, "false_reject_estimate": estimate}
        views[view] = limits.model_copy(update=kept | promise)
    return calibration.model_copy(update={"views": views, "false_reject": rule.false_reject})


def promised(limits: ViewCalibration) -> float:
    """The share of good frames that a view's threshold rejects at most; where nothing is proved, about."""
    bound, estimate = limits.false_reject_bound, limits.false_reject_estimate
    return estimate if bound >= 1 and estimate is not None else bound


class AtEachRate(Inspector):
    """An inspector whose frames are judged at several rates; its own answers are those of the highest."""

    def __init__(
        self, opened: Inspector, calibrations: Sequence[Calibration], on_frame: Callable[[int], None]
    ) -> None:
        super().__init__(opened.bundle, opened.runtime, opened.calibration)
        self.evaluations: list[tuple[Evaluation, ...]] = []  # of each frame, at each rate
        self.frame_px = self.plane_px = self.computed_px = 0
        self._calibrations, self._on_frame = calibrations, on_frame

    def inspect(
        self,
        frames: Iterable[Frame],
        on_batch: Callable[[], None] = lambda: None,
        keeps: Callable[[Frame, Judgement], bool] = lambda frame, judgement: False,
    ) -> Iterator[Inspection]:
        """As `Inspector`."""
        manifest = self.bundle.manifest
        for inspection in super().inspect(frames, on_batch, keeps):
            frame, score = inspection.frame, inspection.score
            view, place = frame.identity.view, frame.placement
            self.evaluations.append(
                tuple(
                    inspection.judgement.evaluation
                    if calibration is self.calibration
                    else judge(
                        score, view, calibration, place, manifest.classes, manifest.score.min_area_px
                    ).evaluation
                    for calibration in self._calibrations
                )
            )
            height, width = frame.plane.shape
            self.frame_px += frame.image.width * frame.image.height
            self.plane_px += height * width
            tiling = Tiling(height, width, manifest.preprocess.tiles)
            self.computed_px += len(tiling) * math.prod(tiling.window)
            self._on_frame(len(self.evaluations))
            yield inspection


def _facts(learned: Mapping[str, Any], opened: Inspector, seen: AtEachRate, infer_s: float) -> dict[str, Any]:
    from edge.learn.flops import gflop_per_mpx, tile_flop

    manifest: BundleManifest = opened.bundle.manifest
    tiles = manifest.preprocess.tiles
    shrunk = seen.plane_px / max(1, seen.frame_px)
    return {
        "learned_model": manifest.model,
        "why": learned.get("why", ""),
        "warnings": learned.get("warnings", []),
        "minutes": round(float(manifest.training.get("seconds", 0)) / 60, 3),
        "steps": manifest.training.get("steps"),
        "learned_frames": manifest.training.get("frames"),
        "tile_px": [tiles.size_px, tiles.keep_px, tiles.step_px],
        "plane_px_per_frame_px": round(shrunk, 5),
        "gflop_per_mpx": gflop_per_mpx(opened.bundle.model_file, tiles) * shrunk,  # of large frames
        "gflop_per_frame": tile_flop(opened.bundle.model_file, tiles.size_px)
        / tiles.size_px**2
        * seen.computed_px
        / max(1, len(seen.evaluations))
        / 1e9,
        "infer_s_per_mpx": infer_s / max(1, seen.frame_px) * 1e6,
        "runtime": opened.runtime.name,
        "precision": opened.runtime.precision,
        "bundle_sha256": opened.bundle.digest,
    }
