"""One source of frames: its scan, its watch, and the files that came back from the decoder unready."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from edge.errors import EdgeError
from edge.intake.backlog import Backlog
from edge.intake.scan import FolderScan
from edge.intake.watch import Hints, NativeWatch
from edge.mounts import is_network_mount
from edge.types import Candidate

WatchMode = Literal["auto", "native", "polling"]
LONGEST_WAIT_S = 1.0  # between two steps, so that health and stop are looked at
UNAVAILABLE_WAIT_S = 2.0
HUNG_AFTER_S = 20.0  # a folder that does not answer for so long hangs


class IntakeMeter(Protocol):
    """What intake reports."""

    def intake_state(self, source: str, *, backlog: int, reachable: bool) -> None: ...

    def rejected(self, source: str, reason: str) -> None: ...


class SourceIntake:
    """Steps a source's scan; `postpone` and `forget` may be called from any thread."""

    def __init__(
        self,
        scan: FolderScan,
        backlog: Backlog,
        *,
        watch: WatchMode,
        meter: IntakeMeter,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = scan.rule.source
        self.unavailable = ""  # why the folder cannot be listed; empty when it can
        self._stalled = ""  # why its files cannot be read
        self._looking_since_s: float | None = None  # when the step that is under way began
        self._scan, self._backlog, self._meter, self._log, self._clock = scan, backlog, meter, log, clock
        self._wake = threading.Event()
        self._hints = Hints(scan.rule.directory, self._wake.set)
        self._watch: NativeWatch | None = None
        self._mode = watch
        self._native: bool | None = None  # not known before the folder is looked at, which may hang
        self._rescan = threading.Event()
        self._returned: queue.SimpleQueue[tuple[Candidate, Literal["postpone", "forget", "done"]]]
        self._returned = queue.SimpleQueue()
        self._out = 0  # files handed on that have no verdict yet
        self.waiting = 0  # files seen that have no verdict yet

    def postpone(self, candidate: Candidate) -> None:
        """The file was not ready: hand it on again later."""
        self._returned.put((candidate, "postpone"))

    def forget(self, candidate: Candidate) -> None:
        """The file is gone."""
        self._returned.put((candidate, "forget"))

    def done(self, candidate: Candidate) -> None:
        """Its verdict is stored."""
        self._returned.put((candidate, "done"))

    def stalled(self, why: str) -> None:
        """Its files cannot be read in time; empty: they can again."""
        self._stalled = why

    def trouble(self, now_s: float) -> str:
        """Why no frames can be had from this source; empty when all is well."""
        since_s = self._looking_since_s
        if since_s is not None and now_s - since_s > HUNG_AFTER_S:
            directory = self._scan.rule.directory
            return f"source {self.name!r}: {directory} has not answered for {now_s - since_s:.0f} s"
        return self.unavailable or (self._stalled and f"source {self.name!r}: {self._stalled}")

    def rescan(self) -> None:
        """List the whole folder at once."""
        self._rescan.set()
        self._wake.set()

    def step(self, now_s: float) -> int:
        """Take back what returned, look at the folder, queue what is ready; gives how many files that was."""
        self._looking_since_s = now_s
        try:
            return self._step(now_s)
        finally:
            self._looking_since_s = None

    def _step(self, now_s: float) -> int:
        while not self._returned.empty():
            candidate, what = self._returned.get()
            self._out -= 1
            if what == "postpone":
                self._scan.postpone(candidate, now_s)
            elif what == "forget":
                self._scan.forget(candidate)
        paths, overflow = self._hints.take()
        if overflow or self._rescan.is_set():
            self._rescan.clear()
            self._scan.rescan_now()
        try:
            ready = self._scan.step(now_s, [path for path in paths if self._scan.wanted(path)])
        except EdgeError as error:
            self._lost(error)
            raise
        self._found()
        self._backlog.add(ready)
        self._out += len(ready)
        self.waiting = self._scan.waiting() + self._out
        self._meter.intake_state(self.name, backlog=self.waiting, reachable=True)
        for path, reason in self._scan.take_odd():
            self._meter.rejected(self.name, reason)
            self._log.warning("source.odd_file", source=self.name, path=path, reason=reason)
        return len(ready)

    def run(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Step until `stop`; sleeps until something is due or the folder changed.

        A folder on a mount that hangs holds this loop up, and no other: `trouble` says so.
        """
        while not stop.is_set():
            beat()
            self._wake.clear()
            wait_s = UNAVAILABLE_WAIT_S
            try:
                self.step(self._clock())
                wait_s = min(max(0.01, self._scan.next_due_s() - self._clock()), LONGEST_WAIT_S)
            except EdgeError:
                pass  # logged once by step; the folder is tried again
            self._wake.wait(wait_s)
        self.close()

    def wake(self) -> None:
        """End a wait early."""
        self._wake.set()

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _found(self) -> None:
        if self.unavailable:
            self._log.info("source.available", source=self.name)
            self.unavailable = ""
        rule = self._scan.rule
        if self._native is None:
            auto = self._mode == "auto" and not is_network_mount(rule.directory)
            self._native = self._mode == "native" or auto
        if self._native and self._watch is None:
            try:
                self._watch = NativeWatch(rule.directory, recursive=rule.recursive, hints=self._hints)
            except OSError as error:
                self._native = False
                self._log.warning(
                    "source.watch_failed", source=self.name, error=str(error), fallback="polling",
                    hint="raise fs.inotify.max_user_watches, or set watch = \"polling\"",
                )  # fmt: skip

    def _lost(self, error: EdgeError) -> None:
        self._meter.intake_state(self.name, backlog=self.waiting, reachable=False)
        if not self.unavailable:
            self._log.error("source.unavailable", source=self.name, error=error.message, hint=error.hint)
        self.unavailable = error.message
        self.close()
