"""ONNX graphs made fit for a GPU: a fixed batch, half precision, symmetric int8, integers in.

TensorRT takes every type from the graph (its networks are strongly typed: always from version 11, and here in
10 as well), so precision is a matter of the file. What is written here is plain ONNX that any runtime runs,
so that it is tested where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.errors import BundleError

Half = Literal["fp16", "bf16"]

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = {"fp16": 65504.0, "bf16": float(np.finfo(np.float32).max)}

# Where the time goes. Their sums are in float32 on tensor cores; only what is read and written is short.
IN_HALF = frozenset({"Conv", "ConvTranspose"})
# As their inputs are: nothing is won by converting for them, and nothing lost by doing them in half
AS_THEY_COME = frozenset(
    {
        "Add", "AveragePool", "Concat", "DepthToSpace", "Elu", "Gather", "LeakyRelu", "MaxPool", "Mul", "Pad",
        "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
# All others, and a sigmoid that gives the answer, stay in float32: logarithms, distances (small differences
# of large sums) and the tails of probabilities are what a score hangs on, and they take little of the time.

SETTINGS = {"Resize": (1, 2)}  # inputs that are float32 whatever the pixels are


def read(model: bytes) -> onnx.ModelProto:
    """The bytes of an ONNX file.

    Raises:
        BundleError: they are none.
    """
    try:
        return onnx.load_from_string(model)
    except Exception as error:  # protobuf's, which has no public base
        raise BundleError(f"no ONNX network: {error}", hint="learn the recipe again") from None


def with_shape(model: bytes, batch: int, height_px: int, width_px: int) -> bytes:
    """The same network for (batch, 1, height, width) only: compilers plan best for what cannot change."""
    changed = read(model)
    graph = changed.graph
    for dim, size in zip(
        graph.input[0].type.tensor_type.shape.dim, (batch, 1, height_px, width_px), strict=True
    ):
        dim.Clear()
        dim.dim_value = size
    del graph.value_info[:]  # of the old shape
    for output in graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    return _written(changed)


def scaling_network(dtype: np.dtype[Any], batch: int, height_px: int, width_px: int) -> bytes:
    """Tiles as stored → float32 shares of the type's greatest value, (batch, 1, h, w): on the device, so that
    only the stored bytes travel.

    TensorRT has no 16-bit integers. So 16-bit tiles go in as their bytes, low before high as every machine
    with an NVIDIA GPU has them, (batch, 1, h, w, 2); low + 256 · high is exact in float32.
    """
    shape = [batch, 1, height_px, width_px]
    constants = {"share": np.array(1 / np.iinfo(dtype).max, np.float32)}
    nodes = [
        helper.make_node(
            "Cast", ["stored"], ["levels" if dtype == np.uint8 else "bytes"], to=TensorProto.FLOAT
        )
    ]
    if dtype == np.uint16:
        constants |= {"worth": np.array([1, 256], np.float32), "last": np.array([4], np.int64)}
        nodes += [
            helper.make_node("Mul", ["bytes", "worth"], ["parts"]),
            helper.make_node("ReduceSum", ["parts", "last"], ["levels"], keepdims=0),
        ]
    elif dtype != np.uint8:
        raise ValueError(f"tiles are float32, uint16 or uint8, not {dtype}")
    nodes.append(helper.make_node("Mul", ["levels", "share"], ["tiles"]))
    stored = shape if dtype == np.uint8 else [*shape, 2]
    graph = helper.make_graph(
        nodes,
        f"scale {dtype}",
        [helper.make_tensor_value_info("stored", TensorProto.UINT8, stored)],
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _written(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def to_half(model: bytes, kind: Half) -> bytes:
    """The same network with convolutions, and what lies between them, in half precision.

    Input and output stay float32. A convolution whose weights the type cannot hold stays float32 too.
    """
    changed = read(model)
    _Halving(changed, kind).run()
    return _written(changed)


class _Halving:
    """Goes through a graph once, in its order; `made_in` says what type each float tensor has by then."""

    def __init__(self, model: onnx.ModelProto, kind: Half) -> None:
        self.graph, self.kind, self.half = model.graph, kind, HALVES[kind]
        graph, inferred = model.graph, onnx.shape_inference.infer_shapes(model).graph
        typed = [*inferred.value_info, *inferred.input, *inferred.output]
        self.outputs = {output.name for output in graph.output}
        self.floats = {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.weights = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
        self.made_in = dict.fromkeys((v.name for v in graph.input), TensorProto.FLOAT)
        self.renamed: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in list(self.graph.node):
            kind = self.half if self._in_half(node) else TensorProto.FLOAT
            for i, name in self._pixels(node):
                node.input[i] = self._as(name, kind)
            self.nodes.append(node)
            for i, name in enumerate(node.output):
                if name in self.floats:
                    self.made_in[name] = kind
                    if kind == self.half and name in self.outputs:
                        node.output[i] = f"{name}_{self.kind}"
                        self.renamed[name, self.half] = node.output[i]
                        self.nodes.append(
                            helper.make_node("Cast", [node.output[i]], [name], to=TensorProto.FLOAT)
                        )
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]  # of the old types
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _pixels(self, node: onnx.NodeProto) -> Iterator[tuple[int, str]]:
        """Inputs that have the type the node works in."""
        for i, name in enumerate(node.input):
            if (name in self.floats or name in self.weights) and i not in SETTINGS.get(node.op_type, ()):
                yield i, name

    def _in_half(self, node: onnx.NodeProto) -> bool:
        names = [name for _, name in self._pixels(node)]
        if not all(self._fits(name) for name in names if name in self.weights):
            return False
        if node.op_type in IN_HALF:
            return True
        if node.op_type == "Sigmoid" and node.output[0] in self.outputs:
            return False
        flowing = [name for name in names if name not in self.weights]
        return (
            node.op_type in AS_THEY_COME
            and bool(flowing)
            and all(self.made_in[name] == self.half for name in flowing)
        )

    def _fits(self, name: str) -> bool:
        return bool(np.abs(numpy_helper.to_array(self.weights[name])).max(initial=0) <= LARGEST[self.kind])

    def _as(self, name: str, kind: int) -> str:
        """The name under which a tensor is there in a type; made the first time it is asked for."""
        if name in self.weights:
            if kind == TensorProto.FLOAT:
                return name
            if (name, kind) not in self.renamed:
                self.renamed[name, kind] = short = f"{name}_{self.kind}"
                self.graph.initializer.append(_converted(self.weights[name], kind, short))
            return self.renamed[name, kind]
        if self.made_in[name] == kind:
            return name
        if (name, kind) not in self.renamed:
            self.renamed[name, kind] = short = f"{name}_{'fp32' if kind == TensorProto.FLOAT else self.kind}"
            self.nodes.append(helper.make_node("Cast", [name], [short], to=kind))
        return self.renamed[name, kind]


def _converted(weight: TensorProto, kind: int, name: str) -> TensorProto:
    values = numpy_helper.to_array(weight)
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)


def symmetric_int8(model: bytes) -> bytes:
    """The same quantised network with signed levels around zero, the only ones that TensorRT knows.

    Levels lo … hi of a scale s around a zero point z stand for (lo − z)·s … (hi − z)·s. The symmetric scale
    is the larger end over 127, so no value is cut off; what was unsigned has half as many levels afterwards.
    Stored levels, those of weights, are brought along.

    Raises:
        BundleError: scales or zero points are computed, not stored.
    """
    changed = read(model)
    graph = changed.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[tuple[str, str], tuple[str, str]] = {}
    fresh: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero_name = node.input[2] if len(node.input) > 2 else ""
        if node.input[1] not in stored or (zero_name and zero_name not in stored):
            raise BundleError("the int8 network computes its scales", hint='set precision = "fp16"')
        scale = numpy_helper.to_array(stored[node.input[1]])
        zero = numpy_helper.to_array(stored[zero_name]) if zero_name else np.zeros(scale.shape, np.uint8)
        if zero.dtype == np.int8 and not zero.any():
            continue
        key = (node.input[1], zero_name)
        if key not in made:
            made[key] = f"{node.input[1]}_symmetric", f"{zero_name or node.input[1]}_zero"
            fresh[made[key][0]] = _symmetric_scale(scale, zero)
            fresh[made[key][1]] = np.zeros(zero.shape, np.int8)
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            levels = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
            spread = _spreader(levels.ndim, axis)
            values = (levels - spread(zero.astype(np.float32))) * spread(scale)
            name = f"{node.input[0]}_symmetric"
            fresh[name] = np.rint(values / spread(fresh[made[key][0]])).clip(-127, 127).astype(np.int8)
            node.input[0] = name
        del node.input[1:]
        node.input.extend(made[key])
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in fresh.items())
    del graph.value_info[:]  # of unsigned types
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return _written(changed)


def _symmetric_scale(scale: NDArray[Any], zero: NDArray[Any]) -> NDArray[np.float32]:
    limits = np.iinfo(zero.dtype)
    reach = np.maximum(limits.max - zero.astype(np.int64), zero.astype(np.int64) - limits.min)
    widened: NDArray[np.float32] = (scale * reach / 127).astype(np.float32)
    return widened


def _spreader(rank: int, axis: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Shapes a value of each channel so that it spreads over its axis."""
    return lambda values: (
        values.reshape(())
        if values.size == 1
        else values.reshape([-1 if i == axis % rank else 1 for i in range(rank)])
    )


def _written(model: onnx.ModelProto) -> bytes:
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
