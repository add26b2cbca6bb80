from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.judge.calibration import Calibration, GoodFrame, calibrate
from edge.judge.judgement import find_defects, judge
from edge.judge.statistics import summarise
from edge.testing import fake_bundle, fake_calibration
from edge.types import MAX_DEFECTS, Fragments, ObjectScore, Placement, Score


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
    (defect,) = judge(score(0.4), None, calibration, Placement.scaled((48, 64), 128, 144)).defects
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
    (defect,) = find_defects(
        summarise(values, values, "peak", 8), 1.0, Placement.scaled(values.shape, *values.shape[::-1])
    )
    assert defect.bbox == (30, 20, 8, 8)


def test_the_defect_list_is_bounded_and_strongest_first() -> None:
    values = np.zeros((100, 100), np.float32)
    values[::5, ::5] = np.random.default_rng(0).uniform(1, 2, (20, 20))
    defects = find_defects(
        summarise(values, values, "peak", 1), 0.5, Placement.scaled(values.shape, 100, 100)
    )
    assert len(defects) == MAX_DEFECTS
    assert [d.score for d in defects] == sorted((d.score for d in defects), reverse=True)


def test_a_view_never_calibrated_is_judged_by_estimate_only_where_that_was_asked_for(tmp_path: Path) -> None:
    views = {f"{n:02d}": 1.0 + 0.05 * n for n in range(1, 9)}
    good = [
        GoodFrame(view, factor * raw, 0.2, 0.5, 0.01, 48, 64)
        for view, factor in views.items()
        for raw in np.linspace(0.1, 0.2, 20)
    ]
    how = {"recipe": "r", "bundle_sha256": "", "statistic": "peak", "false_reject": 0.05, "too_few": "refuse"}
    refusing = calibrate(good, **how)  # type: ignore[arg-type]
    adaptive = calibrate(good, unseen_views="adaptive", **how)  # type: ignore[arg-type]
    assert judge(score(), "09", refusing).reasons == ("view_not_calibrated",)
    low, high = judge(score(), "09", adaptive), judge(score(1.5), "09", adaptive)
    assert (low.evaluation, low.reasons) == ("OK", ("threshold_estimated",))
    assert (high.evaluation, high.reasons) == ("NotOK", ("score_above_threshold", "threshold_estimated"))


def test_each_object_is_judged_and_the_frame_has_the_worst(calibration: Calibration) -> None:
    objects = (ObjectScore((10, 5, 4, 4), 16, 0.4), ObjectScore((30, 20, 8, 6), 40, 0.1))
    found = replace(score(0.4), objects=objects)
    verdict = judge(found, None, calibration, Placement.scaled((48, 64), 128, 96))
    assert verdict.evaluation == "NotOK"
    assert [(o.evaluation, o.bbox, o.area_px) for o in verdict.objects] == [
        ("NotOK", (20, 10, 8, 8), 64),
        ("OK", (60, 40, 16, 12), 160),
    ]


def test_an_object_is_not_called_ok_on_a_frame_unlike_good_ones(calibration: Calibration) -> None:
    found = replace(score(mean=0.02), objects=(ObjectScore((10, 5, 4, 4), 16, 0.1),))
    verdict = judge(found, None, calibration)
    assert (verdict.evaluation, verdict.objects[0].evaluation) == ("NotDecidable", "NotDecidable")


def test_less_foreground_than_good_frames_have_is_not_called_ok(calibration: Calibration) -> None:
    verdict = judge(replace(score(), foreground_px=300), None, calibration)
    assert (verdict.evaluation, verdict.reasons) == ("NotDecidable", ("foreground_outside_calibration",))


def test_fragments_above_the_threshold_are_one_defect_in_frame_pixels(calibration: Calibration) -> None:
    limits = calibration.model_copy(update={"statistic": "std"})
    boxes = np.array([[0, 0, 16, 16], [8, 0, 16, 16], [40, 24, 16, 16]], np.int32)
    fragments = Fragments(boxes, {"std": np.array([0.3, 0.4, 0.05], np.float32)})
    verdict = judge(
        replace(score(), raw=0.4, fragments=fragments), None, limits, Placement.scaled((48, 64), 128, 96)
    )
    (defect,) = verdict.defects
    assert defect.bbox == (0, 0, 48, 32)
    assert defect.score == pytest.approx(2.0, abs=0.02)


def test_classes_have_their_areas_whatever_the_verdict(calibration: Calibration) -> None:
    layers = np.zeros((2, 48, 64), np.float32)
    layers[1, 10:20, 30:40] = 0.9
    ok = judge(replace(score(), layers=layers), None, calibration, classes=("crack", "pit"))
    bad = judge(replace(score(0.4), layers=layers), None, calibration, classes=("crack", "pit"))
    assert dict(ok.class_areas) == dict(bad.class_areas) == {"crack": 0, "pit": 100}
    assert [(d.kind, d.area_px) for d in bad.defects] == [("pit", 100)]


def test_a_map_that_shows_no_place_gives_the_whole_frame() -> None:
    values = np.full((40, 60), 0.8, np.float32)
    (defect,) = find_defects(summarise(values, values, "max", 8), 0.9, Placement.scaled((40, 60), 60, 40))
    assert defect.bbox == (0, 0, 60, 40)


def test_what_scores_higher_than_most_good_frames_is_ok_and_for_review(calibration: Calibration) -> None:
    views = {
        view: limits.model_copy(update={"review_threshold": 0.8 * limits.threshold})
        for view, limits in calibration.views.items()
    }
    banded = calibration.model_copy(update={"views": views})
    threshold = banded.views["07"].threshold
    said = {
        share: judge(replace(score(), raw=share * threshold), "07", banded) for share in (0.8, 0.9, 1.0, 1.1)
    }
    assert {share: (v.evaluation, v.reasons) for share, v in said.items()} == {
        0.8: ("OK", ()),
        0.9: ("OK", ("in_review_band",)),
        1.0: ("OK", ("in_review_band",)),
        1.1: ("NotOK", ("score_above_threshold",)),
    }
    assert judge(replace(score(), raw=0.9 * threshold), "07", calibration).reasons == ()


def test_a_frame_unlike_good_ones_is_not_decidable_rather_than_for_review(calibration: Calibration) -> None:
    limits = calibration.views["07"].model_copy(update={"review_threshold": 1e-6})
    banded = calibration.model_copy(update={"views": {"07": limits}})
    assert judge(score(mean=0.02), "07", banded).evaluation == "NotDecidable"
    assert "in_review_band" not in judge(score(mean=0.02), "07", banded).reasons
