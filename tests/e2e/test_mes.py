"""An MES, the simulated one and the example, on a real broker behind a real daemon."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import jsonschema
import pytest
import yaml
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge.publish.schema import asyncapi, document
from tests.brokers import until
from tests.e2e.conftest import Site
from tests.e2e.test_run import arrive

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def addresses() -> list[str]:
    """Of the AsyncAPI document's channels, as regular expressions."""
    channels = yaml.safe_load(asyncapi())["channels"].values()
    return [re.sub(r"\{\w+\}", "[^/]+", channel["address"]) for channel in channels]


def asked(site: Site, name: str) -> bool:
    """Ask again until there is an answer: a daemon that is not subscribed yet hears nothing."""
    site.subscriber.publish(f"edge/st/request/{name}", b"")
    with suppress(AssertionError):
        until(lambda: site.subscriber.bodies(f"response/{name}"), "an answer", 2)
    return bool(site.subscriber.bodies(f"response/{name}"))


def test_the_simulated_mes_finds_nothing_wrong_with_the_daemon(site: Site) -> None:
    daemon = site.start()
    command = [sys.executable, "-m", "edge", "simulate", "mes", "--config", str(site.folder / "config.toml")]
    mes = subprocess.Popen(
        [*command, "--frames", "6", "--seconds", "60", "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        until(lambda: "edge-mes-" in site.broker_log(), "it is connected")
        for number in range(3):
            for view in ("01", "02"):
                arrive(site, f"B1/P{number}_{view}.png", defect=number == 1, seed=number)
        said, _ = mes.communicate(timeout=90)
    finally:
        mes.kill()
        mes.wait(10)
    found = json.loads(said)
    assert found["problems"] == []
    assert (mes.returncode, found["ok"]) == (0, True)
    assert found["messages"]["result/frame"] >= 6
    assert found["evaluations"]["frame NotOK"] == 2
    daemon.stop()


@pytest.mark.parametrize(
    ("words", "name", "clean"), [((), "edge-mes-", 1), (("--session", "mes-7"), "mes-7", 0)]
)
def test_it_leaves_a_session_behind_only_where_one_is_named(
    site: Site, words: tuple[str, ...], name: str, clean: int
) -> None:
    """A session that nobody comes back to would take what `mqtt.wait_for_consumer` keeps for the real MES."""
    command = [sys.executable, "-m", "edge", "simulate", "mes", "--config", str(site.folder / "config.toml")]
    subprocess.run([*command, "--seconds", "0.5", *words], capture_output=True, timeout=60, check=False)
    came = re.search(rf"as ({name}\w*) \(p5, c(\d)", site.broker_log())
    assert came is not None
    assert int(came[2]) == clean
    # a client that comes again says whether the broker kept a session for it
    seen: list[bool] = []
    again = Client(CallbackAPIVersion.VERSION2, came[1], protocol=MQTTProtocolVersion.MQTTv5)
    again.on_connect = lambda _c, _u, flags, _r, _p: seen.append(flags.session_present)
    again.connect("127.0.0.1", site.broker.port, clean_start=False)
    again.loop_start()
    until(lambda: seen, "connected again")
    again.disconnect()
    again.loop_stop()
    assert seen == [not clean]


def test_it_says_what_it_cannot_reach(site: Site) -> None:
    site.broker.stop()
    done = subprocess.run(
        [sys.executable, "-m", "edge", "simulate", "mes", "--config", str(site.folder / "config.toml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 69
    assert "cannot connect" in done.stderr
    assert "Traceback" not in done.stderr


def test_whatever_is_published_is_as_its_schema_says(site: Site) -> None:
    daemon = site.start()
    arrive(site, "B1/P1_01.png")
    arrive(site, "B1/P1_02.png", defect=True, seed=1)
    until(lambda: site.subscriber.bodies("result/part"), "a part")
    for name in ("status", "nonsense"):
        until(partial(asked, site, name), f"an answer to {name}")
    schemas = {
        "info": "info-1", "state": "state-1", "response/status": "response-1",
        "response/nonsense": "response-1", "result/frame": "verdict-1", "result/part": "verdict-1",
    }  # fmt: skip
    for topic, schema in schemas.items():
        bodies = site.subscriber.bodies(topic)
        assert bodies, topic
        for body in bodies:
            jsonschema.validate(json.loads(body), document(schema))
    for topic in (*schemas, "available", "request/status"):
        assert any(re.fullmatch(address, f"edge/st/{topic}") for address in addresses()), topic
    seen = {message.topic.removeprefix("edge/st/") for message in list(site.subscriber.messages)}
    assert {topic for topic in seen if not topic.startswith("request/")} == {*schemas, "available"}
    daemon.stop()


def test_the_example_stores_each_part_once_and_misses_none_while_it_is_away(site: Site) -> None:
    command = [sys.executable, str(ROOT / "examples/mes_subscriber.py"), "127.0.0.1", str(site.broker.port)]
    folder = site.folder / "consumer"
    folder.mkdir()
    first = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        daemon = site.start()
        until(lambda: "mes-1" in site.broker_log(), "it is connected")
        arrive(site, "B1/P1_01.png")
        arrive(site, "B1/P1_02.png")
        assert first.stdout is not None
        assert first.stdout.readline().split()[1:] == ["P1", "OK"]
    finally:
        first.kill()
        first.wait(10)
        first.stdout.close()
    arrive(site, "B1/P2_01.png", defect=True, seed=1)
    arrive(site, "B1/P2_02.png")
    until(lambda: daemon.status()["verdicts"]["part"].get("NotOK") == 1, "judged while it is away")
    again = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert again.stdout is not None
        assert again.stdout.readline().split()[1:] == ["P2", "NotOK"]
    finally:
        again.kill()
        again.wait(10)
        again.stdout.close()
    daemon.stop()
