"""The HTTP application over doubles, on a real port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from edge.observe.health import Health
from edge.observe.metrics import Metrics
from edge.types import VerdictFilter
from edge.web import verdicts
from edge.web.app import create_app
from edge.web.server import HttpServer


class Charts:
    """Control charts of one recipe with two views; remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str | None, int]] = []

    def documents(self, recipe: str | None, view: str | None, last: int) -> list[dict[str, Any]]:
        self.asked.append((recipe, view, last))
        return [{"recipe": "bracket", "view": name} for name in ("01", "02") if view in (None, name)]

    def svg(self, recipe: str, view: str, last: int) -> str | None:
        self.asked.append((recipe, view, last))
        return "<svg/>" if (recipe, view) == ("bracket", "01") else None


class Verdicts:
    """A hundred verdicts, the newest first; remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[VerdictFilter] = []
        self.payloads: list[dict[str, Any]] = [{"resultId": f"R{n}"} for n in range(100)]

    def verdicts(self, wanted: VerdictFilter, limit: int) -> list[dict[str, Any]]:
        self.asked.append(wanted)
        return self.payloads[:limit]

    def facets(self) -> dict[str, Any]:
        return {"recipes": ["bracket"]}


class Site:
    """An application of doubles, served; `access` goes to it: token, hosts, more."""

    def __init__(self, folder: Path, **access: Any) -> None:
        self.health = Health()
        self.charts = Charts()
        self.evidence = folder / "evidence"
        self.now_s = 0.0
        registry = CollectorRegistry()
        self.metrics = Metrics(registry)
        self.verdicts = Verdicts()
        more = [*verdicts.routes(self.verdicts), *access.pop("more", ())]
        self.app = create_app(
            registry=registry,
            health=self.health,
            status=lambda: {"station": "ct-1", "frames": 3},
            evidence_root=self.evidence,
            quality=self.charts,
            clock=lambda: self.now_s,
            more=more,
            **access,
        )
        self.server = HttpServer(self.app, "127.0.0.1", 0)
        self.server.start()
        host, self.port = self.server.address
        self.client = httpx.Client(base_url=f"http://{host}:{self.port}", trust_env=False)

    def close(self) -> None:
        self.client.close()
        self.server.stop(5.0)
