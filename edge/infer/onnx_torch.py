"""An ONNX file as a torch network.

Bundles hold ONNX only, and no pickle is ever loaded; torch reads no ONNX. So this reads the file node by node
and says each in torch. It knows the operators that our own exports use and no others, and refuses what it
does not know: a wrong guess would be a wrong verdict. The operators' meaning is that of the ONNX operator
specification, opset 18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812  # as all of torch's documentation has it
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edge.errors import BundleError

Integers: TypeAlias = NDArray[np.int64]
"""Shapes, axes and indices: known when the network is recorded, so they stay on the host."""
Value: TypeAlias = Tensor | NDArray[Any]
Attributes: TypeAlias = Mapping[str, Any]
Operator: TypeAlias = Callable[..., Value | tuple[Value, ...]]
"""attributes, inputs… → output(s); an optional input that is not there is None or left out."""

TYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


class OnnxNetwork(nn.Module):
    """The first output of an ONNX network: (n, 1, h, w) → (n, …). Weights are buffers: nothing is learned.

    Raises:
        BundleError: it is no ONNX, or uses an operator that is not known here.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        graph = _read(model).graph
        unknown = sorted({node.op_type for node in graph.node} - OPERATORS.keys())
        if unknown:
            raise BundleError(
                f"the network uses operators that edge's torch runtime does not know: {', '.join(unknown)}",
                hint='set device = "cpu" under [runtime]',
            )
        self.input, self.output = graph.input[0].name, graph.output[0].name
        # what sizes depend on is known on the host: recording cannot ask the device for it
        settings = {
            node.input[2] for node in graph.node if node.op_type in ("Resize", "Pad") and len(node.input) > 2
        }
        self._host: dict[str, NDArray[Any]] = {}
        self._weights: dict[str, str] = {}  # ONNX names may have dots, buffers' may not
        for tensor in graph.initializer:
            if tensor.data_type == TensorProto.INT64 or tensor.name in settings:
                self._host[tensor.name] = numpy_helper.to_array(tensor)
            else:
                self._keep(tensor)
        self._steps = [
            (node.op_type, _attributes(node), tuple(node.input), tuple(node.output)) for node in graph.node
        ]
        self._last_use = {name: i for i, (_, _, inputs, _) in enumerate(self._steps) for name in inputs}

    def _keep(self, tensor: TensorProto) -> None:
        array = numpy_helper.to_array(tensor)
        # torch does not take what numpy has for bfloat16
        weight = torch.from_numpy(array.astype(np.float32) if tensor.data_type in _FLOATS else array.copy())
        self._weights[tensor.name] = f"weight_{len(self._weights)}"
        self.register_buffer(self._weights[tensor.name], weight.to(TYPES[tensor.data_type]))

    def forward(self, tiles: Tensor) -> Tensor:
        values: dict[str, Value | None] = {"": None, self.input: tiles, **self._host}
        values |= {name: getattr(self, buffer) for name, buffer in self._weights.items()}
        for i, (kind, attributes, inputs, outputs) in enumerate(self._steps):
            result = OPERATORS[kind](attributes, *(values[name] for name in inputs))
            values.update(zip(outputs, result if isinstance(result, tuple) else (result,), strict=True))
            for name in inputs:  # memory of a level of the network is free for the next
                if name and self._last_use[name] == i and name != self.output:
                    values.pop(name, None)
        return cast(Tensor, values[self.output])


_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _read(model: bytes) -> Any:
    try:
        read = onnx.load_from_string(model)
        onnx.checker.check_model(read)
    except Exception as error:  # protobuf's errors have no common base that it exports
        raise BundleError(
            f"no ONNX network: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            hint="copy the bundle again, or learn the recipe again",
        ) from None
    return read


def _attributes(node: Any) -> Attributes:
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _ints(values: Any) -> list[int]:
    return [int(value) for value in np.atleast_1d(values)]


def _symmetric(attributes: Attributes, x: Tensor, fill: float) -> tuple[Tensor, list[int]]:
    """The plane, and the padding torch's own operators can do; what they cannot is put on here."""
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise _unknown(f"auto_pad {attributes['auto_pad']}")
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) == (bottom, right):
        return x, [top, left]
    return F.pad(x, (left, right, top, bottom), value=fill), [0, 0]


def _unknown(what: str) -> BundleError:
    return BundleError(
        f"the network needs what edge's torch runtime cannot do: {what}",
        hint='set device = "cpu" under [runtime]',
    )


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, padding = _symmetric(a, x, 0.0)
    stride, dilation = a.get("strides", [1, 1]), a.get("dilations", [1, 1])
    return F.conv2d(x, weight, bias, stride, padding, dilation, a.get("group", 1))


def _conv_transpose(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right) or a.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in a:
        raise _unknown("ConvTranspose with uneven padding")
    stride, more = a.get("strides", [1, 1]), a.get("output_padding", [0, 0])
    return F.conv_transpose2d(
        x, weight, bias, stride, [top, left], more, a.get("group", 1), a.get("dilations", [1, 1])
    )


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    ceil = bool(a.get("ceil_mode", 0))
    if ceil and any(a.get("pads", [])):  # torch leaves out windows that begin in the padding, ONNX does not
        raise _unknown("MaxPool with ceil_mode and padding")
    x, padding = _symmetric(a, x, -torch.inf)
    kernel, stride = a["kernel_shape"], a.get("strides", [1, 1])
    return F.max_pool2d(x, kernel, stride, padding, a.get("dilations", [1, 1]), ceil)


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    padded = any(a.get("pads", []))
    if a.get("ceil_mode", 0) or any(d != 1 for d in a.get("dilations", [])):
        raise _unknown("AveragePool with ceil_mode or dilations")
    if padded and not a.get("count_include_pad", 0):
        raise _unknown("AveragePool that leaves its padding out")
    x, padding = _symmetric(a, x, 0.0)
    return F.avg_pool2d(x, a["kernel_shape"], a.get("strides", [1, 1]), padding)


def _pad(a: Attributes, x: Tensor, pads: Integers, value: Any = None, axes: Any = None) -> Tensor:
    rank = x.dim()
    where = list(range(rank)) if axes is None else [axis % rank for axis in _ints(axes)]
    before, after = _ints(pads)[: len(where)], _ints(pads)[len(where) :]
    amounts = {axis: (before[i], after[i]) for i, axis in enumerate(where)}
    touched = [axis for axis, amount in amounts.items() if amount != (0, 0)]
    if not touched:
        return x
    # torch counts from the last axis, and pads the last two of a batch of planes by reflection
    order = [amounts.get(axis, (0, 0)) for axis in range(rank - 1, min(touched) - 1, -1)]
    flat = [amount for pair in order for amount in pair]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(a.get("mode", "constant"))
    if mode is None:
        raise _unknown(f"Pad with mode {a['mode']}")
    if mode == "constant":
        return F.pad(x, flat, value=0.0 if value is None else float(value))
    return F.pad(x, flat + [0, 0] * (2 - len(order)), mode=mode)


def _resize(a: Attributes, x: Tensor, _roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
    way = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    if a.get("antialias", 0) or "axes" in a or x.dim() != 4:
        raise _unknown("Resize with antialias, with axes, or of what is no plane")
    if sizes is not None:
        size = _ints(sizes)[2:]
    else:
        size = [int(side * float(factor)) for side, factor in zip(x.shape[2:], scales[2:], strict=True)]
    if way == ("nearest", "asymmetric") and a.get("nearest_mode") == "floor":
        return F.interpolate(x, size=size, mode="nearest")
    if way in (("linear", "half_pixel"), ("linear", "pytorch_half_pixel")):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    raise _unknown(f"Resize by {way}, {a.get('nearest_mode', 'round_prefer_floor')}")


def _slice(
    _: Attributes, x: Value, starts: Integers, ends: Integers, axes: Any = None, steps: Any = None
) -> Value:
    where = range(len(starts)) if axes is None else _ints(axes)
    strides = [1] * len(starts) if steps is None else _ints(steps)
    if any(stride < 1 for stride in strides):
        raise _unknown("Slice backwards")
    cut = [slice(None)] * x.ndim
    for axis, start, end, stride in zip(where, _ints(starts), _ints(ends), strides, strict=True):
        cut[axis] = slice(start, min(end, np.iinfo(np.int32).max), stride)
    return x[tuple(cut)]


def _gather(a: Attributes, x: Value, indices: Integers) -> Value:
    axis = a.get("axis", 0)
    if not isinstance(x, Tensor):
        return np.asarray(np.take(x, indices, axis))
    if indices.ndim == 0:
        return x.select(axis, int(indices))
    if indices.ndim > 1:
        raise _unknown("Gather with a table of indices")
    # pieces, not an index tensor: one would have to be copied to the device while a CUDA graph is recorded
    chosen = [int(i) % x.shape[axis] for i in indices]
    runs = np.split(np.array(chosen), np.flatnonzero(np.diff(chosen) != 1) + 1)
    return torch.cat([x.narrow(axis, int(run[0]), len(run)) for run in runs], axis)


def _concat(a: Attributes, *values: Value) -> Value:
    if isinstance(values[0], Tensor):
        return torch.cat(cast(tuple[Tensor, ...], values), a["axis"])
    return np.concatenate([np.asarray(value) for value in values], a["axis"])


def _reshape(a: Attributes, x: Tensor, shape: Integers) -> Tensor:
    wanted = _ints(shape)
    if not a.get("allowzero", 0):
        wanted = [x.shape[i] if side == 0 else side for i, side in enumerate(wanted)]
    return x.reshape(wanted)


def _squeeze(_: Attributes, x: Value, axes: Integers | None = None) -> Value:
    where = tuple(i for i, side in enumerate(x.shape) if side == 1) if axes is None else tuple(_ints(axes))
    return x.squeeze(where)


def _unsqueeze(_: Attributes, x: Value, axes: Integers) -> Value:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in _ints(axes)):
        x = x.unsqueeze(axis) if isinstance(x, Tensor) else np.expand_dims(x, axis)
    return x


def _split(a: Attributes, x: Tensor, sizes: Integers | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    if sizes is not None:
        return torch.split(x, _ints(sizes), axis)
    return torch.split(x, -(-x.shape[axis] // a["num_outputs"]), axis)


def _depth_to_space(a: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = a["blocksize"]
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    x = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // b**2, h * b, w * b)


def _gemm(a: Attributes, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    product = (x.t() if a.get("transA", 0) else x) @ (y.t() if a.get("transB", 0) else y)
    product = product * float(a.get("alpha", 1.0))
    return product if bias is None else product + bias * float(a.get("beta", 1.0))


def _clip(_: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _cast(a: Attributes, x: Tensor) -> Tensor:
    if a["to"] not in TYPES:
        raise _unknown(f"Cast to {TensorProto.DataType.Name(a['to'])}")
    return x.to(TYPES[a["to"]])


def _along(a: Attributes, scale: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point of each channel, shaped to spread over its axis."""
    if scale.dim() == 0 or scale.numel() == 1:
        return scale.reshape(())
    return scale.reshape([-1 if axis == a.get("axis", 1) % x.dim() else 1 for axis in range(x.dim())])


def _quantize(a: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    kind = torch.uint8 if zero is None else zero.dtype
    levels = torch.round(x / _along(a, scale, x))
    if zero is not None:
        levels = levels + _along(a, zero, x).to(levels.dtype)
    return levels.clamp(torch.iinfo(kind).min, torch.iinfo(kind).max).to(kind)


def _dequantize(a: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    levels = x.to(scale.dtype)
    if zero is not None:
        levels = levels - _along(a, zero, x).to(scale.dtype)
    return levels * _along(a, scale, x)


def _reduce(fold: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def reduce(a: Attributes, x: Tensor, axes: Integers | None = None) -> Tensor:
        where = a.get("axes") if axes is None else _ints(axes)
        if where is None and a.get("noop_with_empty_axes", 0):
            return x
        return fold(x, list(range(x.dim())) if where is None else list(where), bool(a.get("keepdims", 1)))

    return reduce


def _each(function: Callable[..., Tensor]) -> Operator:
    """An operator without attributes."""
    return lambda _, *values: function(*values)


OPERATORS: Mapping[str, Operator] = {
    "Add": _each(torch.add),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _each(torch.div),
    "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "Exp": _each(torch.exp),
    "Gather": _gather,
    "Gemm": _gemm,
    "Greater": _each(torch.gt),
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "Log": _each(torch.log),
    "MatMul": _each(torch.matmul),
    "Max": lambda _, first, *others: _fold(torch.maximum, first, others),
    "MaxPool": _max_pool,
    "Mul": _each(torch.mul),
    "Neg": _each(torch.neg),
    "Pad": _pad,
    "Pow": _each(torch.pow),
    "QuantizeLinear": _quantize,
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _each(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda a, x: np.array(x.shape, np.int64)[a.get("start", 0) : a.get("end")],
    "Sigmoid": _each(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Split": _split,
    "Sqrt": _each(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _each(torch.sub),
    "Transpose": lambda a, x: x.permute(a.get("perm", list(range(x.dim()))[::-1])),
    "Unsqueeze": _unsqueeze,
}


def _fold(function: Callable[[Tensor, Tensor], Tensor], first: Tensor, others: Sequence[Tensor]) -> Tensor:
    for other in others:
        first = function(first, other)
    return first
