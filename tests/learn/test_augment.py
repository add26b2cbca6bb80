"""Augmentation: within its limits, the same for picture and truth, and repeatable."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.learn.augment import (
    Light,
    MaskBatches,
    Movement,
    PlacedWindows,
    affine,
    moved,
    moved_truth,
    placed,
    relit,
    shrunk,
)
from edge.learn.labels import LabelledPlane
from edge.preprocess import TileSpec
from edge.types import FloatImage

STILL, SAME_LIGHT = Movement(), Light()
TILES = TileSpec(size_px=32, keep_px=24, step_px=24)


def disc(height: int = 60, width: int = 90, radius: float = 14) -> FloatImage:
    rows, columns = np.ogrid[:height, :width]
    return ((rows - 25) ** 2 + (columns - 50) ** 2 <= radius**2).astype(np.float32)


def labelled(seed: int = 0, height: int = 60, width: int = 90) -> LabelledPlane:
    truth = disc(height, width)
    noise = np.random.default_rng(seed).normal(0, 0.02, truth.shape)
    plane = np.clip(0.2 + 0.5 * truth + noise, 0, 1)
    # a second class beside the foreground
    return LabelledPlane(plane.astype(np.float16), (truth.astype(np.uint8) | 2), label=1)


@given(st.floats(0, 180), st.floats(0, 30), st.booleans(), st.integers(0, 1000))
def test_nothing_is_turned_or_shifted_beyond_the_limits(
    degrees: float, shift_px: float, flips: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = affine((60, 90), Movement(degrees, shift_px, flips), rng)
    linear = matrix[:, :2]
    assert abs(np.linalg.det(linear)) == pytest.approx(1)  # neither enlarged nor sheared
    if not flips:
        assert linear[0, 0] >= math.cos(math.radians(degrees)) - 1e-9
    centre = np.array([44.5, 29.5])
    assert np.abs(linear @ centre + matrix[:, 2] - centre).max() <= shift_px + 1e-9


def test_without_limits_nothing_changes() -> None:
    rng = np.random.default_rng(0)
    plane = labelled()
    out = placed(plane, STILL, SAME_LIGHT, rng)
    assert np.array_equal(out.plane, plane.plane)
    assert np.array_equal(out.truth, plane.truth)
    assert out.label == plane.label


@given(st.integers(0, 500))
def test_the_truth_moves_with_the_picture(seed: int) -> None:
    out = placed(labelled(), Movement(30, 10, flips=True), SAME_LIGHT, np.random.default_rng(seed))
    bright, foreground = out.plane > 0.45, (out.truth & 1).astype(bool)
    assert np.count_nonzero(bright ^ foreground) < 0.12 * np.count_nonzero(foreground)
    assert (out.truth & 2 == 2).all()  # the other class's bit is neither lost nor mixed


@pytest.mark.parametrize("degrees", [-30, 45, 180])
def test_beyond_the_borders_the_plane_is_mirrored_not_black(degrees: float) -> None:
    plane = np.full((40, 60), 0.4, np.float32)
    matrix = cv2.getRotationMatrix2D((29.5, 19.5), degrees, 1.0)
    np.testing.assert_allclose(moved(plane, matrix), 0.4, atol=1e-5)
    assert (moved_truth(np.full((40, 60), 5, np.uint8), matrix) == 5).all()


def test_half_a_turn_is_both_mirrors() -> None:
    plane = np.random.default_rng(1).random((20, 30), np.float32)
    matrix = np.array([[-1.0, 0, 29], [0, -1, 19]])
    np.testing.assert_allclose(moved(plane, matrix), plane[::-1, ::-1], atol=1e-5)


@given(st.floats(0, 0.9), st.floats(0, 3), st.floats(0, 1), st.integers(0, 100))
def test_relit_planes_stay_planes(gain: float, gamma: float, noise: float, seed: int) -> None:
    plane = np.random.default_rng(2).random((12, 17), np.float32)
    out = relit(plane, Light(gain, gamma, noise), np.random.default_rng(seed))
    assert out.dtype == np.float32
    assert out.shape == plane.shape
    assert np.isfinite(out).all()
    assert 0 <= out.min() <= out.max() <= 1


@given(st.integers(0, 100))
def test_gain_and_gamma_keep_the_order_of_grey_levels(seed: int) -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None]
    out = relit(ramp, Light(gain=0.3, gamma=1.0), np.random.default_rng(seed))
    assert (np.diff(out) >= 0).all()


@pytest.mark.parametrize("make", [lambda: Movement(-1), lambda: Movement(200), lambda: Movement(0, math.inf),
                                  lambda: Light(gain=1.0), lambda: Light(noise=-0.1)])  # fmt: skip
def test_limits_that_make_no_sense_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="needs"):
        make()


def windows(movement: Movement = STILL, light: Light = SAME_LIGHT, seed: int = 0) -> PlacedWindows:
    planes = [np.random.default_rng(k).random((50, 70), np.float32).astype(np.float16) for k in range(3)]
    return PlacedWindows(planes, TILES, 32, 4, movement, light, seed)


def test_windows_that_are_not_moved_are_pieces_of_the_padded_plane() -> None:
    batches = windows()
    padded = [np.pad(plane.astype(np.float32), TILES.margin_px, mode="reflect") for plane in batches.planes]
    pieces = [np.lib.stride_tricks.sliding_window_view(p, (32, 32)).reshape(-1, 32, 32) for p in padded]
    for window in batches.at(0).numpy()[:, 0]:
        assert any((of_one == window).all(axis=(1, 2)).any() for of_one in pieces)


def test_turned_windows_of_a_flat_plane_have_no_seams() -> None:
    flat = PlacedWindows([np.full((40, 40), 0.5, np.float16)], TILES, 32, 8, Movement(180), SAME_LIGHT, 0)
    np.testing.assert_allclose(flat.at(0).numpy(), 0.5, atol=1e-5)


@pytest.mark.parametrize("kind", ["windows", "masks"])
def test_batches_depend_on_seed_and_step_only(kind: str) -> None:
    def batch(seed: int, step: int) -> np.ndarray:  # type: ignore[type-arg]
        movement, light = Movement(10, 3, flips=True), Light(0.1, 0.2, 0.05)
        if kind == "windows":
            return windows(movement, light, seed).at(step).numpy()
        planes = [labelled(k) for k in range(5)]
        return MaskBatches(planes, 32, 4, movement, light, seed).at(step)[0].numpy()

    assert np.array_equal(batch(1, 5), batch(1, 5))
    assert not np.array_equal(batch(1, 5), batch(1, 6))
    assert not np.array_equal(batch(1, 5), batch(2, 5))


def test_mask_batches_are_squares_whatever_the_frames_were() -> None:
    planes = [labelled(0), labelled(1, 200, 120), labelled(2, 30, 80)]
    inputs, masks = MaskBatches(planes, 64, 6, Movement(15, 4), Light(0.1), 3).at(0)
    assert inputs.shape == masks.shape == (6, 1, 64, 64)
    assert inputs.dtype == masks.dtype == inputs.float().dtype
    assert 0 <= float(masks.min()) < float(masks.max()) <= 1


def test_masks_are_where_the_foreground_is() -> None:
    inputs, masks = MaskBatches([labelled()], 48, 8, Movement(40, 6, flips=True), SAME_LIGHT, 3).at(0)
    bright, foreground = inputs.numpy() > 0.45, masks.numpy() > 0.5
    assert np.count_nonzero(bright ^ foreground) < 0.1 * np.count_nonzero(foreground)


def test_every_plane_is_seen_once_before_any_twice() -> None:
    planes = [
        LabelledPlane(np.full((8, 8), k / 10, np.float16), np.zeros((8, 8), np.uint8)) for k in range(10)
    ]
    batches = MaskBatches(planes, 8, 4, STILL, SAME_LIGHT, 0)
    seen = np.concatenate([batches.at(step)[0].numpy()[:, 0, 0, 0] for step in range(5)])
    for around in (seen[:10], seen[10:]):
        assert sorted(np.rint(around * 10)) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])


def test_shrunk_planes_learn_the_same() -> None:
    large = labelled(0, 240, 360)
    small = shrunk(large, 48)
    assert small.plane.shape == small.truth.shape == (48, 48)
    assert small.label == large.label
    for of_large, of_small in zip(
        MaskBatches([large], 48, 1, STILL, SAME_LIGHT, 0).at(0),
        MaskBatches([small], 48, 1, STILL, SAME_LIGHT, 0).at(0),
        strict=True,
    ):
        assert float((of_large - of_small).abs().mean()) < 0.01
