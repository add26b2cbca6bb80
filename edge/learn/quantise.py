"""An int8 network from an fp32 one: post-training quantisation on windows of calibration frames, by NNCF.

The graph gets explicit QuantizeLinear/DequantizeLinear pairs, so that any runtime computes the same (Jacob et
al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", 2018).
Ranges are measured on good windows and on such with planted defects: on good ones alone, what a defect
excites would be cut off.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import UnavailableError
from edge.planted import plant, random_defect, with_defect
from edge.preprocess import TileSpec, Tiling
from edge.types import FloatImage, Frame

if TYPE_CHECKING:
    import onnx

WINDOWS = 64  # that ranges are measured on
WHOLE_PX = 352  # side of windows of networks that see whole frames
KEPT_FLOAT = (
    "ConvTranspose",
)  # interpolation, which is memory-bound: int8 gains nothing and costs precision


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantise, from the fastest on."""

    name: str
    preset: str  # "performance": symmetric activations; "mixed": asymmetric ones
    clip: bool  # ranges are means of the windows' extremes, so that what is rare is cut off; else of all
    keep_ends: bool = False  # first and last convolution stay in float


RECIPES = (
    Recipe("ranges without what is rare", "performance", clip=True),
    Recipe("whole ranges, asymmetric", "mixed", clip=False),
    Recipe("whole ranges, first and last layer in float", "mixed", clip=False, keep_ends=True),
)


def windows_of(frames: Sequence[Frame], tiles: TileSpec, seed: int, most: int = WINDOWS) -> list[FloatImage]:
    """(1, 1, size, size) windows of frames, in turn one as it is and one with a planted defect."""
    rng = np.random.default_rng((seed, 0x1E8))
    squares = tiles.model_copy(update={"whole_px": 0})
    if tiles.whole:  # any size does, and small ones are quick
        side = min(tiles.size_px, WHOLE_PX)
        squares = TileSpec(size_px=side, keep_px=side, step_px=side)
    windows: list[FloatImage] = []
    for number in range(most):
        frame = frames[number % len(frames)]
        plane = frame.plane
        if number % 2:
            planted = plant(plane, random_defect(rng), rng, frame.foreground)
            plane = plane if planted is None else with_defect(plane, planted)
        tiling = Tiling(plane.shape[0], plane.shape[1], squares)
        at = int(rng.integers(len(tiling)))
        if number % 2 and planted is not None:
            x, y = planted.box[0], planted.box[1]
            seeing = [i for i in range(len(tiling)) if _holds(tiling.box(i), x, y)]
            at = int(rng.choice(seeing))
        windows.append(np.asarray(tiling.cut(tiling.pad(plane), at, at + 1), np.float32))
    return windows


def quantise(model: bytes, windows: Sequence[FloatImage], recipe: Recipe) -> bytes:
    """The network, as ONNX bytes, with quantisation in its graph.

    Raises:
        UnavailableError: NNCF is not installed, or cannot quantise this network.
    """
    with _quiet():
        try:
            import nncf
            import onnx
        except ImportError:
            raise UnavailableError(
                "int8 needs NNCF, which is not installed", hint='pip install "edge-inspect[learn]"'
            ) from None
        network = onnx.load_from_string(model)
        name = network.graph.input[0].name
        _at_any_size(network)
        nncf.set_log_level(logging.ERROR)
        ignored = nncf.IgnoredScope(
            types=list(KEPT_FLOAT), names=_ends(network) if recipe.keep_ends else [], validate=False
        )
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        ranges = (
            RangeEstimatorParametersSet.MEAN_MINMAX if recipe.clip else RangeEstimatorParametersSet.MINMAX
        )
        try:
            quantised = nncf.quantize(
                network,
                nncf.Dataset([{name: window} for window in windows]),
                preset=nncf.QuantizationPreset(recipe.preset),
                subset_size=len(windows),
                ignored_scope=ignored,
                advanced_parameters=AdvancedQuantizationParameters(activations_range_estimator_params=ranges),
            )
        except Exception as error:  # whatever NNCF and its runtime raise: fp32 stays
            raise UnavailableError(
                f"NNCF cannot quantise this network: {type(error).__name__}: {error}", hint="fp32 judges"
            ) from error
    for node in quantised.graph.node:
        node.doc_string = ""
    return bytes(quantised.SerializeToString())


def _at_any_size(network: onnx.ModelProto) -> None:
    """Take out the sizes that the graph was exported with: windows may have others, where layers allow it."""
    for value in (network.graph.input[0], *network.graph.output):
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if axis != 1:
                dimension.dim_param = f"{value.name}_{axis}"
    del network.graph.value_info[:]


def _ends(network: onnx.ModelProto) -> list[str]:
    convolutions = [node.name for node in network.graph.node if node.op_type == "Conv"]
    return [convolutions[0], convolutions[-1]] if convolutions else []


def _holds(box: tuple[int, int, int, int], x: int, y: int) -> bool:
    return box[0] <= x < box[0] + box[2] and box[1] <= y < box[1] + box[3]


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF draws progress bars and logs what it does, and would report its use over the network."""
    os.environ.setdefault("NNCF_CI", "1")  # the only way to say no that it has: no session, no event
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("nncf").setLevel(logging.ERROR)
        yield
