"""Frames → bundle, calibration and report: the orchestration, top to bottom."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from edge.artifacts import write_atomic
from edge.calibrate import Calibrated, calibrate_recipe
from edge.calibrate_labelled import calibrate_labelled
from edge.dataset import Dataset, Sample, Unreadable, count_by_view
from edge.decode import Limits
from edge.detectability import Detectability, detect_planted
from edge.detectability import save as save_detectability
from edge.errors import BundleError, DataError, UnavailableError, UsageError
from edge.infer.bundle import EXPLAIN_MODEL, Bundle, ScoreSpec, load_bundle, write_bundle
from edge.infer.compile import open_runtime, prove
from edge.infer.runtime import Runtime
from edge.judge.calibration import TooFew, UnseenViews
from edge.judge.thresholds import ThresholdRule
from edge.learn.anomalies.batches import AnomalyBatches
from edge.learn.anomalies.sheet import contact_page, contact_sheet
from edge.learn.augment import Light, Movement, shrunk
from edge.learn.automatic import Choices
from edge.learn.datasets import Augmentation, PlaneStore
from edge.learn.export import golden_pair, to_onnx
from edge.learn.few_defects import NO_OPERATING_POINT, RealDefects, read_defects, recall_of, weigh
from edge.learn.fit import Fit, FitSpec, Progress, has_bf16, learning_device, threads
from edge.learn.labels import LabelledPlane
from edge.learn.looked import choices_for
from edge.learn.masks import mean_masks, with_mask_network
from edge.learn.models import MODELS, ModelKind, Task, Truth, of_name, strided
from edge.learn.patches import PatchRule
from edge.learn.progress import Event, Listener, silent
from edge.learn.report import write_report
from edge.learn.score_choice import ScoreChoice, choose_score, name_of
from edge.learn.specimens import Reading, Specimen, classes_of, read_specimens
from edge.learn.split import Labelled, Split, all_to_learn, split, split_labelled
from edge.neighbours import FILE as NEIGHBOURS
from edge.neighbours import GoodPlane, gather, pack
from edge.options import check_recipe_name
from edge.pipeline import Inspector
from edge.preprocess import PreprocessSpec
from edge.renewal import Renewal
from edge.types import DEFAULT_VIEW

PLANTED, PLANTED_IN_STEPS = 1500, 170  # defects that are planted at most to see what is found
DEFAULT_LIMITS = Limits(max_pixels=200_000_000, max_pages=64)


@dataclass(frozen=True, slots=True)
class LearnRequest:
    """What to learn, from what, into which folders. None: the model's own default."""

    recipe: str
    dataset: Dataset
    engines: Path
    calibration: Path
    model: str = "auto"
    pinned: frozenset[str] = frozenset()  # of what `edge learn` chooses itself: fields asked for
    minutes: float = 5.0
    steps: int = 0  # instead of minutes: a run that can be repeated bit for bit
    seed: int = 0
    rule: ThresholdRule = field(default_factory=ThresholdRule)
    too_few: TooFew = "pool"
    false_reject_part: float | None = None  # share of good parts that may be rejected
    review_band: float | None = None  # share of good frames above which what is OK is to be looked at
    unseen_views: UnseenViews = "refuse"
    min_recall: float | None = None  # where defects are given: the share of them that must be found
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)  # its tiles: the model's
    fit: Literal["stretch", "pad"] | None = None  # of frames to the size; None: the model's own
    mask_engine: Path | None = None  # the bundle of a mask-unet, for preprocess.mask.method = "unet"
    score: Mapping[str, Any] = field(default_factory=dict)  # overrides of the model's ScoreSpec
    loss: str | None = None
    learning_rate: float | None = None
    augmentation: Augmentation | None = None
    movement: Movement = field(default_factory=Movement)  # of autoencoders' windows, beside the augmentation
    light: Light = field(default_factory=Light)
    patch_rule: PatchRule | None = None  # centre
    stride: int | None = None  # of a patch network's map
    around_defects: bool = False  # learn what is good in defect frames with masks, too
    limits: Limits = DEFAULT_LIMITS
    calibrate: bool = True
    fresh: bool = False
    threads: int = 0


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


@dataclass(frozen=True, slots=True)
class _Prepared:
    """All that is known before the first step."""

    name: str
    why: str
    kind: ModelKind
    choices: Choices | None
    preprocess: PreprocessSpec
    extra: Mapping[str, bytes]
    classes: tuple[str, ...]
    parts: Split
    uses: Mapping[str, Sequence[Specimen]]
    task: Task
    defects: tuple[Specimen, ...]  # beside good frames, of kinds that need none
    unreadable: tuple[Unreadable, ...]

    @property
    def counts(self) -> dict[str, Mapping[str, int]]:
        """use → view → frames."""
        return {use: count_by_view(s.view for s in members) for use, members in self.uses.items()}


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
        ready = _prepare(request, renewal, store, listen)
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


def _prepare(request: LearnRequest, renewal: Renewal, store: PlaneStore, listen: Listener) -> _Prepared:
    kind = None if request.model == "auto" else of_name(request.model)
    if kind is not None:
        _check_options(request, kind)
    truth = _truth(request, kind)
    wanted = _wanted(request, truth)
    preprocess, extra = _preprocessing(request, kind, renewal, wanted, listen)
    choices = None
    if kind is None or kind.plan is not None:
        choices = choices_for(
            wanted, preprocess, request.limits, _pinned(request), request.seed, listen, renewal.new_engine
        )
        kind = of_name(choices.model.value)
        if kind.size_px is None:
            preprocess = preprocess.model_copy(update={"scale": choices.scale.value})
            kind = replace(kind, tiles=choices.tiles.value)
        else:
            preprocess = preprocess.model_copy(update={"size_px": kind.size_px, "fit": kind.fit})
        if kind.plan is not None:
            kind = replace(kind, score=choices.score.value, plan=choices.plan)
        preprocess = preprocess.model_copy(update={"illumination": choices.illumination.value})
    assert kind is not None, "the model asked for, or the one chosen"
    name, why = (choices.model.value, choices.model.why) if choices else (request.model, "as asked for")
    if request.stride is not None:
        kind = strided(of_name(name), request.stride)
    _check_options(request, kind)
    size_px = kind.size_px or preprocess.size_px
    classes = classes_of(wanted) if truth == "pixels" else ()
    unreadable: list[Unreadable] = []
    reading = Reading(preprocess, request.limits, truth, classes, renewal.new_engine)
    specimens = read_specimens(wanted, reading, store, unreadable, listen)
    for sentence in _left_out(request, unreadable):
        listen(Event("prepare", f"left out: {sentence}"))
    preprocess = preprocess.model_copy(update={"tiles": kind.tiles, "size_px": size_px})
    listen(Event("prepare", f"model {name}: {why}"))
    parts = _split(request, kind, specimens)
    uses = {use: [s for s in specimens if s.group in set(getattr(parts, use))] for use in Split.__slots__}
    task = _task(request, kind, classes, uses)
    beside = kind.plan is not None
    defects = read_defects(request.dataset, reading, store, unreadable, listen) if beside else []
    return _Prepared(
        name, why, kind, choices, preprocess, extra, classes, parts, uses, task, tuple(defects),
        tuple(unreadable),
    )  # fmt: skip


def _weighed(
    request: LearnRequest, ready: _Prepared, spec: FitSpec, renewal: Renewal, listen: Listener
) -> tuple[_Prepared, RealDefects]:
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
    ready = _prepare(request, renewal, store, listen)
    kind, preprocess, task = ready.kind, ready.preprocess, ready.task
    spec = _fit_spec(request, kind, ready.name)
    ready, real = _weighed(request, ready, spec, renewal, listen)
    uses = ready.uses
    fit = _fit(
        kind, ready.name, preprocess, task, real.rest(spec), uses, real, renewal.resume / "checkpoint.pt"
    )
    _announce(request, fit, ready.counts, listen)
    network = _learned(kind, fit, task, listen)
    progress = fit.progress
    scored = _scored(request, kind, network, uses["validation"], listen)
    extra = {**ready.extra, **_explaining(request, kind, fit.network, uses["train"])}
    training = _training(request, kind, fit, task, uses, ready.counts, ready.why)
    if ready.choices is not None:
        training["choices"] = ready.choices.record() | {"score": _score_record(scored)}
    if ready.defects:
        training["real_defects"] = real.facts()
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
    runtime, agreement = _agreement(bundle)
    calibrated = _calibrate(request, kind, uses["calibration"], real, bundle, runtime, renewal, listen)
    write_report(
        renewal.new_engine / "report.html",
        bundle=bundle,
        calibrated=calibrated,
        runtime=runtime,
        limits=request.limits,
        curve=progress.curve,
        agreement=agreement,
        left_out=_left_out(request, ready.unreadable),
        detectability=_detectability(request, kind, calibrated, bundle, runtime, renewal, listen),
    )
    renewal.swap()
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
    )


def _learned(kind: ModelKind, fit: Fit, task: Task, listen: Listener) -> torch.nn.Module:
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


def check_masks_are_used(model: str) -> None:
    """What has a mask counts as a defect frame, which good-only models would leave out without a word.

    Raises:
        UsageError: the model learns from good frames only.
    """
    if model != "auto" and of_name(model).truth == "none" and of_name(model).plan is None:
        raise UsageError(
            f"--masks has no effect on model {model}, which learns from good frames",
            hint="choose a model that learns from masks, or fragment-ae with --around-defects",
        )


def _check_options(request: LearnRequest, kind: ModelKind) -> None:
    """Nothing that was asked for may be without effect.

    Raises:
        UsageError: the model has no use for an option.
    """
    supervised = kind.truth in ("pixels", "frames")
    given = kind.plan is not None and any(s.label == "defect" for s in request.dataset.labelled())
    default = ThresholdRule()
    without_effect = {
        "--min-recall": request.min_recall is not None and not supervised and not given,
        "--rotate": request.movement != Movement() and not kind.can_be_moved,
        "--light": request.light != Light() and not kind.can_be_moved,
        "--patch-rule": request.patch_rule is not None and not kind.stride,
        "--stride": request.stride is not None and not kind.stride,
        "--false-reject-part": request.false_reject_part is not None and kind.truth != "none",
        "--review-band": request.review_band is not None and kind.truth != "none",
        "--unseen-views": request.unseen_views != "refuse" and kind.truth != "none",
        "--threshold": request.rule.method != default.method
        and (kind.truth == "foreground" or request.min_recall is not None),
    }
    if idle := [name for name, ignored in without_effect.items() if ignored]:
        raise UsageError(f"{idle[0]} has no effect on model {request.model}", hint="leave it out")
    score = _score(request, kind)
    if "peak_px" in request.score and score.statistic != "peak":
        raise UsageError(f"--peak has no effect on --statistic {score.statistic}", hint="leave it out")
    if "min_area_px" in request.score and not (kind.names_classes or score.statistic == "level"):
        raise UsageError(f"--min-area has no effect on model {request.model}", hint="leave it out")


def _score(request: LearnRequest, kind: ModelKind) -> ScoreSpec:
    """The model's score with what was asked for in place of its own.

    Raises:
        UsageError: there is no such score.
    """
    try:
        spec = ScoreSpec.model_validate(kind.score.model_dump() | dict(request.score))
    except ValidationError as error:
        raise UsageError(
            f"no such score: {error.errors()[0]['msg'].removeprefix('Value error, ')}",
            hint="--score-of, --statistic and --score-map must fit each other and the model",
        ) from None
    if (spec.map == "probability") != (kind.output == "probability"):
        raise UsageError(
            f"--score-map {spec.map}: model {request.model} answers a {kind.output}", hint="leave it out"
        )
    if spec.of == "fragment" and kind.output == "probability":
        raise UsageError("--score-of fragment is of autoencoders", hint="leave it out")
    if spec.of == "object" and request.preprocess.mask is None:
        raise UsageError(
            "--score-of object needs to know what is an object", hint="add --mask otsu, or another"
        )
    return spec


def _truth(request: LearnRequest, kind: ModelKind | None) -> Truth:
    """What the network is told.

    Raises:
        UsageError: it cannot learn from defect frames what is good in them.
    """
    if not request.around_defects:
        return kind.truth if kind else "none"
    if kind is None or not kind.can_go_around:
        able = ", ".join(name for name, known in MODELS.items() if known.can_go_around)
        raise UsageError(f"model {request.model} cannot learn around defects", hint=f"choose {able}")
    return "good regions"


def _wanted(request: LearnRequest, truth: Truth) -> Sequence[Sample]:
    """The frames that a network with that truth learns from.

    Raises:
        DataError: there are none, or none of a kind it needs.
    """
    supervised = truth in ("pixels", "frames")
    wanted = request.dataset.good() if truth == "none" else request.dataset.labelled()
    if truth == "good regions":
        wanted = request.dataset.good_regions()
        if not any(sample.label == "defect" for sample in wanted):
            raise DataError(
                f"{request.dataset.source}: no defect frame with a mask to learn around",
                hint="leave out --around-defects, or give masks",
            )
    if not wanted:
        raise DataError(
            f"{request.dataset.source}: no {'labelled' if supervised else 'good'} frame to learn from among "
            f"{len(request.dataset.samples)}",
            hint="rows need label = good"
            + (" or defect" if supervised else "")
            + ", and a split that is not test"
            + ("; --around-defects learns from defect frames, too" if request.dataset.good_regions() else ""),
            reason="too_few_frames",
        )
    if supervised and not any(sample.label == "defect" for sample in wanted):
        raise DataError(
            f"{request.dataset.source}: model {request.model} learns from defects, and there is none",
            hint="label defect frames (and give masks) by --masks DIR or a manifest, or choose --model auto, "
            "which learns from good frames",
            reason="too_few_frames",
        )
    return wanted


def _preprocessing(
    request: LearnRequest,
    kind: ModelKind | None,
    renewal: Renewal,
    wanted: Sequence[Sample],
    listen: Listener,
) -> tuple[PreprocessSpec, dict[str, bytes]]:
    """The recipe's preprocessing, and the files that its masks need, which lie in the new bundle already.

    Raises:
        UsageError: options that exclude each other.
    """
    spec = request.preprocess
    if request.fit is not None and spec.size_px is None and (kind is None or kind.size_px is None):
        raise UsageError(f"--fit {request.fit} needs a size to fit into", hint="give --size")
    if kind is not None and kind.size_px is not None:
        if spec.size_px not in (None, kind.size_px) or spec.scale != 1:
            width, height = kind.size_px
            raise UsageError(
                f"model {request.model} sees frames at {width}×{height}", hint="leave out --size and --scale"
            )
        if kind.truth != "foreground":  # outlines are learned from masks larger than the network sees
            spec = spec.model_copy(update={"size_px": kind.size_px, "fit": kind.fit})
    if request.fit is not None:
        spec = spec.model_copy(update={"fit": request.fit})
    if spec.mask is None or not spec.mask.needs_files:
        return spec, {}
    renewal.new_engine.mkdir(parents=True, exist_ok=True)
    if spec.mask.method == "mean":
        return mean_masks(spec, request, renewal.new_engine, wanted, listen)
    if request.mask_engine is None:
        raise UsageError("no network that finds the foreground", hint="name its recipe with --mask-recipe")
    return with_mask_network(spec, request.mask_engine, renewal.new_engine)


def _left_out(request: LearnRequest, unreadable: Sequence[Unreadable]) -> list[str]:
    unmatched = [f"{name}: its name does not match" for name in request.dataset.unmatched]
    return unmatched + [f"{bad} ({bad.reason})" for bad in unreadable]


def _pinned(request: LearnRequest) -> dict[str, Any]:
    """What of the choices was asked for."""
    spec = request.preprocess
    given: dict[str, Any] = {"scale": spec.scale, "illumination": spec.illumination}
    pinned = {name: value for name, value in given.items() if name in request.pinned}
    if spec.size_px is not None:
        pinned["scale"] = spec.scale
    return pinned | ({"model": request.model} if request.model != "auto" else {})


def _scored(
    request: LearnRequest,
    kind: ModelKind,
    network: torch.nn.Module,
    held: Sequence[Specimen],
    listen: Listener,
) -> ScoreChoice:
    """The score: as asked for, or (of networks that learn from synthetic anomalies) what finds those best."""
    own = _score(request, kind)
    if kind.plan is None or {"statistic", "smooth_px", "peak_px", "top_ratio", "of"} & set(request.score):
        return ScoreChoice(own, "as asked for" if request.score else "the model's own", {})
    chosen = choose_score(
        network, [s.labelled.plane for s in held], own, kind.plan, kind.tiles, kind.window_px, request.seed,
        lambda done, of: listen(Event("score", f"frame {done + 1} of {of}", done / of)),
    )  # fmt: skip
    listen(Event("score", f"{name_of(chosen.score)}: {chosen.why}"))
    return chosen


def _score_record(scored: ScoreChoice) -> dict[str, Any]:
    return {"value": scored.score.model_dump(), "why": scored.why, "auroc": scored.auroc}


def _split(request: LearnRequest, kind: ModelKind, specimens: Sequence[Specimen]) -> Split:
    if kind.truth in ("pixels", "frames"):
        groups = [Labelled(s.group, s.is_defect, s.sample.split) for s in specimens]
        return split_labelled(groups, seed=request.seed)
    views: dict[str, list[str]] = {}
    for s in specimens:
        views.setdefault(s.group, []).append(s.view)
    if not request.calibrate or kind.truth == "foreground":
        return all_to_learn(views, seed=request.seed)
    return split(
        views,
        seed=request.seed,
        rule=request.rule,
        too_few=request.too_few,
    )


def _task(
    request: LearnRequest, kind: ModelKind, classes: Sequence[str], uses: Mapping[str, Sequence[Specimen]]
) -> Task:
    """What the network learns from, and how it is varied."""
    has_views = any(s.view != DEFAULT_VIEW for s in uses["train"])
    augmentation = request.augmentation or ("none" if has_views and kind.truth == "none" else None)
    return Task(
        planes=_planes(kind, uses["train"]),
        tiles=kind.tiles,
        classes=max(1, len(classes)),
        seed=request.seed,
        augmentation=augmentation,
        movement=request.movement,
        light=request.light,
        patch_rule=request.patch_rule or "centre",
        around_defects=request.around_defects,
    )


def _fit_spec(request: LearnRequest, kind: ModelKind, name: str) -> FitSpec:
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
    )


def _fit(
    kind: ModelKind,
    name: str,
    preprocess: PreprocessSpec,
    task: Task,
    spec: FitSpec,
    uses: Mapping[str, Sequence[Specimen]],
    real: RealDefects,
    checkpoint: Path,
) -> Fit:
    held = _planes(kind, uses["validation"]) or task.planes
    train = real.join(kind.batches(kind, task))
    validation = kind.batches(kind, replace(task, planes=held, seed=spec.seed + 1_000_003, varied=False))
    spec = replace(spec, validation_batches=getattr(validation, "batches", spec.validation_batches))
    fingerprints = [[s.fingerprint for s in uses[use]] for use in sorted(uses)]
    about = (name, preprocess.digest, spec, replace(task, planes=()), fingerprints, real.verdict.use)
    key = hashlib.sha256(repr(about).encode()).hexdigest()
    torch.manual_seed(spec.seed)
    network = kind.build(task.classes)
    kind.prepare(network, task.planes)
    return Fit(
        network, spec, train, validation, objective=kind.objective(spec.loss, task.planes),
        checkpoint=checkpoint, key=key,
    )  # fmt: skip


def _planes(kind: ModelKind, specimens: Sequence[Specimen]) -> list[LabelledPlane]:
    if kind.truth != "foreground":
        return [s.labelled for s in specimens]
    side_px = 2 * kind.tiles.size_px  # so that a pixel on the outline knows how much of it is the part
    return [
        shrunk(s.labelled, side_px) if max(s.labelled.plane.shape) > side_px else s.labelled
        for s in specimens
    ]


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
    kind: ModelKind,
    held: Sequence[Specimen],
    real: RealDefects,
    bundle: Bundle,
    runtime: Runtime,
    renewal: Renewal,
    listen: Listener,
) -> Calibrated | None:
    if not request.calibrate or kind.truth == "foreground":
        return None
    samples = list({s.sample.path: s.sample for s in held}.values())
    rule = request.rule
    shared: dict[str, Any] = {
        "recipe": request.recipe,
        "limits": request.limits,
        "on_frame": lambda done, of: listen(Event("calibrate", f"frame {done + 1} of {of}", done / of)),
    }
    file = renewal.new_calibration
    defects = list({s.sample.path: s.sample for s in real.unlearned}.values())
    if kind.truth == "none" and (request.min_recall is None or not defects):
        calibrated = calibrate_recipe(
            samples, bundle, runtime, file, false_reject=rule.false_reject, threshold=rule.method, k=rule.k,
            quantile=rule.quantile, too_few=request.too_few, unseen_views=request.unseen_views,
            false_reject_part=request.false_reject_part, review_band=request.review_band, **shared,
        )  # fmt: skip
        if defects and (found := recall_of(defects, bundle, runtime, calibrated.calibration, request.limits)):
            listen(Event("calibrate", found.sentence()))
        if request.min_recall is not None:
            listen(Event("calibrate", "WARNING " + NO_OPERATING_POINT))
    else:
        calibrated = calibrate_labelled(
            [*samples, *defects], bundle, runtime, file, rule=rule, min_recall=request.min_recall, **shared
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
