"""Alive and ready: loops that must keep beating, and conditions that must hold."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(slots=True)
class _Loop:
    allowed_s: float
    beat_s: float


class Health:
    """Written to by every loop, read by HTTP and the watchdog; safe from any thread.

    *Healthy*: every expected loop has beaten within its time. *Ready*: every condition holds, and there is at
    least one: a daemon that has not said anything yet is not ready.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._conditions: dict[str, tuple[bool, str]] = {}
        self._loops: dict[str, _Loop] = {}

    def set(self, name: str, ok: bool, why: str = "") -> None:
        """State whether a condition holds, such as `source:ct` or `engine:bracket`, and why not."""
        with self._lock:
            self._conditions[name] = (ok, why)

    def unset(self, name: str) -> None:
        """The condition no longer matters (a source removed by a reload)."""
        with self._lock:
            self._conditions.pop(name, None)

    def expect(self, name: str, allowed_s: float, now_s: float) -> None:
        """From now on the loop `name` must beat at least every `allowed_s`."""
        with self._lock:
            self._loops[name] = _Loop(allowed_s, now_s)

    def beat(self, name: str, now_s: float) -> None:
        """The loop `name` made progress. A loop that is not expected is ignored."""
        with self._lock:
            if name in self._loops:
                self._loops[name].beat_s = now_s

    def forget(self, name: str) -> None:
        """The loop ended as it should."""
        with self._lock:
            self._loops.pop(name, None)

    def healthy(self, now_s: float) -> tuple[bool, dict[str, str]]:
        """Whether all loops are alive, and for each that is not how long it has been silent."""
        with self._lock:
            silent = {
                name: f"silent for {now_s - loop.beat_s:.1f} s, {loop.allowed_s:g} s allowed"
                for name, loop in self._loops.items()
                if now_s - loop.beat_s > loop.allowed_s
            }
        return not silent, silent

    def conditions(self) -> dict[str, tuple[bool, str]]:
        """Every condition by name: whether it holds, and if not why."""
        with self._lock:
            return dict(self._conditions)

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether all conditions hold, and for each that does not the reason."""
        with self._lock:
            failing = {name: why or "not yet" for name, (ok, why) in self._conditions.items() if not ok}
            if not self._conditions:
                failing = {"start": "starting"}
        return not failing, failing
