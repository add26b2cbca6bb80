"""systemd/requirements.txt: what the daemon is installed from, each file known by its hash."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "systemd" / "requirements.txt"


def _pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", text, re.M)
    return {canonicalize_name(name): version for name, version in found}


def _needed() -> set[str]:
    """The daemon's dependencies and theirs, as they are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    needed: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in needed or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        needed.add(name)
        waiting += map(Requirement, requires(name) or [])
    return needed


def test_it_has_exactly_what_the_daemon_needs() -> None:
    assert set(_pins(LOCK.read_text())) == _needed(), "run `make lock`"


def test_every_version_is_that_of_the_constraints() -> None:
    constraints = _pins((ROOT / "constraints.txt").read_text())
    pins = _pins(LOCK.read_text())
    assert pins == {name: constraints.get(name) for name in pins}, "run `make lock`"


def test_every_package_has_hashes_and_none_a_place() -> None:
    text = LOCK.read_text()
    entries = re.split(r"^(?=[A-Za-z])", text, flags=re.M)
    head, packages = entries[0], entries[1:]
    assert all(line.startswith("# ") for line in head.splitlines() if line != "--only-binary :all:")
    assert packages
    for package in packages:
        lines = package.replace("\\\n", "").split()
        assert lines[1:], package
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", part) for part in lines[1:]), package
    assert "//" not in text


def _install(lock: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
        "--require-hashes", "--no-input", "--disable-pip-version-check", *arguments, "-r", str(lock),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _needs_registry(result: subprocess.CompletedProcess[str]) -> None:
    if "Could not find a version" in result.stderr or "Connection" in result.stderr:
        if os.environ.get("EDGE_REQUIRE_ALL") == "1":
            pytest.fail(result.stderr)
        pytest.skip("no package registry answers")


@pytest.mark.slow
def test_it_can_be_installed_with_nothing_but_what_it_lists() -> None:
    result = _install(LOCK)
    _needs_registry(result)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "requirements.txt"
    (entry,) = re.findall(r"^mdurl==.*?(?=^[a-z])", LOCK.read_text(), re.M | re.S)
    other.write_text(re.sub(r"sha256:[0-9a-f]{4}", "sha256:0000", entry).rstrip().rstrip("\\") + "\n")
    result = _install(other, "--no-deps")
    _needs_registry(result)
    assert result.returncode != 0
    assert "DO NOT MATCH THE HASHES" in result.stderr, result.stderr
