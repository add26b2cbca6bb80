"""The figures of a network, against what its answers do."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.infer.bundle import load_bundle
from edge.infer.compile import open_runtime
from edge.learn.architecture import architecture_of, receptive_field
from edge.preprocess import TileSpec

DEMO = Path(__file__).parents[2] / "engines" / "demo"


def test_an_answer_depends_on_just_the_receptive_field() -> None:
    """Every column of pixels is changed, one at a time: those that move the middle answer are counted."""
    bundle = load_bundle(DEMO)
    spec = bundle.manifest.preprocess.tiles
    found = architecture_of(bundle.read("model.onnx"), spec)
    runtime, side = open_runtime(bundle, precision="fp32"), spec.size_px
    tile = np.random.default_rng(0).random((1, 1, side, side), np.float32)
    changed = np.repeat(tile, side, axis=0)
    for column in range(side):
        changed[column, :, :, column] = 0

    def middle(tiles: np.ndarray) -> np.ndarray:  # (n,)
        batch = runtime.batch_of(side, side)
        answers = runtime.infer([tiles[i : i + batch] for i in range(0, len(tiles), batch)])
        return np.concatenate(list(answers))[:, 0, side // 2, side // 2]

    moved = np.nonzero(np.abs(middle(changed) - middle(tile)) > 1e-7)[0]
    assert found.receptive_field_px == moved.max() - moved.min() + 1 < side
    constants = onnx.load_from_string(bundle.read("model.onnx")).graph.initializer
    assert found.parameters == sum(int(np.prod(one.dims)) for one in constants)
    assert found.layers["Conv"] == 5
    assert found.gflop_per_mpx is not None


def graph(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    weights = [helper.make_tensor("w3", TensorProto.FLOAT, [1, 1, 3, 3], [0.0] * 9),
               helper.make_tensor("w2", TensorProto.FLOAT, [1, 1, 2, 2], [0.0] * 4),
               helper.make_tensor("double", TensorProto.FLOAT, [4], [1.0, 1.0, 2.0, 2.0])]  # fmt: skip
    shape = [1, 1, 64, 64]
    return helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], weights,
    )  # fmt: skip


CONV = helper.make_node("Conv", ["x", "w3"], ["a"])
POOL = helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2])
DEEP = helper.make_node("Conv", ["b", "w3"], ["c"], dilations=[2, 2])
UP = helper.make_node("ConvTranspose", ["c", "w2"], ["d"], strides=[2, 2])


@pytest.mark.parametrize(
    ("nodes", "field"),
    [
        ([helper.make_node("Relu", ["x"], ["y"])], 1),
        ([CONV, helper.make_node("Relu", ["a"], ["y"])], 3),
        ([CONV, POOL, DEEP, UP, helper.make_node("Add", ["d", "a"], ["y"])], 3 + 1 + 2 * 2 * 2),
        ([CONV, POOL, helper.make_node("Resize", ["b", "", "double"], ["e"], mode="nearest"),
          helper.make_node("Conv", ["e", "w3"], ["y"])], 3 + 1 + 2),
        ([CONV, helper.make_node("GlobalAveragePool", ["a"], ["y"])], None),
    ],
    ids=["elementwise", "convolution", "down and up with a skip", "resize", "global"],
)  # fmt: skip
def test_fields_add_up_along_the_longest_path(nodes: list[onnx.NodeProto], field: int | None) -> None:
    assert receptive_field(graph(*nodes)) == field


def test_a_network_whose_shapes_are_unknown_has_no_cost() -> None:
    model = helper.make_model(
        graph(helper.make_node("NoSuchLayer", ["x"], ["z"]), helper.make_node("Conv", ["z", "w3"], ["y"]))
    )
    found = architecture_of(model.SerializeToString(), TileSpec(size_px=64, keep_px=64, step_px=64))
    assert found.gflop_per_mpx is None
    assert found.parameters == 9
