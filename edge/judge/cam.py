"""Class activation maps: where a classifier saw what it says. From two small arrays, without torch.

`activations` A and `gradients` G = ∂ score / ∂ A are (k, h, w) float32 of one frame, k feature maps, from a
network that was exported as `edge.learn.models.supervised_ae.Explain`. A map is (h, w) float32 ≥ 0: only what
speaks for a defect is shown. The score is the log-odds; where a paper derives its weights for exp(score), the
exponential cancels from them up to a factor, as it says itself.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from edge.types import FloatImage

Explain = Callable[[FloatImage], tuple[FloatImage, FloatImage]]
"""Tiles (n, 1, s, s) in 0..1 → activations and gradients, (n, k, h, w) each."""

SAMPLES = 16  # noisy copies
SIGMA = 0.1  # of the noise, grey levels in 0..1


def xgrad_cam(activations: FloatImage, gradients: FloatImage) -> FloatImage:
    """XGrad-CAM: Fu et al., "Axiom-based Grad-CAM", BMVC 2020, eq. 8: gradients weighed by activation."""
    totals = activations.sum((1, 2))
    weights = _divided((activations * gradients).sum((1, 2)), totals)
    return _weighted(activations, weights)


def smooth_grad_cam_pp(
    explain: Explain, tile: FloatImage, samples: int = SAMPLES, sigma: float = SIGMA, seed: int = 0
) -> FloatImage:
    """SmoothGrad-CAM++: Omeiza et al., arXiv:1908.01224, eq. 6 to 8, of a tile (s, s) in 0..1.

    The derivatives of Grad-CAM++ are averaged over copies with Gaussian noise of `sigma` grey levels; the
    activations are those of the tile itself. The same seed gives the same map.
    """
    rng = np.random.default_rng(seed)
    noise = np.float32(sigma) * rng.standard_normal((samples, 1, *tile.shape), dtype=np.float32)
    activations, _ = explain(tile[None, None])
    _, gradients = explain(np.clip(tile[None, None] + noise, 0.0, 1.0))
    first, second, third = (np.mean(gradients**power, axis=0) for power in (1, 2, 3))
    return _plus_plus(activations[0], first, second, third)


def upscaled(cam: FloatImage, size_px: tuple[int, int]) -> FloatImage:
    """A map (h, w) as (height, width) `size_px`, bilinear, its maximum 1; zeros where nothing speaks."""
    height, width = size_px
    large = cv2.resize(cam, (width, height), interpolation=cv2.INTER_LINEAR)
    highest = float(large.max())
    return (large / np.float32(highest) if highest > 0 else np.zeros_like(large)).astype(np.float32)


def _plus_plus(
    activations: FloatImage, first: FloatImage, second: FloatImage, third: FloatImage
) -> FloatImage:
    """ReLU(Σₖ wₖ Aₖ) with wₖ = Σ αₖ ReLU(G¹), αₖ = G² / (2 G² + Σ Aₖ · G³), from three derivatives."""
    totals = activations.sum((1, 2), keepdims=True)
    alphas = _divided(second, 2 * second + totals * third)
    return _weighted(activations, (alphas * np.maximum(first, 0)).sum((1, 2)))


def _weighted(activations: FloatImage, weights: FloatImage) -> FloatImage:
    return np.maximum(np.tensordot(weights, activations, axes=1), 0).astype(np.float32)


def _divided(numerator: FloatImage, denominator: FloatImage) -> FloatImage:
    """Zero where the denominator is: no activation or no gradient, so nothing to weigh."""
    safe = np.where(denominator != 0, denominator, 1)
    return np.where(denominator != 0, numerator / safe, 0)
