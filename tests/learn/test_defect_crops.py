"""Crops of real defects: whole, with their surroundings, and planted as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.dataset import Unreadable
from edge.decode import Limits
from edge.learn.anomalies.fills import DefectCrop, planted_defect
from edge.learn.anomalies.mix import AnomalyMix, paint
from edge.learn.defect_crops import LEAST_PX, MARGIN_PX, crops_of, given_crops, whole_crop
from edge.learn.labels import LabelledPlane
from edge.learn.specimens import Reading
from edge.preprocess import PreprocessSpec
from edge.testing import write_frame


def labelled(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (80, 100)) -> LabelledPlane:
    """Grey 0.5, with a defect of 0.8 in each box (x, y, w, h)."""
    plane, truth = np.full(shape, 0.5, np.float16), np.zeros(shape, np.uint8)
    for k, (x, y, w, h) in enumerate(boxes):
        plane[y : y + h, x : x + w], truth[y : y + h, x : x + w] = 0.8, 1 << k % 2
    return LabelledPlane(plane, truth, 1)


def test_every_defect_is_a_crop_with_what_lies_around_it() -> None:
    crops = crops_of([labelled((10, 20, 6, 4), (60, 50, 12, 9)), labelled()], 64)
    assert [crop.cover.shape for crop in crops] == [
        (9 + 2 * MARGIN_PX, 12 + 2 * MARGIN_PX),
        (4 + 2 * MARGIN_PX, 6 + 2 * MARGIN_PX),
    ]
    for crop in crops:
        assert np.allclose(crop.window[crop.cover > 0], 0.8, atol=1e-3)
        assert np.allclose(crop.window[crop.cover == 0], 0.5, atol=1e-3)


def test_a_defect_at_the_border_has_less_around_it_and_specks_are_noise() -> None:
    (crop,) = crops_of([labelled((0, 0, 5, 5), (50, 50, 1, LEAST_PX - 1))], 64)
    assert crop.cover.shape == (5 + MARGIN_PX, 5 + MARGIN_PX)


@given(st.integers(1, 70), st.integers(1, 90), st.integers(8, 40))
@settings(max_examples=60)
def test_pieces_of_a_large_defect_are_all_of_it_and_fit(h: int, w: int, most_px: int) -> None:
    crops = crops_of([labelled((5, 5, w, h))], most_px)
    covered = sum(float(crop.cover.sum()) for crop in crops)
    assert covered <= h * w
    assert covered >= h * w - LEAST_PX * (1 + w // most_px) * (1 + h // most_px) or h * w < LEAST_PX
    assert all(max(crop.cover.shape) <= most_px + 2 * MARGIN_PX for crop in crops)


def test_a_neighbour_within_the_box_is_not_under_the_cover() -> None:
    crops = crops_of([labelled((10, 20, 6, 4), (18, 20, 4, 4))], 64)
    assert sorted(float(crop.cover.sum()) for crop in crops) == [16, 24]


def test_a_planted_defect_keeps_its_contrast_on_darker_ground() -> None:
    (crop,) = crops_of([labelled((30, 30, 14, 14))], 64)
    rng, window = np.random.default_rng(0), np.full((96, 96), 0.2, np.float32)
    for _ in range(20):
        cover, fill = planted_defect(rng, window, [crop])
        assert cover.shape == fill.shape == window.shape
        inside = cover > 0.99
        if inside.sum() > 20:
            assert float(np.median(fill[inside])) == pytest.approx(0.5, abs=0.02)


def test_real_defects_are_planted_as_often_as_the_mix_says_and_labelled() -> None:
    (crop,) = crops_of([labelled((30, 30, 14, 14))], 64)
    window, donors = np.full((96, 96), 0.3, np.float32), [np.full((96, 96), 0.3, np.float32)]
    rng = np.random.default_rng(0)
    always, never = AnomalyMix(planted=1.0, second=0), AnomalyMix(planted=0.0, second=0)
    for _ in range(20):
        painted = paint(window, rng, always, donors, [crop])
        if not painted.kinds:
            continue  # all of it beyond the border
        assert painted.kinds[0][1].startswith("real-defect")
        assert painted.label.any()
        assert all("real-defect" not in fill for _, fill in paint(window, rng, never, donors, [crop]).kinds)


def test_without_crops_nothing_is_drawn_otherwise_than_before() -> None:
    window = np.random.default_rng(5).random((64, 64), np.float32)
    one, other = (
        paint(window, np.random.default_rng(1), AnomalyMix(planted=share), [window]) for share in (0.0, 0.9)
    )
    assert np.array_equal(one.window, other.window)
    assert np.array_equal(one.label, other.label)


def test_pictures_that_are_given_are_crops_at_the_planes_scale(tmp_path: Path) -> None:
    write_frame(tmp_path / "a.png", size=(40, 30))
    write_frame(tmp_path / "b" / "c.png", size=(24, 20))
    (tmp_path / "d.png").write_bytes(b"no image")
    unreadable: list[Unreadable] = []
    how = Reading(PreprocessSpec(scale=0.5), Limits(10_000, 1), "none", ())
    crops = given_crops(tmp_path, how, unreadable)
    assert sorted(crop.window.shape for crop in crops) == [(10, 12), (15, 20)]
    assert [bad.path for bad in unreadable] == ["d.png"]


def test_a_picture_of_a_defect_is_one_crop() -> None:
    crop = whole_crop(np.full((20, 30), 0.7, np.float32))
    assert isinstance(crop, DefectCrop)
    assert 0.5 < float(crop.cover.mean()) < 0.8
    assert not crop.cover[0, 0]
