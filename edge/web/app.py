"""The HTTP application. It only reads: no request changes anything, so there is nothing to forge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
DEFAULT_VERDICTS = 50
MAX_VERDICTS = 1000

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class HealthView(Protocol):
    """What is asked of `edge.observe.health.Health`."""

    def healthy(self, now_s: float) -> tuple[bool, dict[str, str]]: ...

    def ready(self) -> tuple[bool, dict[str, str]]: ...


def create_app(
    *,
    registry: CollectorRegistry,
    health: HealthView,
    status: Callable[[], Mapping[str, Any]],
    verdicts: Callable[[int], Sequence[Mapping[str, Any]]],
    evidence_root: Path,
    clock: Callable[[], float] = time.monotonic,
) -> Starlette:
    """The application.

    `status` and `verdicts(limit)` (payloads, newest first) are called in worker threads, several at a time.
    `evidence` of a payload is a path below `evidence_root`: of a picture, or of a folder with `overlay.jpg`.
    """

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def healthz(_: Request) -> Response:
        return _verdict_on("healthy", *health.healthy(clock()))

    def readyz(_: Request) -> Response:
        ready, failing = health.ready()
        healthy, silent = health.healthy(clock())
        return _verdict_on("ready", ready and healthy, {**failing, **silent})

    def api_status(_: Request) -> Response:
        return JSONResponse(dict(status()))

    def api_verdicts(request: Request) -> Response:
        text = request.query_params.get("limit", str(DEFAULT_VERDICTS))
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_VERDICTS):
            return JSONResponse({"error": f"limit: a number from 1 to {MAX_VERDICTS}"}, status_code=400)
        return JSONResponse([dict(verdict) for verdict in verdicts(int(text))])

    def page(_: Request) -> Response:
        return FileResponse(STATIC / "page.html")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/api/v1/status", api_status),
            Route("/api/v1/verdicts", api_verdicts),
            Mount("/evidence", _Evidence(directory=evidence_root, check_dir=False)),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(_Headers)],
    )


def _verdict_on(word: str, good: bool, reasons: Mapping[str, str]) -> Response:
    return JSONResponse({word: good, "reasons": dict(reasons)}, status_code=200 if good else 503)


class _Evidence(StaticFiles):
    """Confined to its folder, which only comes to be with the first picture: until then nothing is found."""

    async def check_config(self) -> None:
        return


class _Headers:
    """Security headers on every answer; what is not a file is not cached."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.setdefault("cache-control", "no-cache" if "etag" in headers else "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)
