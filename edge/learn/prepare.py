"""Everything that is decided before the first step: frames, choices, split, task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge.dataset import Sample, Unreadable, count_by_view
from edge.errors import DataError, UsageError
from edge.learn.anomalies.objective import anomaly_loss
from edge.learn.augment import shrunk
from edge.learn.automatic import MODEL, Choices
from edge.learn.datasets import PlaneStore
from edge.learn.defect_crops import given_crops
from edge.learn.few_defects import read_defects
from edge.learn.labels import LabelledPlane
from edge.learn.looked import choices_for
from edge.learn.masks import mean_masks, with_mask_network
from edge.learn.models import ModelKind, Task, of_name, strided
from edge.learn.progress import Event, Listener
from edge.learn.request import LearnRequest, check_options, score_for, truth_for, wanted_for
from edge.learn.specimens import Reading, Specimen, classes_of, read_specimens
from edge.learn.split import Labelled, Split, all_to_learn, split, split_labelled
from edge.preprocess import PreprocessSpec
from edge.renewal import Renewal
from edge.types import DEFAULT_VIEW

MOST_SIZES = 2  # of frames that are seen whole: for each the network is compiled and kept in memory


@dataclass(frozen=True, slots=True)
class Prepared:
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


def prepare(request: LearnRequest, renewal: Renewal, store: PlaneStore, listen: Listener) -> Prepared:
    kind = None if request.model == "auto" else of_name(request.model)
    if kind is not None:
        check_options(request, kind)
    truth = truth_for(request, kind)
    wanted = wanted_for(request, truth)
    preprocess, extra = preprocessing_for(request, kind, renewal, wanted, listen)
    choices = None
    if kind is None or kind.plan is not None:
        choices = choices_for(
            wanted, preprocess, request.limits, _pinned(request), request.seed, listen, renewal.new_engine,
            keeps_size=_keeps_size(request),
        )  # fmt: skip
        kind = of_name(choices.model.value)
        if kind.size_px is None:
            preprocess = preprocess.model_copy(update={"scale": choices.scale.value})
            kind = replace(kind, tiles=choices.tiles.value)
        else:
            preprocess = preprocess.model_copy(
                update={"size_px": kind.size_px, "fit": request.fit or kind.fit}
            )
        if kind.plan is not None:
            loss = anomaly_loss(choices.plan.mix.balance_areas)
            kind = replace(
                kind, score=choices.score.value, plan=choices.plan, objective=lambda name, planes: loss
            )
        preprocess = preprocess.model_copy(update={"illumination": choices.illumination.value})
    assert kind is not None, "the model asked for, or the one chosen"
    name, why = (choices.model.value, choices.model.why) if choices else (request.model, "as asked for")
    if request.stride is not None:
        kind = strided(of_name(name), request.stride)
    check_options(request, kind)
    size_px = kind.size_px or preprocess.size_px
    classes = classes_of(wanted) if truth == "pixels" else ()
    unreadable: list[Unreadable] = []
    reading = Reading(preprocess, request.limits, truth, classes, renewal.new_engine)
    specimens = read_specimens(wanted, reading, store, unreadable, listen)
    for sentence in left_out(request, unreadable):
        listen(Event("prepare", f"left out: {sentence}"))
    kind = _whole(request, kind, preprocess, specimens, listen)
    preprocess = preprocess.model_copy(update={"tiles": kind.tiles, "size_px": size_px})
    listen(Event("prepare", f"model {name}: {why}"))
    parts = _split(request, kind, specimens)
    uses = {use: [s for s in specimens if s.group in set(getattr(parts, use))] for use in Split.__slots__}
    if len(uses["train"]) < kind.least_planes:
        return _with_fewer(request, name, len(uses["train"]), renewal, store, listen)
    task = _task(request, kind, classes, uses)
    if request.defect_crops is not None:
        task = replace(task, crops=given_crops(request.defect_crops, reading, unreadable))
    beside = kind.plan is not None
    if choices is not None and not beside and any(s.label == "defect" for s in request.dataset.labelled()):
        listen(Event("prepare", f"defect frames are not used: {name} learns from good frames only"))
    defects = read_defects(request.dataset, reading, store, unreadable, listen) if beside else []
    return Prepared(
        name, why, kind, choices, preprocess, extra, classes, parts, uses, task, tuple(defects),
        tuple(unreadable),
    )  # fmt: skip


def _whole(
    request: LearnRequest,
    kind: ModelKind,
    preprocess: PreprocessSpec,
    specimens: Sequence[Specimen],
    listen: Listener,
) -> ModelKind:
    """The model seeing whole frames, where it can and they have few sizes: for each the network is compiled.

    Where background is masked, most of a frame may be none of the network's business: tiles leave that out.
    """
    sizes = {s.labelled.plane.shape for s in specimens}
    of_fragments = score_for(request, kind).of == "fragment"
    if not kind.whole_px or request.tiled or preprocess.mask is not None or of_fragments:
        return kind
    if not 0 < len(sizes) <= MOST_SIZES:
        return kind
    listen(Event("prepare", "the network sees whole frames (--tiled: tiles)"))
    return replace(kind, tiles=kind.tiles.model_copy(update={"whole_px": kind.whole_px}))


def _with_fewer(
    request: LearnRequest, name: str, frames: int, renewal: Renewal, store: PlaneStore, listen: Listener
) -> Prepared:
    """Another model, where the one that was chosen has too few frames to learn from.

    Raises:
        DataError: it was asked for.
    """
    few = f"{name} has {frames} frames to learn from, and needs {of_name(name).least_planes}"
    if request.model != "auto":
        raise DataError(
            few, hint="give more good frames, better 10, or choose another --model", reason="too_few_frames"
        )
    listen(Event("prepare", f"{few}: {MODEL} instead"))
    return prepare(replace(request, model=MODEL), renewal, store, listen)


def _keeps_size(request: LearnRequest) -> bool:
    """Whether frames, or crops beside them, have a size that the network must take as it is."""
    asked = request.preprocess.size_px is not None or request.fit is not None or "scale" in request.pinned
    return asked or request.defect_crops is not None


def preprocessing_for(
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


def left_out(request: LearnRequest, unreadable: Sequence[Unreadable]) -> list[str]:
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


def _split(request: LearnRequest, kind: ModelKind, specimens: Sequence[Specimen]) -> Split:
    if kind.truth in ("pixels", "frames"):
        groups = [Labelled(s.group, s.is_defect, s.sample.split) for s in specimens]
        return split_labelled(groups, seed=request.seed)
    views: dict[str, list[str]] = {}
    for s in specimens:
        views.setdefault(s.group, []).append(s.view)
    if not request.calibrate or kind.truth == "foreground" or request.procedure == "cross":
        return all_to_learn(views, seed=request.seed)
    if len(views) == 1 and request.too_few != "refuse" and kind.plan is not None:
        return all_to_learn(
            views, seed=request.seed
        )  # one good frame: something honest is better than nothing
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
        planes=planes_for(kind, uses["train"]),
        tiles=kind.tiles,
        classes=max(1, len(classes)),
        seed=request.seed,
        augmentation=augmentation,
        movement=request.movement,
        light=request.light,
        patch_rule=request.patch_rule or "centre",
        around_defects=request.around_defects,
    )


def planes_for(kind: ModelKind, specimens: Sequence[Specimen]) -> list[LabelledPlane]:
    if kind.truth != "foreground":
        return [s.labelled for s in specimens]
    side_px = 2 * kind.tiles.size_px  # so that a pixel on the outline knows how much of it is the part
    return [
        shrunk(s.labelled, side_px) if max(s.labelled.plane.shape) > side_px else s.labelled
        for s in specimens
    ]
