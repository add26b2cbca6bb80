"""What a request asks for in its query, read strictly, and what an endpoint raises as a status."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge.errors import CannotWriteError, DataError, MissingInputError, UnavailableError
from edge.timestamps import unix_s_of

LONGEST_TEXT = 500
TIME = "a time as 2026-11-20T10:15:30Z"


class BadQueryError(Exception):
    """A query value that is not what it should be; the text says which, and what is expected."""


def answered(endpoint: Callable[[Request], Response], *asks: str) -> Callable[[Request], Response]:
    """An endpoint whose query may hold what `asks` names: 400 bad query, 404 not stored, 503 not now.

    Any other name is refused, as a filter that is misspelt would find everything.
    """

    def answer(request: Request) -> Response:
        try:
            _refuse_unknown(request, asks)
            return endpoint(request)
        except BadQueryError as error:
            return JSONResponse({"error": str(error)}, 400)
        except MissingInputError as error:
            return JSONResponse({"error": error.message}, 404)
        except (UnavailableError, CannotWriteError, DataError) as error:
            return JSONResponse({"error": error.message, "hint": error.hint}, 503, {"retry-after": "2"})

    return answer


def _refuse_unknown(request: Request, asks: Sequence[str]) -> None:
    for name in request.query_params:
        if name not in asks:
            near = difflib.get_close_matches(name, asks, n=1)
            known = f"did you mean {near[0]}?" if near else f"known here: {', '.join(asks) or 'nothing'}"
            raise BadQueryError(f"{name[:40]}: not known; {known}")


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
