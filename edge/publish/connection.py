"""One MQTT connection: a paho client that lives from one CONNECT to the end of that connection.

paho keeps unacknowledged messages over reconnects and sends them again by itself; the outbox does that
better, so a client is never used twice. The network thread only puts events on a queue; whoever owns the
connection takes them from there, in its own thread. That thread is ours, not paho's `loop_start`: paho's ends
without a word where a packet makes no sense or a file descriptor is too large for `select`, and a connection
that nobody reads must not look like one that is silent.
"""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, error_string
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

if TYPE_CHECKING:
    from edge.config import Mqtt, Tls

CONNECT_TIMEOUT_S = 5.0
CALLBACKS = ("on_connect", "on_disconnect", "on_publish", "on_subscribe", "on_message", "on_log")
LOOP_S = 1.0  # at most, between two looks at keepalive
UNLIMITED = 2**28  # the largest packet MQTT knows


@dataclass(frozen=True, slots=True)
class Up:
    """The broker accepted us, with these limits of its own."""

    receive_maximum: int = 65535  # unacknowledged messages
    maximum_packet_bytes: int = UNLIMITED


@dataclass(frozen=True, slots=True)
class Down:
    """The connection ended, or never came to be."""

    why: str


NO_MATCHING_SUBSCRIBERS = 0x10  # MQTT 5, 3.4.2.1: a success code of PUBACK


@dataclass(frozen=True, slots=True)
class Acked:
    """PUBACK or SUBACK; `refused` is the broker's reason, empty for success."""

    mid: int
    refused: str = ""
    unheard: bool = False  # accepted, but nobody is subscribed: the broker drops it


@dataclass(frozen=True, slots=True)
class Request:
    """A message on a topic that is subscribed to, such as `…/request/NAME`."""

    topic: str
    body: bytes
    response_topic: str = ""
    correlation: bytes | None = None
    retained: bool = False  # it may be old


Event = Up | Down | Acked | Request


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be published."""

    topic: str
    body: bytes
    retain: bool = False
    correlation: bytes | None = None
    qos: int = 1


def read_password(file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The password: from `file`, else EDGE_MQTT_PASSWORD, else the systemd credential `mqtt_password`.

    Raises:
        OSError: a file that should hold it cannot be read.
    """
    if file is not None:
        return file.read_text().rstrip("\r\n")
    if password := environ.get("EDGE_MQTT_PASSWORD"):
        return password
    credential = Path(environ.get("CREDENTIALS_DIRECTORY", os.devnull)) / "mqtt_password"
    return credential.read_text().rstrip("\r\n") if credential.is_file() else None


def tls_context(tls: Tls) -> ssl.SSLContext:
    """The broker must prove its name to a CA that we know; there is no way to leave that out.

    Raises:
        OSError: a file cannot be read, or is none of its kind.
    """
    context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(tls.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: what is older is broken
    if tls.cert_file is not None:
        try:
            # the empty password keeps OpenSSL from asking on the terminal
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except ssl.SSLError as error:
            raise OSError(
                f"{tls.cert_file} with {tls.key_file or 'the key in it'}: {error.reason or 'not usable'} "
                "(no PEM, not a pair, or a key with a passphrase, which nobody could enter)"
            ) from None
    return context


class Connection:
    """`events` tells all that happens, ending with one or more `Down`; `wake` is set with each."""

    def __init__(
        self,
        settings: Mqtt,
        *,
        client_id: str,
        will: Publication | None,
        environ: Mapping[str, str],
        wake: threading.Event,
        content_type: str = "application/json",
    ) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._settings = settings
        self._will = will
        self._environ = environ
        self._wake = wake
        self._v5 = settings.protocol == 5
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if self._v5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self._content_type = content_type
        # they take longer than a publication
        self._properties = _properties(content_type) if self._v5 else None
        self._closing = threading.Event()
        self._trouble = ""  # what paho said last went wrong

    def open(self) -> None:
        """Start connecting; name look-up, TCP and TLS take their time in a thread of their own."""
        threading.Thread(target=self._live, name="mqtt-network", daemon=True).start()

    def publish(self, publication: Publication) -> int | None:
        """Hand over to paho; the message id that its `Acked` will carry, or None: not taken."""
        properties = self._properties
        if self._v5 and publication.correlation is not None:
            properties = _properties(self._content_type)
            properties.CorrelationData = publication.correlation
        try:
            info = self._client.publish(
                publication.topic,
                publication.body,
                qos=publication.qos,
                retain=publication.retain,
                properties=properties,
            )
        except ValueError:
            return None
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def subscribe(self, topic: str) -> int | None:
        """The message id that its `Acked` will carry, or None: not taken."""
        code, mid = self._client.subscribe(topic, qos=1)
        return mid if code == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def disconnect(self) -> None:
        """Say DISCONNECT, so that the broker keeps the will to itself; `Down` follows."""
        self._client.disconnect()

    def abandon(self) -> None:
        """End it without a word, whatever state it is in; does not wait."""
        self._closing.set()
        sock = self._client.socket()
        if sock is not None:
            with suppress(OSError):
                # the network thread reads the end of the stream and ends with it; not the TLS socket's own
                # method, which would take the TLS off first: a packet could still leave in clear
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # type: ignore[arg-type]  # paho's protocol

    def _live(self) -> None:
        """The network thread: however it ends, `Down` says why, after paho's own if it had a word."""
        where = f"{self._settings.host}:{self._settings.port}"
        why = f"cannot connect to {where}"
        try:
            self._prepare()
            self._client.connect(**self._connect_arguments())
            why = f"connection to {where} lost"
            if self._closing.is_set():
                self.abandon()
            while (code := self._client.loop(LOOP_S)) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                pass
            why += f": {error_string(code)}"
        except Exception as error:  # unreachable, names or packets that make no sense, or a fault of ours
            why += f": {_said(error)}"
        finally:
            self.abandon()
            for callback in CALLBACKS:  # they know us, we know the client: a circle that would keep its files
                setattr(self._client, callback, None)  # open until a garbage collection, which may be days
            self._put(Down(why))

    def _prepare(self) -> None:
        client, settings = self._client, self._settings
        client.connect_timeout = CONNECT_TIMEOUT_S
        if self._will is not None:
            client.will_set(self._will.topic, self._will.body, qos=1, retain=self._will.retain)
        if settings.username is not None:
            client.username_pw_set(settings.username, read_password(settings.password_file, self._environ))
        if settings.tls is not None:
            client.tls_set_context(tls_context(settings.tls))
        for callback in CALLBACKS:
            setattr(client, callback, getattr(self, f"_{callback}"))
        # says that writing is not for the thread that publishes: ours is woken and does it
        client.on_socket_register_write = lambda _client, _userdata, _socket: None

    def _connect_arguments(self) -> dict[str, Any]:
        settings = self._settings
        arguments = {"host": settings.host, "port": settings.port, "keepalive": settings.keepalive_s}
        if not self._v5:
            return arguments
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's gap
        properties.SessionExpiryInterval = 0
        return arguments | {"clean_start": True, "properties": properties}

    def _send_at_once(self) -> None:
        """Without it a packet behind one that nobody acknowledges (QoS 0) waits for the broker's TCP, 40 ms.

        Not before the broker has accepted us: it says in TLS why it does not, and a CONNECT that comes while
        it hangs up would have its words thrown away.
        """
        sock: Any = self._client.socket()
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _put(self, event: Event) -> None:
        self.events.put(event)
        self._wake.set()

    # paho calls these in the network thread

    def _on_connect(
        self, _c: Client, _u: object, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._put(Down(f"{self._settings.host}:{self._settings.port} refused the connection: {reason}"))
            return
        self._send_at_once()
        receive_maximum = getattr(properties, "ReceiveMaximum", 65535)
        self._put(Up(receive_maximum, getattr(properties, "MaximumPacketSize", UNLIMITED)))

    def _on_disconnect(
        self, _c: Client, _u: object, flags: DisconnectFlags, reason: ReasonCode, _p: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._put(Down(f"the broker disconnected: {reason}"))
        else:
            self._put(Down(f"connection lost: {self._trouble or reason}"))

    def _on_publish(
        self, _c: Client, _u: object, mid: int, reason: ReasonCode, properties: Properties
    ) -> None:
        refused = _why(reason, properties) if reason.is_failure else ""
        self._put(Acked(mid, refused, unheard=reason.value == NO_MATCHING_SUBSCRIBERS))

    def _on_subscribe(
        self, _c: Client, _u: object, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        failures = [_why(reason, properties) for reason in reasons if reason.is_failure]
        self._put(Acked(mid, f"subscription: {failures[0]}" if failures else ""))

    def _on_log(self, _c: Client, _u: object, level: int, text: str) -> None:
        """A broker that does not take our certificate says so in TLS, which paho tells only its log."""
        if level == LogLevel.MQTT_LOG_ERR:
            self._trouble = text

    def _on_message(self, _c: Client, _u: object, message: MQTTMessage) -> None:
        response_topic = getattr(message.properties, "ResponseTopic", "")
        correlation = getattr(message.properties, "CorrelationData", None)
        body, retained = bytes(message.payload), message.retain
        self._put(Request(message.topic, body, response_topic, correlation, retained))


def _properties(content_type: str) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's gap
    if content_type:
        properties.ContentType = content_type
    return properties


def _said(error: Exception) -> str:
    """System errors speak for themselves, others need their name."""
    return str(error) if isinstance(error, OSError | ValueError) else repr(error)


def _why(reason: ReasonCode, properties: Properties | None) -> str:
    said = getattr(properties, "ReasonString", "")
    return f"{reason} ({said})" if said else str(reason)
