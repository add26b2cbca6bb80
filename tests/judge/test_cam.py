"""Class activation maps against autograd, written out from the papers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge.judge.cam import smooth_grad_cam_pp, upscaled, xgrad_cam
from edge.types import FloatImage


class Classifier(nn.Module):
    """A small network whose gradients vary over the map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(1, 5, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(5 * 8 * 8, 9), nn.ReLU(), nn.Linear(9, 1))

    def derivatives(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        activations = self.features(tiles).detach().requires_grad_()
        (gradients,) = torch.autograd.grad(self.head(activations).sum(), activations)
        return activations.detach(), gradients


CLASSIFIER = Classifier().eval()
TILE = np.random.default_rng(0).random((16, 16), np.float32)


def explain(tiles: FloatImage) -> tuple[FloatImage, FloatImage]:
    activations, gradients = CLASSIFIER.derivatives(torch.from_numpy(tiles))
    return activations.numpy(), gradients.numpy()


def shown(weights: Tensor, activations: Tensor) -> FloatImage:
    return torch.relu((weights[:, None, None] * activations).sum(0)).numpy()


def axiomatic(activations: Tensor, gradients: Tensor) -> FloatImage:
    """Fu et al. 2020: wₖ = Σ Aₖ(x, y) / ΣAₖ · ∂S/∂Aₖ(x, y), map by map."""
    weights = [
        (a / a.sum() * g).sum() if a.sum() > 0 else torch.tensor(0.0)
        for a, g in zip(activations, gradients, strict=True)
    ]
    return shown(torch.stack(weights), activations)


def plus_plus(activations: Tensor, gradients: Tensor) -> FloatImage:
    """Chattopadhay et al. 2018 with Y = exp(S): the derivatives with their exponentials, place by place."""
    y = 1.7  # exp(S): any value gives the same alphas
    weights = []
    for a, g in zip(activations, gradients, strict=True):
        weight = torch.tensor(0.0)
        for i in range(8):
            for j in range(8):
                denominator = 2 * y * g[i, j] ** 2 + a.sum() * y * g[i, j] ** 3
                alpha = y * g[i, j] ** 2 / denominator if denominator != 0 else torch.tensor(0.0)
                weight = weight + alpha * torch.relu(g[i, j])
        weights.append(weight)
    return shown(torch.stack(weights), activations)


def test_xgrad_cam_is_that_of_the_paper_by_autograd() -> None:
    activations, gradients = CLASSIFIER.derivatives(torch.from_numpy(TILE[None, None]))
    wanted = axiomatic(activations[0], gradients[0])
    made = xgrad_cam(activations[0].numpy(), gradients[0].numpy())
    assert wanted.max() > 0
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, wanted, rtol=1e-3, atol=1e-5)


def test_smooth_map_without_noise_is_grad_cam_plus_plus() -> None:
    activations, gradients = CLASSIFIER.derivatives(torch.from_numpy(TILE[None, None]))
    wanted = plus_plus(activations[0], gradients[0])
    assert wanted.max() > 0
    made = smooth_grad_cam_pp(explain, TILE, samples=3, sigma=0.0)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, wanted, rtol=1e-3, atol=1e-5)


def test_smooth_map_averages_the_derivatives_of_noisy_copies() -> None:
    noise = 0.2 * np.random.default_rng(5).standard_normal((4, 1, 16, 16), dtype=np.float32)
    copies = np.clip(TILE[None, None] + noise.astype(np.float32), 0, 1)
    samples = [CLASSIFIER.derivatives(torch.from_numpy(copy[None]))[1][0] for copy in copies]
    first, second, third = (torch.stack([g**n for g in samples]).mean(0) for n in (1, 2, 3))
    activations = CLASSIFIER.derivatives(torch.from_numpy(TILE[None, None]))[0][0]
    denominator = 2 * second + activations.sum((1, 2), keepdim=True) * third
    alphas = torch.where(denominator != 0, second / denominator, torch.zeros(()))
    wanted = shown((alphas * torch.relu(first)).sum((1, 2)), activations)
    made = smooth_grad_cam_pp(explain, TILE, samples=4, sigma=0.2, seed=5)
    np.testing.assert_allclose(made, wanted, rtol=1e-3, atol=1e-5)


def test_noise_is_that_of_the_seed() -> None:
    one, same, other = (
        smooth_grad_cam_pp(explain, TILE, samples=2, sigma=0.5, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def smooth(activations: FloatImage, gradients: FloatImage) -> FloatImage:
    """SmoothGrad-CAM++ of a network that answers the same whatever it sees."""

    def constant(tiles: FloatImage) -> tuple[FloatImage, FloatImage]:
        return np.stack([activations] * len(tiles)), np.stack([gradients] * len(tiles))

    return smooth_grad_cam_pp(constant, TILE, samples=2)


@pytest.mark.parametrize("cam", [smooth, xgrad_cam])
def test_dead_feature_maps_give_no_evidence_and_no_warning(
    cam: Callable[[FloatImage, FloatImage], FloatImage],
) -> None:
    zeros, ones = np.zeros((3, 4, 4), np.float32), np.ones((3, 4, 4), np.float32)
    assert not cam(zeros, ones).any()
    assert not cam(ones, zeros).any()


@pytest.mark.parametrize("cam", [smooth, xgrad_cam])
def test_what_speaks_against_a_defect_is_not_shown(
    cam: Callable[[FloatImage, FloatImage], FloatImage],
) -> None:
    ones = np.ones((2, 4, 4), np.float32)
    assert not cam(ones, -ones).any()


def test_upscaled_map_has_its_maximum_at_one_and_at_the_same_place() -> None:
    cam = np.zeros((4, 4), np.float32)
    cam[1, 2] = 3.0
    large = upscaled(cam, (32, 64))
    y, x = np.unravel_index(int(large.argmax()), large.shape)
    assert large.shape == (32, 64)
    assert large.max() == 1
    assert (y // 8, x // 16) == (1, 2)
    assert not upscaled(np.zeros_like(cam), (8, 8)).any()
