"""Who is answered: the token, the names it goes by, requests of other sites' pages, paths that lead out."""

from __future__ import annotations

import base64
import http.client
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from edge.observe.health import Health
from edge.observe.metrics import Metrics
from edge.quality import QualityView
from edge.record.queries import Queries
from edge.record.store import Store
from edge.types import KINDS, Identity, Verdict
from edge.web import verdicts
from edge.web.access import host_name
from edge.web.app import create_app
from edge.web.server import HttpServer
from tests.web.sites import Site

TOKEN = "0123456789abcdef0123456789abcdef"
PATHS = ("/", "/metrics", "/api/v1/status", "/api/v1/verdicts", "/api/v1/spc", "/api/v1/spc.svg",
         "/evidence/a", "/static/page.js", "/nowhere")  # fmt: skip
CHANGING = ("POST", "PUT", "PATCH", "DELETE")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, token=TOKEN)
    yield site
    site.close()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "shown",
    [
        None, "", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN,
        f"Digest {TOKEN}", "Basic", "Basic !", basic(TOKEN, ""), basic("edge", "wrong"), basic("edge", ""),
        "Basic " + base64.b64encode(TOKEN.encode()).decode(), "Bearer \xff",
    ],
)  # fmt: skip
def test_without_the_token_nothing_is_told(guarded: Site, path: str, shown: str | None) -> None:
    headers = [] if shown is None else [(b"authorization", shown.encode("latin-1"))]
    answer = guarded.client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {"error": "unauthorized"}
    assert answer.headers["www-authenticate"].startswith('Basic realm="edge"')  # browsers ask for it
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    "shown", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("edge", TOKEN), basic("", TOKEN)]
)
def test_with_the_token_all_is_as_without_one(guarded: Site, shown: str) -> None:
    headers = {"authorization": shown}
    assert guarded.client.get("/api/v1/status", headers=headers).json()["station"] == "ct-1"
    assert guarded.client.get("/", headers=headers).status_code == 200
    assert guarded.client.get("/nowhere", headers=headers).status_code == 404


def test_probes_without_the_token_hear_the_word_and_no_reasons(guarded: Site) -> None:
    guarded.health.set("source:ct", False, "/srv/secret-place is gone")
    answer = guarded.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})
    assert guarded.client.get("/healthz").json() == {"healthy": True}
    told = guarded.client.get("/readyz", headers={"authorization": f"Bearer {TOKEN}"}).json()
    assert told["reasons"] == {"source:ct": "/srv/secret-place is gone"}


# a page of a foreign site whose name was made to point here (DNS rebinding)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, hosts=("localhost", "127.0.0.1", "::1", "edge.plant"))
    yield site
    site.close()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9470", "127.0.0.1:9470", "[::1]:9470", "edge.plant", "edge.plant.:443"]
)
def test_names_of_its_own_are_answered(local: Site, host: str) -> None:
    assert local.client.get("/api/v1/status", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", [*PATHS, "/healthz", "/readyz"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:9470", "localhost.evil.example", "127.0.0.1.evil.example",
        "evil@localhost", "localhost@evil.example", "localhost/", "::1", "localhost:x",
    ],
)  # fmt: skip
def test_foreign_names_are_not(local: Site, path: str, host: str) -> None:
    answer = local.client.get(path, headers={"host": host})
    assert answer.status_code in (400, 421)
    assert "ct-1" not in answer.text


@pytest.mark.parametrize("host", ["", "192.0.2.7:9470", "127.0.0.2", "[fe80::1]:9470"])
def test_addresses_and_no_name_at_all_are_answered(local: Site, host: str) -> None:
    """Rebinding needs a name; Prometheus asks by address, and HTTP/1.0 probes say nothing."""
    assert local.client.get("/healthz", headers={"host": host}).status_code == 200


def test_without_names_any_is_answered(site: Site) -> None:
    assert site.client.get("/api/v1/status", headers={"host": "whatever"}).status_code == 200


def test_host_names() -> None:
    assert host_name("[fe80::1]:80") == "fe80::1"
    assert host_name("a.b:80") == "a.b"
    assert host_name("a b") == host_name("a:b:c") == host_name("[::1") == ""


# requests that another site's page sends with the operator's browser


@pytest.fixture
def changeable(site: Site) -> Site:
    """With a route that takes posts, as none of ours does yet."""

    def change(_: Request) -> Response:
        return PlainTextResponse("changed")

    site.app.router.routes.append(Route("/change", change, methods=["POST", "GET"]))
    return site


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "nonsense"},
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
        {"origin": ""}, {"sec-fetch-site": "cross-site", "origin": "OWN"},
    ],
)  # fmt: skip
def test_a_post_of_a_foreign_page_is_refused(changeable: Site, headers: dict[str, str]) -> None:
    own = f"http://127.0.0.1:{changeable.port}"
    headers = {key: value.replace("OWN", own) for key, value in headers.items()}
    answer = changeable.client.post("/change", headers=headers)
    assert (answer.status_code, "changed" in answer.text) == (403, False)
    assert (
        changeable.client.get("/change", headers=headers).text == "changed"
    )  # reading is the browser's to refuse


@pytest.mark.parametrize(
    "headers", [{}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"origin": "OWN"}]
)
def test_a_post_of_its_own_page_or_of_a_program_is_taken(changeable: Site, headers: dict[str, str]) -> None:
    own = f"http://127.0.0.1:{changeable.port}"
    headers = {key: value.replace("OWN", own) for key, value in headers.items()}
    assert changeable.client.post("/change", headers=headers).text == "changed"


# nothing that is there changes anything


def walk(routes: Any, prefix: str = "") -> list[tuple[str, set[str]]]:
    """Every route with its methods; what is mounted is files, which are only read."""
    found: list[tuple[str, set[str]]] = []
    for route in routes:
        if isinstance(route, Mount):
            found += walk(route.routes, prefix + route.path) or [(f"{prefix}{route.path}/x", {"GET", "HEAD"})]
        else:
            assert isinstance(route, Route), route
            found.append((prefix + route.path, set(route.methods or ())))
    return found


def test_every_route_only_reads(site: Site) -> None:
    routes = walk(site.app.routes)
    assert len(routes) >= 10
    for path, methods in routes:
        assert methods <= {"GET", "HEAD"}, path
        for method in (*CHANGING, "OPTIONS", "TRACE", "PROPFIND"):
            assert site.client.request(method, path).status_code == 405, (method, path)


def content(database: Path) -> list[str]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        found = list(connection.iterdump())
    connection.close()
    return found


def test_no_get_changes_the_database(tmp_path: Path) -> None:
    database = tmp_path / "edge.sqlite3"
    store = Store(database, {"mqtt": KINDS})
    with store.transaction():
        verdict = Verdict("R1", "frame", "r", "OK", Identity("P", "01", "B"), 1000.0, {"resultId": "R1"})
        store.add_verdict(verdict, b"{}", "s")
    before = content(database)
    queries = Queries(database)
    app = create_app(
        registry=CollectorRegistry(), health=Health(), status=store.counts,
        evidence_root=tmp_path / "evidence", quality=QualityView(store), more=verdicts.routes(queries),
    )  # fmt: skip
    server = HttpServer(app, "127.0.0.1", 0)
    server.start()
    try:
        for path, _ in walk(app.routes):
            for query in ("", "?limit=1", "?last=1&recipe=r&view=01", "?delete=1&_method=DELETE"):
                status, _ = ask(server.address[1], path + query)
                assert status in (200, 400, 404, 503), path
    finally:
        server.stop(5.0)
    assert content(database) == before
    assert any("R1" in line for line in before)
    queries.close()
    store.close()


# paths that lead out of the folder


def ask(port: int, target: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """A GET with the target as it is: other clients tidy up `..` themselves."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest("GET", target, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "../secret", "%2e%2e/secret", "%2e%2e%2fsecret", "..%2fsecret", "a/../../secret",
        "a/%2e%2e/%2e%2e/secret", "%252e%252e/secret", "..%5csecret", "a/..;/..;/secret", "/secret",
        "%2fSECRET", "./../secret", "link", "linked/secret", "a/linked/secret", "a%00/../../secret",
        "..%c0%afsecret", "....//secret",
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", ["evidence", "static"])
def test_no_path_leads_out_of_a_folder(site: Site, tmp_path: Path, folder: str, path: str) -> None:
    (tmp_path / "secret").write_text("s3cret")
    (site.evidence / "a").mkdir(parents=True)
    (site.evidence / "inside").write_text("inside")
    (site.evidence / "link").symlink_to(tmp_path / "secret")
    (site.evidence / "linked").symlink_to(tmp_path)
    (site.evidence / "a" / "linked").symlink_to(tmp_path)
    target = f"/{folder}/{path}".replace("SECRET", str(tmp_path / "secret").lstrip("/"))
    status, body = ask(site.port, target)
    assert status in (400, 404, 405), target
    assert b"s3cret" not in body
    assert ask(site.port, "/evidence/inside") == (200, b"inside")


def test_an_answer_says_nothing_about_the_inside(site: Site) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("a private detail")

    app = create_app(
        registry=Metrics(CollectorRegistry()).registry, health=Health(), status=broken,
        evidence_root=site.evidence,
    )  # fmt: skip
    server = HttpServer(app, "127.0.0.1", 0)
    server.start()
    status, body = ask(server.address[1], "/api/v1/status")
    server.stop(5.0)
    assert (status, b"private" in body) == (500, False)
