"""Frames are looked at before anything is learned, and what is chosen is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from edge.dataset import Sample
from edge.errors import DataError
from edge.learn import cli
from edge.learn.automatic import Choices
from edge.learn.looked import choices_for
from edge.learn.progress import Event
from edge.learn.request import DEFAULT_LIMITS
from edge.preprocess import PreprocessSpec

SHAPE = (180, 240)
SAID = (
    "model", "scale", "tiles", "illumination", "mix", "lighting", "at border", "flips", "transpose",
    "movement", "score",
)  # fmt: skip


def texture(seed: int) -> NDArray[np.uint8]:
    plane = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(SHAPE), (0, 0), 2)
    return np.asarray(np.clip(110 + 20 * plane / plane.std(), 0, 255), np.uint8)


def site(folder: Path, gains: tuple[float, ...] = (1.0,) * 5) -> list[Sample]:
    """Good frames, one that cannot be read, and a defect frame of another size."""
    found = []
    for k, gain in enumerate(gains):
        cv2.imwrite(str(folder / f"good{k}.png"), np.clip(texture(k) * gain, 0, 255).astype(np.uint8))
        found.append(Sample(folder / f"good{k}.png", f"good{k}.png", "good"))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    cv2.imwrite(str(folder / "bad.png"), np.full((900, 1200), 255, np.uint8))
    found.append(Sample(folder / "broken.png", "broken.png", "good"))
    return [*found, Sample(folder / "bad.png", "bad.png", "defect")]


def looked(
    wanted: list[Sample], spec: PreprocessSpec | None = None, **pinned: object
) -> tuple[Choices, list[Event]]:
    said: list[Event] = []
    return choices_for(wanted, spec or PreprocessSpec(), DEFAULT_LIMITS, pinned, 0, said.append), said


def test_only_good_frames_are_looked_at_and_every_choice_is_said(tmp_path: Path) -> None:
    choices, said = looked(site(tmp_path))
    assert choices.scale.why.startswith(f"frames are {SHAPE[1]}×{SHAPE[0]}")
    shown = [event.text for event in said if event.share is not None]
    assert shown == [f"good{k}.png" for k in range(5)], "not the defect, and none that cannot be read"
    assert [event.text for event in said if event.share is None] == choices.sentences()
    assert [next(name for name in SAID if s.startswith(name)) for s in choices.sentences()] == list(SAID)


def test_no_frame_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    broken = [sample for sample in site(tmp_path) if not sample.path.startswith("good")]
    with pytest.raises(DataError, match=r"none of 1 frames can be read: broken\.png: "):
        looked(broken)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_scale_that_was_asked_for_is_not_applied_twice(tmp_path: Path, scale: float) -> None:
    """The frames' own size is looked at, as where the scale is chosen."""
    wanted = site(tmp_path)
    free, _ = looked(wanted)
    assert free.scale.value == 1
    asked, _ = looked(wanted, PreprocessSpec(scale=scale), scale=scale)
    assert asked.scale.why == "as asked for"
    once, _ = looked(wanted, scale=scale)
    assert asked.tiles == once.tiles
    assert asked.score == once.score
    repeats = [float(re.findall(r"every (\d+) px", c.score.why)[0]) for c in (free, asked)]
    assert repeats[1] == pytest.approx(scale * repeats[0], abs=1)


def test_light_is_looked_at_before_it_is_evened_out(tmp_path: Path) -> None:
    wanted = site(tmp_path, (0.6, 0.8, 1.0, 1.2, 1.4))
    free, _ = looked(wanted)
    assert free.illumination.value == "median"
    asked, _ = looked(wanted, PreprocessSpec(illumination="median"), illumination="median")
    assert asked.lighting == free.lighting
    assert asked.mix == free.mix
    kept, _ = looked(wanted, illumination="none")
    assert kept.lighting.value.gain > free.lighting.value.gain, "what is not evened out must be learned"


def test_learning_without_options_says_what_it_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    (tmp_path / "good").mkdir()
    site(tmp_path / "good")
    (tmp_path / "good" / "bad.png").unlink()
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(cli.learn)
    words = ["good", "--recipe", "tiny", "--show-anomalies", "sheet.png", "--json"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    json.loads(result.stdout)
    lines = result.stderr.splitlines()
    for name in SAID:
        assert any(re.search(rf"\b{name} .+: .+", line) for line in lines), name
    assert cv2.imread("sheet.png") is not None
