"""Fixtures: a broker of one's own, a consumer on it, and a rig for each kind of sink."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.brokers import Mosquitto, require_mosquitto
from tests.publish.rigs import (
    FileRig,
    HttpServer,
    MemoryRig,
    MqttRig,
    Rig,
    SparkplugRig,
    Subscriber,
    WebhookRig,
    new_sink,
    new_sparkplug,
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


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
def subscriber(broker: Mosquitto) -> Iterator[Subscriber]:
    subscriber = Subscriber(broker.port)
    yield subscriber
    subscriber.close()


@pytest.fixture(params=["memory", "mqtt-5", "mqtt-311", "webhook", "file", "sparkplug"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    if request.param == "memory":
        yield MemoryRig()
        return
    if request.param == "file":
        on_disk = FileRig(request.getfixturevalue("tmp_path") / "out")
        yield on_disk
        on_disk.come_up()
        on_disk.sink.close(1.0)
        return
    if request.param == "webhook":
        server = HttpServer()
        hook = WebhookRig(server)
        yield hook
        hook.sink.close(1.0)
        server.stop()
        return
    broker: Mosquitto = request.getfixturevalue("broker")
    if request.param == "sparkplug":
        host = Subscriber(broker.port, "spBv1.0/#")
        node = new_sparkplug(broker.port, request.getfixturevalue("tmp_path"))
        yield SparkplugRig(broker, node, host)
        node.close(1.0)
        host.close()
        return
    subscriber: Subscriber = request.getfixturevalue("subscriber")
    sink = new_sink(broker.port, protocol=5 if request.param == "mqtt-5" else 311)
    yield MqttRig(broker, sink, subscriber)
    sink.close(1.0)
