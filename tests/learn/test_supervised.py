"""Recipes that learn from defects, or from masks of the part: from labelled frames to verdicts."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.calibrate_labelled import calibrate_labelled
from edge.dataset import Dataset, frames, read_manifest, samples
from edge.errors import DataError, UsageError
from edge.explain import open_explainer
from edge.infer.bundle import FRAGMENT_STATISTICS, load_bundle
from edge.infer.compile import open_runtime
from edge.judge.calibration import load_calibration
from edge.judge.thresholds import ThresholdRule
from edge.learn import models
from edge.learn.augment import Light, Movement
from edge.learn.learn import LearnResult, learn
from edge.learn.request import DEFAULT_LIMITS, LearnRequest, check_masks_are_used, score_for
from edge.pipeline import Inspection, Inspector
from edge.preprocess import MaskSpec, PreprocessSpec

HEIGHT, WIDTH = 80, 96


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    """Networks and preparation as they are; batches and windows are small."""
    former = models.MODELS
    models.MODELS = {
        name: replace(
            kind, batch=8, window_px=min(kind.window_px, 64) if kind.size_px is None else kind.window_px
        )
        for name, kind in models.MODELS.items()
    }
    yield
    models.MODELS = former


def texture(seed: int, enlarged: int = 1) -> np.ndarray:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 6, (enlarged * HEIGHT, enlarged * WIDTH))
    return np.clip(110 + noise, 0, 255).astype(np.float32)


def write_site(folder: Path, enlarged: int = 1) -> Path:
    """Twelve good frames, twelve with a bright disc, six with a dark bar; masks, and a manifest."""
    rows = [("path", "label", "mask", "view", "part", "defect", "split")]
    for k in range(30):
        plane = texture(k, enlarged)
        truth = np.zeros(plane.shape, np.uint8)
        kind = "" if k < 12 else "disc" if k < 24 else "bar"
        x, y = 20 + 5 * (k % 11), 20 + 7 * (k % 6)
        if kind == "disc":
            cv2.circle(truth, (x, y), 9, 255, -1)
        elif kind == "bar":
            cv2.rectangle(truth, (x, y), (x + 24, y + 7), 255, -1)
        plane[truth > 0] += 90 if kind == "disc" else -90
        cv2.imwrite(str(folder / f"f{k}.png"), np.clip(plane, 0, 255).astype(np.uint8))
        if kind:
            cv2.imwrite(str(folder / f"m{k}.png"), truth)
        split = "test" if k % 6 == 0 else ""
        rows.append(
            (f"f{k}.png", "defect" if kind else "good", f"m{k}.png" if kind else "", "", f"p{k}", kind, split)
        )
    with (folder / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("labelled"))


def request(site: Path, model: str, steps: int, **changes: object) -> LearnRequest:
    dataset = Dataset(site / "manifest.csv", tuple(read_manifest(site / "manifest.csv")))
    wanted = LearnRequest(
        model, dataset, site / "engines", site / "calibration", model=model, steps=steps, seed=1
    )
    return replace(wanted, **changes)  # type: ignore[arg-type]


def inspected(site: Path, result: LearnResult) -> Sequence[Inspection]:
    """The test frames as the daemon would judge them."""
    bundle = load_bundle(site / "engines" / result.model)
    calibration = load_calibration(site / "calibration" / f"{result.model}.json", bundle.digest)
    inspector = Inspector(bundle, open_runtime(bundle), calibration)
    aside = [s for s in read_manifest(site / "manifest.csv") if s.split == "test"]
    pages = frames(aside, bundle.manifest.preprocess, DEFAULT_LIMITS, assets=bundle.folder)
    return list(inspector.inspect([frame for _, frame in pages]))


def verdicts(inspections: Sequence[Inspection]) -> dict[str, str]:
    return {i.frame.image.path: i.judgement.evaluation for i in inspections}


TRUTH = {"f0.png": "OK", "f6.png": "OK", "f12.png": "NotOK", "f18.png": "NotOK", "f24.png": "NotOK"}


@pytest.mark.slow
def test_a_segmenter_names_classes_and_measures_their_areas(site: Path) -> None:
    result = learn(request(site, "segmenter", 60))
    assert result.bundle.manifest.classes == ("bar", "disc")
    found = inspected(site, result)
    assert verdicts(found) == TRUTH
    by_path = {i.frame.image.path: i.judgement for i in found}
    for path, name, area_px in (("f12.png", "disc", 253), ("f24.png", "bar", 200)):
        assert by_path[path].defects[0].kind == name
        assert by_path[path].class_areas[name] == pytest.approx(area_px, rel=0.35)


@pytest.mark.slow
def test_a_patch_network_finds_the_defects_where_they_are(site: Path) -> None:
    result = learn(request(site, "patch-cnn-29", 150))
    assert result.bundle.manifest.training["patch_px"] == 29
    found = inspected(site, result)
    assert verdicts(found) == TRUTH
    x, y, w, h = next(i for i in found if i.frame.image.path == "f12.png").judgement.defects[0].bbox
    assert x <= 25 <= x + w
    assert y <= 20 <= y + h


@pytest.mark.slow
def test_a_classifier_keeps_the_recall_that_was_demanded_and_says_what_it_proves(site: Path) -> None:
    result = learn(request(site, "supervised-ae", 150, min_recall=0.99))
    assert result.calibrated is not None
    recall = result.calibrated.calibration.recall
    assert recall is not None
    assert recall.measured == 1.0
    assert recall.lower_bound < 0.99, "a handful of defects prove no recall of 99 %"
    assert any("not 99.0%; 299 would prove it" in sentence for sentence in result.calibrated.shortfalls())
    assert verdicts(inspected(site, result)) == TRUTH
    explain = open_explainer(result.bundle)
    assert explain is not None
    side_px = result.bundle.manifest.preprocess.tiles.size_px
    maps = explain(np.full((side_px, side_px), 0.5, np.float32))
    assert set(maps) == {"smoothgrad-cam++", "xgrad-cam"}
    assert all(
        values.shape == (side_px, side_px) and 0 <= values.min() <= values.max() <= 1
        for values in maps.values()
    )


@pytest.mark.slow
def test_a_learned_foreground_masks_another_recipe(tmp_path: Path) -> None:
    site = tmp_path
    for name in ("frames", "masks"):
        (site / name).mkdir()
    for k in range(16):
        truth = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.circle(truth, (30 + 2 * k, 30 + k), 22, 255, -1)
        plane = np.where(truth > 0, texture(k) + 60, texture(k) * 0.4)
        cv2.imwrite(str(site / "frames" / f"f{k}.png"), np.clip(plane, 0, 255).astype(np.uint8))
        cv2.imwrite(str(site / "masks" / f"f{k}.png"), truth)
    wanted = LearnRequest(
        "masks", samples(site / "frames", masks=site / "masks"), site / "engines", site / "calibration",
        model="mask-unet", steps=80, seed=1,
    )  # fmt: skip
    learned = learn(wanted)
    assert learned.calibrated is None
    spec = PreprocessSpec(mask=MaskSpec(method="unet"))
    recipe = replace(
        wanted, recipe="part", dataset=samples(site / "frames"), model="fragment-cae", steps=4,
        preprocess=spec, mask_engine=site / "engines" / "masks",
    )  # fmt: skip
    bundle = learn(recipe).bundle
    assert {"mask.onnx", "mask_golden.npz"} <= set(bundle.manifest.files)
    (sample,) = [s for s in samples(site / "frames").samples if s.path == "f3.png"]
    ((_, frame),) = frames([sample], bundle.manifest.preprocess, DEFAULT_LIMITS, assets=bundle.folder)
    truth = cv2.imread(str(site / "masks" / "f3.png"), cv2.IMREAD_GRAYSCALE) > 127
    assert frame.foreground is not None
    assert (frame.foreground & truth).sum() / (frame.foreground | truth).sum() > 0.8
    assert not frame.plane[~frame.foreground].any()
    means = replace(
        recipe, recipe="mean", preprocess=PreprocessSpec(mask=MaskSpec(method="mean")), mask_engine=None
    )
    assert "mean_masks.npz" in learn(means).bundle.manifest.files


@pytest.mark.slow
def test_fragments_are_learned_around_defects(tmp_path: Path) -> None:
    site = write_site(tmp_path, enlarged=3)
    result = learn(request(site, "fragment-ae", 150, around_defects=True))
    assert result.calibrated is not None
    assert any(f.sample.label == "defect" for f in result.calibrated.frames)
    by_path = {i.frame.image.path: i for i in inspected(site, result)}
    assert by_path["f24.png"].judgement.evaluation == "NotOK"
    assert by_path["f24.png"].score.raw > 3 * by_path["f0.png"].score.raw


def test_a_supervised_model_without_defects_is_refused(site: Path) -> None:
    dataset = Dataset(site, tuple(s for s in read_manifest(site / "manifest.csv") if s.label == "good"))
    with pytest.raises(DataError, match="learns from defects, and there is none"):
        learn(request(site, "segmenter", 1, dataset=dataset))


def test_a_defect_frame_without_a_mask_is_refused_where_pixels_are_learned(site: Path) -> None:
    rows = [replace(s, mask=None, masks={}) for s in read_manifest(site / "manifest.csv")]
    with pytest.raises(DataError, match=r"f13\.png: a defect frame without a mask"):
        learn(request(site, "segmenter", 1, dataset=Dataset(site, tuple(rows))))


def test_frames_without_masks_teach_no_foreground(site: Path) -> None:
    with pytest.raises(DataError, match=r"no mask of its foreground"):
        learn(request(site, "mask-unet", 1))


def test_only_fragments_can_be_learned_around_defects(site: Path) -> None:
    with pytest.raises(UsageError, match="cannot learn around defects"):
        learn(request(site, "cae", 1, around_defects=True))


def test_a_loss_that_a_model_does_not_know_is_refused(site: Path) -> None:
    with pytest.raises(UsageError, match="--loss ssim: model segmenter learns with"):
        learn(request(site, "segmenter", 1, loss="ssim"))


def test_a_model_of_a_fixed_size_takes_no_other(site: Path) -> None:
    with pytest.raises(UsageError, match="sees frames at"):
        learn(request(site, "supervised-ae", 1, preprocess=PreprocessSpec(scale=0.5)))


def test_labelled_thresholds_need_frames_that_were_not_learned_from(tmp_path: Path) -> None:
    from edge.testing import FakeRuntime, fake_bundle

    site = write_site(tmp_path)
    bundle = fake_bundle(tmp_path / "engines" / "b")
    manifest = bundle.manifest.model_copy(
        update={
            "training": {"learned_from": [_learned_id(s.file) for s in read_manifest(site / "manifest.csv")]}
        }
    )
    with pytest.raises(DataError, match="30 were learned"):
        calibrate_labelled(
            read_manifest(site / "manifest.csv"), bundle.model_copy(update={"manifest": manifest}),
            FakeRuntime(), tmp_path / "c.json", recipe="b", rule=ThresholdRule(), limits=DEFAULT_LIMITS,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("goods", "min_recall", "basis"), [(12, None, "f1"), (12, 0.9, "recall"), (0, None, "pixels")]
)
def test_labelled_thresholds_separate_what_can_be_separated(
    tmp_path: Path, goods: int, min_recall: float | None, basis: str
) -> None:
    from edge.testing import FakeRuntime, fake_bundle

    rows = [s for s in read_manifest(write_site(tmp_path) / "manifest.csv") if s.defect != "bar"]
    bundle = fake_bundle(tmp_path / "engines" / "b")

    def bright(tiles: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]  # reconstructs all but what is bright
        return np.where(tiles > 0.6, tiles - 0.4, tiles)

    good = [s for s in rows if s.label == "good"][:goods]
    result = calibrate_labelled(
        [*good, *(s for s in rows if s.label == "defect")], bundle, FakeRuntime(bright), tmp_path / "c.json",
        recipe="b", rule=ThresholdRule(), limits=DEFAULT_LIMITS, min_recall=min_recall,
    )  # fmt: skip
    (limits,) = result.calibration.views.values()
    assert limits.basis == basis
    assert 0.05 < limits.threshold < 0.4
    assert 0.05 < limits.pixel_threshold < 0.4
    assert result.calibration.recall is None or result.calibration.recall.measured >= 0.9


def _learned_id(file: Path) -> str:
    import hashlib

    from edge.calibrate import learned_id

    return learned_id(hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("model", "changes", "says"),
    [
        ("fragment-ae", {"min_recall": 0.99}, "--min-recall has no effect"),
        ("fragment-ae", {"movement": Movement(degrees=5)}, "--rotate has no effect"),
        ("segmenter", {"light": Light(gain=0.2)}, "--light has no effect"),
        ("cae", {"patch_rule": "pure"}, "--patch-rule has no effect"),
        ("cae", {"stride": 2}, "--stride has no effect"),
        ("supervised-ae", {"unseen_views": "adaptive"}, "--unseen-views has no effect"),
        ("fragment-ae", {"score": {"statistic": "peak"}}, "no such score: statistic peak of a fragment"),
        ("segmenter", {"score": {"map": "ssim"}}, "answers a probability"),
        ("cae", {"score": {"of": "object"}}, "needs to know what is an object"),
        ("cae", {"score": {"statistic": "mean", "peak_px": 5}}, "--peak has no effect"),
        ("cae", {"score": {"min_area_px": 30}}, "--min-area has no effect"),
        (
            "supervised-ae",
            {"min_recall": 0.9, "rule": ThresholdRule("mad", k=9.0)},
            "--threshold has no effect",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused_before_anything_is_read(
    site: Path, model: str, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        learn(request(site, model, 1, **changes))


def test_every_statistic_of_a_fragment_can_be_itsscore_for(site: Path) -> None:
    for statistic in FRAGMENT_STATISTICS:
        wanted = request(site, "fragment-ae", 1, score={"statistic": statistic})
        assert score_for(wanted, models.MODELS["fragment-ae"]).statistic == statistic


def test_a_recall_that_only_a_threshold_of_nothing_has_is_refused(tmp_path: Path) -> None:
    from edge.testing import FakeRuntime, fake_bundle

    rows = read_manifest(write_site(tmp_path) / "manifest.csv")

    def bright(tiles: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]  # reconstructs bars as well
        return np.where(tiles > 0.6, tiles - 0.4, tiles)

    with pytest.raises(DataError, match=r"6 of 18 defect frames score 0") as caught:
        calibrate_labelled(
            rows, fake_bundle(tmp_path / "engines" / "b"), FakeRuntime(bright), tmp_path / "c.json",
            recipe="b", rule=ThresholdRule(), limits=DEFAULT_LIMITS, min_recall=0.99,
        )  # fmt: skip
    assert caught.value.reason == "recall_not_reached"
    assert not (tmp_path / "c.json").exists()


def test_masks_of_nothing_teach_no_foreground(tmp_path: Path) -> None:
    for k in range(3):
        for folder, level in (("frames", 120), ("masks", 0)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{k}.png"), np.full((40, 40), level, np.uint8))
    dataset = samples(tmp_path / "frames", masks=tmp_path / "masks")
    with pytest.raises(DataError, match="all 3 masks are empty, or full"):
        learn(LearnRequest("m", dataset, tmp_path / "e", tmp_path / "c", model="mask-unet", steps=1))


def test_a_good_frame_in_which_defects_are_marked_is_refused(site: Path) -> None:
    rows = read_manifest(site / "manifest.csv")
    marked = next(s.mask for s in rows if s.label == "defect")
    contradicting = [replace(s, mask=marked) if s.path == "f1.png" else s for s in rows]
    with pytest.raises(DataError, match=r"f1\.png: labelled good, but m12\.png marks 253 pixels"):
        learn(request(site, "segmenter", 1, dataset=Dataset(site, tuple(contradicting))))


def test_nothing_to_learn_around_is_said(site: Path) -> None:
    good = tuple(s for s in read_manifest(site / "manifest.csv") if s.label == "good")
    with pytest.raises(DataError, match="no defect frame with a mask to learn around"):
        learn(request(site, "fragment-ae", 1, around_defects=True, dataset=Dataset(site, good)))


@pytest.mark.parametrize("model", ["frequency-unet", "cae"])
def test_masks_that_a_model_would_leave_aside_are_refused(model: str) -> None:
    with pytest.raises(UsageError, match="--masks has no effect"):
        check_masks_are_used(model)
