"""From a file to a score: masks, objects, fragments, rectification; tiles that find their places again."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.decode import Limits
from edge.decode.workers import DecodeWorkers
from edge.errors import DataError, IncompleteError
from edge.infer.bundle import MASK_MODEL, ScoreSpec, pack_mean_masks, write_bundle
from edge.intake.naming import compile_naming
from edge.judge.calibration import calibrate
from edge.pipeline import Inspector, Planes, PrepareJob, answers, planes_of, prepare_file, warm_up
from edge.preprocess import MaskSpec, PreprocessSpec, Rectify, TileSpec
from edge.stages import NOT_THE_FILES_FAULT
from edge.testing import FakeRuntime, fake_bundle, fake_calibration, write_frame
from edge.types import FRAGMENT_STATISTICS, FloatImage, Frame, Identity, ImageInfo
from tests.sites import blurring_network

Answer = Callable[[FloatImage], FloatImage]
LIMITS = Limits(max_pixels=10**6, max_pages=4)


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=6),
    st.integers(1, 9),
    st.integers(1, 32),
)
def test_answers_come_back_in_order_whatever_the_batches(
    shapes: list[tuple[int, int]], batch: int, step: int
) -> None:
    rng = np.random.default_rng(0)
    planes = [rng.random(shape, np.float32) for shape in shapes]
    spec = PreprocessSpec(tiles=TileSpec(size_px=36, keep_px=32, step_px=step))
    runtime = FakeRuntime(lambda tiles: 1 - tiles, batch)
    out = list(answers(map(Planes, planes), spec, runtime))
    assert len(out) == len(planes)
    for plane, answer in zip(planes, out, strict=True):
        assert answer.planes.plane is plane
        np.testing.assert_allclose(answer.stitched, 1 - plane, atol=1e-4)
    assert all(calls == batch for calls in runtime.calls[:-1])  # batches are filled across frames


def inspector(folder: Path) -> Inspector:
    bundle = fake_bundle(folder / "bundle")
    return Inspector(bundle, FakeRuntime(), fake_calibration(bundle))


def test_a_reconstruction_is_carried_only_for_frames_that_are_kept(tmp_path: Path) -> None:
    ready = inspector(tmp_path)
    files = [write_frame(tmp_path / "a.png"), write_frame(tmp_path / "b.png", defect=True, seed=1)]
    spec = ready.bundle.manifest.preprocess
    frames = [prepare_file(PrepareJob(f, f.name, None, spec, LIMITS))[0] for f in files]
    assert [one.reconstruction for one in ready.inspect(frames)] == [None, None]
    kept = ready.inspect(frames, keeps=lambda frame, judgement: judgement.evaluation == "NotOK")
    good, bad = (one.reconstruction for one in kept)
    assert good is None
    assert bad is not None
    assert (bad.shape, bad.dtype, set(np.unique(bad))) == (
        (48, 64),
        np.uint8,
        {128},
    )  # flat grey of the double


def test_a_good_frame_is_ok_and_a_defect_is_found_where_it_is(tmp_path: Path) -> None:
    ready = inspector(tmp_path)
    files = [write_frame(tmp_path / "a.png"), write_frame(tmp_path / "b.png", defect=True, seed=1)]
    frames = [
        prepare_file(PrepareJob(f, f.name, None, ready.bundle.manifest.preprocess, LIMITS))[0] for f in files
    ]
    good, bad = ready.inspect(frames)
    assert good.judgement.evaluation == "OK"
    assert bad.judgement.evaluation == "NotOK"
    x, y, w, h = bad.judgement.defects[0].bbox
    assert (x, y, w, h) == (20, 10, 12, 12)
    assert bad.frame.image.bits == 8
    assert set(bad.frame.times_s) == {"decode_s", "preprocess_s"}


def test_a_blurred_file_is_not_decidable_and_says_why(tmp_path: Path) -> None:
    """From files to the verdict: what calibration measured of good files is what a new one is held to."""
    ready = inspector(tmp_path)

    def read(seed: int, blur_px: float = 0.0) -> Frame:
        fine = np.random.default_rng(seed).normal(127, 25, (48, 64)).astype(np.float32)
        pixels = cv2.GaussianBlur(fine, (0, 0), 0.7)
        if blur_px:
            pixels = cv2.GaussianBlur(pixels, (0, 0), blur_px)
        file = tmp_path / f"{seed}_{blur_px}.png"
        assert cv2.imwrite(str(file), pixels.clip(0, 255).astype(np.uint8))
        return prepare_file(PrepareJob(file, file.name, None, ready.bundle.manifest.preprocess, LIMITS))[0]

    good = list(ready.good_frames(read(seed) for seed in range(20)))
    assert all(frame.sharpness is not None for frame in good)
    ready.calibration = calibrate(
        good, recipe="r", bundle_sha256=ready.bundle.digest, statistic="peak", false_reject=0.05,
        too_few="refuse",
    )  # fmt: skip
    fresh, soft = ready.inspect([read(100), read(100, blur_px=1.5)])
    assert fresh.judgement.evaluation == "OK"
    assert soft.judgement.evaluation == "NotDecidable"
    assert "sharpness_outside_calibration" in soft.judgement.reasons


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    file = write_frame(tmp_path / "a.png")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(IncompleteError) as caught:
        prepare_file(PrepareJob(file, "a.png", None, PreprocessSpec(), LIMITS))
    assert caught.value.reason == "truncated"


TILES = TileSpec(size_px=32, keep_px=32, step_px=16)


def judged(folder: Path, spec: PreprocessSpec, score: ScoreSpec, answer: Answer | None = None) -> Inspector:
    """A recipe whose engine draws a flat grey 0.5 (or as `answer` says)."""
    bundle = fake_bundle(folder / "bundle", spec)
    manifest = bundle.manifest.model_copy(update={"score": score})
    bundle = bundle.model_copy(update={"manifest": manifest})
    return Inspector(bundle, FakeRuntime(answer), fake_calibration(bundle))


def test_answers_of_the_kept_centre_and_of_several_channels_are_stitched() -> None:
    spec = PreprocessSpec(tiles=TileSpec(size_px=40, keep_px=32, step_px=24))
    plane = np.random.default_rng(0).random((50, 70), np.float32)

    def centres(tiles: FloatImage) -> FloatImage:
        inner = tiles[:, :, 4:-4, 4:-4]
        return np.concatenate([inner, 1 - inner], axis=1)

    (answer,) = answers([Planes(plane)], spec, FakeRuntime(centres))
    np.testing.assert_allclose(answer.stitched, np.stack([plane, 1 - plane]), atol=1e-5)


def test_fragments_are_measured_against_their_own_answers_before_they_are_blended() -> None:
    plane = np.full((32, 48), 0.5, np.float32)
    plane[4:12, 36:44] = 0.9  # in the second window only
    spec = PreprocessSpec(tiles=TILES)
    (answer,) = answers([Planes(plane)], spec, FakeRuntime(), measure_fragments=True)
    assert answer.fragments is not None
    np.testing.assert_array_equal(answer.fragments.boxes, [[0, 0, 32, 32], [16, 0, 32, 32]])
    np.testing.assert_allclose(answer.fragments.statistics["max"], [0.0, 0.4], atol=1e-6)
    np.testing.assert_allclose(answer.fragments.statistics["sum"], [0.0, 0.4 * 64], rtol=1e-5)


def test_the_worst_fragment_is_the_frames_score_and_every_statistic_is_recorded(tmp_path: Path) -> None:
    ready = judged(tmp_path, PreprocessSpec(tiles=TILES), ScoreSpec(map="l2", statistic="min", of="fragment"))
    plane = np.full((48, 64), 0.5, np.float32)
    plane[20:24, 30:34] = 0.2
    (score,) = ready.score([plane])
    assert score.raw == pytest.approx(0.3, abs=1e-6)
    assert {f"fragment_{name}" for name in FRAGMENT_STATISTICS} <= set(score.statistics)


def test_fragments_without_foreground_have_no_score() -> None:
    plane = np.zeros((32, 80), np.float32)
    foreground = np.zeros((32, 80), bool)
    foreground[:, :30] = True
    (answer,) = answers(
        [Planes(plane, foreground)], PreprocessSpec(tiles=TILES), FakeRuntime(), measure_fragments=True
    )
    assert answer.fragments is not None
    assert [box[0] for box in answer.fragments.boxes.tolist()] == [0, 16]


def masked_frame(folder: Path, boxes: Sequence[tuple[int, int]], defect: bool = False) -> Path:
    """Bright squares on black, 160×64; the defect is a dark spot in the last one."""
    pixels = np.zeros((64, 160), np.uint8)
    for x, y in boxes:
        pixels[y : y + 24, x : x + 24] = 128
    if defect:
        x, y = boxes[-1]
        pixels[y + 8 : y + 14, x + 8 : x + 14] = 250
    file = folder / f"{len(boxes)}{defect}.png"
    cv2.imwrite(str(file), pixels)
    return file


MASKED = PreprocessSpec(tiles=TILES, mask=MaskSpec(method="otsu", polarity="bright", close_times=1))


def test_what_is_not_the_part_has_no_score_and_objects_are_judged_one_by_one(tmp_path: Path) -> None:
    ready = judged(tmp_path, MASKED, ScoreSpec(map="l1", statistic="peak", peak_px=4, of="object"))
    file = masked_frame(tmp_path, [(10, 20), (60, 10), (120, 30)], defect=True)
    (frame,) = prepare_file(PrepareJob(file, "a.png", None, MASKED, LIMITS))
    assert frame.foreground is not None
    assert frame.foreground.sum() == pytest.approx(3 * 24 * 24, rel=0.02)
    (score,) = ready.score([planes_of(frame)])
    assert score.map[~frame.foreground].max() == 0
    assert [o.box[0] for o in sorted(score.objects, key=lambda o: o.box)] == [10, 60, 120]
    by_place = {o.box[0]: o.raw for o in score.objects}
    assert by_place[120] == score.raw > 0.3 > max(by_place[10], by_place[60])


def test_each_object_has_the_mean_of_its_own_highest_pixels(tmp_path: Path) -> None:
    spec = ScoreSpec(map="l1", statistic="top", top_ratio=36 / 576, of="object")
    ready = judged(tmp_path, MASKED, spec)
    file = masked_frame(tmp_path, [(10, 20), (60, 10), (120, 30)], defect=True)
    (frame,) = prepare_file(PrepareJob(file, "a.png", None, MASKED, LIMITS))
    (score,) = ready.score([planes_of(frame)])
    by_place = {o.box[0]: o.raw for o in score.objects}
    assert (
        by_place[120] == score.raw == pytest.approx(250 / 255 - 0.5, rel=0.01)
    )  # 36 pixels are the defect's
    assert max(by_place[10], by_place[60]) < 0.01
    assert score.statistics["top"] < 0.5 * score.raw  # over all three parts it is diluted


def test_objects_have_a_level_of_their_own(tmp_path: Path) -> None:
    ready = judged(tmp_path, MASKED, ScoreSpec(map="l1", statistic="level", min_area_px=20, of="object"))
    file = masked_frame(tmp_path, [(10, 20), (60, 10), (120, 30)], defect=True)
    (frame,) = prepare_file(PrepareJob(file, "a.png", None, MASKED, LIMITS))
    (score,) = ready.score([planes_of(frame)])
    by_place = {o.box[0]: o.raw for o in score.objects}
    assert by_place[120] == score.raw > 0.3 > max(by_place[10], by_place[60])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_many_faint_specks_are_rejected_by_the_top_though_none_is_a_peak(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """A bundle as it is stored, calibrated with good frames and asked about others."""
    spec, folder = ScoreSpec(map="l1", statistic="top", top_ratio=0.02), tmp_path_factory.mktemp("top")
    tiles = np.full((1, 1, 32, 32), 0.5, np.float32)
    stored = write_bundle(
        folder, name="b", model="fake", preprocess=PreprocessSpec(tiles=TILES), score=spec,
        output="reconstruction", onnx=b"none", golden=(tiles, tiles), training={},
    )  # fmt: skip
    assert stored.manifest.score == spec
    ready = Inspector(stored, FakeRuntime())
    rng = np.random.default_rng(seed)

    def frame(specks: int = 0) -> Frame:
        plane = (0.5 + rng.normal(0, 0.02, (64, 64))).astype(np.float32)
        at = rng.choice(64 * 64, specks, replace=False)
        plane.ravel()[at] += np.float32(0.12)
        return Frame(ImageInfo("a.png", "", 64, 64), plane, Identity())

    good = list(ready.good_frames(frame() for _ in range(20)))
    made = calibrate(
        good, recipe="b", bundle_sha256=stored.digest, statistic="top", false_reject=0.05, too_few="refuse"
    )
    speckled = frame(60)
    (seen,) = Inspector(stored, FakeRuntime(), made).inspect([speckled])
    assert seen.judgement.evaluation == "NotOK"
    off = np.sort(np.abs(speckled.plane - 0.5), axis=None)
    assert seen.score.raw == pytest.approx(off[-82:].mean(), rel=1e-5)  # 2 % of 64 × 64


def test_six_parts_in_sight_score_as_four_do(tmp_path: Path) -> None:
    ready = judged(tmp_path, MASKED, ScoreSpec(map="l1", statistic="mean"), lambda tiles: tiles * 0.8)
    places = [(x, y) for x in (5, 60, 115) for y in (4, 36)]
    raws = []
    for count in (4, 6):
        (frame,) = prepare_file(
            PrepareJob(masked_frame(tmp_path, places[:count]), "a.png", None, MASKED, LIMITS)
        )
        (score,) = ready.score([planes_of(frame)])
        raws.append(score.raw)
    assert raws[0] == pytest.approx(raws[1], rel=0.01)


def test_a_frame_in_which_nothing_is_found_is_not_decidable(tmp_path: Path) -> None:
    ready = judged(tmp_path, MASKED, ScoreSpec(map="l1", statistic="peak", peak_px=4))
    file = tmp_path / "black.png"
    cv2.imwrite(str(file), np.zeros((64, 160), np.uint8))
    (frame,) = prepare_file(PrepareJob(file, "a.png", None, MASKED, LIMITS))
    (inspection,) = ready.inspect([frame])
    assert inspection.judgement.evaluation == "NotDecidable"
    assert "score_not_finite" in inspection.judgement.reasons


def test_a_rectified_defect_is_reported_where_it_is_in_the_frame(tmp_path: Path) -> None:
    corners = ((20.0, 10.0), (120.0, 10.0), (120.0, 60.0), (20.0, 60.0))
    spec = PreprocessSpec(tiles=TILES, rectify=Rectify(size_px=(200, 100), points={"*": corners}))
    ready = judged(tmp_path, spec, ScoreSpec(map="l1", statistic="peak", peak_px=4))
    pixels = np.full((80, 160), 128, np.uint8)
    pixels[30:38, 70:80] = 250
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    (frame,) = prepare_file(PrepareJob(tmp_path / "a.png", "a.png", None, spec, LIMITS))
    assert frame.plane.shape == (100, 200)
    (inspection,) = ready.inspect([frame])
    (defect,) = inspection.judgement.defects
    assert defect.bbox == pytest.approx((70, 30, 10, 8), abs=2)
    assert defect.area_px == pytest.approx(80, rel=0.3)


def test_a_view_without_rectification_says_so(tmp_path: Path) -> None:
    corners = ((20.0, 10.0), (120.0, 10.0), (120.0, 60.0), (20.0, 60.0))
    spec = PreprocessSpec(tiles=TILES, rectify=Rectify(size_px=(200, 100), points={"01": corners}))
    file = write_frame(tmp_path / "P1_02.png")
    job = PrepareJob(file, file.name, None, spec, LIMITS, naming=compile_naming("{part}_{view}"))
    with pytest.raises(DataError, match="view 02 has no rectification") as caught:
        prepare_file(job)
    assert caught.value.reason == "view_not_rectified"


def mean_spec(folder: Path, means: Mapping[str, FloatImage]) -> PreprocessSpec:
    packed = pack_mean_masks(means)
    (folder / "mean_masks.npz").write_bytes(packed)
    sha256 = hashlib.sha256(packed).hexdigest()
    mask = MaskSpec(method="mean", close_px=0, min_area_ratio=0, file_sha256=sha256)
    return PreprocessSpec(tiles=TILES, mask=mask)


def test_mean_masks_that_were_replaced_are_not_used(tmp_path: Path) -> None:
    means = {"01": np.ones((48, 64), np.float32)}
    spec, file = mean_spec(tmp_path, means), write_frame(tmp_path / "P1_01.png")
    mean_spec(tmp_path, {"01": means["01"] * 0})
    with pytest.raises(DataError) as caught:
        prepare_file(PrepareJob(file, file.name, None, spec, LIMITS, assets=tmp_path, view="01"))
    assert caught.value.reason == "engine_replaced"
    assert caught.value.retryable  # at the next reload
    assert caught.value.reason in NOT_THE_FILES_FAULT


def test_a_worker_starts_whatever_is_wrong_with_a_recipes_masks(tmp_path: Path) -> None:
    broken = tmp_path / "mean_masks.npz"
    broken.write_bytes(b"no masks")
    mask = MaskSpec(method="mean", file_sha256=hashlib.sha256(b"no masks").hexdigest())
    warm_up([(tmp_path, mask), (tmp_path, MaskSpec(method="unet"))])


def test_a_mask_network_works_in_a_worker_that_gave_up_everything_else(tmp_path: Path) -> None:
    network = blurring_network()
    (tmp_path / MASK_MODEL).write_bytes(network)
    mask = MaskSpec(method="unet", network_px=32, file_sha256=hashlib.sha256(network).hexdigest())
    file = write_frame(tmp_path / "P1_01.png", defect=True)
    job = PrepareJob(file, file.name, None, PreprocessSpec(tiles=TILES, mask=mask), LIMITS, assets=tmp_path)
    (here,) = prepare_file(job)
    workers = DecodeWorkers(
        prepare_file, workers=1, timeout_s=30, memory_bytes=4 * 10**9,
        warm_up=partial(warm_up, [(tmp_path, mask)]),
    )  # fmt: skip
    try:
        (there,) = workers.submit(job).result(60)
    finally:
        workers.close()
    assert here.foreground is not None
    assert 0 < here.foreground.mean() < 1
    np.testing.assert_array_equal(there.foreground, here.foreground)
    np.testing.assert_array_equal(there.plane, here.plane)


def test_several_classes_are_masked_and_smoothed_as_one_is(tmp_path: Path) -> None:
    score = ScoreSpec(map="probability", statistic="level")
    foreground = np.zeros((40, 80), bool)
    foreground[:, :40] = True
    plane = np.zeros((40, 80), np.float32)
    plane[10:30, 50:70] = 0.9  # beside the part
    for channels in (1, 2):
        repeat = partial(np.repeat, repeats=channels, axis=1)
        ready = judged(tmp_path / str(channels), PreprocessSpec(tiles=TILES), score, repeat)
        (found,) = ready.score([Planes(plane, foreground)])
        assert found.raw == 0.0
        assert found.layers is None or found.layers.max() == 0


def test_mean_masks_are_those_of_the_frames_view(tmp_path: Path) -> None:
    means = {view: np.zeros((48, 64), np.float32) for view in ("01", "02", "file")}
    means["01"][:, :20] = 1.0
    means["02"][:, 40:] = 0.8
    spec = mean_spec(tmp_path, means)
    for view, area in (("01", 20 * 48), ("02", 24 * 48)):
        file = write_frame(tmp_path / f"P1_{view}.png")
        job = PrepareJob(
            file, file.name, None, spec, LIMITS, assets=tmp_path, naming=compile_naming("{part}_{view}")
        )
        (frame,) = prepare_file(job)
        assert frame.foreground is not None
        assert frame.foreground.sum() == area


def test_level_is_the_frames_score_only_where_a_region_is_large_enough(tmp_path: Path) -> None:
    score = ScoreSpec(map="probability", statistic="level", min_area_px=16)
    ready = judged(tmp_path, PreprocessSpec(tiles=TILES), score, lambda tiles: tiles)
    plane = np.full((40, 40), 0.1, np.float32)
    plane[3:5, 3:5] = 0.9  # a speck
    plane[20:26, 20:26] = 0.6
    (found,) = ready.score([plane])
    assert found.raw == pytest.approx(0.6)
