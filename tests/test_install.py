"""What a user of the daemon installs: no extras, no torch, little enough, and it works."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.machine import ROOT
from bench.venv import Venv, clean_environment, install
from edge.testing import write_frame
from tests.brokers import until
from tests.sites import free_port, make_recipe, write_config

LIMIT_MB = 600

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    return install(tmp_path_factory.mktemp("installed") / "venv")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a recipe and a configuration that wants no broker."""
    make_recipe(tmp_path)
    config = write_config(tmp_path, free_port(), free_port())
    config.write_text(config.read_text().replace("[mqtt]\n", "[mqtt]\nenabled = false\n"))
    return tmp_path


@pytest.fixture
def daemon(venv: Venv, site: Path) -> Iterator[Path]:
    """`edge run` of the environment on the site, ended with the test."""
    with (site / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [str(venv.edge), "run", "--config", str(site / "config.toml")],
            cwd=site, env=clean_environment(), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield site
        process.terminate()
        assert process.wait(15) == 0, (site / "daemon.log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def test_torch_and_onnx_are_not_installed(venv: Venv, tmp_path: Path) -> None:
    for name in ("torch", "onnx"):
        done = venv.run(venv.python, "-c", f"import {name}", cwd=tmp_path)
        assert done.returncode == 1
        assert f"No module named '{name}'" in done.stderr


def test_it_is_the_installed_package_that_answers(venv: Venv, tmp_path: Path) -> None:
    where = venv.run(venv.python, "-c", "import edge; print(edge.__file__)", cwd=tmp_path).stdout.strip()
    assert Path(where).is_relative_to(venv.site_packages)


def test_site_packages_stay_below_the_limit(venv: Venv) -> None:
    sizes = venv.sizes_mb()
    assert sum(sizes.values()) <= LIMIT_MB, sizes.most_common(10)


def test_help_is_shown(venv: Venv, tmp_path: Path) -> None:
    done = venv.run(venv.edge, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


def test_learning_says_which_extra_it_needs(venv: Venv, tmp_path: Path) -> None:
    done = venv.run(venv.edge, "learn", tmp_path, "--recipe", "x", cwd=tmp_path)
    assert done.returncode == 69, done.stderr
    assert "edge-inspect[learn]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_configuration_is_checked(venv: Venv, site: Path) -> None:
    done = venv.run(venv.edge, "check", "--config", site / "config.toml", cwd=site)
    assert done.returncode == 0, done.stderr


def test_a_frame_becomes_a_verdict(venv: Venv, daemon: Path) -> None:
    write_frame(daemon / "incoming/B1/P1_01.png", defect=True)

    def verdicts() -> dict[str, int]:
        done = venv.run(venv.edge, "status", "--json", "--config", daemon / "config.toml", cwd=daemon)
        counts: dict[str, int] = json.loads(done.stdout)["verdicts"]["frame"] if done.stdout else {}
        return counts

    until(lambda: verdicts() == {"NotOK": 1}, "the verdict", 60)


def test_the_demo_runs_from_an_empty_folder(venv: Venv, tmp_path: Path) -> None:
    """Last, because it adds the extra `demo` to the environment."""
    extra = ["-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{ROOT}[demo]"]
    assert venv.run(venv.python, *extra, cwd=tmp_path).returncode == 0
    done = venv.run(venv.edge, "demo", "--frames", "12", "--rate", "6", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 frames written, 12 frame verdicts" in done.stdout
    assert list(tmp_path.iterdir()) == []
