"""A few labelled defects beside good frames: tried, learned from or left out; the rest of them measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from edge.artifacts import sha256_of
from edge.calibrate import learned_id
from edge.dataset import Dataset, read_manifest
from edge.errors import UsageError
from edge.learn import few_defects, models
from edge.learn.defects import Verdict
from edge.learn.learn import LearnResult, learn
from edge.learn.models.anomaly_unet import AnomalyUNet, AnomalyUNetConfig
from edge.learn.progress import Event
from edge.learn.request import LearnRequest
from edge.preprocess import TileSpec


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    former, threads = models.MODELS, torch.get_num_threads()
    kind = replace(
        former["anomaly-unet"],
        build=lambda classes: AnomalyUNet(AnomalyUNetConfig(channels=(8, 16))),
        tiles=TileSpec(size_px=64, keep_px=48, step_px=48), window_px=32, batch=4, validation_batches=1,
    )  # fmt: skip
    models.MODELS = {**former, "anomaly-unet": kind}
    torch.set_num_threads(1)
    yield
    models.MODELS = former
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eight good frames, five defects with masks, three without, and one set aside for testing."""
    folder = tmp_path_factory.mktemp("frames")
    rows = ["path,label,mask,view,part,defect,split"]
    for k in range(17):
        rng, defect, marked = np.random.default_rng(k), k >= 8, 8 <= k < 13 or k == 16
        pixels, mask = np.clip(rng.normal(120, 8, (56, 64)), 0, 255), np.zeros((56, 64), np.uint8)
        if defect:
            pixels[20:32, 10 + k : 22 + k] += 90
            mask[20:32, 10 + k : 22 + k] = 255
            cv2.imwrite(str(folder / f"m{k}.png"), mask)
        cv2.imwrite(str(folder / f"{k}.png"), np.clip(pixels, 0, 255).astype(np.uint8))
        about = f"{'defect' if defect else 'good'},{f'm{k}.png' if marked else ''}"
        rows.append(f"{k}.png,{about},,p{k},,{'test' if k == 16 else ''}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return Dataset(folder, tuple(read_manifest(folder / "manifest.csv")))


def learned(
    dataset: Dataset, site: Path, monkeypatch: pytest.MonkeyPatch, use: str, **changed: Any
) -> tuple[LearnResult, list[str]]:
    """A run whose pilots are not learned: the verdict is given."""
    given = Verdict(use, f"real defects: {use}")  # type: ignore[arg-type]
    monkeypatch.setattr(few_defects, "judge_defects", lambda *args, **kwargs: given)
    said: list[Event] = []
    request = LearnRequest(
        "r", dataset, site / "engines", site / "calibration", model="anomaly-unet", steps=12
    )
    return learn(replace(request, **changed), said.append), [event.text for event in said]


@pytest.mark.parametrize("use", ["windows", "crops", "nothing"])
def test_what_is_learned_from_is_on_record_and_the_rest_measures(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    result, said = learned(dataset, tmp_path, monkeypatch, use)
    training = result.bundle.manifest.training
    of = {learned_id(sha256_of(s.file)) for s in dataset.samples if s.label == "defect"}
    assert len(of & set(training["learned_from"])) == (0 if use == "nothing" else 5)
    assert training["real_defects"]["use"] == use
    assert training["real_defects"]["frames_held"] == 3
    assert f"real defects: {use}" in said
    (recall,) = [text for text in said if "that were not learned from are found" in text]
    assert f"of {8 if use == 'nothing' else 3} defect frames" in recall
    assert result.calibrated is not None
    assert result.calibrated.calibration.recall is None
    assert not result.calibrated.defects


def test_a_recall_that_is_demanded_is_of_defects_that_were_not_learned_from(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = learned(dataset, tmp_path, monkeypatch, "windows", min_recall=0.9)
    assert result.calibrated is not None
    recall = result.calibrated.calibration.recall
    assert recall is not None
    assert (recall.demanded, recall.defects) == (0.9, 3)
    assert {frame.sample.path for frame in result.calibrated.defects} == {"13.png", "14.png", "15.png"}


def test_without_defects_a_recall_cannot_be_demanded(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Dataset(dataset.source, dataset.good())
    with pytest.raises(UsageError, match="--min-recall"):
        learned(good, tmp_path, monkeypatch, "nothing", min_recall=0.9)


def test_pilots_learn_and_the_run_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    said: list[Event] = []
    request = LearnRequest("r", dataset, tmp_path / "e", tmp_path / "c", model="anomaly-unet", steps=40)
    result = learn(request, said.append)
    assert any(event.text.startswith("pilot without defects") for event in said)
    assert result.bundle.manifest.training["real_defects"]["figures"]["folds"] == 3
    assert result.progress.step == 40
    assert not (tmp_path / "e" / ".r.resume").exists()
