"""A review from the command line: through the running daemon, or straight into the database without one."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from typing import Any

from edge import app
from edge.config import Settings
from edge.errors import ConfigError, DataError, EdgeError, MissingInputError, UnavailableError
from edge.status import ANY_ADDRESS
from edge.web.token import read_token

TIMEOUT_S = 30.0  # a frame may have to be copied
PATH = "/api/v1/reviews"


def write_review(settings: Settings, said: Mapping[str, str]) -> dict[str, Any]:
    """Hand over `resultId`, `evaluation`, `reason`, `reviewer`; gives the review as the API does.

    Raises:
        MissingInputError: no such verdict. DataError: it is not a review.
        UnavailableError: a daemon runs, and did not take it. TryAgainError: another has the site.
        CannotWriteError, ConfigError: as they say.
    """
    if settings.http.enabled:
        try:
            return _by_daemon(settings, said)
        except ConnectionRefusedError:
            pass  # nobody listens
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnavailableError(
                f"the daemon on {settings.http.listen} did not take the review: {error}",
                hint="see what edge status says, and whether the review is there: edge review --history ID",
            ) from None
    return _by_hand(settings, said)


def _by_daemon(settings: Settings, said: Mapping[str, str]) -> dict[str, Any]:
    host, port = settings.http.address
    headers = {"Content-Type": "application/json"}
    if token := read_token(settings.http.token_file, os.environ):
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(ANY_ADDRESS.get(host, host), port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", PATH, json.dumps(dict(said)).encode(), headers)
        answer = connection.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status != http.client.CREATED:
        raise _refused(answer.status, str(found.get("error")), str(found.get("hint") or ""))
    return found


def _refused(status: int, why: str, hint: str) -> EdgeError:
    if status == http.client.UNAUTHORIZED:
        return ConfigError(
            "the daemon does not take this token", hint="name the daemon's own in [http] token_file"
        )
    if status == http.client.NOT_FOUND:
        return MissingInputError(why, hint="see edge review --list")
    if status == http.client.BAD_REQUEST:
        return DataError(why, reason="bad_review")
    return UnavailableError(f"the daemon did not take the review: {why}", hint=hint)


def _by_hand(settings: Settings, said: Mapping[str, str]) -> dict[str, Any]:
    """With the site's lock held, so that no daemon has the database open."""
    from edge.daemon import lock_site
    from edge.record.store import Store
    from edge.review.taking import Reviewing

    file = settings.paths.state / app.DATABASE
    if not file.is_file():
        raise MissingInputError(
            f"{file}: no database", hint="it is made by edge run; check paths.state in config.toml"
        )
    with lock_site(settings.paths.state):
        store = Store(file, app.sinks(settings))
        try:
            reviewing = Reviewing(store, settings)
            return reviewing.add(said["resultId"], said["evaluation"], said["reason"], said["reviewer"])
        finally:
            store.close()
