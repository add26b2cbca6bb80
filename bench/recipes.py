"""A recipe without learning: a box blur as network, calibrated by `edge calibrate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.reference

from bench.context import Context
from edge.infer.bundle import ScoreSpec, write_bundle
from edge.preprocess import PreprocessSpec, TileSpec
from tests.sites import blurring_network


def blur_engine(folder: Path, tile_px: int) -> None:
    """Write engines/NAME: the lightest engine there is, so that everything around it shows."""
    network = blurring_network(tile_px)
    tiles = np.random.default_rng(0).random((1, 1, tile_px, tile_px), np.float32)
    (answers,) = onnx.reference.ReferenceEvaluator(onnx.load_from_string(network)).run(None, {"tiles": tiles})
    write_bundle(
        folder, name=folder.name, model="blur",
        preprocess=PreprocessSpec(tiles=TileSpec(size_px=tile_px, keep_px=tile_px, step_px=tile_px)),
        score=ScoreSpec(map="l1", statistic="peak", peak_px=4), output="reconstruction", onnx=network,
        golden=(tiles, np.asarray(answers)), training={},
    )  # fmt: skip


def blur_recipe(context: Context, good: Path, tile_px: int, *options: object) -> str:
    """The recipe `blur` in the bench's folder, calibrated on good frames; gives its name."""
    blur_engine(context.folder / "engines/blur", tile_px)
    context.edge("calibrate", good, "--recipe", "blur", *options)
    return "blur"
