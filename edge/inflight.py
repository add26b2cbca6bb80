"""Which files are on their way through the daemon, so that one that takes all of it down is known at the
next start.

Decoders run in processes of their own, but the engine does not: a fault in native code ends the daemon, and
systemd starts it again, with the same file first. Each file that is taken leaves a small note on disk, which
goes when its verdict is stored. Notes that are left at a start name the suspects: each is then inspected with
nothing else under way. If the daemon dies with it again, and there is evidence that it was not just killed by
somebody (native code faulted, or the kernel ended a process for want of memory), it is not tried any more.

Notes are not synced: they survive the death of the process, which is what they are for.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge.types import Candidate, FileStamp

LAST_RUN = "run"
OLD_S = 7 * 86400.0  # a file that was not found again in a week is gone


@dataclass(frozen=True, slots=True)
class _Name:
    """A file as it was: with new content it is no suspect."""

    source: str
    path: str
    stamp: FileStamp


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory so far; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class InFlight:
    """Safe from any thread. `faulted`: the last run ended by a fault in native code."""

    def __init__(
        self, folder: Path, *, faulted: bool = False, oom_kills: Callable[[], int] = oom_kills
    ) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._oom_kills, self._run = oom_kills(), secrets.token_hex(8)
        self._inside: dict[_Name, bool] = {}  # whether it is alone
        self._suspects = self._left_behind(faulted, self._follow())  # whether it is condemned

    @property
    def suspects(self) -> int:
        """Files that were under way when the daemon died, and have no verdict yet."""
        with self._lock:
            return len(self._suspects)

    def drop(self, is_recorded: Callable[[str, str, FileStamp], bool]) -> None:
        """Forget suspects that have their verdict: the daemon died after it was stored."""
        with self._lock:
            for name in [name for name in self._suspects if is_recorded(name.source, name.path, name.stamp)]:
                del self._suspects[name]
                with suppress(OSError):
                    self._note(name).unlink(missing_ok=True)

    def is_condemned(self, candidate: Candidate) -> bool:
        """Whether the daemon died of this file."""
        with self._lock:
            return self._suspects.get(_name(candidate), False)

    def admits(self, candidate: Candidate) -> bool:
        """Whether a file may be taken now: suspects go alone."""
        with self._lock:
            if _name(candidate) in self._suspects:
                return not self._inside
            return not any(self._inside.values())

    def enter(self, candidate: Candidate) -> None:
        """A file is taken."""
        name = _name(candidate)
        with self._lock:
            alone = name in self._suspects
            self._inside[name] = alone
            note = {
                "source": name.source, "path": name.path, "size_bytes": name.stamp.size_bytes,
                "mtime_ns": name.stamp.mtime_ns, "alone": alone,
                "condemned": self._suspects.get(name, False), "oom_kills": self._oom_kills, "run": self._run,
            }  # fmt: skip
            with suppress(OSError):  # a full disk must not keep frames from being inspected
                self._folder.mkdir(parents=True, exist_ok=True)
                self._note(name).write_text(json.dumps(note))

    def leave(self, candidate: Candidate, *, judged: bool = True) -> None:
        """Its verdict is stored, or (not judged) it went back to its source."""
        name = _name(candidate)
        with self._lock:
            self._inside.pop(name, None)
            if judged:
                self._suspects.pop(name, None)
            with suppress(OSError):
                self._note(name).unlink(missing_ok=True)

    def leave_all(self) -> None:
        """The line that had taken files is gone; they will be found again."""
        with self._lock:
            for name in self._inside:
                with suppress(OSError):
                    self._note(name).unlink(missing_ok=True)
            self._inside.clear()

    def _follow(self) -> str:
        """Leave word of this run, and say which one was before it."""
        last, before = self._folder / LAST_RUN, ""
        with suppress(OSError):
            before = last.read_text()
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            last.write_text(self._run)
        return before

    def _left_behind(self, faulted: bool, last_run: str) -> dict[_Name, bool]:
        suspects: dict[_Name, bool] = {}
        for file in self._folder.glob("*.json"):
            try:
                if time.time() - file.stat().st_mtime > OLD_S:
                    raise ValueError("old")
                note = json.loads(file.read_text())
                stamp = FileStamp(int(note["size_bytes"]), int(note["mtime_ns"]))
                evidence = faulted or self._oom_kills > int(note["oom_kills"])
                evidence &= note["run"] == last_run  # how that one ended says nothing of those before it
                name = _Name(str(note["source"]), str(note["path"]), stamp)
                suspects[name] = bool(note["condemned"]) or (bool(note["alone"]) and evidence)
            except (OSError, ValueError, KeyError, TypeError):  # old, or half written: it says nothing
                with suppress(OSError):
                    file.unlink()
        return suspects

    def _note(self, name: _Name) -> Path:
        key = f"{name.source}\0{name.path}\0{name.stamp}".encode("utf-8", "surrogateescape")
        return self._folder / f"{hashlib.sha256(key).hexdigest()[:32]}.json"


def _name(candidate: Candidate) -> _Name:
    return _Name(candidate.source, candidate.path, candidate.stamp)
