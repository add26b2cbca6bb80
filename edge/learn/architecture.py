"""What a network is, read from its ONNX graph: the report tells of the very file that judges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import onnx
from onnx import AttributeProto, NodeProto, numpy_helper

from edge.errors import BundleError
from edge.learn.flops import gflop_per_mpx
from edge.preprocess import TileSpec

# what makes every answer depend on the whole tile
GLOBAL = {
    "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization", "GroupNormalization", "LayerNormalization",
    "MatMul", "Gemm", "ReduceMean", "Flatten", "Reshape", "Softmax",
}  # fmt: skip
SHAPES_ONLY = {"Shape", "Constant", "ConstantOfShape"}  # nothing of the pixels goes through them


@dataclass(frozen=True, slots=True)
class Architecture:
    """The figures of a network."""

    parameters: int
    layers: Mapping[str, int]  # kind → number, the most frequent first
    receptive_field_px: int | None  # side, of the plane; None: the whole tile
    gflop_per_mpx: float | None  # None: its shapes do not follow from the tile's


def architecture_of(model: bytes, tiles: TileSpec) -> Architecture:
    """The figures of an ONNX model of tiles like these."""
    graph = onnx.load_from_string(model).graph
    kinds = Counter(node.op_type for node in graph.node if node.op_type not in SHAPES_ONLY)
    weights = {name for node in graph.node for name in node.input}
    parameters = sum(
        math.prod(constant.dims)
        for constant in graph.initializer
        if constant.data_type == onnx.TensorProto.FLOAT and constant.name in weights
    )
    try:
        cost = gflop_per_mpx(model, tiles)
    except BundleError:
        cost = None
    return Architecture(parameters, dict(kinds.most_common()), receptive_field(graph), cost)


def receptive_field(graph: onnx.GraphProto) -> int | None:
    """Side of the square of input pixels that an answer can depend on; None: all there are.

    By Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks" (Distill, 2019):
    along each path r ← r + (k − 1)·j and j ← j·s, j the distance of neighbours in input pixels; the largest
    of all paths. Shifts of even kernels, which add a pixel or so, are not counted.
    """
    constants = {constant.name: constant for constant in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in constants]
    seen: dict[str, tuple[Fraction, Fraction]] = dict.fromkeys(inputs, (Fraction(1), Fraction(1)))
    for node in graph.node:
        came = [seen[name] for name in node.input if name in seen]
        if not came or node.op_type in SHAPES_ONLY:
            continue
        if node.op_type in GLOBAL:
            return None
        field, step = max(one for one, _ in came), max(step for _, step in came)
        found = _through(node, field, step, constants)
        seen |= dict.fromkeys(node.output, found)
    return math.ceil(max(seen[value.name][0] for value in graph.output if value.name in seen))


def _through(
    node: NodeProto, field: Fraction, step: Fraction, constants: Mapping[str, onnx.TensorProto]
) -> tuple[Fraction, Fraction]:
    """Field and step after a layer."""
    stride = Fraction(_first(node, "strides", 1))
    if node.op_type == "Conv":
        kernel = _kernel(node, constants)
        return field + (kernel - 1) * _first(node, "dilations", 1) * step, step * stride
    if node.op_type in ("MaxPool", "AveragePool"):
        return field + (_first(node, "kernel_shape", 1) - 1) * step, step * stride
    if node.op_type == "ConvTranspose":
        kernel = _kernel(node, constants)
        return field + (math.ceil(kernel / stride) - 1) * step, step / stride
    if node.op_type == "Resize":
        scales = constants.get(node.input[2]) if len(node.input) > 2 else None
        factor = Fraction(float(numpy_helper.to_array(scales)[-1])) if scales is not None else Fraction(1)
        mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "nearest")
        return field + (step if mode != "nearest" else 0), step / factor
    return field, step


def _kernel(node: NodeProto, constants: Mapping[str, onnx.TensorProto]) -> int:
    weights = constants.get(node.input[1])
    return _first(node, "kernel_shape", 1) if weights is None else int(weights.dims[-1])


def _first(node: NodeProto, name: str, default: int) -> int:
    found = [list(a.ints) for a in node.attribute if a.name == name and a.type == AttributeProto.INTS]
    return int(found[0][0]) if found and found[0] else default
