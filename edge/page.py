"""What the operator's page asks for, put together from what a running line has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.routing import BaseRoute

from edge.app import Line
from edge.record.queries import Queries
from edge.web import events, verdicts


def page_routes(queries: Queries, line: Line, status: Callable[[], Mapping[str, Any]]) -> list[BaseRoute]:
    """The page's routes besides those of `edge.web.app`."""
    return [
        *verdicts.routes(queries),
        *events.routes(line.feed, status),
    ]
