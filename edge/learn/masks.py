"""The files that a recipe's masks need: a network that finds the foreground, or each view's mean mask."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.artifacts import write_atomic
from edge.dataset import Sample, frames
from edge.errors import DataError, UsageError
from edge.infer.bundle import (
    GOLDEN,
    MASK_GOLDEN,
    MASK_MODEL,
    MEAN_MASKS,
    MODEL,
    load_bundle,
    pack_mean_masks,
)
from edge.learn.progress import Event, Listener
from edge.preprocess import PreprocessSpec
from edge.preprocess.foreground import MeanMask
from edge.types import DEFAULT_VIEW

if TYPE_CHECKING:
    from edge.learn.request import LearnRequest

# What a foreground network and the recipe that uses it must agree on: it sees the recipe's own planes
SEEN = ("gray", "window", "percentiles", "value_range", "rectify")


def with_mask_network(
    spec: PreprocessSpec, engine: Path, folder: Path
) -> tuple[PreprocessSpec, dict[str, bytes]]:
    """The spec bound to the network of a `mask-unet` bundle, and the files, which are in `folder` as well.

    Raises:
        BundleError: the bundle is damaged. UsageError: it finds no foreground, or sees frames otherwise.
    """
    assert spec.mask is not None, "asked for"
    bundle = load_bundle(engine)
    manifest = bundle.manifest
    if manifest.training.get("truth") != "foreground":
        raise UsageError(
            f"{engine}: model {manifest.model} finds no foreground",
            hint="learn one: edge learn FRAMES --recipe NAME --model mask-unet --masks DIR",
        )
    for name in SEEN:
        if getattr(manifest.preprocess, name) != getattr(spec, name):
            raise UsageError(
                f"{engine}: was learned with {name} = {getattr(manifest.preprocess, name)}, the recipe has "
                f"{getattr(spec, name)}",
                hint="give both the same options",
            )
    onnx = bundle.read(MODEL)
    extra = {MASK_MODEL: onnx, MASK_GOLDEN: bundle.read(GOLDEN)}
    for name, data in extra.items():
        write_atomic(folder / name, data)
    mask = spec.mask.model_copy(
        update={
            "network_px": manifest.preprocess.tiles.size_px,
            "file_sha256": hashlib.sha256(onnx).hexdigest(),
        }
    )
    return spec.model_copy(update={"mask": mask}), extra


def mean_masks(
    spec: PreprocessSpec, request: LearnRequest, folder: Path, wanted: Sequence[Sample], listen: Listener
) -> tuple[PreprocessSpec, dict[str, bytes]]:
    """The spec bound to the mean mask of each view over good frames, and the file, which is in `folder` too.

    Each frame is masked by the mask network, or by Otsu's threshold where there is none. One frame is in
    memory at a time.

    Raises:
        DataError: frames of one view differ in size, or nothing is found in them.
    """
    assert spec.mask is not None, "asked for"
    means: dict[str, MeanMask] = {}
    good = [sample for sample in wanted if sample.label == "good"]
    with tempfile.TemporaryDirectory() as temporary:
        by_frame = _by_frame(spec, request.mask_engine, Path(temporary))
        pages = frames(good, by_frame, request.limits, unreadable=[], assets=Path(temporary))
        for done, (sample, frame) in enumerate(pages, 1):
            listen(Event("prepare", f"mask of {sample.path}", min(1.0, done / len(good))))
            assert frame.foreground is not None, "the spec masks"
            view = frame.identity.view or DEFAULT_VIEW
            try:
                means.setdefault(view, MeanMask()).add(frame.foreground)
            except DataError as error:
                raise DataError(
                    f"{sample.path}: view {view}: {error.message}", hint="bring frames to one size by --size"
                ) from None
    found = {view: mean.mean() for view, mean in means.items()}
    if not found or not all(np.any(mean > spec.mask.threshold) for mean in found.values()):
        raise DataError(
            "the mean mask of a view is empty: nothing was found in most of its frames",
            hint="look at single masks with --mask otsu and edge inspect --out, or choose another method",
        )
    packed = pack_mean_masks(found)
    write_atomic(folder / MEAN_MASKS, packed)
    mask = spec.mask.model_copy(update={"file_sha256": hashlib.sha256(packed).hexdigest()})
    return spec.model_copy(update={"mask": mask}), {MEAN_MASKS: packed}


def _by_frame(spec: PreprocessSpec, engine: Path | None, folder: Path) -> PreprocessSpec:
    """The preprocessing that masks each frame by itself; the network's files are in `folder`."""
    assert spec.mask is not None, "asked for"
    single = spec.mask.model_copy(update={"method": "otsu" if engine is None else "unet"})
    by_frame = spec.model_copy(update={"mask": single, "clahe": None})
    return by_frame if engine is None else with_mask_network(by_frame, engine, folder)[0]
