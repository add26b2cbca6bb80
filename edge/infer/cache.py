"""Compiled networks kept on disk, so that a start does not compile again.

A compiled network is used only if it is, byte for byte, what was written here for the very same network,
runtime, version, device and settings: libraries do not check that themselves. Each is one file: a line of
JSON that says what it was made for and the sha256 of the rest, then the rest. The line is compared as a
whole, so any flipped byte, a file cut short and one made elsewhere are all noticed before use. What is wrong
costs a compilation and a note, never a start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.artifacts import write_atomic
from edge.errors import CannotWriteError

Note = Callable[[str], None]
"""Takes a sentence for the log."""

FORMAT = "edge/compiled/1"
SUFFIX = ".compiled"
KEPT = 64  # networks of this version and device, a few a recipe; the longest unused go first
LONGEST_LINE = 1 << 16
LEFTOVER_S = 3600.0  # a temporary file this old has no writer any more


def no_note(_sentence: str) -> None:
    """For those who keep no log."""


@dataclass(frozen=True, slots=True)
class CompiledCache:
    """A folder of compiled networks. `made_for` names what a network was compiled for: `network` (sha256),
    `runtime`, `version`, `device` and whatever else changes the result."""

    folder: Path
    note: Note = no_note

    def load(self, made_for: Mapping[str, str]) -> bytes | None:
        """The compiled network; None (and a note, unless there was none) where it must be compiled."""
        file = self.file(made_for)
        try:
            line, _, compiled = file.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            self.note(f"{file}: compiled again: {error.strerror}")
            return None
        if line != _line(made_for, compiled):
            self.discard(made_for, "damaged, or made for something else")
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # used now: kept
        return compiled

    def store(self, made_for: Mapping[str, str], compiled: bytes) -> None:
        """Keep a compiled network, and remove those that nobody will ask for; a note where that fails."""
        try:
            write_atomic(self.file(made_for), _line(made_for, compiled) + b"\n" + compiled)
            self._prune(made_for)
        except (CannotWriteError, OSError) as error:
            self.note(f"compiled engines are not kept, so every start compiles: {error}")

    def discard(self, made_for: Mapping[str, str], why: str) -> None:
        """Remove a compiled network that must not be used."""
        file = self.file(made_for)
        self.note(f"{file}: compiled again: {why}")
        with contextlib.suppress(OSError):  # read-only: `store` will say so
            file.unlink()

    def file(self, made_for: Mapping[str, str]) -> Path:
        """Where the compiled network is kept."""
        key = hashlib.sha256(json.dumps(dict(made_for), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{made_for['network'][:16]}-{key[:16]}{SUFFIX}"

    def _prune(self, made_for: Mapping[str, str]) -> None:
        """Of other versions or devices of this runtime nothing is kept, of this one the last used."""
        kept = []
        for file in self.folder.iterdir():
            if file.suffix == SUFFIX:
                theirs = _made_for(file)
                if theirs.get("runtime") == made_for["runtime"] and any(
                    theirs.get(key) != made_for[key] for key in ("version", "device")
                ):
                    file.unlink(missing_ok=True)
                else:
                    kept.append((file.stat().st_mtime, file))
            elif file.is_dir() and re.fullmatch(r"[0-9a-f]{16}", file.name):  # as edge 0.1 kept them
                shutil.rmtree(file)
            elif file.name.endswith(".tmp") and time.time() - file.stat().st_mtime > LEFTOVER_S:
                file.unlink(missing_ok=True)
        for _, file in sorted(kept)[:-KEPT]:
            file.unlink(missing_ok=True)


def _line(made_for: Mapping[str, str], compiled: bytes) -> bytes:
    said = {**made_for, "format": FORMAT, "sha256": hashlib.sha256(compiled).hexdigest()}
    return json.dumps(said, sort_keys=True).encode()


def _made_for(file: Path) -> Mapping[str, str]:
    """What a file says of itself; nothing where that cannot be read."""
    try:
        with file.open("rb") as stream:
            said = json.loads(stream.readline(LONGEST_LINE))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
