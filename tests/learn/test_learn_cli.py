"""`edge learn` as it is typed: promises, the contact sheet, and what is refused before frames are read."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edge.cli import app
from edge.errors import UsageError
from edge.infer.bundle import load_bundle
from edge.judge.calibration import load_calibration

RUNNER = CliRunner()
LEARN = ("learn", "good", "--recipe", "r", "--template", "{part}_{view}", "--steps", "2")
QUICK = ("--model", "features-gaussian")  # in closed form


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve parts in two views."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    (tmp_path / "good").mkdir()
    rng = np.random.default_rng(0)
    for part in range(12):
        for view in (1, 2):
            noise = rng.integers(0, 255, (48, 48)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "good" / f"p{part}_{view}.png"), cv2.GaussianBlur(noise, (0, 0), view))
    return tmp_path


def run(*words: str) -> Result:
    return RUNNER.invoke(app, list(words), catch_exceptions=False)


def test_promises_of_parts_a_review_band_and_the_top_reach_the_recipe(site: Path) -> None:
    result = run(
        *LEARN, *QUICK, "--false-reject", "0.2", "--false-reject-part", "0.25", "--review-band", "0.5",
        "--statistic", "top", "--top-ratio", "0.05", "--json",
    )  # fmt: skip
    facts = json.loads(result.stdout)
    assert facts["part"]["demanded"] == 0.25
    assert facts["review_band"] == 0.5
    bundle = load_bundle(site / "engines" / "r")
    assert (bundle.manifest.score.statistic, bundle.manifest.score.top_ratio) == ("top", 0.05)
    calibration = load_calibration(site / "calibration" / "r.json", bundle.digest)
    assert calibration.bounded
    for name, limits in calibration.views.items():
        assert limits.review_threshold == facts["views"][name]["review_threshold"]
        assert 0 < limits.threshold < 1
    assert facts["warnings"] == [line.removeprefix("WARNING ") for line in result.stderr.splitlines()
                                 if line.startswith("WARNING ")]  # fmt: skip


@pytest.mark.parametrize("name", ["sheet.png", "sheets/of/r.html"])
def test_the_contact_sheet_is_written_and_nothing_is_learned(site: Path, name: str) -> None:
    kept = {}
    for file in ("engines/r/bundle.json", "engines/r/model.onnx", "calibration/r.json"):
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(f"of {file}")
        kept[file] = (site / file).stat().st_mtime_ns
    result = run(*LEARN, "--model", "anomaly-unet", "--show-anomalies", name, "--json")
    assert json.loads(result.stdout) == {"anomalies": name}
    if name.endswith("png"):
        assert cv2.imread(name) is not None
    else:
        assert (site / name).read_text().lstrip().lower().startswith("<!doctype html>")
    assert {file: (site / file).stat().st_mtime_ns for file in kept} == kept
    assert sorted(p.name for p in (site / "engines").iterdir()) == ["r"]
    assert sorted(p.name for p in (site / "calibration").iterdir()) == ["r.json"]


def test_the_contact_sheet_is_said_in_words(site: Path) -> None:
    result = run(*LEARN, "--model", "anomaly-unet", "--show-anomalies", "sheet.png")
    assert result.stdout == "anomalies    sheet.png\n"
    assert not (site / "engines").exists() or not any((site / "engines").iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--show-anomalies", "s.png", "--model", "cae"),
            "model cae does not learn from synthetic anomalies",
        ),
        (("--show-anomalies", "s.png", *QUICK), "model features-gaussian does not learn from synthetic"),
        (("--show-anomalies", "s.txt"), "s.txt: neither a .png nor an .html"),
        (("--show-anomalies", "good"), "good: neither a .png nor an .html"),
        (("--top-ratio", "0.1", *QUICK), "--top-ratio has no effect on --statistic"),
        (
            ("--top-ratio", "0.1", "--statistic", "mean", *QUICK),
            "--top-ratio has no effect on --statistic mean",
        ),
        (("--peak", "8", "--statistic", "top", *QUICK), "--peak has no effect on --statistic top"),
        (("--false-reject-part", "0.1", "--model", "segmenter"), "--false-reject-part has no effect"),
        (("--review-band", "0.5", "--model", "segmenter"), "--review-band has no effect"),
        (("--review-band", "0.05", *QUICK), "--review-band 0.05: not above --false-reject 0.05"),
        (("--minutes", "inf"), "--minutes inf: not a finite number"),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_refused(site: Path, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(*LEARN, *words)
    assert says in caught.value.message
    assert caught.value.hint
    assert not (site / "s.png").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--minutes", "0"), ("--minutes", "-1"), ("--minutes", "nan"), ("--steps", "-1"),
        ("--false-reject-part", "0.9"), ("--false-reject-part", "0"), ("--review-band", "1"),
        ("--statistic", "top", "--top-ratio", "0"), ("--statistic", "top", "--top-ratio", "1.5"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(site: Path, words: tuple[str, ...]) -> None:
    result = run(*LEARN, *words)
    assert result.exit_code == 2
    assert words[-2] in result.stderr
    assert not (site / "engines").exists()
