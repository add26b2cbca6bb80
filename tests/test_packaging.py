"""The Debian package in a root of its own: installed, used, upgraded, removed, purged; the site stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bench.venv import clean_environment

ROOT = Path(__file__).parent.parent
OLD, NEW = "0.1.0", "0.1.1"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def built(out: Path, version: str) -> Path:
    """By the command of `make deb`, but with this environment's packages used where they lie."""
    command: list[str | Path] = [
        sys.executable,
        ROOT / "packaging/deb.py",
        "--out",
        out,
        "--version",
        version,
    ]
    command += ["--reuse", sysconfig.get_path("purelib")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if shutil.which("dpkg-deb") is None or os.geteuid() != 0:
        if os.environ.get("EDGE_REQUIRE_ALL") == "1":
            pytest.fail("needs dpkg and root")
        pytest.skip("needs dpkg and root")
    out = tmp_path_factory.mktemp("dist")
    return {version: built(out, version) for version in (OLD, NEW)}


class Machine:
    """A root folder with a dpkg database, and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "var/lib/dpkg/info").mkdir(parents=True)
        (root / "var/lib/dpkg/updates").mkdir()
        (root / "var/lib/dpkg/status").touch()

    def dpkg(self, *arguments: object) -> str:
        # scripts run outside a chroot, and are told the root by DPKG_ROOT: dpkg(1)
        command = ["dpkg", f"--root={self.root}", "--force-script-chrootless", "--force-depends"]
        done = subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def version(self) -> str:
        query = [
            "dpkg-query",
            f"--admindir={self.root}/var/lib/dpkg",
            "-W",
            "-f=${Version} ${Status}",
            "edge",
        ]
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout

    def edge(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        binary = self.root / "opt/edge/bin"
        return subprocess.run(
            [binary / "python3", binary / "edge", *arguments],
            cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip


def test_it_is_installed_used_upgraded_and_removed_and_the_site_stays(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    machine = Machine(tmp_path / "root")
    machine.dpkg("-i", packages[OLD])
    assert machine.version() == f"{OLD} install ok installed"
    site = machine.root / "var/lib/edge"
    assert (site / "config.toml").read_text() == (ROOT / "config.toml").read_text()
    assert (machine.root / "lib/systemd/system/edge.service").is_file()
    assert not list((machine.root / "etc").rglob("*.wants"))  # nothing is enabled
    work = tmp_path / "work"
    work.mkdir()
    demo = machine.edge("demo", "--frames", "6", cwd=work)
    assert demo.returncode == 0, demo.stderr[-3000:]

    (site / "config.toml").write_text("# mine\n")
    (site / "edge.sqlite3").write_text("verdicts")
    example = machine.root / "etc/edge/config.example.toml"
    example.write_text("# mine, too\n")
    machine.dpkg("--force-confold", "-i", packages[NEW])
    assert machine.version() == f"{NEW} install ok installed"
    assert machine.edge("--help", cwd=work).returncode == 0

    def kept() -> tuple[str, str, str]:
        files = site / "config.toml", site / "edge.sqlite3", example
        return tuple(file.read_text() for file in files)  # type: ignore[return-value]

    assert kept() == ("# mine\n", "verdicts", "# mine, too\n")
    machine.dpkg("-r", "edge")
    assert kept() == ("# mine\n", "verdicts", "# mine, too\n")
    assert not (machine.root / "opt/edge/bin").exists()
    assert not (machine.root / "usr/bin/edge").is_symlink()

    machine.dpkg("-i", packages[NEW])
    assert kept() == ("# mine\n", "verdicts", "# mine, too\n")
    other = machine.root / "var/lib/edge-2"
    other.mkdir()
    machine.dpkg("-P", "edge")
    assert not site.exists()
    assert not example.exists()
    assert other.exists()


def test_nothing_in_it_names_the_place_where_it_was_built(packages: dict[str, Path]) -> None:
    listing = subprocess.run(["dpkg-deb", "-c", packages[OLD]], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=5) for line in listing.stdout.splitlines()]
    assert {owner for _, owner, *_ in lines} == {"root/root"}
    assert not [line for line in lines if line[0][8] == "w" and line[0][0] != "l"]
    binary = subprocess.run(["dpkg-deb", "--fsys-tarfile", packages[OLD]], capture_output=True, check=True)
    assert str(ROOT).encode() not in binary.stdout.replace(sysconfig.get_path("purelib").encode(), b"")
