"""A virtual environment of its own with the project as a user installs it: no extras, pinned versions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.machine import ROOT

INSTALL_WITHIN_S = 600


class InstallError(Exception):
    """pip could not install the project."""


@dataclass(frozen=True, slots=True)
class Venv:
    """A virtual environment."""

    folder: Path
    own: frozenset[str] = frozenset()  # in site-packages before anything was installed: pip, setuptools

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def edge(self) -> Path:
        return self.folder / "bin/edge"

    @property
    def site_packages(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def run(self, *command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command with nothing of this checkout in its way."""
        return subprocess.run(
            [str(word) for word in command], cwd=cwd, env=clean_environment(), text=True,
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip

    def sizes_mb(self) -> Counter[str]:
        """MB (10⁶ bytes on disk, as `du` counts) of whatever installing put into site-packages, by name."""
        sizes: Counter[str] = Counter()
        for file in self.site_packages.rglob("*"):
            if file.is_symlink() or not file.is_file():
                continue
            package = file.relative_to(self.site_packages).parts[0]
            if package in self.own:
                continue
            sizes[package] += file.stat().st_blocks * 512
        return Counter({package: size / 1e6 for package, size in sizes.items()})


def install(folder: Path) -> Venv:
    """Make the environment and install the project into it, without extras.

    Raises:
        InstallError: with what pip said.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    venv = Venv(folder)
    venv = Venv(folder, frozenset(entry.name for entry in venv.site_packages.iterdir()))
    done = subprocess.run(
        [str(venv.python), "-m", "pip", "install", "-q", "--disable-pip-version-check",
         "-c", str(ROOT / "constraints.txt"), str(ROOT)],
        env=clean_environment(), text=True, capture_output=True, timeout=INSTALL_WITHIN_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InstallError(done.stderr[-3000:])
    return venv


def clean_environment() -> dict[str, str]:
    """Ours without what would let this checkout's packages or configuration in."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "EDGE_CONFIG")
    return {name: value for name, value in os.environ.items() if name not in left_out}
