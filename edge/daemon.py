"""A daemon's life: start, run, reload, stop; signals, systemd.

It is crash-only: all state is in SQLite, so the answer to an error that nobody foresaw is to stop with a
non-zero exit code and be started again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

import cv2
from prometheus_client import CollectorRegistry

from edge import __version__, app
from edge.artifacts import make_folder
from edge.check import check_sources, notes
from edge.config import Settings, load
from edge.errors import CannotWriteError, ConfigError, EdgeError, TryAgainError
from edge.housekeeping import make_room
from edge.inflight import InFlight
from edge.observe.health import Health
from edge.observe.metrics import Metrics
from edge.observe.notify import sd_notify, watchdog_interval_s
from edge.pipeline import Inspector
from edge.recipes import open_recipes
from edge.record.recovery import open_store
from edge.record.store import Store
from edge.running import FLOW, Running, loop_of
from edge.wallclock import WallClock

EXIT_OK = 0
EXIT_INTERNAL = 70
BUILD_BEAT_USEC = 120_000_000  # from one sign of life of an engine's build to the next, at most
RECOVERING = "EXTEND_TIMEOUT_USEC=3600000000\nSTATUS=recovering what can be read of a damaged database"
MOST_FAULT_CHARS = 4000
LOOK_S = 0.5

Replacement = tuple[Settings, dict[str, Inspector]]


class Daemon:
    """Runs one site until a signal ends it."""

    def __init__(self, settings: Settings, *, log: Any, environ: Mapping[str, str] | None = None) -> None:
        self._settings, self._log = settings, log
        self._environ = os.environ if environ is None else environ
        self._health = Health()
        self._metrics = Metrics(CollectorRegistry())
        self._metrics.ready.set_function(self._is_ready)  # at each scrape
        # SimpleQueue: a signal handler may interrupt its own put
        self._inbox: queue.SimpleQueue[Literal["stop", "reload"]] = queue.SimpleQueue()
        self._stopping = False
        self._exit_code = EXIT_OK
        self._ended_well = True
        self._crashed = False  # by an error that nobody foresaw
        self._generation = 0
        self._last_reload: dict[str, Any] | None = None
        self._started_unix_s = time.time()
        self._wall = WallClock()
        self._faults = settings.paths.state / app.FAULTS

    def run(self) -> int:
        """Start, run until SIGTERM or SIGINT, drain, stop. Gives the exit code.

        Raises:
            EdgeError: it cannot start.
        """
        state = self._settings.paths.state
        cv2.setNumThreads(1)  # the cores are the engine's, and the workers'
        lock = lock_site(state)
        with contextlib.suppress(OSError):  # whoever needs the disk next says what is wrong with it
            make_room(self._settings, self._log)
        faulted = watch_faults(self._faults, self._log)
        self._journal = InFlight(state / app.IN_FLIGHT, faulted=faulted)
        store = open_store(
            state / app.DATABASE,
            app.sinks(self._settings),
            log=self._log,
            takes_long=self._takes_long,
        )
        try:
            self._journal.drop(store.is_recorded)
            if self._journal.suspects:
                self._log.warning("daemon.suspects", files=self._journal.suspects, faulted=faulted)
            for sink, verdicts in store.abandoned().items():
                hint = (
                    "configure the sink again to have them delivered; they go when their verdicts are too old"
                )
                self._log.warning("outbox.no_such_sink", sink=sink, verdicts=verdicts, hint=hint)
            store.restart_part_clocks(time.time())
            self._catch_signals()
            inspectors = open_recipes(self._settings, self._note_engine, self._engine_builds)
            with Pulse(self._health, self._environ, self._hung):
                self._run_lines(self._started(self._settings, inspectors, store), store)
        finally:
            store.close()
            lock.close()
        if not self._ended_well:
            # a thread inside native code would take the interpreter down as it ends; all state is on disk
            sys.stderr.flush()
            os._exit(self._exit_code)
        return self._exit_code

    def _takes_long(self) -> None:
        sd_notify(RECOVERING, self._environ)

    def request_stop(self) -> None:
        """Drain and stop, as SIGTERM does."""
        self._stopping = True
        self._inbox.put("stop")

    def request_reload(self) -> None:
        """Take over a changed configuration, as SIGHUP does."""
        self._inbox.put("reload")

    def _run_lines(self, running: Running, store: Store) -> None:
        while True:
            replacement = self._wait()
            old = running.line
            self._ended_well &= running.stop()
            if not self._crashed:  # else the notes say which files were under way
                self._journal.leave_all()
            if replacement is None or self._stopping:
                return
            try:
                running = self._started(*replacement, store)
                self._took_over(replacement[0])
            except EdgeError as error:  # it looked good and does not start: back to the one that ran
                self._refuse(error)
                running = self._started(old.settings, dict(old.inspectors), store)

    def _started(self, settings: Settings, inspectors: dict[str, Inspector], store: Store) -> Running:
        """A running line for a configuration; `READY=1` is sent.

        Raises:
            EdgeError: it cannot start; nothing of it is left running.
        """
        self._generation += 1
        line = self._wire(settings, inspectors, store)
        running = Running(
            line, store, self._health, self._metrics, generation=self._generation,
            status=lambda: self.status(line, store), failed=self._loop_failed, log=self._log,
        )  # fmt: skip
        try:
            running.start()
        except EdgeError:
            line.workers.close()
            raise
        self._settings = settings
        self._publish_models(inspectors)
        self._log.info(
            "daemon.ready", version=__version__, station=settings.station.name,
            recipes={name: inspector.model.precision for name, inspector in inspectors.items()},
            sources=[source.name for source in settings.source],
        )  # fmt: skip
        for note in notes(settings):
            self._log.warning("config.note", note=note)
        sd_notify("READY=1\nSTATUS=inspecting", self._environ)
        return running

    def _wait(self) -> Replacement | None:
        """Until it is time to stop (None), or a checked new configuration is there."""
        while not self._stopping:
            if self._asked() == "reload":
                replacement = self._checked_replacement()
                if replacement and not self._stopping:
                    now_us = time.monotonic_ns() // 1000
                    sd_notify(f"RELOADING=1\nMONOTONIC_USEC={now_us}", self._environ)
                    return replacement
        sd_notify("STOPPING=1", self._environ)
        self._log.info("daemon.stopping")
        return None

    def _asked(self) -> Literal["stop", "reload", ""]:
        """What a signal or a loop asked for, or '' after a while.

        Not a wait without end: a signal that comes between Python's last look and the system call that waits
        would have its handler run when the wait is over (seen with SIGTERM right after READY).
        """
        try:
            return self._inbox.get(timeout=LOOK_S)
        except queue.Empty:
            return ""

    def _checked_replacement(self) -> Replacement | None:
        """The new configuration with its engines compiled and proved, or None if it is no good."""
        try:
            settings = load(self._settings.file)
            check_reloadable(self._settings, settings)
            check_sources(settings)
            return settings, open_recipes(settings, self._note_engine, self._engine_builds)
        except EdgeError as error:
            self._refuse(error)
            return None

    def _engine_builds(self, sentence: str) -> None:
        """A GPU's engine may take minutes, the first time: whoever waits is told, and systemd waits on."""
        sd_notify(f"EXTEND_TIMEOUT_USEC={BUILD_BEAT_USEC}\nSTATUS={sentence}", self._environ)
        self._log.info("engine.builds", progress=sentence)

    def _note_engine(self, sentence: str) -> None:
        self._log.warning("engine.note", note=sentence)

    def _refuse(self, error: EdgeError) -> None:
        self._metrics.reload_failures.inc()
        self._last_reload = {"ok": False, "error": error.message, "hint": error.hint}
        self._log.error("config.refused", error=error, kept=self._settings.digest)

    def _took_over(self, settings: Settings) -> None:
        self._metrics.reloads.inc()
        self._last_reload = {"ok": True, "configSha256": settings.digest}
        self._log.info("config.reloaded", sha256=settings.digest)

    def _wire(self, settings: Settings, inspectors: Mapping[str, Inspector], store: Store) -> app.Line:
        line: app.Line
        line = app.wire(
            settings,
            inspectors,
            store,
            self._journal,
            self._wall,
            self._metrics,
            describe=lambda: app.describe(settings, inspectors),
            state=lambda: self.status(line, store),
            requests=lambda name, _body: self._answer(name, line, store),
            log=self._log,
        )
        return line

    def _publish_models(self, inspectors: Mapping[str, Inspector]) -> None:
        self._metrics.build_info.labels(__version__).set(1)
        for name, inspector in inspectors.items():
            model = inspector.model
            self._metrics.set_bundle(
                name, sha256=model.sha256, runtime=model.runtime, precision=model.precision
            )
        self._metrics.forget_bundles(inspectors)
        for source in self._settings.source:
            self._metrics.expect_frames(source.name, source.recipe)
        for name, recipe in self._settings.recipe.items():
            if recipe.views and name in inspectors:
                self._metrics.expect_parts(name)

    def _is_ready(self) -> bool:
        """What /readyz answers."""
        return self._health.ready()[0] and self._health.healthy(time.monotonic())[0]

    def status(self, line: app.Line, store: Store) -> dict[str, Any]:
        """What /api/v1/status, `…/state` and `edge status` say."""
        ready, failing = self._health.ready()
        return {
            "ready": ready,
            "notReady": failing,
            "lastReload": self._last_reload,
            **app.status(line, store, self._started_unix_s),
        }

    def _answer(self, name: str, line: app.Line, store: Store) -> dict[str, Any]:
        """A request that came over MQTT."""
        if name == "status":
            return {"ok": True, **self.status(line, store)}
        if name == "rescan":
            for intake in line.intakes:
                intake.rescan()
            return {"ok": True}
        if name == "reload":
            check_reloadable(self._settings, load(self._settings.file))
            self.request_reload()
            return {"ok": True, "accepted": True}
        return {"ok": False, "error": f"unknown request {name!r}; known: reload, rescan, status"}

    def _loop_failed(self, name: str, error: BaseException) -> None:
        """A loop ended by an error it could not handle: stop, and let systemd start afresh."""
        self._log.critical("loop.failed", loop=name, error=str(error), exc_info=error)
        self._exit_code = error.exit_code if isinstance(error, EdgeError) else EXIT_INTERNAL
        if not isinstance(error, EdgeError) and loop_of(name) in FLOW:
            self._crashed = True  # a frame that is under way may be the reason
            report_fault(self._faults, "".join(traceback.format_exception(error)))
        self.request_stop()

    def _hung(self, silent: Mapping[str, str]) -> None:
        """Loops are silent, and systemd is about to end this; empty: they are back."""
        if not silent:
            self._log.warning("daemon.hung_no_more")
            with suppress(OSError):
                os.truncate(self._faults, 0)
            return
        self._log.critical("daemon.hung", loops=dict(silent))
        faulthandler.dump_traceback(sys.stderr)
        if any(loop_of(name) == "inspect" for name in silent):
            report_fault(self._faults, f"the engine did not answer: {dict(silent)}")

    def _catch_signals(self) -> None:
        def stop(number: int, _frame: FrameType | None) -> None:
            if self._stopping:  # the second signal forces
                os._exit(128 + number)
            self.request_stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, lambda *_: self.request_reload())


class Pulse:
    """Feeds systemd's watchdog, but only while every loop makes progress."""

    def __init__(
        self, health: Health, environ: Mapping[str, str],
        hung: Callable[[Mapping[str, str]], None] = lambda silent: None,
    ) -> None:  # fmt: skip
        """`hung` is told when loops fall silent, by their names, and when all are back, with none."""
        self._health, self._environ, self._hung, self._was_healthy = health, environ, hung, True
        self._interval_s = watchdog_interval_s(environ)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> None:
        if self._interval_s is not None:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def step(self, now_s: float) -> bool:
        """Say how it goes; True if the watchdog was fed."""
        healthy, silent = self._health.healthy(now_s)
        status = "STATUS=inspecting" if healthy else f"STATUS=hung: {json.dumps(silent)}"
        sd_notify(f"WATCHDOG=1\n{status}" if healthy else status, self._environ)
        if healthy != self._was_healthy:
            self._was_healthy = healthy
            self._hung(silent)
        return healthy

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.step(time.monotonic())


def lock_site(state: Path) -> IO[str]:
    """Hold the site for this process; the lock goes with the process, however it ends.

    Raises:
        TryAgainError: another daemon has it.
        CannotWriteError: the state folder cannot be made.
    """
    try:
        make_folder(state)
        lock = (state / "lock").open("w")
    except OSError as error:
        raise CannotWriteError(f"{state}: {error}", hint="check paths.state in config.toml") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise TryAgainError(
            f"{state}: another edge daemon runs on this site",
            hint="stop it first (systemctl stop edge), or give this one its own paths.state",
        ) from None
    return lock


def watch_faults(file: Path, log: Any) -> bool:
    """Have the interpreter write to `file` where it was when native code ends it; says whether the last run
    ended so. That report is logged and kept beside it."""
    faulted = False
    with suppress(OSError):  # a disk that is full or read-only has other ways of saying so
        if file.is_file() and file.stat().st_size:
            faulted = True
            log.critical("daemon.faulted", report=file.read_text(errors="replace")[:MOST_FAULT_CHARS])
            file.replace(file.with_suffix(".old"))
        # a number, which is never closed: whatever ends this process, it is there
        faulthandler.enable(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    return faulted


def report_fault(file: Path, what: str) -> None:
    """Leave word of what a frame may have done to the daemon, as of a fault in native code."""
    with suppress(OSError), file.open("a") as report:
        report.write(what)


def check_reloadable(old: Settings, new: Settings) -> None:
    """Refuse what only a restart can change.

    Raises:
        ConfigError: naming the key.
    """
    for key, before, after in (
        ("station.name", old.station.name, new.station.name),
        ("paths.state", old.paths.state, new.paths.state),
        ("the sinks", app.sinks(old), app.sinks(new)),
        ("log.level", old.log.level, new.log.level),
    ):
        if before != after:
            raise ConfigError(
                f"{new.file}: {key} = {str(after)!r} cannot be taken over while running (it is {before!s})",
                hint="restart the daemon: systemctl restart edge",
            )
