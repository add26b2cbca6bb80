"""Delivery: at least once, in order, whatever the sink and the store do."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.errors import CannotWriteError, ConfigError
from edge.publish import MAX_IN_FLIGHT, Message, outbox
from edge.publish.memory import MemoryOutbox, MemorySink
from edge.publish.outbox import Delivery
from tests.brokers import Mosquitto, until
from tests.publish.rigs import Subscriber, message, new_sink


class Meter:
    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.delivered = 0
        self.refused = 0

    def outbox_state(self, sink: str, *, depth: int, oldest_s: float, connected: bool) -> None:
        self.state = {"sink": sink, "depth": depth, "oldest_s": oldest_s, "connected": connected}

    def outbox_delivered(self, sink: str, count: int) -> None:
        self.delivered += count

    def outbox_refused(self, sink: str, count: int) -> None:
        self.refused += count


class WatchfulSink(MemorySink):
    """Fails the test when a row is handed over that is still in flight, or when there is no room."""

    def send(self, message: Message) -> None:
        assert self.capacity() > 0
        assert message not in self._in_flight
        super().send(message)


class World:
    """A delivery over doubles, with a clock of its own.

    Connected, and the receiver is known to take frames' verdicts, unless `fresh`.
    """

    def __init__(self, rows: int = 0, *, fresh: bool = False) -> None:
        self.now_s = 0.0
        self.sink = WatchfulSink()
        self.store = MemoryOutbox(created_unix_s=1000.0)
        self.meter = Meter()
        self.delivery = Delivery(
            self.sink,
            self.store,
            wake=threading.Event(),
            meter=self.meter,
            log=structlog.get_logger(),
            clock=lambda: self.now_s,
            unix_clock=lambda: 1000.0 + self.now_s,
            jitter=lambda: 0.0,
        )
        self.added = 0
        if not fresh:
            self.step()
            self.delivery._proved.add("frame")
        self.add(rows)

    def add(self, count: int, kind: str = "frame") -> None:
        for _ in range(count):
            self.added += 1
            self.store.add(replace(message(self.added), kind=kind))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.delivery.step(self.now_s)

    def received(self) -> list[int]:
        return [message.row_id for message in self.sink.received]

    def in_flight(self) -> list[int]:
        return [message.row_id for message in self.sink._in_flight]


def test_delivers_in_order_and_deletes() -> None:
    world = World(50)
    world.step(10)
    assert world.received() == list(range(1, 51))
    assert not world.store.rows
    assert world.meter.delivered == 50


def test_never_more_in_flight_than_allowed_and_nothing_twice() -> None:
    world = World(50)
    world.sink.hold = True
    world.step(5)
    assert world.in_flight() == list(range(1, MAX_IN_FLIGHT + 1))
    assert len(world.store.rows) == 50


def test_row_is_deleted_only_when_acknowledged() -> None:
    world = World(3)
    world.sink.hold = True
    world.step(2)
    assert set(world.store.rows) == {1, 2, 3}
    world.sink.acknowledge(3)
    world.step()
    assert not world.store.rows


def test_deletes_are_batched_while_more_is_under_way() -> None:
    world = World(5)
    world.sink.hold = True
    world.step()
    world.sink.acknowledge(1)
    world.step()
    assert 1 in world.store.rows
    world.now_s += outbox.DELETE_AFTER_S
    world.step()
    assert set(world.store.rows) == {2, 3, 4, 5}


def test_after_a_disconnect_everything_unacknowledged_is_sent_again_in_order() -> None:
    world = World(10)
    world.sink.hold = True
    world.step()
    world.sink.acknowledge(2)
    world.sink.disconnect(arrived=5)  # 3 to 7 did arrive, and nobody told us
    world.sink.hold = False
    world.step(4)
    assert world.received() == [1, 2, 3, 4, 5, 6, 7, 3, 4, 5, 6, 7, 8, 9, 10]
    assert not world.store.rows


def test_refused_row_is_kept_counted_and_tried_again_later(log_lines: list[Any]) -> None:
    world = World(30)
    world.sink.refuse = "not authorised"
    world.step(3)
    assert len(world.store.rows) == 30
    assert world.meter.refused == MAX_IN_FLIGHT
    assert [line["reason"] for line in log_lines if line["event"] == "outbox.refused"] == ["not authorised"]
    assert world.in_flight() == []  # waiting
    world.now_s += outbox.REFUSED_WAIT_S[0]
    world.step()
    assert world.in_flight() == [1]  # one to try, not twenty
    world.step()
    assert [line["retry_s"] for line in log_lines if line["event"] == "outbox.refused"] == [1.0, 2.0]
    world.sink.refuse = ""
    world.now_s += 2.0
    world.step(6)
    assert world.received() == list(range(1, 31))
    assert not world.store.rows


def test_rows_in_flight_behind_a_refused_one_are_not_sent_twice() -> None:
    world = World(5)
    world.sink.hold = True
    world.step()
    world.sink.refuse = "quota"
    world.sink.acknowledge(1)
    world.sink.refuse = ""
    world.now_s += 100.0
    world.step(3)
    assert world.in_flight() == [2, 3, 4, 5]
    world.sink.acknowledge(4)
    world.sink.hold = False
    world.step()
    world.now_s += 100.0
    world.step(3)
    assert world.received() == [2, 3, 4, 5, 1]
    assert not world.store.rows


def test_first_of_a_kind_goes_alone_on_every_connection() -> None:
    world = World(4, fresh=True)
    world.add(2, "part")
    world.sink.hold = True
    world.step(3)
    assert world.in_flight() == [1]
    world.sink.acknowledge(1)
    world.step(3)
    assert world.in_flight() == [2, 3, 4]  # and no part among them
    world.sink.acknowledge(3)
    world.step(3)
    assert world.in_flight() == [5]
    world.sink.disconnect()
    world.step(3)
    assert world.in_flight() == [5]
    world.sink.hold = False
    world.step(4)
    assert not world.store.rows


def test_part_does_not_overtake_its_frames_where_only_theirs_are_refused() -> None:
    world = World(3, fresh=True)
    world.add(1, "part")
    world.sink.refuse, world.sink.refused_kinds = "not authorised", ("frame",)
    for _ in range(10):
        world.step()
        world.now_s += 100.0
    assert world.received() == []
    assert world.meter.refused > 3
    world.sink.refuse = ""
    world.step(10)
    assert world.received() == [1, 2, 3, 4]


def test_row_that_is_always_refused_holds_up_what_follows_and_says_so(log_lines: list[Any]) -> None:
    world = World(3)
    world.sink.refuse = "packet too large"
    for _ in range(20):
        world.step()
        world.now_s += 61.0
    assert world.received() == []
    assert set(world.store.rows) == {1, 2, 3}
    assert world.sink.last_error == "packet too large"
    assert world.meter.state["depth"] == 3
    assert world.meter.state["oldest_s"] > 600
    waits = [line["retry_s"] for line in log_lines if line["event"] == "outbox.refused"]
    assert waits[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]  # never given up, and no flood


def test_failing_delete_does_not_send_again() -> None:
    world = World(3)
    world.step()
    world.store.fail = CannotWriteError("disk full")
    with pytest.raises(CannotWriteError):
        world.step()
    world.sink.disconnect()
    world.step(3)
    assert world.received() == [1, 2, 3]
    assert not world.store.rows


def test_reports_depth_age_and_connection() -> None:
    world = World(3)
    world.sink.up = False
    world.now_s = 60.0
    world.step()
    assert world.meter.state == {"sink": "memory", "depth": 3, "oldest_s": 60.0, "connected": False}
    world.sink.up = True
    world.step(3)
    world.now_s += outbox.REPORT_EVERY_S
    world.step()
    assert world.meter.state == {"sink": "memory", "depth": 0, "oldest_s": 0.0, "connected": True}


def test_close_sends_what_waits_and_deletes_it() -> None:
    world = World(45)
    world.step()
    world.delivery.close(5.0)
    assert world.received() == list(range(1, 46))
    assert not world.store.rows
    assert world.meter.state["connected"] is False


def test_close_says_goodbye_though_the_store_fails() -> None:
    world = World(2)
    world.step()
    world.store.fail = CannotWriteError("disk full")
    world.delivery.close(5.0)
    assert not world.sink.connected


def test_refusals_of_one_window_that_come_in_drops_count_as_one(log_lines: list[Any]) -> None:
    world = World(5)
    world.sink.hold = True
    world.step()
    world.sink.refuse = "quota"
    for _ in range(5):
        world.sink.acknowledge(1)
        world.step()
    assert [line["retry_s"] for line in log_lines if line["event"] == "outbox.refused"] == [1.0]
    assert world.meter.refused == 5


def test_close_without_a_connection_keeps_the_rows() -> None:
    world = World(2)
    world.sink.up = False
    world.delivery.close(5.0)
    assert set(world.store.rows) == {1, 2}


def test_run_goes_on_after_a_fault_that_may_pass_and_ends_with_one_that_does_not() -> None:
    world = World(1)
    world.store.fail = ConfigError("no such table")
    with pytest.raises(ConfigError):
        world.delivery.run(threading.Event())
    stop = threading.Event()
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if world.received():
            stop.set()

    world.delivery.run(stop, beat)
    assert world.received() == [1]
    assert beats


OPERATION = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 30)),
    st.tuples(st.just("step"), st.integers(1, 3)),
    st.tuples(st.just("acknowledge"), st.integers(1, 25)),
    st.tuples(st.just("disconnect"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.integers(1, 5)),
    st.tuples(st.sampled_from(["up", "down", "hold", "go", "store_fails"]), st.just(0)),
)
POLICY = st.tuples(st.just("policy"), st.integers(0, 3))  # which kinds the broker refuses from now on
PARTS = st.tuples(st.just("add_part"), st.integers(1, 3))
POLICIES: tuple[tuple[str, ...], ...] = ((), ("frame",), ("part",), ("frame", "part"))
REFUSAL = st.tuples(st.sampled_from(["refuse", "accept"]), st.just(0))


def apply(world: World, name: str, count: int) -> None:
    """One disturbance of the world."""
    sink = world.sink
    if name == "step":
        try:
            world.step(count)
        except CannotWriteError:
            return
    elif name == "acknowledge" and sink.connected:
        sink.acknowledge(count)
    elif name == "disconnect" and sink.connected:
        sink.disconnect(arrived=count)
    elif name == "add":
        world.add(count)
    elif name == "add_part":
        world.add(count, "frame")
        world.add(1, "part")
    elif name == "policy":  # takes a new connection, as a broker's does that is told so by its administrator
        world.sink.disconnect()
        world.sink.refused_kinds = POLICIES[count]
        world.sink.refuse = "not authorised" if POLICIES[count] else ""
    elif name == "wait":
        world.now_s += count
    elif name in ("up", "down"):
        sink.up = name == "up"
    elif name in ("hold", "go"):
        sink.hold = name == "hold"
    elif name in ("refuse", "accept"):
        sink.refuse = "quota" if name == "refuse" else ""
    elif name == "store_fails":
        world.store.fail = CannotWriteError("disk full")


def finish(world: World) -> None:
    """All faults are mended; everything gets through in the end."""
    world.sink.up, world.sink.hold, world.sink.refuse, world.store.fail = True, False, "", None
    for _ in range(200):
        world.now_s += 1.0
        world.step()
    assert not world.store.rows


def check_nothing_lost(world: World) -> None:
    gone = set(range(1, world.added + 1)) - set(world.store.rows)
    assert gone <= set(world.received())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OPERATION | REFUSAL, max_size=40))
def test_whatever_happens_nothing_is_lost(operations: list[tuple[str, int]]) -> None:
    world = World(5)
    for name, count in operations:
        apply(world, name, count)
        check_nothing_lost(world)
    finish(world)
    assert set(world.received()) == set(range(1, world.added + 1))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OPERATION, max_size=40))
def test_without_refusals_first_copies_arrive_in_order(operations: list[tuple[str, int]]) -> None:
    world = World(5)
    for name, count in operations:
        apply(world, name, count)
    finish(world)
    first_copies = list(dict.fromkeys(world.received()))
    assert first_copies == list(range(1, world.added + 1))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(POLICY, st.lists(OPERATION | PARTS | POLICY, max_size=40))
def test_refusals_by_kind_do_not_change_the_order_of_first_copies(
    first: tuple[str, int], operations: list[tuple[str, int]]
) -> None:
    world = World(2, fresh=True)
    apply(world, "add_part", 1)
    apply(world, *first)
    for name, count in operations:
        apply(world, name, count)
        check_nothing_lost(world)
    finish(world)
    first_copies = list(dict.fromkeys(world.received()))
    assert first_copies == list(range(1, world.added + 1))


def test_over_a_broker_that_is_restarted_in_the_middle(broker: Mosquitto) -> None:
    consumer = Subscriber(broker.port, session="mes")
    store, meter, wake, stop = MemoryOutbox(), Meter(), threading.Event(), threading.Event()
    for row_id in range(1, 301):
        store.add(message(row_id))
    sink = new_sink(broker.port, wake=wake)
    delivery = Delivery(sink, store, wake=wake, meter=meter, log=structlog.get_logger())
    thread = threading.Thread(target=delivery.run, args=(stop,))
    thread.start()
    until(lambda: meter.delivered > 40, "well under way")
    broker.restart()
    for row_id in range(301, 401):
        store.add(message(row_id))
    wake.set()
    until(lambda: store.depth("mqtt") == 0, "all acknowledged")
    until(lambda: len(set(consumer.result_ids())) == 400, "all received")
    stop.set()
    wake.set()
    thread.join()
    delivery.close(5.0)
    assert meter.refused == 0
    first_copies = [int(result_id[1:]) for result_id in dict.fromkeys(consumer.result_ids())]
    assert first_copies == list(range(1, 401))
    consumer.close()
