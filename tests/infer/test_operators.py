"""Every operator of every network of ours is one that TensorRT's parser takes, by its published list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.errors import UnavailableError
from edge.infer import trt_operators as published
from edge.infer.onnx_graphs import scaling_network, symmetric_int8, to_half, with_shape
from edge.learn.models import MODELS
from edge.learn.quantise import RECIPES, quantise
from edge.types import FloatImage
from tests.infer.networks import BY_NAME, explainer, network, tiles_of
from tests.infer.test_onnx_graphs import answers, quantised

TYPES = {
    TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16",
    TensorProto.INT64: "INT64", TensorProto.INT32: "INT32", TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8", TensorProto.BOOL: "BOOL",
}  # fmt: skip


NOT_QUANTISED = ("features-memory", "fusion")  # NNCF gives up on them


def faults(model: bytes) -> Iterator[str]:
    """What the list does not allow."""
    graph = onnx.load_from_string(model)
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    known = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in known}
    stored = {t.name: t for t in inferred.initializer}
    types |= {name: t.data_type for name, t in stored.items()}
    if graph.opset_import[0].version not in published.OPSETS:
        yield f"opset {graph.opset_import[0].version}"
    for node in graph.graph.node:
        kind = node.op_type
        if kind not in published.SUPPORTED:
            yield kind
        elif TYPES[types[node.input[0]]] not in published.SUPPORTED[kind]:
            yield f"{kind} of {TYPES[types[node.input[0]]]}"
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        yield from (f"{kind}: {fault}" for fault in _restricted(node, attributes, stored))


def _restricted(node: Any, attributes: dict[str, Any], stored: dict[str, Any]) -> Iterator[str]:
    kind = node.op_type
    if kind in published.NO_DILATIONS and set(attributes.get("dilations", [1])) != {1}:
        yield "dilations"
    if kind == "MaxPool" and len(node.output) > 1:
        yield "indices"
    if kind in published.AXES_STORED and len(node.input) > 1 and node.input[1] not in stored:
        yield "axes are computed"
    zero = stored.get(node.input[2]) if kind in published.ZERO_POINT_ZERO and len(node.input) > 2 else None
    if zero is not None and np.any(numpy_helper.to_array(zero)):
        yield "zero point"
    if kind == "Resize":
        said = {name: value.decode() for name, value in attributes.items() if isinstance(value, bytes)}
        if said.get("mode", "nearest") not in published.RESIZE_MODES or attributes.get("antialias", 0):
            yield f"mode {said.get('mode')}"
        if said.get("coordinate_transformation_mode", "half_pixel") not in published.RESIZE_TRANSFORMATIONS:
            yield "transformation"
        if said.get("nearest_mode", "round_prefer_floor") not in published.RESIZE_ROUNDINGS:
            yield "rounding"
        if said.get("keep_aspect_ratio_policy", "stretch") != "stretch" or "axes" in attributes:
            yield "policy"


@pytest.mark.parametrize("name", BY_NAME)
def test_every_operator_of_a_network_is_supported_in_the_types_it_has(name: str) -> None:
    model = network(name)
    side = tiles_of(model).shape[2]
    assert list(faults(with_shape(model, 4, side, side))) == []
    assert list(faults(with_shape(to_half(model, "fp16"), 4, side, side))) == []


@pytest.mark.parametrize("name", sorted(name for name, kind in MODELS.items() if kind.explain is not None))
def test_so_is_what_explains(name: str) -> None:
    model = explainer(name)
    assert model is not None
    assert list(faults(model)) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_so_is_what_scales_stored_tiles(dtype: Any) -> None:
    assert list(faults(scaling_network(np.dtype(dtype), 2, 64, 96))) == []


def test_so_is_explicit_quantisation_once_it_is_symmetric() -> None:
    model = quantised(100, True, np.random.default_rng(0))
    assert "DequantizeLinear of UINT8" in set(faults(model))
    assert list(faults(symmetric_int8(model))) == []


@pytest.mark.parametrize("name", BY_NAME)
def test_so_is_what_nncf_writes_and_it_stays_near_to_fp32(name: str) -> None:
    model = network(name)
    tiles = tiles_of(model, 3)
    try:
        quantised_by_nncf = quantise(model, [tiles[i : i + 1] for i in range(3)], RECIPES[0])
    except UnavailableError:
        assert name in NOT_QUANTISED  # fp32 or half judge
        return
    changed = symmetric_int8(quantised_by_nncf)
    assert list(faults(with_shape(changed, 4, *tiles.shape[2:]))) == []
    fp32, nncf, ours = (answers(m, tiles[:1]) for m in (model, quantised_by_nncf, changed))
    assert ours.shape == fp32.shape
    # where levels were unsigned there are half as many
    assert rms(ours - fp32) <= 2.2 * rms(nncf - fp32) + 1e-4


def rms(difference: FloatImage) -> float:
    return float(np.sqrt(np.square(difference).mean()))


def test_the_list_refuses_what_it_should() -> None:
    """The checks above can fail."""
    graph = helper.make_graph(
        [
            helper.make_node("BitShift", ["tiles", "tiles"], ["a"], direction="LEFT"),
            helper.make_node("MaxPool", ["tiles"], ["b", "i"], kernel_shape=[2, 2], dilations=[2, 2]),
            helper.make_node("Resize", ["tiles", "", "s"], ["c"], mode="cubic"),
        ],
        "bad",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 1, 8, 8])],
        [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    assert set(faults(model)) == {
        "BitShift", "MaxPool of UINT8", "MaxPool: dilations", "MaxPool: indices", "Resize of UINT8",
        "Resize: mode cubic",
    }  # fmt: skip
