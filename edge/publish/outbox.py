"""Store and forward: rows of the outbox into one sink, in order, deleted only when acknowledged."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from edge.errors import EdgeError
from edge.publish import Message, Settled, Sink
from edge.publish.backoff import Backoff

REFUSED_WAIT_S = (1.0, 60.0)  # before a refused row is tried again: first, at most
DELETE_ROWS = 64  # acknowledged rows are deleted this many at a time, or …
DELETE_AFTER_S = 0.25  # … this long after the first, or when nothing is in flight
REPORT_EVERY_S = 1.0
IDLE_WAIT_S = 0.25  # `wake` ends it early
CLOSE_STEP_S = 0.05


class OutboxStore(Protocol):
    """Where the rows wait; `edge.record.store` has it in SQLite, `edge.publish.memory` in a dict."""

    def pending(self, sink: str, after_row_id: int, limit: int) -> list[Message]:
        """The first `limit` rows for `sink` with a greater id, in the order of their ids."""
        ...

    def delete(self, sink: str, row_ids: Sequence[int]) -> None: ...

    def depth(self, sink: str) -> int: ...

    def oldest_unix_s(self, sink: str) -> float | None: ...


class OutboxMeter(Protocol):
    """What is counted; `edge.observe.metrics.Metrics` has these methods."""

    def outbox_state(self, sink: str, *, depth: int, oldest_s: float, connected: bool) -> None: ...

    def outbox_delivered(self, sink: str, count: int) -> None: ...

    def outbox_refused(self, sink: str, count: int) -> None: ...


class Delivery:
    """Drives one sink from the outbox. At least once, in row order; never two copies in flight.

    A receiver that refuses a row holds up all that come after it: order matters more than speed. So that none
    overtakes it in the same window, the first row of each kind on a connection, and after a refusal, goes
    alone: what a receiver refuses, it nearly always refuses by kind (a topic) or always (its limits).

    `select` gives what of a message is sent. `wake` is the sink's as well, and set by whoever adds rows:
    setting it ends an idle wait.
    """

    def __init__(
        self,
        sink: Sink,
        store: OutboxStore,
        *,
        wake: threading.Event,
        meter: OutboxMeter,
        log: Any,
        select: Callable[[Message], Message] = lambda message: message,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.sink = sink
        self._store = store
        self.wake = wake  # its own: each delivery clears it
        self._meter, self._select = meter, select
        self._log = log
        self._clock = clock
        self._unix_clock = unix_clock
        self._after_row_id = 0  # rows up to here are in flight, acknowledged, or settled otherwise
        self._in_flight: dict[int, str] = {}  # row: its kind
        self._acknowledged: list[int] = []  # still to be deleted
        self._delete_by_s = float("inf")
        self._refusals = Backoff(*REFUSED_WAIT_S, jitter)
        self._proved: set[str] = set()  # kinds that the receiver takes, on this connection as far as we know
        self._probe: int | None = None  # the row in flight that shall prove its kind; nothing else is sent
        self._rewind = False  # a row was refused or lost: start again from the oldest
        self._not_before_s = float("-inf")
        self._report_at_s = float("-inf")
        self._was_connected = False

    def step(self, now_s: float) -> bool:
        """Settle, delete, send what fits; say whether anything moved.

        Raises:
            EdgeError: the store cannot be read or written; nothing is lost, call again.
        """
        self.sink.step(now_s)
        settled = self._settle(self.sink.settled(), now_s)
        deleted = self._delete(now_s)
        sent = self._send(now_s)
        self._report(now_s)
        return settled or deleted or sent

    def run(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Step until `stop`; `beat` is called every round."""
        while not stop.is_set():
            self.wake.clear()
            beat()
            try:
                moved = self.step(self._clock())
            except EdgeError as error:
                if not error.retryable:
                    raise
                self._log.error("outbox.failed", sink=self.sink.name, error=error)
                stop.wait(REFUSED_WAIT_S[0])
                continue
            if not moved:
                self.wake.wait(IDLE_WAIT_S)

    def close(self, timeout_s: float) -> None:
        """Send what still goes out in half of `timeout_s`, close the sink, delete what was acknowledged.

        Call it when `run` has returned. What remains is sent after the next start.
        """
        deadline_s = self._clock() + timeout_s
        with self._faults_logged():
            self._drain(deadline_s - timeout_s / 2)
        self.sink.close(max(0.0, deadline_s - self._clock()))
        with self._faults_logged():
            self._settle(self.sink.settled(), self._clock())
            self._delete(float("inf"))
            self._report(float("inf"))

    def _drain(self, deadline_s: float) -> None:
        while self.sink.connected and self._clock() < deadline_s:
            self.wake.clear()
            if not self.step(self._clock()):
                if not self._in_flight:
                    break
                self.wake.wait(CLOSE_STEP_S)

    @contextmanager
    def _faults_logged(self) -> Iterator[None]:
        """A store that fails at the end costs copies after the next start, and must not cost the goodbye."""
        try:
            yield
        except EdgeError as error:
            self._log.error("outbox.failed", sink=self.sink.name, error=error)

    def _settle(self, settled: Settled, now_s: float) -> bool:
        refused = [row for row, _ in settled.refused]
        for row_id in settled.delivered:
            kind = self._in_flight.pop(row_id)
            if row_id == self._probe:
                self._proved.add(kind)
                self._probe = None
                self._refusals.reset()
        if settled.delivered:
            if not self._acknowledged:
                self._delete_by_s = now_s + DELETE_AFTER_S
            self._acknowledged += settled.delivered
            self._meter.outbox_delivered(self.sink.name, len(settled.delivered))
        for row_id in (*settled.lost, *refused):
            del self._in_flight[row_id]
        if settled.refused:
            self._refuse(settled.refused, now_s)
        if settled.lost or refused or not self.sink.connected:
            self._proved.clear()
            self._probe = None
        self._rewind |= bool(refused or settled.lost)
        return bool(settled.delivered or refused or settled.lost)

    def _refuse(self, refused: Sequence[tuple[int, str]], now_s: float) -> None:
        """The row stays, and everything after it waits."""
        self._meter.outbox_refused(self.sink.name, len(refused))
        if self._rewind:
            return  # sent together with the one that was refused first; the wait has begun
        wait_s = self._refusals.wait_s()
        self._not_before_s = now_s + wait_s
        row_id, reason = refused[0]
        log = self._log.bind(sink=self.sink.name, row=row_id, rows=len(refused))
        log.warning("outbox.refused", reason=reason, retry_s=round(wait_s, 2))

    def _delete(self, now_s: float) -> bool:
        due = len(self._acknowledged) >= DELETE_ROWS or now_s >= self._delete_by_s or not self._in_flight
        if not self._acknowledged or not due:
            return False
        self._store.delete(self.sink.name, self._acknowledged)
        self._acknowledged = []  # only now: when the store fails, they are deleted later, not sent again
        self._delete_by_s = float("inf")
        return True

    def _send(self, now_s: float) -> bool:
        if self._rewind:
            # rows that are still in flight must settle first, or they would be sent twice
            if self._in_flight or self._acknowledged:
                return False
            self._after_row_id, self._rewind = 0, False
        if now_s < self._not_before_s or self._probe is not None:
            return False
        limit = self.sink.capacity()
        if limit <= 0:
            return False
        sent = False
        for message in self._store.pending(self.sink.name, self._after_row_id, limit):
            proved = message.kind in self._proved
            if self.sink.capacity() <= 0 or (self._in_flight and not proved):
                break
            self._in_flight[message.row_id] = message.kind
            self._after_row_id = message.row_id
            self.sink.send(self._select(message))
            sent = True
            if not proved:
                self._probe = message.row_id
                break
        return sent

    def _report(self, now_s: float) -> None:
        connected = self.sink.connected
        if now_s < self._report_at_s and connected == self._was_connected:
            return
        self._report_at_s, self._was_connected = now_s + REPORT_EVERY_S, connected
        oldest_unix_s = self._store.oldest_unix_s(self.sink.name)
        oldest_s = 0.0 if oldest_unix_s is None else max(0.0, self._unix_clock() - oldest_unix_s)
        depth = self._store.depth(self.sink.name)
        self._meter.outbox_state(self.sink.name, depth=depth, oldest_s=oldest_s, connected=connected)
