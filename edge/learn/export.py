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
    _crop_upsampled(model)
    for node in model.graph.node:  # where in our files each node came from: paths of the learning machine
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _crop_upsampled(model: onnx.ModelProto) -> None:
    """Let what was brought back to twice its size be cropped to what it is added to.

    At the size of the export there is nothing to crop, and the exporter leaves it out; where a side was odd
    and rounded up, there is.
    """
    doubled = {node.output[0] for node in model.graph.node if node.op_type == "Resize"}
    constants = {constant.name for constant in model.graph.initializer}
    for add in [node for node in model.graph.node if node.op_type == "Add"]:
        for which, name in enumerate(add.input):
            if name not in doubled or add.input[1 - which] in constants:
                continue
            other = add.input[1 - which]
            start = onnx.numpy_helper.from_array(np.zeros(4, np.int64), f"{name}_start")
            model.graph.initializer.append(start)
            sides, cropped = f"{name}_sides", f"{name}_cropped"
            crop = [
                onnx.helper.make_node("Shape", [other], [sides], name=sides),
                onnx.helper.make_node("Slice", [name, start.name, sides], [cropped], name=cropped),
            ]
            add.input[which] = f"{name}_cropped"
            at = list(model.graph.node).index(add)
            for node in reversed(crop):
                model.graph.node.insert(at, node)


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
