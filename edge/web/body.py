"""The JSON body of a request, read within a limit."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from edge.web.query import BadQueryError

NO_OBJECT = "body: a JSON object"


async def json_object(request: Request, most_bytes: int) -> dict[str, Any]:
    """What a request says. It has to say that it is JSON: no form of another page can.

    Raises:
        BadQueryError: it is not, is longer, or no object.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadQueryError("content-type: application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise BadQueryError(f"body: at most {most_bytes} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise BadQueryError(NO_OBJECT) from None
    if not isinstance(found, dict):
        raise BadQueryError(NO_OBJECT)
    return found
