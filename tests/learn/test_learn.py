"""Good frames → a recipe that judges: on a simulated texture, with a small batch so that it takes seconds."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.calibrate import learned_id
from edge.dataset import Dataset, frames, read_folder, read_manifest
from edge.errors import DataError, TryAgainError, UsageError
from edge.infer.bundle import load_bundle
from edge.infer.compile import open_runtime
from edge.judge.calibration import load_calibration
from edge.learn import learn as module
from edge.learn import models
from edge.learn.learn import LearnResult, learn
from edge.learn.models import MODELS
from edge.learn.progress import Event
from edge.learn.report import write_report
from edge.learn.request import DEFAULT_LIMITS, LearnRequest
from edge.learn.specimens import unlike_each_other
from edge.pipeline import Inspector
from edge.types import ImageInfo

STEPS = 60


def texture(seed: int, defect: bool = False) -> NDArray[np.uint8]:
    """A brushed surface, (96, 112); a defect is a round blot."""
    rng = np.random.default_rng(seed)
    plane = cv2.GaussianBlur(rng.standard_normal((96, 112)), (0, 0), sigmaX=6, sigmaY=1.2)
    plane = 120 + 25 * plane / plane.std() + rng.normal(0, 2, plane.shape)
    if defect:
        cv2.circle(plane, (60, 40), 9, 235.0, -1, cv2.LINE_AA)
    return np.clip(plane, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    former = models.MODELS
    models.MODELS = {name: replace(kind, batch=8) for name, kind in MODELS.items()}
    yield
    models.MODELS = former


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good frames and a defect, two good ones set aside for testing, and one file that is no image."""
    folder = tmp_path_factory.mktemp("site")
    rows = ["path,label,mask,view,part,defect,split"]
    for k in range(12):
        cv2.imwrite(str(folder / f"good{k}.png"), texture(k))
        rows.append(f"good{k}.png,good,,,p{k // 2},,{'test' if k >= 10 else ''}")
    cv2.imwrite(str(folder / "bad.png"), texture(99, defect=True))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows += ["bad.png,defect,,,p9,blot,", "broken.png,good,,,p8,,"]
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def request(site: Path, **changes: object) -> LearnRequest:
    dataset = Dataset(site / "manifest.csv", tuple(read_manifest(site / "manifest.csv")))
    wanted = LearnRequest("blot", dataset, site / "engines", site / "calibration", steps=STEPS, seed=1)
    return replace(wanted, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def learned(site: Path) -> tuple[LearnResult, list[Event]]:
    said: list[Event] = []
    return learn(request(site), said.append), said


def test_learned_recipe_rejects_an_obvious_defect_far_more_surely_than_any_good_frame(
    site: Path, learned: tuple[LearnResult, list[Event]]
) -> None:
    bundle = load_bundle(site / "engines" / "blot")
    calibration = load_calibration(site / "calibration" / "blot.json", bundle.digest)
    inspector = Inspector(bundle, open_runtime(bundle), calibration)
    aside = [s for s in read_manifest(site / "manifest.csv") if s.split == "test" or s.label == "defect"]
    inspections = list(
        inspector.inspect([f for _, f in frames(aside, bundle.manifest.preprocess, DEFAULT_LIMITS)])
    )
    # the threshold is of one part, and promises to reject at most half of the good frames
    judged = {entry.frame.image.path: entry.judgement for entry in inspections}
    scores = {path: one.score or math.inf for path, one in judged.items()}
    assert judged["bad.png"].evaluation == "NotOK"
    assert judged["good11.png"].evaluation == "OK"
    assert scores["bad.png"] > 1.5 * max(scores["good10.png"], scores["good11.png"])
    x, y, w, h = inspections[-1].judgement.defects[0].bbox
    assert x <= 60 <= x + w
    assert y <= 40 <= y + h


def test_parts_are_whole_and_test_rows_and_defects_never_used(
    site: Path, learned: tuple[LearnResult, list[Event]]
) -> None:
    result, _ = learned
    assert {*result.split.train, *result.split.calibration} == {f"p{k}" for k in range(5)}
    by_id = {learned_id(f.image.sha256): s for s, f in _frames_of(site)}
    used = {by_id[identity].part for identity in result.bundle.manifest.training["learned_from"]}
    assert used == set(result.split.train)
    assert result.calibrated is not None
    assert {entry.sample.part for entry in result.calibrated.frames} == set(result.split.calibration)
    assert result.calibrated.learned == ()


def _frames_of(site: Path) -> list[tuple[object, object]]:  # pairs of Sample and Frame
    spec = load_bundle(site / "engines" / "blot").manifest.preprocess
    return list(frames(read_manifest(site / "manifest.csv"), spec, DEFAULT_LIMITS, None, []))


def test_it_says_what_it_chose_and_what_it_left_out(learned: tuple[LearnResult, list[Event]]) -> None:
    result, said = learned
    sentences = "\n".join(event.text for event in said if event.share is None)
    assert "model anomaly-unet: 11 good frames" in sentences
    assert "left out: broken.png" in sentences
    assert "WARNING view default: 2 calibration frames of 1 part bound false rejects to 50.0%" in sentences
    assert result.agreement["fp32"] <= 1e-3  # type: ignore[operator]


def test_report_is_self_contained_and_tells_what_matters(
    site: Path, learned: tuple[LearnResult, list[Event]]
) -> None:
    result, _ = learned
    text = (site / "engines" / "blot" / "report.html").read_text()
    assert result.bundle.digest in text
    assert text.count("data:image/jpeg;base64,") >= 2 * 2, "two calibration frames, each with its map"
    assert "at most 50.0 % rejected" in text
    assert "broken.png" in text
    assert "<polyline" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "good frames learned from" in text
    assert "take it out and learn again" in text


def test_a_report_of_what_was_learned_around_defects_calls_no_defect_frame_good(
    learned: tuple[LearnResult, list[Event]], tmp_path: Path
) -> None:
    bundle = learned[0].bundle
    training = bundle.manifest.training | {"around_defects": True}
    around = bundle.model_copy(update={"manifest": bundle.manifest.model_copy(update={"training": training})})
    file = write_report(
        tmp_path / "report.html", bundle=around, calibrated=learned[0].calibrated,
        runtime=open_runtime(bundle), limits=DEFAULT_LIMITS, curve=[(1, 1.0, 1.0)],
        agreement={}, left_out=[],
    )  # fmt: skip
    text = file.read_text()
    assert ">frames learned from, defects left out<" in text
    assert "good frames learned from" not in text
    assert "take it out" not in text


@pytest.mark.slow
def test_same_seed_and_steps_give_the_same_model_file(
    site: Path, learned: tuple[LearnResult, list[Event]], tmp_path: Path
) -> None:
    again = learn(request(site, engines=tmp_path / "engines", calibration=tmp_path / "calibration"))
    assert again.bundle.manifest.files["model.onnx"] == learned[0].bundle.manifest.files["model.onnx"]
    assert again.calibrated is not None
    assert learned[0].calibrated is not None
    first, second = (r.calibration.views["default"] for r in (learned[0].calibrated, again.calibrated))
    assert second.threshold == pytest.approx(first.threshold, rel=1e-4)


@pytest.mark.slow
def test_interrupted_command_continues_and_leaves_nothing_behind(site: Path, tmp_path: Path) -> None:
    wanted = request(site, engines=tmp_path / "engines", calibration=tmp_path / "calibration", steps=12)

    def stop(event: Event) -> None:
        if event.text.startswith("step 5"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TryAgainError, match="6 steps"):
        learn(wanted, stop)
    resume = tmp_path / "engines" / ".blot.resume"
    assert sorted(file.name for file in resume.iterdir()) == ["checkpoint.pt", "defects.json"]
    said: list[Event] = []
    learn(replace(wanted, seed=2), said.append)
    assert any("starts afresh" in event.text for event in said)
    with pytest.raises(TryAgainError):
        learn(wanted, stop)
    learn(wanted, said.append)
    assert any("continues an interrupted run at step 6" in event.text for event in said)
    assert {file.name for file in (tmp_path / "engines").iterdir()} == {"blot", ".blot.previous"}
    assert {file.name for file in (tmp_path / "calibration").iterdir()} == {
        "blot.json",
        ".blot.previous.json",
    }


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["to_onnx", "golden_pair", "agreement_of", "calibrate_for", "write_report"])
def test_old_recipe_stays_whole_when_learning_it_again_crashes(
    site: Path, learned: tuple[LearnResult, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:  # fmt: skip
    shutil.copytree(site / "engines", tmp_path / "engines")
    shutil.copytree(site / "calibration", tmp_path / "calibration")
    wanted = request(site, engines=tmp_path / "engines", calibration=tmp_path / "calibration", steps=2)

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(module, where, crash)
        with pytest.raises(Crash):
            learn(wanted)
    bundle = load_bundle(tmp_path / "engines" / "blot")
    assert bundle.digest == learned[0].bundle.digest
    load_calibration(tmp_path / "calibration" / "blot.json", bundle.digest)
    again = learn(wanted)
    assert again.bundle.folder == tmp_path / "engines" / "blot"
    assert again.bundle.digest != bundle.digest
    load_calibration(tmp_path / "calibration" / "blot.json", again.bundle.digest)
    assert {file.name for file in (tmp_path / "engines").iterdir()} == {"blot", ".blot.previous"}
    assert {file.name for file in (tmp_path / "calibration").iterdir()} == {
        "blot.json",
        ".blot.previous.json",
    }


def test_data_that_cannot_support_it_are_refused_before_learning(site: Path, tmp_path: Path) -> None:
    good = [s for s in read_folder(site, None).samples if s.path.startswith("good")]
    with pytest.raises(DataError, match="needs 19 good calibration frames") as caught:
        learn(request(site, dataset=Dataset(site, tuple(good)), engines=tmp_path, too_few="refuse"))
    assert caught.value.reason == "too_few_frames"
    with pytest.raises(DataError, match="at least 2 are needed") as caught:
        learn(request(site, dataset=Dataset(site, tuple(good[:1])), engines=tmp_path, model="cae"))
    assert caught.value.reason == "too_few_frames"
    assert not list(tmp_path.rglob("*.onnx"))


def test_one_good_frame_gives_a_recipe_that_promises_nothing(site: Path, tmp_path: Path) -> None:
    good = [s for s in read_folder(site, None).samples if s.path.startswith("good")][:1]
    said: list[Event] = []
    wanted = request(site, dataset=Dataset(site, tuple(good)), engines=tmp_path, calibration=tmp_path / "c")
    result = learn(replace(wanted, steps=3), said.append)
    assert result.calibrated is not None
    (limits,) = result.calibrated.calibration.views.values()
    assert limits.false_reject_bound == 1.0
    assert 0 < limits.threshold < 1
    assert any("promise nothing" in event.text for event in said)


@pytest.mark.slow
def test_crossed_thresholds_come_from_networks_that_did_not_learn_the_frame(
    site: Path, tmp_path: Path
) -> None:
    wanted = request(site, engines=tmp_path, calibration=tmp_path / "c", steps=3, procedure="cross")
    said: list[Event] = []
    result = learn(wanted, said.append)
    assert result.calibrated is not None
    calibration = result.calibrated.calibration
    assert calibration.procedure == "cross"
    assert {f.sample.part for f in result.calibrated.frames} == {f"p{k}" for k in range(5)}, "none is wasted"
    assert calibration.views["default"].false_reject_bound == 1.0
    assert calibration.views["default"].false_reject_estimate is not None
    assert len(result.bundle.manifest.training["learned_from"]) == 10
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
    assert sum("fold" in event.text for event in said) == 4


def test_crossing_needs_two_parts(site: Path, tmp_path: Path) -> None:
    good = [s for s in read_folder(site, None).samples if s.path.startswith("good")][:1]
    wanted = request(site, dataset=Dataset(site, tuple(good)), engines=tmp_path, procedure="cross", steps=2)
    with pytest.raises(DataError, match="cannot be dealt into folds"):
        learn(wanted)


def test_train_leaves_thresholds_to_calibrate(site: Path, tmp_path: Path) -> None:
    result = learn(request(site, engines=tmp_path, calibration=tmp_path / "c", calibrate=False, steps=2))
    assert result.calibrated is None
    assert not (tmp_path / "c").exists()
    assert "edge calibrate" in result.report.read_text()


def test_names_and_models_that_cannot_be_are_refused(site: Path) -> None:
    with pytest.raises(UsageError, match="cannot be a recipe's name"):
        learn(request(site, recipe="../evil"))
    with pytest.raises(UsageError, match="no model"):
        learn(request(site, model="resnet"))


def test_training_facts_are_plain_json(learned: tuple[LearnResult, list[Event]]) -> None:
    facts = json.loads(json.dumps(learned[0].bundle.manifest.training))
    assert facts["steps"] == STEPS
    assert facts["frames"]["train"] == {"default": 8}
    assert "torch" in sys.modules


def test_frames_unlike_each_other_are_mentioned() -> None:
    usual = [ImageInfo(str(i), "", 300, 200, 8) for i in range(5)]
    assert unlike_each_other(usual) == []
    said = unlike_each_other([*usual, ImageInfo("x", "", 4, 4, 16)])
    assert said[0] == "5 of 6 frames are 300×200, the rest of other sizes (1)"
    assert "16 bits" in said[1]
