"""Replays over HTTP: what there are, their reports, and starting one.

A replay is a process of its own, `edge replay` with the lowest priority: it may take hours, and frames of the
line are still judged first. One runs at a time; it ends with the daemon. What is known of each lies in files,
so that it survives a restart: `ID.json` says that one was started and what became of it, the folder `ID` is
its result, which comes to be whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from ulid import ULID

from edge.artifacts import write_atomic
from edge.errors import EdgeError, TryAgainError
from edge.timestamps import unix_s_of, utc_text
from edge.web.body import json_object
from edge.web.query import BadQueryError

KEPT = 20
MOST_BODY_BYTES = 4096
MOST_FRAMES = 1_000_000
MOST_ERROR_CHARACTERS = 500
STOP_S = 0.5  # until the end of a killed one is noted
LOWEST_PRIORITY = 19
STOPPED = "the daemon was stopped or reloaded before it was done"
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
OPTIONS = {"recipe": "--recipe", "since": "--since", "until": "--until", "limit": "--last",
           "engine": "--engine", "calibration": "--calibration"}  # fmt: skip

# A report is one file: its styles and pictures are in it, and it runs nothing
REPORT_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'"
    )
}


class Replays:
    """The replays of a site: below `root`, made by `command` with the options added."""

    def __init__(self, root: Path, command: Sequence[str]) -> None:
        self._root, self._command = root, tuple(command)
        self._lock = threading.Lock()
        self._running: tuple[str, subprocess.Popen[bytes]] | None = None
        self._waiter: threading.Thread | None = None
        self._summaries: dict[str, dict[str, Any]] = {}  # of finished ones, which do not change

    def start(self, wanted: Mapping[str, str | int]) -> str:
        """Begin one; gives its id. `wanted` has keys of OPTIONS, and is checked.

        Raises:
            TryAgainError: another one runs.
            CannotWriteError, OSError: it cannot be started.
        """
        with self._lock:
            if self._running is not None:
                raise TryAgainError(f"replay {self._running[0]} is running", hint="wait for its end")
            name = str(ULID())
            self._note(name, {"recipe": wanted["recipe"], "state": "running", "error": None})
            said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by who waits for the process
            options = [f"{OPTIONS[key]}={value}" for key, value in wanted.items()]
            try:
                process = subprocess.Popen(
                    [*self._command, *options, f"--out={self._root / name}"],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True,
                )  # fmt: skip
            except OSError:
                said.close()
                self._root.joinpath(f"{name}.json").unlink(missing_ok=True)
                raise
            with contextlib.suppress(OSError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
            self._running = name, process
            self._waiter = threading.Thread(
                target=self._wait, args=(name, process, said, wanted["recipe"]), name="replay", daemon=True
            )
            self._waiter.start()
            self._forget_old()
        return name

    def stop(self) -> None:
        """End the one that runs; its note says so."""
        with self._lock:
            running, waiter = self._running, self._waiter
        if running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running[1].pid, signal.SIGKILL)
        if waiter is not None:
            waiter.join(STOP_S)

    def documents(self) -> list[dict[str, Any]]:
        """What there are, newest first."""
        found = (self._document(name) for name in self._names()[:KEPT])
        return [one for one in found if one is not None]

    def report(self, name: str) -> Path | None:
        """The report of a finished one."""
        file = self._root / name / "report.html"
        return file if _ID.fullmatch(name) and file.is_file() else None

    def _names(self) -> list[str]:
        """Ids with a note or a result, newest first: they sort by time."""
        if not self._root.is_dir():
            return []
        names = {entry.name.removesuffix(".json") for entry in self._root.iterdir()}
        return sorted((name for name in names if _ID.fullmatch(name)), reverse=True)

    def _document(self, name: str) -> dict[str, Any] | None:
        with self._lock:
            is_running = self._running is not None and self._running[0] == name
        note = _read(self._root / f"{name}.json")
        summary = self._summary(name)
        state, error = "done", None
        if summary is None:
            if note.get("state") == "done" or not note:  # its result was too old to be kept
                return None
            state = "running" if is_running else "failed"
            error = None if is_running else note.get("error") or STOPPED
        return {
            "id": name,
            "recipe": (summary or note).get("recipe"),
            "createdAt": _iso(name),
            "state": state,
            "frames": summary and summary["frames"],
            "flips": summary and summary["flips"],
            "error": error,
        }

    def _summary(self, name: str) -> dict[str, Any] | None:
        if name not in self._summaries and (found := _read(self._root / name / "replay.json")):
            self._summaries[name] = {key: found.get(key) for key in ("recipe", "frames", "flips")}
        return self._summaries.get(name) if (self._root / name).is_dir() else None

    def _wait(self, name: str, process: subprocess.Popen[bytes], said: IO[bytes], recipe: str) -> None:
        with said:
            process.wait()
            said.seek(0)
            words = said.read().decode(errors="replace")
        is_done = (self._root / name / "replay.json").is_file()
        error = None if is_done else _last_words(words, process.returncode)
        with contextlib.suppress(EdgeError):  # then it is told as stopped
            self._note(name, {"recipe": recipe, "state": "done" if is_done else "failed", "error": error})
        with self._lock:
            self._running = None

    def _note(self, name: str, note: Mapping[str, Any]) -> None:
        write_atomic(self._root / f"{name}.json", json.dumps(note).encode())

    def _forget_old(self) -> None:
        """Notes beyond the newest; results are kept or forgotten by who writes them."""
        for name in self._names()[KEPT:]:
            (self._root / f"{name}.json").unlink(missing_ok=True)
            self._summaries.pop(name, None)


def routes(replays: Replays) -> list[BaseRoute]:
    """The routes below the application's checks."""

    def listed(_: Request) -> Response:
        return JSONResponse({"replays": replays.documents()})

    async def start(request: Request) -> Response:
        try:
            wanted = validated(await json_object(request, MOST_BODY_BYTES))
        except BadQueryError as error:
            return JSONResponse({"error": str(error)}, 400)
        try:
            return JSONResponse({"id": await run_in_threadpool(replays.start, wanted)}, 202)
        except TryAgainError as error:
            return JSONResponse({"error": error.message}, 409)
        except (EdgeError, OSError) as error:
            return JSONResponse({"error": f"it cannot be started: {error}"}, 503)

    def report(request: Request) -> Response:
        file = replays.report(request.path_params["id"])
        if file is None:
            return JSONResponse({"error": "there is no such replay, or it is not done"}, 404)
        return FileResponse(file, headers=REPORT_HEADERS)

    return [
        Route("/api/v1/replays", listed, methods=["GET"]),
        Route("/api/v1/replays", start, methods=["POST"]),
        Route("/replays/{id}/report.html", report),
    ]


def validated(body: Mapping[str, Any]) -> dict[str, str | int]:
    """What a request asks for, without what it leaves open.

    Raises:
        BadQueryError: the name of what is wrong, and what is expected.
    """
    if unknown := set(body) - set(OPTIONS):
        raise BadQueryError(f"{sorted(unknown)[0][:40]}: not known; known are {', '.join(OPTIONS)}")
    given = {key: value for key, value in body.items() if value is not None}
    for key in ("recipe", "engine", "calibration"):
        value = given.get(key, "" if key == "recipe" else "none")
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise BadQueryError(f"{key}: a name of letters, digits, '.', '_' and '-'")
    for key in ("since", "until"):
        if key in given and not _is_time(given[key]):
            raise BadQueryError(f"{key}: a time in ISO 8601, such as 2026-11-20T10:15:00Z")
    limit = given.get("limit", 1)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_FRAMES:
        raise BadQueryError(f"limit: a number from 1 to {MOST_FRAMES}")
    return given


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) <= 40 and math.isfinite(unix_s_of(value))
    except ValueError:
        return False


def _iso(name: str) -> str:
    return utc_text(ULID.from_str(name).timestamp, "seconds")


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _last_words(text: str, code: int) -> str:
    """Why it failed, from what it said: its error is the last thing it says."""
    if code < 0 and -code in (signal.SIGKILL, signal.SIGTERM):
        return STOPPED
    lines = text.strip().splitlines()
    first = max((number for number, line in enumerate(lines) if line.startswith("edge: ")), default=-1)
    said = " ".join(line.strip().removeprefix("edge: ") for line in lines[first:]) if lines else ""
    return said[:MOST_ERROR_CHARACTERS] or f"it ended with exit code {code}"
