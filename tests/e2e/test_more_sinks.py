"""Every configured sink gets every verdict, whatever dies: a webhook, files and MQTT at once."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import until
from tests.e2e.conftest import Site
from tests.e2e.test_run import arrive
from tests.publish.rigs import HttpServer
from tests.sites import DaemonProcess

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]


def configure(site: Site, server: HttpServer) -> None:
    file = site.configure()
    file.write_text(
        file.read_text()
        + f"""
[[sink]]
name = "hook"
type = "webhook"
url = "http://127.0.0.1:{server.port}/verdicts"
fields = ["partId", "view", "score", "image.path"]
[[sink]]
name = "log"
type = "file"
directory = "out"
kinds = ["frame"]
"""
    )


def lines(folder: Path) -> list[str]:
    text = "".join(file.read_text() for file in sorted(folder.glob("*.jsonl")))
    return [json.loads(line)["resultId"] for line in text.splitlines()]


def last_reload(daemon: DaemonProcess) -> dict[str, Any]:
    """What became of it; nothing while the daemon changes over and does not answer."""
    code, body = daemon.get("/api/v1/status")
    return (json.loads(body)["lastReload"] or {}) if code else {}


def distinct(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))


def test_each_sink_gets_each_verdict_in_order_over_kills_and_outages(site: Site) -> None:
    server = HttpServer()
    try:
        configure(site, server)
        daemon = site.start()
        for number in range(4):
            arrive(site, f"B1/P{number}_01.png", seed=number)
        until(lambda: len(server.received) >= 2, "some arrived")
        daemon.kill()
        server.stop()
        daemon = site.start()  # without the webhook's server
        for number in range(4, 8):
            arrive(site, f"B1/P{number}_01.png", seed=number)
        until(lambda: len(distinct(lines(site.folder / "out"))) == 8, "the file has all")
        until(lambda: daemon.status()["outbox"]["hook"]["depth"] > 0, "the webhook waits")
        assert not daemon.status()["outbox"]["hook"]["connected"]
        server.start()
        until(lambda: daemon.status()["outbox"]["hook"]["depth"] == 0, "the webhook got the rest", 90)
        until(lambda: daemon.status()["verdicts"]["part"].get("NotDecidable", 0) == 8, "parts are closed")
        until(lambda: daemon.status()["outbox"]["hook"]["depth"] == 0, "the webhook got parts too", 90)
        assert daemon.stop()[0] == 0
        frames = [body["resultId"] for body in server.received if body["resultType"] == "frame"]
        on_mqtt = distinct(site.subscriber.result_ids())
        assert distinct(frames) == distinct(lines(site.folder / "out")) == on_mqtt
        assert len(on_mqtt) == 8
        assert sum(body["resultType"] == "part" for body in server.received) >= 8
        body = server.received[0]
        assert "statistics" not in body
        assert set(body["image"]) == {"path"}
    finally:
        server.stop()


def test_a_reload_takes_over_another_address(site: Site) -> None:
    first, second = HttpServer(), HttpServer()
    try:
        configure(site, first)
        daemon = site.start()
        arrive(site, "B1/P1_01.png")
        until(lambda: first.received, "the first address")
        file = site.folder / "config.toml"
        file.write_text(file.read_text().replace(f":{first.port}/", f":{second.port}/"))
        daemon.signal(signal.SIGHUP)
        until(lambda: last_reload(daemon).get("ok"), "taken over")
        arrive(site, "B1/P2_01.png", seed=2)
        until(lambda: "P2" in {body["partId"] for body in second.received}, "the second address")
        assert "P2" not in {body["partId"] for body in first.received}
        file.write_text(file.read_text().replace('name = "log"', 'name = "another"'))
        daemon.signal(signal.SIGHUP)
        until(lambda: last_reload(daemon).get("ok") is False, "refused: who waits cannot change")
        assert "sinks" in last_reload(daemon)["error"]
        assert daemon.stop()[0] == 0
    finally:
        first.stop()
        second.stop()
