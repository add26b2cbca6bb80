"""Sinks of both kinds behind one rig, so that one suite runs over them; and a consumer to watch them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import structlog
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge.config import Mqtt
from edge.publish import Message, Settled, Sink
from edge.publish.jsonl import FileReceiver
from edge.publish.memory import MemorySink
from edge.publish.mqtt import MqttSink
from edge.publish.sparkplug import BirthCount, SparkplugSink
from edge.publish.sparkplug_payload import _payload_class
from edge.publish.threaded import ThreadedSink
from edge.publish.webhook import WebhookReceiver
from tests.brokers import Mosquitto, until

STATION = "st"
ROOT = f"edge/{STATION}"


def message(row_id: int) -> Message:
    body = json.dumps({"resultId": f"R{row_id}", "recipeId": "bracket"}).encode()
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
    def freeze(self) -> None:
        """What is sent from now on is not acknowledged."""

    def go_down(self) -> None: ...
    def come_up(self) -> None: ...
    def refuse(self, yes: bool) -> None: ...


class MemoryRig:
    def __init__(self) -> None:
        self.sink = MemorySink()

    def received(self) -> list[str]:
        return [message.result_id for message in self.sink.received]

    def freeze(self) -> None:
        """The double settles nothing until it is stepped."""

    def go_down(self) -> None:
        self.sink.up = False

    def come_up(self) -> None:
        self.sink.up = True

    def refuse(self, yes: bool) -> None:
        self.sink.refuse = "not authorized" if yes else ""


class MqttRig:
    def __init__(self, broker: Mosquitto, sink: MqttSink | SparkplugSink, subscriber: Subscriber) -> None:
        self.broker = broker
        self.sink: Sink = sink
        self.subscriber = subscriber

    def received(self) -> list[str]:
        return self.subscriber.result_ids()

    def freeze(self) -> None:
        self.broker.freeze()

    def go_down(self) -> None:
        self.broker.kill()

    def come_up(self) -> None:
        before = self.subscriber.subscriptions
        self.broker.start()
        until(lambda: self.subscriber.subscriptions > before, "the subscriber is back")

    def refuse(self, yes: bool) -> None:
        allowed = "".join(f"topic write {ROOT}/{name}\n" for name in ("available", "info", "state"))
        self.broker.set_acl("topic read #\n" + allowed if yes else "")


class SparkplugRig(MqttRig):
    """Its subscriber is on spBv1.0/#."""

    def received(self) -> list[str]:
        found = []
        for one in list(self.subscriber.messages):
            if "/DDATA/" in one.topic:
                payload = _payload_class().FromString(one.payload)
                found += [m.string_value for m in payload.metrics if m.name == "frame/resultId"]
        return found

    def refuse(self, yes: bool) -> None:
        raise NotImplementedError("at QoS 0 a broker has no word for it")


class HttpServer:
    """A receiver of webhooks, with its moods: frozen, refusing, failing, down."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []  # of requests that were taken
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answer: tuple[int, str, dict[str, str]] = (204, "", {})
        self.frozen = threading.Event()
        self.port = 0
        self._open: set[Any] = set()
        self.start()

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                server._open.add(self.request)
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if server.frozen.is_set():
                    server._stopped.wait(60)
                    self.close_connection = True
                    return
                server.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
                status, text, headers = server.answer
                if status < 300:
                    server.received.append(json.loads(body))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                """A connection that was cut is what some tests are about."""

        self._stopped = threading.Event()
        self.frozen.clear()
        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()


class WebhookRig:
    def __init__(self, server: HttpServer, **options: Any) -> None:
        self.server = server
        defaults: dict[str, Any] = {"headers": {}, "secret": None, "ca_file": None, "timeout_s": 5.0}
        make = partial(WebhookReceiver, f"http://127.0.0.1:{server.port}/verdicts", **(defaults | options))
        self.sink = ThreadedSink(
            "hook", make, wake=threading.Event(), log=structlog.get_logger(), jitter=lambda: 0.0
        )

    def received(self) -> list[str]:
        return [body["resultId"] for body in list(self.server.received)]

    def freeze(self) -> None:
        self.server.frozen.set()

    def go_down(self) -> None:
        self.server.stop()

    def come_up(self) -> None:
        self.server.start()

    def refuse(self, yes: bool) -> None:
        self.server.answer = (403, "not authorized", {}) if yes else (204, "", {})


class MoodyDisk(FileReceiver):
    """A file on a disk that may hang and fail."""

    hangs, fails = threading.Event(), threading.Event()

    def open(self) -> None:
        if self.fails.is_set():
            raise OSError(28, "No space left on device")
        super().open()

    def _append(self, lines: bytes) -> None:
        if self.hangs.is_set():
            self.fails.wait(60)
        if self.fails.is_set():
            raise OSError(28, "No space left on device")
        super()._append(lines)


class FileRig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        MoodyDisk.hangs.clear()
        MoodyDisk.fails.clear()
        self.sink = ThreadedSink(
            "file", partial(MoodyDisk, folder), wake=threading.Event(), log=structlog.get_logger(),
            jitter=lambda: 0.0,
        )  # fmt: skip

    def received(self) -> list[str]:
        text = "".join(file.read_text() for file in sorted(self.folder.glob("*.jsonl")))
        return [json.loads(line)["resultId"] for line in text.splitlines()]

    def freeze(self) -> None:
        MoodyDisk.hangs.set()

    def go_down(self) -> None:
        MoodyDisk.fails.set()
        if not MoodyDisk.hangs.is_set():  # a disk is only seen to fail when it is written to
            self.sink.send(message(0))

    def come_up(self) -> None:
        MoodyDisk.hangs.clear()
        MoodyDisk.fails.clear()

    def refuse(self, yes: bool) -> None:
        raise NotImplementedError("a disk has no opinion of a verdict")


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


def new_sparkplug(port: int, folder: Path, **kwargs: Any) -> SparkplugSink:
    """An edge node for the broker on `port`; `folder` keeps its bdSeq."""
    defaults: dict[str, Any] = {
        "group": "plant",
        "node": STATION,
        "primary_host": None,
        "info": lambda: {"version": "1", "recipes": {"bracket": {"bundle": "bracket"}}},
        "count": BirthCount(folder / "bdseq"),
        "wake": threading.Event(),
        "log": structlog.get_logger(),
        "environ": {},
        "jitter": lambda: 0.0,
    }
    broker = Mqtt(port=port, protocol=kwargs.pop("protocol", 5))
    return SparkplugSink(broker, **(defaults | kwargs))
