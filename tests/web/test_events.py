"""Server-sent events over a real port."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edge.web.events import MOST_LISTENERS, Feed, routes
from tests.brokers import until
from tests.web.sites import Site


class Listening(Site):
    def __init__(self, folder: Path) -> None:
        self.feed = Feed()
        super().__init__(folder, more=routes(self.feed, lambda: {"station": "ct-1"}, status_every_s=0.2))

    def close(self) -> None:
        self.feed.close()
        super().close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Listening]:
    site = Listening(tmp_path)
    yield site
    site.close()


def events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, str]]]:
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_status_comes_at_once_and_again_and_verdicts_as_they_are_made(site: Listening) -> None:
    with site.client.stream("GET", "/api/v1/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-content-type-options"] == "nosniff"
        heard = events(answer)
        assert next(heard) == ("status", {"station": "ct-1"})
        site.feed.publish("verdict", {"resultId": "R1"})
        assert next(heard) == ("verdict", {"resultId": "R1"})
        assert next(heard) == ("status", {"station": "ct-1"})
    until(lambda: site.feed.listeners == 0)


def test_too_many_listeners_are_refused_and_others_served(site: Listening) -> None:
    clients = [httpx.Client(base_url=site.client.base_url, trust_env=False) for _ in range(MOST_LISTENERS)]
    streams = [client.send(client.build_request("GET", "/api/v1/events"), stream=True) for client in clients]
    assert {stream.status_code for stream in streams} == {200}
    assert site.client.get("/api/v1/events").status_code == 503
    assert site.client.get("/api/v1/verdicts").status_code == 200
    for stream, client in zip(streams, clients, strict=True):
        stream.close()
        client.close()
    until(lambda: site.feed.listeners == 0)
    with site.client.stream("GET", "/api/v1/events") as answer:
        assert answer.status_code == 200


def test_streams_end_when_the_feed_closes_and_the_server_stops_at_once(site: Listening) -> None:
    with site.client.stream("GET", "/api/v1/events") as answer:
        heard = events(answer)
        next(heard)
        began_s = time.monotonic()
        site.feed.close()
        site.server.stop(5.0)
        assert all(name == "status" for name, _ in heard)  # it ends, without an error
        assert time.monotonic() - began_s < 1.5


def test_one_that_does_not_read_costs_nobody_else(site: Listening) -> None:
    with site.client.stream("GET", "/api/v1/events") as deaf, httpx.Client(trust_env=False) as other:
        with other.stream("GET", f"{site.client.base_url}/api/v1/events") as answer:
            heard = events(answer)
            next(heard)
            for number in range(100):
                site.feed.publish("verdict", {"resultId": f"R{number}", "filling": "x" * 1000})
            found = [
                data["resultId"] for name, data in (next(heard) for _ in range(100)) if name == "verdict"
            ]
            assert found == [f"R{number}" for number in range(len(found))]
            assert len(found) > 90
        assert deaf.status_code == 200


def test_head_has_no_endless_body(site: Listening) -> None:
    assert site.client.head("/api/v1/events").status_code == 200
    assert site.feed.listeners == 0
