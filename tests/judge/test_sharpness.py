"""Blur is seen, and nothing else is taken for it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.judge.calibration import Calibration, GoodFrame, calibrate
from edge.judge.judgement import judge, margins
from edge.judge.ranges import brightness, contrast, room
from edge.judge.ranges import sharpness as sharpness_range
from edge.judge.sharpness import sharpness
from edge.judge.statistics import summarise
from edge.types import FloatImage


def texture(seed: int = 0, size: int = 96) -> FloatImage:
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), 0.8)
    return np.asarray(np.clip(0.5 + 0.2 * fine, 0, 1), np.float32)


def blurred(plane: FloatImage, sigma: float = 2.0) -> FloatImage:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)


def value(plane: FloatImage) -> float:
    found = sharpness(plane)
    assert found is not None
    return found


def made_of(planes: list[FloatImage]) -> Calibration:
    good = []
    for plane in planes:
        score = summarise(plane, np.zeros_like(plane), "max", 4)
        height, width = plane.shape
        mean, std = score.plane_mean, score.plane_std
        good.append(GoodFrame("default", 0.01, 0.01, mean, std, height, width, sharpness=score.sharpness))
    return calibrate(good, recipe="r", bundle_sha256="b", statistic="max", false_reject=0.05, too_few="bound")


def test_blur_and_motion_take_it_down() -> None:
    plane = texture()
    along_x = np.asarray(cv2.blur(plane, (9, 1)), np.float32)
    along_y = np.asarray(cv2.blur(plane, (1, 9)), np.float32)
    assert value(blurred(plane)) < 0.6 * value(plane)
    assert value(along_x) < 0.6 * value(plane)
    assert value(along_y) < 0.6 * value(plane)


def test_light_and_contrast_do_not_move_it() -> None:
    plane = texture()
    assert value(plane * np.float32(0.5) + np.float32(0.1)) == pytest.approx(value(plane), rel=1e-4)


def test_planes_of_whole_numbers_are_as_sharp_as_those_of_fractions() -> None:
    eight = (texture() * 255).round().astype(np.uint8)
    assert value(np.asarray(eight / 255, np.float32)) == pytest.approx(sharpness(eight), rel=1e-5)
    sixteen = eight.astype(np.uint16) * 257
    assert sharpness(sixteen) == pytest.approx(sharpness(eight), rel=1e-5)


def test_rows_of_a_large_plane_speak_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = texture(size=600)
    whole = value(plane)
    monkeypatch.setattr("edge.judge.sharpness.SAMPLED_PX", 20_000)
    assert value(plane) == pytest.approx(whole, rel=0.02)


def test_only_the_foreground_counts() -> None:
    plane = texture()
    inside = np.zeros(plane.shape, bool)
    inside[20:70, 20:70] = True
    spoilt = np.where(inside, plane, np.float32(0.0))
    assert sharpness(spoilt, inside) == pytest.approx(value(plane), rel=0.1)
    assert sharpness(spoilt) != pytest.approx(value(plane), rel=0.1)


@pytest.mark.parametrize(
    ("plane", "foreground"),
    [
        (np.zeros((8, 8), np.float32), None),
        (np.full((64, 64), 0.5, np.float32), None),
        (np.full((64, 64), np.nan, np.float32), None),
        (texture(), np.zeros((96, 96), bool)),
    ],
    ids=["small", "flat", "nan", "nothing in sight"],
)
def test_what_has_no_sharpness_has_none(plane: FloatImage, foreground: np.ndarray | None) -> None:
    assert sharpness(plane, foreground) is None


def test_a_blurred_frame_is_not_called_ok() -> None:
    made = made_of([texture(seed) for seed in range(20)])
    fresh, soft = texture(99), blurred(texture(99))
    score = summarise(fresh, np.zeros_like(fresh), "max", 4)
    limits = made.of(None)
    assert limits is not None
    assert judge(score, None, made).evaluation == "OK"
    assert 0.3 < margins(score, limits)["sharpness_outside_calibration"] <= 1
    judged = judge(summarise(soft, np.zeros_like(soft), "max", 4), None, made)
    assert judged.evaluation == "NotDecidable"
    assert "sharpness_outside_calibration" in judged.reasons


def test_calibrations_of_before_do_not_look_at_it() -> None:
    made = made_of([texture(seed) for seed in range(20)])
    views = {view: limits.model_copy(update={"sharpness": None}) for view, limits in made.views.items()}
    soft = np.asarray(texture(99) * 0 + blurred(texture(99)), np.float32)
    reasons = judge(
        summarise(soft, np.zeros_like(soft), "max", 4), None, made.model_copy(update={"views": views})
    ).reasons
    assert "sharpness_outside_calibration" not in reasons


def test_frames_that_are_darker_by_a_third_or_flatter_by_half_are_not_called_ok() -> None:
    planes = [texture(seed) for seed in range(20)]
    made = made_of(planes)
    dark, flat = np.asarray(0.65 * planes[0], np.float32), np.asarray((planes[0] + 0.5) / 2, np.float32)
    assert "brightness_outside_calibration" in judge(
        summarise(dark, np.zeros_like(dark), "max", 4), None, made
    ).reasons  # fmt: skip
    assert "contrast_outside_calibration" in judge(
        summarise(flat, np.zeros_like(flat), "max", 4), None, made
    ).reasons  # fmt: skip


def test_few_frames_widen_ranges_more() -> None:
    for limits in (brightness, contrast, lambda values: sharpness_range(values) or (0.0, 0.0)):
        many, few = limits([0.4, 0.5] * 10), limits([0.4, 0.5])
        assert few[0] < many[0] < 0.4
        assert few[1] > many[1] > 0.5


def test_room_is_1_in_the_middle_0_at_the_gate_and_less_beyond() -> None:
    assert room(0.5, (0.4, 0.6)) == pytest.approx(1)
    assert room(0.4, (0.4, 0.6)) == pytest.approx(0)
    assert room(0.7, (0.4, 0.6)) == pytest.approx(-1)
    assert room(1.0, (0.5, 2.0), by_ratio=True) == pytest.approx(1)
    assert room(2.0, (0.5, 2.0), by_ratio=True) == pytest.approx(0)
