"""What the page asks of a site's database, over connections of its own that can only read.

A slow question never holds the store's lock: in WAL mode readers and the writer do not wait for each other.
A question that takes longer than `QUERY_S` is given up, since an old snapshot keeps the WAL from being
written back.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edge.errors import DataError, MissingInputError, UnavailableError
from edge.record import facts, reviews
from edge.timestamps import utc_text
from edge.types import VerdictFilter

QUERY_S = 2.0
CONNECTIONS = 4
STEPS_BETWEEN_LOOKS = 20_000  # of SQLite's machine
RECENT_FRAMES = 20_000  # among which reasons are looked for
MOST_BATCHES = 200
MOST_VIEWS = 1000

Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A verdict as it went on the wire, and the source it came from."""

    payload: Payload
    source: str | None
    path: str  # as the journal has it


class Queries:
    """Questions to the database; safe from any thread."""

    def __init__(self, file: Path) -> None:
        """Nothing is opened yet: the file may come later."""
        self._file = file
        self._idle: queue.LifoQueue[sqlite3.Connection | None] = queue.LifoQueue()
        for _ in range(CONNECTIONS):
            self._idle.put(None)
        self._closed = threading.Event()

    def close(self) -> None:
        """Close what is idle; what is in use closes when it is done."""
        self._closed.set()
        for _ in range(CONNECTIONS):
            try:
                db = self._idle.get_nowait()
            except queue.Empty:
                return
            if db is not None:
                db.close()

    def verdicts(self, wanted: VerdictFilter, limit: int) -> list[Payload]:
        """Payloads, newest first, each with its latest "review" or null.

        Raises:
            MissingInputError: the verdict that `before` or `after` names is not stored.
            UnavailableError: it takes too long, or the database cannot be read now.
        """
        with self._connection() as db:
            conditions, values = facts.where(wanted)
            for cursor, than in ((wanted.before, "<"), (wanted.after, ">")):
                if cursor is not None:
                    conditions.append(f"(f.created_unix_s, f.result_id) {than} (?, ?)")
                    values += self._place(db, cursor)
            if wanted.reviewed is not None:
                conditions.append(_REVIEWED[wanted.reviewed])
            where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
            ids = [
                row[0]
                for row in db.execute(
                    f"SELECT f.result_id FROM {facts.table(wanted)}{where}"
                    " ORDER BY f.created_unix_s DESC, f.result_id DESC LIMIT ?",
                    (*values, limit),
                )
            ]
            standing = latest_reviews(db, ids)
            stored = _payloads(db, ids)
        return [{**stored[one], "review": standing.get(one)} for one in ids if one in stored]

    def verdict(self, result_id: str) -> StoredVerdict | None:
        """One verdict, None if it is not stored."""
        with self._connection() as db:
            row = db.execute(
                "SELECT payload, source, path FROM verdicts WHERE result_id = ?", (result_id,)
            ).fetchone()
        return StoredVerdict(json.loads(row[0]), row[1], row[2] or "") if row else None

    def reviews(self, result_id: str) -> list[Payload]:
        """All reviews of a verdict, oldest first."""
        with self._connection() as db:
            found = reviews.of_results(partial(_rows, db), [result_id])
        return [reviews.document(one) for one in found.get(result_id, ())]

    def part_of(self, payload: Mapping[str, Any], views: Sequence[str]) -> Payload | None:
        """The part that a frame belongs to, or that a part's verdict is of; None where it names none.

        `views` are those that the recipe expects. The part's verdict is the one that lists this frame; until
        there is one, the views that came so far.
        """
        part, batch, recipe = payload.get("partId"), payload.get("batchId"), payload["recipeId"]
        if part is None:
            return None
        head = {"partId": part, "batchId": batch}
        if payload["resultType"] == "part":
            return {**head, "resultId": payload["resultId"], **_views(payload)}
        with self._connection() as db:
            rounds = db.execute(
                "SELECT v.payload FROM verdict_facts AS f JOIN verdicts AS v ON v.result_id = f.result_id"
                " WHERE f.part = ? AND f.part <> '' AND f.type = 'part' AND f.recipe = ? AND f.batch = ?"
                " ORDER BY f.created_unix_s DESC LIMIT 50",
                (part, recipe, batch or ""),
            ).fetchall()
            came = db.execute(
                "SELECT view, result_id, evaluation, score FROM part_views"
                " WHERE recipe = ? AND batch = ? AND part = ? ORDER BY view",
                (recipe, batch or "", part),
            ).fetchall()
        for (body,) in rounds:
            of_part = json.loads(body)
            if any(view["resultId"] == payload["resultId"] for view in of_part["views"]):
                return {**head, "resultId": of_part["resultId"], **_views(of_part)}
        if not came:
            return None
        names = ("view", "resultId", "resultEvaluation", "score")
        there = [dict(zip(names, row, strict=True)) for row in came]
        missing = [view for view in views if view not in {one["view"] for one in there}]
        return {**head, "resultId": None, "views": there, "missingViews": missing}

    def facets(self) -> Payload:
        """What can be filtered by: recipes, their views, the latest batches, reasons of late."""
        with self._connection() as db:
            views: dict[str, list[str]] = {}
            for recipe, view in _names(db):
                views.setdefault(recipe, []).extend([view] if view else [])
            batches = [row[0] for row in db.execute(_BATCHES, (MOST_BATCHES,))]
            recent = db.execute(
                "SELECT DISTINCT reasons FROM (SELECT reasons FROM verdict_facts"
                " ORDER BY created_unix_s DESC, result_id DESC LIMIT ?)",
                (RECENT_FRAMES,),
            ).fetchall()
        reasons = {reason for (listed,) in recent for reason in json.loads(listed)}
        return {"recipes": sorted(views), "views": views, "batches": batches, "reasons": sorted(reasons)}

    def scores(self, wanted: VerdictFilter, limit: int) -> list[Payload]:
        """The latest frames that have a score, oldest first."""
        conditions, values = facts.where(wanted)
        where = " AND ".join(["f.score IS NOT NULL", "f.type = 'frame'", *conditions])
        with self._connection() as db:
            rows = db.execute(
                f"SELECT f.created_unix_s, f.score, f.evaluation, f.result_id FROM {facts.table(wanted)}"
                f" WHERE {where} ORDER BY f.created_unix_s DESC, f.result_id DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        return [
            {"time": utc_text(row[0]), "score": row[1], "evaluation": row[2], "resultId": row[3]}
            for row in reversed(rows)
        ]

    def raw_scores(self, recipe: str, view: str, bundle_sha256: str, limit: int) -> list[Payload]:
        """The latest frames of a view that a bundle scored: raw score, evaluation, the latest review's."""
        with self._connection() as db:
            rows = db.execute(
                "SELECT f.result_id, f.score_raw, f.evaluation FROM verdict_facts AS f"
                " JOIN verdicts AS v ON v.result_id = f.result_id"
                " WHERE f.recipe = ? AND f.view = ? AND f.type = 'frame' AND f.score_raw IS NOT NULL"
                " AND json_extract(v.payload, '$.model.sha256') = ?"
                " ORDER BY f.created_unix_s DESC LIMIT ?",
                (recipe, view, bundle_sha256, limit),
            ).fetchall()
            standing = latest_reviews(db, [row[0] for row in rows])
        return [
            {
                "resultId": result_id,
                "scoreRaw": raw,
                "evaluation": evaluation,
                "truth": (standing.get(result_id) or {}).get("evaluation"),
            }
            for result_id, raw, evaluation in reversed(rows)
        ]

    def frames_since(self, since_unix_s: float) -> list[tuple[float, str, float | None]]:
        """(time, evaluation, seconds from settled to recorded) of frames since then, in order."""
        with self._connection() as db:
            return db.execute(
                "SELECT created_unix_s, evaluation, total_s FROM verdict_facts"
                " WHERE created_unix_s >= ? AND type = 'frame' ORDER BY created_unix_s",
                (since_unix_s,),
            ).fetchall()

    def _place(self, db: sqlite3.Connection, result_id: str) -> tuple[float, str]:
        row = db.execute(
            "SELECT created_unix_s, result_id FROM verdict_facts WHERE result_id = ?", (result_id,)
        ).fetchone()
        if row is None:
            raise MissingInputError(f"{result_id}: no such verdict is stored")
        return row[0], row[1]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for one question.

        Raises:
            UnavailableError: too slow, too many at a time, or not to be read now. DataError: damaged.
        """
        try:
            db = self._idle.get(timeout=QUERY_S)
        except queue.Empty:
            raise UnavailableError("the database is busy with other questions", hint="ask again") from None
        try:
            if self._closed.is_set():
                raise UnavailableError("the database is being closed", hint="ask again")
            db = db or self._open()
            ends_s = time.monotonic() + QUERY_S
            db.set_progress_handler(lambda: time.monotonic() > ends_s, STEPS_BETWEEN_LOOKS)
            yield db
        except sqlite3.OperationalError as error:
            slow = str(error) == "interrupted"
            raise UnavailableError(
                f"the answer takes longer than {QUERY_S:g} s" if slow else f"{self._file}: {error}",
                hint="ask for less: a shorter time, a recipe, a view" if slow else "check the disk",
            ) from None
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self._file}: not a usable database: {error}", hint="see edge run") from None
        finally:
            if db is not None and self._closed.is_set():
                db.close()
                db = None
            self._idle.put(db)

    def _open(self) -> sqlite3.Connection:
        uri = f"{self._file.resolve().as_uri()}?mode=ro"
        db = sqlite3.connect(uri, uri=True, timeout=QUERY_S, check_same_thread=False, isolation_level=None)
        db.execute("PRAGMA query_only=1")
        return db


# names by a jump from one to the next through the index: their number counts, not that of the verdicts
_NEXT_NAME = (
    "SELECT recipe, view FROM verdict_facts WHERE (recipe, view) > (?, ?) ORDER BY recipe, view LIMIT 1"
)
_BATCHES = """
    WITH RECURSIVE names (batch) AS (
      SELECT min(batch) FROM verdict_facts WHERE batch <> ''
      UNION ALL
      SELECT (SELECT min(f.batch) FROM verdict_facts AS f WHERE f.batch > names.batch AND f.batch <> '')
      FROM names WHERE names.batch IS NOT NULL
    )
    SELECT batch FROM names WHERE batch IS NOT NULL ORDER BY (
      SELECT max(f.created_unix_s) FROM verdict_facts AS f WHERE f.batch = names.batch AND f.batch <> ''
    ) DESC LIMIT ?
"""


def latest_reviews(db: sqlite3.Connection, result_ids: Sequence[str]) -> dict[str, Payload]:
    """The review that stands of each of these verdicts that has one."""
    found = reviews.of_results(partial(_rows, db), result_ids)
    return {result_id: reviews.document(listed[-1]) for result_id, listed in found.items() if listed}


def _payloads(db: sqlite3.Connection, result_ids: Sequence[str]) -> dict[str, Payload]:
    found: dict[str, Payload] = {}
    for some in _portions(result_ids):
        rows = db.execute(
            f"SELECT result_id, payload FROM verdicts WHERE result_id IN ({_marks(some)})", some
        )
        found.update((result_id, json.loads(body)) for result_id, body in rows)
    return found


def _rows(db: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[Any]:
    return db.execute(sql, values).fetchall()


_REVIEWED = {
    "yes": "f.result_id IN (SELECT result_id FROM reviews)",
    "no": "NOT EXISTS (SELECT 1 FROM reviews AS r WHERE r.result_id = f.result_id)",
    "overruled": "f.result_id IN (SELECT r.result_id FROM reviews AS r WHERE NOT r.agrees AND r.review_id ="
    " (SELECT max(review_id) FROM reviews WHERE result_id = r.result_id))",
}


def _names(db: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Each recipe with each of its views, '' for frames that name none."""
    last = ("", "")
    for _ in range(MOST_VIEWS):
        if (row := db.execute(_NEXT_NAME, last).fetchone()) is None:
            return
        last = (row[0], row[1])
        yield last


def _views(of_part: Mapping[str, Any]) -> Payload:
    return {"views": of_part["views"], "missingViews": of_part["missingViews"]}


def _portions(values: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
