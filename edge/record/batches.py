"""Sums of relative scores by recipe, view, calibration and batch: one row each, so that a frame costs the
same however many there were before it. Written in the transaction of the frame's verdict.

A calibration has rows of its own: scores relative to one calibration are not held against limits of another.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Query = Callable[[str, Sequence[Any]], list[Any]]

# a migration of `edge.record.store`: never changed once released
SCHEMA = """
    CREATE TABLE spc_charts (
      id INTEGER PRIMARY KEY, recipe TEXT NOT NULL, view TEXT NOT NULL, calibration TEXT NOT NULL,
      mean REAL NOT NULL, sigma REAL, reference_frames INTEGER NOT NULL, updated_unix_s REAL NOT NULL,
      UNIQUE (recipe, view, calibration)
    );
    CREATE TABLE spc_batches (
      chart INTEGER NOT NULL REFERENCES spc_charts (id), batch TEXT NOT NULL, day TEXT NOT NULL,
      frames INTEGER NOT NULL, total REAL NOT NULL, squares REAL NOT NULL,
      first_unix_s REAL NOT NULL, last_unix_s REAL NOT NULL,
      PRIMARY KEY (chart, batch, day)
    ) WITHOUT ROWID;
    CREATE INDEX spc_batches_in_order ON spc_batches (chart, first_unix_s);
"""

_CHART = "SELECT id FROM spc_charts WHERE recipe = ? AND view = ? AND calibration = ?"


@dataclass(frozen=True, slots=True)
class ChartRow:
    """A recipe's view under one calibration, and what its good frames scored there."""

    recipe: str
    view: str  # '' where frames name none
    calibration: str  # sha256
    mean: float
    sigma: float | None
    reference_frames: int
    updated_unix_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchRow:
    """What is kept of a batch: `batch` is its id, or '' and `day` the date of frames that name none."""

    batch: str
    day: str
    frames: int
    total: float  # of relative scores
    squares: float
    first_unix_s: float
    last_unix_s: float

    @property
    def label(self) -> str:
        """What to call it."""
        return self.batch or self.day


def add(db: sqlite3.Connection, chart: ChartRow, batch: str, day: str, score: float, unix_s: float) -> None:
    """Count a frame's relative score; belongs inside a transaction."""
    who = chart.recipe, chart.view, chart.calibration
    db.execute(
        "INSERT INTO spc_charts (recipe, view, calibration, mean, sigma, reference_frames, updated_unix_s)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (recipe, view, calibration)"
        " DO UPDATE SET updated_unix_s = max(updated_unix_s, excluded.updated_unix_s)",
        (*who, chart.mean, chart.sigma, chart.reference_frames, unix_s),
    )
    db.execute(
        f"INSERT INTO spc_batches VALUES (({_CHART}), ?, ?, 1, ?, ?, ?, ?)"
        " ON CONFLICT (chart, batch, day) DO UPDATE SET frames = frames + 1,"
        " total = total + excluded.total, squares = squares + excluded.squares,"
        " first_unix_s = min(first_unix_s, excluded.first_unix_s),"
        " last_unix_s = max(last_unix_s, excluded.last_unix_s)",
        (*who, batch, day, score, score * score, unix_s, unix_s),
    )


def charts(query: Query, recipe: str | None, view: str | None) -> list[ChartRow]:
    """The latest chart of each recipe and view, sorted; None: of all."""
    rows = query(
        "SELECT recipe, view, calibration, mean, sigma, reference_frames, updated_unix_s FROM spc_charts"
        " WHERE (?1 IS NULL OR recipe = ?1) AND (?2 IS NULL OR view = ?2) ORDER BY updated_unix_s, id",
        (recipe, view),
    )
    latest = {(row[0], row[1]): ChartRow(*row) for row in rows}
    return [latest[key] for key in sorted(latest)]


def rows(query: Query, chart: ChartRow, last: int) -> list[BatchRow]:
    """The last batches of a chart, in the order in which they began."""
    found = query(
        f"SELECT batch, day, frames, total, squares, first_unix_s, last_unix_s FROM spc_batches"
        f" WHERE chart = ({_CHART})"
        " ORDER BY first_unix_s DESC, batch DESC, day DESC LIMIT ?",
        (chart.recipe, chart.view, chart.calibration, last),
    )
    return [BatchRow(*row) for row in reversed(found)]


def prune(db: sqlite3.Connection, before_unix_s: float) -> None:
    """Forget batches, and charts without any, that have not moved since then; inside a transaction."""
    db.execute("DELETE FROM spc_batches WHERE last_unix_s < ?", (before_unix_s,))
    db.execute(
        "DELETE FROM spc_charts WHERE updated_unix_s < ? AND id NOT IN (SELECT chart FROM spc_batches)",
        (before_unix_s,),
    )
