"""Real defects in a run of learning: read, dealt into those to learn from and those to measure with, tried by
pilots, and joined to the batches if they make the recipe better."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge.dataset import Dataset, Sample, Unreadable, frames
from edge.decode import Limits
from edge.infer.bundle import Bundle
from edge.infer.runtime import Runtime
from edge.judge.calibration import Calibration
from edge.judge.operating_point import CONFIDENCE, lower_bound
from edge.judge.statistics import score_map, summarise
from edge.learn.anomalies.batches import AnomalyBatches
from edge.learn.anomalies.fills import DefectCrop
from edge.learn.datasets import PlaneStore
from edge.learn.defect_crops import crops_of
from edge.learn.defects import (
    NONE_GIVEN,
    Known,
    Scorer,
    Shown,
    Verdict,
    judge_defects,
    pilot_share,
    remembered,
)
from edge.learn.fit import Batches, Fit, FitSpec
from edge.learn.labels import LabelledPlane
from edge.learn.models import ModelKind, Task
from edge.learn.progress import Event, Listener
from edge.learn.specimens import Reading, Specimen, read_specimens
from edge.learn.split import DefectFrame, DefectSplit, Split, split_defects
from edge.pipeline import Inspector, Planes, answers
from edge.preprocess import PreprocessSpec
from edge.types import FloatImage, TileArray, as_float

PILOTS_SHARE = 0.4  # of a run's minutes or steps, at most
LARGEST_CROP = 0.75  # of a learning window's side
SEED_OF_VALIDATION = 1_000_003
PILOT_BATCH = 4  # tiles a pilot judges at once
NO_OPERATING_POINT = (
    "the recall that is demanded cannot be had: every defect frame was learned from; thresholds are those of "
    "the good frames"
)


@dataclass(frozen=True, slots=True)
class RealDefects:
    """What a run knows of real defects, and what it does with them."""

    verdict: Verdict = NONE_GIVEN
    learned: tuple[Specimen, ...] = ()  # with masks; learned from if the verdict says so
    held: tuple[Specimen, ...] = ()  # never learned from: the operating point, and recall, are theirs
    crops: tuple[DefectCrop, ...] = ()
    share_used: float = 0.0  # of the run's minutes or steps, by pilots

    @property
    def in_use(self) -> tuple[Specimen, ...]:
        """What the recipe learns from."""
        return self.learned if self.verdict.use != "nothing" else ()

    @property
    def unlearned(self) -> tuple[Specimen, ...]:
        """What the recipe does not learn from, and can be measured with."""
        return self.held + (self.learned if self.verdict.use == "nothing" else ())

    def rest(self, spec: FitSpec) -> FitSpec:
        """What pilots left of the minutes; a number of steps that was asked for is the recipe's own."""
        return replace(spec, minutes=(1 - self.share_used) * spec.minutes)

    def join(self, batches: Batches) -> Batches:
        """The batches, with the defects among them as far as the verdict goes."""
        if self.verdict.use == "nothing":
            return batches
        assert isinstance(batches, AnomalyBatches), "models that learn from anomalies only"
        planes = [s.labelled for s in self.learned] if self.verdict.use == "windows" else []
        return joined(batches, planes, self.crops)

    def facts(self) -> dict[str, Any]:
        """For the bundle's record of its training."""
        return {
            **self.verdict.facts(),
            "frames_with_masks": len(self.learned),
            "frames_held": len(self.held),
            "crops": len(self.crops) if self.verdict.use != "nothing" else 0,
        }


def joined(
    batches: AnomalyBatches, defects: Sequence[LabelledPlane], crops: Sequence[DefectCrop]
) -> AnomalyBatches:
    """The same batches with real defects among their windows and their anomalies."""
    return replace(batches, defects=tuple(defects), crops=(*batches.crops, *crops))


def read_defects(
    dataset: Dataset, how: Reading, store: PlaneStore, unreadable: list[Unreadable], listen: Listener
) -> list[Specimen]:
    """The dataset's defect frames that may be learned from, those with masks first; none where it has none.

    Raises:
        DataError: no frame of a kind can be read, or a mask is missing, unreadable or of another size.
    """
    wanted = [sample for sample in dataset.labelled() if sample.label == "defect"]
    marked = [sample for sample in wanted if sample.mask is not None or sample.masks]
    rest = [sample for sample in wanted if sample.mask is None and not sample.masks]
    found: list[Specimen] = []
    if marked:
        found += read_specimens(marked, replace(how, truth="good regions"), store, unreadable, listen)
    if rest:
        found += read_specimens(rest, replace(how, truth="none"), store, unreadable, listen)
    return found


@dataclass(slots=True)
class Pilots:
    """Networks that learn as the recipe's will, for a share of its time, all of them for as many steps."""

    kind: ModelKind
    task: Task  # its planes are not looked at
    spec: FitSpec  # of the recipe's own network
    preprocess: PreprocessSpec  # with the kind's tiles
    share: float
    listen: Listener
    steps: int = 0  # of the first pilot, where minutes bound it; then of all

    def __call__(self, goods: Sequence[LabelledPlane], defects: Sequence[LabelledPlane]) -> Scorer:
        """One pilot; equal seeds, so that the first weights and windows of all pilots are the same.

        Raises:
            DataError: the loss is not finite. TryAgainError: interrupted.
        """
        task = replace(self.task, planes=goods)
        crops = crops_of(defects, largest_crop_px(self.kind))
        train = _of(self.kind, task, defects, crops)
        validation = _of(self.kind, replace(task, seed=task.seed + SEED_OF_VALIDATION, varied=False), [], ())
        spec = replace(self.spec, minutes=self.share * self.spec.minutes, steps=self._steps())
        torch.manual_seed(spec.seed)
        network = self.kind.build(task.classes)
        self.kind.prepare(network, goods)
        fit = Fit(network, spec, train, validation, objective=self.kind.objective(spec.loss, goods))
        name = f"pilot with {len(defects)} defect frames" if defects else "pilot without defects"
        progress = fit.run(lambda share, at: self.listen(Event("learn", f"{name}: step {at.step}", share)))
        self.steps = self.steps or progress.step
        if self.kind.complete is not None and len(goods) >= self.kind.least_planes:
            self.kind.complete(fit.network, goods, spec.seed, self.kind.tiles)
        return _scorer(self.kind, self.kind.finish(fit.network), self.preprocess)

    def _steps(self) -> int:
        return self.steps or (max(1, round(self.share * self.spec.steps)) if self.spec.steps else 0)


def weigh(
    found: Sequence[Specimen],
    goods: Sequence[Specimen],
    parts: Split,
    kind: ModelKind,
    task: Task,
    spec: FitSpec,
    preprocess: PreprocessSpec,
    *,
    recall_demanded: bool,
    memory: Path,
    listen: Listener,
) -> RealDefects:
    """Which of the defect frames are learned from, which are held, and what pilots said of the former.

    `goods` are the frames that the recipe learns from, of the split `parts`; `task` and `spec` are those of
    its own network. The verdict is kept in the file `memory`, so that a run that is continued learns no pilot
    twice. Says the verdict's sentence.

    Raises:
        DataError: the loss of a pilot is not finite. TryAgainError: interrupted; the same request continues.
    """
    if not found:
        return RealDefects()
    groups = [DefectFrame(s.group, bool(s.labelled.truth.any()), s.sample.split) for s in found]
    dealt = split_defects(groups, parts, seed=task.seed, recall_demanded=recall_demanded)
    learned, held = _dealt(found, dealt)
    share = pilot_share(len({s.group for s in learned}), PILOTS_SHARE)
    pilots = Pilots(kind, task, spec, preprocess, share, listen)
    known = [Known(s.group, s.labelled, False) for s in goods]
    # what is held for the operating point takes no part in the choice, or its recall would be flattered
    marked = [Known(s.group, s.labelled, True) for s in learned]
    about = (spec, preprocess.digest, replace(task, planes=()), share)
    prints = [[s.fingerprint for s in members] for members in (goods, learned)]
    key = hashlib.sha256(repr((about, prints)).encode()).hexdigest()
    verdict = remembered(memory, key, lambda: judge_defects(known, marked, pilots, seed=task.seed))
    if not learned:
        verdict = _only_held(held)
    listen(Event("prepare", verdict.sentence))
    crops = crops_of([s.labelled for s in learned], largest_crop_px(kind))
    used = share * (1 + verdict.figures.folds) if verdict.figures else 0.0
    return RealDefects(verdict, learned, held, crops, used)


def largest_crop_px(kind: ModelKind) -> int:
    """A side beyond which a defect is cut into pieces, so that a window holds one with what is around it."""
    return max(8, round(LARGEST_CROP * kind.window_px))


@dataclass(frozen=True, slots=True)
class Found:
    """How many held defect frames a recipe finds at thresholds that do not come from them."""

    found: int
    of: int
    lower_bound: float  # of recall, one-sided
    missed: tuple[str, ...]  # paths

    def sentence(self) -> str:
        return (
            f"{self.found} of {self.of} defect frames that were not learned from are found "
            f"(recall at least {self.lower_bound:.1%} at {CONFIDENCE:.0%} confidence)"
        )


def recall_of(
    held: Sequence[Sample], bundle: Bundle, runtime: Runtime, calibration: Calibration, limits: Limits
) -> Found | None:
    """Judge held defect frames by the recipe's own thresholds; None where none can be read.

    What is not decidable is not found.
    """
    inspector, found, missed = Inspector(bundle, runtime, calibration), 0, []
    unreadable: list[Unreadable] = []
    for sample, frame in frames(held, bundle.manifest.preprocess, limits, None, unreadable, bundle.folder):
        (inspection,) = inspector.inspect([frame])
        if inspection.judgement.evaluation == "NotOK":
            found += 1
        else:
            missed.append(sample.path)
    total = found + len(missed)
    return Found(found, total, lower_bound(found, total), tuple(missed)) if total else None


@dataclass(frozen=True, slots=True)
class _Torch:
    """A network as a runtime, for pilots, which are never exported."""

    network: nn.Module
    name: str = "torch"
    precision: str = "fp32"

    def batch_of(self, height_px: int, width_px: int) -> int:
        return PILOT_BATCH

    def infer(self, batches: Iterable[TileArray]) -> Iterator[FloatImage]:
        for batch in batches:
            with torch.no_grad():
                yield self.network(torch.from_numpy(as_float(batch))).numpy()


def _of(
    kind: ModelKind, task: Task, defects: Sequence[LabelledPlane], crops: Sequence[DefectCrop]
) -> AnomalyBatches:
    batches = kind.batches(kind, task)
    assert isinstance(batches, AnomalyBatches), "models that learn from anomalies only"
    return joined(batches, defects, crops)


def _scorer(kind: ModelKind, network: nn.Module, preprocess: PreprocessSpec) -> Scorer:
    runtime, spec = _Torch(network.eval()), kind.score

    def scorer(labelled: LabelledPlane) -> Shown:
        plane = np.asarray(labelled.plane, np.float32)
        (answer,) = answers([Planes(plane)], preprocess, runtime)
        values = score_map(plane, answer.stitched, spec.map, spec.smooth_px)
        score = summarise(plane, values, spec.statistic, spec.peak_px, None, spec.top_ratio)
        return Shown(score.raw, values)

    return scorer


def _dealt(
    found: Sequence[Specimen], dealt: DefectSplit
) -> tuple[tuple[Specimen, ...], tuple[Specimen, ...]]:
    train, held = set(dealt.train), set(dealt.held)
    return (
        tuple(s for s in found if s.group in train and s.labelled.truth.any()),
        tuple(s for s in found if s.group in held),
    )


def _only_held(held: Sequence[Specimen]) -> Verdict:
    return Verdict("nothing", f"{len(held)} defect frames are not learned from; they measure the recipe")
