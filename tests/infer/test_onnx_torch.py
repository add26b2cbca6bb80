"""ONNX read as torch: what OpenVINO answers to every network of ours, and no guesses about others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.reference
import openvino as ov
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edge.errors import BundleError
from edge.infer.onnx_torch import OPERATORS, OnnxNetwork
from edge.types import FloatImage
from tests.infer.networks import BY_NAME, explainer, network, tiles_of

CLOSE = 1e-4  # grey levels in 0..1


def by_openvino(model: bytes, tiles: FloatImage) -> FloatImage:
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(tiles)[0], np.float32)


def by_torch(model: bytes, tiles: FloatImage) -> FloatImage:
    with torch.no_grad():
        return OnnxNetwork(model)(torch.from_numpy(tiles)).numpy().astype(np.float32)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_network_of_ours_answers_as_openvino_does(name: str) -> None:
    model = network(name)
    tiles = tiles_of(model)
    expected = by_openvino(model, tiles)
    assert expected.std() > 20 * CLOSE  # else any answer would do
    np.testing.assert_allclose(by_torch(model, tiles), expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_exported_program_answers_as_the_network_does(name: str) -> None:
    """What the CUDA runtime records: sizes and settings must be known without asking the device."""
    model = network(name)
    tiles = torch.from_numpy(tiles_of(model))
    read = OnnxNetwork(model).eval()
    with torch.no_grad():
        program = torch.export.export(read, (torch.zeros_like(tiles),)).module()
        torch.testing.assert_close(program(tiles), read(tiles), rtol=0, atol=1e-6)


def test_a_network_that_explains_is_read_too() -> None:
    model = explainer("supervised-ae")
    assert model is not None
    tiles = tiles_of(model)
    np.testing.assert_allclose(by_torch(model, tiles), by_openvino(model, tiles), rtol=0, atol=CLOSE)


def one_node(kind: str, constants: Mapping[str, np.ndarray[Any, Any]], **attributes: Any) -> bytes:
    """One operator over (1, 4, 6, 8) pixels; constants are its further inputs, of which none… is left out."""
    names = [name if not name.startswith("none") else "" for name in constants]
    graph = helper.make_graph(
        [helper.make_node(kind, ["tiles", *names], ["answers"], **attributes)],
        "one",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, [1, 4, 6, 8])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(value, name)
            for name, value in constants.items()
            if not name.startswith("none")
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model.graph.output[0].type.tensor_type.shape.Clear()
    return bytes(model.SerializeToString())


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "conv, uneven padding": ("Conv", {"w": floats(3, 4, 3, 3), "b": floats(3)}, {"pads": [1, 0, 2, 1]}),
    "conv, groups, dilated": ("Conv", {"w": floats(8, 2, 2, 2)}, {"group": 2, "dilations": [2, 1]}),
    "transposed": (
        "ConvTranspose", {"w": floats(4, 3, 3, 3), "b": floats(3)},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "max pool, uneven": ("MaxPool", {}, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 0]}),
    "mean pool, padded": (
        "AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "pad, reflect": ("Pad", {"p": ints(0, 0, 2, 3, 0, 0, 1, 0)}, {"mode": "reflect"}),
    "pad, edge": ("Pad", {"p": ints(0, 0, 0, 3, 0, 0, 0, 0)}, {"mode": "edge"}),
    "pad, a value, channels": ("Pad", {"p": ints(0, 1, 0, 0, 0, 2, 0, 1), "v": np.float32(0.25)}, {}),
    "pad, some axes": ("Pad", {"p": ints(1, 2), "v": np.float32(0), "a": ints(-1)}, {}),
    "resize, nearest": (
        "Resize", {"none1": ints(), "s": np.array([1, 1, 2, 3], np.float32)},
        {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
    ),
    "resize, linear, to a size": (
        "Resize", {"none1": ints(), "none2": ints(), "s": ints(1, 4, 9, 16)},
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    ),
    "slice": ("Slice", {"s": ints(1, -5), "e": ints(2**62, -1), "a": ints(2, 3), "k": ints(2, 1)}, {}),
    "gather, jumbled": ("Gather", {"i": ints(3, 0, 1, -1)}, {"axis": 1}),
    "gather, one": ("Gather", {"i": np.int64(-2)}, {"axis": 2}),
    "depth to space": ("DepthToSpace", {}, {"blocksize": 2}),
    "depth to space, CRD": ("DepthToSpace", {}, {"blocksize": 2, "mode": "CRD"}),
    "reshape, kept and found": ("Reshape", {"s": ints(0, 2, -1)}, {}),
    "transpose, default": ("Transpose", {}, {}),
    "reduce, all": ("ReduceSum", {}, {"keepdims": 0}),
    "reduce, nothing": ("ReduceMean", {}, {"noop_with_empty_axes": 1}),
    "reduce, axes": ("ReduceMax", {"a": ints(-1, 1)}, {"keepdims": 1}),
    "clip, from below": ("Clip", {"low": np.float32(0.5)}, {}),
    "softmax": ("Softmax", {}, {"axis": 1}),
    "elu": ("Elu", {}, {"alpha": 0.7}),
    "leaky": ("LeakyRelu", {}, {"alpha": 0.2}),
    "unsqueeze": ("Unsqueeze", {"a": ints(0, -1)}, {}),
    "squeeze": ("Squeeze", {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operators_mean_what_the_onnx_reference_says(case: str) -> None:
    kind, constants, attributes = CASES[case]
    model = one_node(kind, constants, **attributes)
    pixels = np.random.default_rng(1).normal(0.5, 1, (1, 4, 6, 8)).astype(np.float32)
    (expected,) = onnx.reference.ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"tiles": pixels})
    np.testing.assert_allclose(by_torch(model, pixels), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "constants", "attributes"),
    [
        ("Resize", {"none1": ints(), "s": np.array([1, 1, 2, 2], np.float32)}, {"mode": "cubic"}),
        ("Resize", {"none1": ints(), "s": np.array([1, 1, 2, 2], np.float32)}, {"mode": "nearest"}),
        ("MaxPool", {}, {"kernel_shape": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]}),
        ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Conv", {"w": floats(3, 4, 3, 3)}, {"auto_pad": "SAME_UPPER"}),
        ("ConvTranspose", {"w": floats(4, 3, 3, 3)}, {"pads": [1, 0, 0, 0]}),
        ("Slice", {"s": ints(5), "e": ints(0), "a": ints(2), "k": ints(-1)}, {}),
        ("Pad", {"p": ints(0, 0, 2, 3, 0, 0, 1, 0)}, {"mode": "wrap"}),
    ],
)
def test_what_torch_would_do_otherwise_is_refused(
    kind: str, constants: dict[str, Any], attributes: dict[str, Any]
) -> None:
    with pytest.raises(BundleError, match="torch runtime cannot do"):
        by_torch(one_node(kind, constants, **attributes), np.zeros((1, 4, 6, 8), np.float32))


def test_an_operator_that_is_not_known_is_named() -> None:
    assert "Selu" not in OPERATORS
    with pytest.raises(BundleError, match="Selu"):
        OnnxNetwork(one_node("Selu", {}))


@pytest.mark.parametrize("damaged", [b"", b"nonsense", b"\x80\x04."])
def test_what_is_no_onnx_is_refused(damaged: bytes) -> None:
    with pytest.raises(BundleError, match="no ONNX network"):
        OnnxNetwork(damaged)
