"""Stored verdicts over HTTP: found by filters, and what they can be filtered by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edge.types import Evaluation, VerdictFilter
from edge.web.query import answered, choice, moment, text, whole

DEFAULT_VERDICTS = 50
MAX_VERDICTS = 1000
FILTERS = (
    "type", "recipe", "view", "batch", "part", "evaluation", "reason", "reviewed", "q",
    "since", "until", "before", "after",
)  # fmt: skip
RESULT_ID = "a verdict's resultId"


class VerdictsView(Protocol):
    """What is asked of `edge.record.queries.Queries`."""

    def verdicts(self, wanted: VerdictFilter, limit: int) -> Sequence[Mapping[str, Any]]: ...

    def facets(self) -> Mapping[str, Any]: ...


def routes(view: VerdictsView) -> list[BaseRoute]:
    """/api/v1/verdicts and /api/v1/facets; `view` is asked in worker threads, several at a time."""

    def verdicts(request: Request) -> Response:
        limit = whole(request, "limit", DEFAULT_VERDICTS, MAX_VERDICTS)
        return JSONResponse([dict(verdict) for verdict in view.verdicts(filter_of(request), limit)])

    def facets(_: Request) -> Response:
        return JSONResponse(dict(view.facets()))

    return [
        Route("/api/v1/verdicts", answered(verdicts, "limit", *FILTERS)),
        Route("/api/v1/facets", answered(facets)),
    ]


def filter_of(request: Request) -> VerdictFilter:
    """What is asked for; an empty value asks nothing.

    Raises:
        BadQueryError: a value is not what it should be.
    """
    return VerdictFilter(
        result_type=choice(request, "type", ("frame", "part")),
        recipe=text(request, "recipe"),
        view=text(request, "view"),
        batch=text(request, "batch"),
        part=text(request, "part"),
        evaluation=choice(request, "evaluation", get_args(Evaluation)),
        reason=text(request, "reason"),
        since_unix_s=moment(request, "since"),
        until_unix_s=moment(request, "until"),
        reviewed=choice(request, "reviewed", ("yes", "no", "overruled")),  # type: ignore[arg-type]  # one of these
        text=text(request, "q"),
        before=text(request, "before"),
        after=text(request, "after"),
    )
