"""What people said of verdicts: rows that are only ever added, so that nothing said is lost or changed.

The latest review of a verdict is the one that stands; those before it stay beside it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from ulid import ULID

from edge.errors import DataError, MissingInputError
from edge.timestamps import utc_text
from edge.types import Evaluation, Review, Sinks

MOST_REASON = 2000  # characters
MOST_REVIEWER = 100
IDS_AT_ONCE = 500

# A row goes only when its verdict has gone; OR REPLACE would delete one without asking the trigger
SCHEMA = """
    CREATE TABLE reviews (
      review_id TEXT PRIMARY KEY, result_id TEXT NOT NULL, evaluation TEXT NOT NULL, agrees INTEGER NOT NULL,
      reason TEXT NOT NULL, reviewer TEXT NOT NULL, created_unix_s REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX reviews_by_result ON reviews (result_id, review_id);
    CREATE INDEX reviews_by_time ON reviews (created_unix_s);
    CREATE TRIGGER reviews_never_change BEFORE UPDATE ON reviews BEGIN
      SELECT RAISE(ABORT, 'a review is never changed');
    END;
    CREATE TRIGGER reviews_come_once BEFORE INSERT ON reviews
    WHEN EXISTS (SELECT 1 FROM reviews WHERE review_id = new.review_id) BEGIN
      SELECT RAISE(IGNORE);
    END;
    CREATE TRIGGER reviews_stay BEFORE DELETE ON reviews
    WHEN EXISTS (SELECT 1 FROM verdicts WHERE result_id = old.result_id) BEGIN
      SELECT RAISE(ABORT, 'a review stays as long as its verdict');
    END;
"""

COLUMNS = "review_id, result_id, evaluation, agrees, reason, reviewer, created_unix_s"
ULID_CHARACTERS = 26

Rows = Callable[[str, Sequence[Any]], list[Any]]


def checked(evaluation: object, reason: object, reviewer: object) -> tuple[Evaluation, str, str]:
    """What a person said, without blanks around it.

    Raises:
        DataError: it is not a review; the message begins with the field's name.
    """
    if evaluation not in get_args(Evaluation):
        raise DataError(f"evaluation: one of {', '.join(get_args(Evaluation))}", reason="bad_review")
    said = _text("reason", reason, MOST_REASON, "\n\t")
    who = _text("reviewer", reviewer, MOST_REVIEWER)
    if not who:
        raise DataError("reviewer: the name of who looked at it", reason="bad_review")
    return evaluation, said, who  # type: ignore[return-value]  # it is one of Evaluation's


def _text(name: str, value: object, most: int, allowed: str = "") -> str:
    if not isinstance(value, str) or len(value) > most:
        raise DataError(f"{name}: a text of at most {most} characters", reason="bad_review")
    # control and format characters (right-to-left marks) could make a record read otherwise than it is
    if any(not (one.isprintable() or one in allowed) for one in value):
        raise DataError(f"{name}: holds characters that cannot be shown", reason="bad_review")
    return value.strip()


def add(
    db: sqlite3.Connection,
    sinks: Sinks,
    result_id: str,
    said: tuple[Evaluation, str, str],
    now_unix_s: float,
) -> Review:
    """Write what `checked` gave, and a row for every sink; inside a transaction.

    Raises:
        MissingInputError: no such verdict.
        DataError: it overrules the verdict without a reason.
    """
    row = db.execute("SELECT payload FROM verdicts WHERE result_id = ?", (result_id,)).fetchone()
    if row is None:
        raise MissingInputError(f"no verdict {result_id!r}", hint="see edge review --list")
    verdict = json.loads(row[0])
    evaluation, reason, reviewer = said
    agrees = evaluation == verdict["resultEvaluation"]
    if not agrees and not reason:
        raise DataError("reason: needed, as it overrules the verdict", reason="bad_review")
    review = Review(
        _next_id(db, result_id, now_unix_s), result_id, evaluation, agrees, reason, reviewer, now_unix_s
    )
    db.execute(
        f"INSERT INTO reviews ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (review.review_id, result_id, evaluation, agrees, reason, reviewer, now_unix_s),
    )
    body = wire(review, verdict)
    db.executemany(
        "INSERT INTO outbox (sink, kind, result_id, body, created_unix_s) VALUES (?, 'review', ?, ?, ?)",
        [(sink, result_id, body, now_unix_s) for sink, wanted in sinks.items() if "review" in wanted],
    )
    return review


def _next_id(db: sqlite3.Connection, result_id: str, now_unix_s: float) -> str:
    """An id above all of this verdict's: the latest review is the last, even if the clock was set back."""
    found = str(ULID.from_timestamp(now_unix_s))
    (last,) = db.execute("SELECT max(review_id) FROM reviews WHERE result_id = ?", (result_id,)).fetchone()
    return found if last is None or found > last else str(ULID.from_int(int(ULID.from_str(last)) + 1))


def wire(review: Review, verdict: Mapping[str, Any]) -> bytes:
    """What goes on the wire (schema `edge/review/1`): the review, and what it is about."""
    about = ("station", "resultType", "recipeId", "partId", "batchId", "view", "resultEvaluation")
    said = {"schema": "edge/review/1", **document(review), **{key: verdict.get(key) for key in about}}
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def document(review: Review) -> dict[str, Any]:
    """A review as the API gives it."""
    return {
        "reviewId": review.review_id,
        "resultId": review.result_id,
        "evaluation": review.evaluation,
        "agrees": review.agrees,
        "reason": review.reason,
        "reviewer": review.reviewer,
        "createdAt": utc_text(review.created_unix_s),
    }


def of_results(rows: Rows, result_ids: Sequence[str]) -> dict[str, list[Review]]:
    """By result id all reviews, oldest first; verdicts without one are left out."""
    found: dict[str, list[Review]] = {}
    for start in range(0, len(result_ids), IDS_AT_ONCE):
        some = result_ids[start : start + IDS_AT_ONCE]
        marks = ", ".join("?" * len(some))
        query = f"SELECT {COLUMNS} FROM reviews WHERE result_id IN ({marks}) ORDER BY review_id"
        for row in rows(query, some):
            found.setdefault(row[1], []).append(as_review(row))
    return found


def latest(rows: Rows, limit: int, since_unix_s: float | None = None) -> list[Review]:
    """The last reviews, newest first."""
    since = "" if since_unix_s is None else " WHERE created_unix_s >= ?"
    values = [limit] if since_unix_s is None else [since_unix_s, limit]
    query = f"SELECT {COLUMNS} FROM reviews{since} ORDER BY created_unix_s DESC, review_id DESC LIMIT ?"
    return [as_review(row) for row in rows(query, values)]


def prune(db: sqlite3.Connection, before_unix_s: float) -> None:
    """Forget reviews from before then whose verdicts have gone; inside a transaction."""
    db.execute(
        "DELETE FROM reviews WHERE created_unix_s < ?"
        " AND NOT EXISTS (SELECT 1 FROM verdicts WHERE verdicts.result_id = reviews.result_id)",
        (before_unix_s,),
    )


def as_review(row: Sequence[Any]) -> Review:
    """A row of COLUMNS."""
    return Review(row[0], row[1], row[2], bool(row[3]), row[4], row[5], row[6])
