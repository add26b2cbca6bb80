import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifacts import read_signed_json
from edge.errors import BundleError, DataError
from edge.judge.calibration import (
    Calibration,
    GoodFrame,
    calibrate,
    load_calibration,
    save_calibration,
)


def good(view: str, scores: list[float]) -> list[GoodFrame]:
    return [GoodFrame(view, s, s, 0.5, 0.1, 48, 64) for s in scores]


def make(frames: list[GoodFrame], rate: float = 0.05, too_few: str = "refuse", **how: Any) -> Calibration:
    return calibrate(
        frames, recipe="r", bundle_sha256="b" * 64, statistic="peak", false_reject=rate,
        too_few=too_few, **how,  # type: ignore[arg-type]
    )  # fmt: skip


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


def test_a_calibration_of_before_thresholds_had_methods_still_loads() -> None:
    file = Path(__file__).parent.parent.parent / "calibration" / "demo.json"
    calibration = read_signed_json(file, Calibration)
    limits = calibration.of("01")
    assert limits is not None
    assert (limits.method, limits.foreground_ratio, calibration.adaptive) == ("conformal", None, None)


@pytest.mark.parametrize("method", ["max", "quantile", "mad", "evt", "median-max"])
def test_another_method_says_what_it_is_and_what_it_promises(method: str) -> None:
    scores = np.random.default_rng(0).lognormal(0, 0.3, 100).tolist()
    usual, limits = make(good("a", scores)).of("a"), make(good("a", scores), method=method).of("a")
    assert usual is not None
    assert limits is not None
    assert (limits.basis, limits.method) == ("view", method)
    assert (limits.false_reject_estimate is None) == (method == "max")
    if method == "max":
        assert limits.threshold == max(scores)
    else:
        assert limits.false_reject_bound > usual.false_reject_bound
    assert limits.pixel_threshold == pytest.approx(limits.threshold)  # the map's maxima are the scores here


def test_equal_scores_are_refused_by_a_method_that_needs_their_spread() -> None:
    with pytest.raises(DataError, match="too many equal scores for a threshold by mad"):
        make(good("a", [1.0] * 30), method="mad")
    limits = make(good("a", [1.0] * 30), method="mad", too_few="bound").of("a")
    assert limits is not None
    assert (limits.basis, limits.threshold) == ("maximum", 1.25)


def test_too_few_frames_for_a_method_are_named_with_it() -> None:
    with pytest.raises(DataError, match=r"a threshold by evt .* needs 20 good .* there are view a: 12"):
        make(good("a", [1.0 + k for k in range(12)]), method="evt")


def test_the_foreground_of_good_frames_is_kept_widened() -> None:
    frames = [
        GoodFrame("a", 1.0 + k / 100, 1.0, 0.5, 0.1, 48, 64, foreground_ratio=0.30 + k / 1000)
        for k in range(20)
    ]
    limits = make(frames).of("a")
    assert limits is not None
    assert limits.foreground_ratio == (pytest.approx(0.225), pytest.approx(0.319 * 1.25))
    whole = make(good("a", [1.0] * 19)).of("a")
    assert whole is not None
    assert whole.foreground_ratio == (0.75, 1.0)


def around(numbers: range) -> list[GoodFrame]:
    """Views 15° apart; their scores go round, and grow with the foreground."""
    frames = []
    for number in numbers:
        ratio = 0.4 + 0.1 * math.cos(math.radians(30 * number))
        level = ratio * math.exp(0.2 * math.sin(math.radians(15 * number)))
        for k in range(20):
            raw = level * (1 + k / 100)
            frames.append(GoodFrame(f"{15 * number:03d}", raw, 2 * raw, 0.5, 0.1, 48, 64, ratio))
    return frames


def test_a_view_never_seen_has_an_estimate_only_where_that_was_asked_for(tmp_path: Path) -> None:
    known = [frame for frame in around(range(24)) if frame.view != "045"]
    assert make(known).estimate("045", 0.4) is None
    file = tmp_path / "c.json"
    calibration = save_calibration(file, make(known, unseen_views="adaptive"))
    assert load_calibration(file, "b" * 64) == calibration
    truth = make(around(range(24))).of("045")
    estimate = calibration.estimate("045", 0.4)
    assert truth is not None
    assert estimate is not None
    assert calibration.of("045") is None
    assert estimate.threshold / truth.threshold == pytest.approx(1.0, abs=0.05)
    assert estimate.pixel_threshold == pytest.approx(2 * estimate.threshold)
    assert (estimate.basis, estimate.false_reject_bound, estimate.scores) == ("adaptive", 1.0, ())
    assert estimate.plane_mean == truth.plane_mean
    assert calibration.estimate("045", 0.05) is None


def test_too_few_views_to_estimate_others_from_are_refused() -> None:
    with pytest.raises(DataError, match="there are 3"):
        make(around(range(3)), unseen_views="adaptive")


def of_parts(count: int, views: str = "ab", seed: int = 0, frames: int = 1) -> list[GoodFrame]:
    """Parts seen from several views, of different levels."""
    rng = np.random.default_rng(seed)
    return [
        replace(good(view, [float((1 + 9 * number) * rng.lognormal(0, 0.2))])[0], part=f"P{part}")
        for part in range(count)
        for number, view in enumerate(views)
        for _ in range(frames)
    ]


def test_a_calibration_of_before_parts_counted_keeps_its_digest() -> None:
    file = Path(__file__).parent.parent.parent / "calibration" / "demo.json"
    calibration = read_signed_json(file, Calibration)
    assert calibration.digest == json.loads(file.read_text())["digest"]
    assert (calibration.part, calibration.review_rate, calibration.procedure) == (None, None, "split")
    limits = calibration.of("01")
    assert limits is not None
    assert (limits.parts, limits.review_threshold) == (None, None)
    assert limits.parts_count == len(limits.scores)


def test_frames_of_one_part_count_once() -> None:
    limits = make(of_parts(5, "a", frames=8), too_few="bound").of("a")
    assert limits is not None
    assert (limits.basis, limits.false_reject_bound) == ("maximum", pytest.approx(1 / 6))
    assert (len(limits.scores), limits.parts_count) == (40, 5)
    with pytest.raises(DataError, match=r"there are view a: 5(.|\n)*frames of one part count once"):
        make(of_parts(5, "a", frames=8))
    known = make(of_parts(19, "a", frames=8)).of("a")
    assert known is not None
    assert (known.basis, known.false_reject_bound) == ("view", pytest.approx(0.05))


def test_a_pooled_threshold_claims_no_more_than_the_views_own_frames_prove() -> None:
    views = good("a", [1.0, 1.2, 1.1]) + good("b", [10.0 + i / 10 for i in range(20)])
    limits = make(views, too_few="pool").of("a")
    assert limits is not None
    assert limits.basis == "pool"
    assert limits.false_reject_bound == pytest.approx(1 / 4)  # not below the largest of three
    assert limits.false_reject_estimate == pytest.approx(1 - 23 / 24)


def test_a_rate_per_part_gives_every_view_the_same_factor() -> None:
    made = make(of_parts(40), rate=0.1, false_reject_part=0.05)
    assert made.part is not None
    assert (made.part.demanded, made.part.parts) == (0.05, 40)
    assert made.part.bound == pytest.approx(1 - 39 / 41)
    for view, limits in made.views.items():
        assert limits.basis == "part"
        assert limits.threshold == pytest.approx(made.part.factor * made.part.centres[view])
        assert limits.false_reject_bound == made.part.bound


def test_a_rate_per_part_larger_than_the_rate_per_frame_weakens_neither() -> None:
    frames = of_parts(60)
    plain, both = (
        make(frames, rate=0.02, too_few="bound"),
        make(frames, rate=0.02, too_few="bound", false_reject_part=0.4),
    )
    for view, limits in both.views.items():
        assert limits.threshold >= plain.views[view].threshold
        assert limits.false_reject_bound <= plain.views[view].false_reject_bound


def test_a_rate_per_part_without_whole_parts_is_refused() -> None:
    with pytest.raises(DataError, match="parts with all views"):
        make(good("a", [1.0] * 20) + good("b", [1.0] * 20), false_reject_part=0.05)


def test_a_review_band_lies_below_the_threshold() -> None:
    scores = [1.0 + i / 100 for i in range(99)]
    limits = make(good("a", scores), rate=0.01, review_band=0.1).of("a")
    assert limits is not None
    assert limits.threshold == pytest.approx(1.98)
    assert limits.review_threshold == pytest.approx(1.89)  # nine of 99 are above it
    alike = make(good("a", [1.0] * 99), rate=0.01, review_band=0.1).of("a")
    assert alike is not None
    assert alike.review_threshold is None


def folded(frames: list[GoodFrame], folds: int, scale: float = 1.0) -> list[GoodFrame]:
    factors = [scale if fold == 0 else 1.0 for fold in range(folds)]
    return [
        replace(f, fold=n % folds, raw=f.raw * factors[n % folds], map_max=f.map_max * factors[n % folds])
        for n, f in enumerate(frames)
    ]


def test_scores_of_fold_networks_prove_nothing_and_say_so(tmp_path: Path) -> None:
    frames = of_parts(40, "a")
    split, cross = make(frames, rate=0.05), make(folded(frames, 4), rate=0.05, false_reject_part=0.05)
    assert (cross.procedure, cross.folds, cross.folds_aligned) == ("cross", 4, False)
    before, limits = split.of("a"), cross.of("a")
    assert before is not None
    assert limits is not None
    assert (limits.false_reject_bound, limits.false_reject_estimate) == (1.0, before.false_reject_bound)
    assert cross.part is not None
    assert (cross.part.bound, cross.part.estimate) == (1.0, before.false_reject_bound)
    assert save_calibration(tmp_path / "c.json", cross).folds == 4


def test_a_fold_network_of_another_scale_does_not_raise_the_thresholds() -> None:
    frames = of_parts(60, "a")
    usual, odd = make(folded(frames, 4)), make(folded(frames, 4, scale=5.0))
    assert (usual.folds_aligned, odd.folds_aligned) == (False, True)
    assert odd.views["a"].threshold == pytest.approx(usual.views["a"].threshold, rel=0.2)
    assert odd.views["a"].pixel_threshold == pytest.approx(odd.views["a"].threshold)


def test_frames_with_and_without_a_fold_are_not_mixed() -> None:
    with pytest.raises(DataError, match="20 of 40 frames have no fold"):
        make(of_parts(20, "a") + folded(of_parts(20, "a"), 2))
