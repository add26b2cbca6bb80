"""What is asked of `edge learn`, and whether it makes sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from edge.dataset import Dataset, Sample
from edge.decode import Limits
from edge.errors import DataError, UsageError
from edge.infer.bundle import ScoreSpec
from edge.judge.calibration import TooFew, UnseenViews
from edge.judge.thresholds import ThresholdRule
from edge.learn.augment import Light, Movement
from edge.learn.datasets import Augmentation
from edge.learn.models import MODELS, ModelKind, Truth, of_name
from edge.learn.patches import PatchRule
from edge.preprocess import PreprocessSpec

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
    defect_crops: Path | None = None  # folder of pictures of defects, to make anomalies from
    around_defects: bool = False  # learn what is good in defect frames with masks, too
    limits: Limits = DEFAULT_LIMITS
    calibrate: bool = True
    # split: some frames are kept for thresholds; cross: none are, and networks of folds score them
    procedure: Literal["split", "cross"] = "split"
    fresh: bool = False
    threads: int = 0
    tiled: bool = False  # keep to tiles, even where the network could see whole frames
    fewer_bits: bool = True  # afterwards, see which precisions may judge


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


def check_options(request: LearnRequest, kind: ModelKind) -> None:
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
        # nothing says at which scale crops would lie in frames that are brought to another size
        "--defect-crops": request.defect_crops is not None and (kind.plan is None or bool(kind.size_px)),
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
    score = score_for(request, kind)
    if "peak_px" in request.score and score.statistic != "peak":
        raise UsageError(f"--peak has no effect on --statistic {score.statistic}", hint="leave it out")
    if "top_ratio" in request.score and score.statistic != "top":
        raise UsageError(
            f"--top-ratio has no effect on --statistic {score.statistic}", hint="add --statistic top"
        )
    if "min_area_px" in request.score and not (kind.names_classes or score.statistic == "level"):
        raise UsageError(f"--min-area has no effect on model {request.model}", hint="leave it out")


def score_for(request: LearnRequest, kind: ModelKind) -> ScoreSpec:
    """The model's score with what was asked for in place of its own.

    Raises:
        UsageError: there is no such score.
    """
    given = dict(request.score)
    if kind.plan is not None and "peak_px" in given:  # whose own statistic may be another
        given.setdefault("statistic", "peak")
    try:
        spec = ScoreSpec.model_validate(kind.score.model_dump() | given)
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


def truth_for(request: LearnRequest, kind: ModelKind | None) -> Truth:
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


def wanted_for(request: LearnRequest, truth: Truth) -> Sequence[Sample]:
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
