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

from edge.config import load
from edge.errors import ConfigError, DataError, UsageError
from edge.infer.bundle import load_bundle
from edge.judge.calibration import load_calibration
from edge.learn import cli
from edge.recipes import open_recipe
from edge.testing import write_frame
from tests.infer.fake_tensorrt import FakeTrt
from tests.sites import make_recipe

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
    assert facts["engine"] == str(here / "engines" / "tiny")
    assert "calibration" not in facts
    facts = run("calibrate", "more", "--template", "{part}_{view}", "--too-few", "bound")
    assert facts["calibration"] == str(here / "calibration" / "tiny.json")
    assert facts["views"]["1"]["frames"] == 4  # type: ignore[index]
    facts = run("compile", "--precision", "fp32")
    assert facts["precisions"][0]["difference"] < 1e-3  # type: ignore[index]
    assert list(here.glob("var/compiled/*.compiled"))


@pytest.fixture
def site(here: Path) -> Path:
    """A configured site with a calibrated recipe of the views 01 and 02."""
    make_recipe(here)
    (here / "engines").rename(here / "E")
    (here / "calibration").rename(here / "C")
    (here / "config.toml").write_text(
        '[paths]\nengines = "E"\ncalibration = "C"\n[recipe.a]\nengine = "blur"\n'
    )
    for seed in range(3):
        write_frame(here / "fresh" / f"p{seed}_01.png", seed=seed)
        write_frame(here / "fresh" / f"p{seed}_02.png", seed=10 + seed)
    return here


@pytest.mark.parametrize("configured", [True, False])
def test_engines_are_built_for_the_runtime_that_is_asked_for_or_configured(
    app: typer.Typer, site: Path, monkeypatch: pytest.MonkeyPatch, configured: bool
) -> None:
    api = FakeTrt()
    monkeypatch.setattr("edge.infer.tensorrt.native_api", lambda note: api)
    asked = [] if configured else ["--runtime", "tensorrt"]
    if configured:
        with (site / "config.toml").open("a") as config:
            config.write('calibration = "blur"\n[runtime]\ndevice = "tensorrt"\n')
    result = RUNNER.invoke(app, ["compile", "--recipe", "a", "--json", *asked], catch_exceptions=False)
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["runtime"] == "tensorrt"
    fp32, fp16, int8 = facts["precisions"]
    assert fp32["difference"] < 1e-3
    assert fp16["precision"] == "fp16"
    assert fp16["difference"] < fp16["tolerance"]
    assert "no int8 network" in int8["error"]
    built = len(api.built)
    assert built
    if configured:
        assert open_recipe(load(site / "config.toml"), "a").runtime.name == "tensorrt"
        assert len(api.built) == built, "the daemon finds what was built"


def test_a_precision_that_the_runtime_has_not_is_refused(app: typer.Typer, site: Path) -> None:
    with pytest.raises(UsageError, match="--precision fp16: cpu computes in fp32, bf16, int8"):
        RUNNER.invoke(app, ["compile", "--recipe", "a", "--precision", "fp16"], catch_exceptions=False)


def calibrate(app: typer.Typer, *words: str) -> dict[str, object]:
    result = RUNNER.invoke(app, ["calibrate", *words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def test_configured_site_names_the_folders(app: typer.Typer, site: Path) -> None:
    facts = calibrate(app, "fresh", "--recipe", "a", "--template", "{part}_{view}")
    assert facts["calibration"] == str(site / "C" / "a.json")
    assert load_calibration(site / "C" / "a.json", load_bundle(site / "E" / "blur").digest)
    with pytest.raises(UsageError):
        calibrate(app, "fresh", "--recipe", "a/b")
    with pytest.raises(ConfigError, match="recipe 'c'"):
        calibrate(app, "fresh", "--recipe", "c")


def test_calibrated_views_are_not_lost_by_leaving_out_the_template(app: typer.Typer, site: Path) -> None:
    before = (site / "C" / "blur.json").read_bytes()
    with pytest.raises(DataError, match="no good frame of view 01, 02") as caught:
        calibrate(app, "fresh", "--recipe", "blur")
    assert "--template" in caught.value.hint
    assert (site / "C" / "blur.json").read_bytes() == before
    assert set(calibrate(app, "fresh", "--recipe", "blur", "--drop-views")["views"]) == {"default"}  # type: ignore[call-overload]


def test_views_that_the_recipe_expects_are_needed_for_its_first_calibration(
    app: typer.Typer, site: Path
) -> None:
    with (site / "config.toml").open("a") as stream:
        stream.write('views = ["01", "02", "03"]\n')
    with pytest.raises(DataError, match="no good frame of view 03"):
        calibrate(app, "fresh", "--recipe", "a", "--template", "{part}_{view}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--threads", "100000"), "this machine has"),
        (("--size", "99999x10"), "above 16384"),
        (("--minutes", "inf"), "--minutes inf"),
        (("--smooth", "inf"), "--smooth inf"),
        (("--value-range", "0:inf"), "finite"),
    ],
)
def test_learning_does_not_begin_with_numbers_that_make_no_sense(
    app: typer.Typer, here: Path, words: tuple[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        RUNNER.invoke(app, ["learn", "learn", "--recipe", "x", *words], catch_exceptions=False)
    assert not (here / "engines").exists()


def test_train_has_the_options_of_learn_but_those_of_thresholds(app: typer.Typer) -> None:
    text = {
        name: RUNNER.invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout
        for name in ("learn", "train")
    }
    assert "--false-reject" in text["learn"]
    assert "--false-reject" not in text["train"]
    assert all("--illumination" in page and "--steps" in page for page in text.values())


def test_commands_are_imported_without_torch_and_learning_says_what_it_lacks() -> None:
    script = (
        "import sys; import edge.learn.cli as cli, edge.calibrate, edge.dataset\n"
        "assert not {'torch', 'onnx', 'openvino'} & set(sys.modules), sorted(sys.modules)\n"
        "sys.modules['torch'] = None\n"
        'try: cli._learn_from(None, {"preset": None}, calibrate=True)\n'
        "except cli.UnavailableError as error: print(error.exit_code, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("69 ")
    assert 'pip install "edge-inspect[learn]"' in done.stdout
