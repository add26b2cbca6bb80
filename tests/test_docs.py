"""Every command of the task pages is run as a reader would, in their order, in one site folder.

Blocks fenced as `sh` run; one that needs what a test cannot have is fenced as `sh needs WHAT`, and WHAT is
one of those below. Minutes and parts of learning are fewer; nothing else is changed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("learn", "scanner", "tune", "operator", "mes", "monitoring", "administration", "extend")
FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```", re.M | re.S)
NEEDS = {
    "systemd",
    "root",
    "a broker",
    "a network",
    "an installation",
    "time",
    "a GPU",
    "containers",
    "a site",
}


def page(name: str) -> Path:
    return ROOT / "README.md" if name == "README" else ROOT / f"docs/{name}.md"


def blocks(name: str) -> list[tuple[str, str]]:
    """(what it needs, commands) of each block of a shell."""
    found = []
    for indent, kind, info, body in FENCE.findall(page(name).read_text()):
        if kind in ("sh", "bash", "shell", "console"):
            lines = [line.removeprefix(indent) for line in body.splitlines()]
            found.append((info.strip().removeprefix("needs").strip(), "\n".join(lines)))
    return found


def run_here(name: str) -> str:
    """A page's commands that need nothing more, as one script."""
    script = "\n".join(body for needs, body in blocks(name) if not needs)
    script = re.sub(r"--minutes [\d.]+", "--minutes 0.2", script)
    return re.sub(r"--parts [3-9]\d\b", "--parts 16", script)


@pytest.mark.parametrize("name", [*PAGES, "README"])
def test_a_block_that_is_not_run_says_what_it_needs(name: str) -> None:
    for needs, body in blocks(name):
        assert not needs or needs in NEEDS, body


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_of_the_task_pages_works(tmp_path: Path) -> None:
    """In the order in which a newcomer would read them: each page goes on where the one before ended."""
    edge = tmp_path / "bin/edge"
    edge.parent.mkdir()
    edge.write_text(f'#!/bin/sh\nexec {sys.executable} -m edge "$@"\n')
    edge.chmod(0o755)
    python = edge.with_name("python")
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    site = tmp_path / "site"
    site.mkdir()
    for name in ("monitoring", "examples", "docs"):
        if (ROOT / name).exists():
            (site / name).symlink_to(ROOT / name)
    environ = {
        **os.environ,
        "PATH": f"{edge.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
    }
    ran = 0
    for name in PAGES:
        script = run_here(name)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-x", "-c", script],
            cwd=site, env=environ, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}.md: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        ran += script.count("edge ")
    assert ran > 12


def test_every_benchmark_that_a_page_names_is_there() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = {
        name
        for file in pages
        for name in re.findall(r"python -m (bench\.\w+|tests\.[\w.]+)", file.read_text())
    }
    assert len(named) > 10
    assert {name for name in named if importlib.util.find_spec(name.rstrip(".")) is None} == set()


def test_every_make_target_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = {name for file in pages for name in re.findall(r"`make ([a-z-]+)", file.read_text())}
    assert named - targets == set()


def test_every_link_between_pages_leads_somewhere() -> None:
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text()):
            if "://" not in target:
                assert (file.parent / target).exists(), f"{file.name}: {target}"
