"""Graphs made fit for a GPU, run here: half precision agrees, integers scaled exactly, int8 symmetric."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edge.errors import BundleError
from edge.infer.bundle import GOLDEN_TOLERANCE
from edge.infer.onnx_graphs import Half, scaling_network, symmetric_int8, to_half, with_shape
from edge.infer.onnx_torch import OnnxNetwork
from edge.types import FloatImage, TileArray
from tests.infer.networks import BY_NAME, network, texture, tiles_of

KINDS: tuple[Half, ...] = ("fp16", "bf16")


def answers(model: bytes, tiles: FloatImage) -> FloatImage:
    with torch.no_grad():
        return OnnxNetwork(model)(torch.from_numpy(tiles)).numpy().astype(np.float32)


@pytest.mark.parametrize("name", BY_NAME)
def test_half_precision_agrees_within_what_a_golden_pair_allows(name: str) -> None:
    """In the types that a GPU would use, computed by torch on the CPU."""
    model = network(name)
    side = 128 if name == "mask-unet-512" else None  # of 512: a CPU computes half precision very slowly
    tiles = tiles_of(model, 1)[:, :, :side, :side]
    expected = answers(model, tiles)
    for kind in KINDS:
        found = answers(to_half(model, kind), tiles)
        assert 0 < np.abs(found - expected).max() <= GOLDEN_TOLERANCE[kind], kind


@pytest.mark.parametrize("name", BY_NAME)
def test_in_half_every_convolution_is_and_the_ends_are_not(name: str) -> None:
    changed = onnx.load_from_string(
        with_shape(to_half(network(name), "fp16"), 3, *[tiles_of(network(name)).shape[2]] * 2)
    )
    onnx.checker.check_model(changed, full_check=True)  # every node's types fit each other
    inferred = onnx.shape_inference.infer_shapes(changed, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.output]}
    convolutions = [node for node in changed.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert convolutions
    assert all(types[node.output[0]] == TensorProto.FLOAT16 for node in convolutions)
    assert inferred.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert types[inferred.output[0].name] == TensorProto.FLOAT
    assert inferred.output[0].type.tensor_type.shape.dim[0].dim_value == 3


def test_a_convolution_whose_weights_half_cannot_hold_stays_in_full() -> None:
    model = onnx.load_from_string(network("fragment-cae"))
    heavy = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(t for t in model.graph.initializer if t.name == heavy.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(1e6), weight.name))
    changed = onnx.load_from_string(to_half(model.SerializeToString(), "fp16"))
    kinds = {t.name: t.data_type for t in changed.graph.initializer}
    assert kinds[heavy.input[1]] == TensorProto.FLOAT
    assert list(kinds.values()).count(TensorProto.FLOAT16) > 5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_stored_level_is_scaled_as_on_the_host(dtype: Any) -> None:
    greatest = np.iinfo(dtype).max
    levels: TileArray = np.arange(greatest + 1).astype(dtype).reshape(1, 1, 16, -1)
    model = scaling_network(np.dtype(dtype), 1, *levels.shape[2:])
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    stored = levels if dtype is np.uint8 else levels.view(np.uint8).reshape(*levels.shape, 2)
    (scaled,) = onnx.reference.ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"stored": stored})
    assert scaled.dtype == np.float32
    assert scaled.shape == levels.shape
    np.testing.assert_allclose(scaled, levels / greatest, rtol=3e-7, atol=0)
    assert len(np.unique(scaled)) == greatest + 1


def test_other_stored_types_are_refused() -> None:
    with pytest.raises(ValueError, match="int32"):
        scaling_network(np.dtype(np.int32), 1, 8, 8)


def quantised(zero: int, unsigned: bool, rng: np.random.Generator) -> bytes:
    """A convolution with explicit quantisation: its input by `zero`, its weights by channel, as levels."""
    kind: Any = np.uint8 if unsigned else np.int8
    weight_levels = rng.integers(-127, 128, (3, 1, 3, 3)).astype(np.int8)
    stored = {
        "s": np.float32(1.0 / 255), "z": np.array(zero, kind),
        "w": weight_levels, "ws": np.array([0.01, 0.02, 0.003], np.float32), "wz": np.zeros(3, np.int8),
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["tiles", "s", "z"], ["levels"]),
            helper.make_node("DequantizeLinear", ["levels", "s", "z"], ["back"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["weights"], axis=0),
            helper.make_node("Conv", ["back", "weights"], ["answers"]),
        ],
        "q",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, ["n", 1, 16, 16])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, ["n", 3, 14, 14])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(("zero", "unsigned"), [(0, True), (100, True), (-28, False), (0, False)])
def test_symmetric_levels_lose_half_a_step_and_cut_nothing_off(zero: int, unsigned: bool) -> None:
    model = quantised(zero, unsigned, np.random.default_rng(0))
    lowest = 0 if unsigned else -128
    low, high = (lowest - zero) / 255, (lowest + 255 - zero) / 255  # what the levels stand for
    tiles = (low + (high - low) * texture(16, 16, 1))[None, None].astype(np.float32)
    tiles[0, 0, 0, :2] = low, high
    changed = symmetric_int8(model)
    read = onnx.load_from_string(changed).graph
    stored = {t.name: numpy_helper.to_array(t) for t in read.initializer}
    for node in read.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert stored[node.input[2]].dtype == np.int8
            assert not stored[node.input[2]].any()
    step = max(abs(low), abs(high)) / 127
    weights = (
        np.abs(stored["w"].astype(np.float32) * stored["ws"].reshape(-1, 1, 1, 1)).sum(axis=(1, 2, 3)).max()
    )
    difference = np.abs(answers(changed, tiles) - answers(model, tiles)).max()
    assert difference <= weights * (step + 1 / 255) / 2 + 1e-5
    if zero or unsigned:
        assert changed != model


def test_stored_levels_that_are_unsigned_are_brought_along() -> None:
    model = onnx.load_from_string(quantised(0, False, np.random.default_rng(0)))
    stored = {t.name: t for t in model.graph.initializer}
    weights = numpy_helper.to_array(stored["w"]).astype(np.int64)
    stored["w"].CopyFrom(numpy_helper.from_array((weights + 128).astype(np.uint8), "w"))
    stored["wz"].CopyFrom(numpy_helper.from_array(np.full(3, 128, np.uint8), "wz"))
    tiles = texture(16, 16, 2)[None, None] * np.float32(0.49)
    changed = symmetric_int8(model.SerializeToString())
    assert np.abs(answers(changed, tiles) - answers(model.SerializeToString(), tiles)).max() < 0.02
    assert "w_symmetric" in {t.name for t in onnx.load_from_string(changed).graph.initializer}


def test_scales_that_are_computed_are_refused() -> None:
    model = onnx.load_from_string(quantised(0, True, np.random.default_rng(0)))
    model.graph.node.insert(0, helper.make_node("Abs", ["s"], ["s_computed"]))
    model.graph.node[1].input[1] = "s_computed"
    with pytest.raises(BundleError, match="computes its scales"):
        symmetric_int8(model.SerializeToString())


def test_what_is_no_onnx_is_refused() -> None:
    with pytest.raises(BundleError, match="no ONNX"):
        with_shape(b"nonsense", 1, 8, 8)
