from pathlib import Path

import numpy as np
import pytest

from edge.judge.calibration import Calibration
from edge.judge.judgement import MAX_DEFECTS, find_defects, judge
from edge.judge.statistics import summarise
from edge.testing import fake_bundle, fake_calibration
from edge.types import Score


@pytest.fixture
def calibration(tmp_path: Path) -> Calibration:
    return fake_calibration(fake_bundle(tmp_path / "b"), ["default", "07"])


def score(peak: float = 0.01, mean: float = 0.5, std: float = 0.01) -> Score:
    values = np.full((48, 64), 0.01, np.float32)
    values[5:9, 10:14] = peak
    noise = np.random.default_rng(0).normal(mean, std, values.shape).astype(np.float32)
    return summarise(noise, values, "peak", 4)


def test_a_low_score_is_ok_and_a_high_one_is_not(calibration: Calibration) -> None:
    ok, bad = judge(score(), None, calibration), judge(score(0.4), "07", calibration)
    assert (ok.evaluation, ok.defects) == ("OK", ())
    assert bad.evaluation == "NotOK"
    assert bad.score == pytest.approx(2.0, abs=0.01)
    assert bad.reasons == ("score_above_threshold",)


def test_defects_come_back_in_frame_pixels(calibration: Calibration) -> None:
    (defect,) = judge(score(0.4), None, calibration, scale=(2.0, 3.0)).defects
    assert defect.bbox == (20, 15, 8, 12)
    assert defect.area_px == 16 * 6


def test_an_unknown_view_is_not_decidable(calibration: Calibration) -> None:
    assert judge(score(), "99", calibration).reasons == ("view_not_calibrated",)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_never_ok(calibration: Calibration, value: float) -> None:
    verdict = judge(score(value), None, calibration)
    assert (verdict.evaluation, verdict.reasons) == ("NotDecidable", ("score_not_finite",))


@pytest.mark.parametrize(
    ("mean", "std", "reason"),
    [(0.02, 0.01, "brightness_outside_calibration"), (0.5, 0.0, "contrast_outside_calibration")],
)
def test_a_frame_unlike_any_good_one_is_not_called_ok(
    calibration: Calibration, mean: float, std: float, reason: str
) -> None:
    verdict = judge(score(mean=mean, std=std), None, calibration)
    assert verdict.evaluation == "NotDecidable"
    assert reason in verdict.reasons


@pytest.mark.parametrize("shape", [(20, 30), (48, 640), (200, 64)])
def test_a_frame_of_a_size_never_calibrated_is_not_called_ok(
    calibration: Calibration, shape: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).normal(0.5, 0.01, shape).astype(np.float32)
    verdict = judge(summarise(noise, np.full(shape, 0.01, np.float32), "peak", 4), None, calibration)
    assert (verdict.evaluation, verdict.reasons) == ("NotDecidable", ("size_outside_calibration",))


def test_a_broad_faint_defect_is_shown_where_it_rejected_the_frame() -> None:
    values = np.zeros((40, 60), np.float32)
    values[20:28, 30:38] = 0.5  # rejects by its mean …
    values[5, 5] = 0.9  # … and not the highest pixel, which is below the pixel threshold too
    (defect,) = find_defects(summarise(values, values, "peak", 8), 1.0, (1.0, 1.0))
    assert defect.bbox == (30, 20, 8, 8)


def test_the_defect_list_is_bounded_and_strongest_first() -> None:
    values = np.zeros((100, 100), np.float32)
    values[::5, ::5] = np.random.default_rng(0).uniform(1, 2, (20, 20))
    defects = find_defects(summarise(values, values, "peak", 1), 0.5, (1.0, 1.0))
    assert len(defects) == MAX_DEFECTS
    assert [d.score for d in defects] == sorted((d.score for d in defects), reverse=True)
