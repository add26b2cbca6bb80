"""Masks, areas and defects of several classes, and the Dice that they are measured by."""

from __future__ import annotations

import math
import time
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge.judge import classes
from edge.judge.classes import ClassCounts, ClassSpec, Masks, find_classes, largest_level
from edge.types import MAX_DEFECTS, Defect, FloatImage, Placement

SHAPE = (20, 30)
AS_IT_IS = Placement.scaled(SHAPE, 30, 20)


def planes(*regions: tuple[int, slice, slice, float], classes: int = 2) -> FloatImage:
    """Probabilities 0.1 everywhere but in the regions (class, rows, columns, probability)."""
    layers = np.full((classes, *SHAPE), 0.1, np.float32)
    for k, rows, columns, probability in regions:
        layers[k, rows, columns] = probability
    return layers


def specs(*min_area_px: int) -> list[ClassSpec]:
    return [ClassSpec(f"class {k}", 0.5, area) for k, area in enumerate(min_area_px)]


def test_every_class_has_its_own_mask_area_and_defects() -> None:
    layers = planes((0, slice(2, 5), slice(3, 7), 0.9), (1, slice(4, 8), slice(5, 10), 0.75))
    found = find_classes(layers, specs(0, 0), AS_IT_IS)
    assert found.areas_px == {"class 0": 12, "class 1": 20}
    assert [(d.kind, d.bbox, d.area_px) for d in found.defects] == [
        ("class 0", (3, 2, 4, 3), 12),
        ("class 1", (5, 4, 5, 4), 20),
    ]
    assert [d.score for d in found.defects] == pytest.approx([1.8, 1.5])
    assert np.array_equal(found.masks, layers > 0.5)
    assert found.masks[:, 4, 5].all()  # both classes at once


def test_classes_have_thresholds_of_their_own() -> None:
    layers = planes((0, slice(2, 5), slice(3, 7), 0.4), (1, slice(2, 5), slice(3, 7), 0.4))
    found = find_classes(layers, [ClassSpec("faint", 0.3), ClassSpec("strong", 0.5)], AS_IT_IS)
    assert found.areas_px == {"faint": 12, "strong": 0}


def test_specks_are_no_defects_and_count_in_no_area() -> None:
    layers = planes((0, slice(0, 1), slice(0, 3), 0.99), (0, slice(10, 12), slice(10, 12), 0.6))
    found = find_classes(layers, specs(4, 0), AS_IT_IS)
    assert [d.area_px for d in found.defects] == [4]
    assert found.areas_px["class 0"] == 4
    assert found.masks[0].sum() == 4


def test_pixels_that_touch_by_a_corner_are_one_region() -> None:
    layers = planes()
    for k in range(6):
        layers[0, 5 + k, 5 + k] = 0.9
    assert [d.area_px for d in find_classes(layers, specs(6, 0), AS_IT_IS).defects] == [6]


def test_defects_and_areas_are_in_the_frames_own_pixels() -> None:
    layers = planes((0, slice(2, 5), slice(3, 7), 0.9))
    found = find_classes(layers, specs(12, 0), Placement.scaled(SHAPE, 90, 40))  # 3 × 2 frame pixels each
    (defect,) = found.defects
    assert defect.bbox == (9, 4, 12, 6)
    assert defect.area_px == found.areas_px["class 0"] == 72
    assert defect.area_ratio == pytest.approx(12 / 600)


@pytest.mark.parametrize("times", [0.5, 1, 3])
def test_a_speck_is_as_many_pixels_of_the_plane_whatever_the_frame(times: float) -> None:
    layers = planes((0, slice(2, 5), slice(3, 7), 0.9))
    place = Placement.scaled(SHAPE, int(30 * times), int(20 * times))
    assert find_classes(layers, specs(12, 0), place).defects
    assert not find_classes(layers, specs(13, 0), place).defects
    assert (largest_level(layers[0], 12) > 0.5, largest_level(layers[0], 13) > 0.5) == (True, False)


def test_a_good_frame_has_every_class_at_nothing() -> None:
    found = find_classes(planes(), specs(0, 0), AS_IT_IS)
    assert found.areas_px == {"class 0": 0, "class 1": 0}
    assert not found.defects
    assert not found.masks.any()


def test_the_list_of_defects_is_bounded_and_keeps_the_strongest() -> None:
    layers = np.full((1, 40, 40), 0.1, np.float32)
    layers[0, ::2, ::2] = np.linspace(0.55, 0.95, 400).reshape(20, 20)
    found = find_classes(layers, specs(0), Placement.scaled((40, 40), 40, 40))
    assert len(found.defects) == 50
    assert found.defects[0].score == pytest.approx(0.95 / 0.5)
    assert found.areas_px["class 0"] == 400


def test_planes_and_classes_must_agree() -> None:
    with pytest.raises(ValueError, match="2 planes for 1 classes"):
        find_classes(planes(), specs(0), AS_IT_IS)


PROBABILITIES = arrays.arrays(np.float32, (6, 7), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))


@given(PROBABILITIES, st.sampled_from([0.1, 0.25, 0.6, 0.75]), st.integers(1, 50))
def test_level_is_above_a_threshold_exactly_if_a_defect_is_found(
    plane: FloatImage, threshold: float, area: int
) -> None:
    found = find_classes(plane[None], [ClassSpec("any", threshold, area)], Placement.scaled((6, 7), 7, 6))
    assert (largest_level(plane, area) > threshold) == bool(found.defects)


def levels_exactly(plane: FloatImage, area: int) -> float:
    """Every level of the plane tried."""
    reached = [
        level
        for level in np.unique(plane)
        if cv2.connectedComponentsWithStats((plane >= level).astype(np.uint8))[2][1:, 4].max() >= area
    ]
    return float(max(reached, default=0.0))


@given(
    arrays.arrays(np.float32, (9, 13), elements=st.floats(0, 1, width=32)),
    st.integers(1, 117),
    st.sampled_from([1.0, 1e-6, 1e6]),
)
def test_level_is_never_too_high_and_too_low_by_less_than_its_quantum(
    plane: FloatImage, area: int, unit: float
) -> None:
    plane *= np.float32(unit)
    exact, found = levels_exactly(plane, area), largest_level(plane, area)
    assert found <= exact
    assert exact - found <= float(np.ptp(plane)) / 1024
    assert found in plane


@pytest.mark.parametrize("area", [2, 30, 64, 1000])
def test_level_of_a_large_plane_is_within_its_quantum(area: int) -> None:
    rng = np.random.default_rng(area)
    plane = cv2.GaussianBlur(rng.random((80, 100), np.float32), (0, 0), 1.5).round(3)
    exact, found = levels_exactly(plane, area), largest_level(plane, area)
    assert exact - float(np.ptp(plane)) / 1024 <= found <= exact


@pytest.mark.parametrize("power", [1, 40])  # 40: nearly all of it is far below the highest
def test_level_takes_a_bounded_number_of_looks_at_the_plane(
    power: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    components = cv2.connectedComponents

    def counted_components(*given: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        return components(*given, **options)

    monkeypatch.setattr(cv2, "connectedComponents", counted_components)
    largest_level(np.random.default_rng(0).random((300, 300), np.float32) ** power, 64)
    assert 0 < looks <= 10


def region_by_region(plane: FloatImage, spec: ClassSpec, place: Placement) -> tuple[list[Defect], int]:
    """Each region by itself, all of them: what `find_classes` must give of one class."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((plane > spec.threshold).astype(np.uint8))
    defects = []
    for i in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[i])
        if area >= spec.min_area_px:
            peak = float(plane[labels == i].max())
            area_px = place.area_px(area, (x, y, w, h))
            box = place.box((x, y, w, h))
            defects.append(Defect(spec.name, area_px, area / plane.size, box, peak / spec.threshold))
    defects.sort(key=lambda defect: (-defect.score, defect.bbox))
    return defects[:MAX_DEFECTS], sum(defect.area_px for defect in defects)


@given(
    arrays.arrays(
        np.float32, (25, 30), elements=st.sampled_from([0.0, 0.25, 0.6, 0.75, 1.0]), fill=st.just(0)
    ),
    st.integers(0, 4),
    st.sampled_from([(30, 25), (90, 50), (15, 10)]),
)
def test_defects_and_areas_are_those_of_the_regions_one_by_one(
    plane: FloatImage, area: int, frame_px: tuple[int, int]
) -> None:
    spec, place = ClassSpec("any", 0.5, area), Placement.scaled((25, 30), *frame_px)
    found = find_classes(plane[None], [spec], place)
    defects, area_px = region_by_region(plane, spec, place)
    assert list(found.defects) == defects
    assert found.areas_px["any"] == area_px


@pytest.mark.slow
def test_a_plane_full_of_speckle_is_read_in_good_time() -> None:
    plane = np.random.default_rng(0).random((1, 2000, 2000), np.float32) ** 4
    start = time.perf_counter()
    find_classes(plane, [ClassSpec("any", 0.5, 0)], Placement.scaled((2000, 2000), 2000, 2000))
    assert time.perf_counter() - start < 2.0


def test_only_the_defects_that_are_listed_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def counted_defect(*facts: Any, **named: Any) -> Defect:
        nonlocal made
        made += 1
        return Defect(*facts, **named)

    monkeypatch.setattr(classes, "Defect", counted_defect)
    plane = np.zeros((1, 100, 100), np.float32)
    plane[0, ::2, ::2] = 0.9
    found = find_classes(plane, specs(0), Placement.scaled((100, 100), 100, 100))
    assert (made, len(found.defects)) == (MAX_DEFECTS, MAX_DEFECTS)


def test_level_of_one_pixel_is_the_maximum() -> None:
    plane = np.random.default_rng(0).random((9, 9), np.float32)
    assert largest_level(plane, 1) == plane.max()
    assert largest_level(plane, 82) == 0.0


def counted(*frames: tuple[Masks, Masks]) -> dict[str, float]:
    counts = ClassCounts(["crack"])
    for found, truth in frames:
        counts.add(found, truth)
    return counts.figures()["crack"]


def masks(*pixels: int) -> Masks:
    flat = np.zeros((1, 4, 4), bool)
    flat.reshape(-1)[list(pixels)] = True
    return flat


def test_dice_and_iou_are_those_of_their_definitions() -> None:
    figures = counted((masks(0, 1, 2), masks(1, 2, 3, 4)), (masks(5), masks(5)))
    assert figures["dice"] == pytest.approx(2 * 3 / (4 + 5))
    assert figures["iou"] == pytest.approx(3 / 6)
    assert figures["dice_per_frame"] == pytest.approx((2 * 2 / 7 + 1) / 2)
    assert figures["iou_per_frame"] == pytest.approx((2 / 5 + 1) / 2)
    assert (figures["area_px"], figures["found_px"]) == (5, 4)


def test_a_good_frame_without_findings_is_perfect_and_one_with_is_nothing() -> None:
    assert counted((masks(), masks()))["dice_per_frame"] == 1.0
    assert counted((masks(3), masks()))["dice_per_frame"] == 0.0
    assert counted((masks(), masks(3)))["iou_per_frame"] == 0.0


def test_good_frames_do_not_raise_the_dice_of_defect_frames() -> None:
    half = masks(0), masks(0, 1, 2)
    figures = counted(half, *[(masks(), masks())] * 98)
    assert figures["dice_per_defect_frame"] == figures["dice"] == pytest.approx(0.5)
    assert figures["dice_per_frame"] == pytest.approx((0.5 + 98) / 99)
    assert figures["defect_frames"] == 1


def test_a_class_that_is_nowhere_has_no_pooled_figures() -> None:
    figures = counted((masks(), masks()))
    assert math.isnan(figures["dice"])
    assert math.isnan(figures["iou_per_defect_frame"])
    assert all(math.isnan(value) for value in (counted()["dice"], counted()["dice_per_frame"]))


def test_classes_are_counted_apart() -> None:
    counts = ClassCounts(["a", "b"])
    counts.add(np.concatenate((masks(0), masks())), np.concatenate((masks(0), masks(1))))
    assert [counts.figures()[name]["dice"] for name in "ab"] == [1.0, 0.0]
