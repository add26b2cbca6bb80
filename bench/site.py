"""A site in a temporary folder: configuration, real broker, a consumer, and `edge run` as its own process."""

from __future__ import annotations

import http.client
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bench.context import FailedError, environment, require, wait
from tests.brokers import Mosquitto, free_port

STATION = "bench"
READY_WITHIN_S = 120.0
STOP_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with `engines/`, `calibration/`, `incoming/` and a config.toml."""

    folder: Path
    http_port: int
    mqtt_port: int

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def incoming(self) -> Path:
        return self.folder / "incoming"

    def configure(
        self, recipe: str, *, source: Mapping[str, Any] | None = None, views: Sequence[str] = (),
        part_timeout_s: float = 60, runtime: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Write config.toml: one source, one recipe, everything else as shipped."""
        keys = {"name": "scanner", "directory": "incoming", "recipe": recipe} | dict(source or {})
        tables = {
            "station": {"name": STATION},
            "[source]": keys,
            f"recipe.{recipe}": {"views": list(views), "part_timeout_s": part_timeout_s},
            "runtime": dict(runtime or {}),
            "mqtt": {"port": self.mqtt_port},
            "http": {"listen": f"127.0.0.1:{self.http_port}"},
        }
        lines = ["schema_version = 1"]
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        self.incoming.mkdir(parents=True, exist_ok=True)
        self.config.write_text("\n".join(lines) + "\n")

    def files(self) -> list[dict[str, Any]]:
        """Every stored frame verdict's payload, with when it was stored (`stored_unix_s`)."""
        database = sqlite3.connect(f"file:{self.folder}/var/edge.sqlite3?mode=ro", uri=True)
        try:
            rows = database.execute(
                "SELECT v.payload, f.recorded_unix_s FROM verdicts v JOIN files f "
                "ON f.source = v.source AND f.path = v.path WHERE v.type = 'frame'"
            ).fetchall()
        finally:
            database.close()
        return [json.loads(payload) | {"stored_unix_s": stored} for payload, stored in rows]


class Consumer:
    """What the plant's MES would be: a persistent session with QoS 1 on all verdicts."""

    def __init__(self, port: int) -> None:
        self.verdicts: list[tuple[float, dict[str, Any]]] = []  # when it came (monotonic), and what
        self.subscriptions = 0
        self._client = Client(
            CallbackAPIVersion.VERSION2, "bench-consumer", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(f"edge/{STATION}/result/#", qos=1)
        self._client.on_subscribe = self._count
        self._client.on_message = self._take
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=properties)
        self._client.loop_start()
        wait(lambda: self.subscriptions, "the consumer is subscribed", 10)

    def frames(self) -> list[dict[str, Any]]:
        return [verdict for _, verdict in list(self.verdicts) if verdict["resultType"] == "frame"]

    def parts(self) -> list[dict[str, Any]]:
        return [verdict for _, verdict in list(self.verdicts) if verdict["resultType"] == "part"]

    def copies(self) -> Mapping[str, list[str]]:
        """The resultIds that came for each frame's path, in order."""
        found: dict[str, list[str]] = defaultdict(list)
        for verdict in self.frames():
            found[verdict["image"]["path"]].append(verdict["resultId"])
        return found

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self.verdicts.append((time.monotonic(), json.loads(message.payload)))

    def _count(self, *_: object) -> None:
        self.subscriptions += 1


class Daemon:
    """`edge run` as a process of its own."""

    def __init__(self, site: Site, command: Sequence[str] = (sys.executable, "-m", "edge"),
                 env: Mapping[str, str] | None = None) -> None:  # fmt: skip
        self.site = site
        self.started_s = time.monotonic()
        with (site.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "run", "--config", str(site.config)],
                cwd=site.folder, stdout=log, stderr=log, env=dict(environment() if env is None else env),
            )  # fmt: skip

    def ready(self) -> float:
        """Wait for /readyz; gives the seconds since the process was started."""
        wait(self._is_ready, "the daemon is ready", READY_WITHIN_S)
        return time.monotonic() - self.started_s

    def get(self, path: str) -> tuple[int, str]:
        """(status, body); status 0 while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.site.http_port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """The exposition, series → value."""
        lines = (line.rpartition(" ") for line in self.get("/metrics")[1].splitlines() if line[:1] != "#")
        return {series: float(value) for series, _, value in lines}

    def judged(self) -> int:
        """Frames with a stored verdict since the start."""
        return round(sum(n for series, n in self.metrics().items() if series.startswith("edge_frames_total")))

    def stop(self) -> float:
        """SIGTERM; gives the seconds it took."""
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_WITHIN_S)
        if code:
            raise FailedError(f"the daemon ended with exit code {code}\n{self._log_end()}")
        return time.monotonic() - began_s

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise FailedError(f"the daemon ended by itself: {self.process.returncode}\n{self._log_end()}")
        return self.get("/readyz")[0] == 200

    def _log_end(self) -> str:
        return (self.site.folder / "daemon.log").read_text(errors="replace")[-3000:]


@contextmanager
def running(site: Site, **how: Any) -> Iterator[Daemon]:
    """While inside, the daemon runs; on the way out it is stopped, in order or not."""
    daemon = Daemon(site, **how)
    try:
        yield daemon
        if daemon.process.poll() is None:
            daemon.stop()
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait(10)


@contextmanager
def site_with_broker(folder: Path, *broker_lines: str) -> Iterator[tuple[Site, Mosquitto, Consumer]]:
    """A site, Debian's Mosquitto with persistence, and a consumer that is subscribed."""
    require("mosquitto", "mosquitto")
    broker = Mosquitto(folder / "broker")
    with (folder / "broker/mosquitto.conf").open("a") as configuration:
        configuration.writelines(f"{line}\n" for line in broker_lines)
    broker.start()
    try:
        consumer = Consumer(broker.port)
        try:
            yield Site(folder, free_port(), broker.port), broker, consumer
        finally:
            consumer.close()
    finally:
        broker.stop()


def unix_s(creation_time: str) -> float:
    """A verdict's creationTime in seconds since 1970."""
    return datetime.fromisoformat(creation_time).timestamp()
