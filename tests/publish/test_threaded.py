"""Threads of sinks: none overtakes, none is left behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

import structlog

from edge.publish import Message
from edge.publish.threaded import ThreadedSink, _Resume, _Skipped, _Worker
from edge.publish.webhook import WebhookReceiver
from tests.brokers import until
from tests.publish.rigs import message
from tests.sites import free_port


class Hanging:
    """Hangs in `deliver`, whatever is done about it, until it is let go."""

    def __init__(self, let_go: threading.Event, delivered: list[int]) -> None:
        self._let_go, self._delivered = let_go, delivered

    def open(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...

    def deliver(self, messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
        for one in messages:
            self._let_go.wait(30)
            self._delivered.append(one.row_id)
            yield one.row_id, ""


class RefusesFirst:
    """Refuses one row, and holds its thread there until it is let go."""

    def __init__(self) -> None:
        self.delivered: list[int] = []
        self.refusing, self.let_go = threading.Event(), threading.Event()

    def open(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...

    def deliver(self, messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
        for one in messages:
            if one.row_id == 1:
                self.refusing.set()
                self.let_go.wait(30)
                yield one.row_id, "no"
                return
            self.delivered.append(one.row_id)
            yield one.row_id, ""


def capacity(sink: ThreadedSink, now_s: float) -> int:
    sink.step(now_s)
    return sink.capacity()


def test_a_row_that_was_sent_before_the_refusal_was_known_does_not_overtake() -> None:
    receiver = RefusesFirst()
    worker = _Worker(receiver, "x", threading.Event())
    worker.work.put(message(1))
    assert receiver.refusing.wait(10)
    worker.work.put(message(2))  # the owner knows of no refusal yet …
    worker.work.put(_Resume())  # … now it does
    worker.work.put(message(3))
    receiver.let_go.set()
    until(lambda: receiver.delivered, "what came after is delivered")
    assert receiver.delivered == [3]
    events = [worker.events.get(timeout=10) for _ in range(5)]
    assert _Skipped((2,)) in events
    worker.abandon()
    until(lambda: worker.ended, "its thread ends")


def test_while_a_thread_hangs_there_is_no_other_and_what_it_had_not_begun_is_not_sent_twice() -> None:
    let_go = threading.Event()
    delivered: list[int] = []
    log = structlog.get_logger()
    sink = ThreadedSink("x", partial(Hanging, let_go, delivered), wake=threading.Event(), log=log)
    now_s = time.monotonic()
    sink.step(now_s)
    until(lambda: capacity(sink, now_s), "capacity")
    for row in (1, 2, 3):
        sink.send(message(row))
    sink.step(now_s + 100)
    assert sink.settled().lost == (1, 2, 3)
    for later_s in range(200, 60_000, 100):
        sink.step(now_s + later_s)
    assert sink._worker is None
    assert "no answer for 25 s" in sink.last_error
    assert [thread.name for thread in threading.enumerate()].count("sink-x") == 1
    let_go.set()
    until(lambda: capacity(sink, now_s + 60_000), "it is tried again once the thread ended")
    assert len(delivered) <= 1
    sink.close(5.0)


def test_three_hundred_failed_attempts_leave_no_thread_and_no_descriptor_behind() -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    make = partial(WebhookReceiver, url, headers={}, secret=None, ca_file=None, timeout_s=1.0)
    attempts: list[WebhookReceiver] = []

    def counted() -> WebhookReceiver:
        attempts.append(make())
        return attempts[-1]

    sink = ThreadedSink("leaky", counted, wake=threading.Event(), log=structlog.get_logger())
    descriptors = len(os.listdir("/proc/self/fd"))
    now_s = 0.0

    def stepped() -> bool:
        nonlocal now_s
        now_s += 1.0 if sink._worker else 61.0
        sink._moved_s = now_s  # the clock of the test runs ahead of the thread's
        sink.step(now_s)
        return len(attempts) >= 300

    until(stepped, "300 attempts")
    sink.close(5.0)
    until(lambda: "sink-leaky" not in [t.name for t in threading.enumerate()], "no thread is left")
    assert len(os.listdir("/proc/self/fd")) <= descriptors
