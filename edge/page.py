"""What the operator's page asks for, put together from what a running line has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from starlette.routing import BaseRoute

from edge.app import EVIDENCE, Line
from edge.errors import MissingInputError
from edge.health_checks import checks_of
from edge.observe.health import Health
from edge.pictures import Picture, Pictures
from edge.record.queries import Queries, StoredVerdict
from edge.timestamps import utc_text
from edge.types import VerdictFilter
from edge.web import details, events, pictures, verdicts

MOST_EXPLORED = 2000  # frames whose scores a threshold is moved over
MOST_BUCKETS = 60
Answer = dict[str, Any]


def page_routes(
    queries: Queries, line: Line, status: Callable[[], Mapping[str, Any]], health: Health
) -> list[BaseRoute]:
    """The page's routes besides those of `edge.web.app`."""
    page = Page(queries, line, status, health)
    return [
        *verdicts.routes(queries),
        *details.routes(page),
        *pictures.routes(page),
        *events.routes(line.feed, status),
    ]


class Page:
    """Answers the page's questions; from any thread."""

    def __init__(
        self,
        queries: Queries,
        line: Line,
        status: Callable[[], Mapping[str, Any]],
        health: Health,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self.queries, self.line, self.status, self.health_of = queries, line, status, health
        self.unix_clock = unix_clock
        settings = line.settings
        root = settings.paths.state / EVIDENCE
        self._pictures = Pictures(settings, line.inspectors, line.workers, root)

    def details(self, result_id: str) -> Answer | None:
        """A verdict with its reviews, part, limits and pictures; None if it is not stored."""
        stored = self.queries.verdict(result_id)
        if stored is None:
            return None
        payload, geometry = stored.payload, self._pictures.geometry(stored)
        recipe = self.line.settings.recipe.get(payload["recipeId"])
        layers = self._pictures.layers(stored, geometry)
        for layer in layers.values():
            width, height = layer["width"], layer["height"]
            layer["levels"] = pictures.levels(width, height) if width and height else None
        return {
            "verdict": payload,
            "reviews": self.queries.reviews(result_id),
            "part": self.queries.part_of(payload, recipe.views if recipe else ()),
            "limits": self._limits(payload),
            "pictures": layers,
            "planeToFrame": geometry.plane_to_frame,
            "isScaled": geometry.is_scaled,
        }

    def picture(self, result_id: str, layer: str) -> Picture:
        """The pixels of a verdict's layer.

        Raises:
            MissingInputError: there is none; the message says why. UnavailableError: not now.
        """
        return self._pictures.picture(self._stored(result_id), layer)

    def scores(self, wanted: VerdictFilter, limit: int) -> Answer:
        """Scores over time, and how far they are from those of calibration."""
        drift: Any = self.line.record.drift.report()
        if wanted.recipe is not None:
            drift = drift.get(wanted.recipe)
            if drift is not None and wanted.view is not None:
                drift = drift.get(wanted.view)
        return {"points": self.queries.scores(wanted, limit), "drift": drift or None}

    def throughput(self, minutes: int) -> Answer:
        """Frames and their latency by equal steps of time, the last one unfinished."""
        step_s = max(60, math.ceil(minutes / MOST_BUCKETS) * 60)
        last = math.floor(self.unix_clock() / step_s)
        first = last - math.ceil(minutes * 60 / step_s) + 1
        buckets: dict[int, list[tuple[str, float | None]]] = {n: [] for n in range(first, last + 1)}
        for created, evaluation, total_s in self.queries.frames_since(first * step_s):
            if (bucket := buckets.get(math.floor(created / step_s))) is not None:
                bucket.append((evaluation, total_s))
        return {"stepS": step_s, "buckets": [_bucket(n * step_s, rows) for n, rows in buckets.items()]}

    def explorer(self, recipe: str, view: str) -> Answer | None:
        """What a threshold can be moved over; scores are relative to the one in force. None without one."""
        inspector = self.line.inspectors.get(recipe)
        calibration = inspector.calibration if inspector else None
        limits = calibration.of(view or None) if calibration else None
        if inspector is None or limits is None:
            return None
        frames = self.queries.raw_scores(recipe, view, inspector.bundle.digest, MOST_EXPLORED)
        return {
            "view": view,
            "thresholdRaw": limits.threshold,
            "basis": limits.basis,
            "falseRejectBound": limits.false_reject_bound,
            "isCut": len(frames) == MOST_EXPLORED,  # there may be older ones
            "calibration": [raw / limits.threshold for raw in limits.scores],
            "frames": [
                {
                    "resultId": one["resultId"],
                    "score": one["scoreRaw"] / limits.threshold,
                    "evaluation": one["evaluation"],
                    "truth": one["truth"] if one["truth"] in ("OK", "NotOK") else None,
                }
                for one in frames
            ],
        }

    def health(self) -> Answer:
        """Each check with what is wrong and what to do about it."""
        silent = self.health_of.healthy(time.monotonic())[1]
        found = checks_of(self.health_of.conditions(), silent, self.status())
        ready = not silent and self.health_of.ready()[0]
        return {"ready": ready, "checks": [check.document() for check in found]}

    def _stored(self, result_id: str) -> StoredVerdict:
        stored = self.queries.verdict(result_id)
        if stored is None:
            raise MissingInputError("no such verdict is stored")
        return stored

    def _limits(self, payload: Mapping[str, Any]) -> Answer | None:
        """What the score was held against; its promise only where that calibration is still in force."""
        threshold = payload.get("thresholdRaw")
        if payload["resultType"] != "frame" or threshold is None:
            return None
        found: Answer = {"threshold": threshold, "basis": None, "falseRejectBound": None, "frames": None}
        inspector = self.line.inspectors.get(payload["recipeId"])
        calibration = inspector.calibration if inspector else None
        model = payload.get("model") or {}
        if calibration is not None and calibration.digest == model.get("calibration_sha256"):
            limits = calibration.of(payload.get("view"))
            if limits is not None:
                found |= {
                    "basis": limits.basis,
                    "falseRejectBound": limits.false_reject_bound,
                    "frames": len(limits.scores),
                }
        return found


def _bucket(start_unix_s: float, rows: Sequence[tuple[str, float | None]]) -> Answer:
    latencies = [total_s for _, total_s in rows if total_s is not None]
    p50, p99 = np.percentile(latencies, (50, 99)).tolist() if latencies else (None, None)
    counts = {
        name: sum(evaluation == name for evaluation, _ in rows) for name in ("OK", "NotOK", "NotDecidable")
    }
    return {"time": utc_text(start_unix_s), **counts, "latencyP50_s": p50, "latencyP99_s": p99}
