"""Painted defects: masks are exactly what changed, defects stay where they may be, seeds repeat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import DataError
from edge.simulate.anomalies import KINDS, MIN_AREA_PX, VISIBLE, Kind, perlin, plant, plant_several
from edge.types import FloatImage

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 10_000)


def surface(seed: int, shape: tuple[int, int] = (90, 120)) -> FloatImage:
    """A grey surface with clouds and grain."""
    rng = np.random.default_rng([seed, 1, 2])
    plane = rng.uniform(0.25, 0.75) + 0.2 * perlin(shape, 30, rng) + rng.normal(0, 0.02, shape)
    return np.asarray(np.clip(plane, 0, 1), np.float32)


@given(kind=kinds, seed=seeds)
@settings(max_examples=60)
def test_the_mask_is_exactly_what_changed_and_each_of_it_can_be_seen(kind: Kind, seed: int) -> None:
    plane = surface(seed)
    before = plane.copy()
    found = plant(plane, np.random.default_rng(seed), kind)
    assert np.array_equal(plane, before), "the good plane was painted over"
    assert np.array_equal(found.plane != plane, found.mask)
    assert np.abs(found.plane - plane)[found.mask].min() >= VISIBLE
    assert MIN_AREA_PX <= np.count_nonzero(found.mask) < plane.size / 4
    assert found.plane.dtype == np.float32
    assert found.plane.min() >= 0
    assert found.plane.max() <= 1


@given(kind=kinds, seed=seeds)
@settings(max_examples=40)
def test_defects_stay_on_the_part(kind: Kind, seed: int) -> None:
    region = np.zeros((90, 120), np.bool_)
    region[20:70, 30:80] = True
    found = plant(surface(seed), np.random.default_rng(seed), kind, region)
    assert found.mask.any()
    assert not (found.mask & ~region).any()


@given(kind=kinds, seed=seeds)
@settings(max_examples=20)
def test_a_seed_repeats_its_defect_and_another_does_not(kind: Kind, seed: int) -> None:
    plane = surface(0)
    first, again, other = (plant(plane, np.random.default_rng(s), kind) for s in (seed, seed, seed + 1))
    assert np.array_equal(first.plane, again.plane)
    assert not np.array_equal(first.plane, other.plane)


@given(kind=kinds, seed=seeds, height=st.integers(8, 40), width=st.integers(8, 40), level=st.floats(0.0, 1.0))
@settings(max_examples=80)
def test_small_and_extreme_frames_give_a_defect_or_an_error_for_people(
    kind: Kind, seed: int, height: int, width: int, level: float
) -> None:
    plane = np.full((height, width), level, np.float32)
    try:
        found = plant(plane, np.random.default_rng(seed), kind)
    except DataError:  # any other error fails the test
        return
    assert np.array_equal(found.plane != plane, found.mask)


def test_darkening_kinds_cannot_be_seen_on_black() -> None:
    with pytest.raises(DataError, match="cannot be seen"):
        plant(np.zeros((64, 64), np.float32), np.random.default_rng(0), "pit")


def test_an_empty_region_is_refused() -> None:
    with pytest.raises(DataError, match="region"):
        plant(surface(0), np.random.default_rng(0), "pit", np.zeros((90, 120), np.bool_))


def test_the_mask_of_several_defects_covers_all_that_differs() -> None:
    plane = surface(3)
    found = plant_several(plane, np.random.default_rng(3), KINDS)
    assert np.array_equal(found.plane != plane, found.mask)
    one = plant(plane, np.random.default_rng(3), KINDS[0])
    assert np.count_nonzero(found.mask) > np.count_nonzero(one.mask)


def test_blend_shows_the_texture_of_the_donor() -> None:
    stripes = np.tile(np.float32([0.1, 0.9] * 60), (90, 1))
    flat = np.full((90, 120), 0.5, np.float32)
    found = plant(flat, np.random.default_rng(1), "blend", donor=stripes)
    inside = found.plane[found.mask]
    assert inside.min() < 0.4
    assert inside.max() > 0.6


@given(seed=seeds, cell=st.floats(3, 40))
@settings(max_examples=30)
def test_perlin_noise_is_zero_on_its_lattice_and_bounded(seed: int, cell: float) -> None:
    noise = perlin((40, 50), cell, np.random.default_rng(seed))
    assert noise[0, 0] == 0
    assert np.abs(noise).max() <= np.sqrt(0.5) + 1e-6
