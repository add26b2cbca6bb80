from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import BundleError, DataError
from edge.judge.calibration import (
    GoodFrame,
    calibrate,
    conformal_threshold,
    frames_needed,
    load_calibration,
    save_calibration,
)


def good(view: str, scores: list[float]) -> list[GoodFrame]:
    return [GoodFrame(view, s, s, 0.5, 0.1, 48, 64) for s in scores]


def make(frames: list[GoodFrame], rate: float = 0.05, too_few: str = "refuse"):
    return calibrate(
        frames, recipe="r", bundle_sha256="b" * 64, statistic="peak", false_reject=rate,
        too_few=too_few,  # type: ignore[arg-type]
    )  # fmt: skip


@given(st.integers(1, 99).map(lambda percent: percent / 100))
def test_frames_needed_is_the_smallest_number_that_gives_a_threshold(rate: float) -> None:
    needed = frames_needed(rate)
    assert conformal_threshold([1.0] * needed, rate) is not None
    if needed > 1:
        assert conformal_threshold([1.0] * (needed - 1), rate) is None


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_promised_rate_holds_on_new_frames(rate: float) -> None:
    rng = np.random.default_rng(0)
    rejected = []
    for _ in range(400):
        threshold = conformal_threshold(rng.lognormal(size=39).tolist(), rate)
        rejected.append((rng.lognormal(size=50) > threshold).mean())
    # exchangeable scores: at most the rate on average, and not much below it (1/(n+1))
    assert rate - 1 / 40 - 0.01 < np.mean(rejected) < rate + 0.01


def test_views_get_their_own_thresholds() -> None:
    calibration = make(good("a", [1.0 + i / 100 for i in range(19)]) + good("b", [5.0] * 19))
    assert calibration.of("a").threshold == pytest.approx(1.18)
    assert calibration.of("b").threshold == 5.0
    assert calibration.of("c") is None
    assert calibration.of("a").basis == "view"


def test_too_few_frames_are_refused_with_the_number_needed() -> None:
    with pytest.raises(DataError, match=r"needs 19 good calibration frames per view; there are view a: 5"):
        make(good("a", [1.0] * 5))


def test_too_few_frames_pool_their_normalised_scores() -> None:
    views = good("a", [1.0, 1.2, 1.1]) + good("b", [10.0 + i / 10 for i in range(20)])
    calibration = make(views, too_few="pool")
    assert calibration.of("a").basis == "pool"
    assert calibration.of("a").threshold >= 1.2
    assert calibration.of("b").basis == "view"


def test_when_even_the_pool_is_short_the_bound_reached_is_stated() -> None:
    limits = make(good("a", [1.0, 2.0, 3.0]), too_few="pool").of("a")
    assert limits.basis == "maximum"
    assert limits.threshold > 3.0
    assert limits.false_reject_bound == pytest.approx(1 / 4)


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        make(good("a", [1.0] * 18 + [float("nan")]))


def test_a_calibration_survives_the_disk_and_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    saved = save_calibration(file, make(good("a", [1.0] * 19)))
    assert load_calibration(file, "b" * 64) == saved
    data = file.read_bytes()
    for position in range(0, len(data), 3):
        flipped = bytes([data[position] ^ 1])
        file.write_bytes(data[:position] + flipped + data[position + 1 :])
        with pytest.raises(BundleError):
            load_calibration(file, "b" * 64)


def test_a_calibration_of_another_bundle_is_refused(tmp_path: Path) -> None:
    save_calibration(tmp_path / "c.json", make(good("a", [1.0] * 19)))
    with pytest.raises(BundleError, match="made for bundle bbbb"):
        load_calibration(tmp_path / "c.json", "c" * 64)
