"""The loops of one wired line: started together, stopped in the order of the flow, supervised."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from edge import app
from edge.errors import EdgeError
from edge.housekeeping import STEP_S, Housekeeping
from edge.observe.health import Health
from edge.observe.metrics import Metrics
from edge.page import page_routes
from edge.quality import QualityView
from edge.record.keeping import FrameKeeper
from edge.record.queries import Queries
from edge.record.store import Store
from edge.review.taking import Reviewing
from edge.stages import Beat
from edge.web import replays, reviews
from edge.web.app import create_app
from edge.web.replays import Replays
from edge.web.server import HttpServer
from edge.web.token import read_token

# How long a loop may be silent before it counts as hung. Stages beat within a step: for every batch that the
# engine answers, every picture, and while the next stage has no room.
SILENCE_ALLOWED_S = 25.0
HOUSEKEEPING_ALLOWED_S = 300.0  # walks all evidence now and then
RETRY_S = 1.0

# Parts of the ten seconds within which a stop is over, after the drain
LAST_LOOPS_S = 0.5
DELIVERY_CLOSE_S = 1.0
HTTP_CLOSE_S = 0.5

FLOW = ("decode", "inspect", "record")


def loop_of(name: str) -> str:
    """The loop that a thread's name is of: "inspect" of "inspect#2", after a reload."""
    return name.partition("#")[0]


Loop = Callable[[threading.Event, Beat], None]


class Ended(BaseException):
    """Raised in a loop of a line that was given up on: it must not touch anything any more."""


class Running:
    """A line with its loops, from start to drained."""

    def __init__(
        self,
        line: app.Line,
        store: Store,
        health: Health,
        metrics: Metrics,
        *,
        generation: int,
        status: Callable[[], Mapping[str, Any]],
        failed: Callable[[str, BaseException], None],
        log: Any,
    ) -> None:
        self.line = line
        self._store, self._health, self._metrics, self._log = store, health, metrics, log
        self._generation, self._status, self._failed = generation, status, failed
        self._stops = {stage: threading.Event() for stage in ("intake", *FLOW, "last")}
        self._threads: dict[str, list[threading.Thread]] = {stage: [] for stage in self._stops}
        self._ended = threading.Event()
        self._http: HttpServer | None = None
        self._replays: Replays | None = None
        self._queries = Queries(line.settings.paths.state / app.DATABASE)

    def start(self) -> None:
        """Serve HTTP and start all loops.

        Raises:
            UnavailableError: the HTTP address cannot be had; no loop was started.
            ConfigError: the token of [http] cannot be had; likewise.
        """
        self._serve_http()
        line = self.line
        for intake in line.intakes:
            self._health.set(f"source:{intake.name}", False, "not looked at yet")
            # never given up: a folder that hangs must not cost the other sources their daemon
            self._start("intake", f"intake-{intake.name}", intake.run, None)
        self._start("decode", "decode", self._decode)
        self._start("inspect", "inspect", self._inspect)
        self._start("record", "record", self._record)
        for delivery in line.deliveries:
            self._start("last", f"deliver-{delivery.sink.name}", delivery.run)
        if line.keeper is not None:  # like intake never given up: it reads scanners' folders
            self._start("last", "keep-frames", partial(self._keep_frames, line.keeper), None)
        self._start("last", "housekeeping", self._keep_house, HOUSEKEEPING_ALLOWED_S)

    def stop(self) -> bool:
        """Take nothing new, let what is in flight become verdicts within the drain time, end the rest.

        What is not judged by then has no verdict, and is found again at the next start. Gives whether all
        loops have ended; one that has not is inside a library's call, and ends at its next beat.
        """
        deadline_s = time.monotonic() + self.line.settings.runtime.drain_s
        self._stops["intake"].set()
        for intake in self.line.intakes:
            intake.wake()
        for stage in FLOW:
            self._end(stage, deadline_s)
        self._stops["last"].set()
        self.line.wake_deliveries()
        last_s = time.monotonic() + LAST_LOOPS_S
        self._end("intake", last_s)
        self._end("last", last_s)
        self._ended.set()  # from here on loops that are still busy may write nothing
        self.line.workers.close()
        for delivery in self.line.deliveries:
            delivery.close(DELIVERY_CLOSE_S)
        self.line.feed.close()
        if self._http is not None:
            self._http.stop(HTTP_CLOSE_S)
        if self._replays is not None:
            self._replays.stop()
        self._queries.close()
        for intake in self.line.intakes:
            self._health.unset(f"source:{intake.name}")
        return not any(thread.is_alive() for threads in self._threads.values() for thread in threads)

    def _end(self, stage: str, deadline_s: float) -> None:
        self._stops[stage].set()
        for thread in self._threads[stage]:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                self._log.warning("drain.timeout", loop=thread.name)
            self._health.forget(thread.name)

    def _start(self, stage: str, name: str, loop: Loop, allowed_s: float | None = SILENCE_ALLOWED_S) -> None:
        stop = self._stops[stage]
        # a loop that a reload left behind must not beat for its successor
        unique = name if self._generation == 1 else f"{name}#{self._generation}"
        if allowed_s is not None:
            self._health.expect(unique, allowed_s, time.monotonic())

        def beat() -> None:
            if self._ended.is_set():
                raise Ended
            self._health.beat(unique, time.monotonic())

        def body() -> None:
            try:
                loop(stop, beat)
            except Ended:
                pass
            except BaseException as error:  # the daemon decides what becomes of it
                if self._ended.is_set():
                    self._log.info("loop.ended", loop=unique, error=str(error))
                else:
                    self._failed(unique, error)

        thread = threading.Thread(target=body, name=unique, daemon=True)
        self._threads[stage].append(thread)
        thread.start()

    def _decode(self, stop: threading.Event, beat: Beat) -> None:
        stage = self.line.decode
        while not stop.is_set() or stage.in_flight:
            if not stage.is_stuck():  # a silent pool is a hang, even if this loop goes round
                beat()
            stage.step(beat=beat, taking=not stop.is_set())

    def _inspect(self, stop: threading.Event, beat: Beat) -> None:
        while not stop.is_set() or len(self.line.prepared):
            beat()
            self.line.inspect.step(beat=beat)

    def _record(self, stop: threading.Event, beat: Beat) -> None:
        stage = self.line.record
        while not stop.is_set() or len(self.line.judged) or stage.holding:
            beat()
            try:
                stage.step(beat=beat)
                self._health.set("database", True)
            except EdgeError as error:
                if not error.retryable:
                    raise
                # held and tried again: no verdict is lost, and nothing new is taken meanwhile
                self._health.set("database", False, error.message)
                self._log.error("record.failed", error=error)
                self._ended.wait(RETRY_S)

    def _reviewing(self) -> Reviewing:
        line = self.line
        return Reviewing(
            self._store, line.settings, announce=line.feed.publish, wake_delivery=line.wake_deliveries,
            log=self._log,
        )  # fmt: skip

    @staticmethod
    def _keep_frames(keeper: FrameKeeper, stop: threading.Event, beat: Beat) -> None:
        while not stop.is_set():
            beat()
            keeper.step()

    def _keep_house(self, stop: threading.Event, beat: Beat) -> None:
        house = Housekeeping(self.line, self._store, self._health, self._metrics, log=self._log)
        while not stop.is_set():
            beat()
            house.step()
            stop.wait(STEP_S)

    def _serve_http(self) -> None:
        settings = self.line.settings
        if not settings.http.enabled:
            return
        command = [sys.executable, "-m", "edge", "replay", "--config", str(settings.file)]
        self._replays = Replays(settings.paths.state / app.REPLAYS, command)
        application = create_app(
            registry=self._metrics.registry,
            health=self._health,
            status=self._status,
            evidence_root=settings.paths.state / app.EVIDENCE,
            quality=QualityView(self._store),
            token=read_token(settings.http.token_file, os.environ),
            hosts=settings.http.answers_to,
            more=[
                *page_routes(self._queries, self.line, self._status, self._health),
                *replays.routes(self._replays),
                *reviews.routes(self._reviewing()),
            ],
        )
        host, port = settings.http.address
        server = HttpServer(application, host, port)
        server.start()
        self._http = server
