"""TLS with a real Mosquitto that asks for client certificates: what is wrong is refused and said."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from prometheus_client import CollectorRegistry

from edge.config import Tls
from edge.observe.metrics import Metrics
from edge.publish.memory import MemoryOutbox
from edge.publish.mqtt import MqttSink
from edge.publish.outbox import Delivery
from tests.brokers import DEADLINE_S, Mosquitto, require_mosquitto, until
from tests.publish.certificates import DAY, Authority, Certificate
from tests.publish.rigs import ROOT, message, new_sink, settle_until, step_until

EXAMPLES = Path(__file__).parents[2] / "systemd"
PASSWORD = "s3cret-passw0rd"
ROWS = 3

pytestmark = [
    pytest.mark.mosquitto,
    # paho leaves the socket of a failed handshake to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Wire:
    """Between a sink and its broker, on a port of its own; keeps every byte that the sink sent."""

    def __init__(self, broker_port: int) -> None:
        self.sent = bytearray()
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._broker_port))
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near, far, self.sent.extend), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, lambda _: None), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, keep: Callable[[bytes], object]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                keep(data)
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Plant:
    """A certificate authority, a broker that trusts it, and a delivery with rows that wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority(folder / "ca")
        self.foreign = Authority(folder / "foreign", "foreign")
        self.registry = CollectorRegistry()
        self.store = MemoryOutbox(created_unix_s=time.time())
        for row in range(1, ROWS + 1):
            self.store.add(message(row))
        (folder / "password").write_text(PASSWORD)
        self._closing: list[Callable[[], object]] = []

    def broker(self, certificate: Certificate | None, port: int | None = None) -> Mosquitto:
        tls = certificate and (self.ca.ca_file, certificate.cert_file, certificate.key_file)
        broker = Mosquitto(self.folder / "broker", port, tls=tls or None).start()
        self._closing.append(broker.stop)
        return broker

    def tls(self, client: Certificate | None, ca: Authority | None = None) -> Tls:
        return Tls(
            ca_file=(ca or self.ca).ca_file,
            cert_file=client and client.cert_file,
            key_file=client and client.key_file,
        )

    def delivery(self, port: int, tls: Tls, **kwargs: Any) -> Delivery:
        wire = Wire(port)
        self.wire = wire
        sink = new_sink(wire.port, tls=tls, username="edge", password_file=self.folder / "password", **kwargs)
        self._closing += [wire.close, lambda: sink.close(1.0)]
        return Delivery(
            sink, self.store, wake=threading.Event(), meter=Metrics(self.registry), log=structlog.get_logger()
        )

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(name, {"sink": "mqtt"})

    def close(self) -> None:
        for close in reversed(self._closing):
            close()


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    require_mosquitto()
    plant = Plant(tmp_path)
    yield plant
    plant.close()


def step(delivery: Delivery, condition: Callable[[], object], what: str) -> None:
    def stepped() -> object:
        delivery.step(time.monotonic())
        return condition()

    until(stepped, what)


def test_the_right_certificates_deliver_and_nothing_is_in_clear(plant: Plant) -> None:
    broker = plant.broker(plant.ca.issue("broker"))
    delivery = plant.delivery(broker.port, plant.tls(plant.ca.issue("st")))
    step(delivery, lambda: plant.store.depth("mqtt") == 0, "all rows are delivered")
    step(delivery, lambda: plant.metric("edge_sink_connected") == 1, "and the metric says so")
    assert len(plant.wire.sent) > 100
    for secret in (PASSWORD, "resultId", ROOT, "MQTT"):
        assert secret.encode() not in plant.wire.sent


BROKERS: dict[str, Callable[[Plant], Certificate | None]] = {
    "good": lambda plant: plant.ca.issue("broker"),
    "expired": lambda plant: plant.ca.issue("broker", age=3 * DAY),
    "not-yet-valid": lambda plant: plant.ca.issue("broker", age=-3 * DAY),
    "other-address": lambda plant: plant.ca.issue("broker", host="192.0.2.1"),
    "other-name": lambda plant: plant.ca.issue("broker", host="broker.plant"),
    "plain": lambda plant: None,
}
CLIENTS: dict[str, Callable[[Plant], Certificate | None]] = {
    "good": lambda plant: plant.ca.issue("st"),
    "none": lambda plant: None,
    "foreign": lambda plant: plant.foreign.issue("st"),
    "expired": lambda plant: plant.ca.issue("st", age=3 * DAY),
    "not-a-pair": lambda plant: Certificate(plant.ca.issue("st").cert_file, plant.ca.issue("other").key_file),
    "passphrase": lambda plant: plant.ca.issue("st", passphrase="pass-phrase"),
}


@pytest.mark.parametrize("protocol", [5, 311])
@pytest.mark.parametrize(
    ("broker", "client", "trusts_foreign", "said"),
    [
        ("good", "good", True, "certificate verify failed"),
        ("expired", "good", False, "certificate has expired"),
        ("not-yet-valid", "good", False, "certificate is not yet valid"),
        ("other-address", "good", False, "certificate is not valid for '127.0.0.1'"),
        ("other-name", "good", False, "certificate is not valid for '127.0.0.1'"),
        ("plain", "good", False, "SSL"),
        ("good", "none", False, "certificate required"),
        ("good", "foreign", False, "unknown ca"),
        ("good", "expired", False, "certificate expired"),
        ("good", "not-a-pair", False, "not a pair"),
        ("good", "passphrase", False, "passphrase"),
    ],
)
def test_what_is_wrong_is_refused_and_said_and_costs_no_row(
    plant: Plant, broker: str, client: str, trusts_foreign: bool, said: str, protocol: int
) -> None:
    port = plant.broker(BROKERS[broker](plant)).port
    tls = plant.tls(CLIENTS[client](plant), plant.foreign if trusts_foreign else None)
    delivery = plant.delivery(port, tls, protocol=protocol)
    sink = delivery.sink
    seen: list[bool] = []
    step(delivery, lambda: (seen.append(sink.connected), sink.last_error)[1], "it is refused")
    delivery.step(time.monotonic() + 2.0)  # the metric is set once a second
    assert said in sink.last_error
    assert "mqtt.protocol" not in sink.last_error  # which would send the reader the wrong way
    assert not any(seen)
    assert plant.metric("edge_sink_connected") == 0
    assert plant.metric("edge_outbox_depth") == plant.store.depth("mqtt") == ROWS
    for secret in (PASSWORD, "resultId", ROOT, "MQTT"):
        assert secret.encode() not in plant.wire.sent
    assert PASSWORD not in sink.last_error
    assert "pass-phrase" not in sink.last_error


def test_once_the_broker_has_a_good_certificate_again_the_rows_go_out(plant: Plant) -> None:
    broker = plant.broker(plant.ca.issue("broker", age=3 * DAY))
    delivery = plant.delivery(broker.port, plant.tls(plant.ca.issue("st")))
    step(delivery, lambda: delivery.sink.last_error, "it is refused")
    broker.stop()
    plant.broker(plant.ca.issue("broker"), broker.port)
    step(delivery, lambda: plant.store.depth("mqtt") == 0, "all rows are delivered")
    assert delivery.sink.last_error == ""


def old_server(certificate: Certificate) -> ssl.SSLContext:
    """Speaks TLS 1.1 and nothing newer, which this OpenSSL only does when asked twice."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def test_a_broker_that_only_speaks_an_old_tls_is_refused(plant: Plant) -> None:
    context = old_server(plant.ca.issue("broker"))
    done: list[str] = []

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _peer = listener.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as wrapped:
                    done.append(wrapped.version() or "")
            except OSError as error:
                done.append(str(error))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # as a check of the server
        anything.load_verify_locations(plant.ca.ca_file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            anything.minimum_version = ssl.TLSVersion.TLSv1
        anything.set_ciphers("DEFAULT:@SECLEVEL=0")
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            anything.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            assert wrapped.version() == "TLSv1.1"
        sink = new_sink(port, tls=plant.tls(plant.ca.issue("st")))
        step_until(sink, lambda: sink.last_error, "it is refused")
        assert "SSL" in sink.last_error
        thread.join(DEADLINE_S)
        sink.close(1.0)
    assert done[0] == "TLSv1.1"
    assert not done[1].startswith("TLS")


# The examples in systemd/, as they are but for the place of their files


class ExampleBroker:
    """Mosquitto with mosquitto.conf.example and mosquitto-acl.example."""

    def __init__(self, folder: Path) -> None:
        self.ca = Authority(folder / "ca")
        self.broker = Mosquitto(folder / "broker")
        here = self.broker.folder
        own = self.ca.issue("broker")
        for source, name in (
            (self.ca.ca_file, "ca.pem"),
            (own.cert_file, "broker.pem"),
            (own.key_file, "broker.key"),
        ):
            (here / name).write_bytes(source.read_bytes())
        (here / "acl").write_text((EXAMPLES / "mosquitto-acl.example").read_text())
        example = (EXAMPLES / "mosquitto.conf.example").read_text()
        before = (here / "mosquitto.conf").read_text()
        process = [line for line in before.splitlines() if line.startswith(("user ", "log_dest "))]
        text = example.replace("/etc/mosquitto/edge", str(here)).replace("/var/lib/mosquitto", str(here))
        text = text.replace("listener 8883", f"listener {self.broker.port} 127.0.0.1")
        (here / "mosquitto.conf").write_text("\n".join([text, *process]) + "\n")
        self.broker.start()

    def tls(self, name: str) -> Tls:
        own = self.ca.issue(name)
        return Tls(ca_file=self.ca.ca_file, cert_file=own.cert_file, key_file=own.key_file)

    def sink(self, station: str, certificate: str, **kwargs: Any) -> MqttSink:
        return new_sink(self.broker.port, station=station, tls=self.tls(certificate), **kwargs)

    def client(self, name: str) -> Peer:
        return Peer(self.broker.port, self.tls(name))


class Peer:
    """A client with a certificate that says and hears what it may; `heard` is topics."""

    def __init__(self, port: int, tls: Tls) -> None:
        self.heard: list[str] = []
        self._answers: dict[int, int] = {}
        self._subscribed = 0
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        context = ssl.create_default_context(cafile=str(tls.ca_file))
        assert tls.cert_file is not None
        context.load_cert_chain(tls.cert_file, tls.key_file)
        self._client.tls_set_context(context)
        self._client.on_message = lambda _c, _u, one: self.heard.append(one.topic)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = self._count
        self._client.on_publish = lambda _c, _u, mid, reason, _p: self._answers.update({mid: reason.value})
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(lambda: self._subscribed, "subscribed")

    def _count(self, *_: object) -> None:
        self._subscribed += 1

    def may_say(self, topic: str, *, retain: bool = False) -> bool:
        mid = self._client.publish(topic, b"x", qos=1, retain=retain).mid
        until(lambda: mid in self._answers, "an answer")
        return self._answers[mid] != 0x87  # MQTT 5, 3.4.2.1: not authorized

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def example(tmp_path: Path) -> Iterator[ExampleBroker]:
    require_mosquitto()
    example = ExampleBroker(tmp_path)
    yield example
    example.broker.stop()


def test_with_the_example_acl_a_station_delivers_and_a_consumer_hears_it(example: ExampleBroker) -> None:
    consumer, planner = example.client("mes"), example.client("planner")
    sink = example.sink("ct-1", "ct-1", handle=lambda _name, _body: {"ok": True})
    step_until(sink, lambda: sink.capacity() == 20, "connected and announced")
    assert sink.last_error == ""
    sink.send(message(1))
    settle_until(sink, lambda total: total.delivered == (1,))
    until(lambda: "edge/ct-1/result/frame" in consumer.heard, "the verdict")
    assert planner.may_say("edge/ct-1/request/status")
    step_until(sink, lambda: "edge/ct-1/response/status" in planner.heard, "the answer")
    assert set(planner.heard) == {"edge/ct-1/response/status"}
    sink.close(2.0)
    for one in (consumer, planner):
        one.close()


def test_with_the_example_acl_a_station_speaks_for_itself_only(example: ExampleBroker) -> None:
    consumer, station, other = (example.client(name) for name in ("mes", "ct-1", "ct-2"))
    own = [f"edge/ct-1/{name}" for name in ("available", "info", "state", "result/frame", "result/part")]
    foreign = [topic.replace("ct-1", "ct-2") for topic in own]
    more = [
        "edge/ct-1/request/reload",
        "edge/ct-2/request/reload",
        "edge/ct-1",
        "edge",
        "$SYS/x",
        "edge/mes/state",
    ]
    assert [topic for topic in own if not station.may_say(topic)] == []
    assert [topic for topic in (*foreign, *more) if station.may_say(topic)] == []
    assert other.may_say("edge/ct-2/state")
    until(lambda: "edge/ct-2/state" in consumer.heard, "what came last")
    assert consumer.heard == [*own, "edge/ct-2/state"]
    assert station.heard == []  # nor does it hear the others
    for one in (consumer, station, other):
        one.close()


def test_with_the_example_acl_a_consumer_only_reads(example: ExampleBroker) -> None:
    consumer = example.client("mes")
    said = [
        "edge/ct-1/result/frame",
        "edge/ct-1/request/reload",
        "edge/mes/state",
        "edge/ct-1/available",
        "x",
    ]
    assert [topic for topic in said if consumer.may_say(topic, retain=True)] == []
    consumer.close()
    late = example.client("mes")
    assert late.heard == []
    late.close()


def test_with_the_example_acl_a_stranger_of_the_same_authority_is_told_nothing(
    example: ExampleBroker,
) -> None:
    stranger, station = example.client("visitor"), example.client("ct-1")
    assert station.may_say("edge/ct-1/state", retain=True)
    assert not stranger.may_say("edge/ct-1/state")
    assert not stranger.may_say("edge/visitor/state")
    assert stranger.heard == []
    for one in (stranger, station):
        one.close()


def test_a_station_with_the_certificate_of_another_keeps_its_rows_and_says_why(
    example: ExampleBroker,
) -> None:
    sink = example.sink("ct-1", "ct-2")
    step_until(sink, lambda: sink.last_error, "it is refused")
    assert "Not authorized" in sink.last_error
    sink.send(message(1))
    total = settle_until(sink, lambda total: total.refused, "the row is refused")
    assert total.delivered == ()
    assert total.refused[0][0] == 1
    sink.close(1.0)
