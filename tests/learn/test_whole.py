"""Who sees whole frames, and that answers are the tiles' where networks see no farther than the margin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge.dataset import samples
from edge.infer.openvino import OpenVinoRuntime
from edge.learn.datasets import PlaneStore
from edge.learn.export import to_onnx
from edge.learn.models import MODELS
from edge.learn.prepare import prepare
from edge.learn.progress import silent
from edge.learn.request import LearnRequest
from edge.pipeline import Planes, answers
from edge.preprocess import MaskSpec, PreprocessSpec, TileSpec
from edge.renewal import Renewal
from edge.testing import write_frame

ANY_SIZE = sorted(name for name, kind in MODELS.items() if kind.whole_px)


def tiles_of(tmp_path: Path, sizes: list[tuple[int, int]], **asked: object) -> TileSpec:
    """What would be learned with, of frames of these (width, height)s."""
    for number in range(12):
        write_frame(tmp_path / "good" / f"{number:02d}.png", size=sizes[number % len(sizes)], seed=number)
    request = LearnRequest(
        "r",
        samples(tmp_path / "good"),
        tmp_path / "engines",
        tmp_path / "calibration",
        **asked,  # type: ignore[arg-type]
    )
    renewal = Renewal(tmp_path / "engines/r", tmp_path / "calibration/r.json")
    store = PlaneStore(renewal.resume / "planes.f16")
    try:
        return prepare(request, renewal, store, silent).preprocess.tiles
    finally:
        store.close()


@pytest.mark.parametrize("model", ["anomaly-unet", "cae"])
def test_frames_of_one_size_are_seen_whole(tmp_path: Path, model: str) -> None:
    assert tiles_of(tmp_path, [(400, 300)], model=model).whole


def test_frames_of_many_sizes_keep_tiles(tmp_path: Path) -> None:
    assert not tiles_of(tmp_path, [(400, 300), (390, 300), (410, 300)], model="cae").whole


def test_masked_frames_keep_tiles_because_those_without_a_part_are_skipped(tmp_path: Path) -> None:
    masked = PreprocessSpec(mask=MaskSpec(method="otsu"))
    assert not tiles_of(tmp_path, [(400, 300)], model="cae", preprocess=masked).whole


def test_tiles_that_are_asked_for_are_kept(tmp_path: Path) -> None:
    assert not tiles_of(tmp_path, [(400, 300)], model="cae", tiled=True).whole


def test_networks_with_sizes_in_them_keep_tiles(tmp_path: Path) -> None:
    assert "fusion" not in ANY_SIZE
    assert not tiles_of(tmp_path, [(400, 300)], model="fragment-cae").whole


@pytest.mark.parametrize("name", ANY_SIZE)
def test_such_networks_run_at_any_size(name: str) -> None:
    kind = MODELS[name]
    torch.manual_seed(0)
    network = kind.finish(kind.build(1)).eval()
    size = 128
    runtime = OpenVinoRuntime(to_onnx(network, size), origin=Path(name))
    tiles = torch.rand(1, 1, 160, 224)
    (answer,) = runtime.infer([tiles.numpy()])
    with torch.no_grad():
        expected = network(tiles).numpy()
    np.testing.assert_allclose(answer, expected, atol=1e-4)


class Near(nn.Module):
    """Sees 8 px around a pixel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 5, padding=2), nn.Tanh())
                for i, o in ((1, 4), (4, 4), (4, 4), (4, 1))
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layers(x)
        return answer


def test_whole_frames_and_tiles_give_the_same_where_the_margin_covers_what_the_network_sees() -> None:
    runtime = OpenVinoRuntime(to_onnx(Near().eval(), 64), origin=Path("near"))
    plane = np.random.default_rng(0).random((300, 420), np.float32)
    tiled = TileSpec(size_px=64, keep_px=48, step_px=48)
    both = []
    for tiles in (tiled, tiled.model_copy(update={"whole_px": 32})):
        (answer,) = answers([Planes(plane)], PreprocessSpec(tiles=tiles), runtime)
        both.append(answer.stitched)
    np.testing.assert_allclose(both[0], both[1], atol=1e-5)
    assert both[0].std() > 0.01


def test_windows_of_a_large_plane_agree_with_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default segmenter sees farther than half the overlap; what is there hardly counts."""
    from edge.learn.models.anomaly_unet import AnomalyMap, AnomalyUNet, AnomalyUNetConfig
    from edge.preprocess import tiles as tiling

    torch.manual_seed(0)
    network = AnomalyUNet(AnomalyUNetConfig())
    for _ in range(3):
        network.train()(torch.rand(4, 1, 128, 128))
    torch.nn.init.constant_(network.head.bias, 0.0)
    runtime = OpenVinoRuntime(to_onnx(AnomalyMap(network).eval(), 128), origin=Path("segmenter"))
    plane = np.random.default_rng(0).random((512, 768), np.float32)
    spec = PreprocessSpec(tiles=TileSpec(size_px=128, keep_px=128, step_px=96, whole_px=32))
    (one,) = answers([Planes(plane)], spec, runtime)
    monkeypatch.setattr(tiling, "MOST_WINDOW_PIXELS", 512 * 480)
    tiling._fewest.cache_clear()
    try:
        assert len(tiling.Tiling(512, 768, spec.tiles)) > 1
        (several,) = answers([Planes(plane)], spec, runtime)
    finally:
        tiling._fewest.cache_clear()
    difference = np.abs(one.stitched - several.stitched) / np.ptp(one.stitched)
    assert float(np.quantile(difference, 0.99)) < 0.02
    assert float(difference.max()) < 0.1, "of weights by chance; learned ones look less far"
