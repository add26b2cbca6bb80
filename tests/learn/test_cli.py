"""The commands: options in, one answer out, and no torch until it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from edge.errors import ConfigError, UsageError
from edge.learn import cli
from edge.learn.site import site_of

RUNNER = CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    commands = typer.Typer(pretty_exceptions_enable=False)
    for name, function in (
        ("learn", cli.learn), ("train", cli.train), ("calibrate", cli.calibrate), ("compile", cli.compile_),
    ):  # fmt: skip
        commands.command(name)(function)
    return commands


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    rng = np.random.default_rng(0)
    for group in ("learn", "more"):
        (tmp_path / group).mkdir()
        for k in range(4):
            pixels = cv2.GaussianBlur(rng.integers(0, 255, (80, 80)).astype(np.uint8), (0, 0), 2)
            cv2.imwrite(str(tmp_path / group / f"p{k}_1.png"), pixels)
    return tmp_path


def test_commands_answer_with_one_json_object_and_use_the_current_directory(
    app: typer.Typer, here: Path
) -> None:
    def run(*words: str) -> dict[str, object]:
        result = RUNNER.invoke(app, [*words, "--recipe", "tiny", "--json"], catch_exceptions=False)
        assert result.exit_code == 0
        answer: dict[str, object] = json.loads(result.stdout)
        return answer

    facts = run("train", "learn", "--template", "{part}_{view}", "--steps", "2", "--model", "fragment-cae")
    assert facts["engine"] == "engines/tiny"
    assert "calibration" not in facts
    facts = run("calibrate", "more", "--template", "{part}_{view}", "--too-few", "bound")
    assert facts["calibration"] == "calibration/tiny.json"
    assert facts["views"]["1"]["frames"] == 4  # type: ignore[index]
    facts = run("compile", "--precision", "fp32")
    assert facts["precisions"][0]["difference"] < 1e-3  # type: ignore[index]
    assert list(here.glob("var/compiled/*/*"))


def test_configured_site_names_the_folders(here: Path) -> None:
    (here / "config.toml").write_text(
        '[paths]\nengines = "E"\ncalibration = "C"\n[recipe.a]\nengine = "shared"\n'
    )
    site = site_of(None)
    assert site.files("a") == (here / "E" / "shared", here / "C" / "a.json")
    assert site.files("b") == (here / "E" / "b", here / "C" / "b.json")
    with pytest.raises(UsageError):
        site.files("a/b")
    with pytest.raises(ConfigError):
        site_of(here / "none.toml")


def test_train_has_the_options_of_learn_but_those_of_thresholds(app: typer.Typer) -> None:
    text = {
        name: RUNNER.invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout
        for name in ("learn", "train")
    }
    assert "--false-reject" in text["learn"]
    assert "--false-reject" not in text["train"]
    assert all("--illumination" in page and "--steps" in page for page in text.values())


@pytest.mark.parametrize(
    ("text", "size"), [("640x480", (640, 480)), ("1536X1024", (1536, 1024)), (None, None)]
)
def test_size_is_width_by_height(text: str | None, size: tuple[int, int] | None) -> None:
    assert cli.parse_size(text) == size


@pytest.mark.parametrize("text", ["640", "640x", "axb", "-1x5"])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        cli.parse_size(text)


def test_value_range_needs_two_numbers() -> None:
    assert cli.parse_range("0:4095") == (0.0, 4095.0)
    assert cli.parse_range("4095:0") == (4095.0, 0.0)
    for text in ("7", "a:b", "5:5"):
        with pytest.raises(UsageError, match="--value-range"):
            cli.parse_range(text)


def test_commands_are_imported_without_torch_and_learning_says_what_it_lacks() -> None:
    script = (
        "import sys; import edge.learn.cli as cli, edge.calibrate, edge.dataset\n"
        "assert not {'torch', 'onnx', 'openvino'} & set(sys.modules), sorted(sys.modules)\n"
        "sys.modules['torch'] = None\n"
        "try: cli._learn_from({}, calibrate=True)\n"
        "except cli.UnavailableError as error: print(error.exit_code, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("69 ")
    assert 'pip install "edge-inspect[learn]"' in done.stdout
