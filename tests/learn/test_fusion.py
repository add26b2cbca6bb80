"""Fusion: members are comparable whatever their units, and the whole is one graph."""

from __future__ import annotations

import cv2
import numpy as np
import openvino as ov
import pytest
import torch
from torch import Tensor, nn

from edge.errors import DataError
from edge.judge.statistics import score_map
from edge.learn.export import to_onnx
from edge.learn.labels import LabelledPlane
from edge.learn.models.anomaly_unet import AnomalyUNet, AnomalyUNetConfig
from edge.learn.models.features import FeatureDistance, FeaturesConfig
from edge.learn.models.fusion import (
    Answer,
    Fusion,
    GaussianBlur,
    Member,
    Rule,
    SegmenterWithFeatures,
    fit,
    standardise,
)
from edge.preprocess import TileSpec
from edge.types import FloatImage

SIDE = 64
TILES = TileSpec(size_px=SIDE, keep_px=32, step_px=32)
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


class Brightness(nn.Module):
    """A member whose map is the tile itself, in units of its own."""

    def __init__(self, unit: float = 1.0) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, tiles: Tensor) -> Tensor:
        return tiles * self.unit


class Darkness(nn.Module):
    def forward(self, tiles: Tensor) -> Tensor:
        return 1 - tiles


def texture(seed: int) -> FloatImage:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(96, 96)), (0, 0), 1.5)
    return np.clip(0.5 + 0.4 * noise, 0, 1).astype(np.float32)


def planes(count: int) -> list[LabelledPlane]:
    return [LabelledPlane(texture(k).astype(np.float16), np.zeros((96, 96), np.uint8)) for k in range(count)]


def standardised(*members: Member, rule: Rule = "log-odds") -> Fusion:
    fusion = Fusion(members, rule)
    standardise(fusion, [labelled.plane for labelled in planes(4)], TILES, seed=0)
    return fusion


def tile(seed: int = 20) -> Tensor:
    return torch.from_numpy(texture(seed)[None, None, :SIDE, :SIDE])


def marked(value: float) -> Tensor:
    """A tile with a square of another grey at 24..40."""
    made = tile().clone()
    made[..., 24:40, 24:40] = value
    return made


@pytest.mark.parametrize("rule", ["mean", "max"])  # opposite members cancel when log-odds are added
def test_what_only_one_member_sees_is_seen_by_the_fusion(rule: Rule) -> None:
    fusion = standardised(Member(Brightness(), "probability"), Member(Darkness(), "probability"), rule=rule)
    for value in (0.0, 1.0):
        values = fusion(marked(value))[0, 0]
        assert float(values[28:36, 28:36].min()) > float(values[:20].max())


def test_log_odds_of_members_that_agree_add_up() -> None:
    one = standardised(Member(Brightness(), "probability"))
    two = standardised(Member(Brightness(), "probability"), Member(Brightness(0.5), "distance"))
    torch.testing.assert_close(two(tile()), one(tile()), rtol=0, atol=0.05)
    weighted = standardised(
        Member(Brightness(), "probability", weight=3), Member(Darkness(), "probability", weight=1)
    )
    values = weighted(marked(1.0))[0, 0]
    assert float(values[28:36, 28:36].min()) > float(values[:20].max())


def test_unit_of_a_member_does_not_matter() -> None:
    small = standardised(Member(Brightness(1e-3), "distance"))
    smaller = standardised(Member(Brightness(1e-4), "distance"))
    torch.testing.assert_close(small(marked(0.9)), smaller(marked(0.9)), rtol=0, atol=1e-3)


def test_half_of_good_pixels_are_0_and_one_in_a_hundred_is_above_1() -> None:
    fusion = standardised(Member(Brightness(), "probability"))
    z = torch.cat([(fusion.raw(tile(k)) - fusion.middle) / fusion.spread for k in range(30, 40)])
    assert float(z.median()) == pytest.approx(0, abs=0.05)
    assert float((z > 1).float().mean()) == pytest.approx(0.01, abs=0.006)


def test_map_that_is_flat_on_good_frames_is_not_blown_up() -> None:
    fusion = standardised(Member(Brightness(0.0), "distance"), Member(Brightness(), "probability"))
    assert torch.isfinite(fusion(marked(1.0))).all()


@pytest.mark.parametrize("answer", ["l2", "ssim"])
@pytest.mark.parametrize("smooth_px", [0.0, 3.0])
def test_residual_in_the_graph_is_the_judges(answer: Answer, smooth_px: float) -> None:
    fusion = Fusion([Member(Brightness(0.8), answer, smooth_px)])
    plane = tile()
    found = torch.exp(fusion.raw(plane))[0, 0].numpy()
    wanted = score_map(plane[0, 0].numpy(), (plane * 0.8)[0, 0].numpy(), answer, smooth_px)
    np.testing.assert_allclose(found, np.maximum(wanted, 1e-6), rtol=2e-2, atol=1e-4)


def test_blur_keeps_a_flat_map() -> None:
    torch.testing.assert_close(
        GaussianBlur(2.0)(torch.full((1, 1, 40, 30), 0.7)), torch.full((1, 1, 40, 30), 0.7)
    )


def whole(seed: int = 0) -> SegmenterWithFeatures:
    torch.manual_seed(seed)
    return SegmenterWithFeatures(
        AnomalyUNet(AnomalyUNetConfig(channels=(4, 6))),
        FeatureDistance(FeaturesConfig("memory", remembered=32)),
    )


def test_segmenter_learns_by_gradients_and_the_features_do_not() -> None:
    network = whole()
    network(tile()).square().mean().backward()
    learned = {name.partition(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert "network" in learned
    assert not list(network.distance.parameters())


def test_fitted_fusion_finds_a_square_is_deterministic_and_exports_as_one_graph() -> None:
    network, again = whole(), whole()
    fit(network, planes(4), 3, TILES)
    fit(again, planes(4), 3, TILES)
    fused = network.fused.eval()
    tiles = torch.cat([tile(), marked(1.0), tile(21)])
    with torch.no_grad():
        values, same = fused(tiles), again.fused.eval()(tiles)
    assert torch.equal(values, same)
    assert float(values[1, 0, 24:40, 24:40].mean()) > 2 * float(values[0, 0].mean())
    core = ov.Core()
    compiled = core.compile_model(core.read_model(to_onnx(fused, SIDE)), "CPU", EXACT)
    np.testing.assert_allclose(compiled(tiles.numpy())[0], values.numpy(), atol=1e-4)


def test_no_frames_and_no_members_are_refused() -> None:
    with pytest.raises(ValueError, match="members"):
        Fusion([])
    with pytest.raises(DataError, match="no frames"):
        standardise(Fusion([Member(Brightness(), "distance")]), [], TILES, 0)


def test_frames_of_two_views_in_turn_are_scaled_as_frames_of_one_view_after_the_other() -> None:
    """Neither view may be missing from what the scale is measured against."""
    side = 64
    rng = np.random.default_rng(3)
    scenes = [cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 3.0) for _ in range(2)]

    def plane(view: int) -> LabelledPlane:
        made = 0.5 + 1.5 * scenes[view] + rng.normal(0, 0.01, (side, side))
        return LabelledPlane(np.clip(made, 0, 1).astype(np.float16), np.zeros((1, 1), np.uint8))

    views = [[plane(view) for _ in range(8)] for view in range(2)]
    orders = {
        "after": [*views[0], *views[1]],
        "in turn": [frame for pair in zip(*views, strict=True) for frame in pair],
    }
    middles = {}
    for name, order in orders.items():
        torch.manual_seed(0)
        config = FeaturesConfig("aligned", size_px=side, kinds=4)
        network = SegmenterWithFeatures(AnomalyUNet(AnomalyUNetConfig()), FeatureDistance(config)).eval()
        fit(network, order, 0, TileSpec(size_px=side, keep_px=side, step_px=side))
        middles[name] = network.fused.middle.numpy()
    assert middles["in turn"] == pytest.approx(middles["after"], abs=1.5)  # 12 where a view was left out
