"""Which networks can be learned, and what each is used with by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, cast, get_args

from torch import nn

from edge.errors import UsageError
from edge.infer.bundle import ScoreSpec
from edge.learn import classes as of_frames
from edge.learn import patches, segments
from edge.learn.anomalies.batches import AnomalyBatches, AnomalyPlan
from edge.learn.anomalies.fills import DefectCrop
from edge.learn.anomalies.objective import anomaly_loss
from edge.learn.augment import Light, MaskBatches, Movement, PlacedWindows
from edge.learn.datasets import Augmentation, Windows
from edge.learn.fit import PATIENCE, Batches, Objective, reconstruction
from edge.learn.fragments import FragmentBatches
from edge.learn.labels import LabelledPlane
from edge.learn.losses import LossName
from edge.learn.models import anomaly_unet, features, frequency, fusion, patch_cnn, supervised_ae, unet
from edge.learn.models.cae import Cae, CaeConfig
from edge.learn.models.fragment_ae import FragmentAe, FragmentAeConfig
from edge.learn.models.fragment_cae import FragmentCae, FragmentCaeConfig
from edge.learn.patches import PatchRule
from edge.learn.segment_losses import SegmentLossName, segmentation
from edge.preprocess import TileSpec

Truth = Literal["none", "good regions", "foreground", "pixels", "frames"]
"""What a network is told: nothing (it learns good frames), which regions of defect frames are good, where the
part is, which pixels are defects of which class, or which frames are."""


@dataclass(frozen=True, slots=True)
class Task:
    """What batches are made from. None: the model's own choice."""

    planes: Sequence[LabelledPlane]
    tiles: TileSpec
    classes: int
    seed: int
    augmentation: Augmentation | None = None
    movement: Movement = field(default_factory=Movement)
    light: Light = field(default_factory=Light)
    patch_rule: PatchRule = "centre"
    around_defects: bool = False  # planes have defects, which are not to be learned
    plan: AnomalyPlan | None = None  # of synthetic anomalies; None: the model's own
    crops: Sequence[DefectCrop] = ()  # of real defects, to make anomalies from
    varied: bool = True  # False: as they are, for validation


@dataclass(frozen=True, slots=True)
class ModelKind:
    """A network with its defaults, chosen by trials on several data sets (docs/decisions.md)."""

    build: Callable[[int], nn.Module]  # classes → network
    tiles: TileSpec
    score: ScoreSpec
    loss: str
    learning_rate: float
    batch: int  # windows, patches or frames a step
    batches: Callable[[ModelKind, Task], Batches]
    window_px: int = 0  # of a learning window; fully convolutional networks learn cheaper from small ones
    objective: Callable[[str, Sequence[LabelledPlane]], Objective] = lambda loss, planes: reconstruction(
        cast(LossName, loss)
    )
    losses: tuple[str, ...] = get_args(LossName)
    truth: Truth = "none"
    finish: Callable[[nn.Module], nn.Module] = lambda network: network  # what of it is exported
    explain: Callable[[nn.Module], nn.Module] | None = None  # activations and gradients, for CAMs
    prepare: Callable[[nn.Module, Sequence[LabelledPlane]], None] = lambda network, planes: None
    size_px: tuple[int, int] | None = None  # every frame is brought to this
    least_planes: int = 1  # that it can be learned from
    fit: Literal["stretch", "pad"] = "stretch"  # how it is brought to it
    validation_batches: int = 2
    patience: int = PATIENCE  # validations without improvement before it stops; 0: it never does
    can_be_moved: bool = False  # its windows may be turned and lit otherwise
    can_go_around: bool = False  # learns fragments, and so the good ones of defect frames
    names_classes: bool = False  # its answer has a channel for each class of the truth
    stride: int = 0  # of a patch network's map, which `strided` may change; 0: it has none
    whole_px: int = (
        0  # it may see whole frames whose sides are multiples of this; 0: sizes are written into it
    )
    facts: Mapping[str, object] = field(default_factory=dict)  # for the bundle's record of its training

    # learns without gradients: network, planes, seed
    closed_form: Callable[[nn.Module, Sequence[LabelledPlane], int], None] | None = None
    # after learning by gradients, what is learned without: network, planes, seed, tiles
    complete: Callable[[nn.Module, Sequence[LabelledPlane], int, TileSpec], None] | None = None
    plan: AnomalyPlan | None = None  # of kinds that learn from synthetic anomalies: which ones

    @property
    def output(self) -> Literal["reconstruction", "probability"]:
        """What its answers are."""
        return "probability" if self.score.map == "probability" else "reconstruction"


def _windows(kind: ModelKind, task: Task) -> Batches:
    if task.around_defects:
        return _fragments(kind, task)
    planes = [labelled.plane for labelled in task.planes]
    if not task.varied:
        return Windows(planes, task.tiles, kind.window_px, kind.batch, "none", task.seed)
    augmentation = task.augmentation or "flips"
    if task.movement != Movement() or task.light != Light():
        movement = replace(task.movement, flips=augmentation != "none")
        return PlacedWindows(planes, task.tiles, kind.window_px, kind.batch, movement, task.light, task.seed)
    return Windows(planes, task.tiles, kind.window_px, kind.batch, augmentation, task.seed)


def _fragments(kind: ModelKind, task: Task) -> Batches:
    augmentation = task.augmentation or "dihedral"
    return FragmentBatches(
        [labelled.plane for labelled in task.planes], task.tiles, kind.batch,
        augmentation if task.varied else "none", task.seed, [labelled.truth for labelled in task.planes],
    )  # fmt: skip


def _patches(config: patch_cnn.PatchCnnConfig, kind: ModelKind, task: Task) -> Batches:
    as_it_is = not task.varied or task.augmentation == "none"
    return patches.PatchBatches(
        task.planes, config.patch_px, kind.batch, rule=task.patch_rule, seed=task.seed,
        augmentation=patches.AS_IT_IS if as_it_is else patches.PatchAugmentation(),
    )  # fmt: skip


def _segments(kind: ModelKind, task: Task) -> Batches:
    as_it_is = not task.varied or task.augmentation == "none"
    return segments.SegmentBatches(
        task.planes, classes=task.classes, window_px=(kind.window_px, kind.window_px), batch=kind.batch,
        seed=task.seed, margin_px=task.tiles.margin_px,
        augmentation=segments.UNCHANGED if as_it_is else segments.DEFAULT,
    )  # fmt: skip


def _masks(kind: ModelKind, task: Task) -> Batches:
    varied = task.varied and task.augmentation != "none"
    movement, light = (MASK_MOVEMENT, MASK_LIGHT) if varied else (Movement(), Light())
    return MaskBatches(task.planes, kind.window_px, kind.batch, movement, light, task.seed)


def _frames(kind: ModelKind, task: Task) -> Batches:
    planes = [labelled.plane for labelled in task.planes]
    labels = [labelled.label for labelled in task.planes]
    if not task.varied:
        return of_frames.EveryFrame(planes, labels, kind.batch)
    as_it_is = task.augmentation == "none"
    augmentation = of_frames.NO_AUGMENTATION if as_it_is else of_frames.ClassAugmentation()
    return of_frames.ClassBatches(planes, labels, kind.batch, augmentation, task.seed)


def _segment_objective(loss: str, planes: Sequence[LabelledPlane]) -> Objective:
    return segmentation(cast(SegmentLossName, loss))


MASK_MOVEMENT = Movement(degrees=15, shift_px=16, flips=True)
MASK_LIGHT = Light(gain=0.3, gamma=0.3, noise=0.03)

_RESIDUAL = ScoreSpec(map="ssim", smooth_px=8.0, statistic="peak", peak_px=16)
_PLACED = ScoreSpec(map="probability", statistic="peak", peak_px=8)
_PEAK = ScoreSpec(map="probability", statistic="peak", peak_px=8)


def _patch_kind(
    config: patch_cnn.PatchCnnConfig, batch: int, learning_rate: float, *, smooth_px: float, stride: int
) -> ModelKind:
    keep_px = 256
    return ModelKind(
        build=lambda classes: patch_cnn.PatchCnn(config),
        tiles=TileSpec(size_px=keep_px + config.patch_px - 1, keep_px=keep_px, step_px=keep_px),
        score=ScoreSpec(map="probability", smooth_px=smooth_px, statistic="peak", peak_px=8),
        loss="bce",
        losses=("bce",),
        learning_rate=learning_rate,
        batch=batch,
        batches=partial(_patches, config),
        objective=lambda loss, planes: patches.patch_loss,
        truth="pixels",
        finish=lambda network: patch_cnn.DensePatchCnn(cast(patch_cnn.PatchCnn, network), stride),
        validation_batches=16,
        stride=stride,
        facts={"patch_px": config.patch_px},
    )


def _segment_kind(config: unet.UNetConfig, window_px: int, batch: int, learning_rate: float) -> ModelKind:
    return ModelKind(
        build=lambda classes: unet.UNet(replace(config, classes=classes)),
        tiles=TileSpec(size_px=256, keep_px=192, step_px=192),
        score=ScoreSpec(map="probability", statistic="level", min_area_px=64),
        loss="bce+dice",
        losses=get_args(SegmentLossName),
        learning_rate=learning_rate,
        batch=batch,
        batches=_segments,
        window_px=window_px,
        objective=_segment_objective,
        truth="pixels",
        finish=unet.Probabilities,
        whole_px=32,
        names_classes=True,
        validation_batches=8,
    )


def _mask_kind(config: unet.UNetConfig, side_px: int, batch: int, learning_rate: float) -> ModelKind:
    return ModelKind(
        build=lambda classes: unet.UNet(config),
        tiles=TileSpec(size_px=side_px, keep_px=side_px, step_px=side_px),
        score=_PEAK,
        loss="bce",
        losses=get_args(SegmentLossName),
        learning_rate=learning_rate,
        batch=batch,
        batches=_masks,
        window_px=side_px,
        objective=_segment_objective,
        truth="foreground",
        finish=unet.Probabilities,
        size_px=(side_px, side_px),
        validation_batches=4,
    )


def _frame_kind(
    config: supervised_ae.SupervisedAeConfig,
    batch: int,
    learning_rate: float,
    fit: Literal["stretch", "pad"] = "stretch",
) -> ModelKind:
    side_px = config.size_px
    return ModelKind(
        build=lambda classes: supervised_ae.SupervisedAe(config),
        tiles=TileSpec(size_px=side_px, keep_px=side_px, step_px=side_px),
        score=ScoreSpec(map="probability", statistic="max"),
        loss="mse+bce",
        losses=("mse+bce",),
        learning_rate=learning_rate,
        batch=batch,
        batches=_frames,
        objective=_frame_objective,
        truth="frames",
        finish=lambda network: supervised_ae.Evidence(cast(supervised_ae.SupervisedAe, network)),
        explain=lambda network: supervised_ae.Explain(cast(supervised_ae.SupervisedAe, network)),
        prepare=_normalise,
        fit=fit,
        size_px=(side_px, side_px),
    )


def _anomalies(kind: ModelKind, task: Task) -> Batches:
    plan = task.plan or kind.plan or AnomalyPlan()
    planes = [labelled.plane for labelled in task.planes]
    return AnomalyBatches(
        planes, kind.window_px, kind.batch, plan, task.seed, margin_px=task.tiles.margin_px, crops=task.crops
    )


def _frame_objective(loss: str, planes: Sequence[LabelledPlane]) -> Objective:
    return of_frames.classification(RECONSTRUCTION_WEIGHT)


def _normalise(network: nn.Module, planes: Sequence[LabelledPlane]) -> None:
    mean, std = supervised_ae.normalisation([labelled.plane for labelled in planes])
    cast(supervised_ae.SupervisedAe, network).normalise_by(mean, std)


RECONSTRUCTION_WEIGHT = 1.0


def _feature_kind(distance: features.Distance, score: ScoreSpec, side_px: int = 0) -> ModelKind:
    config = features.FeaturesConfig(
        distance,
        size_px=side_px,
        kinds=MOST_SORTS if side_px else 1,
        bank=features.BankConfig(stride_px=4 if distance == "memory" else 8),
    )
    size_px = side_px or 256
    return ModelKind(
        build=lambda classes: features.FeatureDistance(config),
        tiles=TileSpec(size_px=size_px, keep_px=size_px, step_px=size_px)
        if side_px
        else TileSpec(size_px=320, keep_px=256, step_px=256),
        score=score,
        loss="none",
        losses=("none",),
        learning_rate=1e-3,
        batch=1,
        batches=_windows,
        window_px=size_px,
        closed_form=features.fit,
        least_planes=features.LEAST_ALIGNED if distance == "aligned" else 1,
        size_px=(side_px, side_px) if side_px else None,
    )


def _fused(classes: int) -> nn.Module:
    config = features.FeaturesConfig("memory", bank=features.BankConfig(stride_px=4))
    unet = anomaly_unet.AnomalyUNet(anomaly_unet.AnomalyUNetConfig())
    return fusion.SegmenterWithFeatures(unet, features.FeatureDistance(config))


def _fused_aligned(classes: int) -> nn.Module:
    config = features.FeaturesConfig(
        "aligned", size_px=ALIGNED_PX, kinds=MOST_SORTS, bank=features.BankConfig(stride_px=8)
    )
    unet = anomaly_unet.AnomalyUNet(anomaly_unet.AnomalyUNetConfig())
    return fusion.SegmenterWithFeatures(unet, features.FeatureDistance(config))


ALIGNED_PX = 256  # side of the square that aligned frames are brought to
MOST_SORTS = 4  # of frames: views or variants, each with its own Gaussians

_ANOMALY = ModelKind(
    whole_px=anomaly_unet.FOLD,
    build=lambda classes: anomaly_unet.AnomalyUNet(anomaly_unet.AnomalyUNetConfig()),
    tiles=TileSpec(size_px=384, keep_px=384, step_px=352),
    score=ScoreSpec(map="probability", smooth_px=4.0, statistic="top", top_ratio=0.003, peak_px=8),
    loss="focal+dice",
    losses=("focal+dice",),
    window_px=128,
    batch=16,
    batches=_anomalies,
    objective=lambda loss, planes: anomaly_loss(balance_areas=False),
    finish=lambda network: anomaly_unet.AnomalyMap(cast(anomaly_unet.AnomalyUNet, network)),
    learning_rate=2e-3,
    validation_batches=8,
    patience=0,  # anomalies never repeat, so it does not overfit to them, and early validations swing
    plan=AnomalyPlan(),
)

MODELS: Mapping[str, ModelKind] = {
    "anomaly-unet": _ANOMALY,
    "fusion": replace(
        _ANOMALY,
        whole_px=0,
        build=_fused,
        complete=fusion.fit,
        finish=lambda network: cast(fusion.SegmenterWithFeatures, network).fused,
    ),
    "fusion-aligned": replace(
        _ANOMALY,
        whole_px=0,
        build=_fused_aligned,
        complete=fusion.fit,
        finish=lambda network: cast(fusion.SegmenterWithFeatures, network).fused,
        tiles=TileSpec(size_px=ALIGNED_PX, keep_px=ALIGNED_PX, step_px=ALIGNED_PX),
        size_px=(ALIGNED_PX, ALIGNED_PX),
        least_planes=features.LEAST_ALIGNED,
    ),
    "features-aligned": _feature_kind("aligned", _PLACED, ALIGNED_PX),
    "features-memory": _feature_kind("memory", _PLACED.model_copy(update={"smooth_px": 12.0, "peak_px": 16})),
    "features-gaussian": _feature_kind(
        "gaussian", _PLACED.model_copy(update={"smooth_px": 12.0, "peak_px": 16})
    ),
    "frequency-unet": ModelKind(
        build=lambda classes: frequency.FrequencyUNet(frequency.FrequencyUNetConfig()),
        tiles=TileSpec(size_px=320, keep_px=256, step_px=256),
        score=ScoreSpec(map="l2", smooth_px=12.0, statistic="peak", peak_px=16),
        loss="ssim+msgms+l2",
        window_px=128,
        batch=16,
        batches=_windows,
        can_be_moved=True,
        learning_rate=2e-3,
    ),
    "cae": ModelKind(
        whole_px=32,
        build=lambda classes: Cae(CaeConfig()),
        tiles=TileSpec(size_px=320, keep_px=256, step_px=256),
        score=_RESIDUAL,
        loss="ssim+l2",
        window_px=160,
        batch=16,
        batches=_windows,
        can_be_moved=True,
        learning_rate=2e-3,
    ),
    "fragment-cae": ModelKind(
        build=lambda classes: FragmentCae(FragmentCaeConfig()),
        tiles=TileSpec(size_px=64, keep_px=64, step_px=32),
        score=_RESIDUAL,
        loss="ssim+l2",
        window_px=64,
        batch=64,
        batches=_windows,
        can_be_moved=True,
        learning_rate=2e-3,
        can_go_around=True,
    ),
    "fragment-ae": ModelKind(
        build=lambda classes: FragmentAe(FragmentAeConfig()),
        tiles=TileSpec(size_px=64, keep_px=48, step_px=24),
        score=ScoreSpec(map="l2", statistic="min", of="fragment", fragment_smooth_px=1.5),
        loss="l2",
        window_px=64,
        batch=64,
        batches=_fragments,
        learning_rate=2e-3,
        can_go_around=True,
    ),
    "patch-cnn": _patch_kind(patch_cnn.WIDE, 128, 2e-3, smooth_px=4.0, stride=2),
    "patch-cnn-29": _patch_kind(patch_cnn.ORIGIN, 256, 1e-3, smooth_px=8.0, stride=1),
    "segmenter": _segment_kind(unet.SMALL, 192, 8, 2e-3),
    "unet-steel": _segment_kind(unet.STEEL, 192, 8, 1e-3),
    "mask-unet": _mask_kind(unet.SMALL, 128, 8, 2e-3),
    "mask-unet-512": _mask_kind(unet.MASKS, 512, 4, 1e-3),
    "supervised-ae": _frame_kind(supervised_ae.SMALL, 32, 2e-3, fit="pad"),
    "supervised-ae-256": _frame_kind(supervised_ae.ORIGIN, 16, 1e-3),
}


def strided(kind: ModelKind, stride: int) -> ModelKind:
    """A patch network's kind with a probability for every `stride`-th pixel of either axis.

    Raises:
        UsageError: it is no patch network.
    """
    if not kind.stride:
        raise UsageError("--stride is of patch networks", hint="leave it out, or choose --model patch-cnn")
    return replace(
        kind,
        stride=stride,
        finish=lambda network: patch_cnn.DensePatchCnn(cast(patch_cnn.PatchCnn, network), stride),
    )


def of_name(name: str) -> ModelKind:
    """The kind of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in MODELS:
        raise UsageError(f"no model {name!r}", hint=f"choose auto, {', '.join(MODELS)}")
    return MODELS[name]
