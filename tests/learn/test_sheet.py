"""The contact sheet: every window at its size, labels outlined, the same each time."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge.learn.anomalies.batches import AnomalyBatches, AnomalyPlan
from edge.learn.anomalies.fills import DefectCrop
from edge.learn.anomalies.sheet import LABEL, MARGIN_PX, contact_page, contact_sheet, drawn_sheet, example


def batches(window_px: int = 96, **changes: object) -> AnomalyBatches:
    rng = np.random.default_rng(0)
    planes = [
        (0.5 + 0.1 * cv2.GaussianBlur(rng.standard_normal((200, 220)), (0, 0), 2)).astype(np.float16)
        for _ in range(3)
    ]
    return replace(AnomalyBatches(planes, window_px, 4, AnomalyPlan(), 0), **changes)  # type: ignore[arg-type]


def test_it_has_rows_and_columns_of_windows_and_outlines_labels() -> None:
    picture = cv2.imdecode(
        np.frombuffer(contact_sheet(batches(), rows=2, columns=5), np.uint8), cv2.IMREAD_COLOR
    )
    assert picture is not None
    assert picture.shape[0] > 2 * 3 * 96 + 2 * 96
    assert picture.shape[1] >= 5 * 96 + 2 * MARGIN_PX
    assert np.count_nonzero((picture == LABEL).all(axis=2)) > 100


def test_an_example_is_a_good_window_and_what_is_painted_on_it() -> None:
    for number in range(6):
        window, painted = example(batches(), number)
        assert window.shape == painted.window.shape == painted.label.shape == (96, 96)
        changed = np.abs(painted.window - window) > 0.1
        assert not (changed & ~painted.label).any()
        assert len(painted.kinds) == 0 or painted.label.any()


def test_the_same_batches_give_the_same_sheet_and_other_seeds_others() -> None:
    first = contact_sheet(batches(), 1, 3)
    assert first == contact_sheet(batches(), 1, 3)
    assert first != contact_sheet(batches(seed=1), 1, 3)


@pytest.mark.parametrize(("window_px", "shown_px"), [(32, 96), (128, 128), (256, 192)])
def test_windows_are_shown_at_a_size_that_can_be_read(window_px: int, shown_px: int) -> None:
    picture = drawn_sheet(batches(window_px), 1, 8)
    assert picture.shape[1] >= 8 * shown_px
    assert picture.shape[0] < 5 * shown_px + 250


def test_real_defects_are_shown_where_there_are_any() -> None:
    cover = np.zeros((40, 60), np.float32)
    cover[10:20, 20:30] = 1
    crops = [DefectCrop(np.full((40, 60), 0.3, np.float32), cover)]
    without, with_crops = (drawn_sheet(batches(crops=c), 1, 3) for c in ((), crops))
    assert with_crops.shape[0] > without.shape[0] + 96


def test_the_page_is_self_contained_and_says_how_often_each_occurs() -> None:
    made = batches()
    text = contact_page(made, 1, 2)
    assert "data:image/png;base64," in text
    assert "http" not in text
    for name in (*made.plan.mix.shapes, *made.plan.mix.fills):
        assert f"<td>{name}</td>" in text
