"""The daemon as a Sparkplug edge node, with a host that is not ours."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.brokers import until
from tests.e2e.conftest import Site
from tests.e2e.test_run import arrive
from tests.publish.sparkplug_consumer import GROUP, Host

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]


@pytest.fixture
def host(site: Site) -> Iterator[Host]:
    file = site.configure()
    file.write_text(
        file.read_text() + f'[sparkplug]\nenabled = true\ngroup_id = "{GROUP}"\nprimary_host_id = "scada"\n'
    )
    host = Host(site.broker.port)
    yield host
    host.close()


def results(host: Host, kind: str) -> list[str]:
    found = [message["values"].get(f"{kind}/resultId") for message in host.of("DDATA")]
    return list(dict.fromkeys(one for one in found if one))


def by_mqtt(site: Site, kind: str) -> set[str]:
    return {json.loads(body)["resultId"] for body in site.subscriber.bodies(f"result/{kind}")}


def test_host_gets_every_verdict_over_a_kill_and_its_own_absence(site: Site, host: Host) -> None:
    host.state(True, 1)
    daemon = site.start()
    for number in range(3):
        for view in ("01", "02"):
            arrive(site, f"B1/P{number}_{view}.png", seed=number)
    until(lambda: len(results(host, "frame")) == 6 and len(results(host, "part")) == 3, "frames and parts")
    assert host.of("NBIRTH")[0]["values"]["Properties/station"] == "st"
    assert {message["device"] for message in host.messages} == {None, "blur"}

    daemon.kill()
    until(lambda: host.of("NDEATH"), "the broker publishes the will")
    assert host.of("NDEATH")[-1]["values"]["bdSeq"] == host.of("NBIRTH")[-1]["values"]["bdSeq"]

    host.state(False, 2)
    daemon = site.start()
    for number in range(3, 6):
        arrive(site, f"B1/P{number}_01.png", seed=number)
    until(lambda: daemon.status()["outbox"]["sparkplug"]["depth"] >= 3, "they wait for the host")
    assert "offline" in daemon.status()["outbox"]["sparkplug"]["lastError"]
    assert len(host.of("NBIRTH")) == 1
    host.state(True, 3)
    until(lambda: len(results(host, "frame")) == 9, "delivered afterwards")
    late = [one for one in host.of("DDATA") if one["values"].get("frame/partId") in ("P3", "P4", "P5")]
    assert all(message["historical"] == [True] for message in late)

    until(lambda: len(results(host, "part")) == 6, "parts that stay incomplete, too")
    until(lambda: daemon.status()["outbox"]["sparkplug"]["depth"] == 0, "all of it")
    births = host.of("NBIRTH")
    assert len(births) == 2
    assert births[1]["values"]["bdSeq"] > births[0]["values"]["bdSeq"]
    daemon.signal(signal.SIGTERM)
    assert daemon.process.wait(30) == 0
    until(lambda: len(host.of("NDEATH")) >= 2, "goodbye")
    assert host.of("NDEATH")[-1]["values"]["bdSeq"] == births[1]["values"]["bdSeq"]
    assert host.messages[-1]["verb"] == "NDEATH"
    until(lambda: by_mqtt(site, "frame") == set(results(host, "frame")), "each frame went both ways")
    assert by_mqtt(site, "part") == set(results(host, "part"))
