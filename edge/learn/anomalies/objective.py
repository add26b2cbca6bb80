"""What the segmenter of synthetic anomalies minimises."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from edge.learn.fit import Batch

FOCAL_WEIGHT, DICE_WEIGHT = 2.0, 0.3
DICE_SMOOTHING_PX = 1.0
SMALL_AREA = 0.05  # of a window: anomalies below it weigh as much as if they were so large, …
MOST_WEIGHT = 4.0  # … but a pixel of them no more than so many others


def anomaly_loss(logits: Any, batch: Batch) -> torch.Tensor:
    """2 · focal (γ = 1) + 0.3 · soft Dice, of logits (n, 1, h/k, w/k) against labels (n, 1, h, w) in 0..1.

    Where the network answers more coarsely than the labels, a label is the share of its pixels. Focal: Lin et
    al., ICCV 2017; Dice with squares below the line: Milletari et al., "V-Net", 2016. A crack has a hundredth
    of a stain's pixels and counts as much: Dice is the mean over the windows that have something to find, and
    the focal term weighs the pixels of small anomalies up. Counted by pixels alone, cracks are not learned.
    """
    labels = functional.avg_pool2d(batch[1], batch[1].shape[-1] // logits.shape[-1])
    probability = torch.sigmoid(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    area = _per_window(labels)
    weight = (SMALL_AREA * labels[0].numel() / (area + 1)).clamp(1, MOST_WEIGHT)
    weights = 1 + (weight - 1)[:, None, None, None] * labels
    focal = ((probability - labels).abs() * entropy * weights).mean()
    total = _per_window(probability.square()) + _per_window(labels.square())
    dice = 1 - (2 * _per_window(probability * labels) + DICE_SMOOTHING_PX) / (total + DICE_SMOOTHING_PX)
    marked = (area > 0).to(dice.dtype)
    return FOCAL_WEIGHT * focal + DICE_WEIGHT * (dice * marked).sum() / marked.sum().clamp(min=1)


def _per_window(values: torch.Tensor) -> torch.Tensor:
    """(n, 1, h, w) → sums (n,)."""
    return values.sum((1, 2, 3))
