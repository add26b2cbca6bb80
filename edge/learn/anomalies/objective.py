"""What the segmenter of synthetic anomalies minimises."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from edge.learn.fit import Batch, Objective

FOCAL_WEIGHT, DICE_WEIGHT = 2.0, 0.3
DICE_SMOOTHING_PX = 1.0
SMALL_AREA = 0.05  # of a window: anomalies below it weigh as much as if they were so large, …
MOST_WEIGHT = 4.0  # … but a pixel of them no more than so many others


def anomaly_loss(balance_areas: bool) -> Objective:
    """2 · focal (γ = 1) + 0.3 · soft Dice, of logits (n, 1, h/k, w/k) against labels (n, 1, h, w) in 0..1.

    Where the network answers more coarsely than the labels, a label is the share of its pixels. Focal: Lin et
    al., ICCV 2017; Dice with squares below the line: Milletari et al., "V-Net", 2016. Dice is over the whole
    batch, as most of its windows have nothing to find.

    Counted so by pixels, a crack is a hundredth of a stain, and is hardly learned. Where `balance_areas`, it
    counts as much: Dice is the mean over the windows that have something to find, and the focal term weighs
    the pixels of small anomalies up.
    """
    return _balanced if balance_areas else _by_pixels


def _by_pixels(logits: Any, batch: Batch) -> torch.Tensor:
    labels = _at_resolution(batch[1], logits)
    probability = torch.sigmoid(logits)
    focal = _focal(logits, labels, probability).mean()
    common = (probability * labels).sum()
    total = probability.square().sum() + labels.square().sum()
    dice = 1 - (2 * common + DICE_SMOOTHING_PX) / (total + DICE_SMOOTHING_PX)
    return FOCAL_WEIGHT * focal + DICE_WEIGHT * dice


def _balanced(logits: Any, batch: Batch) -> torch.Tensor:
    labels = _at_resolution(batch[1], logits)
    probability = torch.sigmoid(logits)
    area = _per_window(labels)
    weight = (SMALL_AREA * labels[0].numel() / (area + 1)).clamp(1, MOST_WEIGHT)
    weights = 1 + (weight - 1)[:, None, None, None] * labels
    focal = (_focal(logits, labels, probability) * weights).mean()
    total = _per_window(probability.square()) + _per_window(labels.square())
    dice = 1 - (2 * _per_window(probability * labels) + DICE_SMOOTHING_PX) / (total + DICE_SMOOTHING_PX)
    marked = (area > 0).to(dice.dtype)
    return FOCAL_WEIGHT * focal + DICE_WEIGHT * (dice * marked).sum() / marked.sum().clamp(min=1)


def _at_resolution(labels: torch.Tensor, logits: Any) -> torch.Tensor:
    return functional.avg_pool2d(labels, labels.shape[-1] // logits.shape[-1])


def _focal(logits: Any, labels: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    entropy = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (probability - labels).abs() * entropy


def _per_window(values: torch.Tensor) -> torch.Tensor:
    """(n, 1, h, w) → sums (n,)."""
    return values.sum((1, 2, 3))
