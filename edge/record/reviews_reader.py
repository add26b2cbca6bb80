"""Reviewed and reviewable verdicts of a site whose daemon may be running: reads, changes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge.record import reviews
from edge.record.reader import BatchReader
from edge.types import Review

_LATEST = "r.review_id = (SELECT max(o.review_id) FROM reviews AS o WHERE o.result_id = r.result_id)"
_REVIEW = ", ".join(f"r.{name.strip()}" for name in reviews.COLUMNS.split(","))

MOST_PASSED = 20_000  # frames whose payloads are read


@dataclass(frozen=True, slots=True)
class Queued:
    """Which verdicts on frames are wanted; everything given must hold."""

    recipe: str | None = None
    view: str | None = None
    batch: str | None = None
    since_unix_s: float | None = None

    def where(self) -> tuple[str, list[Any]]:
        """As SQL over `verdict_facts AS f`, with its values."""
        clauses, values = ["f.type = 'frame'"], []
        for column in ("recipe", "view", "batch"):
            if (value := getattr(self, column)) is not None:
                clauses.append(f"f.{column} = ?")
                values.append(value)
        if self.since_unix_s is not None:
            clauses.append("f.created_unix_s >= ?")
            values.append(self.since_unix_s)
        return " AND ".join(clauses), values


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A verdict, the source of its frame, and the review that stands."""

    payload: dict[str, Any]
    source: str | None
    review: Review


class ReviewReader(BatchReader):
    """What `edge review` and `edge calibrate --with-reviews` ask of a database."""

    def waiting(self, wanted: Queued, limit: int) -> list[dict[str, Any]]:
        """Payloads of frames that want a look and had none, newest first: not OK, or in the review band."""
        where, values = wanted.where()
        rows = self._rows(
            "SELECT v.payload FROM verdict_facts AS f JOIN verdicts AS v ON v.result_id = f.result_id"
            f" WHERE {where} AND (f.evaluation <> 'OK' OR instr(f.reasons, 'in_review_band'))"
            " AND NOT EXISTS (SELECT 1 FROM reviews AS r WHERE r.result_id = f.result_id)"
            " ORDER BY f.created_unix_s DESC, f.result_id DESC LIMIT ?",
            [*values, limit],
        )
        return [json.loads(payload) for (payload,) in rows]

    def verdict(self, result_id: str) -> dict[str, Any] | None:
        """A verdict's payload."""
        rows = self._rows("SELECT payload FROM verdicts WHERE result_id = ?", (result_id,))
        return json.loads(rows[0][0]) if rows else None

    def reviews_of(self, result_id: str) -> list[Review]:
        """All reviews of a verdict, oldest first."""
        return reviews.of_results(self._rows, [result_id]).get(result_id, [])

    def reviewed(self, wanted: Queued) -> list[Reviewed]:
        """Verdicts on frames that have a review, oldest first."""
        where, values = wanted.where()
        rows = self._rows(
            f"SELECT v.payload, v.source, {_REVIEW} FROM reviews AS r"
            " JOIN verdict_facts AS f ON f.result_id = r.result_id"
            " JOIN verdicts AS v ON v.result_id = r.result_id"
            f" WHERE {_LATEST} AND {where} ORDER BY f.created_unix_s, f.result_id",
            values,
        )
        return [Reviewed(json.loads(row[0]), row[1], reviews.as_review(row[2:])) for row in rows]

    def counts(self, wanted: Queued) -> list[Sequence[Any]]:
        """(view, evaluation, number of frames)."""
        where, values = wanted.where()
        query = f"SELECT f.view, f.evaluation, count(*) FROM verdict_facts AS f WHERE {where} GROUP BY 1, 2"
        return self._rows(query, values)

    def passed(self, recipe: str, bundle_sha256: str) -> dict[str, int]:
        """By view how many of the latest frames an engine's verdict is OK on."""
        rows = self._rows(
            "SELECT f.view, count(*) FROM (SELECT view, result_id FROM verdict_facts WHERE type = 'frame'"
            " AND recipe = ? AND evaluation = 'OK' ORDER BY created_unix_s DESC LIMIT ?) AS f"
            " JOIN verdicts AS v ON v.result_id = f.result_id"
            " WHERE json_extract(v.payload, '$.model.sha256') = ? GROUP BY f.view",
            (recipe, MOST_PASSED, bundle_sha256),
        )
        return dict(rows)

    def rejected(self, wanted: Queued) -> list[tuple[dict[str, Any], str | None]]:
        """Payloads of frames that are NotOK, oldest first, and what the latest review says of each."""
        where, values = wanted.where()
        rows = self._rows(
            "SELECT v.payload, (SELECT r.evaluation FROM reviews AS r WHERE r.result_id = f.result_id"
            " ORDER BY r.review_id DESC LIMIT 1)"
            " FROM verdict_facts AS f JOIN verdicts AS v ON v.result_id = f.result_id"
            f" WHERE {where} AND f.evaluation = 'NotOK' ORDER BY f.created_unix_s, f.result_id",
            values,
        )
        return [(json.loads(payload), said) for payload, said in rows]
