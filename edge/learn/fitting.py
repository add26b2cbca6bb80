"""The network of a request: how long it learns, from what, and what is exported of it."""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from edge.errors import DataError, UsageError
from edge.learn.few_defects import RealDefects
from edge.learn.fit import Fit, FitSpec, Progress, has_bf16, learning_device
from edge.learn.models import ModelKind, Task
from edge.learn.prepare import planes_for
from edge.learn.progress import Event, Listener
from edge.learn.request import LearnRequest
from edge.learn.specimens import Specimen
from edge.learn.split import Split
from edge.preprocess import PreprocessSpec
from edge.types import DEFAULT_VIEW

FOLDS = 4


def learned_network(kind: ModelKind, fit: Fit, task: Task, listen: Listener) -> torch.nn.Module:
    """The finished network: by gradients, or in closed form, or both one after the other."""
    began = time.monotonic()
    if kind.closed_form is not None:
        kind.closed_form(fit.network, task.planes, task.seed)
        fit.progress.elapsed_s = time.monotonic() - began
        fit.progress.stopped = "in closed form"
        listen(Event("learn", f"learned in closed form in {fit.progress.elapsed_s:.0f} s"))
    else:
        done = fit.run(lambda share, at: listen(Event("learn", _at(at), share)))
        listen(Event("learn", f"learned {done.step} steps in {done.elapsed_s:.0f} s: {done.stopped}"))
        if kind.complete is not None:
            kind.complete(fit.network, task.planes, task.seed, kind.tiles)
    return kind.finish(fit.network).eval()


def fit_spec(request: LearnRequest, kind: ModelKind, name: str) -> FitSpec:
    """How the network learns.

    Raises:
        UsageError: it does not learn with that loss.
    """
    loss = request.loss or kind.loss
    if loss not in kind.losses:
        raise UsageError(f"--loss {loss}: model {name} learns with {', '.join(kind.losses)}")
    device = learning_device()
    return FitSpec(
        loss=loss,
        learning_rate=request.learning_rate or kind.learning_rate,
        minutes=request.minutes,
        steps=request.steps,
        seed=request.seed,
        bf16=has_bf16(device),
        device=device,
        validation_batches=kind.validation_batches,
        patience=kind.patience,
    )


def fit_for(
    kind: ModelKind,
    name: str,
    preprocess: PreprocessSpec,
    task: Task,
    spec: FitSpec,
    uses: Mapping[str, Sequence[Specimen]],
    real: RealDefects,
    checkpoint: Path,
) -> Fit:
    held = planes_for(kind, uses["validation"]) or task.planes
    train = real.join(kind.batches(kind, task))
    validation = kind.batches(kind, replace(task, planes=held, seed=spec.seed + 1_000_003, varied=False))
    spec = replace(spec, validation_batches=getattr(validation, "batches", spec.validation_batches))
    fingerprints = [[s.fingerprint for s in uses[use]] for use in sorted(uses)]
    plain = replace(task, planes=(), crops=())
    crops = [zlib.crc32(crop.window.tobytes()) for crop in task.crops]
    about = (name, preprocess.digest, spec, plain, crops, fingerprints, real.verdict.use)
    key = hashlib.sha256(repr(about).encode()).hexdigest()
    torch.manual_seed(spec.seed)
    network = kind.build(task.classes)
    kind.prepare(network, task.planes)
    return Fit(
        network, spec, train, validation, objective=kind.objective(spec.loss, task.planes),
        checkpoint=checkpoint, key=key,
    )  # fmt: skip


def announce(
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


def budgets(
    request: LearnRequest, kind: ModelKind, spec: FitSpec, parts: Split
) -> tuple[FitSpec, FitSpec | None]:
    """What the recipe's network may use, and what that of each fold may; None where there are no folds.

    Raises:
        UsageError: crossing a network that learns from defects.
        DataError: fewer than two parts.
    """
    if request.procedure == "split" or not request.calibrate:
        return spec, None
    if kind.truth != "none" or request.min_recall is not None:
        raise UsageError("--procedure cross is of models that learn from good frames", hint="leave it out")
    groups = len(parts.train) + len(parts.validation)
    if groups < 2:
        raise DataError(
            "good frames of one part cannot be dealt into folds",
            hint="give more good frames, or leave out --procedure cross",
            reason="too_few_frames",
        )
    half = replace(spec, minutes=spec.minutes / 2)
    return half, replace(half, minutes=half.minutes / min(FOLDS, groups))
