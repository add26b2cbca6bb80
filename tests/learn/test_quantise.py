"""int8 with quantisation in the graph: what it is made of, and what it is measured on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edge.errors import UnavailableError
from edge.infer.openvino import OpenVinoRuntime
from edge.learn.export import to_onnx
from edge.learn.models.anomaly_unet import AnomalyMap, AnomalyUNet, AnomalyUNetConfig
from edge.learn.quantise import RECIPES, quantise, windows_of
from edge.preprocess import TileSpec
from edge.types import Frame, ImageInfo

TILES = TileSpec(size_px=64, keep_px=64, step_px=32, whole_px=32)


@pytest.fixture(scope="module")
def network() -> AnomalyMap:
    torch.manual_seed(0)
    made = AnomalyUNet(AnomalyUNetConfig(channels=(8, 12, 16)))
    for _ in range(5):
        made.train()(torch.rand(4, 1, 64, 64))
    torch.nn.init.constant_(made.head.bias, 0.0)
    return AnomalyMap(made).eval()


def frames(count: int = 3) -> list[Frame]:
    rng = np.random.default_rng(0)
    planes = [rng.random((96, 128), np.float32) * np.float32(0.2) + np.float32(0.4) for _ in range(count)]
    return [Frame(ImageInfo(f"{k}.png", "", 128, 96, 8), plane) for k, plane in enumerate(planes)]


def test_windows_are_of_all_frames_and_half_have_a_defect() -> None:
    given = frames()
    windows = windows_of(given, TILES, seed=1, most=12)
    assert {w.shape for w in windows} == {(1, 1, 64, 64)}
    inside = [float(w.min()) >= 0.4 and float(w.max()) <= 0.6 for w in windows]
    assert all(inside[::2]), "good windows as they are"
    assert not all(inside[1::2]), "others with something in them that is not in the frame"
    again = windows_of(given, TILES, seed=1, most=12)
    assert all(np.array_equal(a, b) for a, b in zip(windows, again, strict=True))


def test_int8_answers_as_the_network_does_to_a_few_levels(
    network: AnomalyMap, capfd: pytest.CaptureFixture[str]
) -> None:
    windows = windows_of(frames(), TILES, seed=1, most=12)
    int8 = quantise(to_onnx(network, 64), windows, RECIPES[0])
    assert capfd.readouterr() == ("", ""), "nothing is said on a command's stdout but its answer"
    kinds = [node.op_type for node in onnx.load_from_string(int8).graph.node]
    assert kinds.count("QuantizeLinear") > 5
    runtime = OpenVinoRuntime(int8, origin=Path("model.int8.onnx"), precision="int8")
    tiles = np.concatenate(windows)
    (answers,) = runtime.infer([tiles[: runtime.batch_of(64, 64)]])
    with torch.no_grad():
        expected = network(torch.from_numpy(tiles[: len(answers)])).numpy()
    assert float(np.abs(answers - expected).mean()) < 0.02
    assert expected.std() > 0.02, "there is something to agree about"


def test_the_interpolation_at_the_end_stays_in_float(network: AnomalyMap) -> None:
    int8 = onnx.load_from_string(
        quantise(to_onnx(network, 64), windows_of(frames(), TILES, seed=1, most=4), RECIPES[0])
    )
    (last,) = [node for node in int8.graph.node if node.op_type == "ConvTranspose"]
    producers = {name: node.op_type for node in int8.graph.node for name in node.output}
    assert producers.get(last.input[0]) != "DequantizeLinear"


def test_an_int8_network_takes_other_sizes_than_its_windows(network: AnomalyMap) -> None:
    int8 = quantise(to_onnx(network, 64), windows_of(frames(), TILES, seed=1, most=4), RECIPES[0])
    runtime = OpenVinoRuntime(int8, origin=Path("model.int8.onnx"), precision="int8")
    (answers,) = runtime.infer([np.full((1, 1, 96, 160), 0.5, np.float32)])
    assert answers.shape == (1, 1, 96, 160)


def test_without_nncf_that_is_said(network: AnomalyMap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(UnavailableError, match="NNCF") as refused:
        quantise(to_onnx(network, 64), windows_of(frames(), TILES, seed=1, most=4), RECIPES[0])
    assert "edge-inspect[learn]" in (refused.value.hint or "")
