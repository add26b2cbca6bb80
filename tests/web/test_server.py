"""The server starts, answers, stops, and says when its port is taken."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge.errors import UnavailableError
from edge.web import server as serving
from edge.web.server import HttpServer
from tests.brokers import until


def hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def large(_: Request) -> Response:
    return Response(bytes(8_000_000))


APP = Starlette(routes=[Route("/", hello), Route("/large", large)])


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


# clients that hold connections and say nothing, or too much


def ask(address: tuple[str, int]) -> bytes:
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/", timeout=10) as answer:
        body: bytes = answer.read()
        return body


@contextlib.contextmanager
def served(request_timeout_s: float = 60.0) -> Iterator[tuple[str, int]]:
    server = HttpServer(APP, "127.0.0.1", 0, request_timeout_s=request_timeout_s)
    server.start()
    try:
        yield server.address
    finally:
        server.stop(5.0)


@contextlib.contextmanager
def held(address: tuple[str, int], count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """Connections that said something and then nothing more."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(address, timeout=20))
            connection.sendall(said)
            connections.append(connection)
        yield connections


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "], ids=["idle", "slow"])
@pytest.mark.parametrize("count", [100, 3 * serving.MOST_CONNECTIONS])
def test_connections_that_are_only_held_keep_nobody_out(said: bytes, count: int) -> None:
    with served() as address, held(address, count, said) as connections:
        began_s = time.monotonic()
        assert ask(address) == b"hello"
        assert time.monotonic() - began_s < 5
        until(
            lambda: sum(not is_closed(one) for one in connections) <= serving.MOST_CONNECTIONS,
            "the oldest have gone",
        )


def test_answers_that_nobody_reads_keep_nobody_out() -> None:
    request = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
    with served() as address, held(address, serving.MOST_CONNECTIONS, request):
        assert ask(address) == b"hello"


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "], ids=["idle", "slow"])
def test_a_request_that_does_not_come_to_its_end_is_given_up(said: bytes) -> None:
    with served(request_timeout_s=0.2) as address, held(address, 1, said) as (connection,):
        until(lambda: is_closed(connection), "it is closed")


def test_a_request_that_dribbles_in_gets_no_more_time() -> None:
    with served(request_timeout_s=0.3) as address, held(address, 1, b"GET / HTTP/1.1\r\n") as (connection,):
        began_s = time.monotonic()

        def dribbled() -> bool:
            with contextlib.suppress(OSError):
                connection.sendall(b"X: y\r\n")
            return is_closed(connection)

        until(dribbled, "it is closed")
        assert time.monotonic() - began_s < 5


def test_the_second_request_of_a_connection_has_its_time_too() -> None:
    first = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with served(request_timeout_s=2.0) as address, held(address, 1, first) as (connection,):
        answer = b""
        while not answer.endswith(b"hello"):
            more = connection.recv(4096)
            assert more, "closed before it was answered"
            answer += more
        connection.sendall(b"GET / HT")
        until(lambda: is_closed(connection), "it is closed")


def test_headers_without_end_are_refused() -> None:
    with served() as address, socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2 * serving.MOST_HEADER_BYTES)
        with contextlib.suppress(ConnectionResetError):  # it closed before it had read all of that
            assert connection.recv(4096).startswith(b"HTTP/1.1 400")
        until(lambda: is_closed(connection), "it is closed")
