"""Verdicts onto an MQTT broker: availability, info, state, results, requests, as DESIGN.md lays down."""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError
from edge.publish import MAX_IN_FLIGHT, Message, Settled
from edge.publish.backoff import Backoff
from edge.publish.connection import (
    CONNECT_TIMEOUT_S,
    Acked,
    Connection,
    Down,
    Event,
    Publication,
    Request,
    Up,
)

if TYPE_CHECKING:
    from edge.config import Mqtt

RECONNECT_WAIT_S = (0.5, 30.0)  # first, at most
STABLE_AFTER_S = 10.0  # a connection that lasted this long counts as good; the next wait starts small again
CONNACK_TIMEOUT_S = 3 * CONNECT_TIMEOUT_S  # from starting to connect: TCP, TLS and the broker's answer
# A broker that answers pings but no publication is given up; with the keepalive, which notices a silent one
# within twice its time and LOOP_S, a connection that hangs is noticed within 30 s.
ACK_TIMEOUT_S = 20.0
DESCRIBE_EVERY_S = 2.0
MAX_REQUEST_BYTES = 65536
MAX_REQUESTS = 64  # waiting to be answered; beyond that the oldest is forgotten
MAX_RESPONSES = 4  # waiting to go out: who asks without end must not hold up verdicts
OLD_BROKER = "if this broker does not speak MQTT 5, set mqtt.protocol = 311"
PACKET_OVERHEAD_BYTES = 256  # header, topic and properties of our publications, generously

Describe = Callable[[], Mapping[str, Any]]
Handle = Callable[[str, bytes], Mapping[str, Any]]


class MqttSink:
    """A `Sink` over paho; one fresh client per connection, so paho never sends anything a second time.

    `info` and `state` give what the retained topics of that name say; `handle(name, body)` answers requests
    and runs in the caller's thread, inside `step`; None: no requests. `wake` is set when the network brings
    something.
    """

    def __init__(
        self,
        settings: Mqtt,
        *,
        station: str,
        info: Describe,
        state: Describe,
        handle: Handle | None = None,
        wake: threading.Event,
        log: Any,
        environ: Mapping[str, str],
        name: str = "mqtt",
        ack_timeout_s: float = ACK_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.connected = False
        self._error = ""  # of the connection or an announcement
        self._refusal = ""  # of the last result, until one gets through
        self._unheard = False  # the last result had no subscriber
        self._warned = False  # of what this protocol version cannot tell
        self._ack_timeout_s = ack_timeout_s
        self._settings = settings
        self._root = f"{settings.prefix}/{station}"
        self._client_id = f"edge-{settings.prefix}-{station}"
        self._info, self._state, self._handle = info, state, handle
        self._wake, self._log, self._environ, self._clock = wake, log, environ, clock
        self._now_s = float("-inf")  # of the last step
        self._connection: Connection | None = None
        self._limits = Up()
        self._backoff = Backoff(*RECONNECT_WAIT_S, jitter)
        self._next_attempt_s = float("-inf")
        self._since_s = 0.0  # of the attempt or, once connected, of the connection
        self._in_flight: dict[int, tuple[int | None, str, float]] = {}  # mid: row or None, topic, handed over
        self._waiting: deque[Publication] = deque()  # announcements and responses, ahead of verdicts
        self._requests: deque[Request] = deque(maxlen=MAX_REQUESTS)
        self._delivered: list[int] = []
        self._refused: list[tuple[int, str]] = []
        self._lost: list[int] = []
        self._said: dict[str, bytes] = {}  # the last info and state on this connection
        self._describe_due_s = 0.0
        self._closed = False

    @property
    def last_error(self) -> str:
        return self._error or self._refusal

    def step(self, now_s: float) -> None:
        """Take what the network brought, connect when due, publish announcements, answer requests."""
        self._now_s = now_s
        self._take_events(now_s)
        self._check_time(now_s)
        if self._connection is None and not self._closed and now_s >= self._next_attempt_s:
            self._open(now_s)
        if self.connected:
            self._answer_requests()
            self._describe(now_s)
            self._publish_waiting()

    def capacity(self) -> int:
        if not self.connected or self._refused:  # what follows a refused row must not overtake it
            return 0
        window = min(MAX_IN_FLIGHT, self._limits.receive_maximum)
        return max(0, window - len(self._in_flight) - len(self._waiting))

    def send(self, message: Message) -> None:
        limit_bytes = self._limits.maximum_packet_bytes - PACKET_OVERHEAD_BYTES
        if len(message.body) > limit_bytes:
            self._refuse(message.row_id, f"{len(message.body)} bytes are more than the broker takes")
            return
        publication = Publication(f"{self._root}/result/{message.kind}", message.body)
        self._publish(publication, message.row_id)

    def settled(self) -> Settled:
        settled = Settled(tuple(self._delivered), tuple(self._refused), tuple(self._lost))
        self._delivered, self._refused, self._lost = [], [], []
        return settled

    def close(self, timeout_s: float) -> None:
        """Publish `offline`, wait for its acknowledgement and for what is in flight, then disconnect."""
        self._closed = True
        deadline_s = self._clock() + timeout_s
        if self.connected:
            self._waiting.clear()
            self._publish(Publication(f"{self._root}/available", b"offline", retain=True), None)
            self._wait_while(lambda: self.connected and bool(self._in_flight), deadline_s)
        if self.connected and self._connection is not None and not self._in_flight:
            # unacknowledged, the connection is broken off instead, and the will says `offline`
            self._connection.disconnect()
            self._wait_while(lambda: self._connection is not None, deadline_s)
        self._drop("closed", self._clock())
        self._error = ""

    def _wait_while(self, condition: Callable[[], bool], deadline_s: float) -> None:
        while condition() and self._connection is not None:
            remaining_s = deadline_s - self._clock()
            if remaining_s <= 0:
                return
            try:
                event = self._connection.events.get(timeout=remaining_s)
            except queue.Empty:
                return
            self._take(event, self._clock())

    # the connection's life

    def _open(self, now_s: float) -> None:
        self._since_s = now_s
        will = Publication(f"{self._root}/available", b"offline", retain=True)
        self._connection = Connection(
            self._settings, client_id=self._client_id, will=will, environ=self._environ, wake=self._wake
        )
        self._connection.open()

    def _take_events(self, now_s: float) -> None:
        while self._connection is not None:
            try:
                event = self._connection.events.get_nowait()
            except queue.Empty:
                return
            self._take(event, now_s)

    def _take(self, event: Event, now_s: float) -> None:
        match event:
            case Up():
                self._came_up(event, now_s)
            case Acked():
                self._acknowledge(event)
            case Request() if not event.retained:  # a command that lies around is not a command
                self._requests.append(event)
            case Down(why):
                self._drop(why, now_s)

    def _came_up(self, limits: Up, now_s: float) -> None:
        assert self._connection is not None
        self.connected, self._limits, self._since_s = True, limits, now_s
        self._error = ""
        self._log.info("mqtt.connected", host=self._settings.host, topics=self._root)
        self._warn_of_silence()
        if self._handle is not None:
            self._connection.subscribe(f"{self._root}/request/+")
        self._waiting.append(Publication(f"{self._root}/available", b"online", retain=True))
        self._said, self._describe_due_s = {}, now_s

    def _warn_of_silence(self) -> None:
        """Before MQTT 5 an acknowledgement carries no reason: brokers acknowledge what their ACL drops."""
        if self._settings.protocol != 5 and not self._warned:
            self._warned = True
            self._log.warning(
                "mqtt.refusals_unknown",
                topic=f"{self._root}/result",
                hint="MQTT 3.1.1 acknowledges what an ACL forbids like what it allows; use mqtt.protocol = 5",
            )

    def _drop(self, why: str, now_s: float) -> None:
        """Forget this connection; its unacknowledged rows are lost, its late events are never looked at."""
        if self._connection is None:
            return
        self._connection.abandon()
        if self.connected and now_s - self._since_s >= STABLE_AFTER_S:
            self._backoff.reset()
        elif not self.connected and self._settings.protocol == 5 and _without_a_word(why):
            why += f" before it was accepted; {OLD_BROKER}"
        wait_s = self._backoff.wait_s()
        self._next_attempt_s = now_s + wait_s
        if not self._closed:
            log = self._log.warning if self.connected or why != self._error else self._log.debug
            log("mqtt.disconnected", reason=why, retry_s=round(wait_s, 2))
        self._lost += [row for row, _, _ in self._in_flight.values() if row is not None]
        self._in_flight.clear()
        self._waiting.clear()
        self._requests.clear()
        self._connection, self.connected, self._error = None, False, why

    def _check_time(self, now_s: float) -> None:
        """Give up a connection that neither works nor ends."""
        if self._connection is None:
            return
        if not self.connected:
            if now_s - self._since_s > CONNACK_TIMEOUT_S:
                hint = f"; {OLD_BROKER}" if self._settings.protocol == 5 else ""
                self._drop(f"no answer from {self._settings.host}:{self._settings.port}{hint}", now_s)
        elif self._in_flight:
            _, _, oldest_s = next(iter(self._in_flight.values()))
            if now_s - oldest_s > self._ack_timeout_s:
                self._drop("the broker does not acknowledge what it gets", now_s)

    # publications

    def _publish(self, publication: Publication, row_id: int | None) -> None:
        mid = None if self._connection is None else self._connection.publish(publication)
        if mid is not None:
            self._in_flight[mid] = (row_id, publication.topic, self._now_s)
        elif row_id is not None:
            self._lost.append(row_id)  # the connection is ending; its Down is on the way

    def _publish_waiting(self) -> None:
        window = min(MAX_IN_FLIGHT, self._limits.receive_maximum)
        while self._waiting and len(self._in_flight) < window:
            self._publish(self._waiting.popleft(), None)

    def _acknowledge(self, acked: Acked) -> None:
        row_id, topic, _ = self._in_flight.pop(acked.mid, (None, "", 0.0))
        if acked.refused and row_id is not None:
            self._refuse(row_id, acked.refused)
        elif acked.refused:
            self._error = f"{topic or self._root}: {acked.refused}"
            self._log.error("mqtt.refused", topic=topic, reason=acked.refused)
        elif row_id is not None and acked.unheard and self._settings.wait_for_consumer:
            self._refuse(row_id, "nobody is subscribed, and the broker would drop it")
        elif row_id is not None:
            self._delivered.append(row_id)
            self._refusal = ""
            self._hear(acked.unheard)

    def _hear(self, unheard: bool) -> None:
        """Say once when results begin to reach nobody, and once when somebody listens again."""
        if unheard and not self._unheard:
            self._log.warning(
                "mqtt.nobody_listens",
                topic=f"{self._root}/result",
                hint="subscribe the consumer; with a persistent session the broker keeps what it misses",
            )
        elif self._unheard and not unheard:
            self._log.info("mqtt.somebody_listens", topic=f"{self._root}/result")
        self._unheard = unheard

    def _refuse(self, row_id: int, reason: str) -> None:
        self._refusal = f"{self._root}/result: {reason}"
        self._refused.append((row_id, reason))

    def _describe(self, now_s: float) -> None:
        """Publish info and state where they say something new, which a reload does to info as well."""
        if now_s < self._describe_due_s:
            return
        self._describe_due_s = now_s + DESCRIBE_EVERY_S
        for name, describe in (("info", self._info), ("state", self._state)):
            try:
                body = _json(describe())
            except Exception:  # whatever it is, it is in the log, and must not hold up verdicts
                self._log.exception("mqtt.describe", topic=name)
                continue
            if body != self._said.get(name):
                self._said[name] = body
                self._waiting.append(Publication(f"{self._root}/{name}", body, retain=True))

    # requests

    def _answer_requests(self) -> None:
        while self._requests and len(self._waiting) < MAX_RESPONSES:
            request = self._requests.popleft()
            name = request.topic.removeprefix(f"{self._root}/request/")
            topic, body = self._response_topic(request, name), self._call(name, request.body)
            self._waiting.append(Publication(topic, body, correlation=request.correlation))

    def _call(self, name: str, body: bytes) -> bytes:
        if self._handle is None or len(body) > MAX_REQUEST_BYTES:
            return _json({"ok": False, "error": f"more than {MAX_REQUEST_BYTES} bytes"})
        try:
            return _json(self._handle(name, body))
        except EdgeError as error:
            return _json({"ok": False, "error": error.message, "hint": error.hint})
        except Exception:  # a request must not be able to stop verdicts
            self._log.exception("mqtt.request", request=name)
            return _json({"ok": False, "error": "internal error, see the log"})

    def _response_topic(self, request: Request, name: str) -> str:
        """Where the asker wants the answer, unless it could be taken for something else that we publish."""
        own = f"{self._root}/response/"
        topic = request.response_topic
        if topic and (topic.startswith(own) or not topic.startswith(f"{self._root}/")):
            return topic
        return own + name


def _without_a_word(why: str) -> bool:
    """Whether the broker hung up: TLS gives its reasons."""
    return "connection lost" in why and "SSL" not in why


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
