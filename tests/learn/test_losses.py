"""What is minimised is what is judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge.judge import statistics
from edge.learn.losses import LossName, dissimilarity, gradient_dissimilarity, reconstruction_loss
from edge.types import FloatImage


def pair(seed: int, shape: tuple[int, int], noise: float) -> tuple[FloatImage, FloatImage]:
    rng = np.random.default_rng(seed)
    x = rng.random(shape, dtype=np.float32)
    return x, np.clip(x + noise * rng.standard_normal(shape, dtype=np.float32), 0, 1)


@pytest.mark.parametrize("shape", [(64, 64), (41, 90), (12, 12)])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
def test_ssim_loss_is_the_score_map(shape: tuple[int, int], noise: float) -> None:
    x, y = pair(1, shape, noise)
    ours = dissimilarity(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])[0, 0].numpy()
    assert np.abs(ours - statistics.dissimilarity(x, y)).max() < 1e-4


def test_ssim_loss_is_the_score_map_on_flat_frames() -> None:
    x, y = np.full((32, 32), 0.25, np.float32), np.full((32, 32), 0.75, np.float32)
    ours = dissimilarity(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])[0, 0].numpy()
    assert np.abs(ours - statistics.dissimilarity(x, y)).max() < 1e-4


@pytest.mark.parametrize("shape", [(64, 64), (41, 90), (12, 12), (5, 7)])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
def test_gradient_loss_is_the_score_map(shape: tuple[int, int], noise: float) -> None:
    x, y = pair(1, shape, noise)
    planes = torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]
    values = statistics.score_map(x, y, "msgms")
    assert np.abs(gradient_dissimilarity(*planes)[0, 0].numpy() - values).max() < 1e-4
    assert float(reconstruction_loss("msgms", *planes)) == pytest.approx(float(values.mean()), abs=1e-5)


def test_a_sum_of_losses_is_the_sum_of_its_terms() -> None:
    planes = [torch.from_numpy(plane)[None, None] for plane in pair(3, (40, 48), 0.1)]
    terms = [float(reconstruction_loss(kind, *planes)) for kind in ("ssim", "msgms", "l2")]
    assert float(reconstruction_loss("ssim+msgms+l2", *planes)) == pytest.approx(sum(terms), rel=1e-5)


def test_gradient_loss_has_a_slope_on_flat_frames() -> None:
    x = torch.full((1, 1, 16, 16), 0.5)
    y = torch.full((1, 1, 16, 16), 0.4, requires_grad=True)
    reconstruction_loss("msgms", x, y).backward()
    assert y.grad is not None
    assert bool(torch.isfinite(y.grad).all())


@pytest.mark.parametrize("kind", ["l2", "ssim", "ssim+l2", "msgms", "ssim+msgms+l2"])
def test_loss_is_nothing_for_a_perfect_answer_and_its_gradient_points_there(kind: LossName) -> None:
    x, y = (torch.from_numpy(plane)[None, None] for plane in pair(2, (32, 32), 0.2))
    assert float(reconstruction_loss(kind, x, x)) == pytest.approx(0, abs=1e-6)
    y.requires_grad_(True)
    before = reconstruction_loss(kind, x, y)
    before.backward()
    assert y.grad is not None
    nearer = (y - 0.01 * y.grad / y.grad.abs().max()).detach()
    assert float(reconstruction_loss(kind, x, nearer)) < float(before.detach())
