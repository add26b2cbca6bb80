"""What segmenters minimise; defined and finite for masks that are empty, as those of good frames are.

All take logits and masks (n, classes, h, w) float32, masks 0 or 1, and give a scalar. Classes may overlap, so
each is a question of its own (sigmoid, not softmax).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from edge.learn.fit import Batch, Objective

SegmentLossName = Literal["bce", "bce+dice", "focal+dice", "bce+lovasz"]

DICE_SMOOTHING_PX = 1.0  # added to both sides of the fraction: an empty mask answered by nothing is perfect
FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25  # Lin et al. 2017, their best


def segmentation(loss: SegmentLossName = "bce+dice") -> Objective:
    """The objective of segmenters: the network's logits against the batch's masks."""

    def objective(answers: Any, batch: Batch) -> Tensor:
        masks: Tensor = batch[1]
        return segment_loss(loss, answers, masks)

    return objective


def segment_loss(kind: SegmentLossName, logits: Tensor, masks: Tensor) -> Tensor:
    """The named loss; the parts of a sum weigh the same."""
    if kind == "focal+dice":
        return focal(logits, masks) + dice(logits, masks)
    loss = functional.binary_cross_entropy_with_logits(logits, masks)
    if kind == "bce+dice":
        loss = loss + dice(logits, masks)
    elif kind == "bce+lovasz":
        loss = loss + lovasz_hinge(logits, masks)
    return loss


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """1 − (2·Σpy + 1)/(Σp + Σy + 1), mean over classes; the sums run over all frames of the batch.

    Milletari et al., "V-Net" (2016), with plain sums in the denominator. Were each frame a fraction of its
    own, one false pixel on a good frame would weigh as much as a whole missed defect, and learning would
    swing; summed over the batch, good frames count by the pixels they give falsely.
    """
    probabilities = torch.sigmoid(logits)
    over = (0, 2, 3)
    common = (probabilities * masks).sum(over)  # (classes,)
    total = probabilities.sum(over) + masks.sum(over)
    return (1 - (2 * common + DICE_SMOOTHING_PX) / (total + DICE_SMOOTHING_PX)).mean()


def focal(logits: Tensor, masks: Tensor, *, gamma: float = FOCAL_GAMMA, alpha: float = FOCAL_ALPHA) -> Tensor:
    """−α_t·(1 − p_t)^γ·log p_t, mean over pixels: what is already right counts little.

    Lin et al., "Focal Loss for Dense Object Detection" (2017), equation 5.
    """
    wrong = torch.sigmoid(torch.where(masks > 0, -logits, logits))  # 1 − p_t, exact near 0 as well
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    weight = torch.where(masks > 0, alpha, 1 - alpha)
    return (weight * wrong**gamma * cross_entropy).mean()


def lovasz_hinge(logits: Tensor, masks: Tensor) -> Tensor:
    """The convex extension of 1 − IoU at hinge errors, mean over frames and classes.

    Berman et al., "The Lovász-Softmax loss" (2018), section 3.1 and algorithm 1. For an empty mask it is the
    largest error alone: 1 − IoU is 1 as soon as one pixel is false.
    """
    errors = (1 - logits * (2 * masks - 1)).flatten(2)  # (n, classes, pixels)
    descending, order = errors.sort(dim=-1, descending=True)
    truth = masks.flatten(2).gather(-1, order)
    common = truth.sum(-1, keepdim=True) - truth.cumsum(
        -1
    )  # of mask and answer, had the first i pixels erred
    union = truth.sum(-1, keepdim=True) + (1 - truth).cumsum(-1)
    loss_so_far = 1 - common / union  # the union has a pixel from the first one on: never 0/0
    steps = torch.diff(loss_so_far, dim=-1, prepend=torch.zeros_like(loss_so_far[..., :1]))
    return (functional.relu(descending) * steps).sum(-1).mean()
