"""Objects of a mask: each pixel belongs to one, and they come in the same order every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.preprocess.objects import split_objects
from edge.types import Mask

bools = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


def discs(*circles: tuple[float, float, float], shape: tuple[int, int] = (120, 200)) -> Mask:
    """(x, y, radius) of each."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(
        np.logical_or.reduce([(rows - y) ** 2 + (columns - x) ** 2 <= r**2 for x, y, r in circles])
    )


@given(bools, st.booleans())
def test_every_pixel_of_the_mask_has_one_label_and_boxes_are_tight(mask: Mask, separate: bool) -> None:
    objects, labels = split_objects(mask, 0.0, separate)
    assert labels.shape == mask.shape
    assert labels.dtype == np.int32
    assert np.array_equal(labels > 0, mask)
    assert [one.label for one in objects] == list(range(1, len(objects) + 1))
    for one in objects:
        ys, xs = np.nonzero(labels == one.label)
        assert one.area_px == len(ys)
        assert one.bbox == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)


@given(bools)
def test_objects_come_from_the_top_left(mask: Mask) -> None:
    corners = [(one.bbox[1], one.bbox[0]) for one in split_objects(mask)[0]]
    assert corners == sorted(corners)


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    assert len(split_objects(np.eye(4, dtype=bool))[0]) == 1


def test_small_pieces_leave_the_labels_too() -> None:
    mask = discs((50, 60, 20))
    mask[5, 5] = True
    objects, labels = split_objects(mask, min_area_ratio=0.001)
    assert [one.bbox for one in objects] == [(30, 40, 41, 41)]
    assert labels[5, 5] == 0


@pytest.mark.parametrize("second", [(89.0, 60.0, 20.0), (82.0, 60.0, 14.0), (80.0, 75.0, 20.0)])
def test_two_that_touch_are_cut_at_the_neck(second: tuple[float, float, float]) -> None:
    mask = discs((50, 60, 20), second)
    assert len(split_objects(mask)[0]) == 1
    objects, labels = split_objects(mask, separate_touching=True)
    assert len(objects) == 2
    left, right = labels[60, 45], labels[int(second[1]), int(second[0]) + 5]
    assert left != right
    for label, (x, y, r) in ((left, (50, 60, 20)), (right, second)):
        alone = discs((x, y, r))
        assert (labels[alone] == label).mean() > 0.85


def test_a_row_of_six_gives_six() -> None:
    objects, _ = split_objects(discs(*((20 + 31 * k, 60, 16) for k in range(6))), separate_touching=True)
    assert len(objects) == 6
    assert [one.bbox[0] for one in objects] == sorted(one.bbox[0] for one in objects)


@pytest.mark.parametrize("shape", ["disc", "bar", "ell", "rough"])
def test_one_part_stays_one(shape: str) -> None:
    mask = discs((100, 60, 40))
    if shape == "bar":
        mask[:] = False
        mask[50:70, 10:190] = True
    if shape == "ell":
        mask[:] = False
        mask[20:110, 20:50] = True
        mask[80:110, 20:120] = True
    if shape == "rough":
        mask ^= np.random.default_rng(1).random(mask.shape) < 0.002
        mask &= discs((100, 60, 42))
    assert len(split_objects(mask, 0.005, separate_touching=True)[0]) == 1


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (1, 1), (5, 5)])
def test_an_empty_mask_has_no_objects(shape: tuple[int, int], separate: bool) -> None:
    objects, labels = split_objects(np.zeros(shape, bool), 0.1, separate)
    assert objects == []
    assert labels.shape == shape


def test_a_full_mask_is_one_object() -> None:
    objects, _ = split_objects(np.ones((30, 50), bool), 0.1, separate_touching=True)
    assert [(one.bbox, one.area_px) for one in objects] == [((0, 0, 50, 30), 1500)]
