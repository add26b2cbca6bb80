"""Reviews over HTTP: what people say of verdicts, and what their words would change in the thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edge.errors import DataError
from edge.web.body import json_object
from edge.web.query import BadQueryError, answered, moment, text, whole

MOST_BODY_BYTES = 16_384
DEFAULT_REVIEWS = 50
MAX_REVIEWS = 1000
MOST_ID = 64
FIELDS = ("resultId", "evaluation", "reason", "reviewer")
BAD_REVIEW = "bad_review"


class ReviewsView(Protocol):
    """What is asked of `edge.review.taking.Reviewing`."""

    def add(self, result_id: str, evaluation: str, reason: str, reviewer: str) -> Mapping[str, Any]: ...

    def latest(self, limit: int, since_unix_s: float | None) -> Sequence[Mapping[str, Any]]: ...

    def proposal(self, recipe: str) -> Mapping[str, Any]: ...


def routes(view: ReviewsView) -> list[BaseRoute]:
    """/api/v1/reviews and below; `view` is asked in worker threads, several at a time."""

    async def add(request: Request) -> Response:
        try:
            said = _said(await json_object(request, MOST_BODY_BYTES))
        except BadQueryError as error:
            return JSONResponse({"error": str(error)}, 400)
        return await run_in_threadpool(answered(partial(_added, view, said)), request)

    def latest(request: Request) -> Response:
        limit = whole(request, "limit", DEFAULT_REVIEWS, MAX_REVIEWS)
        return JSONResponse({"reviews": [dict(one) for one in view.latest(limit, moment(request, "since"))]})

    def proposal(request: Request) -> Response:
        recipe = text(request, "recipe")
        if recipe is None:
            raise BadQueryError("recipe: its name")
        return JSONResponse(dict(view.proposal(recipe)))

    return [
        Route("/api/v1/reviews", answered(latest, "limit", "since"), methods=["GET"]),
        Route("/api/v1/reviews", add, methods=["POST"]),
        Route("/api/v1/reviews/proposal", answered(proposal, "recipe")),
    ]


def _added(view: ReviewsView, said: Sequence[str], _: Request) -> Response:
    try:
        return JSONResponse(dict(view.add(*said)), 201)
    except DataError as error:
        if error.reason != BAD_REVIEW:  # the database's fault, not the person's
            raise
        raise BadQueryError(error.message) from None


def _said(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """resultId, evaluation, reason, reviewer of a body; the database checks what they say.

    Raises:
        BadQueryError: it is not such a body.
    """
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
