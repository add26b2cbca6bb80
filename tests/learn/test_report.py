"""The learning report, with what is found of planted defects and with the good crops nearest to a place."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.calibrate import Calibrated, calibrate_recipe, learned_id
from edge.dataset import Dataset, Sample, frames, read_folder
from edge.decode import Limits
from edge.detectability import detect_planted, save
from edge.infer.bundle import Bundle, ScoreSpec, load_bundle, write_bundle
from edge.inspect import Keeper
from edge.learn.data_record import in_order, record_of
from edge.learn.report import _grouped, _joined, sure_bound, write_report
from edge.neighbours import FILE, GoodPlane, gather, pack
from edge.pipeline import Inspector
from edge.preprocess import PreprocessSpec, TileSpec
from edge.testing import FakeRuntime, write_frame
from edge.types import FloatImage

LIMITS = Limits(10**6, 1)
SPEC = PreprocessSpec(tiles=TileSpec(size_px=32, keep_px=32, step_px=32))


def smoothed(tiles: FloatImage) -> FloatImage:
    return np.stack([cv2.blur(tile[0], (9, 9))[None] for tile in tiles]).astype(np.float32)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("frames")
    for seed in range(12):
        write_frame(folder / f"{seed:02d}.png", size=(144, 132), seed=seed)
    return read_folder(folder, None)


def bundle_of(folder: Path, good: Dataset, learned_from: list[str]) -> Bundle:
    tiles = np.full((1, 1, 32, 32), 0.5, np.float32)
    planes = [GoodPlane(s.path, "default", f.plane) for s, f in frames(good.samples[:4], SPEC, LIMITS)]
    training = {
        "why_model": "as asked for",
        "truth": "none",
        "seed": 0,
        "steps": 9,
        "best_step": 9,
        "stopped": "time is up",
        "restarts": 0,
        "seconds": 9.0,
        "loss": "l1",
        "validation_loss": 0.1,
        "learning_rate": 0.001,
        "window_px": 32,
        "batch": 4,
        "augmentation": "none",
        "bf16": False,
        "threads": 1,
        "learned_from": learned_from,
        "learned_from_sha256": "",
        "frames": {"train": {"default": 4}, "validation": {}, "calibration": {"default": 8}},
    }
    return write_bundle(
        folder, name="grey", model="fake", preprocess=SPEC,
        score=ScoreSpec(map="l1", statistic="peak", peak_px=4),
        output="reconstruction", onnx=b"none", golden=(tiles, tiles), training=training,
        extra={FILE: pack(gather(planes, 4, most=30))},
    )  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, good: Dataset) -> tuple[Inspector, Calibrated]:
    folder = tmp_path_factory.mktemp("recipe")
    bundle = bundle_of(folder / "grey", good, [])
    runtime = FakeRuntime(smoothed)
    calibrated = calibrate_recipe(
        good.samples[4:], bundle, runtime, folder / "grey.json", recipe="grey", false_reject=0.2,
        too_few="pool", limits=LIMITS,
    )  # fmt: skip
    return Inspector(bundle, runtime, calibrated.calibration), calibrated


def test_the_report_tells_what_is_found_what_fired_and_what_is_like_it(
    recipe: tuple[Inspector, Calibrated],
) -> None:
    inspector, calibrated = recipe
    bundle = inspector.bundle
    found = detect_planted(calibrated, inspector, LIMITS, seconds=1e9, most=340)
    assert found is not None
    assert found.learned_frames == 0
    file = write_report(
        bundle.folder / "report.html", bundle=bundle, calibrated=calibrated, runtime=inspector.runtime,
        limits=LIMITS, curve=[], agreement={}, left_out=[], detectability=found,
    )  # fmt: skip
    text = file.read_text()
    assert f"{found.planted} test defects of known size and contrast" in text
    for one in found.curves:
        assert f"{len(one.trials)} planted, {one.found} found" in text
    assert text.count("the place that scored highest") >= 6
    assert text.count('title="0') >= 6 * 3, "good crops with the names of their frames"
    peak = max(calibrated.frames, key=lambda entry: entry.good.raw).good.raw
    assert f"peak {peak:.4g} (threshold" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_without_them_the_report_has_no_such_section(
    recipe: tuple[Inspector, Calibrated], tmp_path: Path
) -> None:
    inspector, calibrated = recipe
    text = write_report(
        tmp_path / "report.html", bundle=inspector.bundle, calibrated=calibrated, runtime=inspector.runtime,
        limits=LIMITS, curve=[], agreement={}, left_out=[],
    ).read_text()  # fmt: skip
    assert "What it finds" not in text


def test_what_is_found_lies_beside_the_bundle_and_leaves_it_whole(
    recipe: tuple[Inspector, Calibrated],
) -> None:
    inspector, calibrated = recipe
    found = detect_planted(calibrated, inspector, LIMITS, seconds=1e9, most=30)
    assert found is not None
    document = json.loads(save(inspector.bundle.folder, found).read_text())
    assert document["bundle_sha256"] == inspector.bundle.digest == load_bundle(inspector.bundle.folder).digest
    assert document["calibration_sha256"] == calibrated.calibration.digest


def test_only_frames_that_are_ok_are_planted_in(recipe: tuple[Inspector, Calibrated]) -> None:
    inspector, calibrated = recipe
    limits = calibrated.calibration.views["default"]
    strict = limits.model_copy(update={"threshold": min(e.good.raw for e in calibrated.frames) * 0.99})
    views = calibrated.calibration.model_copy(update={"views": {"default": strict}})
    assert detect_planted(replace(calibrated, calibration=views), inspector, LIMITS) is None


def test_frames_that_were_learned_from_are_counted(
    recipe: tuple[Inspector, Calibrated], good: Dataset, tmp_path: Path
) -> None:
    """A calibration by folds scores them by networks that had not seen them; this one has."""
    inspector, calibrated = recipe
    seen = [learned_id(f.image.sha256) for _, f in frames(good.samples[4:], SPEC, LIMITS)]
    assert inspector.calibration is not None
    other = Inspector(bundle_of(tmp_path / "b", good, seen), inspector.runtime, inspector.calibration)
    found = detect_planted(calibrated, other, LIMITS, seconds=1e9, most=20)
    assert found is not None
    assert found.learned_frames == found.frames > 0


def test_inspect_keeps_a_rejected_place_beside_its_nearest_good_crops(
    recipe: tuple[Inspector, Calibrated], tmp_path: Path
) -> None:
    inspector, _ = recipe
    file = write_frame(tmp_path / "bad.png", defect=True, size=(144, 132), seed=99)
    ok = write_frame(tmp_path / "ok.png", size=(144, 132), seed=0)
    keeper = Keeper(tmp_path / "out", inspector)
    for one, evaluation in ((file, "NotOK"), (ok, "OK")):
        ((_, frame),) = frames([Sample(one, one.name, "")], SPEC, LIMITS)
        (inspection,) = inspector.inspect([frame])
        assert inspection.judgement.evaluation == evaluation
        keeper.keep(one, one.name, {"resultEvaluation": evaluation, "image": {}}, inspection)
    picture = cv2.imread(str(tmp_path / "out/neighbours/bad.png.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    assert picture[:, :192].max() > 230  # the bright patch, and no good crop has one
    assert picture[:, 216:408].max() < 180
    assert not (tmp_path / "out/neighbours/ok.png.png").exists()


def test_the_share_that_is_surely_not_rejected_is_that_of_clopper_and_pearson(
    recipe: tuple[Inspector, Calibrated],
) -> None:
    _, calibrated = recipe
    calibration = calibrated.calibration
    limits = calibration.views["default"]
    above = limits.model_copy(update={"threshold": 2 * max(limits.scores)})
    count = len(limits.scores)
    # none of n rejected: the share of which none is rejected with probability 0.05
    assert sure_bound(above, calibration) == pytest.approx(1 - 0.05 ** (1 / count))
    one_part = above.model_copy(update={"parts": (0,) * count})
    assert sure_bound(one_part, calibration) == pytest.approx(0.95)
    second = sorted(limits.scores)[-2]
    among = limits.model_copy(update={"threshold": second, "basis": "view"})
    found = sure_bound(among, calibration)
    assert found is not None
    no_more_than_one = (1 - found) ** count + count * found * (1 - found) ** (count - 1)
    assert no_more_than_one == pytest.approx(0.05, rel=1e-6)
    assert sure_bound(limits.model_copy(update={"basis": "recall"}), calibration) is None
    crossed = calibration.model_copy(update={"procedure": "cross"})
    assert sure_bound(limits, crossed) is None


def test_the_report_is_complete_for_an_audit_and_can_be_printed(
    recipe: tuple[Inspector, Calibrated], good: Dataset, tmp_path: Path
) -> None:
    inspector, calibrated = recipe
    bundle = inspector.bundle
    record = record_of(good, {}, [])
    text = write_report(
        tmp_path / "report.html", bundle=bundle, calibrated=calibrated, runtime=inspector.runtime,
        limits=LIMITS, curve=[], agreement={"fp32": 1e-6}, left_out=[], data=record,
    ).read_text()  # fmt: skip
    digests = [bundle.digest, calibrated.calibration.digest, record.digest, bundle.manifest.preprocess_digest]
    for digest in (*digests, *bundle.manifest.files.values()):
        assert digest in text
    for name in ("illumination", "tiles.size_px", "peak_px", "Python", "CPU", "sure at 95 %", "12 not used"):
        assert name in text
    assert "@media print" in text
    assert "<details" not in text, "what is folded is not printed"
    assert "<script" not in text
    assert text.count("<img") == text.count(' alt="')
    targets = re.findall(r'href="#(\w+)"', text)
    assert targets
    assert all(f'id="{target}"' in text for target in targets)


def test_views_of_which_the_same_is_said_are_told_in_one_sentence() -> None:
    said = ["view 1: too few", "view 2: too few", "view 3: worse", "parts: none", "no view: at all"]
    assert _grouped(said) == ["views 1, 2: too few", "view 3: worse", "parts: none", "no view: at all"]


def test_defects_that_were_held_out_have_their_curves(
    recipe: tuple[Inspector, Calibrated], tmp_path: Path
) -> None:
    inspector, calibrated = recipe
    ordered = sorted(calibrated.frames, key=lambda entry: entry.good.raw)
    defects = replace(calibrated, frames=tuple(ordered[:4]), defects=tuple(ordered[4:]))
    text = write_report(
        tmp_path / "report.html", bundle=inspector.bundle, calibrated=defects, runtime=inspector.runtime,
        limits=LIMITS, curve=[], agreement={}, left_out=[],
    ).read_text()  # fmt: skip
    assert "4 defect and 4 good calibration frames" in text
    assert "AUROC 1.000" in text
    assert "The defect frames that look best" in text


def test_neighbouring_views_with_the_same_figures_are_one_row() -> None:
    rows = [{"view": view, "frames": frames} for view, frames in (("1", 2), ("2", 2), ("3", 1), ("10", 2))]
    assert _joined(rows) == [
        {"view": "1 – 2", "frames": 2}, {"view": "3", "frames": 1}, {"view": "10", "frames": 2},
    ]  # fmt: skip
    assert sorted(("10", "2", "a10", "a9", "default"), key=in_order) == ["a9", "a10", "default", "2", "10"]
