"""The server starts, answers, stops, and says when its port is taken."""

from __future__ import annotations

import signal
import socket
import urllib.request

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from edge.errors import UnavailableError
from edge.web.server import HttpServer


def hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello)])


def test_answers_until_stopped_and_can_listen_there_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    server = HttpServer(APP, "127.0.0.1", 0)
    server.start()
    host, port = server.address
    with urllib.request.urlopen(f"http://{host}:{port}/", timeout=10) as answer:
        assert answer.read() == b"hello"
        assert "server" not in answer.headers
    server.stop(5.0)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, port), timeout=5)
    again = HttpServer(APP, "127.0.0.1", port)
    again.start()
    again.stop(5.0)


def test_port_that_is_taken_is_named_with_its_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = HttpServer(APP, "127.0.0.1", port)
        with pytest.raises(UnavailableError, match=rf"http\.listen = '127.0.0.1:{port}'") as caught:
            server.start()
        assert caught.value.hint
        server.stop(1.0)


def test_address_that_is_not_ours_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match=r"http\.listen"):
        HttpServer(APP, "192.0.2.1", 0).start()


def test_address_before_start_is_a_mistake() -> None:
    with pytest.raises(RuntimeError):
        _ = HttpServer(APP, "127.0.0.1", 0).address


def test_stop_without_start_returns() -> None:
    HttpServer(APP, "127.0.0.1", 0).stop(1.0)
