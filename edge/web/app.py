"""The HTTP application. What is here only reads; routes that change something are given to it.

Who may ask at all is said in `edge.web.access`, around it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.errors import MissingInputError
from edge.web.access import UNTOLD, KnownHosts, SameOrigin, TokenRequired
from edge.web.query import answered, text, whole

STATIC = Path(__file__).parent / "static"
DEFAULT_BATCHES = 50
MAX_BATCHES = 1000
SPC = ("recipe", "view", "last")

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


class QualityView(Protocol):
    """What is asked of `edge.quality.QualityView`: control charts of recipes and views over batches."""

    def documents(self, recipe: str | None, view: str | None, last: int) -> Sequence[Mapping[str, Any]]: ...

    def svg(self, recipe: str, view: str, last: int) -> str | None: ...


def create_app(
    *,
    registry: CollectorRegistry,
    health: HealthView,
    status: Callable[[], Mapping[str, Any]],
    evidence_root: Path,
    quality: QualityView | None = None,
    token: str | None = None,
    hosts: Collection[str] = (),
    more: Sequence[BaseRoute] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Starlette:
    """The application.

    `status` and `quality` are called in worker threads, several at a time.
    `more` are routes of other modules, behind the same checks.
    `token`, if there is one, is asked for; `hosts` are the names it answers to, empty: any.
    `evidence` of a payload is a path below `evidence_root`: of a picture, or of a folder with `overlay.jpg`.
    """

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def healthz(request: Request) -> Response:
        return _verdict_on(request, "healthy", *health.healthy(clock()))

    def readyz(request: Request) -> Response:
        ready, failing = health.ready()
        healthy, silent = health.healthy(clock())
        return _verdict_on(request, "ready", ready and healthy, {**failing, **silent})

    def api_status(_: Request) -> Response:
        return JSONResponse(dict(status()))

    def api_spc(request: Request) -> Response:
        last = whole(request, "last", DEFAULT_BATCHES, MAX_BATCHES)
        # unlike elsewhere, an empty view asks for something: frames that name no view
        recipe, view = (request.query_params.get(name) for name in ("recipe", "view"))
        charts = quality.documents(recipe, view, last) if quality else ()
        return JSONResponse({"charts": [dict(chart) for chart in charts]})

    def api_spc_svg(request: Request) -> Response:
        last = whole(request, "last", DEFAULT_BATCHES, MAX_BATCHES)
        recipe, view = text(request, "recipe") or "", text(request, "view") or ""
        drawn = quality.svg(recipe, view, last) if quality else None
        if drawn is None:
            raise MissingInputError("no frame of that recipe and view was counted")
        return Response(drawn, media_type="image/svg+xml")

    def page(_: Request) -> Response:
        return FileResponse(STATIC / "page.html")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/api/v1/status", api_status),
            Route("/api/v1/spc", answered(api_spc, *SPC)),
            Route("/api/v1/spc.svg", answered(api_spc_svg, *SPC)),
            *more,
            Mount("/evidence", _Evidence(directory=evidence_root, check_dir=False)),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(_Headers),
            *([Middleware(KnownHosts, names=hosts)] if hosts else []),
            Middleware(SameOrigin),
            *([Middleware(TokenRequired, token=token)] if token else []),
        ],
    )


def _verdict_on(request: Request, word: str, good: bool, reasons: Mapping[str, str]) -> Response:
    """Reasons name folders and addresses: not for who showed no token."""
    told = {} if request.scope.get(UNTOLD) else {"reasons": dict(reasons)}
    return JSONResponse({word: good, **told}, status_code=200 if good else 503)


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
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)  # a report has a policy of its own
                headers.setdefault("cache-control", "no-cache" if "etag" in headers else "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)
