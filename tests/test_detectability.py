"""Planted defects: what is said of them is so, and the quick judge agrees with the whole one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.detectability import FEW_FRAMES, Detectability, Trial, measure, save
from edge.infer.bundle import Bundle, ScoreSpec
from edge.pipeline import Inspector, Planes
from edge.planted import (
    CONTRASTS,
    INSIDE,
    SHAPES,
    SIZES_PX,
    Pose,
    Shape,
    Wanted,
    cover,
    plant,
    planted_at,
    with_defect,
)
from edge.planted_judge import Around, Whole, judge_of, overlap
from edge.preprocess import PreprocessSpec, TileSpec
from edge.report.explained import detectability_view
from edge.testing import FakeRuntime, fake_bundle, fake_calibration
from edge.types import FloatImage, Frame, Identity, ImageInfo

TILES = PreprocessSpec(tiles=TileSpec(size_px=48, keep_px=32, step_px=20))


def texture(seed: int, shape: tuple[int, int] = (150, 170), std: float = 0.01) -> FloatImage:
    rng = np.random.default_rng(seed)
    return (0.5 + std * rng.standard_normal(shape)).astype(np.float32)


def frame_of(plane: FloatImage, enlarged: float = 1.0) -> Frame:
    height, width = (round(side * enlarged) for side in plane.shape)
    return Frame(ImageInfo("good.png", "", width, height), plane, Identity())


def smoothed(tiles: FloatImage) -> FloatImage:
    """As an autoencoder would answer: what is small does not come back."""
    return np.stack([cv2.blur(tile[0], (9, 9))[None] for tile in tiles]).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return fake_bundle(tmp_path_factory.mktemp("recipe") / "bundle", TILES)


def inspector(bundle: Bundle, threshold: float = 0.05, spec: ScoreSpec | None = None) -> Inspector:
    if spec is not None:
        bundle = bundle.model_copy(update={"manifest": bundle.manifest.model_copy(update={"score": spec})})
    return Inspector(bundle, FakeRuntime(smoothed), fake_calibration(bundle, threshold=threshold))


@given(
    st.sampled_from(["dark spot", "bright spot"]),
    st.floats(2, 32),
    st.floats(0, math.pi),
    st.floats(0.6, 1),
)
def test_a_spot_covers_the_area_of_a_circle_of_its_size(
    shape: Shape, size: float, turn: float, ratio: float
) -> None:
    drawn = cover(Wanted(shape, size, 0.1), 64, Pose(31.3, 32.2, turn, ratio))
    assert drawn.max() == pytest.approx(1)
    across = 2 * math.sqrt(np.count_nonzero(drawn >= INSIDE) / math.pi)
    assert across == pytest.approx(size, abs=0.8)


@pytest.mark.parametrize("width", SIZES_PX["line"])
def test_a_line_is_as_wide_as_it_says(width: float) -> None:
    drawn = cover(Wanted("line", width, 0.1), 80, Pose(40, 40, 0.4))
    area = np.count_nonzero(drawn >= INSIDE)
    assert area / 48 == pytest.approx(max(width, 1.7), abs=0.6)  # the optics widen what is thinner


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("contrast", [0.02, 0.32])
def test_a_planted_defect_has_the_contrast_wanted_and_changes_nothing_else(
    shape: Shape, contrast: float
) -> None:
    plane = texture(0)
    planted = plant(plane, Wanted(shape, 8, contrast), np.random.default_rng(1))
    assert planted is not None
    assert planted.contrast == pytest.approx(contrast, rel=0.02)
    assert planted.local_std == pytest.approx(0.01, rel=0.2)
    x, y, w, h = planted.touched
    change = planted.pixels - plane[y : y + h, x : x + w]
    signs = {"dark spot": {-1.0}, "bright spot": {1.0}}.get(shape, {-1.0, 1.0})
    assert np.sign(change[np.abs(change).argmax() // w, np.abs(change).argmax() % w]) in signs
    edge = np.concatenate([change[0], change[-1], change[:, 0], change[:, -1]])
    assert np.abs(edge).max() < 1e-3


def test_where_the_scale_ends_there_is_no_room() -> None:
    white = np.full((100, 100), 0.99, np.float32)
    rng = np.random.default_rng(0)
    assert plant(white, Wanted("bright spot", 8, 0.16), rng) is None
    assert plant(white, Wanted("dark spot", 8, 0.16), rng) is not None
    assert plant(white[:20, :20], Wanted("dark spot", 8, 0.16), rng) is None, "larger than the plane allows"


def test_it_is_planted_on_the_foreground_and_changes_nothing_beside_it() -> None:
    plane, foreground = texture(0), np.zeros((150, 170), np.bool_)
    foreground[60:80, 100:120] = True
    for seed in range(20):
        planted = plant(plane, Wanted("dark spot", 16, 0.2), np.random.default_rng(seed), foreground)
        assert planted is not None
        x, y, w, h = planted.touched
        changed = np.zeros_like(foreground)
        changed[y : y + h, x : x + w] = planted.pixels != plane[y : y + h, x : x + w]
        assert changed.any()
        assert not (changed & ~foreground).any()


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["l1", "l2", "ssim", "msgms"]),
    st.sampled_from([0.0, 2.5]),
    st.sampled_from(["peak", "max", "top"]),
    st.booleans(),
    st.sampled_from([0.2, 0.5, 1.0]),
)
def test_the_part_around_a_defect_tells_what_the_whole_frame_tells(
    bundle: Bundle,
    seed: int,
    kind: Literal["l1", "l2", "ssim", "msgms"],
    smooth: float,
    statistic: Literal["peak", "max", "top"],
    masked: bool,
    share: float,
) -> None:
    """At thresholds between what the good frame and the defect score."""
    spec = ScoreSpec(map=kind, smooth_px=smooth, statistic=statistic, peak_px=5, top_ratio=0.004)
    frame = frame_of(texture(seed))
    if masked:
        foreground = np.zeros(frame.plane.shape, np.bool_)
        foreground[10:120, 30:] = True
        frame = replace(frame, foreground=foreground)
    rng = np.random.default_rng(seed)
    shape = SHAPES[seed % 4]
    wanted = Wanted(shape, float(rng.choice(SIZES_PX[shape][2:5])), float(rng.choice(CONTRASTS[2:])))
    planted = plant(frame.plane, wanted, rng, frame.foreground)
    if planted is None:
        return
    probe = inspector(bundle, 0.05, spec)
    (good,) = probe.score([Planes(frame.plane, frame.foreground)])
    (bad,) = probe.score([Planes(with_defect(frame.plane, planted), frame.foreground)])
    ready = inspector(bundle, good.raw + share * (bad.raw - good.raw) * 0.999 + 1e-7, spec)
    around, whole = Around(ready, frame)(planted), Whole(ready, frame)(planted)
    assert around[0] == whole[0]
    assert [any(overlap(planted.box, box) for box in boxes) for boxes in (around[1], whole[1])] in (
        [True, True],
        [False, False],
    )


def test_statistics_of_the_whole_frame_are_judged_on_the_whole_frame(bundle: Bundle) -> None:
    frame = frame_of(texture(0))
    assert isinstance(judge_of(inspector(bundle), frame), Around)
    whole = inspector(bundle, spec=ScoreSpec(map="l1", statistic="mean"))
    assert isinstance(judge_of(whole, frame), Whole)


@pytest.fixture(scope="module")
def measured(bundle: Bundle) -> Detectability:
    ready = inspector(bundle)
    good = [frame_of(texture(seed), enlarged=2) for seed in range(3)]
    return measure(ready, good, 3, seconds=1e9, most=510)


def test_fainter_defects_must_be_larger_to_be_found(measured: Detectability) -> None:
    assert measured.frames == 3
    assert measured.planted + measured.no_room == 510
    spots = {one.shape: one for one in measured.curves}["dark spot"]
    sizes = {figure.contrast: figure for figure in spots.sizes()}
    assert set(sizes) == set(CONTRASTS)
    a90 = [sizes[c].a90_px for c in (0.08, 0.16) if sizes[c].a90_px]
    assert a90 == sorted(a90, reverse=True)
    assert sizes[0.02].a90.startswith(">") or sizes[0.02].a90 == "not bounded"
    assert all(trial.rejected for one in measured.curves for trial in one.trials if trial.found)


def test_sizes_are_in_pixels_of_the_frame(measured: Detectability) -> None:
    for one in measured.curves:
        for trial in one.trials:
            assert trial.size_px == pytest.approx(2 * trial.nominal_px)


def test_examples_are_the_least_expected_found_and_the_most_expected_missed(
    measured: Detectability,
) -> None:
    spots = measured.curves[0]
    found, missed = spots.examples()
    fit = spots.by_contrast
    assert fit is not None

    def expected(trial: Trial) -> float:
        return fit.probability(trial.size_px, trial.contrast)

    assert expected(found[0]) == min(expected(t) for t in spots.trials if t.found)
    assert expected(missed[0]) == max(expected(t) for t in spots.trials if not t.found)


def test_the_document_holds_every_trial_and_no_number_json_has_no_word_for(
    measured: Detectability, tmp_path: Path
) -> None:
    document = json.loads(save(tmp_path, measured).read_text())
    assert document["planted"] == sum(len(shape["trials"]) for shape in document["shapes"].values())
    spots = document["shapes"]["dark spot"]
    assert spots["found"] == sum(row[4] for row in spots["trials"]) <= spots["rejected"]
    assert {row["contrast"] for row in spots["by_contrast"]} == set(CONTRASTS)


def test_few_frames_are_said_to_make_the_proof_too_optimistic(measured: Detectability) -> None:
    caution = measured.caution()
    assert f"All {measured.planted} defects were planted in 3 good frames." in caution
    assert "for new frames a90/95 is too optimistic" in caution
    assert measured.document()["caution"] == detectability_view(measured)["caution"] == caution
    assert "planted in 1 good frame." in replace(measured, frames=1).caution()
    assert "holds for this frame" in replace(measured, frames=1).caution()
    assert replace(measured, frames=FEW_FRAMES).caution() == ""


def test_what_is_never_found_is_not_bounded_and_what_always_is_below_the_smallest(bundle: Bundle) -> None:
    good = [frame_of(texture(0, (130, 130)))]
    never = measure(inspector(bundle, 10.0), good, 1, seconds=1e9, most=170)
    assert {figure.a90 for one in never.curves for figure in one.sizes()} == {"not bounded"}
    always = measure(inspector(bundle, 1e-6), good, 1, seconds=1e9, most=680)
    texts = [figure.a90 for one in always.curves for figure in one.sizes()]
    assert "≤ 2" in texts
    assert not any("> " in text for text in texts)


def test_it_ends_when_the_time_is_up(bundle: Bundle) -> None:
    good = [frame_of(texture(seed)) for seed in range(5)]
    shares: list[float] = []
    found = measure(inspector(bundle), good, 5, seconds=0.0, most=1000, on_share=shares.append)
    assert found.planted + found.no_room == 1
    assert shares == [1.0]
    assert all("not bounded" in figure.a90 for one in found.curves if one.trials for figure in one.sizes())


def test_a_line_along_the_border_is_in_sight() -> None:
    planted = planted_at(texture(0), Wanted("line", 2, 0.1), Pose(0, 75, math.pi / 2), 1)
    assert planted.touched[0] == 0
    assert planted.box[0] == 0
