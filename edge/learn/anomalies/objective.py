"""What the segmenter of synthetic anomalies minimises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edge.learn.fit import Batch

FOCAL_WEIGHT, DICE_WEIGHT = 2.0, 0.3
DICE_SMOOTHING_PX = 1.0


def anomaly_loss(logits: Any, batch: Batch) -> Tensor:
    """2 · focal (γ = 1) + 0.3 · soft Dice, of logits (n, 1, h/k, w/k) against labels (n, 1, h, w) in 0..1.

    Where the network answers more coarsely than the labels, a label is the share of its pixels. Focal: Lin et
    al., ICCV 2017; Dice with squares below the line: Milletari et al., "V-Net", 2016; over the whole batch,
    as most windows of it have nothing to find.
    """
    labels = functional.avg_pool2d(batch[1], batch[1].shape[-1] // logits.shape[-1])
    probability = torch.sigmoid(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    focal = ((probability - labels).abs() * entropy).mean()
    common = (probability * labels).sum()
    total = probability.square().sum() + labels.square().sum()
    dice = 1 - (2 * common + DICE_SMOOTHING_PX) / (total + DICE_SMOOTHING_PX)
    return FOCAL_WEIGHT * focal + DICE_WEIGHT * dice
