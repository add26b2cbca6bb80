"""Who may ask: the token, the name we are called by, and no request that another site's page sent.

Each is a piece of ASGI around the application, so that a route added later is behind all of them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Probes carry no secrets (systemd, load balancers, Kubernetes); without the token they hear the word only
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, 9.2.1: safe
REALM = 'Basic realm="edge", charset="UTF-8"'
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]+)?")
UNTOLD = "edge.untold"  # in the scope: who asks showed no token


class TokenRequired:
    """401 without `Authorization: Bearer TOKEN`, or Basic with the token as its password, as browsers ask."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shown = _shown(Headers(scope=scope).get("authorization", ""))
        if hmac.compare_digest(shown, self._token):
            await self._app(scope, receive, send)
        elif scope["path"] in OPEN_PATHS:
            await self._app({**scope, UNTOLD: True}, receive, send)
        else:
            refused = JSONResponse({"error": "unauthorized"}, 401, {"www-authenticate": REALM})
            await refused(scope, receive, send)


def _shown(authorization: str) -> bytes:
    """The token that a header shows; empty where it shows none, which no token equals."""
    scheme, _, credentials = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


class KnownHosts:
    """421 where the Host header names somebody else.

    A page of a foreign site may have its own name point to this address (DNS rebinding); its browser then
    takes our answers for the page's own. It still says the foreign name here. Browsers always say a name, and
    rebinding needs one: who says none, or an address, is let through.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "")
        if not host or host_name(host) in self._names or is_address(host_name(host)):
            await self._app(scope, receive, send)
        else:
            refused = JSONResponse({"error": "this name is not in http.hosts"}, 421)
            await refused(scope, receive, send)


class SameOrigin:
    """403 for a request that may change something and that another site's page made the browser send.

    No route takes such requests yet; one that comes is safe from the start. The rule is that of Go's
    http.CrossOriginProtection: browsers say where a request comes from, and what says nothing is no browser,
    so nobody's cookies or passwords are with it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in READING or _of_our_own(Headers(scope=scope)):
            await self._app(scope, receive, send)
        else:
            refused = JSONResponse({"error": "a page of another site sent this"}, 403)
            await refused(scope, receive, send)


def _of_our_own(headers: Headers) -> bool:
    if site := headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host", origin)


def is_address(host: str) -> bool:
    """Whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_name(host: str) -> str:
    """ "LOCALHOST:9470" → "localhost", "[::1]:9470" → "::1"; empty for what is no host with a port."""
    match = _HOST.fullmatch(host.lower())
    return (match[1] or match[2]).rstrip(".") if match else ""
