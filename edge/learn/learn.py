"""Frames → bundle, calibration and report: the orchestration, top to bottom."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edge.artifacts import write_atomic
from edge.calibrate import Calibrated
from edge.dataset import Unreadable
from edge.detectability import Detectability, detect_planted
from edge.detectability import save as save_detectability
from edge.errors import UsageError
from edge.infer.bundle import EXPLAIN_MODEL, Bundle, load_bundle, write_bundle
from edge.infer.runtime import Runtime
from edge.learn.accelerate import Source, accelerate
from edge.learn.anomalies.batches import AnomalyBatches
from edge.learn.anomalies.sheet import contact_page, contact_sheet
from edge.learn.calibrating import agreement_of, calibrate_crossed_for, calibrate_for, guess
from edge.learn.data_record import FILE as DATA
from edge.learn.data_record import record_of
from edge.learn.datasets import PlaneStore
from edge.learn.export import golden_pair, to_onnx
from edge.learn.few_defects import RealDefects, weigh
from edge.learn.fit import Fit, FitSpec, Progress, threads
from edge.learn.fitting import announce, budgets, fit_for, fit_spec, learned_network
from edge.learn.models import ModelKind, Task, of_name
from edge.learn.prepare import Prepared, left_out, prepare
from edge.learn.progress import Event, Listener, silent
from edge.learn.report import write_report
from edge.learn.request import LearnRequest, score_for
from edge.learn.score_choice import ScoreChoice, choose_score, name_of
from edge.learn.specimens import Specimen
from edge.learn.split import Split
from edge.neighbours import FILE as NEIGHBOURS
from edge.neighbours import GoodPlane, gather, pack
from edge.options import check_recipe_name
from edge.pipeline import Inspector
from edge.renewal import Renewal

PLANTED, PLANTED_IN_STEPS = 1500, 170  # defects that are planted at most to see what is found


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
    previous: Path | None  # where the engine of that name lies which this one replaced


def learn(request: LearnRequest, listen: Listener = silent) -> LearnResult:
    """Learn a recipe; one of that name stays as it is until the new one is whole.

    Raises:
        UsageError: no such model, or a name that cannot be a recipe's.
        DataError: the data cannot support it (said before learning begins), or the loss diverged.
        TryAgainError: interrupted; the same request continues.
        CannotWriteError: the recipe cannot be written.
    """
    check_recipe_name(request.recipe)
    if request.model != "auto":
        of_name(request.model)
    renewal = Renewal(request.engines / request.recipe, request.calibration / f"{request.recipe}.json")
    renewal.clear()
    store = PlaneStore(renewal.resume / "planes.f16")
    try:
        with threads(request.threads):
            return _learn(request, renewal, store, listen)
    finally:
        store.close()


def show_anomalies(request: LearnRequest, file: Path, listen: Listener = silent) -> None:
    """Write what the network would learn from as a picture, or (`.html`) a page; nothing is learned.

    Raises:
        UsageError: the model does not learn from synthetic anomalies.
        DataError: as `learn`.
        CannotWriteError: the file cannot be written.
    """
    renewal = Renewal(request.engines / request.recipe, request.calibration / f"{request.recipe}.json")
    store = PlaneStore(renewal.resume / "planes.f16")
    try:
        ready = prepare(request, renewal, store, listen)
        batches = ready.kind.batches(ready.kind, ready.task)
        if not isinstance(batches, AnomalyBatches):
            raise UsageError(
                f"model {ready.name} does not learn from synthetic anomalies",
                hint="leave out --show-anomalies",
            )
        page = file.suffix.lower() in (".html", ".htm")
        write_atomic(file, contact_page(batches).encode() if page else contact_sheet(batches))
    finally:
        store.close()
        _forget(renewal.resume)


def _weighed(
    request: LearnRequest, ready: Prepared, spec: FitSpec, renewal: Renewal, listen: Listener
) -> tuple[Prepared, RealDefects]:
    """What is done with the defects beside good frames, and their uses beside those of the others."""
    real = weigh(
        ready.defects, ready.uses["train"], ready.parts, ready.kind, ready.task, spec, ready.preprocess,
        recall_demanded=request.min_recall is not None, memory=renewal.resume / "defects.json", listen=listen,
    )  # fmt: skip
    if not ready.defects:
        return ready, real
    uses = {**ready.uses, "learning defects": real.in_use, "measuring recall": real.unlearned}
    return replace(ready, uses=uses), real


def _learn(request: LearnRequest, renewal: Renewal, store: PlaneStore, listen: Listener) -> LearnResult:
    ready = prepare(request, renewal, store, listen)
    kind, preprocess, task = ready.kind, ready.preprocess, ready.task
    spec = fit_spec(request, kind, ready.name)
    ready, real = _weighed(request, ready, spec, renewal, listen)
    uses = ready.uses
    own, of_fold = budgets(request, kind, real.rest(spec), ready.parts)
    fit = fit_for(kind, ready.name, preprocess, task, own, uses, real, renewal.resume / "checkpoint.pt")
    announce(request, fit, ready.counts, listen)
    network = learned_network(kind, fit, task, listen)
    progress = fit.progress
    scored = _scored(request, kind, network, uses["validation"], listen)
    extra = {**ready.extra, **_explaining(request, kind, fit.network, uses["train"])}
    training = _training(request, kind, fit, task, uses, ready.counts, ready.why)
    if ready.choices is not None:
        training["choices"] = ready.choices.record() | {"score": _score_record(scored)}
    if ready.defects:
        training["real_defects"] = real.facts()
    record = record_of(request.dataset, uses, ready.unreadable, crossed=of_fold is not None)
    training["data_sha256"] = record.digest
    planes = [s.labelled.plane for s in uses["train"]]
    bundle = write_bundle(
        renewal.new_engine,
        name=request.recipe,
        model=ready.name,
        preprocess=preprocess,
        score=scored.score,
        output=kind.output,
        onnx=to_onnx(network, kind.tiles.size_px),
        golden=golden_pair(network, planes, kind.tiles, request.seed),
        training=training,
        classes=ready.classes if kind.names_classes else (),
        extra=extra,
    )
    write_atomic(renewal.new_engine / DATA, record.csv().encode())
    runtime, agreement = agreement_of(bundle)
    calibrated: Calibrated | None
    if of_fold is not None:
        calibrated = calibrate_crossed_for(request, ready, of_fold, real, bundle, renewal, listen)
    elif len(ready.parts.train) == 1 and not ready.parts.calibration and kind.truth == "none":
        calibrated = guess(request, uses["train"], bundle, runtime, renewal, listen)
    else:
        calibrated = calibrate_for(request, kind, uses["calibration"], real, bundle, runtime, renewal, listen)
    precisions = None
    if calibrated is not None and request.fewer_bits:
        held = uses["calibration"] or [*uses["train"], *uses["validation"]]
        source = Source(list({s.sample.path: s.sample for s in held}.values()), request.limits)
        precisions = accelerate(bundle, calibrated.calibration, source, seed=request.seed, listen=listen)
    write_report(
        renewal.new_engine / "report.html",
        bundle=bundle,
        calibrated=calibrated,
        runtime=runtime,
        limits=request.limits,
        curve=progress.curve,
        agreement=agreement,
        left_out=left_out(request, ready.unreadable),
        data=record,
        precisions=precisions,
        detectability=_detectability(request, kind, calibrated, bundle, runtime, renewal, listen),
    )
    replaced = renewal.swap()
    _forget(renewal.resume)
    return LearnResult(
        bundle=load_bundle(renewal.engine),
        calibrated=calibrated and replace(calibrated, file=renewal.calibration),
        model=ready.name,
        why=ready.why,
        split=ready.parts,
        counts=ready.counts,
        progress=progress,
        agreement=agreement,
        unreadable=ready.unreadable,
        report=renewal.engine / "report.html",
        previous=renewal.previous_engine if replaced else None,
    )


def _explaining(
    request: LearnRequest, kind: ModelKind, network: torch.nn.Module, learned: Sequence[Specimen]
) -> dict[str, bytes]:
    """Files of the bundle that explain verdicts: activations and gradients, good crops to compare with."""
    extra = {}
    if kind.explain is not None:
        extra[EXPLAIN_MODEL] = to_onnx(
            kind.explain(network), kind.tiles.size_px, outputs=("activations", "gradients")
        )
    good = [s for s in learned if not s.is_defect]
    crops = gather(
        (GoodPlane(s.sample.path, s.view, s.labelled.plane) for s in good), len(good), seed=request.seed
    )
    if len(crops.crops) and kind.truth == "none":
        extra[NEIGHBOURS] = pack(crops)
    return extra


def _detectability(
    request: LearnRequest,
    kind: ModelKind,
    calibrated: Calibrated | None,
    bundle: Bundle,
    runtime: Runtime,
    renewal: Renewal,
    listen: Listener,
) -> Detectability | None:
    """Which planted defects are found; None where there are no thresholds, or it learned from real ones."""
    if calibrated is None or kind.truth != "none":
        return None
    found = detect_planted(
        calibrated,
        Inspector(bundle, runtime, calibrated.calibration),
        request.limits,
        seconds=1e9 if request.steps else min(60.0, 6 * request.minutes),
        most=PLANTED_IN_STEPS if request.steps else PLANTED,  # by count: repeatable
        seed=request.seed,
        on_share=lambda share: listen(Event("test", "planted defects", share)),
    )
    if found is not None:
        save_detectability(renewal.new_engine, found)
    return found


def _scored(
    request: LearnRequest,
    kind: ModelKind,
    network: torch.nn.Module,
    held: Sequence[Specimen],
    listen: Listener,
) -> ScoreChoice:
    """The score: as asked for, or (of networks that learn from synthetic anomalies) what finds those best."""
    own = score_for(request, kind)
    if kind.plan is None or {"statistic", "smooth_px", "peak_px", "top_ratio", "of"} & set(request.score):
        return ScoreChoice(own, "as asked for" if request.score else "the model's own", {})
    chosen = choose_score(
        network, [s.labelled.plane for s in held], own, kind.plan, kind.tiles, kind.window_px, request.seed,
        lambda done, of: listen(Event("score", f"frame {done + 1} of {of}", done / of)),
    )  # fmt: skip
    listen(Event("score", f"{name_of(chosen.score)}: {chosen.why}"))
    return chosen


def _score_record(scored: ScoreChoice) -> dict[str, Any]:
    return {"value": scored.score.model_dump(), "why": scored.why, "found": scored.found}


def _training(
    request: LearnRequest,
    kind: ModelKind,
    fit: Fit,
    task: Task,
    uses: Mapping[str, Sequence[Specimen]],
    counts: Mapping[str, Mapping[str, int]],
    why: str,
) -> dict[str, Any]:
    # the thresholds of a supervised network come from the frames that only stopped its learning
    supervised = kind.truth in ("pixels", "frames")
    learning = ("train",) if supervised else ("train", "validation", "learning defects")
    learned = sorted({s.digest for use in learning for s in uses.get(use, ())})
    return {
        "why_model": why,
        "truth": kind.truth,
        "seed": request.seed,
        "steps": fit.progress.step,
        "best_step": fit.progress.best_step,
        "stopped": fit.progress.stopped,
        "restarts": fit.progress.restarts,
        "seconds": round(fit.progress.elapsed_s, 1),
        "loss": fit.spec.loss,
        "validation_loss": fit.progress.best_loss if math.isfinite(fit.progress.best_loss) else None,
        "learning_rate": fit.spec.learning_rate,
        "window_px": kind.window_px,
        "batch": kind.batch,
        "augmentation": task.augmentation or "the model's own",
        "movement": asdict(task.movement),
        "light": asdict(task.light),
        **({"stride": kind.stride} if kind.stride else {}),
        "around_defects": request.around_defects,
        **kind.facts,
        "bf16": fit.spec.bf16,
        "device": fit.spec.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "frames": {use: dict(views) for use, views in counts.items()},
        "defect_frames": {use: sum(s.is_defect for s in members) for use, members in uses.items()},
        "learned_from_sha256": hashlib.sha256("".join(learned).encode()).hexdigest(),
        "learned_from": learned,
    }


def _forget(folder: Path) -> None:
    """What an interrupted run would have needed."""
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
