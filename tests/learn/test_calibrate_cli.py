"""`edge calibrate` with promises of parts and a review band, and what inspect and evaluate then say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge.cli import app
from edge.errors import UsageError
from edge.testing import write_frame
from tests.sites import make_recipe

RUNNER = CliRunner()
PARTS = 12
CALIBRATE = ("calibrate", "fresh", "--recipe", "blur", "--template", "{part}_{view}", "--false-reject", "0.1")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    make_recipe(tmp_path)
    for part in range(PARTS):
        for view in ("01", "02"):
            write_frame(tmp_path / "fresh" / f"p{part}_{view}.png", seed=100 * int(view) + part)
    return tmp_path


def run(*words: str) -> Result:
    return RUNNER.invoke(app, list(words), catch_exceptions=False)


def test_a_rate_per_part_and_a_review_band_are_set_and_said(site: Path) -> None:
    result = run(*CALIBRATE, "--false-reject-part", "0.1", "--review-band", "0.4", "--json")
    facts = json.loads(result.stdout)
    assert facts["part"]["demanded"] == 0.1
    assert facts["part"]["parts"] == PARTS
    assert "centres" not in facts["part"]
    for view in facts["views"].values():
        assert view["basis"] == "part"
        assert 0 < view["review_threshold"] < view["threshold"]
        assert (view["frames"], view["parts"]) == (PARTS, PARTS)
    assert len(facts["changes"]) == 2
    assert facts["changes"][0].startswith("view 01: threshold ")
    said = run(*CALIBRATE, "--false-reject-part", "0.1").stdout
    assert f"parts: {PARTS} with all views, rejects at most 7.7% of good parts" in said


def test_frames_in_the_review_band_are_ok_with_a_reason(site: Path) -> None:
    run(*CALIBRATE, "--review-band", "0.5")
    lines = run("inspect", "fresh", "--recipe", "blur", "--template", "{part}_{view}", "--json").stdout
    verdicts = [json.loads(line) for line in lines.splitlines()]
    band = [v for v in verdicts if v["reasons"] == ["in_review_band"]]
    assert 0 < len(band) < len(verdicts)
    assert {v["resultEvaluation"] for v in band} == {"OK"}
    assert min(v["score"] for v in band) > max(v["score"] for v in verdicts if v["reasons"] == [])


def manifest(site: Path, *folders: str) -> Path:
    rows = [
        f"{file.relative_to(site)},good,,{file.stem[-2:]},{file.stem[:-3]},,test"
        for folder in folders
        for file in sorted((site / folder).glob("*.png"))
    ]
    (site / "m.csv").write_text("path,label,mask,view,part,defect,split\n" + "\n".join(rows) + "\n")
    return site / "m.csv"


def test_evaluate_says_whether_the_promise_is_kept_and_can_be(site: Path) -> None:
    run(*CALIBRATE)
    for part in range(20, 40):
        for view in ("01", "02"):
            write_frame(site / "later" / f"p{part}_{view}.png", seed=100 * int(view) + part)
    result = run("evaluate", "--recipe", "blur", "--manifest", str(manifest(site, "later")), "--json")
    document = json.loads(result.stdout)
    assert document["exchangeability"]["exchangeable"]
    assert document["exchangeability"]["frames"] == 40
    assert document["promise"]["frame"]["promised"] == pytest.approx(1 / 13)
    assert document["promise"]["frame"]["kept"]
    assert "do not score as those of calibration" not in result.stderr


def test_evaluate_warns_of_good_frames_from_another_process(site: Path) -> None:
    result = run("evaluate", "--recipe", "blur", "--manifest", str(manifest(site, "fresh")), "--json")
    document = json.loads(result.stdout)  # thresholds of `make_recipe`, whose scores are raised by 30 %
    assert not document["exchangeability"]["exchangeable"]
    assert "warning" not in document["exchangeability"]
    assert any("do not score as those of calibration did" in text for text in document["warnings"])
    assert "WARNING good frames of view" in result.stderr
    shown = run("evaluate", "--recipe", "blur", "--manifest", str(site / "m.csv")).stdout
    assert "good frames rejected: promised 4.8%, measured " in shown


def test_a_band_that_is_no_band_is_refused(site: Path) -> None:
    with pytest.raises(UsageError, match=r"--review-band 0\.1: not above --false-reject 0\.1"):
        run(*CALIBRATE, "--review-band", "0.1")


def test_the_review_band_is_said_in_words(site: Path) -> None:
    text = run(*CALIBRATE, "--review-band", "0.4").stdout
    assert text.count("OK but for review above 0.0") == 2
    assert "for review" not in run(*CALIBRATE).stdout
