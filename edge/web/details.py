"""One verdict with all that belongs to it, and the numbers behind the page's charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edge.errors import MissingInputError
from edge.types import VerdictFilter
from edge.web.query import BadQueryError, answered, moment, text, whole

DEFAULT_SCORES, MAX_SCORES = 2000, 20_000
DEFAULT_MINUTES, MAX_MINUTES = 60, 24 * 60


class DetailsView(Protocol):
    """What is asked of `edge.page.Page`."""

    def details(self, result_id: str) -> Mapping[str, Any] | None: ...

    def scores(self, wanted: VerdictFilter, limit: int) -> Mapping[str, Any]: ...

    def throughput(self, minutes: int) -> Mapping[str, Any]: ...

    def explorer(self, recipe: str, view: str) -> Mapping[str, Any] | None: ...

    def health(self) -> Mapping[str, Any]: ...


def routes(page: DetailsView) -> list[BaseRoute]:
    """The routes; `page` is asked in worker threads, several at a time."""

    def details(request: Request) -> Response:
        found = page.details(request.path_params["result_id"])
        if found is None:
            raise MissingInputError("no such verdict is stored")
        return JSONResponse(dict(found))

    def scores(request: Request) -> Response:
        wanted = VerdictFilter(
            recipe=text(request, "recipe"), view=text(request, "view"),
            since_unix_s=moment(request, "since"), until_unix_s=moment(request, "until"),
        )  # fmt: skip
        return JSONResponse(dict(page.scores(wanted, whole(request, "limit", DEFAULT_SCORES, MAX_SCORES))))

    def throughput(request: Request) -> Response:
        return JSONResponse(dict(page.throughput(whole(request, "minutes", DEFAULT_MINUTES, MAX_MINUTES))))

    def explorer(request: Request) -> Response:
        recipe, view = text(request, "recipe"), text(request, "view")
        if recipe is None:
            raise BadQueryError("recipe: the name of a recipe")
        found = page.explorer(recipe, view or "")
        if found is None:
            raise MissingInputError("there is no calibration of that recipe and view")
        return JSONResponse(dict(found))

    def health(_: Request) -> Response:
        return JSONResponse(dict(page.health()))

    return [
        Route("/api/v1/verdicts/{result_id}", answered(details)),
        Route("/api/v1/scores", answered(scores, "recipe", "view", "since", "until", "limit")),
        Route("/api/v1/throughput", answered(throughput, "minutes")),
        Route("/api/v1/explorer", answered(explorer, "recipe", "view")),
        Route("/api/v1/health", answered(health)),
    ]
