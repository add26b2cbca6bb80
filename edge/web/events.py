"""Server-sent events: what happens, as it happens, to the pages that listen."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

MOST_LISTENERS = 16
MOST_WAITING = 256  # events for a listener that does not read; the page then polls what it missed
STATUS_EVERY_S = 5.0
EVENT_STREAM = "text/event-stream"


@dataclass(slots=True, eq=False)
class _Listener:
    loop: asyncio.AbstractEventLoop
    waiting: asyncio.Queue[bytes | None]  # None: the end


class Feed:
    """From whoever has something to say to all who listen; `publish` is for any thread, and never waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: set[_Listener] = set()
        self._closed = False

    def publish(self, event: str, data: Mapping[str, Any]) -> None:
        """Tell all listeners; one that is too slow loses this event."""
        if not self._listeners:
            return
        message = encoded(event, data)
        with self._lock:
            for listener in self._listeners:
                _hand_over(listener, message)

    def close(self) -> None:
        """End all streams; later listeners are refused."""
        with self._lock:
            self._closed = True
            for listener in self._listeners:
                _hand_over(listener, None)

    def enter(self) -> _Listener | None:
        """A new listener, in its event loop; None where there are too many."""
        listener = _Listener(asyncio.get_running_loop(), asyncio.Queue(MOST_WAITING))
        with self._lock:
            if self._closed or len(self._listeners) >= MOST_LISTENERS:
                return None
            self._listeners.add(listener)
        return listener

    def leave(self, listener: _Listener) -> None:
        """It listens no more."""
        with self._lock:
            self._listeners.discard(listener)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)


class _Stream(StreamingResponse):
    """Leaves the feed however it ends: a generator that was never begun has no `finally` of its own."""

    def __init__(self, content: AsyncIterator[bytes], feed: Feed, listener: _Listener) -> None:
        super().__init__(content, media_type=EVENT_STREAM)
        self._feed, self._listener = feed, listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feed.leave(self._listener)


def _hand_over(listener: _Listener, message: bytes | None) -> None:
    def put() -> None:
        if message is None and listener.waiting.full():
            listener.waiting.get_nowait()  # the end must come through
        if not listener.waiting.full():
            listener.waiting.put_nowait(message)

    try:
        listener.loop.call_soon_threadsafe(put)
    except RuntimeError:  # its loop is closed: so is its connection
        return


def encoded(event: str, data: Mapping[str, Any]) -> bytes:
    """One event as `text/event-stream` has it."""
    return f"event: {event}\ndata: {json.dumps(dict(data), separators=(',', ':'))}\n\n".encode()


def routes(
    feed: Feed, status: Callable[[], Mapping[str, Any]], status_every_s: float = STATUS_EVERY_S
) -> list[BaseRoute]:
    """/api/v1/events: `verdict` and `review` as they come, `status` at first and every so often."""

    async def events(request: Request) -> Response:
        if request.method == "HEAD":  # which has no body, and so no end
            return Response(media_type=EVENT_STREAM)
        listener = feed.enter()
        if listener is None:
            refused = f"{MOST_LISTENERS} pages listen already: ask /api/v1/verdicts now and then instead"
            return JSONResponse({"error": refused}, 503, {"retry-after": "30"})
        return _Stream(stream(listener), feed, listener)

    async def stream(listener: _Listener) -> AsyncIterator[bytes]:
        yield encoded("status", await run_in_threadpool(status))
        next_s = listener.loop.time() + status_every_s
        while True:
            try:
                left_s = max(0.0, next_s - listener.loop.time())
                message = await asyncio.wait_for(listener.waiting.get(), left_s)
            except TimeoutError:
                message = encoded("status", await run_in_threadpool(status))
                next_s = listener.loop.time() + status_every_s
            if message is None:
                return
            yield message

    return [Route("/api/v1/events", events)]
