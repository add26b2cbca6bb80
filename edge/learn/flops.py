"""What a network costs: floating-point operations of an ONNX graph, by the shapes of its layers.

A multiplication and an addition count as two. Counted are the layers that are nearly all of it: convolutions,
transposed convolutions, and matrix products; activations, pooling, normalisation and interpolation are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, shape_inference

from edge.errors import BundleError
from edge.preprocess import TileSpec

Shape = tuple[int, ...]


def gflop_per_mpx(model: Path | bytes, tiles: TileSpec) -> float:
    """10⁹ operations for a megapixel of a large plane, cut into these tiles.

    Windows of `size_px` a side come every `step_px`, so that every pixel is computed (size/step)² times.

    Raises:
        BundleError: as `tile_flop`.
    """
    per_pixel = tile_flop(model, tiles.size_px) / tiles.size_px**2
    repeats = 1.0 if tiles.whole else (tiles.size_px / tiles.step_px) ** 2  # large windows overlap little
    return per_pixel * repeats * 1e6 / 1e9


def tile_flop(model: Path | bytes, size_px: int) -> float:
    """Operations of one tile, (1, channels, size, size).

    Raises:
        BundleError: it is no ONNX model, or the shape of a layer does not follow from that of its input.
    """
    try:
        network = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
        graph = _inferred(network, size_px)
    except Exception as error:  # onnx raises protobuf's errors, its checker's and plain ones
        raise BundleError(
            f"the network's shapes cannot be inferred: {error}", hint="learn it again"
        ) from None
    shapes = _shapes(graph)
    total = 0.0
    for node in graph.node:
        if node.op_type in _COUNTED:
            total += _COUNTED[node.op_type](node, [_shape(shapes, name, node) for name in node.input[:2]],
                                            _shape(shapes, node.output[0], node))  # fmt: skip
    return total


def _inferred(model: ModelProto, size_px: int) -> GraphProto:
    """The graph with every shape that follows from one tile of that size."""
    _without_crops(model)
    constants = {initializer.name for initializer in model.graph.initializer}
    for value in model.graph.input:
        if value.name in constants:
            continue
        sizes = [1, None, size_px, size_px]
        for dimension, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
            if size is not None:
                dimension.Clear()
                dimension.dim_value = size
    for known in (*model.graph.output, *model.graph.value_info):  # may name the batch, which is one now
        known.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph


def _without_crops(model: ModelProto) -> None:
    """Take out crops to another value's sides (`edge.learn.export`): of tiles they crop nothing, and shapes
    cannot be inferred through them."""
    sides = {node.output[0] for node in model.graph.node if node.op_type == "Shape"}
    crops = {n.output[0]: n for n in model.graph.node if n.op_type == "Slice" and n.input[2] in sides}
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            if name in crops:
                node.input[k] = crops[name].input[0]
    for crop in crops.values():
        model.graph.node.remove(crop)


def _shapes(graph: GraphProto) -> dict[str, Shape]:
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if all(dimension.HasField("dim_value") for dimension in dimensions):
            shapes[value.name] = tuple(dimension.dim_value for dimension in dimensions)
    return shapes


def _shape(shapes: Mapping[str, Shape], name: str, node: NodeProto) -> Shape:
    if name not in shapes:
        raise BundleError(
            f"the shape of {name}, of the {node.op_type} {node.name}, does not follow from the tile's",
            hint="export the network with fixed sizes but for the batch",
        )
    return shapes[name]


def _convolution(node: NodeProto, inputs: Sequence[Shape], output: Shape) -> float:
    """Every output value is a sum over the kernel, (outputs, inputs / groups, *kernel)."""
    return 2.0 * math.prod(output) * math.prod(inputs[1][1:])


def _transposed(node: NodeProto, inputs: Sequence[Shape], output: Shape) -> float:
    """Every input value goes through the kernel, (inputs, outputs / groups, *kernel)."""
    return 2.0 * math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _gemm(node: NodeProto, inputs: Sequence[Shape], output: Shape) -> float:
    rows_first = _integer(node, "transA") == 0
    return 2.0 * math.prod(output) * inputs[0][1 if rows_first else 0]


def _product(node: NodeProto, inputs: Sequence[Shape], output: Shape) -> float:
    return 2.0 * math.prod(output) * inputs[0][-1]


def _integer(node: NodeProto, name: str) -> int:
    found = [a.i for a in node.attribute if a.name == name and a.type == AttributeProto.INT]
    return int(found[0]) if found else 0


_COUNTED: Mapping[str, Callable[[NodeProto, Sequence[Shape], Shape], float]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _product,
}
