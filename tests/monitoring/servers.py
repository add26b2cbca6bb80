"""A real Prometheus for tests, and the programs that come with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import free_port, until


def require(program: str) -> str:
    """The program's path; without it the test is skipped, or fails where all is required."""
    found = shutil.which(program)
    if found is None:
        assert os.environ.get("EDGE_REQUIRE_ALL") != "1", f"{program} is missing: apt-get install prometheus"
        pytest.skip(f"needs Debian's prometheus ({program})")
    return found


class Prometheus:
    """Scrapes one target every second, with the rules that are shipped; `stop` it after."""

    def __init__(self, folder: Path, target_port: int, rules: Path) -> None:
        program, self.port = require("prometheus"), free_port()
        folder.mkdir(parents=True)
        (folder / "prometheus.yml").write_text(
            f"""global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: edge
    static_configs: [{{targets: ["127.0.0.1:{target_port}"]}}]
"""
        )
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log,
            )  # fmt: skip
        until(self._answers, "prometheus is up")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "prometheus ended"
        try:
            return bool(self.query("vector(1)"))
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's series."""
        return self._get("query", {"query": expression})

    def query_range(
        self, expression: str, start_s: float, end_s: float, step_s: float
    ) -> list[dict[str, Any]]:
        """A range query's series."""
        words = {"query": expression, "start": str(start_s), "end": str(end_s), "step": str(step_s)}
        return self._get("query_range", words)

    def _get(self, what: str, words: dict[str, str]) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


def filled_in(expression: str, window: str = "10s") -> str:
    """A panel's query as Grafana would send it, all variables at "All"."""
    filled = re.sub(r"\$__(rate_interval|interval|range)", window, expression)
    return re.sub(r"\$(instance|recipe|view|source)", ".*", filled)
