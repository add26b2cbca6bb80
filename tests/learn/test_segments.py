"""Windows and their truth: what is cut belongs together, defects are seen, and a step is always the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.learn.labels import LabelledPlane
from edge.learn.segments import DEFAULT, UNCHANGED, SegmentAugmentation, SegmentBatches


def labelled(truth: np.ndarray, seed: int = 0) -> LabelledPlane:
    """A plane whose grey says its classes, so that windows and masks can be held against each other."""
    noise = np.random.default_rng(seed).random(truth.shape) * 0.02
    grey = 0.2 + 0.3 * (truth & 1) + 0.4 * (truth >> 1 & 1) + noise
    return LabelledPlane(grey.astype(np.float16), truth.astype(np.uint8), int(truth.any()))


def spot(height: int, width: int, *places: tuple[int, int, int], side: int = 6) -> np.ndarray:
    """A truth plane with squares of classes (bit, row, column)."""
    truth = np.zeros((height, width), np.uint8)
    for k, row, column in places:
        truth[row : row + side, column : column + side] |= 1 << k
    return truth


PLANES = [
    labelled(spot(40, 90, (0, 5, 70)), 1),
    labelled(spot(64, 64, (1, 30, 30), (0, 33, 33)), 2),
    labelled(spot(50, 80), 3),
    labelled(spot(45, 85), 4),
]


def batches(**changed: object) -> SegmentBatches:
    arguments: dict[str, object] = {
        "classes": 2, "window_px": (16, 24), "batch": 16, "seed": 3, "defect_share": 0.5,
    }  # fmt: skip
    return SegmentBatches(PLANES, **(arguments | changed))  # type: ignore[arg-type]


def test_windows_and_masks_have_their_shapes_and_ranges() -> None:
    inputs, masks = batches(augmentation=DEFAULT).at(0)
    assert inputs.shape == (16, 1, 16, 24)
    assert masks.shape == (16, 2, 16, 24)
    assert inputs.dtype == masks.dtype == torch.float32
    assert 0 <= float(inputs.min()) <= float(inputs.max()) <= 1
    assert set(masks.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("augmentation", [UNCHANGED, DEFAULT, replace(DEFAULT, noise=0.1, elastic_px=2.0)])
def test_a_step_is_the_same_whenever_it_is_asked_for(augmentation: SegmentAugmentation) -> None:
    first, again = batches(augmentation=augmentation), batches(augmentation=augmentation)
    again.at(7)
    for a, b in zip(first.at(3), again.at(3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.at(3)[0], first.at(4)[0])
    assert not torch.equal(first.at(3)[0], batches(augmentation=augmentation, seed=4).at(3)[0])


@pytest.mark.parametrize(
    "augmentation",
    [
        UNCHANGED,
        SegmentAugmentation(flip_across=True, flip_down=True),
        SegmentAugmentation(rotation_deg=45.0),
        SegmentAugmentation(scale=0.3),
        SegmentAugmentation(elastic_px=3.0),
    ],
    ids=["none", "flips", "rotation", "scale", "elastic"],
)
def test_truth_moves_with_the_pixels(augmentation: SegmentAugmentation) -> None:
    """The grey of each plane tells its classes: away from the classes' edges it and the masks must agree."""
    inputs, masks = batches(augmentation=augmentation, batch=64, defect_share=1.0).at(0)
    expected = 0.2 + 0.3 * masks[:, 0] + 0.4 * masks[:, 1]
    agree = (inputs[:, 0] - expected).abs() < 0.03
    highest, lowest = (torch.nn.functional.max_pool2d(sign * masks, 3, 1, 1) for sign in (1, -1))
    inside = (highest == -lowest).all(1)  # the same classes all around
    if augmentation in (UNCHANGED, SegmentAugmentation(flip_across=True, flip_down=True)):
        inside = torch.ones_like(inside)
    assert float((masks.amax(1) * inside).sum()) > 500
    assert float(agree[inside].float().mean()) > 0.99


def test_the_share_of_windows_around_defects_is_as_asked() -> None:
    for share in (0.0, 0.25, 1.0):
        source = batches(defect_share=share)
        with_defect = sum(int(source.at(step)[1].amax((1, 2, 3)).sum()) for step in range(20))
        assert with_defect >= share * 16 * 20
        assert share == 1.0 or with_defect < (share + 0.4) * 16 * 20  # by chance, a few more


def test_a_rare_class_is_seen_as_often_as_a_frequent_one() -> None:
    frequent = [labelled(spot(40, 40, (0, 10, 10)), k) for k in range(30)]
    source = SegmentBatches(
        [*frequent, labelled(spot(40, 40, (1, 20, 20)))],
        classes=2, window_px=(16, 16), batch=20, seed=0, defect_share=1.0,
    )  # fmt: skip
    seen = sum(source.at(step)[1].amax((2, 3)).sum(0) for step in range(20))
    assert isinstance(seen, torch.Tensor)
    assert 0.4 < float(seen[1] / seen.sum()) < 0.6


def test_good_frames_alone_give_windows_without_defects() -> None:
    source = SegmentBatches(PLANES[2:], classes=3, window_px=(16, 16), batch=8, seed=0, defect_share=0.5)
    inputs, masks = source.at(0)
    assert inputs.shape == (8, 1, 16, 16)
    assert float(masks.sum()) == 0


def test_every_place_of_a_plane_is_reached_its_corners_too() -> None:
    """A plane whose pixels are all different: which of them do windows hold?"""
    grey = (np.arange(20 * 30) / 1024).reshape(20, 30).astype(np.float16)
    plane = LabelledPlane(grey, np.zeros((20, 30), np.uint8))
    source = SegmentBatches([plane], classes=1, window_px=(8, 8), batch=64, seed=0)
    seen = np.unique(np.concatenate([source.at(step)[0].numpy().ravel() for step in range(40)]))
    assert len(np.intersect1d(seen, grey.astype(np.float32))) == 600


def test_beyond_the_border_the_plane_and_its_truth_are_mirrored() -> None:
    truth = spot(20, 20, (0, 0, 0), side=3)
    source = SegmentBatches(
        [labelled(truth)], classes=1, window_px=(24, 24), batch=64, seed=0, margin_px=4
    )  # fmt: skip
    inputs, masks = source.at(0)
    expected = 0.2 + 0.3 * masks[:, 0]
    assert bool(((inputs[:, 0] - expected).abs() < 0.03).all())
    assert float(masks.sum((1, 2, 3)).max()) > 9  # the square and its image


def test_a_window_larger_than_the_plane_is_filled_by_mirroring() -> None:
    inputs, masks = batches(window_px=(128, 160), batch=4).at(0)
    assert inputs.shape == (4, 1, 128, 160)
    assert bool(torch.isfinite(inputs).all())
    assert float(masks.sum()) > 0


@given(
    seed=st.integers(0, 1000), height=st.integers(1, 30), width=st.integers(1, 30), margin=st.integers(0, 5),
    elastic=st.booleans(),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_any_size_of_plane_and_window_goes_together(
    seed: int, height: int, width: int, margin: int, elastic: bool
) -> None:
    rng = np.random.default_rng(seed)
    truth = (rng.random((height, width)) < 0.1).astype(np.uint8)
    augmentation = replace(DEFAULT, elastic_px=2.0) if elastic else UNCHANGED
    source = SegmentBatches(
        [labelled(truth)], classes=1, window_px=(12, 17), batch=3, seed=seed, margin_px=margin,
        augmentation=augmentation,
    )  # fmt: skip
    inputs, masks = source.at(seed)
    assert inputs.shape == masks.shape == (3, 1, 12, 17)
    assert bool(torch.isfinite(inputs).all())
    if truth.any() and not elastic:
        assert float(masks[0].sum()) >= 1  # cut around a defect pixel, however small the plane


def test_light_changes_leave_the_truth_alone() -> None:
    shaded = SegmentAugmentation(brightness=0.1, contrast=0.3, gamma=0.3, noise=0.05)
    plain, varied = batches().at(0), batches(augmentation=shaded).at(0)
    assert not torch.equal(plain[0], varied[0])
    assert torch.equal(plain[1][0], varied[1][0])  # the first window's place was drawn before any light


def test_more_classes_than_a_truth_plane_has_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="9 classes"):
        batches(classes=9)
