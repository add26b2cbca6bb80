"""A daemon's life: start, run, drain, stop; signals, reloads, systemd, supervision of its loops.

It is crash-only: all state is in SQLite, so the answer to an error that nobody foresaw is to stop with a
non-zero exit code and be started again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from prometheus_client import CollectorRegistry

from edge import __version__, app
from edge.config import Settings, load
from edge.errors import CannotWriteError, ConfigError, EdgeError, TryAgainError
from edge.observe.health import Health
from edge.observe.metrics import Metrics
from edge.observe.notify import sd_notify, watchdog_interval_s
from edge.record import evidence
from edge.record.store import Store
from edge.web.app import create_app
from edge.web.server import HttpServer

# How long a loop may be silent before it counts as hung
SILENCE_ALLOWED_S = 30.0
INFERENCE_ALLOWED_S = 60.0
HOUSEKEEPING_S = 30.0
RETRY_S = 1.0
DELIVERY_CLOSE_S = 2.0

EXIT_OK = 0
EXIT_INTERNAL = 70

Loop = Callable[[threading.Event, Callable[[], None]], None]


class Daemon:
    """Runs one site until a signal ends it."""

    def __init__(self, settings: Settings, *, log: Any, environ: Mapping[str, str] | None = None) -> None:
        self._settings, self._log = settings, log
        self._environ = os.environ if environ is None else environ
        self.health = Health()
        self.metrics = Metrics(CollectorRegistry())
        self._wake = threading.Event()  # the main loop has something to do
        self._stopping = False
        self._reload = False
        self._fatal = EXIT_OK
        self._last_reload: dict[str, Any] | None = None
        self._started_unix_s = time.time()

    def run(self) -> int:
        """Start, run until SIGTERM or SIGINT, drain, stop. Gives the exit code.

        Raises:
            EdgeError: it cannot start.
        """
        lock = lock_site(self._settings.paths.state)
        store = Store(self._settings.paths.state / app.DATABASE, app.sinks(self._settings))
        try:
            store.restart_part_clocks(time.time())
            self._catch_signals()
            self._run_with(store)
        finally:
            store.close()
            lock.close()
        return self._fatal

    def request_stop(self) -> None:
        """Drain and stop, as SIGTERM does."""
        self._stopping = True
        self._wake.set()

    def request_reload(self) -> None:
        """Take over a changed configuration, as SIGHUP does."""
        self._reload = True
        self._wake.set()

    def _run_with(self, store: Store) -> None:
        line = self._wire(self._settings, app.open_recipes(self._settings), store)
        with Pulse(self.health, self._environ):
            while True:
                running = Running(line, store, self)
                running.start()
                self._announce(line)
                replacement = self._wait(store)
                running.stop()
                if replacement is None:
                    break
                self._settings = replacement[0]
                line = self._wire(*replacement, store)

    def _wait(self, store: Store) -> tuple[Settings, dict[str, Any]] | None:
        """Until it is time to stop (None) or a checked new configuration is there."""
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            if self._reload and not self._stopping:
                self._reload = False
                if replacement := self._checked_replacement():
                    sd_notify(
                        "RELOADING=1\nMONOTONIC_USEC=" + str(time.monotonic_ns() // 1000), self._environ
                    )
                    return replacement
        sd_notify("STOPPING=1", self._environ)
        self._log.info("daemon.stopping")
        return None

    def _checked_replacement(self) -> tuple[Settings, dict[str, Any]] | None:
        """The new configuration with its engines compiled and proved, or None if it is no good."""
        try:
            settings = load(self._settings.file)
            check_reloadable(self._settings, settings)
            inspectors = app.open_recipes(settings)
        except EdgeError as error:
            self.metrics.reload_failures.inc()
            self._last_reload = {"ok": False, "error": error.message}
            self._log.error(
                "config.refused", error=error.message, hint=error.hint, kept=self._settings.digest
            )
            return None
        self.metrics.reloads.inc()
        self._last_reload = {"ok": True, "configSha256": settings.digest}
        return settings, inspectors

    def _wire(self, settings: Settings, inspectors: Mapping[str, Any], store: Store) -> app.Line:
        for name, inspector in inspectors.items():
            model = inspector.model
            self.metrics.set_bundle(
                name, sha256=model.sha256, runtime=model.runtime, precision=model.precision
            )
        self.metrics.build_info.labels(__version__).set(1)
        line: app.Line

        def status() -> dict[str, Any]:
            return self.status(line, store)

        line = app.wire(
            settings,
            inspectors,
            store,
            self.metrics,
            describe=lambda: app.describe(settings, inspectors),
            state=status,
            requests=lambda name, body: self._answer(name, line, store),
            log=self._log,
        )
        return line

    def status(self, line: app.Line, store: Store) -> dict[str, Any]:
        """What /api/v1/status, `…/state` and `edge status` say."""
        ready, failing = self.health.ready()
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

    def _announce(self, line: app.Line) -> None:
        self._log.info(
            "daemon.ready", version=__version__, station=line.settings.station.name,
            recipes={name: i.model.precision for name, i in line.inspectors.items()},
            sources=[source.name for source in line.settings.source],
            start_s=round(time.time() - self._started_unix_s, 2),
        )  # fmt: skip
        sd_notify("READY=1\nSTATUS=inspecting", self._environ)

    def loop_failed(self, name: str, error: BaseException) -> None:
        """A loop ended by an error it could not handle: stop, and let systemd start afresh."""
        self._log.critical("loop.failed", loop=name, error=error, exc_info=error)
        self._fatal = error.exit_code if isinstance(error, EdgeError) else EXIT_INTERNAL
        self.request_stop()

    def _catch_signals(self) -> None:
        def stop(number: int, _frame: FrameType | None) -> None:
            if self._stopping:  # the second signal forces
                os._exit(128 + number)
            self.request_stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, lambda *_: self.request_reload())


class Running:
    """The loops of one line, from start to drained."""

    def __init__(self, line: app.Line, store: Store, daemon: Daemon) -> None:
        self._line, self._store, self._daemon = line, store, daemon
        self._health, self._metrics, self._log = daemon.health, daemon.metrics, daemon._log
        # one event a stage: they stop in the order of the flow, each after what feeds it
        self._stops = {name: threading.Event() for name in ("intake", "decode", "inspect", "record", "last")}
        self._threads: dict[str, list[threading.Thread]] = {name: [] for name in self._stops}
        self._http: HttpServer | None = None

    def start(self) -> None:
        """Start all loops; /readyz answers from now on."""
        line = self._line
        self._serve_http()
        for intake in line.intakes:
            self._health.set(f"source:{intake.name}", False, "not looked at yet")
            self._thread("intake", f"intake-{intake.name}", intake.run, SILENCE_ALLOWED_S)
        self._thread("decode", "decode", self._decode, SILENCE_ALLOWED_S)
        self._thread("inspect", "inspect", self._inspect, INFERENCE_ALLOWED_S)
        self._thread("record", "record", self._record, SILENCE_ALLOWED_S)
        for delivery in line.deliveries:
            self._thread("last", f"deliver-{delivery.sink.name}", delivery.run, SILENCE_ALLOWED_S)
        self._thread("last", "housekeeping", self._housekeep, SILENCE_ALLOWED_S + HOUSEKEEPING_S)

    def stop(self) -> None:
        """Stop intake, let what is in flight become verdicts within the drain time, stop the rest."""
        deadline_s = time.monotonic() + self._line.settings.runtime.drain_s
        for name in ("intake", "decode", "inspect", "record"):
            self._end(name, deadline_s)
        self._line.workers.close()
        self._end("last", time.monotonic() + 1.0)
        for delivery in self._line.deliveries:
            delivery.close(DELIVERY_CLOSE_S)
        if self._http is not None:
            self._http.stop(1.0)
        for intake in self._line.intakes:
            self._health.unset(f"source:{intake.name}")

    def _end(self, stage: str, deadline_s: float) -> None:
        self._stops[stage].set()
        for intake in self._line.intakes if stage == "intake" else ():
            intake.wake()
        self._line.delivery_wake.set()
        for thread in self._threads[stage]:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                # its files have no verdict yet, so the next start finds and judges them
                self._log.warning("drain.timeout", loop=thread.name)
            self._health.forget(thread.name)

    def _thread(self, stage: str, name: str, loop: Loop, allowed_s: float) -> None:
        stop = self._stops[stage]
        self._health.expect(name, allowed_s, time.monotonic())

        def body() -> None:
            try:
                loop(stop, lambda: self._health.beat(name, time.monotonic()))
            except BaseException as error:
                self._daemon.loop_failed(name, error)

        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads[stage].append(thread)
        thread.start()

    def _decode(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        stage = self._line.decode
        while not stop.is_set() or stage.in_flight:
            if not stage.is_stuck():  # a silent pool is a hang, even if this loop goes round
                beat()
            stage.step(taking=not stop.is_set())

    def _inspect(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        while not stop.is_set() or len(self._line.prepared):
            beat()
            self._line.inspect.step()

    def _record(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        stage = self._line.record
        while not stop.is_set() or len(self._line.judged) or stage.holding:
            beat()
            try:
                stage.step()
                self._health.set("database", True)
            except CannotWriteError as error:
                # held and tried again: no verdict is lost, and nothing new is taken meanwhile
                self._health.set("database", False, error.message)
                self._log.error("record.failed", error=error.message, hint=error.hint)
                if stop.wait(RETRY_S):
                    return

    def _housekeep(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        settings = self._line.settings
        root = settings.paths.state / app.EVIDENCE
        next_prune_s = 0.0
        while not stop.is_set():
            beat()
            for intake in self._line.intakes:
                self._health.set(f"source:{intake.name}", not intake.unavailable, intake.unavailable)
            self._metrics.workers_restarted(self._line.workers.take_restarts())
            usage = shutil.disk_usage(settings.paths.state)
            self._metrics.disk_free_bytes.labels(str(settings.paths.state)).set(usage.free)
            if time.monotonic() >= next_prune_s:
                next_prune_s = time.monotonic() + HOUSEKEEPING_S
                rule = settings.evidence
                removed = evidence.prune(
                    root, max_age_days=rule.max_age_days, max_bytes=rule.max_bytes, now_unix_s=time.time()
                )
                if removed:
                    self._log.info("evidence.pruned", results=removed)
            stop.wait(0.5)

    def _serve_http(self) -> None:
        settings = self._line.settings
        if not settings.http.enabled:
            return
        application = create_app(
            registry=self._metrics.registry,
            health=self._health,
            status=lambda: self._daemon.status(self._line, self._store),
            verdicts=self._store.latest,
            evidence_root=settings.paths.state / app.EVIDENCE,
        )
        host, port = settings.http.address
        self._http = HttpServer(application, host, port)
        self._http.start()


class Pulse:
    """Feeds systemd's watchdog, but only while every loop makes progress."""

    def __init__(self, health: Health, environ: Mapping[str, str]) -> None:
        self._health, self._environ = health, environ
        self._interval_s = watchdog_interval_s(environ)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> None:
        if self._interval_s is not None:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _run(self) -> None:
        assert self._interval_s is not None
        while not self._stop.wait(self._interval_s):
            healthy, silent = self._health.healthy(time.monotonic())
            status = "STATUS=inspecting" if healthy else f"STATUS=hung: {json.dumps(silent)}"
            sd_notify(f"WATCHDOG=1\n{status}" if healthy else status, self._environ)


def lock_site(state: Path) -> Any:
    """Hold the site for this process; the lock goes with the process, however it ends.

    Raises:
        TryAgainError: another daemon has it.
        CannotWriteError: the state folder cannot be made.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
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


def check_reloadable(old: Settings, new: Settings) -> None:
    """Refuse what only a restart can change.

    Raises:
        ConfigError: station.name, paths.state or the set of sinks differ.
    """
    for key, before, after in (
        ("station.name", old.station.name, new.station.name),
        ("paths.state", old.paths.state, new.paths.state),
        ("mqtt.enabled", old.mqtt.enabled, new.mqtt.enabled),
    ):
        if before != after:
            raise ConfigError(
                f"{new.file}: {key} = {str(after)!r} cannot be taken over while running (it is {before!s})",
                hint="restart the daemon: systemctl restart edge",
            )
