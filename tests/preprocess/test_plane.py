import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DataError
from edge.preprocess import Clahe, PreprocessSpec, prepare, to_plane
from edge.preprocess.clahe import equalise
from edge.types import Picture, Placement


def picture(pixels: np.ndarray, bits: int, low: float | None = None, high: float | None = None) -> Picture:
    return Picture(pixels, bits, 0.0 if low is None else low, 2.0**bits - 1 if high is None else high)


@pytest.fixture
def gray8() -> np.ndarray:
    rng = np.random.default_rng(1)
    return cv2.GaussianBlur(rng.integers(0, 256, (60, 80), np.uint8), (0, 0), 2)


@pytest.mark.parametrize("clahe", [None, Clahe()], ids=["plain", "clahe"])
def test_a_16_bit_frame_gives_the_plane_of_its_8_bit_equivalent(
    gray8: np.ndarray, clahe: Clahe | None
) -> None:
    spec = PreprocessSpec(clahe=clahe)
    plane8 = to_plane(picture(gray8, 8), spec)
    plane16 = to_plane(picture(gray8.astype(np.uint16) * 257, 16), spec)
    np.testing.assert_allclose(plane16, plane8, atol=1e-5)


@pytest.mark.parametrize("clahe", [None, Clahe()], ids=["plain", "clahe"])
def test_one_percent_of_the_scale_under_a_declared_window_gives_the_same_plane(
    gray8: np.ndarray, clahe: Clahe | None
) -> None:
    spec = PreprocessSpec(clahe=clahe)
    narrow = np.round(gray8.astype(np.float64) * 655 / 255).astype(np.uint16)
    plane = to_plane(picture(narrow, 16, 0, 655), spec)
    # half a step of 655 levels; CLAHE steepens it up to its clip limit, and pixels may change their bin
    tolerance = 0.5 / 655 * (2 * 9 if clahe else 1) + 1e-5
    assert np.abs(plane - to_plane(picture(gray8, 8), spec)).max() < tolerance


def test_a_value_range_of_the_recipe_goes_before_the_files_and_the_sources_before_both() -> None:
    pixels = np.full((4, 4), 100, np.uint16)
    spec = PreprocessSpec(value_range=(0, 400))
    assert to_plane(picture(pixels, 16), spec)[0, 0] == pytest.approx(0.25)
    assert to_plane(picture(pixels, 16), spec, (0, 200))[0, 0] == pytest.approx(0.5)


def test_scaling_never_follows_the_frames_own_extremes() -> None:
    dim = np.full((8, 8), 100, np.uint8)
    dim[0, 0] = 110
    plane = to_plane(picture(dim, 8), PreprocessSpec())
    assert plane.max() == pytest.approx(110 / 255)


def test_percentile_windowing_does_when_asked_to(gray8: np.ndarray) -> None:
    spec = PreprocessSpec(window="percentile", percentiles=(0, 100))
    plane = to_plane(picture(gray8 // 2, 8), spec)
    assert plane.min() == 0.0
    assert plane.max() == 1.0


def test_an_inverted_range_turns_the_picture_around(gray8: np.ndarray) -> None:
    plane = to_plane(picture(gray8, 8), PreprocessSpec())
    turned = to_plane(picture(gray8, 8, 255, 0), PreprocessSpec())
    np.testing.assert_allclose(turned, 1 - plane, atol=1e-6)


def test_an_inverted_range_stays_inverted_under_percentile_windowing(gray8: np.ndarray) -> None:
    spec = PreprocessSpec(window="percentile")
    straight, turned = to_plane(picture(gray8, 8), spec), to_plane(picture(gray8, 8, 255, 0), spec)
    np.testing.assert_allclose(turned, 1 - straight, atol=1e-5)


def test_grey_keeps_the_sub_levels_of_16_bits() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert len(np.unique(to_plane(picture(ramp, 16), PreprocessSpec()))) == 65536


@pytest.mark.parametrize(
    ("rule", "expected"), [("bt601", 0.299), ("bt709", 0.2126), ("mean", 1 / 3), ("red", 1.0), ("blue", 0.0)]
)
def test_colour_becomes_grey_by_the_declared_rule(rule: str, expected: float) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    plane = to_plane(picture(red, 8), PreprocessSpec.model_validate({"gray": rule}))
    np.testing.assert_allclose(plane, expected, atol=1e-6)


def test_pixels_that_are_not_finite_are_refused() -> None:
    pixels = np.array([[0.5, np.nan]], np.float32)
    with pytest.raises(DataError, match="not finite"):
        to_plane(Picture(pixels, 32, 0, 1), PreprocessSpec())


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12))
def test_clahe_stays_in_range_at_any_size(height: int, width: int, tiles: int) -> None:
    plane = np.random.default_rng(height + 100 * width).random((height, width), np.float32)
    out = equalise(plane, 9.0, tiles)
    assert out.shape == plane.shape
    assert out.min() >= 0.0
    assert out.max() <= 1.0 + 1e-5


def test_clahe_agrees_with_opencv_on_8_bits(gray8: np.ndarray) -> None:
    wide = cv2.resize(gray8, (240, 240))
    ours = equalise(wide.astype(np.float32) / 255, 9.0, 4) * 255
    theirs = cv2.createCLAHE(9.0, (4, 4)).apply(wide)
    # OpenCV hands the clipped excess out in whole counts and rounds; ours is exact
    assert np.abs(ours - theirs).mean() < 2.0


def test_a_clahe_that_would_clip_nothing_still_stretches_a_dull_frame() -> None:
    dull = np.linspace(0.4, 0.6, 10000, dtype=np.float32).reshape(100, 100)
    out = equalise(dull, 9.0, 1)
    assert out.max() - out.min() > 0.9


def test_the_digest_changes_with_every_value() -> None:
    digests = {
        PreprocessSpec().digest,
        PreprocessSpec(scale=0.5).digest,
        PreprocessSpec(clahe=Clahe()).digest,
        PreprocessSpec(illumination="median").digest,
    }
    assert len(digests) == 4


def test_a_padded_frame_keeps_its_shape_and_its_place() -> None:
    tall = np.full((60, 20), 200, np.uint8)
    spec = PreprocessSpec(size_px=(32, 32), fit="pad")
    prepared = prepare(picture(tall, 8), spec)
    assert prepared.plane.shape == (32, 32)
    columns = np.nonzero(prepared.plane.max(axis=0))[0]
    assert (columns.min(), columns.max()) == (10, 20)  # 20 × 32 / 60 = 11 columns, in the middle
    assert prepared.to_frame is not None
    place = Placement(prepared.to_frame, 20, 60)
    assert place.box((10, 0, 11, 32)) == (0, 0, 20, 60)
    assert place.box((10, 16, 6, 16)) == pytest.approx((0, 30, 11, 30), abs=1)


def test_steps_that_came_later_leave_the_digests_of_older_bundles_alone() -> None:
    shipped = json.loads((Path(__file__).parents[2] / "engines/demo/bundle.json").read_text())
    spec = PreprocessSpec.model_validate(shipped["preprocess"])
    assert spec.digest == shipped["preprocess_digest"]
    assert spec.model_copy(update={"fit": "pad"}).digest != spec.digest
