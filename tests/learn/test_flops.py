"""Operations of networks that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edge.errors import BundleError
from edge.learn.export import to_onnx
from edge.learn.flops import gflop_per_mpx, tile_flop
from edge.preprocess import TileSpec
from tests.sites import blurring_network


def test_a_convolution_is_two_operations_for_each_weight_and_output() -> None:
    assert tile_flop(blurring_network(px=32, side=9), 32) == 2 * 32 * 32 * 81


def network(nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], px: int) -> bytes:
    """A graph from `tiles`, (n, 1, px, px), to `answers`."""
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, ["n", 1, px, px])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def test_strides_groups_and_transposed_convolutions_count_as_they_are() -> None:
    nodes = [
        helper.make_node("Conv", ["tiles", "first"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "grouped"], ["c"], pads=[1, 1, 1, 1], group=2),
        helper.make_node("ConvTranspose", ["c", "back"], ["d"], strides=[2, 2]),
        helper.make_node("Conv", ["d", "head"], ["answers"]),
    ]
    weights = {"first": (4, 1, 3, 3), "grouped": (8, 2, 3, 3), "back": (8, 3, 2, 2), "head": (1, 3, 1, 1)}
    half = 8 * 8
    by_hand = 2 * (half * 4 * 9) + 2 * (half * 8 * 2 * 9) + 2 * (half * 8 * 3 * 4) + 2 * (16 * 16 * 3)
    assert tile_flop(network(nodes, weights, 16), 16) == by_hand


def test_products_count_as_matrices() -> None:
    nodes = [
        helper.make_node("Flatten", ["tiles"], ["flat"]),
        helper.make_node("MatMul", ["flat", "inner"], ["code"]),
        helper.make_node("MatMul", ["code", "outer"], ["answers"]),
    ]
    found = tile_flop(network(nodes, {"inner": (64, 10), "outer": (10, 50)}, 8), 8)
    assert found == 2 * 64 * 10 + 2 * 10 * 50


@pytest.mark.slow
def test_networks_as_they_are_exported_can_be_counted() -> None:
    small = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    assert tile_flop(to_onnx(small, 16), 16) == 2 * 256 * (4 * 9 + 4)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_sums_over_the_inner_side(transposed: int) -> None:
    shape = [4, 1, 8, 8]
    left = numpy_helper.from_array(np.ones((5, 3) if transposed else (3, 5), np.float32), "left")
    right = numpy_helper.from_array(np.ones((5, 7), np.float32), "right")
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["left", "right"], ["product"], transA=transposed),
            helper.make_node("Identity", ["tiles"], ["answers"]),
        ],
        "gemm",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, shape)],
        [left, right],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert tile_flop(model.SerializeToString(), 8) == 2 * 3 * 5 * 7


def test_a_megapixel_costs_its_overlaps_too(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(blurring_network(px=32, side=5))
    alone = gflop_per_mpx(file, TileSpec(size_px=32, keep_px=32, step_px=32))
    assert alone == pytest.approx(2 * 25 * 1e6 / 1e9)
    assert gflop_per_mpx(file, TileSpec(size_px=32, keep_px=32, step_px=16)) == pytest.approx(4 * alone)
    assert gflop_per_mpx(file, TileSpec(size_px=32, keep_px=16, step_px=16)) == pytest.approx(4 * alone)


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be inferred"):
        tile_flop(b"not a model", 32)
    with pytest.raises(BundleError):
        tile_flop(tmp_path / "missing.onnx", 32)
    assert onnx.load_from_string(blurring_network()).graph.node[1].op_type == "Conv"
