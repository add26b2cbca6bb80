"""`edge learn`, `train`, `calibrate`, `compile`: options in, one answer out; torch is imported when used."""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edge.errors import EdgeError, UnavailableError, UsageError
from edge.options import check_threads, parse_range, parse_size

if TYPE_CHECKING:
    from edge.calibrate import Calibrated
    from edge.infer.bundle import Bundle
    from edge.learn.learn import LearnResult
    from edge.preprocess import PreprocessSpec
    from edge.types import FloatImage

MEASURE_S = 2.0  # how long `compile` measures each precision

Images = Annotated[
    Path,
    typer.Argument(metavar="IMAGES", help="Folder of good frames, or a manifest CSV (or a folder with one)."),
]
RecipeName = Annotated[str, typer.Option("--recipe", help="Name: letters, digits, '.', '_' and '-'.")]
Config = Annotated[Path | None, typer.Option("--config", help="Site configuration; its folders are used.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.")]
Template = Annotated[
    str | None, typer.Option("--template", help="Names → part, view: '{batch}/{part}_{view}'.")
]
Pattern = Annotated[str | None, typer.Option("--pattern", help="The same as a regex with named groups.")]
Manifest = Annotated[Path | None, typer.Option("--manifest", help="Manifest CSV of the frames below IMAGES.")]
Model = Annotated[Literal["auto", "cae", "fragment-cae"], typer.Option("--model")]
Minutes = Annotated[float, typer.Option("--minutes", min=0.01, help="Time for learning.")]
Steps = Annotated[
    int, typer.Option("--steps", min=0, help="Learn so many steps instead: repeatable exactly.")
]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Threads = Annotated[int, typer.Option("--threads", min=0, help="CPU threads, at most one a core; 0: all.")]
FalseReject = Annotated[
    float,
    typer.Option("--false-reject", min=1e-6, max=0.5, help="Share of good frames that may be rejected."),
]
TooFewOption = Annotated[
    Literal["refuse", "pool", "bound"],
    typer.Option("--too-few", help="Where a view has too few frames for that: refuse, pool views, or bound."),
]
Size = Annotated[str | None, typer.Option("--size", help="Bring frames to WIDTHxHEIGHT, at most 16384 each.")]
Scale = Annotated[float, typer.Option("--scale", help="Or scale every frame.")]
Gray = Annotated[
    Literal["bt601", "bt709", "mean", "red", "green", "blue"],
    typer.Option("--gray", help="Colour to grey: luma weights, or one channel."),
]
Window = Annotated[
    Literal["declared", "percentile"], typer.Option("--window", help="Which values are black and white.")
]
ValueRange = Annotated[
    str | None, typer.Option("--value-range", help="LOW:HIGH stored values, in place of the declared ones.")
]
Illumination = Annotated[
    Literal["none", "median"], typer.Option("--illumination", help="median: divide by the frame's median.")
]
ClaheOption = Annotated[bool, typer.Option("--clahe/--no-clahe", help="Equalise contrast locally.")]
Loss = Annotated[Literal["l2", "ssim", "ssim+l2"] | None, typer.Option("--loss")]
Augment = Annotated[Literal["none", "flips", "dihedral"] | None, typer.Option("--augment")]
ScoreMap = Annotated[Literal["l2", "l1", "ssim"] | None, typer.Option("--score-map")]
Statistic = Annotated[
    Literal["peak", "mean", "max", "std", "rmse"] | None,
    typer.Option("--statistic", help="What of the map is the frame's score."),
]
Smooth = Annotated[float | None, typer.Option("--smooth", help="σ of the Gaussian over the map, in pixels.")]
Peak = Annotated[
    int | None, typer.Option("--peak", help="Side of the window whose largest mean is the score.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do not continue an interrupted run.")]


def learn(
    images: Images,
    recipe: RecipeName,
    template: Template = None,
    pattern: Pattern = None,
    manifest: Manifest = None,
    model: Model = "auto",
    minutes: Minutes = 5.0,
    steps: Steps = 0,
    seed: Seed = 0,
    threads: Threads = 0,
    false_reject: FalseReject = 0.05,
    too_few: TooFewOption = "pool",
    size: Size = None,
    scale: Scale = 1.0,
    gray: Gray = "bt601",
    window: Window = "declared",
    value_range: ValueRange = None,
    illumination: Illumination = "none",
    clahe: ClaheOption = False,
    loss: Loss = None,
    augment: Augment = None,
    score_map: ScoreMap = None,
    statistic: Statistic = None,
    smooth: Smooth = None,
    peak: Peak = None,
    config: Config = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Learn a recipe from good frames: engine, thresholds and a report."""
    _learn_from(locals(), calibrate=True)


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


@_options_of_learn(without={"false_reject", "too_few"})
def train(**options: Any) -> None:
    """Learn the engine only, from all good frames; `edge calibrate` with others gives it thresholds."""
    _learn_from(options, calibrate=False)


def calibrate(
    images: Images,
    recipe: RecipeName,
    template: Template = None,
    pattern: Pattern = None,
    manifest: Manifest = None,
    false_reject: FalseReject = 0.05,
    too_few: TooFewOption = "pool",
    value_range: ValueRange = None,
    drop_views: Annotated[
        bool, typer.Option("--drop-views", help="Allow that views calibrated so far lose their thresholds.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """New thresholds for an engine, from good frames that it was not learned from.

    They replace the old ones. It is refused if a view that has thresholds, or that the recipe expects, has no
    frame here, unless --drop-views is given.
    """
    from edge import config as configuration
    from edge.calibrate import calibrate_recipe, calibrated_views
    from edge.dataset import samples
    from edge.decode import Limits
    from edge.infer.bundle import load_bundle
    from edge.infer.compile import open_runtime
    from edge.learn.progress import Event, console
    from edge.recipes import COMPILED, check_state, find_recipe, value_range_of
    from edge.renewal import engine_to_load

    _check_finite({"false_reject": false_reject})
    stored = parse_range(value_range)
    settings = configuration.site(config)
    if value_range is None:
        stored = value_range_of(settings, recipe)
    known = find_recipe(settings, recipe)
    target = settings.paths.calibration / f"{known.calibration}.json"
    dataset = samples(images, manifest=manifest, template=template, pattern=pattern)
    bundle = load_bundle(engine_to_load(settings.paths.engines / known.engine))
    check_state(settings)
    with console() as listen:
        for name in dataset.unmatched:
            listen(Event("calibrate", f"left out: {name}: its name does not match"))
        result = calibrate_recipe(
            dataset.good(), bundle,
            open_runtime(bundle, precision="fp32", cache=settings.paths.state / COMPILED), target,
            recipe=recipe, false_reject=false_reject, too_few=too_few,
            limits=Limits(settings.runtime.max_pixels, settings.runtime.max_pages), value_range=stored,
            views=() if drop_views else {*known.views, *calibrated_views(target)},
            on_frame=lambda done, of: listen(Event("calibrate", f"frame {done + 1} of {of}", done / of)),
        )  # fmt: skip
        for bad in result.unreadable:
            listen(Event("calibrate", f"left out: {bad} ({bad.reason})"))
        if result.learned:
            listen(Event("calibrate", f"left out, learned from: {len(result.learned)} frames"))
        for sentence in result.shortfalls():
            listen(Event("calibrate", f"WARNING {sentence}"))
    _answer(_calibration_facts(result), as_json)


def compile_(
    recipe: RecipeName,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", help="fp32 or bf16; may be repeated. All of them otherwise."),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Compile an engine for this machine, hold it to its golden pair, and measure it."""
    from edge import config as configuration
    from edge.infer.bundle import load_bundle
    from edge.recipes import COMPILED, check_state, find_recipe
    from edge.renewal import engine_to_load

    settings = configuration.site(config)
    bundle = load_bundle(engine_to_load(settings.paths.engines / find_recipe(settings, recipe).engine))
    check_state(settings)
    cache = settings.paths.state / COMPILED
    rows = [measure(bundle, wanted, cache) for wanted in precision or ["fp32", "bf16"]]
    if as_json:
        print(json.dumps({"recipe": recipe, "bundle_sha256": bundle.digest, "precisions": rows}))
    else:
        print(f"{'precision':<10} {'difference':>10} {'tolerance':>10} {'tiles/s':>9}")
        for row in rows:
            if "error" in row:
                print(f"{row['precision']:<10} {row['error']}")
            else:
                print(
                    "{precision:<10} {difference:>10.2g} {tolerance:>10.2g} {tiles_per_s:>9.1f}".format(**row)
                )
    if all("error" in row for row in rows):
        raise UnavailableError(
            "no precision runs on this machine", hint="see the reasons above", retryable=False
        )


def measure(bundle: Bundle, precision: str, cache: Path) -> dict[str, Any]:
    """Difference to the golden answers and tiles/s of one precision, or why it cannot run here."""
    import numpy as np

    from edge.infer.compile import open_runtime, prove

    try:
        runtime = open_runtime(bundle, precision=precision, cache=cache)
    except EdgeError as error:
        return {"precision": precision, "error": error.message}
    tiles, _ = bundle.golden()
    batch = np.resize(tiles, (runtime.batch, *tiles.shape[1:])).astype(np.float32)
    until, count, began = time.monotonic() + MEASURE_S, 0, time.monotonic()

    def stream() -> Iterator[FloatImage]:
        while time.monotonic() < until:
            yield batch

    for answer in runtime.infer(stream()):
        count += len(answer)
    return {
        "precision": precision,
        "difference": prove(bundle, runtime),
        "tolerance": bundle.manifest.golden_tolerance[precision],
        "tiles_per_s": round(count / (time.monotonic() - began), 1),
        "tile_px": bundle.manifest.preprocess.tiles.size_px,
    }


def preprocess_from(options: Mapping[str, Any]) -> PreprocessSpec:
    """The preprocessing that options ask for; tiles come from the model.

    Raises:
        UsageError: naming the option and what it wants.
    """
    from pydantic import ValidationError

    from edge.preprocess import Clahe, PreprocessSpec

    try:
        return PreprocessSpec(
            gray=options["gray"],
            window=options["window"],
            value_range=parse_range(options["value_range"]),
            size_px=parse_size(options["size"]),
            scale=options["scale"],
            illumination=options["illumination"],
            clahe=Clahe() if options["clahe"] else None,
        )
    except ValidationError as error:
        raise _wrong_option(error) from None


def _learn_from(options: Mapping[str, Any], *, calibrate: bool) -> None:
    try:
        import onnx  # noqa: F401  # both are needed; say so before an hour of learning
        import torch  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"learning needs {error.name}, which is not installed",
            hint='pip install "edge-inspect[learn]"; a daemon needs it not',
            retryable=False,
        ) from None
    from pydantic import ValidationError

    from edge import config as configuration
    from edge.dataset import samples
    from edge.decode import Limits
    from edge.infer.bundle import ScoreSpec
    from edge.learn.learn import LearnRequest, learn
    from edge.learn.progress import console

    _check_finite(options)
    check_threads(options["threads"])
    settings = configuration.site(options["config"])
    named = {"map": "score_map", "statistic": "statistic", "smooth_px": "smooth", "peak_px": "peak"}
    score = {key: options[option] for key, option in named.items() if options[option] is not None}
    try:
        ScoreSpec.model_validate(score)
    except ValidationError as error:
        raise _wrong_option(error) from None
    same = ("recipe", "model", "minutes", "steps", "seed", "threads", "loss", "fresh")
    thresholds = ("false_reject", "too_few") if calibrate else ()
    request = LearnRequest(
        dataset=samples(
            options["images"],
            manifest=options["manifest"],
            template=options["template"],
            pattern=options["pattern"],
        ),
        engines=settings.paths.engines,
        calibration=settings.paths.calibration,
        preprocess=preprocess_from(options),
        score=score,
        augmentation=options["augment"],
        limits=Limits(settings.runtime.max_pixels, settings.runtime.max_pages),
        calibrate=calibrate,
        **{name: options[name] for name in (*same, *thresholds)},
    )
    with console() as listen:
        result = learn(request, listen)
    _answer(_learning_facts(result), options["as_json"])


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
        "validation_loss": result.progress.best_loss,
        "agreement": result.agreement,
        "unreadable": [bad.path for bad in result.unreadable],
    }
    return facts | (_calibration_facts(result.calibrated) if result.calibrated else {})


def _calibration_facts(result: Calibrated) -> dict[str, Any]:
    calibration = result.calibration
    return {
        "recipe": calibration.recipe,
        "calibration": str(result.file),
        "calibration_sha256": calibration.digest,
        "false_reject": calibration.false_reject,
        "views": {
            name: {
                "threshold": view.threshold,
                "frames": len(view.scores),
                "basis": view.basis,
                "false_reject_bound": view.false_reject_bound,
            }
            for name, view in calibration.views.items()
        },
        "left_out": list(result.learned),
        "warnings": result.shortfalls(),
    }


def _answer(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, allow_nan=False))
        return
    for name in ("engine", "calibration", "report"):
        if name in facts:
            print(f"{name:<12} {facts[name]}")
    for name, view in facts.get("views", {}).items():
        print(
            f"view {name:<7} threshold {view['threshold']:.4g} from {view['frames']} frames "
            f"({view['basis']}), rejects at most {view['false_reject_bound']:.1%} of good frames"
        )
