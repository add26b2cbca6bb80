"""Frames that always show the same scene: the model that `edge learn` chooses for them, from end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge.dataset import read_folder
from edge.errors import DataError, UsageError
from edge.evaluate import evaluate
from edge.infer.compile import open_runtime
from edge.learn import models
from edge.learn.learn import LearnResult, learn
from edge.learn.models.anomaly_unet import AnomalyUNet, AnomalyUNetConfig
from edge.learn.models.features import BankConfig, FeatureDistance, FeaturesConfig
from edge.learn.models.fusion import SegmenterWithFeatures
from edge.learn.progress import Event
from edge.learn.request import DEFAULT_LIMITS, LearnRequest
from edge.learn.split import Split
from edge.pipeline import Inspector
from edge.preprocess import TileSpec

SIDE = 64
Learn = Callable[..., tuple[LearnResult, list[str]]]


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    former, threads = models.MODELS, torch.get_num_threads()

    def built(classes: int) -> SegmenterWithFeatures:
        config = FeaturesConfig("aligned", size_px=SIDE, kinds=4, bank=BankConfig(stride_px=8))
        unet = AnomalyUNet(AnomalyUNetConfig(channels=(8, 16)))
        return SegmenterWithFeatures(unet, FeatureDistance(config))

    small = dict(window_px=32, batch=4, validation_batches=1)
    one = TileSpec(size_px=SIDE, keep_px=SIDE, step_px=SIDE)
    models.MODELS = {
        **former,
        "fusion-aligned": replace(
            former["fusion-aligned"], build=built, tiles=one, size_px=(SIDE, SIDE), **small
        ),  # type: ignore[arg-type]
        "anomaly-unet": replace(
            former["anomaly-unet"],
            build=lambda classes: AnomalyUNet(AnomalyUNetConfig(channels=(8, 16))),
            **small,
        ),  # type: ignore[arg-type]
    }
    torch.set_num_threads(1)
    yield
    models.MODELS = former
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen frames of one object, 90×100, with noise."""
    folder = tmp_path_factory.mktemp("scene")
    base = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(90, 100)), (0, 0), 4.0)
    for k in range(16):
        noise = np.random.default_rng(k + 10).normal(0, 3, base.shape)
        frame = np.clip(128 + 250 * base + noise, 0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"p{k:02}.png"), frame)
    return folder


@pytest.fixture
def run(scene: Path, tmp_path: Path) -> Learn:
    def learned(**changed: object) -> tuple[LearnResult, list[str]]:
        said: list[Event] = []
        request = LearnRequest(
            "scene", read_folder(scene, None), tmp_path / "engines", tmp_path / "calibration", steps=12
        )
        return learn(replace(request, **changed), said.append), [event.text for event in said]  # type: ignore[arg-type]

    return learned


@pytest.mark.slow
def test_it_is_chosen_and_finds_what_is_not_of_the_scene(run: Learn, scene: Path) -> None:
    result, said = run()
    assert result.model == "fusion-aligned"
    assert result.bundle.manifest.preprocess.size_px == (SIDE, SIDE)
    assert set(result.bundle.manifest.training["choices"]) >= {"mix", "score", "model"}
    assert "scale" not in result.bundle.manifest.training["choices"]
    assert any("same scene" in text for text in said)
    assert result.calibrated is not None
    good = cv2.imread(str(scene / "p03.png"), cv2.IMREAD_UNCHANGED)
    assert good is not None
    cv2.circle(good, (60, 40), 8, 255, -1)
    odd = scene.parent / "odd"
    odd.mkdir(exist_ok=True)
    assert cv2.imwrite(str(odd / "odd.png"), good)
    inspector = Inspector(
        result.bundle, open_runtime(result.bundle, precision="fp32"), result.calibrated.calibration
    )
    samples = [*read_folder(scene, None).samples, *read_folder(odd, None).samples]
    outcomes = evaluate(inspector, samples, DEFAULT_LIMITS).outcomes
    scores = [outcome.score or 0.0 for outcome in outcomes]
    assert scores[-1] > max(scores[:-1])


@pytest.mark.slow
def test_networks_of_folds_are_completed_too(run: Learn) -> None:
    result, said = run(procedure="cross")
    assert result.calibrated is not None
    assert len([text for text in said if text.startswith("fold ")]) == 4


def test_frames_keep_a_size_that_was_asked_for(run: Learn) -> None:
    dataset_scale = run(pinned=frozenset({"scale"}))
    assert dataset_scale[0].model == "anomaly-unet"


def test_crops_of_defects_are_not_for_frames_brought_to_another_size(run: Learn, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--defect-crops"):
        run(model="fusion-aligned", defect_crops=tmp_path)


def test_too_few_frames_to_learn_from_are_said_before_learning(
    run: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many frames of few parts nearly all may go to the thresholds."""

    def lopsided(groups: dict[str, list[str]], **_: object) -> Split:
        names = sorted(groups)
        return Split(train=tuple(names[:2]), validation=(), calibration=tuple(names[2:]))

    monkeypatch.setattr("edge.learn.prepare.split", lopsided)
    with pytest.raises(DataError, match="2 frames to learn from"):
        run(model="fusion-aligned")
    result, said = run()
    assert result.model == "anomaly-unet"
    assert any("anomaly-unet instead" in text for text in said)
