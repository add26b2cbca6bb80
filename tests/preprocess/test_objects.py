"""Objects of a mask: each pixel belongs to one, and they come in the same order every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
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


@given(bools)
def test_every_pixel_of_the_mask_has_one_label_and_boxes_are_tight(mask: Mask) -> None:
    objects, labels = split_objects(mask)
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


def test_parts_that_touch_are_one_object_and_none_of_it_is_left_out() -> None:
    mask = discs((50, 60, 20), (89, 60, 20))
    ((one,), labels) = split_objects(mask, min_area_ratio=0.1)
    assert one.area_px == mask.sum()
    assert np.array_equal(labels == 1, mask)


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    assert len(split_objects(np.eye(4, dtype=bool))[0]) == 1


def test_small_pieces_leave_the_labels_too() -> None:
    mask = discs((50, 60, 20))
    mask[5, 5] = True
    objects, labels = split_objects(mask, min_area_ratio=0.001)
    assert [one.bbox for one in objects] == [(30, 40, 41, 41)]
    assert labels[5, 5] == 0


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (1, 1), (5, 5)])
def test_an_empty_mask_has_no_objects(shape: tuple[int, int]) -> None:
    objects, labels = split_objects(np.zeros(shape, bool), 0.1)
    assert objects == []
    assert labels.shape == shape


def test_a_full_mask_is_one_object() -> None:
    objects, _ = split_objects(np.ones((30, 50), bool), 0.1)
    assert [(one.bbox, one.area_px) for one in objects] == [((0, 0, 50, 30), 1500)]
