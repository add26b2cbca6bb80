"""torch → ONNX bytes in one piece, and the golden pair that every runtime is held to."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from torch import nn

from edge.learn.datasets import Plane16, Windows
from edge.preprocess import TileSpec
from edge.types import FloatImage

OPSET = 18
GOLDEN_TILES = 2


def to_onnx(network: nn.Module, tile_px: int, outputs: Sequence[str] = ("answers",)) -> bytes:
    """A network as a checked ONNX model: input `tiles`, (batch, 1, size, size); output `answers`, (batch, …).

    Only the batch is dynamic. Weights are inside; there is no second file.
    """
    example = torch.zeros(2, 1, tile_px, tile_px)
    with _quiet():
        program = torch.onnx.export(
            network.eval().to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]  # torch's own gap
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            input_names=["tiles"],
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None, "dynamo export without a file gives a program"
    model = program.model_proto
    for node in model.graph.node:  # where in our files each node came from: paths of the learning machine
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own deprecated calls, and logs a missing torchvision: not ours to mend."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def golden_pair(
    network: nn.Module, planes: Sequence[Plane16], tiles: TileSpec, seed: int
) -> tuple[FloatImage, FloatImage]:
    """Tiles of real frames and torch's answers, each (n, 1, size, size) float32."""
    windows = Windows(planes, tiles, tiles.size_px, GOLDEN_TILES, "none", seed).at(0)
    network.eval()
    with torch.no_grad():
        return windows.numpy(), network(windows).numpy().astype(np.float32)
