"""An MQTT broker inside the demonstration, which needs nothing else installed. MQTT 3.1.1 only."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from types import TracebackType
from typing import Any, Self

from edge.errors import UnavailableError

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 8.0
HOST = "127.0.0.1"


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class EmbeddedBroker:
    """An anonymous broker on a loopback port, in an asyncio loop and thread of its own."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt-broker", daemon=True)

    def __enter__(self) -> Self:
        """Start, and wait until clients can connect.

        Raises:
            UnavailableError: amqtt is not installed, or the port cannot be had.
        """
        broker_class()  # fails here, in the caller's thread
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # its log is noise between the verdicts
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S) or self._fault:
            raise UnavailableError(
                f"the embedded MQTT broker did not start on port {self.port}: {self._fault or 'timeout'}",
                hint="is the port in use? leave it out to have a free one chosen",
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop and self._stop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # a thread has nobody above it: __enter__ reports it
            self._fault = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda loop, context: None)  # of clients that vanish
        listener = {"type": "tcp", "bind": f"{HOST}:{self.port}"}
        anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        broker = broker_class()({"listeners": {"default": listener}, "plugins": anonymous})
        await broker.start()
        self._ready.set()
        await self._stop.wait()
        await broker.shutdown()


def broker_class() -> Any:
    """amqtt's Broker.

    Raises:
        UnavailableError: amqtt is not installed.
    """
    try:
        from amqtt.broker import Broker
    except ImportError as error:
        raise UnavailableError(
            f"the embedded MQTT broker is missing: {error}",
            hint="pip install edge-inspect[demo]",
            retryable=False,
        ) from None
    return Broker
