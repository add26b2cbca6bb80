"""Reviews over HTTP: what people say of verdicts, and what their words would change in the thresholds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edge.errors import DataError, EdgeError, MissingInputError
from edge.web.verdicts import BadQueryError, moment, text, whole

MOST_BODY_BYTES = 16_384
DEFAULT_REVIEWS = 50
MAX_REVIEWS = 1000
MOST_ID = 64
FIELDS = ("resultId", "evaluation", "reason", "reviewer")
BAD_REVIEW = "bad_review"


class ReviewsView(Protocol):
    """What is asked of `edge.reviewing.Reviewing`."""

    def add(self, result_id: str, evaluation: str, reason: str, reviewer: str) -> Mapping[str, Any]: ...

    def latest(self, limit: int, since_unix_s: float | None) -> Sequence[Mapping[str, Any]]: ...

    def proposal(self, recipe: str) -> Mapping[str, Any]: ...


def routes(view: ReviewsView) -> list[BaseRoute]:
    """/api/v1/reviews and below; `view` is asked in worker threads, several at a time."""

    async def add(request: Request) -> Response:
        try:
            said = await _said(request)
            return JSONResponse(dict(await run_in_threadpool(view.add, *said)), 201)
        except BadQueryError as error:
            return JSONResponse({"error": str(error)}, 400)
        except EdgeError as error:
            return _failed(error)

    def latest(request: Request) -> Response:
        limit = whole(request, "limit", DEFAULT_REVIEWS, MAX_REVIEWS)
        return JSONResponse({"reviews": [dict(one) for one in view.latest(limit, moment(request, "since"))]})

    def proposal(request: Request) -> Response:
        recipe = text(request, "recipe")
        if recipe is None:
            raise BadQueryError("recipe: its name")
        return JSONResponse(dict(view.proposal(recipe)))

    async def reviews(request: Request) -> Response:
        if request.method == "POST":
            return await add(request)
        return await run_in_threadpool(_answered, latest, request)

    def proposed(request: Request) -> Response:
        return _answered(proposal, request)

    return [
        Route("/api/v1/reviews", reviews, methods=["GET", "POST"]),
        Route("/api/v1/reviews/proposal", proposed),
    ]


async def _said(request: Request) -> tuple[str, str, str, str]:
    """resultId, evaluation, reason, reviewer of a body; the database checks what they say.

    Raises:
        BadQueryError: it is not such a body.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            raise BadQueryError(f"body: at most {MOST_BODY_BYTES} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise BadQueryError("body: a JSON object") from None
    if not isinstance(found, dict):
        raise BadQueryError("body: a JSON object")
    if unknown := sorted(found.keys() - set(FIELDS)):
        raise BadQueryError(f"{unknown[0][:40]}: not known; a review has {', '.join(FIELDS)}")
    said = {"reason": "", **found}
    for name in FIELDS:
        if not isinstance(said.get(name), str):
            raise BadQueryError(f"{name}: a text")
    result_id = said["resultId"]
    if not (0 < len(result_id) <= MOST_ID and result_id.isascii() and result_id.isprintable()):
        raise BadQueryError("resultId: that of a verdict")
    return result_id, said["evaluation"], said["reason"], said["reviewer"]


def _answered(endpoint: Any, request: Request) -> Response:
    try:
        answer: Response = endpoint(request)
    except BadQueryError as error:
        return JSONResponse({"error": str(error)}, 400)
    except EdgeError as error:
        return _failed(error)
    return answer


def _failed(error: EdgeError) -> Response:
    """400 what is wrong with a review, 404 what it is of, 503 what cannot be done now."""
    if isinstance(error, DataError) and error.reason == BAD_REVIEW:
        return JSONResponse({"error": error.message}, 400)
    if isinstance(error, MissingInputError):
        return JSONResponse({"error": error.message}, 404)
    return JSONResponse({"error": error.message, "hint": error.hint}, 503, {"retry-after": "2"})
