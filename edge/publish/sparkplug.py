"""Verdicts as Sparkplug B (Eclipse, 3.0): an edge node with a device for each recipe.

Sparkplug sends data at QoS 0 (tck-id-payloads-ddata-qos), which nobody acknowledges. So that no verdict is
lost, rows count as delivered only when the broker has answered a later packet of the same connection: the
subscription to NCMD, which a node has anyway, is made again behind them. A broker reads a connection in
order, so that its SUBACK says that it has read them. What it then does with them, a broker does not say at
QoS 0: neither whether an ACL forbids them, nor whether anybody listens.
"""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.artifacts import write_atomic
from edge.errors import EdgeError
from edge.publish import MAX_IN_FLIGHT, Message, Settled
from edge.publish import sparkplug_payload as spb
from edge.publish.backoff import Backoff
from edge.publish.connection import Acked, Connection, Down, Event, Publication, Request, Up
from edge.publish.mqtt import (
    ACK_TIMEOUT_S,
    CONNACK_TIMEOUT_S,
    DESCRIBE_EVERY_S,
    PACKET_OVERHEAD_BYTES,
    RECONNECT_WAIT_S,
    STABLE_AFTER_S,
    Describe,
)
from edge.publish.sparkplug_payload import Metric, Type

if TYPE_CHECKING:
    from edge.config import Mqtt

NAMESPACE = "spBv1.0"
REBIRTH_REST_S = 2.0  # after a birth: hosts that start together all ask for one
MOST_HEARD_BYTES = 65536  # of a command or a state: longer ones make no sense
GOODBYE_S = 5.0  # for NDEATH and DISCONNECT to go out


class BirthCount:
    """bdSeq: one more at each CONNECT, over restarts, so that a host can tell an old death from a new one."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def next(self) -> int:
        """The number of the next connection, which is on disk before it is used.

        Raises:
            EdgeError, OSError: it cannot be kept.
        """
        last = spb.SEQ_VALUES - 1
        with suppress(FileNotFoundError, ValueError):  # what is no number was not written by us
            last = int(self._file.read_text())
        number = (last + 1) % spb.SEQ_VALUES
        write_atomic(self._file, f"{number}\n".encode())
        return number


class SparkplugSink:
    """A `Sink`; connected once its births are out, for which a primary host, if there is one, is online.

    `info` is what `edge.app.describe` gives: births say it, and are made again when it changes. `select`
    leaves out what is not to be sent of a verdict. The verdicts of before a connection's birth are flagged
    historical: they were made while the broker or the primary host was away.
    """

    def __init__(
        self,
        broker: Mqtt,
        *,
        group: str,
        node: str,
        primary_host: str | None,
        info: Describe,
        select: Callable[[Message], Message] = lambda message: message,
        count: BirthCount,
        wake: threading.Event,
        log: Any,
        environ: Mapping[str, str],
        name: str = "sparkplug",
        ack_timeout_s: float = ACK_TIMEOUT_S,
        rebirth_rest_s: float = REBIRTH_REST_S,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name, self.connected = name, False
        self._broker, self._group, self._node = broker, group, node
        self._commands = f"{NAMESPACE}/{group}/NCMD/{node}"
        self._state = None if primary_host is None else f"{NAMESPACE}/STATE/{primary_host}"
        self._info, self._select, self._count = info, select, count
        self._wake, self._log, self._environ = wake, log, environ
        self._ack_timeout_s, self._rest_s = ack_timeout_s, rebirth_rest_s
        self._clock, self._unix_clock = clock, unix_clock
        self._backoff = Backoff(*RECONNECT_WAIT_S, jitter)
        self._next_attempt_s = self._since_s = self._left_s = self._now_s = float("-inf")
        self._error = self._refusal = self._leaving = ""  # `_leaving`: why, once NDEATH is out
        self._connection: Connection | None = None
        self._limits: Up | None = None  # None until the broker accepts us
        self._asked: dict[int, float] = {}  # mids of subscriptions before the birth: since when
        self._host_online, self._host_unix_ms = False, float("-inf")
        self._bd_seq = self._seq = 0
        self._devices: set[str] = set()  # that are born
        self._last: dict[str, dict[str, tuple[Metric, ...]]] = {}  # by device and kind: the last verdict
        self._said: Mapping[str, Any] = {}  # the info of the last birth
        self._born_unix_ms = 0  # the first birth of this connection
        self._birth_s = self._describe_due_s = float("-inf")
        self._rebirth_asked = False
        self._sent: list[int] = []  # rows with no proof under way
        self._proofs: dict[int, tuple[list[int], float]] = {}  # mid: the rows it proves, and since when
        self._death: int | None = None  # mid of NDEATH
        self._delivered: list[int] = []
        self._refused: list[tuple[int, str]] = []
        self._lost: list[int] = []
        self._closed = False

    @property
    def last_error(self) -> str:
        return self._error or self._refusal

    def step(self, now_s: float) -> None:
        """Take what the network brought, connect when due, give birth, have what was sent proved."""
        self._now_s = now_s
        while self._connection is not None and (event := self._event()) is not None:
            self._take(event, now_s)
        self._check_time(now_s)
        if self._connection is None and not self._closed and now_s >= self._next_attempt_s:
            self._open(now_s)
        self._bear(now_s)
        if self.connected:
            self._prove()

    def capacity(self) -> int:
        if not self.connected or self._refused:  # what follows a refused row must not overtake it
            return 0
        return MAX_IN_FLIGHT - len(self._in_flight())

    def send(self, message: Message) -> None:
        assert self._limits is not None, "only when there is capacity"
        now_ms = self._unix_ms()
        try:
            whole = json.loads(message.body)
            device, made_ms = whole["recipeId"], spb.created_unix_ms(whole, now_ms)
            historical = whole.get("isHistorical") is True or made_ms < self._born_unix_ms
            body = self._select(message).body
            metrics = spb.verdict_metrics(message.kind, body, made_ms, historical=historical)
            if device not in self._devices:  # of a recipe that is configured no more
                self._bear_device(device, {}, now_ms)
            payload = spb.encode(metrics, now_ms, self._seq)
        except (ValueError, KeyError, TypeError) as error:
            self._refuse(message.row_id, f"no verdict: {error!r}")
            return
        if len(payload) > self._limits.maximum_packet_bytes - PACKET_OVERHEAD_BYTES:
            self._refuse(message.row_id, f"{len(payload)} bytes are more than the broker takes")
            return
        self._last.setdefault(device, {})[message.kind] = metrics
        if self._publish("DDATA", payload, device) is None:
            self._lost.append(message.row_id)  # the connection is ending; its Down is on the way
        else:
            self._sent.append(message.row_id)

    def settled(self) -> Settled:
        settled = Settled(tuple(self._delivered), tuple(self._refused), tuple(self._lost))
        self._delivered, self._refused, self._lost = [], [], []
        return settled

    def close(self, timeout_s: float) -> None:
        """Have what was sent proved, publish NDEATH, wait for its acknowledgement, then disconnect."""
        self._closed = True
        deadline_s = self._clock() + timeout_s
        if self.connected:
            self._prove()
            self._wait_while(lambda: self.connected and bool(self._proofs), deadline_s)
        if self._limits is not None and not self._leaving:
            self._die()
            self._wait_while(lambda: self._death is not None, deadline_s)
            if self._connection is not None:
                self._connection.disconnect()
        self._wait_while(lambda: self._limits is not None, deadline_s)
        self._drop("closed", self._clock())
        self._error = ""

    def _wait_while(self, condition: Callable[[], bool], deadline_s: float) -> None:
        while condition() and (left_s := deadline_s - self._clock()) > 0:
            if (event := self._event(left_s)) is None:
                return
            self._take(event, self._clock())

    def _event(self, timeout_s: float = 0.0) -> Event | None:
        if self._connection is None:
            return None
        try:
            return self._connection.events.get(block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    # the connection's life

    def _open(self, now_s: float) -> None:
        self._since_s = now_s
        try:
            self._bd_seq = self._count.next()
        except (EdgeError, OSError) as error:
            self._fail(f"bdSeq cannot be kept: {error}", now_s)
            return
        self._connection = Connection(
            self._broker,
            client_id=f"edge-{NAMESPACE}-{self._group}-{self._node}",
            will=self._death_certificate(),
            environ=self._environ,
            wake=self._wake,
            content_type="",
        )
        self._connection.open()

    def _take(self, event: Event, now_s: float) -> None:
        match event:
            case Up():
                self._came_up(event, now_s)
            case Acked():
                self._acknowledge(event, now_s)
            case Request() if len(event.body) > MOST_HEARD_BYTES:
                self._log.warning("sparkplug.too_long", topic=event.topic, bytes=len(event.body))
            case Request() if event.topic == self._state:
                self._hear_host(event.body, now_s)
            case Request() if event.topic == self._commands and not event.retained:
                self._rebirth_asked |= spb.wants_rebirth(event.body)
            case Down(why):
                self._drop(self._leaving or why, now_s)

    def _came_up(self, limits: Up, now_s: float) -> None:
        self._limits, self._since_s = limits, now_s
        # commands before births (tck-id-message-flow-edge-node-ncmd-subscribe); of the host's states those of
        # this connection count: the broker begins with the last one
        self._host_online, self._host_unix_ms = self._state is None, float("-inf")
        for topic in (self._commands, self._state):
            if topic is not None and self._connection is not None:
                mid = self._connection.subscribe(topic)
                if mid is not None:
                    self._asked[mid] = now_s
        self._error = "" if self._host_online else f"no word of the primary host on {self._state}"

    def _acknowledge(self, acked: Acked, now_s: float) -> None:
        if acked.mid == self._death:
            self._death = None
        rows, _ = self._proofs.pop(acked.mid, ([], 0.0))
        subscription = self._asked.pop(acked.mid, None) is not None or bool(rows)
        if rows:
            self._delivered += rows
            self._refusal = ""
        if acked.refused and subscription:
            self._leave(f"{self._commands}, or the host's state: {acked.refused}", now_s)

    def _hear_host(self, body: bytes, now_s: float) -> None:
        """tck-id-message-flow-edge-node-birth-publish-phid-wait-timestamp, -phid-offline."""
        try:
            state = json.loads(body)
            online, unix_ms = state["online"] is True, float(state["timestamp"])
        except (ValueError, TypeError, KeyError):
            self._log.warning(
                "sparkplug.no_state", topic=self._state, hint="not a STATE of Sparkplug 3.0: JSON with online"
            )
            return
        if unix_ms < self._host_unix_ms:
            return  # such as a will of a session before
        self._host_online, self._host_unix_ms = online, unix_ms
        away = "" if online else f"the primary host is offline, says {self._state}"
        if away and self.connected:
            self._leave(away, now_s)
        else:
            self._error = away

    def _leave(self, why: str, now_s: float) -> None:
        """NDEATH, DISCONNECT; `Down` follows."""
        self._die()
        if self._connection is not None:
            self._connection.disconnect()
        self._leaving, self._left_s = why, now_s

    def _die(self) -> None:
        self.connected = False
        if self._connection is not None:
            self._death = self._connection.publish(self._death_certificate())

    def _drop(self, why: str, now_s: float) -> None:
        """Forget this connection; rows without proof are lost, its late events are never looked at."""
        if self._connection is None:
            return
        self._connection.abandon()
        self._lost += self._in_flight()
        self._sent, self._proofs, self._asked, self._devices = [], {}, {}, set()
        if self._limits is not None and now_s - self._since_s >= STABLE_AFTER_S:
            self._backoff.reset()
        self._connection, self._limits, self.connected = None, None, False
        self._rebirth_asked, self._leaving, self._death = False, "", None
        self._fail(why, now_s)

    def _fail(self, why: str, now_s: float) -> None:
        wait_s = self._backoff.wait_s()
        self._next_attempt_s = now_s + wait_s
        if not self._closed and why != self._error:
            self._log.warning("sparkplug.disconnected", reason=why, retry_s=round(wait_s, 2))
        self._error = why

    def _check_time(self, now_s: float) -> None:
        """Give up a connection that neither works nor ends."""
        if self._connection is None:
            return
        asked = [*self._asked.values(), *(since_s for _, since_s in self._proofs.values())]
        if self._leaving and now_s - self._left_s > GOODBYE_S:
            self._drop(self._leaving, now_s)
        elif self._limits is None and now_s - self._since_s > CONNACK_TIMEOUT_S:
            self._drop(f"no answer from {self._broker.host}:{self._broker.port}", now_s)
        elif asked and now_s - min(asked) > self._ack_timeout_s:
            self._drop("the broker does not acknowledge what it gets", now_s)

    # births

    def _bear(self, now_s: float) -> None:
        """Births: the first, when commands can come and the host is there; again when asked or changed."""
        if self._limits is None or self._leaving or self._asked or not self._host_online or self._closed:
            return
        first = not self.connected
        if not first and now_s < self._describe_due_s and not self._rebirth_asked:
            return
        try:
            info = self._info()
        except Exception:  # whatever it is, it is in the log, and must not hold up verdicts
            self._log.exception("sparkplug.describe")
            info = self._said
        self._describe_due_s = now_s + DESCRIBE_EVERY_S
        asked = self._rebirth_asked and now_s - self._birth_s >= self._rest_s
        if not (first or asked or info != self._said):
            return
        now_ms = self._unix_ms()
        if first:
            self._born_unix_ms, self._error = now_ms, ""
        self._said, self._birth_s, self._rebirth_asked = info, now_s, False
        self._bear_all(info, now_ms)
        self.connected = True
        self._log.info(
            "sparkplug.born", topics=f"{NAMESPACE}/{self._group}/+/{self._node}", bdSeq=self._bd_seq
        )

    def _bear_all(self, info: Mapping[str, Any], now_ms: int) -> None:
        recipes: Mapping[str, Mapping[str, Any]] = info.get("recipes", {})
        for gone in sorted(self._devices - recipes.keys()):
            self._announce("DDEATH", (), gone)
        self._devices = set()
        self._seq = 0
        node = [
            Metric(spb.BD_SEQ, Type.INT64, self._bd_seq, now_ms),
            Metric(spb.REBIRTH, Type.BOOLEAN, False, now_ms),
        ]
        for key in ("version", "station", "configSha256"):
            node.append(Metric(f"Properties/{key}", Type.STRING, info.get(key), now_ms))
        self._announce("NBIRTH", node)
        for device, model in sorted(recipes.items()):
            self._bear_device(device, model, now_ms)

    def _bear_device(self, device: str, model: Mapping[str, Any], now_ms: int) -> None:
        """All that will ever come of a recipe, with its last verdict if there was one."""
        metrics = [
            Metric(f"Properties/{key}", Type.STRING, model.get(key), now_ms)
            for key in ("bundle", "bundleSha256", "calibrationSha256", "runtime", "precision")
        ]
        for kind in spb.METRICS:
            last = self._last.get(device, {}).get(kind) or spb.no_verdict_yet(kind, now_ms)
            metrics += [replace(metric, historical=False) for metric in last]
        self._devices.add(device)
        self._announce("DBIRTH", metrics, device)

    def _death_certificate(self) -> Publication:
        """The will, and the goodbye: no seq, QoS 1 (tck-id-payloads-ndeath-…)."""
        now_ms = self._unix_ms()
        body = spb.encode([Metric(spb.BD_SEQ, Type.INT64, self._bd_seq, now_ms)], now_ms, None, birth=True)
        return Publication(f"{NAMESPACE}/{self._group}/NDEATH/{self._node}", body)

    # data

    def _announce(self, verb: str, metrics: Iterable[Metric], device: str = "") -> None:
        payload = spb.encode(metrics, self._unix_ms(), self._seq, birth=verb.endswith("BIRTH"))
        self._publish(verb, payload, device)

    def _publish(self, verb: str, payload: bytes, device: str) -> int | None:
        """A payload with the sequence number that is due."""
        self._seq = (self._seq + 1) % spb.SEQ_VALUES
        topic = f"{NAMESPACE}/{self._group}/{verb}/{self._node}" + (f"/{device}" if device else "")
        publication = Publication(topic, payload, qos=0)
        return None if self._connection is None else self._connection.publish(publication)

    def _prove(self) -> None:
        """Ask for a SUBACK behind what was sent."""
        if not self._sent or self._connection is None:
            return
        mid = self._connection.subscribe(self._commands)
        if mid is not None:  # else the connection is ending; its Down is on the way
            self._proofs[mid] = (self._sent, self._now_s)
            self._sent = []

    def _in_flight(self) -> list[int]:
        return [row for rows, _ in self._proofs.values() for row in rows] + self._sent

    def _refuse(self, row_id: int, reason: str) -> None:
        self._refusal = f"{NAMESPACE}/{self._group}: {reason}"
        self._refused.append((row_id, reason))

    def _unix_ms(self) -> int:
        return round(self._unix_clock() * 1000)
