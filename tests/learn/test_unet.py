"""U-Nets: sizes in, logits out, what the origins' widths come to, and that ONNX says the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from edge.learn.export import to_onnx
from edge.learn.models.unet import MASKS, SMALL, STEEL, Probabilities, UNet, UNetConfig

CONFIGS = pytest.mark.parametrize("config", [MASKS, STEEL, SMALL], ids=["masks", "steel", "small"])


@CONFIGS
@pytest.mark.parametrize("multiples", [(1, 1), (2, 3)])
def test_logits_have_the_tiles_own_size_and_a_plane_a_class(
    config: UNetConfig, multiples: tuple[int, int]
) -> None:
    height, width = (config.multiple_px * count for count in multiples)
    network = UNet(config).eval()
    with torch.no_grad():
        network.head.bias.fill_(100.0)
        logits = network(torch.rand(2, 1, height, width))
    assert logits.shape == (2, config.classes, height, width)
    assert float(logits.max()) > 1  # not squashed


def test_widths_are_those_of_the_origins() -> None:
    assert _widths(MASKS) == [16, 32, 64, 128, 256]
    assert _widths(STEEL) == [8, 16, 32, 64, 128]
    assert any(isinstance(module, nn.ELU) for module in UNet(STEEL).modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in UNet(MASKS).modules())


def test_dropout_rises_with_depth() -> None:
    rates = [module.p for level in UNet(MASKS).down for module in level.modules()
             if isinstance(module, nn.Dropout)]  # fmt: skip
    assert rates == [0.1, 0.1, 0.2, 0.2, 0.3]


@CONFIGS
def test_each_class_can_learn(config: UNetConfig) -> None:
    """A gradient reaches every weight, from every class."""
    network = UNet(replace(config, classes=2, dropout=(0.0,) * len(config.channels)))
    side = 2 * config.multiple_px  # batch norm needs more than one value a channel
    for k in range(2):
        network.zero_grad()
        network(torch.rand(2, 1, side, side))[:, k].square().mean().backward()
        body = {name: p for name, p in network.named_parameters() if not name.startswith("head")}
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in body.values())
        assert bool(network.head.weight.grad[k].abs().sum() > 0)


def test_a_pixel_far_away_is_seen_by_the_small_network() -> None:
    """Hair cracks and scratches differ in where they lead to."""
    torch.manual_seed(0)
    network = UNet(SMALL).eval()
    x = torch.rand(1, 1, 512, 512)
    y = x.clone()
    y[..., 256 + 100, 256] += 1.0
    with torch.no_grad():
        difference = (network(x) - network(y))[0, 0, 256, 256]
    assert float(difference.abs()) > 0


def test_levels_and_dropouts_must_agree() -> None:
    with pytest.raises(ValueError, match="2 dropouts for 3 levels"):
        UNet(UNetConfig(channels=(8, 16, 32), dropout=(0.1, 0.1)))


@pytest.mark.slow
@CONFIGS
def test_exported_probabilities_are_torchs_own(config: UNetConfig) -> None:
    torch.manual_seed(1)
    network = Probabilities(UNet(config)).eval()
    side = 2 * config.multiple_px
    tiles = torch.rand(3, 1, side, side)
    model = openvino.Core().read_model(to_onnx(network, side))
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        ours = network(tiles).numpy()
    theirs = compiled(tiles.numpy())[0]
    assert theirs.shape == ours.shape
    assert 0 <= ours.min() <= ours.max() <= 1
    assert np.abs(ours - theirs).max() < 1e-4


def _widths(config: UNetConfig) -> list[int]:
    return [level.second[0].out_channels for level in UNet(config).down]
