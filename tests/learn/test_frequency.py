"""The frequency-aware restoration: its filter is the formula's, and what it cannot see it must infer."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edge.learn.datasets import Windows
from edge.learn.export import to_onnx
from edge.learn.fit import Fit, FitSpec, threads
from edge.learn.models.frequency import (
    FrequencyUNet,
    FrequencyUNetConfig,
    HighPass,
    butterworth,
    highpass_weights,
)
from edge.preprocess import TileSpec

SMALL = FrequencyUNetConfig(channels=(4, 8), filter_px=9)
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
CUTOFF = FrequencyUNetConfig().cutoff


def test_filter_differs_from_the_butterworth_formula_by_at_most_a_hundredth() -> None:
    config = FrequencyUNetConfig()
    side, grid = config.filter_px, 200  # another grid than the one it was computed on
    padded = np.zeros((grid, grid))
    padded[:side, :side] = highpass_weights(config.cutoff, config.order, side)
    response = np.fft.fft2(np.roll(padded, (-(side // 2), -(side // 2)), (0, 1))).real
    along = np.fft.fftfreq(grid)
    wanted = butterworth(np.hypot(along[:, None], along[None, :]), config.cutoff, config.order)
    assert np.abs(response - wanted).max() < 0.01
    assert abs(response[0, 0]) < 1e-12


def test_half_of_a_wave_at_the_cutoff_passes_and_nothing_of_a_grey_level() -> None:
    wave = 0.5 + 0.2 * np.sin(2 * np.pi * CUTOFF * np.arange(256, dtype=np.float32))
    detail = HighPass(FrequencyUNetConfig())(torch.from_numpy(np.tile(wave, (64, 1)))[None, None])
    inside = detail[0, 0, 20:-20, 40:-40]
    assert float(inside.max()) == pytest.approx(0.1, rel=0.05)
    assert abs(float(inside.mean())) < 0.01


def test_even_filter_side_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        highpass_weights(CUTOFF, 2, 20)


def test_grey_level_and_slow_changes_cannot_be_copied_through() -> None:
    torch.manual_seed(0)
    network = FrequencyUNet(FrequencyUNetConfig(channels=(4, 8))).eval()
    tiles = torch.rand(1, 1, 256, 256) * 0.5
    slope = torch.linspace(0, 0.4, 256).expand(1, 1, 256, 256)  # below the cutoff
    with torch.no_grad():
        plain, brighter, sloped = network(tiles), network(tiles + 0.3), network(tiles + slope)
        turned = network(tiles.flip(-1))
    torch.testing.assert_close(brighter, plain, rtol=0, atol=1e-4)
    centre = (..., slice(64, -64), slice(64, -64))  # a mirrored slope has a bend at the border
    assert float((sloped - plain)[centre].abs().max()) < 0.01 < float((turned - plain)[centre].abs().max())


def test_gradients_reach_every_weight_but_the_filter() -> None:
    torch.manual_seed(0)
    network = FrequencyUNet(SMALL)
    network(torch.rand(2, 1, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())
    assert "detail.weights" not in dict(network.named_parameters())


def test_restoration_costs_less_than_16_gflop_per_mpx() -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        FrequencyUNet(FrequencyUNetConfig()).eval()(torch.zeros(1, 1, 320, 320))
    assert counter.get_total_flops() / 320**2 * 1e6 < 16e9


def test_what_is_exported_answers_as_torch_does() -> None:
    torch.manual_seed(1)
    network = FrequencyUNet(SMALL).eval()
    tiles = torch.rand(3, 1, 48, 48)
    core = ov.Core()
    compiled = core.compile_model(core.read_model(to_onnx(network, 48)), "CPU", EXACT)
    with torch.no_grad():
        np.testing.assert_allclose(compiled(tiles.numpy())[0], network(tiles).numpy(), atol=1e-5)


def learned(seed: int) -> tuple[list[float], torch.Tensor]:
    planes = [np.random.default_rng(0).random((64, 64)).astype(np.float16)]
    tiles = TileSpec(size_px=48, keep_px=32, step_px=32)
    windows = Windows(planes, tiles, 32, 4, "none", 0)
    torch.manual_seed(seed)
    network = FrequencyUNet(SMALL)
    with threads(1):
        spec = FitSpec(loss="ssim+msgms+l2", learning_rate=5e-3, minutes=0, steps=40, seed=seed)
        progress = Fit(network, spec, windows, windows).run()
    return [loss for _, loss, _ in progress.curve], torch.cat([p.flatten() for p in network.parameters()])


def test_learning_restores_better_and_the_same_seed_gives_the_same_weights() -> None:
    losses, weights = learned(3)
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(weights, learned(3)[1])
    assert not torch.equal(weights, learned(4)[1])
