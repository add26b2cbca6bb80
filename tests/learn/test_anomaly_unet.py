"""The segmenter's network: sizes in, sizes out, what it costs, and that it is the same when exported."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from edge.learn.automatic import MARGIN_PX, TILE_MULTIPLE_PX, tiles_for
from edge.learn.export import to_onnx
from edge.learn.flops import gflop_per_mpx
from edge.learn.models import MODELS
from edge.learn.models.anomaly_unet import AnomalyMap, AnomalyUNet, AnomalyUNetConfig
from edge.preprocess import TileSpec

MOST_GFLOP_PER_MPX = 16
TILE_PX = 64
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
SMALL = AnomalyUNetConfig(channels=(4, 6, 8))


def network(config: AnomalyUNetConfig = SMALL, seed: int = 0) -> AnomalyMap:
    """With normalisation that does something."""
    torch.manual_seed(seed)
    made = AnomalyUNet(config)
    made.train()(torch.rand(4, 1, 64, 64))
    return AnomalyMap(made).eval()


@pytest.mark.parametrize("fold", [2, 4])
@pytest.mark.parametrize("shape", [(64, 64), (32, 96)])
def test_logits_are_coarse_and_the_map_is_not(fold: int, shape: tuple[int, int]) -> None:
    config = AnomalyUNetConfig(fold, (4, 6, 8))
    assert config.multiple_px == 4 * fold
    made = AnomalyUNet(config).eval()
    tiles = torch.rand(3, 1, *shape)
    with torch.no_grad():
        assert made(tiles).shape == (3, 1, shape[0] // fold, shape[1] // fold)
        answers = AnomalyMap(made)(tiles)
    assert answers.shape == tiles.shape
    assert 0 <= float(answers.min()) <= float(answers.max()) <= 1


@pytest.mark.parametrize("fold", [2, 4])
def test_what_is_exported_computes_what_was_learned(fold: int) -> None:
    """Folding as a strided convolution, interpolation as a transposed one, at borders too."""
    made = network(AnomalyUNetConfig(fold, (4, 6, 8)))
    tiles = torch.rand(2, 1, 64, 96)
    with torch.no_grad():
        logits = made.network(tiles)
        plain = torch.nn.functional.interpolate(
            logits, scale_factor=float(fold), mode="bilinear", align_corners=False
        )
        torch.testing.assert_close(made(tiles), torch.sigmoid(plain), rtol=0, atol=1e-6)


def test_what_is_exported_takes_other_sizes_than_it_was_exported_with() -> None:
    made = network()
    model = ov.Core().read_model(to_onnx(made, TILE_PX))
    model.reshape([1, 1, 96, 160])
    tiles = torch.rand(1, 1, 96, 160)
    compiled = ov.Core().compile_model(model, "CPU", EXACT)
    with torch.no_grad():
        np.testing.assert_allclose(compiled(tiles.numpy())[0], made(tiles).numpy(), atol=1e-5)


def test_a_side_of_any_multiple_is_taken_and_tiles_are_such() -> None:
    config = AnomalyUNetConfig()
    assert TILE_MULTIPLE_PX % config.multiple_px == 0
    assert MODELS["anomaly-unet"].tiles.size_px % config.multiple_px == 0
    assert MODELS["anomaly-unet"].window_px % config.multiple_px == 0
    with torch.no_grad():
        assert AnomalyUNet(config).eval()(torch.rand(1, 1, 3 * config.multiple_px, 32)).shape[2:] == (48, 16)


def test_a_tile_does_not_depend_on_those_beside_it() -> None:
    made, tiles = network(), torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(made(tiles)[1:2], made(tiles[1:2]), rtol=0, atol=1e-6)


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    made = AnomalyUNet(SMALL)
    made(torch.rand(4, 1, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in made.parameters())


def test_anomalies_are_rare_before_anything_is_learned() -> None:
    """Otherwise the first steps only teach that."""
    torch.manual_seed(0)
    with torch.no_grad():
        answers = AnomalyMap(AnomalyUNet(AnomalyUNetConfig()))(torch.rand(4, 1, 64, 64))
    assert float(answers.median()) < 0.2


@pytest.fixture(scope="module")
def exported() -> tuple[AnomalyMap, bytes]:
    """The whole network, of tiles that are small."""
    made = network(AnomalyUNetConfig())
    return made, to_onnx(made, TILE_PX)


def test_exported_it_gives_the_same_map(exported: tuple[AnomalyMap, bytes]) -> None:
    made, data = exported
    tiles = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        expected = made(tiles).numpy()
    core = ov.Core()
    compiled = core.compile_model(core.read_model(data), "CPU", EXACT)
    np.testing.assert_allclose(compiled(tiles.numpy())[0], expected, atol=1e-5)


def test_exported_it_is_what_the_standard_says(exported: tuple[AnomalyMap, bytes]) -> None:
    """By onnx's own slow reference."""
    made, data = exported
    tiles = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        expected = made(tiles).numpy()
    (answers,) = ReferenceEvaluator(data).run(None, {"tiles": tiles.numpy()})
    np.testing.assert_allclose(np.asarray(answers), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "margin_px"),
    [
        ((700, 1024), 0),
        ((600, 800), 0),
        ((2000, 2500), 0),
        ((700, 1024), MARGIN_PX),
        ((2000, 2500), MARGIN_PX),
    ],
)
def test_a_megapixel_costs_little_with_the_tiles_that_are_chosen(
    exported: tuple[AnomalyMap, bytes], size: tuple[int, int], margin_px: int
) -> None:
    """What overlaps or lies beyond the border is computed, too."""
    once = TileSpec(size_px=TILE_PX, keep_px=TILE_PX, step_px=TILE_PX)
    _, computed = tiles_for([size], margin_px)
    assert gflop_per_mpx(exported[1], once) * computed <= MOST_GFLOP_PER_MPX


def test_a_megapixel_costs_little_with_the_models_own_tiles(exported: tuple[AnomalyMap, bytes]) -> None:
    own = MODELS["anomaly-unet"].tiles
    once = TileSpec(size_px=TILE_PX, keep_px=TILE_PX, step_px=TILE_PX)
    assert gflop_per_mpx(exported[1], once) * (own.size_px / own.step_px) ** 2 <= MOST_GFLOP_PER_MPX
