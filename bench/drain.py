"""How fast an outbox drains after a long outage: 100,000 verdicts into Mosquitto, memory watched.

    python -m bench.drain [--verdicts 100000] [--away 10] [--protocol 5] [--recording]

Not one of `python -m bench`: it needs no frames, no model and no daemon, only the parts that deliver. Three
processes beside the broker: the consumer (a persistent session, QoS 1), the delivery (store, sink, outbox as
the daemon wires them), and this one, which watches. Then the same bodies by bare paho, without a database:
the ceiling that Python and this broker allow.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import psutil
import structlog
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bench import machine
from bench.section import table
from edge.config import Mqtt
from edge.publish import MAX_IN_FLIGHT
from edge.publish.mqtt import MqttSink
from edge.publish.outbox import Delivery
from edge.publish.payload import encode, frame_payload
from edge.publish.schema import verdict_schema
from edge.record.store import Store
from edge.types import KINDS, Defect, Identity, ImageInfo, Judgement, ModelInfo, Score, Verdict
from tests.brokers import Mosquitto

STATISTICS = ("mse", "max", "std", "sum", "min")
TIMES = ("settle_s", "queue_s", "decode_s", "preprocess_s", "infer_s", "total_s")
SINK, OTHER_SINK, STATION = "mqtt", "other", "drain"
TOPIC = f"edge/{STATION}/result/frame"
NO_MAP = np.zeros((1, 1), np.float32)  # it does not go on the wire
FILL_ROWS = 1000  # verdicts a transaction while filling
LOOK_EVERY_S = 0.1
RECORD_EVERY_S = 0.02
WARM_UP_S = 2.0  # of the delivering process, before its memory counts
PATIENCE_S = 600.0
AIM_PER_S = 2000.0
MOST_GROWTH_MB = 20.0
EXIT_BROKEN = 1
# A consumer's queue holds 1,000 messages unless told otherwise; Mosquitto drops the rest without a word.
BROKER = ("max_queued_messages 0",)


def verdict(number: int) -> Verdict:
    """A frame's verdict of the usual size, about 1.5 KB: three defects, all fields filled."""
    result_id, created_unix_s = f"01J{number:023d}", 1795169730.0 + number / 10
    identity = Identity(f"P{number // 24:06d}", f"{number % 24:02d}", f"B{number // 2400:03d}")
    digest = f"{number:064x}"
    payload = frame_payload(
        result_id=result_id,
        created_unix_s=created_unix_s,
        station=STATION,
        recipe="bracket",
        identity=identity,
        image=ImageInfo(f"{identity.batch}/{identity.part}_{identity.view}.dcm", digest, 4248, 2832, 16),
        judgement=Judgement(
            "NotOK",
            ("score_above_threshold",),
            score=1.84,
            threshold_raw=0.0125,
            defects=tuple(Defect("anomaly", 412 + n, 0.0006, (100 * n, 200, 31, 17), 2.1) for n in range(3)),
        ),
        score=Score(0.0231, NO_MAP, dict.fromkeys(STATISTICS, 0.012345), (0, 0, 4, 4), 0.5, 0.1),
        model=ModelInfo("bracket", digest, "openvino", "int8", digest),
        times_s=dict.fromkeys(TIMES, 0.123456),
        evidence=f"2026/11/20/{result_id}",
    )
    return Verdict(result_id, "frame", "bracket", "NotOK", identity, created_unix_s, payload)


def fill(database: Path, verdicts: int) -> int:
    """An outbox with that many rows; gives the mean size of a body in bytes."""
    store, size_bytes = Store(database, {SINK: KINDS}), 0
    jsonschema.validate(verdict(0).payload, verdict_schema())
    for begin in range(0, verdicts, FILL_ROWS):
        with store.transaction():
            for number in range(begin, min(verdicts, begin + FILL_ROWS)):
                one = verdict(number)
                body = encode(one.payload)
                size_bytes += len(body)
                store.add_verdict(one, body)
    store.close()
    return size_bytes // verdicts


# the processes; each says what it has to say as lines of JSON on stdout


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


class Count:
    """The daemon's meter as far as this bench needs it."""

    def __init__(self) -> None:
        self.delivered = self.refused = 0
        self.connected_s: float | None = None

    def outbox_state(self, sink: str, *, depth: int, oldest_s: float, connected: bool) -> None:
        if connected and self.connected_s is None:
            self.connected_s = time.monotonic()

    def outbox_delivered(self, sink: str, count: int) -> None:
        self.delivered += count

    def outbox_refused(self, sink: str, count: int) -> None:
        self.refused += count


class Recording:
    """What the record stage does beside a drain: a transaction every 20 ms, and how long each takes.

    Its verdicts wait for another sink, so that the drain has an end.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._stop = store, threading.Event()
        self._took_s: list[float] = []
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """Milliseconds: median, 99 of 100, most; nothing if it was not started."""
        self._stop.set()
        if not self._thread.is_alive():
            return {}
        self._thread.join()
        took_s = sorted(self._took_s)
        shares = {"median": 0.5, "99 of 100 within": 0.99, "most": 1.0}
        return {name: 1e3 * took_s[int(share * (len(took_s) - 1))] for name, share in shares.items()}

    def _run(self) -> None:
        number = 10**9
        while not self._stop.wait(RECORD_EVERY_S):
            number += 1
            one = verdict(number)
            body = encode(one.payload)
            began_s = time.perf_counter()
            with self._store.transaction():
                self._store.add_verdict(one, body)
            self._took_s.append(time.perf_counter() - began_s)


def deliver(database: Path, port: int, protocol: int, recording: int) -> None:
    """Drain the outbox as the daemon does, until it is empty."""
    store = Store(database, {OTHER_SINK: KINDS})
    meter, wake, stop, recorder = Count(), threading.Event(), threading.Event(), Recording(store)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    log = structlog.get_logger()
    rows = store.depth(SINK)
    sink = MqttSink(
        Mqtt(port=port, protocol=protocol), station=STATION, info=dict, wake=wake, log=log, environ={},
        state=lambda: {"outbox": {SINK: {"depth": store.depth(SINK)}}},
    )  # fmt: skip
    delivery = Delivery(sink, store, wake=wake, meter=meter, log=log)
    loop = threading.Thread(target=delivery.run, args=(stop,))
    loop.start()
    say(waiting=rows)
    while meter.connected_s is None:
        time.sleep(LOOK_EVERY_S)
    if recording:
        recorder.start()
    while meter.delivered < rows or store.oldest_unix_s(SINK) is not None:
        time.sleep(LOOK_EVERY_S)
    seconds, recorded_ms = time.monotonic() - meter.connected_s, recorder.stop()
    stop.set()
    wake.set()
    loop.join()
    delivery.close(5.0)
    say(rows=rows, seconds=seconds, cpu_s=time.process_time(), recorded_ms=recorded_ms)
    store.close()


def bare(database: Path, port: int, protocol: int) -> None:
    """The same bodies by paho alone, as many in flight."""
    store = Store(database)
    bodies = [message.body for message in store.pending(SINK, 0, 2**31)]
    store.close()
    room, properties = threading.Semaphore(MAX_IN_FLIGHT), None
    client = Client(CallbackAPIVersion.VERSION2, "bare", protocol=_version(protocol))
    if protocol == 5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = "application/json"
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.on_publish = lambda *_: room.release()
    client.connect("127.0.0.1", port)
    client.loop_start()
    connected.wait(PATIENCE_S)
    say(waiting=len(bodies))
    began_s = time.monotonic()
    for body in bodies:
        room.acquire()
        info = client.publish(TOPIC, body, qos=1, properties=properties)
        assert info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS
    for _ in range(MAX_IN_FLIGHT):
        room.acquire()
    say(rows=len(bodies), seconds=time.monotonic() - began_s, cpu_s=time.process_time())
    client.disconnect()
    client.loop_stop()


def consume(port: int, expected: int) -> None:
    """Count what arrives until `expected` different results are there; then once more for copies."""
    ids: list[bytes] = []
    times_s: list[float] = []
    begin = len(b'{"schema":"edge/verdict/1","resultId":"')
    subscribed = threading.Event()

    def take(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        ids.append(bytes(message.payload[begin : begin + 26]))
        times_s.append(time.monotonic())

    client = Client(
        CallbackAPIVersion.VERSION2, "mes", clean_session=False, protocol=MQTTProtocolVersion.MQTTv311
    )
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda one, *_: one.subscribe(TOPIC, qos=1) and None
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = take
    client.connect("127.0.0.1", port)
    client.loop_start()
    subscribed.wait(PATIENCE_S)
    say(subscribed=True)
    while len(ids) < expected or len(set(ids)) < expected or time.monotonic() - times_s[-1] < 1.0:
        time.sleep(LOOK_EVERY_S)
    firsts = list(dict.fromkeys(ids))
    say(
        different=len(firsts), copies=len(ids) - len(firsts), in_order=firsts == sorted(firsts),
        seconds=times_s[-1] - times_s[0],
    )  # fmt: skip
    client.disconnect()
    client.loop_stop()


def _version(protocol: int) -> MQTTProtocolVersion:
    return MQTTProtocolVersion.MQTTv5 if protocol == 5 else MQTTProtocolVersion.MQTTv311


# watching them


class Child:
    """A process of this module."""

    def __init__(self, role: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "bench.drain", f"--role={role}", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=machine.ROOT)
        self._memory = psutil.Process(self.process.pid)

    def hear(self) -> dict[str, Any]:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def rss_mb(self) -> float:
        return float(self._memory.memory_info().rss) / 1e6

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Peak:
    """The largest resident size of a child from now until `stop`."""

    def __init__(self, child: Child) -> None:
        self._child, self.mb = child, child.rss_mb()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self.mb = max(self.mb, self._child.rss_mb())
            except psutil.Error:
                return

    def stop(self) -> float:
        self._stop.set()
        self._thread.join()
        return self.mb


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one drain showed."""

    body_bytes: int
    start_mb: float  # after the warm-up, all verdicts waiting, no broker
    away_mb: float  # most while the broker was away
    drain_mb: float  # most while draining
    delivery: dict[str, Any]
    consumer: dict[str, Any]
    bare: dict[str, Any]


@contextmanager
def children() -> Iterator[list[Child]]:
    """Whatever is put in the list is ended with the block."""
    started: list[Child] = []
    try:
        yield started
    finally:
        for child in started:
            child.end()


def measure(folder: Path, verdicts: int, away_s: float, protocol: int, recording: bool) -> Outcome:
    """Fill, wait without a broker, drain, and compare."""
    database = folder / "edge.sqlite3"
    body_bytes = fill(database, verdicts)
    (folder / "copy").mkdir()
    for file in folder.glob("edge.sqlite3*"):
        (folder / "copy" / file.name).write_bytes(file.read_bytes())
    broker = Mosquitto(folder / "broker")
    with (folder / "broker/mosquitto.conf").open("a") as configuration:
        configuration.writelines(f"{line}\n" for line in BROKER)
    broker.start()
    with children() as started:
        try:
            consumer = _consumer(started, broker, verdicts)
            broker.stop()
            delivery = Child("deliver", database, broker.port, protocol, int(recording))
            started.append(delivery)
            delivery.hear()
            time.sleep(WARM_UP_S)
            start_mb, peak = delivery.rss_mb(), Peak(delivery)
            time.sleep(away_s)
            away_mb, peak = peak.stop(), Peak(delivery)
            broker.start()
            drained = delivery.hear()
            drain_mb = peak.stop()
            seen = consumer.hear()
            consumer.process.wait()
            _consumer(started, broker, verdicts)
            alone = Child("bare", folder / "copy" / database.name, broker.port, protocol)
            started.append(alone)
            alone.hear()
            ceiling = alone.hear()
        finally:
            broker.stop()
    return Outcome(body_bytes, start_mb, away_mb, drain_mb, drained, seen, ceiling)


def _consumer(started: list[Child], broker: Mosquitto, verdicts: int) -> Child:
    consumer = Child("consume", broker.port, verdicts)
    started.append(consumer)
    consumer.hear()
    return consumer


def report(outcome: Outcome, protocol: int) -> list[str]:
    """The table."""
    ours, ceiling, seen = outcome.delivery, outcome.bare, outcome.consumer
    rate, bare_rate = ours["rows"] / ours["seconds"], ceiling["rows"] / ceiling["seconds"]
    rows: Sequence[Sequence[object]] = [
        ["verdicts waiting", f"{ours['rows']:,} of {outcome.body_bytes:,} bytes, MQTT {protocol}"],
        ["drained, connected to empty (deletions with synchronous=FULL)",
         f"{rate:,.0f}/s in {ours['seconds']:.1f} s (aim {AIM_PER_S:,.0f}/s)"],
        ["at the consumer (persistent session, QoS 1), first to last",
         f"{seen['different'] / seen['seconds']:,.0f}/s"],
        ["results at the consumer, copies, order of first copies",
         f"{seen['different']:,}, {seen['copies']}, {'kept' if seen['in_order'] else 'BROKEN'}"],
        [f"bare paho, same bodies, {MAX_IN_FLIGHT} in flight, no database",
         f"{bare_rate:,.0f}/s; ours is {rate / bare_rate:.0%} of it"],
        ["CPU of the delivering process a verdict, bare paho's",
         f"{1e6 * ours['cpu_s'] / ours['rows']:.0f} µs, {1e6 * ceiling['cpu_s'] / ceiling['rows']:.0f} µs"],
        ["resident memory: all waiting, most while away, most while draining",
         f"{outcome.start_mb:.1f}, {outcome.away_mb:.1f}, {outcome.drain_mb:.1f} MB"],
    ]  # fmt: skip
    if took_ms := ours["recorded_ms"]:
        figures = ", ".join(f"{name} {value:.1f}" for name, value in took_ms.items())
        rows = [*rows, ["a transaction of the record stage meanwhile, one every 20 ms", f"{figures} ms"]]
    return table(["what", "measured"], rows)


def broken_promises(outcome: Outcome, verdicts: int) -> Iterator[str]:
    """What was promised of a drain and is not so."""
    if outcome.consumer["different"] != verdicts or not outcome.consumer["in_order"]:
        yield "every verdict at the consumer, first copies in order"
    if outcome.delivery["rows"] / outcome.delivery["seconds"] < AIM_PER_S:
        yield f"at least {AIM_PER_S:,.0f} verdicts a second"
    if max(outcome.away_mb, outcome.drain_mb) - outcome.start_mb > MOST_GROWTH_MB:
        yield f"memory that grows by less than {MOST_GROWTH_MB:g} MB"


def main() -> int:
    asked = _parser().parse_args()
    roles: dict[str, Callable[..., None]] = {"deliver": deliver, "bare": bare}
    if asked.role == "consume":
        consume(*map(int, asked.rest))
        return 0
    if asked.role:
        roles[asked.role](Path(asked.rest[0]), *map(int, asked.rest[1:]))
        return 0
    load = machine.OtherLoad()
    with tempfile.TemporaryDirectory(prefix="edge-bench-drain-", dir=asked.folder) as folder:
        outcome = measure(Path(folder), asked.verdicts, asked.away, asked.protocol, asked.recording)
    print("\n".join(report(outcome, asked.protocol)))
    command = (
        f"python -m bench.drain --verdicts {asked.verdicts} --away {asked.away:g} --protocol {asked.protocol}"
        f"{' --recording' if asked.recording else ''}"
    )
    print(
        f"\n*{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {machine.describe()} · commit {machine.commit()} · "
        f"`{command}` · other processes kept {load.cores():.2f} cores busy meanwhile*"
    )
    broken = list(broken_promises(outcome, asked.verdicts))
    print("\n".join(f"BROKEN: {promise}" for promise in broken), end="")
    return EXIT_BROKEN if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.drain", description=__doc__.splitlines()[0])
    parser.add_argument("--verdicts", type=int, default=100_000)
    parser.add_argument("--away", type=float, default=10.0, help="seconds without a broker, memory watched")
    parser.add_argument("--protocol", type=int, choices=(5, 311), default=5)
    parser.add_argument("--recording", action="store_true", help="verdicts are recorded meanwhile")
    parser.add_argument("--folder", type=Path, help="where the temporary site goes [the system's]")
    parser.add_argument("--role", choices=("deliver", "bare", "consume"), help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
