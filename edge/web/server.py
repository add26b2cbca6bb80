"""uvicorn in a thread, started and stopped by the daemon, which keeps signals and the log to itself.

Connections that say nothing, or say it slowly, cost those who hold them: each has a time limit for its
request, and where there are too many the oldest goes, so that a probe is answered however many there are.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge.errors import UnavailableError

START_TIMEOUT_S = 10.0
SHUTDOWN_S = 2  # for requests that are being answered
POLL_S = 0.01
BACKLOG = 128
MOST_CONNECTIONS = 128
MOST_REQUESTS = 2 * MOST_CONNECTIONS  # being answered, those of connections that went included: then 503
REQUEST_TIMEOUT_S = 10.0  # from the connection, or a request's first byte, to the end of its headers
MOST_HEADER_BYTES = 16384


class HttpServer:
    """Serves `app` on `host:port`; port 0 takes a free one, see `address`."""

    def __init__(
        self, app: ASGIApp, host: str, port: int, *, request_timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        self._host = host
        self._port = port
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_protocol(request_timeout_s),
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MOST_REQUESTS,
                h11_max_incomplete_event_size=MOST_HEADER_BYTES,
                timeout_graceful_shutdown=SHUTDOWN_S,
            )
        )
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on.

        Raises:
            RuntimeError: not started.
        """
        if self._socket is None:
            raise RuntimeError("the server is not started")
        host, port = self._socket.getsockname()[:2]
        return host, port

    def start(self) -> None:
        """Listen and serve; returns when requests are answered.

        Raises:
            UnavailableError: the address cannot be had.
        """
        self._socket = self._listen()
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="http", daemon=True
        )
        self._thread.start()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline_s:
                self.stop(0.0)
                raise UnavailableError("the HTTP server does not start", hint="see the log for its reason")
            time.sleep(POLL_S)

    def stop(self, timeout_s: float) -> None:
        """Finish what is being answered, then end; after `timeout_s` end all the same."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self._server.force_exit = True
            self._thread = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _listen(self) -> socket.socket:
        where = f"{self._host}:{self._port}"
        try:
            family = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((self._host, self._port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise UnavailableError(
                f"cannot listen on http.listen = {where!r}: {error.strerror or error}",
                hint="end what uses that port (another edge?), or choose another http.listen in config.toml",
            ) from None


def _protocol(request_timeout_s: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol with the limits it lacks; uvicorn makes one of these for each connection."""
    held: dict[Bounded, None] = {}  # a set in order: the oldest first

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.deadline: asyncio.TimerHandle | None = None
            self._expect()
            held[self] = None
            if len(held) > MOST_CONNECTIONS:
                # an idle one if there is any; a busy one may only be slow to read
                oldest = min((one for one in held if one is not self), key=lambda one: one.is_busy)
                held.pop(oldest)
                oldest.transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            held.pop(self, None)
            self._relax()

        @property
        def is_busy(self) -> bool:
            """Whether a request is being answered."""
            return self.cycle is not None and not self.cycle.response_complete

        def _expect(self) -> None:
            """A request, within the time limit; bytes that come slowly do not extend it."""
            if self.is_busy:
                self._relax()
            elif self.deadline is None:
                self.deadline = self.loop.call_later(request_timeout_s, self.transport.abort)

        def _relax(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return Bounded
