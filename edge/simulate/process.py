"""The daemon as a process of its own, for the demonstration: start, ready, still there, stop."""

from __future__ import annotations

import http.client
import subprocess
import threading
import time
from collections.abc import Sequence

from edge.errors import UnavailableError
from edge.simulate.broker import HOST
from edge.simulate.site import Site

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 12.0


class Daemon:
    """The daemon as a process of its own, its log in the site's folder."""

    def __init__(self, site: Site, command: Sequence[str]) -> None:
        self._site = site
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, apart from the terminal: Ctrl-C reaches the demonstration, which ends it in order."""
        with self._site.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_ready(self, stop: threading.Event) -> None:
        """Return when `/readyz` answers, or when `stop` is set.

        Raises:
            UnavailableError: it ended, or did not become ready in time.
        """
        give_up_s = time.monotonic() + READY_TIMEOUT_S
        while not stop.is_set() and get(self._site, "/readyz") is None:
            self.check()
            if time.monotonic() > give_up_s:
                raise UnavailableError(
                    f"the daemon was not ready after {READY_TIMEOUT_S:g} s{self._log_end()}"
                )
            stop.wait(0.1)

    def check(self) -> None:
        """Raise UnavailableError if the daemon has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise UnavailableError(
                f"the daemon ended by itself, exit code {self._process.returncode}{self._log_end()}",
                hint=f"read {self._site.log}",
            )

    def stop(self) -> str:
        """End it with SIGTERM, by force if need be; says what went wrong, or nothing."""
        if self._process is None:
            return ""
        self._process.terminate()
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return f"the daemon did not stop within {STOP_TIMEOUT_S:g} s and was killed"
        return f"the daemon ended with exit code {code}" if code else ""

    def _log_end(self) -> str:
        lines = self._site.log.read_text(errors="replace").splitlines()[-10:]
        return "".join(f"\n  | {line}" for line in lines)


def get(site: Site, path: str) -> str | None:
    """The body of a page of the daemon, or None if it is not answered with 200."""
    connection = http.client.HTTPConnection(HOST, site.http_port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        return body if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
