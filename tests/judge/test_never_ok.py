"""Whatever numbers reach the judge, OK is only said of a finite score at most the threshold, on a frame that
looks as good ones did."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.judge.calibration import Calibration, ViewCalibration, load_calibration
from edge.judge.judgement import judge
from edge.judge.statistics import summarise
from edge.pipeline import PrepareJob, prepare_file
from edge.preprocess import PreprocessSpec
from edge.testing import fake_bundle, fake_calibration
from edge.types import ObjectScore, Score
from tests.decode import builders as make
from tests.decode.test_contract import LIMITS

ANY = st.floats(allow_nan=True, allow_infinity=True)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    made = fake_calibration(fake_bundle(tmp_path_factory.mktemp("never") / "b"))
    limits = made.views["default"].model_copy(update={"channels": (1,)})
    return made.model_copy(update={"views": {"default": limits}})


def good(raw: float = 0.01) -> Score:
    plane = np.random.default_rng(0).normal(0.5, 0.01, (48, 64)).astype(np.float32)
    return replace(summarise(plane, np.full((48, 64), 0.01, np.float32), "peak", 4), raw=raw)


@given(raw=ANY, pixel=st.floats(width=32), mean=ANY, std=ANY, threshold=POSITIVE, object_raw=ANY,
       channels=st.sampled_from([None, 1, 3]))  # fmt: skip
@example(
    raw=math.nextafter(0.3, 1), pixel=0.01, mean=0.5, std=0.01, threshold=0.3, object_raw=0.0, channels=1
)
@example(raw=1e-323, pixel=0.01, mean=0.5, std=0.01, threshold=5e-324, object_raw=0.0, channels=1)
@example(raw=0.1, pixel=0.01, mean=0.5, std=0.01, threshold=0.3, object_raw=math.nan, channels=1)
def test_ok_needs_finite_numbers_at_most_the_threshold(
    calibration: Calibration, raw: float, pixel: float, mean: float, std: float, threshold: float,
    object_raw: float, channels: int | None,
) -> None:  # fmt: skip
    limits = calibration.views["default"].model_copy(update={"threshold": threshold})
    held_to = calibration.model_copy(update={"views": {"default": limits}})
    values = np.full((48, 64), 0.01, np.float32)
    values[3, 4] = pixel
    objects = (ObjectScore((1, 1, 4, 4), 16, raw), ObjectScore((9, 9, 4, 4), 16, object_raw))
    score = replace(good(raw), map=values, plane_mean=mean, plane_std=std, objects=objects)
    verdict = judge(score, None, held_to, channels=channels)
    may_be_ok = (
        all(map(math.isfinite, (raw, pixel, object_raw, mean, std)))
        and raw <= threshold
        and limits.plane_mean[0] <= mean <= limits.plane_mean[1]
        and limits.plane_std[0] <= std <= limits.plane_std[1]
        and channels != 3
    )
    assert (verdict.evaluation == "OK") == may_be_ok
    assert verdict.evaluation != "NotOK" or raw > threshold
    assert all(one.evaluation != "OK" for one in verdict.objects) or verdict.evaluation != "NotDecidable"


@pytest.mark.parametrize("seen", [(1,), (3,), (1, 3), None])
@pytest.mark.parametrize("channels", [1, 3, None])
def test_colour_where_grey_was_calibrated_is_not_called_ok(
    calibration: Calibration, seen: tuple[int, ...] | None, channels: int | None
) -> None:
    limits = calibration.views["default"].model_copy(update={"channels": seen})
    held_to = calibration.model_copy(update={"views": {"default": limits}})
    verdict = judge(good(), None, held_to, channels=channels)
    if seen is None or channels is None or channels in seen:
        assert verdict.evaluation == "OK"
    else:
        assert verdict.evaluation == "NotDecidable"
        assert verdict.reasons == ("colour_outside_calibration",)
    assert judge(good(0.4), None, held_to, channels=channels).evaluation == "NotOK"  # a defect stays one


def test_calibration_learns_how_many_channels_good_frames_have() -> None:
    from edge.judge.calibration import GoodFrame, calibrate

    def channels(counts: list[int | None]) -> tuple[int, ...] | None:
        frames = [GoodFrame("a", 1 + n / 99, 1.0, 0.5, 0.1, 48, 64, channels=c) for n, c in enumerate(counts)]
        how = {"recipe": "r", "bundle_sha256": "", "statistic": "peak", "false_reject": 0.05}
        return calibrate(frames, too_few="refuse", **how).views["a"].channels  # type: ignore[arg-type]

    assert channels([1] * 20) == (1,)
    assert channels([3, 1] * 10) == (1, 3)
    assert channels([1] * 19 + [None]) is None


@pytest.mark.parametrize(("pixels", "channels"), [(make.grey(), 1), (make.colour(), 3)])
def test_a_frame_says_how_many_channels_its_file_has(
    tmp_path: Path, pixels: np.ndarray, channels: int
) -> None:
    for name, data in (("a.bmp", make.bmp(pixels)), ("a.tif", make.tiff(pixels))):
        (tmp_path / name).write_bytes(data)
        (frame,) = prepare_file(PrepareJob(tmp_path / name, name, None, PreprocessSpec(), LIMITS))
        assert frame.image.channels == channels


def test_a_calibration_of_before_colour_was_looked_at_still_verifies() -> None:
    file = Path(__file__).parents[2] / "calibration/demo.json"
    stored = json.loads(file.read_text())
    loaded = load_calibration(file, stored["bundle_sha256"])
    assert loaded.digest == stored["digest"]


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
@pytest.mark.parametrize("field", ["threshold", "pixel_threshold"])
def test_no_calibration_has_a_threshold_that_nothing_exceeds(
    calibration: Calibration, field: str, value: float
) -> None:
    stored = calibration.views["default"].model_dump()
    with pytest.raises(ValidationError):
        ViewCalibration.model_validate(stored | {field: value})
