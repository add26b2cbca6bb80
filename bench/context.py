"""What a bench gets: a folder of its own, the images, and the shipped command."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import ROOT

WAIT_STEP_S = 0.05


class SkippedError(Exception):
    """The bench needs something that this machine does not have."""


class FailedError(Exception):
    """The product did not do what the bench expected of it."""


@dataclass(frozen=True, slots=True)
class Context:
    """One run of one bench."""

    folder: Path  # temporary, and this bench's alone
    quick: bool = False  # tiny settings: shows that the bench works, its figures mean nothing
    commands: list[str] = field(default_factory=list)  # as a user would type them
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)

    def dataset(self, name: str) -> Path:
        """The folder of an image set; it is only read.

        Raises:
            SkippedError: it is not there.
        """
        folder = _images() / name
        if not (folder / "manifest.csv").is_file():
            raise SkippedError(f"data absent: {folder} (set EDGE_DATA)")
        return folder

    def size(self, full: int, quick: int) -> int:
        """How much of something: `full`, or `quick` where only the bench itself is tried."""
        return quick if self.quick else full

    def budget(self, minutes: float) -> list[str]:
        """The options that give learning its time."""
        return ["--steps", "6"] if self.quick else ["--minutes", f"{minutes:g}"]

    def edge(self, *arguments: object, exit_codes: Sequence[int] = (0,), note: bool = True) -> str:
        """Run `edge …` in this bench's folder as a user would; gives its stdout.

        Raises:
            FailedError: another exit code than expected.
        """
        words = [str(argument) for argument in arguments]
        shown = (
            shlex.join(["edge", *words]).replace(f"{self.folder}/", "").replace(str(_images()), "$EDGE_DATA")
        )
        if note:
            self.commands.append(shown)
        self.say(f"$ {shown}")
        done = subprocess.run(
            [sys.executable, "-m", "edge", *words], cwd=self.folder, env=environment(), text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode not in exit_codes:
            raise FailedError(f"{shown}: exit code {done.returncode}\n{done.stderr[-3000:]}")
        return done.stdout

    def edge_json(self, *arguments: object, **options: Any) -> dict[str, Any]:
        """Run `edge … --json`; gives its one object."""
        document: dict[str, Any] = json.loads(self.edge(*arguments, "--json", **options))
        return document

    def edge_lines(self, *arguments: object, **options: Any) -> list[dict[str, Any]]:
        """Run `edge … --json`; gives its JSON lines."""
        return [json.loads(line) for line in self.edge(*arguments, "--json", **options).splitlines()]


def _images() -> Path:
    """Where the image sets are."""
    return Path(os.environ.get("EDGE_DATA") or ROOT.parent / "shared/data")


def environment() -> dict[str, str]:
    """Ours, with this working tree's `edge` first and no configuration of the person's."""
    kept = {name: value for name, value in os.environ.items() if name != "EDGE_CONFIG"}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def require(program: str, package: str) -> None:
    """Raise SkippedError unless a program of Debian's is installed."""
    if shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None:
        raise SkippedError(f"{program} is not installed (apt-get install {package})")


def wait(condition: Callable[[], object], what: str, at_most_s: float) -> float:
    """Poll until `condition()` is true; gives the seconds it took.

    Raises:
        FailedError: it does not become true in time.
    """
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > at_most_s:
            raise FailedError(f"not within {at_most_s:g} s: {what}")
        time.sleep(WAIT_STEP_S)
    return time.monotonic() - began_s
