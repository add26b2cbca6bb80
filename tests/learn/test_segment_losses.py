"""Losses against their definitions written out, above all at masks that are empty."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from edge.learn.segment_losses import (
    SegmentLossName,
    dice,
    focal,
    lovasz_hinge,
    segment_loss,
    segmentation,
)

NAMES: tuple[SegmentLossName, ...] = get_args(SegmentLossName)


def example(seed: int, share: float, shape: tuple[int, ...] = (2, 3, 4, 5)) -> tuple[Tensor, Tensor]:
    """Random logits, and masks with that share of ones."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, shape).astype(np.float32))
    return logits, torch.from_numpy((rng.random(shape) < share).astype(np.float32))


SHARES = pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])


@SHARES
def test_dice_is_its_definition(share: float) -> None:
    logits, masks = example(1, share)
    p, y = 1 / (1 + np.exp(-logits.numpy().astype(np.float64))), masks.numpy()
    expected = [
        1 - (2 * (p[:, k] * y[:, k]).sum() + 1) / (p[:, k].sum() + y[:, k].sum() + 1) for k in range(3)
    ]
    assert float(dice(logits, masks)) == pytest.approx(np.mean(expected), rel=1e-5)


@SHARES
def test_focal_is_its_definition(share: float) -> None:
    logits, masks = example(2, share)
    total = 0.0
    for x, y in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        right, alpha = (p, 0.25) if y else (1 - p, 0.75)
        total -= alpha * (1 - right) ** 2 * math.log(right)
    assert float(focal(logits, masks)) == pytest.approx(total / logits.numel(), rel=1e-5)


def test_focal_without_focus_is_half_the_cross_entropy() -> None:
    logits, masks = example(3, 0.3)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
    assert float(focal(logits, masks, gamma=0.0, alpha=0.5)) == pytest.approx(float(bce) / 2, rel=1e-5)


@SHARES
def test_lovasz_hinge_is_the_extension_of_the_jaccard_loss(share: float) -> None:
    """Berman et al. 2018, definition 3: errors in falling order, each times what its pixel adds."""
    logits, masks = example(4, share)
    total = 0.0
    for x, y in zip(logits.reshape(6, -1).tolist(), masks.reshape(6, -1).tolist(), strict=True):
        truth = {i for i, value in enumerate(y) if value}
        errors = [max(0.0, 1 - a * (2 * b - 1)) for a, b in zip(x, y, strict=True)]
        wrong: set[int] = set()
        for i in sorted(range(len(x)), key=lambda i: -errors[i]):
            before = _jaccard_loss(wrong, truth)
            wrong.add(i)
            total += errors[i] * (_jaccard_loss(wrong, truth) - before)
    assert float(lovasz_hinge(logits, masks)) == pytest.approx(total / 6, rel=1e-4, abs=1e-6)


def _jaccard_loss(wrong: set[int], truth: set[int]) -> float:
    return len(wrong) / len(truth | wrong) if truth | wrong else 0.0


def test_lovasz_hinge_of_hard_answers_is_one_less_iou() -> None:
    """At the corners of the cube the extension is the set function itself."""
    masks = torch.tensor([1.0, 1, 1, 0, 0, 0]).reshape(1, 1, 2, 3)
    wrong = torch.tensor([0.0, 1, 0, 1, 0, 0]).reshape(1, 1, 2, 3)
    logits = (1 - wrong) * (2 * masks - 1)  # an error of 1 where wrong, of 0 where right
    assert float(lovasz_hinge(logits, masks)) == pytest.approx(1 - 2 / 4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fill", [0.0, 1.0])
@pytest.mark.parametrize("certain", [-60.0, 0.0, 60.0])
def test_losses_and_gradients_are_finite_at_empty_and_full_masks(
    name: SegmentLossName, fill: float, certain: float
) -> None:
    logits = torch.full((2, 2, 8, 8), certain, requires_grad=True)
    loss = segment_loss(name, logits, torch.full((2, 2, 8, 8), fill))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_perfect_answer_costs_nothing_a_good_frame_too(name: SegmentLossName, share: float) -> None:
    _, masks = example(5, share)
    assert float(segment_loss(name, 100 * (2 * masks - 1), masks)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_gradient_leads_to_the_mask_a_good_frames_too(name: SegmentLossName, share: float) -> None:
    logits, masks = example(6, share)
    logits.requires_grad_(True)
    before = segment_loss(name, logits, masks)
    before.backward()
    assert logits.grad is not None
    step = logits.grad / logits.grad.abs().max()
    assert float(segment_loss(name, (logits - 0.05 * step).detach(), masks)) < float(before.detach())
    if share == 0.0 and "lovasz" not in name:
        assert bool((logits.grad >= 0).all())  # nothing is to rise


def test_a_false_pixel_on_a_good_frame_weighs_little_beside_a_missed_defect() -> None:
    """Why Dice sums over the batch: with a fraction a frame both would cost the same."""
    masks = torch.zeros(2, 1, 10, 10)
    masks[0, 0, :5] = 1
    right = 30 * (2 * masks - 1)
    false, missed = right.clone(), right.clone()
    false[1, 0, 9, 9] = 30
    missed[0] = -30
    assert float(dice(false, masks)) < 0.05 * float(dice(missed, masks))


def test_the_objective_takes_the_masks_of_the_batch() -> None:
    logits, masks = example(7, 0.2)
    loss = segmentation("bce+dice")(logits, (torch.zeros(2, 1, 4, 5), masks))
    assert float(loss) == pytest.approx(float(segment_loss("bce+dice", logits, masks)))
