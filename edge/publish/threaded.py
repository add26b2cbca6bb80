"""A sink over a receiver that blocks (an HTTP server, a disk): a thread of its own for each connection.

The thread does what blocks and only puts events on a queue; the sink takes them in its owner's thread. A
thread that hangs is left alone, with its receiver aborted, and the next attempt waits until it has ended: two
would send copies out of order, and a disk that hangs for a week would collect a thread for each attempt.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from edge.publish import MAX_IN_FLIGHT, Message, Settled
from edge.publish.backoff import Backoff

RETRY_WAIT_S = (0.5, 60.0)  # first, at most
GIVE_UP_S = 25.0  # a receiver that neither answers nor fails for so long is given up


class UnavailableNowError(Exception):
    """The receiver cannot take anything now; `after_s`: what it asked to be left alone for."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class Receiver(Protocol):
    """What blocks. All methods but `abort` are called from one thread."""

    def open(self) -> None:
        """Make ready.

        Raises:
            OSError, UnavailableNowError: it cannot be reached.
        """
        ...

    def deliver(self, messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
        """Take them in order; each settled row with the reason why it is refused, '' where it is not. Ends
        after the first that is refused.

        Raises:
            OSError, UnavailableNowError: it is gone; rows not yet yielded are lost.
        """
        ...

    def close(self) -> None: ...

    def abort(self) -> None:
        """From another thread: end whatever `open` or `deliver` waits for, if that can be done."""
        ...


@dataclass(frozen=True, slots=True)
class _Up:
    pass


@dataclass(frozen=True, slots=True)
class _Done:
    row_id: int
    refused: str = ""


@dataclass(frozen=True, slots=True)
class _Skipped:
    """Rows behind one that was refused: they must not overtake it."""

    row_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Down:
    why: str
    after_s: float = 0.0


class _Stop:
    pass


class _Resume:
    pass


class _Worker:
    """One connection's thread."""

    def __init__(self, receiver: Receiver, name: str, wake: threading.Event) -> None:
        self.receiver, self._wake, self._abandoned = receiver, wake, False
        self.events: queue.SimpleQueue[_Up | _Done | _Skipped | _Down] = queue.SimpleQueue()
        self.work: queue.SimpleQueue[Message | _Stop | _Resume] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, name=f"sink-{name}", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """What it has not begun is not sent any more."""
        self._abandoned = True
        self.work.put(_Stop())
        self.receiver.abort()

    def _put(self, event: _Up | _Done | _Skipped | _Down) -> None:
        self.events.put(event)
        self._wake.set()

    def _live(self) -> None:
        after_s, why = 0.0, "closed"
        try:
            self.receiver.open()
            self._put(_Up())
            self._work()
        except UnavailableNowError as error:
            why, after_s = str(error), error.after_s
        except Exception as error:  # unreachable, or a fault of ours: the rows stay, and are tried again
            why = str(error) or type(error).__name__
        finally:
            with suppress(Exception):
                self.receiver.close()
            self._put(_Down(why, after_s))

    def _work(self) -> None:
        skipping, ended = False, False
        while not ended:
            found = self._next()
            batch = [one for one in found if isinstance(one, Message)]
            ended = self._abandoned or any(isinstance(one, _Stop) for one in found)
            if skipping:  # what came before a `_Resume` was sent without knowing of the refusal
                self._put(_Skipped(tuple(message.row_id for message in batch)))
                skipping = not isinstance(found[-1], _Resume)
            elif batch and not self._abandoned:
                skipping = self._deliver(batch)

    def _next(self) -> list[Message | _Stop | _Resume]:
        """What waits, one at least; a `_Resume` is the last of it, since what follows is to be delivered."""
        found = [self.work.get()]
        while len(found) < MAX_IN_FLIGHT and not isinstance(found[-1], _Resume):
            try:
                found.append(self.work.get_nowait())
            except queue.Empty:
                break
        return found

    def _deliver(self, batch: Sequence[Message]) -> bool:
        """Whether one was refused."""
        for done, (row_id, refused) in enumerate(self.receiver.deliver(batch), 1):
            self._put(_Done(row_id, refused))
            if self._abandoned:
                return False
            if refused:
                self._put(_Skipped(tuple(message.row_id for message in batch[done:])))
                return True
        return False


class ThreadedSink:
    """A `Sink` over whatever `make` gives; a fresh receiver for each attempt."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Receiver],
        *,
        wake: threading.Event,
        log: Any,
        give_up_s: float = GIVE_UP_S,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name, self.connected = name, False
        self._make, self._wake, self._log, self._clock = make, wake, log, clock
        self._give_up_s = give_up_s
        self._backoff = Backoff(*RETRY_WAIT_S, jitter)
        self._worker: _Worker | None = None
        self._left: _Worker | None = None  # abandoned, and perhaps not at its end
        self._next_attempt_s = self._moved_s = float("-inf")
        self._in_flight: list[int] = []
        self._delivered: list[int] = []
        self._refused: list[tuple[int, str]] = []
        self._lost: list[int] = []
        self._error = self._refusal = ""
        self._closed = False

    @property
    def last_error(self) -> str:
        return self._error or self._refusal

    def step(self, now_s: float) -> None:
        self._take_events(now_s)
        if self._worker is None and not self._closed and now_s >= self._next_attempt_s and self._left_ended():
            self._moved_s = now_s
            self._worker = _Worker(self._make(), self.name, self._wake)
        waits = self._worker is not None and (self._in_flight or not self.connected)
        if waits and now_s - self._moved_s > self._give_up_s:
            self._drop(_Down(f"no answer for {self._give_up_s:g} s"), now_s)

    def _left_ended(self) -> bool:
        if self._left is not None and self._left.ended:
            self._left = None
        return self._left is None

    def capacity(self) -> int:
        if not self.connected or self._refused or self._worker is None:
            return 0
        return MAX_IN_FLIGHT - len(self._in_flight)

    def send(self, message: Message) -> None:
        assert self._worker is not None, "only when there is capacity"
        if not self._in_flight:
            self._moved_s = self._clock()
        self._in_flight.append(message.row_id)
        self._worker.work.put(message)

    def settled(self) -> Settled:
        settled = Settled(tuple(self._delivered), tuple(self._refused), tuple(self._lost))
        self._delivered, self._refused, self._lost = [], [], []
        return settled

    def close(self, timeout_s: float) -> None:
        """Finish what is in flight, within the time; what is not comes back as lost."""
        self._closed = True
        deadline_s = self._clock() + timeout_s
        if self._worker is not None and self.connected:
            self._worker.work.put(_Stop())
        while self._worker is not None and self.connected and (left_s := deadline_s - self._clock()) > 0:
            try:
                self._take(self._worker.events.get(timeout=left_s), self._clock())
            except queue.Empty:
                break
        if self._worker is not None:
            self._drop(_Down("closed"), self._clock())
        self._error = ""

    def _take_events(self, now_s: float) -> None:
        while self._worker is not None:
            try:
                event = self._worker.events.get_nowait()
            except queue.Empty:
                return
            self._take(event, now_s)

    def _take(self, event: _Up | _Done | _Skipped | _Down, now_s: float) -> None:
        self._moved_s = now_s
        match event:
            case _Up():
                self.connected, self._error = True, ""
                self._log.info("sink.connected", sink=self.name)
            case _Done(row_id, ""):
                self._in_flight.remove(row_id)
                self._delivered.append(row_id)
                self._refusal = ""
                self._backoff.reset()
            case _Done(row_id, refused):
                self._in_flight.remove(row_id)
                self._refusal = refused
                self._refused.append((row_id, refused))
                assert self._worker is not None
                self._worker.work.put(_Resume())
            case _Skipped(row_ids):
                self._lost += row_ids
                self._in_flight = [row_id for row_id in self._in_flight if row_id not in row_ids]
            case _Down():
                self._drop(event, now_s)

    def _drop(self, down: _Down, now_s: float) -> None:
        assert self._worker is not None
        self._worker.abandon()
        self._left = self._worker
        wait_s = max(self._backoff.wait_s(), down.after_s)
        self._next_attempt_s = now_s + wait_s
        if not self._closed:
            log = self._log.warning if self.connected or down.why != self._error else self._log.debug
            log("sink.disconnected", sink=self.name, reason=down.why, retry_s=round(wait_s, 2))
        self._lost += self._in_flight
        self._in_flight = []
        self._worker, self.connected, self._error = None, False, down.why
