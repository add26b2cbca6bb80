"""Good frames → bundle, calibration and report: the orchestration, top to bottom."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from edge.calibrate import Calibrated, calibrate_recipe, learned_id
from edge.dataset import Dataset, Sample, Unreadable, count_by_view, frames
from edge.decode import Limits
from edge.errors import BundleError, DataError, UnavailableError, UsageError
from edge.infer.bundle import Bundle, ScoreSpec, load_bundle, write_bundle
from edge.infer.compile import open_runtime, prove
from edge.infer.runtime import Runtime
from edge.judge.calibration import TooFew
from edge.learn.datasets import Augmentation, Plane16, PlaneStore, Windows
from edge.learn.export import golden_pair, to_onnx
from edge.learn.fit import Fit, FitSpec, Progress, cpu_has_bf16, threads
from edge.learn.losses import LossName
from edge.learn.models import MODELS, ModelKind, choose
from edge.learn.progress import Event, Listener, silent
from edge.learn.report import write_report
from edge.learn.split import Split, all_to_learn, split
from edge.options import check_recipe_name
from edge.preprocess import PreprocessSpec
from edge.renewal import Renewal
from edge.types import DEFAULT_VIEW, ImageInfo

DEFAULT_LIMITS = Limits(max_pixels=200_000_000, max_pages=64)
VALIDATION_BATCH = 16


@dataclass(frozen=True, slots=True)
class LearnRequest:
    """What to learn, from what, into which folders. None: the model's own default."""

    recipe: str
    dataset: Dataset
    engines: Path
    calibration: Path
    model: str = "auto"
    minutes: float = 5.0
    steps: int = 0  # instead of minutes: a run that can be repeated bit for bit
    seed: int = 0
    false_reject: float = 0.05
    too_few: TooFew = "pool"
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)  # its tiles: the model's
    score: Mapping[str, Any] = field(default_factory=dict)  # overrides of the model's ScoreSpec
    loss: LossName | None = None
    augmentation: Augmentation | None = None
    limits: Limits = DEFAULT_LIMITS
    calibrate: bool = True
    fresh: bool = False
    threads: int = 0


@dataclass(frozen=True, slots=True)
class GoodPlane:
    """A frame that can be learned from."""

    sample: Sample
    view: str
    group: str  # part, or the file where it names none
    digest: str
    plane: Plane16


@dataclass(frozen=True, slots=True)
class LearnResult:
    """What was learned and how well it is founded."""

    bundle: Bundle
    calibrated: Calibrated | None
    model: str
    why: str
    split: Split
    counts: Mapping[str, Mapping[str, int]]  # use → view → frames
    progress: Progress
    agreement: Mapping[str, float | str]  # precision → largest difference to torch, or why it cannot run
    unreadable: tuple[Unreadable, ...]
    report: Path


def learn(request: LearnRequest, listen: Listener = silent) -> LearnResult:
    """Learn a recipe; one of that name stays as it is until the new one is whole.

    Raises:
        UsageError: no such model, or a name that cannot be a recipe's.
        DataError: the data cannot support it (said before learning begins), or the loss diverged.
        TryAgainError: interrupted; the same request continues.
        CannotWriteError: the recipe cannot be written.
    """
    check_recipe_name(request.recipe)
    if request.model != "auto" and request.model not in MODELS:
        raise UsageError(f"no model {request.model!r}", hint=f"choose auto, {', '.join(MODELS)}")
    renewal = Renewal(request.engines / request.recipe, request.calibration / f"{request.recipe}.json")
    renewal.clear()
    store = PlaneStore(renewal.resume / "planes.f16")
    try:
        with threads(request.threads):
            return _learn(request, renewal, store, listen)
    finally:
        store.close()


def _learn(request: LearnRequest, renewal: Renewal, store: PlaneStore, listen: Listener) -> LearnResult:
    unreadable: list[Unreadable] = []
    good = _read(request, store, unreadable, listen)
    name, why = _model(request, good)
    kind = MODELS[name]
    listen(Event("prepare", f"model {name}: {why}"))
    parts = _split(request, good)
    uses = {use: [g for g in good if g.group in set(getattr(parts, use))] for use in Split.__slots__}
    counts = {use: count_by_view(g.view for g in members) for use, members in uses.items()}
    preprocess = request.preprocess.model_copy(update={"tiles": kind.tiles})
    fit = _fit(request, kind, name, preprocess, uses, renewal.resume / "checkpoint.pt")
    _announce(request, fit, counts, listen)
    progress = fit.run(lambda share, at: listen(Event("learn", _at(at), share)))
    listen(Event("learn", f"learned {progress.step} steps in {progress.elapsed_s:.0f} s: {progress.stopped}"))

    bundle = write_bundle(
        renewal.new_engine,
        name=request.recipe,
        model=name,
        preprocess=preprocess,
        score=ScoreSpec.model_validate(kind.score.model_dump() | dict(request.score)),
        output="reconstruction",
        onnx=to_onnx(fit.network, kind.tiles.size_px),
        golden=golden_pair(fit.network, [g.plane for g in uses["train"]], kind.tiles, request.seed),
        training=_training(request, fit, uses, counts, why),
    )
    runtime, agreement = _agreement(bundle)
    calibrated = _calibrate(request, uses["calibration"], bundle, runtime, renewal.new_calibration, listen)
    write_report(
        renewal.new_engine / "report.html",
        bundle=bundle,
        calibrated=calibrated,
        runtime=runtime,
        limits=request.limits,
        curve=progress.curve,
        agreement=agreement,
        left_out=_left_out(request, unreadable),
    )
    renewal.swap()
    _forget(renewal.resume)
    return LearnResult(
        bundle=load_bundle(renewal.engine),
        calibrated=calibrated and replace(calibrated, file=renewal.calibration),
        model=name,
        why=why,
        split=parts,
        counts=counts,
        progress=progress,
        agreement=agreement,
        unreadable=tuple(unreadable),
        report=renewal.engine / "report.html",
    )


def _read(
    request: LearnRequest, store: PlaneStore, unreadable: list[Unreadable], listen: Listener
) -> list[GoodPlane]:
    wanted = request.dataset.good()
    if not wanted:
        raise DataError(
            f"{request.dataset.source}: no good frame to learn from among {len(request.dataset.samples)}",
            hint="rows need label = good, and a split that is not test",
            reason="too_few_frames",
        )
    found: list[GoodPlane] = []
    images: list[ImageInfo] = []
    seen = set()
    for sample, frame in frames(wanted, request.preprocess, request.limits, unreadable=unreadable):
        seen.add(sample.path)
        listen(Event("prepare", sample.path, len(seen) / len(wanted)))
        images.append(frame.image)
        found.append(
            GoodPlane(
                sample=sample,
                view=frame.identity.view or DEFAULT_VIEW,
                group=sample.part or f"file {sample.path}",
                digest=learned_id(frame.image.sha256),
                plane=store.keep(frame.plane),
            )
        )
    for sentence in _left_out(request, unreadable):
        listen(Event("prepare", f"left out: {sentence}"))
    if not found:
        raise DataError(
            f"none of {len(wanted)} good frames can be read: {unreadable[0]}",
            hint="look at the files",
        )
    for sentence in unlike_each_other(images):
        listen(Event("prepare", sentence))
    return found


def unlike_each_other(images: Sequence[ImageInfo]) -> list[str]:
    """What a person should know before learning from a folder into which other files have strayed."""
    said = []
    sizes = Counter((image.width, image.height) for image in images)
    (width, height), usual = sizes.most_common(1)[0]
    if len(sizes) > 1:
        rest = f"the rest of other sizes ({len(sizes) - 1})"
        said.append(f"{usual} of {len(images)} frames are {width}×{height}, {rest}")
    depths = Counter(image.bits for image in images)
    if len(depths) > 1:
        listed = ", ".join(f"{count} of {bits} bits" for bits, count in depths.most_common())
        said.append(f"frames differ in bit depth: {listed}")
    return said


def _left_out(request: LearnRequest, unreadable: Sequence[Unreadable]) -> list[str]:
    unmatched = [f"{name}: its name does not match" for name in request.dataset.unmatched]
    return unmatched + [f"{bad} ({bad.reason})" for bad in unreadable]


def _model(request: LearnRequest, good: Sequence[GoodPlane]) -> tuple[str, str]:
    if request.model != "auto":
        return request.model, "as asked for"
    return choose([(g.plane.shape[0], g.plane.shape[1]) for g in good])


def _split(request: LearnRequest, good: Sequence[GoodPlane]) -> Split:
    groups: dict[str, list[str]] = {}
    for g in good:
        groups.setdefault(g.group, []).append(g.view)
    if not request.calibrate:
        return all_to_learn(groups, seed=request.seed)
    return split(groups, seed=request.seed, false_reject=request.false_reject, too_few=request.too_few)


def _fit(
    request: LearnRequest,
    kind: ModelKind,
    name: str,
    preprocess: PreprocessSpec,
    uses: Mapping[str, Sequence[GoodPlane]],
    checkpoint: Path,
) -> Fit:
    spec = FitSpec(
        loss=request.loss or kind.loss,
        learning_rate=kind.learning_rate,
        minutes=request.minutes,
        steps=request.steps,
        seed=request.seed,
        bf16=cpu_has_bf16(),
    )
    has_views = any(g.view != DEFAULT_VIEW for g in uses["train"])
    augmentation = request.augmentation or ("none" if has_views else "flips")
    train = Windows(
        [g.plane for g in uses["train"]], kind.tiles, kind.window_px, kind.batch, augmentation, request.seed
    )
    held = uses["validation"] or uses["train"]
    validation = Windows(
        [g.plane for g in held],
        kind.tiles,
        kind.window_px,
        VALIDATION_BATCH,
        "none",
        request.seed + 1_000_003,
    )
    digests = [[g.digest for g in uses[use]] for use in sorted(uses)]
    key = hashlib.sha256(repr((name, preprocess.digest, spec, augmentation, digests)).encode()).hexdigest()
    torch.manual_seed(request.seed)
    return Fit(kind.build(), spec, train, validation, checkpoint=checkpoint, key=key)


def _announce(
    request: LearnRequest, fit: Fit, counts: Mapping[str, Mapping[str, int]], listen: Listener
) -> None:
    for use, views in counts.items():
        listed = ", ".join(f"{view} {n}" if view != DEFAULT_VIEW else str(n) for view, n in views.items())
        listen(Event("prepare", f"frames for {use}: {listed or 'none'}"))
    assert fit.checkpoint is not None
    there = fit.checkpoint.is_file()
    if request.fresh:
        return
    if fit.resume():
        listen(Event("learn", f"continues an interrupted run at step {fit.progress.step}"))
    elif there:
        listen(Event("learn", "an interrupted run had other data or arguments: starts afresh"))


def _at(progress: Progress) -> str:
    text = f"step {progress.step}"
    return f"{text}, validation loss {progress.curve[-1][2]:.4f}" if progress.curve else text


def _training(
    request: LearnRequest,
    fit: Fit,
    uses: Mapping[str, Sequence[GoodPlane]],
    counts: Mapping[str, Mapping[str, int]],
    why: str,
) -> dict[str, Any]:
    learned = sorted({g.digest for use in ("train", "validation") for g in uses[use]})
    return {
        "why_model": why,
        "seed": request.seed,
        "steps": fit.progress.step,
        "best_step": fit.progress.best_step,
        "stopped": fit.progress.stopped,
        "restarts": fit.progress.restarts,
        "seconds": round(fit.progress.elapsed_s, 1),
        "loss": fit.spec.loss,
        "validation_loss": fit.progress.best_loss,
        "learning_rate": fit.spec.learning_rate,
        "window_px": fit.train.size_px,
        "batch": fit.train.batch,
        "augmentation": fit.train.augmentation,
        "bf16": fit.spec.bf16,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "frames": {use: dict(views) for use, views in counts.items()},
        "learned_from_sha256": hashlib.sha256("".join(learned).encode()).hexdigest(),
        "learned_from": learned,
    }


def _agreement(bundle: Bundle) -> tuple[Runtime, dict[str, float | str]]:
    """The fp32 runtime that calibrates, and how far each precision of this machine is from torch."""
    runtime = open_runtime(bundle, precision="fp32")
    agreement: dict[str, float | str] = {"fp32": prove(bundle, runtime)}
    try:
        agreement["bf16"] = prove(bundle, open_runtime(bundle, precision="bf16"))
    except (BundleError, UnavailableError) as error:
        agreement["bf16"] = error.message
    return runtime, agreement


def _calibrate(
    request: LearnRequest,
    held: Sequence[GoodPlane],
    bundle: Bundle,
    runtime: Runtime,
    file: Path,
    listen: Listener,
) -> Calibrated | None:
    if not request.calibrate:
        return None
    calibrated = calibrate_recipe(
        list({g.sample.path: g.sample for g in held}.values()),
        bundle,
        runtime,
        file,
        recipe=request.recipe,
        false_reject=request.false_reject,
        too_few=request.too_few,
        limits=request.limits,
        on_frame=lambda done, of: listen(Event("calibrate", f"frame {done + 1} of {of}", done / of)),
    )
    for sentence in calibrated.shortfalls():
        listen(Event("calibrate", f"WARNING {sentence}"))
    return calibrated


def _forget(folder: Path) -> None:
    """What an interrupted run would have needed."""
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
