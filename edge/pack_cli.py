"""`edge pack`: frames into one HDF5 store. Options in, one answer out; h5py is imported when used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from edge.errors import DataError, UsageError

if TYPE_CHECKING:
    from edge.config import Settings
    from edge.crops import Cropper, MaskedCrops
    from edge.types import FloatImage, Mask

FOREGROUND = 0.5  # probability above which a pixel is the part's

Images = Annotated[
    Path, typer.Argument(metavar="IMAGES", help="Folder of frames, or a manifest CSV (or a folder with one).")
]
Out = Annotated[Path, typer.Option("--out", help="The store to write, such as films.h5.")]
BitsOption = Annotated[Literal["8", "16"], typer.Option("--bits", help="Grey levels of the store.")]
Crops = Annotated[
    Path | None, typer.Option("--crops", help="CSV path,x,y,w,h[,name] of what to keep; else whole frames.")
]
CropRecipe = Annotated[
    str | None, typer.Option("--crop-recipe", help="Recipe of a mask-unet: keep the box around each object.")
]
Template = Annotated[
    str | None, typer.Option("--template", help="Names → part, view: '{batch}/{part}_{view}'.")
]
Pattern = Annotated[str | None, typer.Option("--pattern", help="The same as a regex with named groups.")]
Manifest = Annotated[Path | None, typer.Option("--manifest", help="Manifest CSV of the frames below IMAGES.")]
Config = Annotated[Path | None, typer.Option("--config", help="Site configuration; its limits are used.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.")]


def pack(
    images: Images,
    out: Out,
    bits: BitsOption = "16",
    crops: Crops = None,
    crop_recipe: CropRecipe = None,
    template: Template = None,
    pattern: Pattern = None,
    manifest: Manifest = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Pack frames (DICOM and all other formats) into one HDF5 store, for learning.

    Interrupted, the same command continues. Exit 65 if a frame could not be read; the others are then in it.
    """
    from edge import config as configuration
    from edge.crops import read_crops
    from edge.dataset import samples
    from edge.decode import Limits
    from edge.learn.progress import Event, console
    from edge.pack import Bits
    from edge.pack import pack as pack_frames

    settings = configuration.site(config)
    dataset = samples(images, manifest=manifest, template=template, pattern=pattern)
    if crops is not None and crop_recipe is not None:
        raise UsageError("--crops and --crop-recipe both say what to keep", hint="leave one out")
    cropper: Cropper | None = None if crops is None else read_crops(crops, dataset.samples)
    if crop_recipe is not None:
        cropper = _objects_found_by(settings, crop_recipe)
    limits = Limits(settings.runtime.max_pixels, settings.runtime.max_pages)
    with console() as listen:
        packed = pack_frames(
            dataset.samples,
            out,
            limits,
            bits=cast(Bits, int(bits)),
            crops=cropper,
            on_frame=lambda text, share: listen(Event("pack", text, share)),
        )
    for name in packed.left_out:
        print(f"edge: left out: {name}: no rectangle in {crops}", file=sys.stderr)
    for name in dataset.unmatched:
        print(f"edge: left out: {name}: its name does not match", file=sys.stderr)
    for bad in packed.unreadable:
        print(f"edge: {bad}", file=sys.stderr)
    _answer(packed, as_json)
    if packed.unreadable:
        raise typer.Exit(DataError.exit_code)


def _objects_found_by(settings: Settings, recipe: str) -> MaskedCrops:
    """The boxes around what a mask-unet finds.

    Raises:
        UsageError: the recipe finds no foreground.
    """
    from edge.crops import MaskedCrops
    from edge.infer.compile import open_runtime
    from edge.preprocess.foreground import to_square
    from edge.recipes import load_engine

    bundle = load_engine(settings, recipe)
    if bundle.manifest.training.get("truth") != "foreground":
        raise UsageError(
            f"recipe {recipe} (model {bundle.manifest.model}) finds no foreground",
            hint="learn one: edge learn FRAMES --recipe NAME --model mask-unet --masks DIR",
        )
    runtime, side_px = open_runtime(bundle, precision="fp32"), bundle.manifest.preprocess.tiles.size_px

    def mask_of(plane: FloatImage) -> Mask:
        (answer,) = runtime.infer([to_square(plane, side_px)[None, None]])
        found: Mask = answer[0, 0] > FOREGROUND
        return found

    return MaskedCrops(mask_of, f"{recipe} {bundle.digest[:16]}")


def _answer(packed: Any, as_json: bool) -> None:
    if not as_json:
        print(
            f"{packed.store}: {packed.frames} frames, {packed.crops} crops ({packed.written} written now, "
            f"{len(packed.left_out)} left out, {len(packed.unreadable)} unreadable)"
        )
        return
    facts = {
        "store": str(packed.store),
        "bytes": packed.store.stat().st_size,
        "frames": packed.frames,
        "crops": packed.crops,
        "written": packed.written,
        "left_out": list(packed.left_out),
        "unreadable": [{"path": b.path, "reason": b.reason, "message": b.message} for b in packed.unreadable],
    }
    print(json.dumps(facts, allow_nan=False))
