"""Sinks of both kinds behind one rig, so that one suite runs over them; and a consumer to watch them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge.config import Mqtt
from edge.publish import Message, Settled, Sink
from edge.publish.memory import MemorySink
from edge.publish.mqtt import MqttSink
from tests.brokers import Mosquitto, until

STATION = "st"
ROOT = f"edge/{STATION}"


def message(row_id: int) -> Message:
    body = json.dumps({"resultId": f"R{row_id}"}).encode()
    return Message(row_id, "frame", f"R{row_id}", body)


class Subscriber:
    """What a consumer sees: every message below the station's topics, in order.

    With a `session` name the broker keeps for it what arrives while it is away.
    """

    def __init__(self, port: int, topic: str = f"{ROOT}/#", session: str = "") -> None:
        self.messages: list[MQTTMessage] = []
        self.subscriptions = 0
        # the sessions of 3.1.1 last by themselves
        version = MQTTProtocolVersion.MQTTv311 if session else MQTTProtocolVersion.MQTTv5
        clean = False if session else None
        self._client = Client(CallbackAPIVersion.VERSION2, session, clean_session=clean, protocol=version)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_subscribe = self._count
        self._client.on_message = lambda _c, _u, message: self.messages.append(message)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(lambda: self.subscriptions, "the subscriber is subscribed")

    def bodies(self, topic: str) -> list[bytes]:
        return [message.payload for message in list(self.messages) if message.topic == f"{ROOT}/{topic}"]

    def result_ids(self) -> list[str]:
        return [json.loads(body)["resultId"] for body in self.bodies("result/frame")]

    def publish(self, topic: str, body: bytes, **kwargs: Any) -> None:
        self._client.publish(topic, body, qos=1, **kwargs)

    def _count(self, *_: object) -> None:
        self.subscriptions += 1

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Rig(Protocol):
    """A sink with the means to disturb it and to see what arrives."""

    sink: Sink

    def received(self) -> list[str]: ...
    def go_down(self) -> None: ...
    def come_up(self) -> None: ...
    def refuse(self, yes: bool) -> None: ...


class MemoryRig:
    def __init__(self) -> None:
        self.sink = MemorySink()

    def received(self) -> list[str]:
        return [message.result_id for message in self.sink.received]

    def go_down(self) -> None:
        self.sink.up = False

    def come_up(self) -> None:
        self.sink.up = True

    def refuse(self, yes: bool) -> None:
        self.sink.refuse = "not authorized" if yes else ""


class MqttRig:
    def __init__(self, broker: Mosquitto, sink: MqttSink, subscriber: Subscriber) -> None:
        self.broker = broker
        self.sink = sink
        self.subscriber = subscriber

    def received(self) -> list[str]:
        return self.subscriber.result_ids()

    def go_down(self) -> None:
        self.broker.kill()

    def come_up(self) -> None:
        before = self.subscriber.subscriptions
        self.broker.start()
        until(lambda: self.subscriber.subscriptions > before, "the subscriber is back")

    def refuse(self, yes: bool) -> None:
        allowed = "".join(f"topic write {ROOT}/{name}\n" for name in ("available", "info", "state"))
        self.broker.set_acl("topic read #\n" + allowed if yes else "")


def step_until(sink: Sink, condition: Callable[[], object], what: str = "") -> Settled:
    """Step the sink until `condition()`; what was settled meanwhile."""
    return settle_until(sink, lambda _: condition(), what)


def settle_until(sink: Sink, condition: Callable[[Settled], object], what: str = "") -> Settled:
    """Step the sink until `condition` holds of all that was settled meanwhile."""
    total = Settled()

    def stepped() -> object:
        nonlocal total
        sink.step(time.monotonic())
        new = sink.settled()
        total = Settled(total.delivered + new.delivered, total.refused + new.refused, total.lost + new.lost)
        return condition(total)

    until(stepped, what)
    return total


def new_sink(port: int, **kwargs: Any) -> MqttSink:
    """A sink for the broker on `port`; `kwargs` go to the settings or else to the sink."""
    fields = {key: kwargs.pop(key) for key in list(kwargs) if key in Mqtt.model_fields}
    defaults: dict[str, Any] = {
        "station": STATION,
        "info": lambda: {"version": "1"},
        "state": lambda: {"frames": 0},
        "wake": threading.Event(),
        "log": structlog.get_logger(),
        "environ": {},
        "jitter": lambda: 0.0,
    }
    return MqttSink(Mqtt(port=port, **fields), **(defaults | kwargs))
