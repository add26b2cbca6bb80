"""What a figure was measured on, and how much of the machine others had meanwhile."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
LOOK_EVERY_S = 1.0


def describe() -> str:
    """CPU, cores, memory, operating system and Python on one line."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    flags = ", ".join(flag for flag in ("avx512_bf16", "amx_tile") if flag in _cpuinfo("flags"))
    return (
        f"{_cpuinfo('model name')} ({flags or 'no bf16'}), {os.cpu_count()} cores, {memory_gb:.0f} GB, "
        f"{system}, Python {platform.python_version()}"
    )


def commit() -> str:
    """The commit of the working tree, and whether the product differs from it."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "edge", "pyproject.toml")
    return f"{head} with uncommitted changes" if changed else head


class OtherLoad:
    """How many cores processes outside our process group keep busy, from now until `cores` is asked.

    Looks at all processes once a second; what lives for less than that may escape it.
    """

    def __init__(self) -> None:
        self._began_s, self._used_s = time.monotonic(), 0.0
        self._group = os.getpgid(0)
        self._seen = self._others()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def cores(self) -> float:
        """Mean since the beginning; ends the watch."""
        self._stop.set()
        self._thread.join()
        self._look()
        return self._used_s / (time.monotonic() - self._began_s)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        now = self._others()
        self._used_s += sum(max(0.0, used - self._seen.get(pid, 0.0)) for pid, used in now.items())
        self._seen = now

    def _others(self) -> dict[int, float]:
        """CPU seconds of every other process."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(process.pid) != self._group:
                    times = process.cpu_times()
                    found[process.pid] = times.user + times.system
        return found


def _cpuinfo(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return platform.processor() if key == "model name" else ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
