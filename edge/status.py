"""`edge status`: asks the daemon over HTTP, and shows it."""

from __future__ import annotations

import http.client
import json as jsonlib
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge import config as configuration
from edge.errors import ConfigError, UnavailableError
from edge.web.token import read_token

TIMEOUT_S = 5.0
EXIT_NOT_READY = 1
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # to listen on, not to ask


def run_status(*, config: Path | None, json: bool) -> int:
    """Print the daemon's status; 0 if it is ready, else 1.

    Raises:
        UnavailableError: no daemon answers.
        ConfigError: the configuration is wrong, or its token is not the daemon's.
    """
    settings = configuration.load(configuration.find(config))
    host, port = settings.http.address
    status = fetch_status(ANY_ADDRESS.get(host, host), port, read_token(settings.http.token_file, os.environ))
    if json:
        print(jsonlib.dumps(status))
    else:
        show(status, Console())
    return 0 if status["ready"] else EXIT_NOT_READY


def fetch_status(host: str, port: int, token: str | None = None) -> dict[str, Any]:
    """GET /api/v1/status."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/api/v1/status", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == http.client.UNAUTHORIZED:
            raise ConfigError(
                f"the daemon on http://{host}:{port} does not take this token",
                hint="name the daemon's own in [http] token_file; one that was changed needs a reload",
            )
        if answer.status != http.client.OK:
            raise OSError(f"HTTP {answer.status}")
        status: dict[str, Any] = jsonlib.loads(body)
        return status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnavailableError(
            f"no edge daemon answers on http://{host}:{port}: {error}",
            hint="start it (edge run, or systemctl start edge), or mend [http] listen in config.toml",
        ) from None
    finally:
        connection.close()


def show(status: dict[str, Any], console: Console) -> None:
    """The status for a person."""
    ready = "[green]ready[/]" if status["ready"] else "[red]not ready[/]"
    console.print(
        f"edge {status['version']} · station {status['station']} · {ready} · since {status['startedAt']}"
    )
    for name, why in status["notReady"].items():
        console.print(f"  [red]{name}[/]: {why}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("recipe", "bundle", "runtime", "views"):
        table.add_column(column)
    for name, recipe in status["recipes"].items():
        digest = f"{recipe['bundle']} {recipe['bundleSha256'][:12]}"
        table.add_row(name, digest, f"{recipe['runtime']} {recipe['precision']}", " ".join(recipe["views"]))
    console.print(table)
    for name, recipe in status["recipes"].items():
        if why := recipe.get("engineReplacedBecause"):
            console.print(f"  [red]recipe {name}[/]: {why}")
    for name, views in status.get("drift", {}).items():
        for view, drift in views.items():
            if drift["state"] in ("watch", "alarm"):
                colour = "red" if drift["state"] == "alarm" else "yellow"
                console.print(
                    f"  [{colour}]drift {drift['state']}[/]: recipe {name}, view {view}: {drift['why']}"
                )
    for kind, counts in status["verdicts"].items():
        console.print(
            f"{kind}s: " + (", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "none")
        )
    for name, source in status["backlog"].items():
        console.print(f"source {name}: {source['unavailable'] or str(source['waiting']) + ' waiting'}")
    for name, sink in status["outbox"].items():
        why = sink["lastError"] or ("" if sink["connected"] else "connecting")
        state = "connected" if sink["connected"] else "[red]not connected[/]"
        state += f": [red]{why}[/]" if why else ""  # a sink may be connected and refuse what it gets
        console.print(f"sink {name}: {state}, {sink['depth']} to deliver")
