"""Masks: right on what has a part in it, and without a word on what has none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.errors import DataError
from edge.preprocess.foreground import (
    MeanMask,
    close,
    from_probability,
    k_means,
    masked,
    otsu,
    to_square,
    watershed,
    without_specks,
)
from edge.types import FloatImage, Mask

METHODS = {"otsu": otsu, "watershed": watershed, "k_means": k_means}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
bools = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


def disc(height: int = 120, width: int = 160, radius: float = 30.0) -> Mask:
    rows, columns = np.ogrid[:height, :width]
    return np.asarray((rows - height * 0.45) ** 2 + (columns - width * 0.55) ** 2 <= radius**2)


def iou(one: Mask, other: Mask) -> float:
    """Of two masks that are not both empty."""
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))


def picture(mask: Mask, inside: float = 0.7, outside: float = 0.3, noise: float = 0.03) -> FloatImage:
    rng = np.random.default_rng(5)
    clean = np.where(mask, inside, outside)
    return np.clip(clean + rng.normal(0, noise, mask.shape), 0, 1).astype(np.float32)


@methods
@pytest.mark.parametrize(("inside", "outside", "named"), [(0.7, 0.3, "bright"), (0.2, 0.6, "dark")])
def test_a_part_is_found_whether_it_is_brighter_or_darker(method, inside, outside, named) -> None:  # type: ignore[no-untyped-def]
    plane = picture(disc(), inside, outside)
    assert iou(method(plane, polarity="auto"), disc()) > 0.97
    assert iou(method(plane, polarity=named), disc()) > 0.97


@methods
def test_polarity_decides_against_what_the_border_says(method) -> None:  # type: ignore[no-untyped-def]
    plane = picture(disc(), 0.7, 0.3)
    assert iou(method(plane, polarity="dark"), ~disc()) > 0.97


@methods
def test_grey_levels_far_below_full_scale_make_no_difference(method) -> None:  # type: ignore[no-untyped-def]
    plane = picture(disc()) * np.float32(0.02)  # a dark frame in 16 bits
    assert iou(method(plane), disc()) > 0.97


@methods
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 30), (0, 0), (0, 5)])
def test_a_flat_plane_has_no_foreground(method, shape, value) -> None:  # type: ignore[no-untyped-def]
    mask = method(np.full(shape, value, np.float32))
    assert mask.shape == shape
    assert mask.dtype == bool
    assert not mask.any()


@methods
@given(
    plane=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.floats(0, 1, width=32) | st.sampled_from([float("nan"), float("inf")]),
    ),
    polarity=st.sampled_from(["bright", "dark", "auto"]),
)
def test_no_plane_raises_and_no_mask_is_of_another_size(method, plane, polarity) -> None:  # type: ignore[no-untyped-def]
    mask = method(plane, polarity=polarity)
    assert mask.shape == plane.shape
    assert mask.dtype == bool


def test_three_clusters_find_a_part_of_two_greys_that_two_clusters_halve() -> None:
    part = disc(radius=40)
    rows = np.arange(120)[:, None]
    plane = picture(part, 0.55, 0.05, noise=0.01)
    plane[part & (rows < 50)] += np.float32(0.4)
    assert iou(k_means(plane, 3), part) > 0.97


def test_clusters_do_not_depend_on_what_was_drawn_before() -> None:
    plane = picture(disc(), noise=0.2)
    first = k_means(plane, 4)
    cv2.setRNGSeed(12345)
    assert np.array_equal(k_means(plane, 4), first)


@pytest.mark.parametrize("clusters", [1, 5])
def test_k_means_has_two_to_four_clusters(clusters: int) -> None:
    with pytest.raises(ValueError, match="2 to 4"):
        k_means(picture(disc()), clusters)


def test_watershed_follows_the_edge_where_the_threshold_is_off() -> None:
    """A part that fades into its background: the threshold takes a piece of the ramp, the flood does not."""
    part = disc(radius=35)
    ramp = np.linspace(0.0, 0.42, 160)[None, :].repeat(120, 0)
    plane = np.where(part, 0.85, ramp).astype(np.float32)
    assert iou(watershed(plane, "bright"), part) >= iou(otsu(plane, "bright"), part)
    assert iou(watershed(plane, "bright"), part) > 0.97


def test_watershed_keeps_a_small_part_beside_a_large_one() -> None:
    part = disc(radius=40)
    part[5:13, 5:13] = True
    assert watershed(picture(part))[6:12, 6:12].mean() > 0.9


@given(bools, st.integers(0, 6), st.integers(1, 3))
def test_closing_only_adds_and_closing_again_adds_nothing(mask: Mask, side: int, times: int) -> None:
    once = close(mask, side, times)
    assert not (mask & ~once).any()
    assert np.array_equal(close(once, side, times), once)


def test_closing_fills_a_gap_as_wide_as_it_says_and_no_wider() -> None:
    mask = np.ones((40, 60), bool)
    mask[:, 20:30] = False
    assert close(mask, 5, 3)[20].all()
    assert not close(mask, 5, 1)[20].all()


def test_closing_does_not_grow_against_the_border() -> None:
    mask = np.zeros((30, 30), bool)
    mask[10:20, 3:12] = True
    assert np.array_equal(close(mask), mask)


def test_specks_go_and_pieces_at_the_limit_stay() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0, 0:2] = True
    mask[5, 0:3] = True
    assert without_specks(mask, 0.03).sum() == 3


@pytest.mark.parametrize("operation", [close, lambda m: without_specks(m, 0.1)])
@pytest.mark.parametrize("value", [True, False])
def test_masks_without_an_outline_stay_as_they_are(operation, value) -> None:  # type: ignore[no-untyped-def]
    for shape in [(1, 1), (7, 3), (0, 4)]:
        mask = np.full(shape, value)
        assert np.array_equal(operation(mask), mask)


@pytest.mark.parametrize("shape", [(120, 160), (1200, 1600), (33, 47)])
def test_a_mask_through_the_networks_square_comes_back(shape: tuple[int, int]) -> None:
    truth = disc(*shape, radius=min(shape) * 0.3)
    back = from_probability(to_square(truth, 512), shape)
    assert back.shape == shape
    assert iou(back, truth) > 0.98


def test_probabilities_are_foreground_above_the_threshold_only() -> None:
    probability = np.array([[0.5, 0.51, 0.9], [0.49, np.nan, 0.0]], np.float32)
    assert from_probability(probability, (2, 3)).tolist() == [[False, True, True], [False, False, False]]
    assert from_probability(probability, (2, 3), 0.8).sum() == 1


def test_masked_is_the_value_outside() -> None:
    plane, mask = picture(disc()), disc()
    out = masked(plane, mask, 0.25)
    assert out.dtype == np.float32
    assert np.array_equal(out[mask], plane[mask])
    assert (out[~mask] == np.float32(0.25)).all()


def test_a_mask_of_another_size_names_both_sizes() -> None:
    with pytest.raises(DataError, match="160 × 120 px, the plane 8 × 4 px"):
        masked(np.zeros((4, 8), np.float32), disc())


@given(st.lists(hnp.arrays(bool, (5, 7)), min_size=1, max_size=8))
def test_the_streamed_mean_is_the_mean(masks: list[Mask]) -> None:
    mean = MeanMask()
    for mask in masks:
        mean.add(mask)
    np.testing.assert_allclose(mean.mean(), np.mean(masks, axis=0), atol=1e-6)
    assert mean.count == len(masks)
    assert not mean.mask(1.0).any()


def test_the_mean_of_masks_of_two_sizes_is_refused() -> None:
    mean = MeanMask()
    mean.add(disc())
    with pytest.raises(DataError, match="mask 2 is 5 × 4 px, those before 160 × 120 px"):
        mean.add(np.zeros((4, 5), bool))
    assert mean.count == 1


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no mask"):
        MeanMask().mean()
