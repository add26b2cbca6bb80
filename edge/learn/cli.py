"""`edge learn`, `train`, `calibrate`, `compile`: options in, one answer out; torch is imported when used."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge.errors import DataError, EdgeError, MissingInputError, UnavailableError, UsageError
from edge.learn.presets import with_preset
from edge.options import check_threads, parse_range, parse_size

if TYPE_CHECKING:
    from edge.calibrate import Calibrated
    from edge.config import Settings
    from edge.infer.bundle import Bundle
    from edge.infer.precisions import Precisions
    from edge.judge.calibration import Calibration
    from edge.judge.unseen import AdaptiveModel
    from edge.learn.learn import LearnResult
    from edge.preprocess import MaskSpec, PreprocessSpec, Rectify

CLAHE_CLIP, CLAHE_TILES = 9.0, 9  # of system B
AS_ROW = "{precision:<10} {difference:>10.2g} {tolerance:>10.2g} {mpx_per_s:>9.1f}  {agreement}"
MEASURE_S = 2.0  # how long `compile` measures each precision
COMPILED_FOR = {  # what `compile` tries where no precision is asked for
    "cpu": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
    "torch-cuda": ("fp32", "fp16", "bf16"),
}

DATA, PREPARATION, NETWORK, SCORING, THRESHOLDS = "Frames", "Preparation", "Network", "Score", "Thresholds"
REVIEWS = "Instead of IMAGES"


def _option(panel: str, *names: str, **rest: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **rest)


Images = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGES",
        help="Folder of good frames, a manifest CSV (or a folder with one), or a store of `edge pack`.",
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", help="Name: letters, digits, '.', '_' and '-'.")]
Config = Annotated[Path | None, typer.Option("--config", help="Site configuration; its folders are used.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.")]
Preset = Annotated[
    Literal["nanofibre-patches", "bricks", "steel-strip", "solder", "weld-fragments"] | None,
    typer.Option("--preset", help="Options of one of the five published systems; those you give win."),
]
Template = Annotated[
    str | None, _option(DATA, "--template", help="Names → part, view: '{batch}/{part}_{view}'.")
]
Pattern = Annotated[str | None, _option(DATA, "--pattern", help="The same as a regex with named groups.")]
Manifest = Annotated[
    Path | None, _option(DATA, "--manifest", help="Manifest CSV of the frames below IMAGES.")
]
Masks = Annotated[
    Path | None,
    _option(
        DATA,
        "--masks",
        help="Folder of masks (PNG, > 127) named as the frames: of defects, or (mask-unet) of the part.",
    ),
]
Model = Annotated[
    Literal[
        "auto", "anomaly-unet", "fusion", "fusion-aligned", "features-aligned", "features-memory",
        "features-gaussian", "frequency-unet", "cae", "fragment-cae", "fragment-ae", "patch-cnn",
        "patch-cnn-29", "segmenter", "unet-steel", "supervised-ae", "supervised-ae-256", "mask-unet",
        "mask-unet-512",
    ],
    _option(
        NETWORK,
        "--model",
        help="From good frames: auto, anomaly-unet, fusion, fusion-aligned, features-aligned, -memory, "
        "-gaussian, frequency-unet, cae, fragment-cae, fragment-ae. From masks of defects: patch-cnn, "
        "segmenter. From labels: supervised-ae. From masks of the part: mask-unet. With a suffix: the "
        "published network.",
    ),
]  # fmt: skip
Minutes = Annotated[float, _option(NETWORK, "--minutes", min=0.01, help="Time for learning.")]
Steps = Annotated[
    int, _option(NETWORK, "--steps", min=0, help="Learn so many steps instead: repeatable exactly.")
]
Seed = Annotated[int, _option(NETWORK, "--seed", min=0)]
Threads = Annotated[
    int, _option(NETWORK, "--threads", min=0, help="CPU threads, at most one a core; 0: all.")
]
Loss = Annotated[
    str | None,
    _option(
        NETWORK,
        "--loss",
        help="l2, ssim, msgms, ssim+l2, ssim+msgms+l2; of segmenters bce, bce+dice, focal+dice, bce+lovasz.",
    ),
]
LearningRate = Annotated[
    float | None,
    _option(NETWORK, "--learning-rate", min=1e-7, max=1.0, help="Of Adam \\[default: the model's]."),
]
Augment = Annotated[
    Literal["none", "flips", "dihedral"] | None,
    _option(NETWORK, "--augment", help="Mirror and turn windows; none: learn frames only as they are."),
]
Rotate = Annotated[
    float,
    _option(
        NETWORK, "--rotate", min=0, max=180, help="Turn windows of good frames by up to so many degrees."
    ),
]
LightOption = Annotated[
    float, _option(NETWORK, "--light", min=0, max=0.9, help="Vary their brightness by up to this share.")
]
PatchRuleOption = Annotated[
    Literal["centre", "pure"] | None,
    _option(NETWORK, "--patch-rule", help="patch-cnn: label by the centre pixel, or only unmixed patches."),
]
Stride = Annotated[
    int | None,
    _option(NETWORK, "--stride", min=1, max=64, help="patch-cnn: pixels between two probabilities."),
]
AroundDefects = Annotated[
    bool,
    _option(NETWORK, "--around-defects", help="fragment-…: learn what is good in defect frames with masks."),
]
DefectCrops = Annotated[
    Path | None,
    _option(
        NETWORK,
        "--defect-crops",
        help="Folder of pictures of single defects, cut out tightly: anomalies are made from them, too.",
    ),
]
Fresh = Annotated[bool, _option(NETWORK, "--fresh", help="Do not continue an interrupted run.")]
Tiled = Annotated[
    bool,
    _option(
        PREPARATION,
        "--tiled",
        help="Cut frames into tiles even where the network could see whole ones: less memory.",
    ),
]
Size = Annotated[
    str | None, _option(PREPARATION, "--size", help="Bring frames to WIDTHxHEIGHT, at most 16384 each.")
]
Fit = Annotated[
    Literal["stretch", "pad"] | None,
    _option(
        PREPARATION,
        "--fit",
        help="To --size (or the model's): stretch, or keep the shape and pad with black.",
    ),
]
Scale = Annotated[float, _option(PREPARATION, "--scale", help="Or scale every frame.")]
Gray = Annotated[
    Literal["bt601", "bt709", "mean", "red", "green", "blue"],
    _option(PREPARATION, "--gray", help="Colour to grey: luma weights, or one channel."),
]
Window = Annotated[
    Literal["declared", "percentile"],
    _option(PREPARATION, "--window", help="Which values are black and white."),
]
ValueRange = Annotated[
    str | None,
    _option(PREPARATION, "--value-range", help="LOW:HIGH stored values, in place of the declared ones."),
]
Illumination = Annotated[
    Literal["none", "median"],
    _option(PREPARATION, "--illumination", help="median: divide by the frame's median."),
]
ClaheOption = Annotated[bool, _option(PREPARATION, "--clahe/--no-clahe", help="Equalise contrast locally.")]
ClaheClip = Annotated[float, _option(PREPARATION, "--clahe-clip", min=0.1, max=1000)]
ClaheTiles = Annotated[int, _option(PREPARATION, "--clahe-tiles", min=1, max=64, help="Per side.")]
MaskOption = Annotated[
    Literal["none", "otsu", "watershed", "kmeans", "unet", "mean"] | None,
    _option(
        PREPARATION,
        "--mask",
        help="Blank what is not the part: by threshold, by a mask-unet (--mask-recipe), or by each view's "
        "mean mask.",
    ),
]
MaskRecipe = Annotated[
    str | None, _option(PREPARATION, "--mask-recipe", help="Recipe of a mask-unet; implies --mask unet.")
]
MaskPolarity = Annotated[
    Literal["auto", "bright", "dark"], _option(PREPARATION, "--mask-polarity", help="Of the part.")
]
RectifyOption = Annotated[
    Path | None,
    _option(
        PREPARATION,
        "--rectify",
        help='JSON: {"size_px": \\[w, h], "points": {VIEW or "*": four corners}} (or homographies).',
    ),
]
ScoreOf = Annotated[
    Literal["frame", "object", "fragment"] | None,
    _option(SCORING, "--score-of", help="Score the frame, each object of its mask, or each fragment."),
]
ScoreMap = Annotated[
    Literal["l2", "l1", "ssim", "msgms"] | None, _option(SCORING, "--score-map", help="Of autoencoders.")
]
Statistic = Annotated[
    Literal[
        "peak", "top", "mean", "max", "std", "rmse", "area", "level", "sum", "min", "mse", "absmax"
    ] | None,
    _option(
        SCORING,
        "--statistic",
        help="What of the map is the frame's score: peak, top, mean, max, std, rmse, area, level; of "
        "fragments sum, mse, std, min, max, absmax, mean.",
    ),
]  # fmt: skip
Smooth = Annotated[
    float | None, _option(SCORING, "--smooth", help="σ of the Gaussian over the map, in pixels.")
]
Peak = Annotated[
    int | None, _option(SCORING, "--peak", help="Side of the window whose largest mean is the score.")
]
TopRatio = Annotated[
    float | None,
    _option(
        SCORING, "--top-ratio", min=1e-6, max=1, help="Of top: share of the pixels whose mean is the score."
    ),
]
MinArea = Annotated[
    int | None, _option(SCORING, "--min-area", min=0, help="Smaller regions of a class are specks, pixels.")
]
Procedure = Annotated[
    Literal["split", "cross"],
    _option(
        THRESHOLDS,
        "--procedure",
        help="split: keep some frames for thresholds; cross: learn from all, and score each by a network "
        "that did not learn from it (half of the time; an estimate, no bound).",
    ),
]
ShowAnomalies = Annotated[
    Path | None,
    _option(
        NETWORK,
        "--show-anomalies",
        help="Write what would be learned from as a picture (or .html), and learn nothing.",
    ),
]
FalseReject = Annotated[
    float,
    _option(
        THRESHOLDS, "--false-reject", min=1e-6, max=0.5, help="Share of good frames that may be rejected."
    ),
]
FalseRejectPart = Annotated[
    float | None,
    _option(
        THRESHOLDS,
        "--false-reject-part",
        min=1e-6,
        max=0.5,
        help="Share of good parts that may be rejected, by any of their views.",
    ),
]
ReviewBand = Annotated[
    float | None,
    _option(
        THRESHOLDS,
        "--review-band",
        min=1e-6,
        max=0.9,
        help="OK frames that score higher than all but this share of good ones get the reason "
        "in_review_band.",
    ),
]
TooFewOption = Annotated[
    Literal["refuse", "pool", "bound"],
    _option(
        THRESHOLDS,
        "--too-few",
        help="Where a view has too few frames for that: refuse, pool views, or bound.",
    ),
]
ThresholdOption = Annotated[
    Literal["conformal", "max", "median-max", "quantile", "mad", "evt"],
    _option(THRESHOLDS, "--threshold", help="How thresholds are drawn from the scores of good frames."),
]
KOption = Annotated[
    float | None,
    _option(THRESHOLDS, "--k", min=0, help="Of mad: median + k σ \\[default: from --false-reject]"),
]
QuantileOption = Annotated[
    float | None,
    _option(
        THRESHOLDS, "--quantile", min=0.5, max=1 - 1e-6, help="Its level \\[default: from --false-reject]"
    ),
]
UnseenOption = Annotated[
    Literal["refuse", "adaptive"],
    _option(
        THRESHOLDS, "--unseen-views", help="Views without thresholds: refuse, or estimate from the others."
    ),
]
FewerBits = Annotated[
    bool,
    _option(
        THRESHOLDS,
        "--fewer-bits/--fp32-only",
        help="At the end, see whether int8 and bf16 agree well enough to judge; the fastest will.",
    ),
]
MinRecall = Annotated[
    float | None,
    _option(
        THRESHOLDS,
        "--min-recall",
        min=0.01,
        max=1,
        help="Of supervised models: the share of defects that must be found.",
    ),
]


def learn(
    context: typer.Context,
    images: Images,
    recipe: RecipeName,
    preset: Preset = None,
    template: Template = None,
    pattern: Pattern = None,
    manifest: Manifest = None,
    masks: Masks = None,
    model: Model = "auto",
    minutes: Minutes = 5.0,
    steps: Steps = 0,
    seed: Seed = 0,
    threads: Threads = 0,
    loss: Loss = None,
    learning_rate: LearningRate = None,
    augment: Augment = None,
    rotate: Rotate = 0.0,
    light: LightOption = 0.0,
    patch_rule: PatchRuleOption = None,
    stride: Stride = None,
    around_defects: AroundDefects = False,
    defect_crops: DefectCrops = None,
    fresh: Fresh = False,
    tiled: Tiled = False,
    size: Size = None,
    fit: Fit = None,
    scale: Scale = 1.0,
    gray: Gray = "bt601",
    window: Window = "declared",
    value_range: ValueRange = None,
    rectify: RectifyOption = None,
    mask: MaskOption = None,
    mask_recipe: MaskRecipe = None,
    mask_polarity: MaskPolarity = "auto",
    illumination: Illumination = "none",
    clahe: ClaheOption = False,
    clahe_clip: ClaheClip = CLAHE_CLIP,
    clahe_tiles: ClaheTiles = CLAHE_TILES,
    score_of: ScoreOf = None,
    score_map: ScoreMap = None,
    smooth: Smooth = None,
    statistic: Statistic = None,
    peak: Peak = None,
    top_ratio: TopRatio = None,
    min_area: MinArea = None,
    false_reject: FalseReject = 0.05,
    false_reject_part: FalseRejectPart = None,
    review_band: ReviewBand = None,
    too_few: TooFewOption = "pool",
    threshold: ThresholdOption = "conformal",
    k: KOption = None,
    quantile: QuantileOption = None,
    unseen_views: UnseenOption = "refuse",
    min_recall: MinRecall = None,
    procedure: Procedure = "split",
    fewer_bits: FewerBits = True,
    show_anomalies: ShowAnomalies = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Learn a recipe from frames: engine, thresholds and a report. Good frames are enough."""
    _learn_from(context, locals(), calibrate=True)


OF_THRESHOLDS = {
    "false_reject", "false_reject_part", "review_band", "too_few", "threshold", "k", "quantile",
    "unseen_views", "min_recall", "procedure", "fewer_bits", "show_anomalies",
}  # fmt: skip


def _options_of_learn(without: set[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a function the options of `learn`, as typer reads them, so that they are written once."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(learn, eval_str=True)
        kept = [option for name, option in signature.parameters.items() if name not in without]
        described: Any = command
        described.__signature__ = signature.replace(parameters=kept)
        described.__annotations__ = {option.name: option.annotation for option in kept}
        return command

    return decorate


@_options_of_learn(without=OF_THRESHOLDS)
def train(**options: Any) -> None:
    """Learn the engine only, from all good frames; `edge calibrate` with others gives it thresholds."""
    _learn_from(options.pop("context"), options, calibrate=False)


def calibrate(
    recipe: RecipeName,
    images: Annotated[
        Path | None,
        typer.Argument(
            metavar="IMAGES", help="As for learn; what they show must not have been learned from."
        ),
    ] = None,
    template: Template = None,
    pattern: Pattern = None,
    manifest: Manifest = None,
    masks: Masks = None,
    false_reject: FalseReject = 0.05,
    false_reject_part: FalseRejectPart = None,
    review_band: ReviewBand = None,
    too_few: TooFewOption = "pool",
    threshold: ThresholdOption = "conformal",
    k: KOption = None,
    quantile: QuantileOption = None,
    unseen_views: UnseenOption = "refuse",
    min_recall: MinRecall = None,
    view_cycle: Annotated[
        float | None,
        typer.Option("--view-cycle", help="Where view numbers start anew: 24 for 01 to 24 all round a part."),
    ] = None,
    value_range: ValueRange = None,
    drop_views: Annotated[
        bool, typer.Option("--drop-views", help="Allow that views calibrated so far lose their thresholds.")
    ] = False,
    with_reviews: Annotated[
        bool,
        _option(
            REVIEWS,
            "--with-reviews",
            help="No new frames: what people said of verdicts raises the thresholds; shown before it counts.",
        ),
    ] = False,
    days: Annotated[
        float, _option(REVIEWS, "--days", min=0, max=36500, help="Stored verdicts to compare with.")
    ] = 30,
    accept: Annotated[
        bool, _option(REVIEWS, "--accept", help="Take them over, without asking on the terminal.")
    ] = False,
    allow_escapes: Annotated[
        bool, _option(REVIEWS, "--allow-escapes", help="Even if a defect that people confirmed passes.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """New thresholds for an engine, from frames that it was not learned from: good ones, and of supervised
    models labelled ones.

    They replace the old ones. It is refused if a view that has thresholds, or that the recipe expects, has no
    frame here, unless --drop-views is given.
    """
    if with_reviews:
        from edge.review.thresholds_command import WithReviews, ask, run_with_reviews

        _check_without_effect(locals())
        asked = WithReviews(recipe, days, accept, allow_escapes, as_json)
        run_with_reviews(asked, config, None if accept or as_json else ask())
        return
    if images is None:
        raise UsageError("no IMAGES", hint="name good frames, or add --with-reviews")
    if accept or allow_escapes:
        raise UsageError("--accept, --allow-escapes: only with --with-reviews", hint="leave them out")
    from edge import config as configuration
    from edge.calibrate import calibrate_recipe, calibrated_views, check_rule
    from edge.dataset import samples
    from edge.decode import Limits
    from edge.infer.compile import open_runtime
    from edge.infer.precisions import FILE as PRECISIONS
    from edge.learn.progress import Event, console
    from edge.recipes import COMPILED, check_state, find_recipe, load_engine, value_range_of

    numbers = {"false_reject": false_reject, "k": k, "quantile": quantile, "view_cycle": view_cycle}
    _check_finite(numbers | {"false_reject_part": false_reject_part, "review_band": review_band})
    check_rule(
        threshold, k=k, quantile=quantile, unseen_views=unseen_views, view_cycle=view_cycle,
        false_reject=false_reject, review_band=review_band,
    )  # fmt: skip
    stored = parse_range(value_range)
    settings = configuration.site(config)
    if value_range is None:
        stored = value_range_of(settings, recipe)
    known = find_recipe(settings, recipe)
    target = settings.paths.calibration / f"{known.calibration}.json"
    dataset = samples(images, manifest=manifest, template=template, pattern=pattern, masks=masks)
    bundle = load_engine(settings, recipe)
    check_state(settings)
    with console() as listen:
        for name in dataset.unmatched:
            listen(Event("calibrate", f"left out: {name}: its name does not match"))
        how: dict[str, Any] = {
            "recipe": recipe,
            "limits": Limits(settings.runtime.max_pixels, settings.runtime.max_pages),
            "value_range": stored,
            "views": () if drop_views else {*known.views, *calibrated_views(target)},
            "on_frame": lambda done, of: listen(Event("calibrate", f"frame {done + 1} of {of}", done / of)),
        }
        runtime = open_runtime(bundle, precision="fp32", cache=settings.paths.state / COMPILED)
        training = bundle.manifest.training
        truth = training.get("truth", "none")
        if truth == "foreground":
            raise UsageError(
                f"recipe {recipe} finds foregrounds: it has no thresholds",
                hint="calibrate the recipes that use it",
            )
        if truth == "none":
            if min_recall is not None:
                raise UsageError("--min-recall needs a model that learned from defects", hint="leave it out")
            result = calibrate_recipe(
                dataset.good_regions() if training.get("around_defects") else dataset.good(),
                bundle, runtime, target, false_reject=false_reject, too_few=too_few,
                threshold=threshold, k=k, quantile=quantile, unseen_views=unseen_views, view_cycle=view_cycle,
                false_reject_part=false_reject_part, review_band=review_band, **how,
            )  # fmt: skip
        else:
            from edge.calibrate_labelled import calibrate_labelled
            from edge.judge.thresholds import ThresholdRule

            if unseen_views != "refuse" or view_cycle is not None:
                raise UsageError(
                    "--unseen-views: a supervised recipe has one threshold for all views", hint="leave it out"
                )
            for option, value in (
                ("--false-reject-part", false_reject_part),
                ("--review-band", review_band),
            ):
                if value is not None:
                    raise UsageError(
                        f"{option}: a supervised recipe has one threshold for all views", hint="leave it out"
                    )
            if min_recall is not None and threshold != "conformal":
                raise UsageError(
                    f"--threshold {threshold} has no effect beside --min-recall", hint="leave it out"
                )
            rule = ThresholdRule(threshold, false_reject, k, quantile)
            result = calibrate_labelled(
                dataset.labelled(), bundle, runtime, target, rule=rule, min_recall=min_recall, **how
            )
        for bad in result.unreadable:
            listen(Event("calibrate", f"left out: {bad} ({bad.reason})"))
        if result.learned:
            listen(Event("calibrate", f"left out, learned from: {len(result.learned)} frames"))
        for sentence in result.changes():
            listen(Event("calibrate", sentence))
        for sentence in result.shortfalls():
            listen(Event("calibrate", f"WARNING {sentence}"))
        if (bundle.folder / PRECISIONS).exists():  # verdicts were compared by the thresholds before
            from edge.learn.accelerate import Source, accelerate

            given = dataset.good() if truth == "none" else dataset.labelled()
            source = Source(list(given), how["limits"], stored)
            accelerate(bundle, result.calibration, source, listen=listen)
    _answer(_calibration_facts(result), as_json)


def _check_without_effect(given: Mapping[str, Any]) -> None:
    """What says how new frames are calibrated says nothing of reviews.

    Raises:
        UsageError: naming the option.
    """
    defaults = {
        name: option.default
        for name, option in inspect.signature(calibrate).parameters.items()
        if name not in ("recipe", "with_reviews", "days", "accept", "allow_escapes", "config", "as_json")
    }
    for name, default in defaults.items():
        if given[name] != default:
            option = "IMAGES" if name == "images" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} has no effect beside --with-reviews", hint="leave it out")


def compile_(
    recipe: RecipeName,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision", help="fp32, fp16, bf16 or int8; may be repeated \\[default: what the runtime has]"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--frames",
            help="Good frames (folder, manifest CSV or store) that were not learned from, as for calibrate: "
            "make int8 again from them, and see which precisions may judge.",
        ),
    ] = None,
    runtime: Annotated[
        Literal["cpu", "tensorrt", "torch-cuda"] | None,
        typer.Option(
            "--runtime",
            help="What compiles and runs it \\[default: runtime.device of the site; cpu where that is auto]",
        ),
    ] = None,
    template: Template = None,
    pattern: Pattern = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Compile an engine for this machine, hold it to its golden pair, and measure it.

    TensorRT's engines are kept in the state folder, where the daemon finds them: no start waits for a build.

    With --frames: which precisions beside fp32 agree well enough to judge is measured anew and written down,
    as `edge learn` does at its end.
    """
    from edge import config as configuration
    from edge.recipes import COMPILED, calibration_of, check_state, load_engine, precisions_of

    settings = configuration.site(config)
    device = runtime or (settings.runtime.device if settings.runtime.device in COMPILED_FOR else "cpu")
    for wanted in precision or ():
        if wanted not in COMPILED_FOR[device]:
            known = ", ".join(COMPILED_FOR[device])
            raise UsageError(f"--precision {wanted}: {device} computes in {known}", hint="choose one of them")
    bundle = load_engine(settings, recipe)
    check_state(settings)
    calibration = calibration_of(settings, recipe, bundle)
    if images is not None:
        _agree(settings, recipe, bundle, calibration, images, template, pattern)
    precisions = precisions_of(settings, recipe, bundle, calibration, warned)
    cache = settings.paths.state / COMPILED
    rows = [
        measure(bundle, wanted, cache, precisions, device) for wanted in precision or COMPILED_FOR[device]
    ]
    if as_json:
        facts = {"recipe": recipe, "bundle_sha256": bundle.digest, "runtime": device, "precisions": rows}
        print(json.dumps(facts))
    else:
        print(f"{'precision':<10} {'difference':>10} {'tolerance':>10} {'Mpx/s':>9}  agreement with fp32")
        for row in rows:
            if "error" in row:
                print(f"{row['precision']:<10} {row['error']}")
            else:
                print(AS_ROW.format(**row))
    if all("error" in row for row in rows):
        raise UnavailableError(
            f"no precision runs on this machine by {device}: {rows[0]['error']}",
            hint="see the reasons above" if device == "cpu" else "see `edge doctor --gpu`",
            retryable=False,
        )


def warned(sentence: str) -> None:
    """Something that a person should know."""
    print(f"edge: {sentence}", file=sys.stderr)


def _agree(
    settings: Settings,
    recipe: str,
    bundle: Bundle,
    calibration: Calibration | None,
    images: Path,
    template: str | None,
    pattern: str | None,
) -> None:
    from edge.dataset import samples
    from edge.decode import Limits
    from edge.learn.accelerate import Source, accelerate
    from edge.learn.progress import console
    from edge.recipes import value_range_of

    if calibration is None:
        raise UsageError(
            f"recipe {recipe} has no calibration: verdicts are what precisions are compared by",
            hint="edge calibrate first",
        )
    dataset = samples(images, template=template, pattern=pattern)
    limits = Limits(settings.runtime.max_pixels, settings.runtime.max_pages)
    source = Source(list(dataset.good()), limits, value_range_of(settings, recipe))
    with console() as listen:
        accelerate(bundle, calibration, source, listen=listen)


def measure(
    bundle: Bundle, precision: str, cache: Path, precisions: Precisions | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Difference to the golden answers and megapixels/s of one precision, or why it cannot run here."""
    from edge.infer.compile import open_runtime, pixels_per_s, prove, window_of
    from edge.infer.precisions import tolerant

    try:
        runtime = open_runtime(
            bundle, device=device, precision=precision, precisions=precisions, cache=cache,
            note=warned, progress=warned,
        )  # fmt: skip
    except EdgeError as error:
        return {"precision": precision, "error": error.message}
    window = window_of(bundle, precisions)
    rate = pixels_per_s(runtime, window, MEASURE_S)
    held = tolerant(bundle, precisions)
    return {
        "precision": precision,
        "difference": prove(held, runtime),
        "tolerance": held.tolerance_of(precision),
        "tiles_per_s": round(rate / (window[0] * window[1]), 2),
        "tile_px": list(window),
        "mpx_per_s": round(rate / 1e6, 2),
        "agreement": precisions.agreements[precision].why
        if precisions is not None and precision in precisions.agreements
        else "",
    }


def preprocess_from(options: Mapping[str, Any]) -> PreprocessSpec:
    """The preprocessing that options ask for; tiles come from the model.

    Raises:
        UsageError: naming the option and what it wants.
    """
    from pydantic import ValidationError

    from edge.preprocess import Clahe, PreprocessSpec

    if options["size"] is not None and options["scale"] != 1:
        raise UsageError("--size and --scale are two ways to say the same", hint="leave one out")
    if not options["clahe"] and (options["clahe_clip"], options["clahe_tiles"]) != (CLAHE_CLIP, CLAHE_TILES):
        raise UsageError("--clahe-clip and --clahe-tiles have no effect without --clahe", hint="add --clahe")
    try:
        return PreprocessSpec(
            gray=options["gray"],
            window=options["window"],
            value_range=parse_range(options["value_range"]),
            size_px=parse_size(options["size"]),
            scale=options["scale"],
            illumination=options["illumination"],
            clahe=Clahe(clip=options["clahe_clip"], tiles=options["clahe_tiles"])
            if options["clahe"]
            else None,
            mask=_mask_from(options),
            rectify=_rectify_from(options["rectify"]),
        )
    except ValidationError as error:
        raise _wrong_option(error) from None


def _mask_from(options: Mapping[str, Any]) -> MaskSpec | None:
    from edge.preprocess import MaskSpec

    method = options["mask"] or ("unet" if options["mask_recipe"] else "none")
    if options["mask_recipe"] and method not in ("unet", "mean"):
        raise UsageError(f"--mask {method} uses no recipe", hint="leave out --mask-recipe")
    if method == "unet" and not options["mask_recipe"]:
        raise UsageError("--mask unet needs the recipe of a mask-unet", hint="name it with --mask-recipe")
    if method == "none":
        if options["mask_polarity"] != "auto":
            raise UsageError(
                "--mask-polarity has no effect without --mask", hint="add --mask otsu, or another"
            )
        return None
    return MaskSpec(method=method, polarity=options["mask_polarity"])


def _rectify_from(file: Path | None) -> Rectify | None:
    from pydantic import ValidationError

    from edge.preprocess import Rectify
    from edge.preprocess.plane import homography_of
    from edge.preprocess.rectify import edges_to_frame

    if file is None:
        return None
    try:
        spec = Rectify.model_validate_json(file.read_bytes())
        for view in (*spec.points, *spec.homographies):
            try:
                edges_to_frame(homography_of(spec, view))
            except DataError as error:
                raise DataError(f"{file}: view {view}: {error.message}", hint=error.hint) from None
        return spec
    except OSError as error:
        raise MissingInputError(f"{file}: cannot be read: {error.strerror}", hint="check the path") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{file}: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}",
            hint="a homography is nine numbers in a row; points are four corners, "
            'such as {"size_px": [800, 600], "points": {"*": [[9, 7], [795, 3], [801, 610], [4, 598]]}}',
        ) from None


def _learn_from(context: typer.Context, given: Mapping[str, Any], *, calibrate: bool) -> None:
    options = with_preset(given, given["preset"], lambda name: _is_given(context, name))
    try:
        import onnx  # noqa: F401  # both are needed; say so before an hour of learning
        import torch  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"learning needs {error.name}, which is not installed",
            hint='pip install "edge-inspect[learn]"; a daemon needs it not',
            retryable=False,
        ) from None

    from edge import config as configuration
    from edge.calibrate import check_rule
    from edge.dataset import samples
    from edge.decode import Limits
    from edge.judge.thresholds import ThresholdRule
    from edge.learn.augment import Light, Movement
    from edge.learn.learn import learn, show_anomalies
    from edge.learn.progress import console
    from edge.learn.request import LearnRequest, check_masks_are_used
    from edge.recipes import find_recipe
    from edge.renewal import engine_to_load

    _check_finite(options)
    check_threads(options["threads"])
    _check_sheet(options.get("show_anomalies"), options["model"])
    settings = configuration.site(options["config"])
    named = {
        "map": "score_map", "statistic": "statistic", "smooth_px": "smooth", "peak_px": "peak",
        "top_ratio": "top_ratio", "of": "score_of", "min_area_px": "min_area",
    }  # fmt: skip
    score = {key: options[option] for key, option in named.items() if options[option] is not None}
    same = (
        "recipe",
        "model",
        "minutes",
        "steps",
        "seed",
        "threads",
        "loss",
        "learning_rate",
        "fresh",
        "around_defects",
        "defect_crops",
        "stride",
        "tiled",
    )
    of_thresholds = (
        "too_few", "unseen_views", "min_recall", "false_reject_part", "review_band", "procedure",
        "fewer_bits",
    )  # fmt: skip
    thresholds = of_thresholds if calibrate else ()
    rule = ThresholdRule()
    if calibrate:
        chosen = options["threshold"], options["k"], options["quantile"]
        check_rule(
            chosen[0], k=chosen[1], quantile=chosen[2], unseen_views=options["unseen_views"],
            false_reject=options["false_reject"], review_band=options["review_band"],
        )  # fmt: skip
        rule = ThresholdRule(chosen[0], options["false_reject"], *chosen[1:])
    mask_engine = None
    if options["mask_recipe"]:
        mask_engine = settings.paths.engines / find_recipe(settings, options["mask_recipe"]).engine
    request = LearnRequest(
        dataset=samples(
            options["images"],
            manifest=options["manifest"],
            template=options["template"],
            pattern=options["pattern"],
            masks=options["masks"],
        ),
        engines=settings.paths.engines,
        calibration=settings.paths.calibration,
        preprocess=preprocess_from(options),
        score=score,
        mask_engine=mask_engine and engine_to_load(mask_engine),
        rule=rule,
        fit=options["fit"],
        augmentation=options["augment"],
        movement=Movement(degrees=options["rotate"]),
        light=Light(gain=options["light"]),
        patch_rule=options["patch_rule"],
        limits=Limits(settings.runtime.max_pixels, settings.runtime.max_pages),
        calibrate=calibrate,
        pinned=frozenset(name for name in ("scale", "illumination") if _is_given(context, name)),
        **{name: options[name] for name in (*same, *thresholds)},
    )
    if options["masks"] is not None and not request.around_defects:
        check_masks_are_used(request.model)
    if file := options.get("show_anomalies"):
        with console() as listen:
            show_anomalies(request, file, listen)
        print(json.dumps({"anomalies": str(file)}) if options["as_json"] else f"anomalies    {file}")
        return
    with console() as listen:
        result = learn(request, listen)
    if result.calibrated is not None:
        _warn_of_views(settings, request.recipe, result.calibrated.calibration)
    _answer(_learning_facts(result), options["as_json"])


def _warn_of_views(settings: Settings, learned: str, calibration: Calibration) -> None:
    """Say now what `edge check` would say of the site with what was learned."""
    from edge.recipes import check_views

    for name, recipe in settings.recipe.items():
        if recipe.calibration == learned:
            try:
                check_views(settings, name, calibration)
            except EdgeError as error:
                warned(f"WARNING {error}")


def _check_sheet(file: Path | None, model: str) -> None:
    """What cannot be shown is said before all frames are read.

    Raises:
        UsageError: neither a picture nor a page, or the model has no anomalies.
    """
    from edge.learn.models import of_name

    if file is None:
        return
    if file.suffix.lower() not in (".png", ".html", ".htm"):
        raise UsageError(f"--show-anomalies {file}: neither a .png nor an .html", hint="name it sheet.png")
    if model != "auto" and of_name(model).plan is None:
        raise UsageError(
            f"model {model} does not learn from synthetic anomalies",
            hint="leave out --show-anomalies, or choose --model anomaly-unet",
        )


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, not left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_finite(options: Mapping[str, Any]) -> None:
    """What typer lets through where an option has no upper bound.

    Raises:
        UsageError: naming the option.
    """
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{name.replace('_', '-')} {value}: not a finite number", hint="see --help")


def _wrong_option(error: Any) -> UsageError:
    first = error.errors()[0]
    name = "-".join(str(part) for part in first["loc"]) or "the preprocessing"
    return UsageError(f"{name}: {first['msg']}", hint="see --help for what each option takes")


def _learning_facts(result: LearnResult) -> dict[str, Any]:
    training = result.bundle.manifest.training
    facts: dict[str, Any] = {
        "recipe": result.bundle.manifest.name,
        "model": result.model,
        "why": result.why,
        "engine": str(result.bundle.folder),
        "bundle_sha256": result.bundle.digest,
        "report": str(result.report),
        "frames": result.counts,
        "steps": result.progress.step,
        "seconds": training["seconds"],
        "stopped": result.progress.stopped,
        "validation_loss": training["validation_loss"],
        "agreement": result.agreement,
        "unreadable": [bad.path for bad in result.unreadable],
        "previous": result.previous and str(result.previous),
    }
    return facts | (_calibration_facts(result.calibrated) if result.calibrated else {})


def _calibration_facts(result: Calibrated) -> dict[str, Any]:
    calibration = result.calibration
    return {
        "recipe": calibration.recipe,
        "calibration": str(result.file),
        "calibration_sha256": calibration.digest,
        "false_reject": calibration.false_reject,
        "procedure": calibration.procedure,
        "part": calibration.part.model_dump(exclude={"centres"}) if calibration.part else None,
        "review_band": calibration.review_rate,
        "views": {
            name: {
                "threshold": view.threshold,
                "review_threshold": view.review_threshold,
                "frames": len(view.scores),
                "parts": view.parts_count,
                "basis": view.basis,
                "method": view.method,
                "false_reject_bound": view.false_reject_bound,
                "false_reject_estimate": view.false_reject_estimate,
            }
            for name, view in calibration.views.items()
        },
        "unseen_views": _unseen_facts(calibration.adaptive) if calibration.adaptive else None,
        "left_out": list(result.learned),
        "changes": result.changes(),
        "warnings": result.shortfalls(),
    }


def _unseen_facts(model: AdaptiveModel) -> dict[str, Any]:
    """How far estimated thresholds lay from those of views left out, as factors."""
    return {
        "error_factor": math.exp(model.loo_error),
        "margin_factor": math.exp(model.margin),
        "error_factor_without_neighbours": math.exp(model.loo_error_alone),
        "margin_factor_without_neighbours": math.exp(model.margin_alone),
        "foreground_ratio": list(model.foreground_ratio),
        "cycle": model.cycle,
    }


def _promised(of: Mapping[str, Any], what: str = "frames") -> str:
    """The bound, the estimate, or both."""
    bound, share = of["false_reject_bound"], of["false_reject_estimate"]
    about = "" if share is None else f"about {share:.2%}"
    as_far = " as far as its assumption holds" if about else ""
    if bound >= 1:
        return f"nothing proved; rejects {about or 'an unknown share'} of good {what}{as_far}"
    return f"rejects at most {bound:.1%} of good {what}" + (f", {about}{as_far}" if about else "")


def _reviewed(view: Mapping[str, Any]) -> str:
    above = view["review_threshold"]
    return "" if above is None else f"; OK but for review above {above:.4g}"


def _answer(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, allow_nan=False))
        return
    for name in ("engine", "calibration", "report"):
        if name in facts:
            print(f"{name:<12} {facts[name]}")
    if kept := facts.get("previous"):
        print(f"replaced     the engine of that name; it is kept as {kept}, its calibration likewise")
    for name, view in facts.get("views", {}).items():
        print(
            f"view {name:<7} threshold {view['threshold']:.4g} from {view['frames']} frames "
            f"({view['basis']}, {view['method']}), {_promised(view)}{_reviewed(view)}"
        )
    if part := facts.get("part"):
        kept = {"false_reject_bound": part["bound"], "false_reject_estimate": part["estimate"]}
        print(f"parts: {part['parts']} with all views, {_promised(kept, 'parts')}")
    if unseen := facts.get("unseen_views"):
        print(
            f"views never seen: thresholds estimated within a factor of about {unseen['error_factor']:.2f} "
            f"(each view by the others), raised by {unseen['margin_factor']:.2f}"
        )
