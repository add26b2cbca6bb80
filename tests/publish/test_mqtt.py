"""What only the MQTT sink has: retained topics, will, credentials, requests, and brokers that misbehave."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.config import Tls
from edge.errors import DataError
from edge.publish import mqtt
from edge.publish.connection import read_password
from edge.publish.mqtt import MqttSink
from tests.brokers import Mosquitto, free_port, require_mosquitto, until
from tests.publish.rigs import ROOT, Subscriber, message, new_sink, settle_until, step_until


@pytest.fixture
def locked_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    require_mosquitto()
    broker = Mosquitto(tmp_path / "locked", passwords={"edge": "s3cret", "other": "x"}).start()
    yield broker
    broker.stop()


def connect(sink: MqttSink) -> MqttSink:
    """Connected, and every announcement acknowledged."""
    step_until(sink, lambda: sink.capacity() == 20, "connected and announced")
    return sink


@pytest.mark.parametrize("protocol", [5, 311])
def test_announces_itself_retained_and_says_goodbye(
    broker: Mosquitto, subscriber: Subscriber, protocol: int
) -> None:
    sink = connect(new_sink(broker.port, protocol=protocol))
    late = Subscriber(broker.port)  # sees only what is retained
    until(lambda: len(late.messages) == 3, "three retained messages")
    assert all(message.retain and message.qos == 1 for message in late.messages)
    assert late.bodies("available") == [b"online"]
    assert [json.loads(body) for body in late.bodies("info")] == [{"version": "1"}]
    assert [json.loads(body) for body in late.bodies("state")] == [{"frames": 0}]
    sink.close(5.0)
    until(lambda: late.bodies("available") == [b"online", b"offline"], "offline")
    late.close()
    third = Subscriber(broker.port)
    until(lambda: third.bodies("available") == [b"offline"], "offline is retained")
    third.close()


def test_results_are_not_retained_and_carry_their_type(broker: Mosquitto, subscriber: Subscriber) -> None:
    sink = connect(new_sink(broker.port))
    sink.send(message(1))
    settle_until(sink, lambda total: total.delivered == (1,))
    until(lambda: subscriber.bodies("result/frame"), "the verdict")
    [received] = [one for one in subscriber.messages if one.topic == f"{ROOT}/result/frame"]
    assert (received.qos, received.retain) == (1, False)
    assert received.properties is not None
    assert received.properties.ContentType == "application/json"
    sink.close(1.0)


def test_state_is_published_when_it_changes_and_not_too_often(
    broker: Mosquitto, subscriber: Subscriber
) -> None:
    frames = {"frames": 0}
    sink = new_sink(broker.port, state=lambda: frames)
    now_s = time.monotonic()
    until(lambda: (sink.step(now_s), sink.capacity() == 20)[1], "connected and announced")
    frames["frames"] = 1
    sink.step(now_s + 1.0)
    assert sink.capacity() == 20
    sink.step(now_s + mqtt.DESCRIBE_EVERY_S)
    assert sink.capacity() == 19
    until(lambda: (sink.step(now_s + 2.1), sink.capacity() == 20)[1], "acknowledged")
    sink.step(now_s + 10 * mqtt.DESCRIBE_EVERY_S)
    assert sink.capacity() == 20
    until(lambda: len(subscriber.bodies("state")) == 2, "both states arrive")
    assert [json.loads(body)["frames"] for body in subscriber.bodies("state")] == [0, 1]
    sink.close(1.0)


def test_state_that_cannot_be_had_does_not_hold_up_verdicts(broker: Mosquitto) -> None:
    def broken() -> dict[str, Any]:
        raise DataError("no state")

    sink = new_sink(broker.port, state=broken, info=lambda: {"share": float("nan")})
    step_until(sink, lambda: sink.capacity() == 20)
    sink.send(message(1))
    settle_until(sink, lambda total: total.delivered == (1,))
    sink.close(1.0)


ABRUPT = """
import os, sys, threading, time, structlog
from edge.config import Mqtt
from edge.publish.mqtt import MqttSink
sink = MqttSink(Mqtt(port=int(sys.argv[1])), station="st", info=dict, state=dict, wake=threading.Event(),
                log=structlog.get_logger(), environ={})
while True:
    sink.step(time.monotonic())
    time.sleep(0.01)
"""


def test_will_says_offline_when_the_process_is_killed(broker: Mosquitto, subscriber: Subscriber) -> None:
    process = subprocess.Popen([sys.executable, "-c", ABRUPT, str(broker.port)], stdout=subprocess.DEVNULL)
    try:
        until(lambda: subscriber.bodies("available") == [b"online"], "online")
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    until(lambda: subscriber.bodies("available") == [b"online", b"offline"], "the will")


def test_unacknowledged_goodbye_leaves_it_to_the_will(broker: Mosquitto, subscriber: Subscriber) -> None:
    sink = connect(new_sink(broker.port))
    broker.freeze()
    sink.close(0.05)
    assert not sink.connected
    broker.thaw()
    until(lambda: subscriber.bodies("available")[-1] == b"offline", "offline one way or the other")


def test_wrong_password_is_visible_and_not_shown(
    locked_broker: Mosquitto, log_lines: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("wr0ng\n")
    sink = new_sink(locked_broker.port, username="edge", password_file=tmp_path / "password")
    step_until(sink, lambda: sink.last_error)
    assert "Not authorized" in sink.last_error or "Bad user name" in sink.last_error
    assert not sink.connected
    assert "wr0ng" not in f"{log_lines} {sink.last_error} {sink!r} {vars(sink)}"
    (tmp_path / "password").write_text("s3cret\n")  # mended without a restart
    connect(sink)
    assert sink.last_error == ""
    sink.close(1.0)


def test_password_from_the_environment(locked_broker: Mosquitto) -> None:
    sink = new_sink(
        locked_broker.port, username="edge", environ={"EDGE_MQTT_PASSWORD": "s3cret"}, protocol=311
    )
    connect(sink).close(1.0)


def test_password_sources_in_order(tmp_path: Path) -> None:
    (tmp_path / "mqtt_password").write_text("credential\n")
    file = tmp_path / "file"
    file.write_text(" file \r\n")
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    both = credentials | {"EDGE_MQTT_PASSWORD": "environment"}
    assert read_password(file, both) == " file "
    assert read_password(None, both) == "environment"
    assert read_password(None, credentials) == "credential"
    assert read_password(None, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) is None
    assert read_password(None, {}) is None


def test_missing_password_file_is_visible(broker: Mosquitto, tmp_path: Path) -> None:
    sink = new_sink(broker.port, username="edge", password_file=tmp_path / "none")
    step_until(sink, lambda: sink.last_error)
    assert str(tmp_path / "none") in sink.last_error
    sink.close(1.0)


def test_missing_ca_file_is_visible_and_nothing_is_sent_in_clear(broker: Mosquitto, tmp_path: Path) -> None:
    sink = new_sink(broker.port, tls=Tls(ca_file=tmp_path / "ca.pem"))
    step_until(sink, lambda: sink.last_error)
    assert "No such file" in sink.last_error
    sink.close(1.0)


def test_nobody_listens_backs_off(log_lines: list[Any]) -> None:
    sink = new_sink(free_port())
    step_until(sink, lambda: sink.last_error)
    assert "refused" in sink.last_error
    sink.step(time.monotonic() + mqtt.RECONNECT_WAIT_S[0] + 0.1)
    settle_until(sink, lambda _: [line["retry_s"] for line in log_lines] == [0.5, 1.0], "longer waits")
    sink.close(1.0)


def test_broker_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = new_sink(silent.getsockname()[1])
        now_s = time.monotonic()
        sink.step(now_s)
        connection, _ = silent.accept()
        sink.step(now_s + mqtt.CONNACK_TIMEOUT_S + 1)
        assert "no answer" in sink.last_error
        assert "mqtt.protocol = 311" in sink.last_error
        sink.close(1.0)
        connection.close()


def test_broker_that_acknowledges_nothing_is_given_up(broker: Mosquitto) -> None:
    sink = connect(new_sink(broker.port))
    broker.freeze()
    sink.send(message(1))
    sink.step(time.monotonic() + mqtt.ACK_TIMEOUT_S + 1)
    assert sink.settled().lost == (1,)
    assert "does not acknowledge" in sink.last_error
    broker.thaw()
    sink.close(1.0)


def test_two_of_the_same_name_do_not_chase_each_other_fast(broker: Mosquitto, log_lines: list[Any]) -> None:
    first = connect(new_sink(broker.port))
    second = connect(new_sink(broker.port))
    step_until(first, lambda: not first.connected, "thrown out by the second")
    assert first.last_error
    first.step(time.monotonic() + 1.0)
    connect(first)
    step_until(second, lambda: not second.connected, "thrown out by the first")
    connect(second)
    step_until(first, lambda: not first.connected, "thrown out again")
    waits = [line["retry_s"] for line in log_lines if line["event"] == "mqtt.disconnected"]
    assert waits == [0.5, 0.5, 1.0]
    first.close(0.0)
    second.close(1.0)


def test_body_larger_than_the_broker_takes_is_refused(broker: Mosquitto) -> None:
    sink = connect(new_sink(broker.port))
    sink._limits = mqtt.Up(maximum_packet_bytes=mqtt.PACKET_OVERHEAD_BYTES + 4)
    sink.send(message(1))
    [(row, reason)] = sink.settled().refused
    assert row == 1
    assert "more than the broker takes" in reason
    sink.close(1.0)


def test_request_is_answered_where_the_asker_wants_it(broker: Mosquitto) -> None:
    subscriber = Subscriber(broker.port, "#")
    asked: list[tuple[str, bytes, str]] = []

    def handle(name: str, body: bytes) -> dict[str, Any]:
        asked.append((name, body, threading.current_thread().name))
        return {"ok": True, "frames": 3}

    sink = connect(new_sink(broker.port, handle=handle))
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = "mes/answers"
    properties.CorrelationData = b"42"
    subscriber.publish(f"{ROOT}/request/status", b"{}", properties=properties)

    def answers(topic: str) -> list[Any]:
        return [one for one in list(subscriber.messages) if one.topic == topic]

    step_until(sink, lambda: answers("mes/answers"), "the answer")
    [answer] = answers("mes/answers")
    assert json.loads(answer.payload) == {"ok": True, "frames": 3}
    assert answer.properties.CorrelationData == b"42"
    assert asked == [("status", b"{}", threading.current_thread().name)]

    properties.ResponseTopic = f"{ROOT}/available"  # nobody makes us say something else there
    subscriber.publish(f"{ROOT}/request/status", b"", properties=properties)
    step_until(sink, lambda: answers(f"{ROOT}/response/status"), "the answer at its own place")
    assert [one.payload for one in answers(f"{ROOT}/available")] == [b"online"]
    sink.close(1.0)
    subscriber.close()


def test_requests_that_fail_are_answered(broker: Mosquitto, subscriber: Subscriber) -> None:
    def handle(name: str, body: bytes) -> dict[str, Any]:
        if name == "reload":
            raise DataError("line 3 is wrong", hint="mend it")
        raise ValueError("private detail")

    sink = connect(new_sink(broker.port, handle=handle, protocol=311))
    subscriber.publish(f"{ROOT}/request/reload", b"")
    subscriber.publish(f"{ROOT}/request/status", b"")
    step_until(sink, lambda: subscriber.bodies("response/status"), "answers")
    [reload] = subscriber.bodies("response/reload")
    assert json.loads(reload) == {"ok": False, "error": "line 3 is wrong", "hint": "mend it"}
    [status] = subscriber.bodies("response/status")
    assert b"private" not in status
    sink.close(1.0)


def test_retained_request_is_not_a_request(broker: Mosquitto, subscriber: Subscriber) -> None:
    subscriber.publish(f"{ROOT}/request/reload", b"", retain=True)
    until(lambda: subscriber.bodies("request/reload"), "it is with the broker")
    asked: list[str] = []
    sink = connect(new_sink(broker.port, handle=lambda name, _: {"n": asked.append(name)}))
    subscriber.publish(f"{ROOT}/request/status", b"")
    step_until(sink, lambda: asked, "a request that is one")
    assert asked == ["status"]
    sink.close(1.0)


def test_denied_announcement_is_visible_and_verdicts_go_on(broker: Mosquitto, log_lines: list[Any]) -> None:
    broker.set_acl(f"topic write {ROOT}/result/frame\ntopic write {ROOT}/available\n")
    sink = connect(new_sink(broker.port))
    assert "Not authorized" in sink.last_error
    assert {line["topic"] for line in log_lines if line["event"] == "mqtt.refused"} == {
        f"{ROOT}/info",
        f"{ROOT}/state",
    }
    sink.send(message(1))
    settle_until(sink, lambda total: total.delivered == (1,))
    sink.close(1.0)


def test_wakes_whoever_waits_when_something_happens(broker: Mosquitto) -> None:
    wake = threading.Event()
    sink = new_sink(broker.port, wake=wake)
    sink.step(time.monotonic())
    assert wake.wait(10), "CONNACK"
    sink.close(1.0)


def test_results_that_nobody_is_subscribed_to_are_mentioned_once(
    broker: Mosquitto, log_lines: list[Any]
) -> None:
    sink = connect(new_sink(broker.port))
    for row in (1, 2):
        sink.send(message(row))
        settle_until(sink, lambda settled: settled.delivered)
    assert [line["event"] for line in log_lines].count("mqtt.nobody_listens") == 1
    subscriber = Subscriber(broker.port)
    sink.send(message(3))
    settle_until(sink, lambda settled: settled.delivered)
    assert [line["event"] for line in log_lines].count("mqtt.somebody_listens") == 1
    subscriber.close()
    sink.close(1.0)
