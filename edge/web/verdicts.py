"""Stored verdicts over HTTP: found by filters, and what they can be filtered by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from edge.errors import CannotWriteError, DataError, MissingInputError, UnavailableError
from edge.timestamps import unix_s_of
from edge.types import Evaluation, VerdictFilter

DEFAULT_VERDICTS = 50
MAX_VERDICTS = 1000
LONGEST_TEXT = 500
RESULT_ID = "a verdict's resultId"
TIME = "a time as 2026-11-20T10:15:30Z"


class VerdictsView(Protocol):
    """What is asked of `edge.record.queries.Queries`."""

    def verdicts(self, wanted: VerdictFilter, limit: int) -> Sequence[Mapping[str, Any]]: ...

    def facets(self) -> Mapping[str, Any]: ...


class BadQueryError(Exception):
    """A query value that is not what it should be; the text says which, and what is expected."""


def routes(view: VerdictsView) -> list[BaseRoute]:
    """/api/v1/verdicts and /api/v1/facets; `view` is asked in worker threads, several at a time."""

    def verdicts(request: Request) -> Response:
        limit = whole(request, "limit", DEFAULT_VERDICTS, MAX_VERDICTS)
        return JSONResponse([dict(verdict) for verdict in view.verdicts(filter_of(request), limit)])

    def facets(_: Request) -> Response:
        return JSONResponse(dict(view.facets()))

    return [
        Route("/api/v1/verdicts", answered(verdicts)),
        Route("/api/v1/facets", answered(facets)),
    ]


def answered(endpoint: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """What an endpoint raises, as a status: 400 bad query, 404 not stored, 503 not now."""

    def answer(request: Request) -> Response:
        try:
            return endpoint(request)
        except BadQueryError as error:
            return JSONResponse({"error": str(error)}, 400)
        except MissingInputError as error:
            return JSONResponse({"error": error.message}, 404)
        except (UnavailableError, CannotWriteError, DataError) as error:
            return JSONResponse({"error": error.message, "hint": error.hint}, 503, {"retry-after": "2"})

    return answer


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


def text(request: Request, name: str) -> str | None:
    """A query value, None where there is none.

    Raises:
        BadQueryError: too long, or no text.
    """
    value = request.query_params.get(name) or None
    if value is not None and (len(value) > LONGEST_TEXT or not _is_text(value)):
        raise BadQueryError(f"{name}: a text of at most {LONGEST_TEXT} characters")
    return value


def choice(request: Request, name: str, allowed: Sequence[str]) -> str | None:
    """One of some words.

    Raises:
        BadQueryError: another one.
    """
    value = request.query_params.get(name) or None
    if value is not None and value not in allowed:
        raise BadQueryError(f"{name}: one of {', '.join(allowed)}")
    return value


def moment(request: Request, name: str) -> float | None:
    """A time in ISO 8601, as Unix seconds; without an offset it is UTC.

    Raises:
        BadQueryError: no time.
    """
    value = request.query_params.get(name) or None
    if value is None:
        return None
    try:
        # a "+" that was not escaped arrives as a space
        return unix_s_of(value.replace(" ", "+") if "T" in value else value)
    except ValueError:
        raise BadQueryError(f"{name}: {TIME}") from None


def whole(request: Request, name: str, default: int, most: int) -> int:
    """A number of things, from 1 to `most`.

    Raises:
        BadQueryError: it is none.
    """
    value = request.query_params.get(name, str(default))
    is_number = value.isascii() and value.isdecimal() and len(value) <= 9
    # int() takes no thousands of digits
    if not (is_number and 1 <= int(value) <= most):
        raise BadQueryError(f"{name}: a number from 1 to {most}")
    return int(value)


def _is_text(value: str) -> bool:
    """Whether SQLite can be given it: no lone surrogates, no NUL."""
    return "\0" not in value and not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
