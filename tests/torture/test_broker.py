"""Verdicts against brokers and networks that misbehave: nothing lost, order kept, and the reason visible."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import ValidationError
from rich.console import Console

from edge.config import Mqtt
from edge.publish import MAX_IN_FLIGHT, Message
from edge.publish.connection import LOOP_S, Connection
from edge.publish.memory import MemoryOutbox
from edge.publish.mqtt import ACK_TIMEOUT_S, MqttSink
from edge.publish.outbox import Delivery
from edge.record.store import Store
from edge.status import show
from edge.types import KINDS, Identity, Verdict
from tests.brokers import DEADLINE_S, Mosquitto, require_mosquitto, until
from tests.e2e.conftest import Site, recipe, site  # noqa: F401  # fixtures
from tests.e2e.test_run import arrive, frames, retained
from tests.publish.rigs import Subscriber, new_sink
from tests.publish.test_outbox import Meter
from tests.torture.proxy import Proxy

pytestmark = pytest.mark.mosquitto

FAST = 40.0  # seconds of the delivery's clock in a second of ours: its time limits pass sooner
HANG_NOTICED_S = 30.0  # what docs/promises.md promises
PINGREQ = 12


def verdict_message(row_id: int, size_bytes: int = 1400) -> Message:
    body = json.dumps({"resultId": f"R{row_id}", "padding": "x" * size_bytes}).encode()
    return Message(row_id, "frame", f"R{row_id}", body)


class Line:
    """A delivery in a thread of its own, from a store in memory to a sink; its clock can run faster."""

    def __init__(self, sink_of: Callable[..., MqttSink], rows: int = 0, speed: float = FAST) -> None:
        self.store, self.meter, self.log = MemoryOutbox(), Meter(), structlog.get_logger()
        self.rows = 0
        self.add(rows)
        self.wake, self._stop = threading.Event(), threading.Event()
        self.sink = sink_of(wake=self.wake)
        self.delivery = Delivery(
            self.sink, self.store, wake=self.wake, meter=self.meter, log=self.log,
            clock=lambda: time.monotonic() * speed, jitter=lambda: 0.0,
        )  # fmt: skip
        self._thread = threading.Thread(target=self.delivery.run, args=(self._stop,))
        self._thread.start()

    def add(self, count: int) -> None:
        for _ in range(count):
            self.rows += 1
            self.store.add(verdict_message(self.rows))

    def close(self) -> None:
        self._stop.set()
        self.wake.set()
        self._thread.join(10)
        self.delivery.close(1.0)


@pytest.fixture
def log_lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    require_mosquitto()
    broker = Mosquitto(tmp_path / "broker").start()
    yield broker
    broker.stop()


@pytest.fixture
def proxy(broker: Mosquitto) -> Iterator[Proxy]:
    proxy = Proxy(broker.port)
    yield proxy
    proxy.close()


@pytest.fixture
def consumer(broker: Mosquitto) -> Iterator[Subscriber]:
    """One that the broker keeps everything for."""
    consumer = Subscriber(broker.port, session="mes")
    yield consumer
    consumer.close()


@pytest.fixture
def lines(log_lines: list[Any]) -> Iterator[Callable[..., Line]]:
    """Starts lines to a port, and closes them. `keepalive_s` may be less than the configuration allows."""
    with ExitStack() as stack:

        def start(
            port: int, rows: int = 0, speed: float = FAST, keepalive_s: int = 10, **options: Any
        ) -> Line:
            def sink_of(**more: Any) -> MqttSink:
                sink = new_sink(port, **more, **options)
                sink._settings = sink._settings.model_copy(update={"keepalive_s": keepalive_s})
                return sink

            line = Line(sink_of, rows, speed)
            stack.callback(line.close)
            return line

        yield start


def copies(consumer: Subscriber) -> dict[str, list[bytes]]:
    """What arrived, by result; all copies must be the same bytes."""
    found: dict[str, list[bytes]] = {}
    for body in consumer.bodies("result/frame"):
        found.setdefault(json.loads(body)["resultId"], []).append(body)
    return found


def assert_complete(consumer: Subscriber, line: Line, deadline_s: float = DEADLINE_S) -> int:
    """Wait for every row; then order and sameness. Gives how many more messages there were than rows."""
    until(lambda: not line.store.rows, "the outbox is empty", deadline_s)
    until(lambda: len(copies(consumer)) == line.rows, "everything is at the consumer")
    found = copies(consumer)
    assert list(found) == [f"R{row}" for row in range(1, line.rows + 1)]  # first copies in order
    assert all(len(set(bodies)) == 1 for bodies in found.values())
    return sum(map(len, found.values())) - line.rows


# acknowledgements


def test_while_no_acknowledgement_comes_nothing_counts_as_sent(
    proxy: Proxy, consumer: Subscriber, lines: Callable[..., Line]
) -> None:
    proxy.drop_puback_every = 1
    line = lines(proxy.port, rows=60)
    until(lambda: len(copies(consumer).get("R1", [])) >= 3, "the first verdict was sent three times")
    assert len(line.store.rows) == 60
    assert line.meter.delivered == 0
    assert "does not acknowledge" in line.sink.last_error or line.sink.connected
    proxy.drop_puback_every = 0
    assert assert_complete(consumer, line) >= 2


def test_acknowledgements_lost_now_and_then_cost_copies_and_no_verdict(
    proxy: Proxy, consumer: Subscriber, lines: Callable[..., Line]
) -> None:
    proxy.drop_puback_every = 9  # and it is never mended
    line = lines(proxy.port, rows=150)
    extra = assert_complete(consumer, line)
    assert proxy.dropped_pubacks > 10
    assert extra >= 1


def test_connection_reset_in_the_middle_of_a_window(
    proxy: Proxy, consumer: Subscriber, lines: Callable[..., Line]
) -> None:
    proxy.reset_after_publishes = 38
    line = lines(proxy.port, rows=120)
    until(lambda: proxy.reset_after_publishes == 0, "the reset")
    assert assert_complete(consumer, line) <= MAX_IN_FLIGHT
    assert proxy.connections >= 2


def test_connection_reset_again_and_again(
    proxy: Proxy, consumer: Subscriber, lines: Callable[..., Line]
) -> None:
    line = lines(proxy.port)
    for _ in range(6):
        line.add(25)
        line.wake.set()
        proxy.reset_after_publishes = 17
        until(lambda: proxy.reset_after_publishes == 0, "the reset")
    assert_complete(consumer, line)


def test_connection_that_breaks_again_and_again_leaves_no_open_files(
    proxy: Proxy, lines: Callable[..., Line]
) -> None:
    line = lines(proxy.port)
    gc.disable()  # in a process with a large heap a full collection may be days away
    try:
        for round_ in range(12):
            until(lambda: line.sink.capacity() == MAX_IN_FLIGHT, "connected")
            if round_ == 2:
                before = open_files()
            proxy.reset()
            until(lambda: not line.sink.connected, "broken")
        until(lambda: line.sink.capacity() == MAX_IN_FLIGHT, "connected")
        until(lambda: open_files() <= before + 2, "as few files as before", 10.0)
    finally:
        gc.enable()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# connections that hang


def hang_noticed_s(line: Line, proxy: Proxy, in_flight: bool) -> float:
    """How long a connection that goes half-open keeps looking alive."""
    until(lambda: line.sink.capacity() == MAX_IN_FLIGHT, "connected, announced, idle")
    proxy.half_open = True
    began_s = time.monotonic()
    if in_flight:
        line.add(5)
        line.wake.set()
    until(lambda: not line.sink.connected, "it is noticed")
    return time.monotonic() - began_s


def test_half_open_connection_with_something_in_flight_is_noticed_and_mended(
    proxy: Proxy, consumer: Subscriber, lines: Callable[..., Line]
) -> None:
    line = lines(proxy.port)
    assert hang_noticed_s(line, proxy, in_flight=True) < ACK_TIMEOUT_S / FAST + 2.0
    assert "does not acknowledge" in line.sink.last_error
    until(lambda: not line.meter.state["connected"], "the metric says so")
    proxy.half_open = False
    assert assert_complete(consumer, line) == 0  # they were swallowed, so there are no copies


def test_half_open_connection_that_is_idle_is_noticed_by_keepalive(
    proxy: Proxy, consumer: Subscriber, lines: Callable[..., Line]
) -> None:
    line = lines(proxy.port, speed=1.0, keepalive_s=1)
    assert hang_noticed_s(line, proxy, in_flight=False) < 2 * 1 + LOOP_S + 2.0
    assert proxy.seen[PINGREQ] >= 1
    proxy.half_open = False
    line.add(3)
    assert assert_complete(consumer, line) == 0


def test_defaults_notice_a_hang_in_time() -> None:
    # paho asks after one keepalive without a word, and gives up after another
    assert 2 * Mqtt().keepalive_s + LOOP_S <= HANG_NOTICED_S
    assert ACK_TIMEOUT_S < HANG_NOTICED_S


@pytest.mark.slow
@pytest.mark.parametrize("in_flight", [True, False], ids=["in-flight", "idle"])
def test_hang_is_noticed_within_the_promised_time(
    proxy: Proxy, lines: Callable[..., Line], in_flight: bool, record_property: Callable[[str, object], None]
) -> None:
    noticed_s = hang_noticed_s(lines(proxy.port, speed=1.0), proxy, in_flight)
    print(f"hang noticed after {noticed_s:.1f} s")
    record_property("hang_noticed_s", noticed_s)
    assert noticed_s <= HANG_NOTICED_S


# slow brokers


def test_slow_broker_holds_up_no_verdict_and_costs_no_copies(
    proxy: Proxy, consumer: Subscriber, log_lines: list[Any], tmp_path: Path
) -> None:
    store = Store(tmp_path / "edge.sqlite3", {"mqtt": KINDS})
    proxy.bytes_per_s = 40_000  # about 25 verdicts a second
    line = Line(lambda **more: new_sink(proxy.port, **more), speed=1.0)
    line.delivery._store = store
    slowest_s, most_in_flight = 0.0, 0
    for number in range(1, 201):
        began_s = time.monotonic()
        with store.transaction():
            one = Verdict(f"R{number}", "frame", "r", "OK", Identity(), 0.0, {})
            store.add_verdict(one, verdict_message(number).body)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        line.wake.set()
        most_in_flight = max(most_in_flight, len(line.sink._in_flight))
        time.sleep(0.002)  # verdicts come at a rate, faster than this broker
    assert store.depth("mqtt") > 100  # it is slow indeed
    assert slowest_s < 1.0
    assert most_in_flight <= MAX_IN_FLIGHT
    proxy.bytes_per_s = 0
    until(lambda: store.depth("mqtt") == 0, "drained")
    until(lambda: len(copies(consumer)) == 200, "all there")
    assert all(len(bodies) == 1 for bodies in copies(consumer).values())
    line.close()
    store.close()


# brokers and libraries that break the connection's thread

NOT_BY_TIMEOUT_S = ACK_TIMEOUT_S - 5.0  # what ends is noticed at once, not when acknowledgements are missed
GARBAGE = {
    "length of five bytes": b"\x40\xff\xff\xff\xff\xff",
    "empty SUBACK": b"\x90\x00",
    "empty PUBACK": b"\x40\x00",
    "PUBACK with a reason unknown to MQTT": b"\x40\x03\x00\x01\x77",
    "PUBACK with properties cut off": b"\x40\x04\x00\x01\x00\x7f",
    "PUBLISH with a topic longer than it": b"\x30\x03\x00\xff\x61",
    "packet type 0": b"\x00\x00",
    "CONNACK once more": b"\x20\x03\x00\x00\x00",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_from_the_broker_costs_the_connection_and_no_verdict(
    proxy: Proxy, consumer: Subscriber, lines: Callable[..., Line], name: str
) -> None:
    line = lines(proxy.port, speed=1.0)
    until(lambda: line.sink.capacity() == MAX_IN_FLIGHT, "connected")
    proxy.inject(GARBAGE[name])
    line.add(50)
    line.wake.set()
    assert_complete(consumer, line, NOT_BY_TIMEOUT_S)


def test_fault_in_a_callback_costs_the_connection_and_no_verdict(
    broker: Mosquitto, consumer: Subscriber, lines: Callable[..., Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults, real = [RuntimeError("a fault of ours")], Connection._on_publish

    def faulty(self: Connection, *arguments: Any) -> None:
        if line.meter.delivered and faults:
            raise faults.pop()
        real(self, *arguments)

    monkeypatch.setattr(Connection, "_on_publish", faulty)
    line = lines(broker.port, rows=100, speed=1.0)
    assert_complete(consumer, line, NOT_BY_TIMEOUT_S)
    assert not faults


def test_fault_while_connecting_is_visible_and_tried_again(
    broker: Mosquitto, consumer: Subscriber, lines: Callable[..., Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(_self: Connection) -> None:
        raise AttributeError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_prepare", faulty)
        line = lines(broker.port, rows=3)
        until(lambda: "no such thing" in line.sink.last_error, "the reason")
    assert_complete(consumer, line)


def test_more_open_files_than_select_can_count_is_visible(
    broker: Mosquitto, lines: Callable[..., Line]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        assert os.environ.get("EDGE_REQUIRE_ALL") != "1", "needs 2,048 open files"
        pytest.skip(f"at most {hard} files may be open here")
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.enter_context(Path("/dev/null").open())
        line = lines(broker.port, rows=3, speed=1.0)
        until(lambda: "connection was lost" in line.sink.last_error, "the reason, at once", 5.0)
        assert len(line.store.rows) == 3


ENDED_BY_A_FAULT = """
from edge.publish.mqtt import MqttSink
def step(self, now_s):
    raise RuntimeError("a fault nobody foresaw")
MqttSink.step = step
from edge.cli import main
main()
"""


def test_delivery_that_dies_ends_the_daemon(site: Site) -> None:  # noqa: F811
    command = [sys.executable, "-c", ENDED_BY_A_FAULT, "run", "--config", str(site.folder / "config.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 70, done.stderr[-2000:]
    said = done.stdout + done.stderr
    assert "loop.failed" in said
    assert "a fault nobody foresaw" in said


# what the broker will not have


def test_wrong_password_keeps_everything_until_it_is_mended(
    tmp_path: Path, lines: Callable[..., Line]
) -> None:
    require_mosquitto()
    locked = Mosquitto(tmp_path / "locked", passwords={"edge": "s3cret"}).start()
    (tmp_path / "password").write_text("wr0ng")
    line = lines(locked.port, rows=10, username="edge", password_file=tmp_path / "password")
    until(lambda: "refused the connection" in line.sink.last_error, "the reason")
    until(lambda: line.meter.state, "metrics")
    assert line.meter.state["connected"] is False
    assert len(line.store.rows) == 10
    (tmp_path / "password").write_text("s3cret")
    until(lambda: not line.store.rows, "delivered without a restart")
    line.close()
    locked.stop()


def test_forbidden_topic_is_visible_everywhere_and_not_marked_sent(site: Site) -> None:  # noqa: F811
    names = ("available", "info", "state", "result/part")  # not result/frame
    allowed = "".join(f"topic write edge/st/{name}\n" for name in names)
    site.broker.set_acl(f"topic read #\n{allowed}")
    daemon = site.start()
    arrive(site, "B1/P1_01.png")
    arrive(site, "B1/P1_02.png", seed=1)
    until(lambda: daemon.status()["outbox"]["mqtt"]["lastError"], "the reason in the status")
    outbox = daemon.status()["outbox"]["mqtt"]
    assert "authorized" in outbox["lastError"].lower()
    assert outbox["connected"]
    until(lambda: daemon.status()["outbox"]["mqtt"]["depth"] == 3, "two frames and their part wait")
    until(lambda: "authorized" in str(retained(site, "state")).lower(), "the reason in the retained state")
    exposition = daemon.get("/metrics")[1]
    assert 'edge_outbox_refused_total{sink="mqtt"} 0.0' not in exposition
    assert 'edge_outbox_refused_total{sink="mqtt"}' in exposition
    with (console := Console(width=200)).capture() as shown:
        show(daemon.status(), console)
    assert "authorized" in shown.get().lower()  # `edge status`
    assert site.subscriber.bodies("result/part") == []  # it is allowed, and waits for its frames
    site.broker.set_acl("")
    until(lambda: len(frames(site)) == 2 and site.subscriber.bodies("result/part"), "all delivered")
    kinds = [one.topic.rpartition("/")[2] for one in site.subscriber.messages if "/result/" in one.topic]
    assert kinds == ["frame", "frame", "part"]


def test_before_mqtt_5_a_forbidden_topic_cannot_be_told_and_a_warning_says_so(
    broker: Mosquitto, consumer: Subscriber, lines: Callable[..., Line], log_lines: list[Any]
) -> None:
    broker.set_acl("topic read #\n")
    line = lines(broker.port, rows=5, protocol=311)
    until(lambda: not line.store.rows, "the broker acknowledges what it drops")
    assert copies(consumer) == {}
    warnings = [entry for entry in log_lines if entry["event"] == "mqtt.refusals_unknown"]
    assert len(warnings) == 1
    assert "mqtt.protocol = 5" in warnings[0]["hint"]


# brokers that come late, or back without a memory


def test_broker_absent_at_start_costs_nothing(site: Site) -> None:  # noqa: F811
    site.broker.stop()
    daemon = site.start()  # ready: verdicts are made and kept
    for number in range(8):
        arrive(site, f"B1/P{number}_01.png", seed=number)
    until(lambda: daemon.status()["verdicts"]["frame"].get("OK") == 8, "eight verdicts stored")
    assert daemon.get("/readyz")[0] == 200
    outbox = daemon.status()["outbox"]["mqtt"]
    assert (outbox["connected"], outbox["depth"] >= 8) == (False, True)
    assert "cannot connect" in outbox["lastError"]
    until(lambda: 'edge_sink_connected{sink="mqtt"} 0.0' in daemon.get("/metrics")[1], "the metric")
    site.broker.start()
    until(lambda: len(frames(site)) == 8, "all delivered")
    until(lambda: 'edge_outbox_depth{sink="mqtt"} 0.0' in daemon.get("/metrics")[1], "nothing waits")


def test_broker_that_comes_back_without_its_memory_is_told_everything_again(
    broker: Mosquitto, consumer: Subscriber, lines: Callable[..., Line]
) -> None:
    line = lines(broker.port, rows=30)
    assert assert_complete(consumer, line) == 0
    subscriptions = consumer.subscriptions
    broker.stop()
    line.add(30)
    for file in broker.folder.glob("mosquitto.db*"):
        file.unlink()
    line.sink._next_attempt_s = float("inf")  # the consumer first: what nobody hears, the broker drops
    broker.start()
    until(lambda: consumer.subscriptions > subscriptions, "the consumer subscribes again")
    line.sink._next_attempt_s = 0.0
    assert assert_complete(consumer, line) == 0
    late = Subscriber(broker.port)
    until(lambda: len(late.messages) == 3, "three retained messages")
    assert late.bodies("available") == [b"online"]
    assert late.bodies("info")
    assert late.bodies("state")
    late.close()


def test_broker_without_its_memory_loses_nothing_where_we_wait_for_the_consumer(
    broker: Mosquitto, lines: Callable[..., Line]
) -> None:
    before = Subscriber(broker.port, session="mes")
    line = lines(broker.port, rows=10, wait_for_consumer=True)
    assert assert_complete(before, line) == 0
    before.close()
    broker.stop()
    for file in broker.folder.glob("mosquitto.db*"):
        file.unlink()  # and with it the session in which the broker kept what the consumer missed
    line.add(30)
    broker.start()
    until(lambda: "nobody is subscribed" in line.sink.last_error, "the reason")
    assert len(line.store.rows) == 30
    after = Subscriber(broker.port, session="mes")
    until(lambda: not line.store.rows, "the outbox is empty")
    until(lambda: list(copies(after)) == [f"R{row}" for row in range(11, 41)], "all of them, in order")
    after.close()


def test_waiting_for_the_consumer_needs_a_broker_that_tells() -> None:
    with pytest.raises(ValidationError, match="needs protocol = 5"):
        Mqtt(protocol=311, wait_for_consumer=True)


@pytest.mark.slow
def test_long_outage_is_drained_fast_in_order_and_in_flat_memory() -> None:
    require_mosquitto()
    command = [sys.executable, "-m", "bench.drain", "--verdicts", "20000", "--away", "3", "--recording"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
