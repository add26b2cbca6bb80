"""SQLite store. A verdict, its journal row and its outbox rows are written in one transaction or not at all.

WAL with synchronous=FULL: a committed transaction survives power loss. One connection, guarded by a lock: the
daemon has one writer that matters (the record stage), deliveries only delete.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from edge.artifacts import make_folder, sync_folder, write_atomic
from edge.errors import CannotWriteError, DataError, EdgeError, UnavailableError
from edge.record import batches, facts, reviews
from edge.record.age import clock_jumped
from edge.record.batches import BatchRow, ChartRow
from edge.types import Candidate, Evaluation, FileStamp, Identity, Message, Review, Sinks, Verdict

SCHEMA_VERSION = 5
DAMAGED = "database_damaged"

# Each entry brings the schema from its index to the next version; entries are never changed once released.
MIGRATIONS = (
    """
    CREATE TABLE files (
      source TEXT NOT NULL, path TEXT NOT NULL, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
      sha256 TEXT NOT NULL, recorded_unix_s REAL NOT NULL,
      PRIMARY KEY (source, path)
    ) WITHOUT ROWID;
    CREATE TABLE verdicts (
      result_id TEXT PRIMARY KEY, type TEXT NOT NULL, recipe TEXT NOT NULL, part TEXT, batch TEXT, view TEXT,
      evaluation TEXT NOT NULL, created_unix_s REAL NOT NULL,
      source TEXT, path TEXT, sha256 TEXT, payload TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX verdicts_by_time ON verdicts (created_unix_s);
    CREATE INDEX verdicts_by_outcome ON verdicts (type, evaluation);
    CREATE TABLE parts (
      recipe TEXT NOT NULL, batch TEXT NOT NULL, part TEXT NOT NULL, updated_unix_s REAL NOT NULL,
      closed INTEGER NOT NULL, is_partial INTEGER NOT NULL,
      PRIMARY KEY (recipe, batch, part)
    ) WITHOUT ROWID;
    CREATE INDEX open_parts ON parts (updated_unix_s) WHERE NOT closed;
    CREATE TABLE part_views (
      recipe TEXT NOT NULL, batch TEXT NOT NULL, part TEXT NOT NULL, view TEXT NOT NULL,
      result_id TEXT NOT NULL, evaluation TEXT NOT NULL, score REAL, repeated INTEGER NOT NULL,
      PRIMARY KEY (recipe, batch, part, view)
    ) WITHOUT ROWID;
    CREATE TABLE outbox (
      id INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL, kind TEXT NOT NULL,
      result_id TEXT NOT NULL, body BLOB NOT NULL, created_unix_s REAL NOT NULL
    );
    CREATE INDEX outbox_by_sink ON outbox (sink, id);
    """,
    batches.SCHEMA,
    "CREATE INDEX verdicts_by_content ON verdicts (sha256) WHERE sha256 <> '';",
    facts.SCHEMA,
    reviews.SCHEMA,
)


@dataclass(frozen=True, slots=True)
class PartKey:
    """What makes a part: its recipe, batch ('' where there is none) and id."""

    recipe: str
    batch: str
    part: str


@dataclass(frozen=True, slots=True)
class PartRow:
    """The state of a part's current round of inspection."""

    key: PartKey
    updated_unix_s: float
    closed: bool
    is_partial: bool


class Store:
    """The site's database file."""

    def __init__(
        self, file: Path, sinks: Sinks | None = None, takes_long: Callable[[], None] = lambda: None
    ) -> None:
        """Open or create it, and bring its schema up to date, after saying that it `takes_long`.

        Raises:
            CannotWriteError: the file cannot be opened or written.
            DataError: it is damaged, or written by a newer edge.
        """
        self._file = file
        self.damaged = ""  # what SQLite said, once it has met damage: the daemon stops, and recovers at start
        self.disk_full = False  # the last transaction found no space
        self._sinks, self._takes_long = dict(sinks or {}), takes_long
        self._lock = threading.RLock()
        self._counts: Counter[tuple[str, str]] = Counter()  # stored verdicts by (type, evaluation)
        self._made: Counter[tuple[str, str]] = Counter()  # in the transaction that is open
        self._moved: set[tuple[str, str]] = set()  # charts with new frames: recipe, view
        try:
            make_folder(file.parent)
            self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._migrate(file)
            self._count()
            sync_folder(file.parent)  # SQLite does so for its journals, and does not say when it fails
        except sqlite3.DatabaseError as error:
            self._give_up()
            # SQLITE_ERROR: tables are not what the version in the header says
            if isinstance(error, sqlite3.OperationalError) and _code(error) != sqlite3.SQLITE_ERROR:
                raise CannotWriteError(
                    f"{file}: {error}", hint="check space, permissions, and that paths.state is a local disk"
                ) from None
            raise DataError(
                f"{file}: not a usable database: {error}",
                hint="edge run sets it aside and goes on with what can be read of it",
                reason=DAMAGED,
            ) from None
        except OSError as error:
            self._give_up()
            raise CannotWriteError(f"{file}: {error}", hint="check paths.state in config.toml") from None
        except DataError:
            self._give_up()
            raise

    def _give_up(self) -> None:
        if db := getattr(self, "_db", None):
            db.close()

    def _migrate(self, file: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise DataError(
                f"{file}: written by a newer edge (schema {version}, this one knows {SCHEMA_VERSION})",
                hint="install the newer version again",
            )
        if 0 < version < SCHEMA_VERSION:
            self._takes_long()
        for step in range(version, SCHEMA_VERSION):
            self._db.executescript(f"BEGIN; {MIGRATIONS[step]} PRAGMA user_version={step + 1}; COMMIT;")

    def close(self) -> None:
        """Close the file; later calls fail."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All calls inside are written together or not at all.

        Raises:
            CannotWriteError: the disk is full, read-only or failing; nothing was written.
            DataError: the database is damaged.
        """
        with self._lock:
            try:
                if self._db.in_transaction:  # a rollback that failed
                    self._db.execute("ROLLBACK")
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    self._made.clear()
                    if self._db.in_transaction:  # SQLite rolls back by itself where the disk fails
                        self._db.execute("ROLLBACK")
                    raise
                self._counts.update(self._made)
                self._made.clear()
                self.disk_full = False
            except sqlite3.DatabaseError as error:
                self.disk_full = _code(error) == sqlite3.SQLITE_FULL
                raise self._failed(error, CannotWriteError) from None

    def _failed(
        self, error: sqlite3.DatabaseError, kind: type[CannotWriteError] | type[UnavailableError]
    ) -> Exception:
        """What to raise: of a fault of the disk, of damage, or what nobody foresaw as it is."""
        if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self.damaged = str(error)
            with contextlib.suppress(EdgeError):
                write_atomic(suspect_mark(self._file), f"{error}\n".encode())
            return DataError(
                f"{self._file}: damaged: {error}",
                hint="it is checked at the next start, and set aside if it is",
                reason=DAMAGED,
            )
        if isinstance(error, sqlite3.OperationalError):
            return kind(f"database: {error}", hint="check the disk that paths.state is on")
        return error

    # journal

    def is_recorded(self, source: str, path: str, stamp: FileStamp) -> bool:
        """Whether this file, as it is now, has its verdict."""
        row = self._row(
            "SELECT size_bytes, mtime_ns FROM files WHERE source = ? AND path = ?", (source, _text(path))
        )
        return row is not None and tuple(row) == (stamp.size_bytes, stamp.mtime_ns)

    def has_verdict(self, source: str, path: str, sha256: str) -> bool:
        """Whether this content under this name has its verdict, whatever its mtime is now."""
        return (
            bool(sha256)
            and self._row(
                "SELECT 1 FROM files WHERE source = ? AND path = ? AND sha256 = ?",
                (source, _text(path), sha256),
            )
            is not None
        )

    def add_file(self, candidate: Candidate, sha256: str, now_unix_s: float) -> None:
        """Journal a file as judged."""
        stamp = candidate.stamp
        self._db.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
            (candidate.source, _text(candidate.path), stamp.size_bytes, stamp.mtime_ns, sha256, now_unix_s),
        )

    # verdicts and outbox

    def add_verdict(self, verdict: Verdict, body: bytes, source: str | None = None) -> None:
        """Store a verdict and put `body`, its JSON, into the outbox of every sink that wants it."""
        self._made[verdict.result_type, verdict.evaluation] += 1
        image: Mapping[str, Any] = verdict.payload.get("image") or {}
        who = verdict.identity
        self._db.execute(
            "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                verdict.result_id, verdict.result_type, verdict.recipe, who.part, who.batch, who.view,
                verdict.evaluation, verdict.created_unix_s, source, _text(image.get("path") or ""),
                image.get("sha256"), body.decode(),
            ),
        )  # fmt: skip
        self._db.executemany(
            "INSERT INTO outbox (sink, kind, result_id, body, created_unix_s) VALUES (?, ?, ?, ?, ?)",
            [
                (sink, verdict.result_type, verdict.result_id, body, verdict.created_unix_s)
                for sink, wanted in self._sinks.items()
                if verdict.result_type in wanted
            ],
        )

    def is_known(self, source: str, path: str) -> bool:
        """Whether a file of this name was ever judged."""
        return (
            self._row("SELECT 1 FROM files WHERE source = ? AND path = ?", (source, _text(path))) is not None
        )

    def verdicts_on(
        self, source: str, recipe: str, sha256: str, who: Identity | None
    ) -> list[dict[str, Any]]:
        """Payloads of a recipe's first verdicts on this content; with `who`, of that part, batch and view."""
        narrower = ""
        values: tuple[str | None, ...] = ()
        if who is not None:
            narrower, values = " AND part IS ? AND batch IS ? AND view IS ?", (who.part, who.batch, who.view)
        rows = self._rows(
            "SELECT payload FROM verdicts WHERE sha256 = ? AND sha256 <> '' AND source = ? AND recipe = ?"
            f"{narrower}"
            " ORDER BY created_unix_s, result_id LIMIT 100",
            (sha256, source, recipe, *values),
        )
        return [json.loads(payload) for (payload,) in rows]

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """The payloads of the last verdicts, newest first."""
        rows = self._rows(
            "SELECT payload FROM verdicts ORDER BY created_unix_s DESC, result_id DESC LIMIT ?", (limit,)
        )
        return [json.loads(payload) for (payload,) in rows]

    def scores(
        self, recipe: str, calibration: str, since_unix_s: float, limit: int, *, newest: bool
    ) -> list[tuple[str | None, str | None, float, float]]:
        """(view, batch and part, created, normalised score) of frames judged by a calibration since then.

        From the oldest or from the newest on; `limit` is of frames of the recipe, by whatever calibration.
        """
        rows = self._rows(
            "SELECT view, coalesce(batch, '') || char(10) || part, created_unix_s, "
            "json_extract(payload, '$.score', "
            "'$.model.calibration_sha256', '$.isHistorical') FROM verdicts "
            "WHERE type = 'frame' AND recipe = ? AND created_unix_s >= ? "
            f"ORDER BY created_unix_s {'DESC' if newest else ''} LIMIT ?",
            (recipe, since_unix_s, limit),
        )
        said = [(view, part, unix_s, *json.loads(found)) for view, part, unix_s, found in rows]
        return [
            (view, part, unix_s, float(score))
            for view, part, unix_s, score, by, historical in said
            if score is not None and by == calibration and not historical
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Stored verdicts by type and evaluation."""
        counts: dict[str, dict[str, int]] = {"frame": {}, "part": {}}
        with self._lock:
            for (kind, evaluation), n in self._counts.items():
                counts[kind][evaluation] = n
        return counts

    def _count(self) -> None:
        rows = self._rows("SELECT type, evaluation, count(*) FROM verdicts GROUP BY type, evaluation")
        self._counts = Counter({(kind, evaluation): n for kind, evaluation, n in rows})

    def prunable_before(self, now_unix_s: float, max_age_s: float) -> float:
        """The time before which verdicts are too old; -inf where the clock seems to have jumped."""
        limit = now_unix_s - max_age_s
        ((gone, kept),) = self._rows(
            "SELECT (SELECT max(created_unix_s) FROM verdicts WHERE created_unix_s < ?1),"
            " (SELECT min(created_unix_s) FROM verdicts WHERE created_unix_s >= ?1)",
            (limit,),
        )
        gone, kept = (-inf if gone is None else gone), (now_unix_s if kept is None else kept)
        return -inf if clock_jumped(gone, kept, max_age_s) else limit

    def prune(self, before_unix_s: float, limit: int) -> int:
        """Forget up to `limit` delivered verdicts, and closed parts, from before then; gives their number.

        A verdict that was reviewed since then stays, as a review without it says nothing; then both go. The
        journal of files stays: it keeps frames that still lie in their folder from being judged again.
        `before_unix_s` comes from `prunable_before`.
        """
        with self.transaction():  # no review may come in between
            old = self._rows(
                "SELECT result_id, type, evaluation FROM verdicts WHERE created_unix_s < ?"
                f" AND result_id NOT IN (SELECT result_id FROM outbox WHERE sink IN ({self._marks}))"
                " AND result_id NOT IN (SELECT result_id FROM reviews WHERE created_unix_s >= ?)"
                " ORDER BY created_unix_s LIMIT ?",
                (before_unix_s, *self._sinks, before_unix_s, limit),
            )
            self._db.executemany("DELETE FROM verdicts WHERE result_id = ?", [row[:1] for row in old])
            # only sinks that are no longer configured still wait for them
            self._db.executemany("DELETE FROM outbox WHERE result_id = ?", [row[:1] for row in old])
            reviews.prune(self._db, before_unix_s)
            self._db.execute(
                "DELETE FROM part_views WHERE (recipe, batch, part) IN"
                " (SELECT recipe, batch, part FROM parts WHERE closed AND updated_unix_s < ?)",
                (before_unix_s,),
            )
            self._db.execute("DELETE FROM parts WHERE closed AND updated_unix_s < ?", (before_unix_s,))
        with self._lock:
            self._counts.subtract((kind, evaluation) for _, kind, evaluation in old)
        return len(old)

    def pending(self, sink: str, after_row_id: int, limit: int) -> list[Message]:
        """Rows of a sink's outbox in order."""
        rows = self._rows(
            "SELECT id, kind, result_id, body FROM outbox WHERE sink = ? AND id > ? ORDER BY id LIMIT ?",
            (sink, after_row_id, limit),
        )
        return [Message(*row) for row in rows]

    def delete(self, sink: str, row_ids: Sequence[int]) -> None:
        """Forget rows that the sink has acknowledged."""
        with self.transaction():
            self._db.executemany(
                "DELETE FROM outbox WHERE sink = ? AND id = ?", [(sink, row_id) for row_id in row_ids]
            )

    def abandoned(self) -> dict[str, int]:
        """How many verdicts wait for sinks that are no longer configured, by their names."""
        query = f"SELECT sink, count(*) FROM outbox WHERE sink NOT IN ({self._marks}) GROUP BY sink"
        rows = self._rows(query, tuple(self._sinks))
        return {sink: int(n) for sink, n in rows}

    @property
    def _marks(self) -> str:
        return ", ".join("?" * len(self._sinks))

    def depth(self, sink: str) -> int:
        """How many verdicts wait for a sink."""
        row = self._row("SELECT count(*) FROM outbox WHERE sink = ?", (sink,))
        return int(row[0]) if row else 0

    def oldest_unix_s(self, sink: str) -> float | None:
        """When the verdict that waits longest was made."""
        row = self._row("SELECT created_unix_s FROM outbox WHERE sink = ? ORDER BY id LIMIT 1", (sink,))
        return float(row[0]) if row else None

    # reviews

    def add_review(
        self, result_id: str, evaluation: str, reason: str, reviewer: str, now_unix_s: float
    ) -> Review:
        """Store what a person said of a verdict, and put it into the outbox of every sink that wants it.

        Raises:
            MissingInputError: no such verdict. DataError: it is not a review, or lacks a reason.
        """
        said = reviews.checked(evaluation, reason, reviewer)
        with self.transaction():
            return reviews.add(self._db, self._sinks, result_id, said, now_unix_s)

    def reviews_of(self, result_ids: Sequence[str]) -> dict[str, list[Review]]:
        """By result id all reviews, oldest first; the last one stands."""
        return reviews.of_results(self._rows, result_ids)

    def latest_reviews(self, limit: int, since_unix_s: float | None = None) -> list[Review]:
        """The last reviews, newest first."""
        return reviews.latest(self._rows, limit, since_unix_s)

    def verdict(self, result_id: str) -> tuple[dict[str, Any], str | None] | None:
        """A verdict's payload and the source of its frame; None: no such verdict."""
        row = self._row("SELECT payload, source FROM verdicts WHERE result_id = ?", (result_id,))
        return (json.loads(row[0]), row[1]) if row else None

    # quality over batches

    def add_to_batch(self, chart: ChartRow, batch: str, day: str, score: float, unix_s: float) -> None:
        """Count a frame's relative score in its batch."""
        batches.add(self._db, chart, batch, day, score, unix_s)
        self._moved.add((chart.recipe, chart.view))

    def spc_charts(self, recipe: str | None = None, view: str | None = None) -> list[ChartRow]:
        """The latest chart of each recipe and view that has one, sorted."""
        return batches.charts(self._rows, recipe, view)

    def spc_batches(self, chart: ChartRow, last: int) -> list[BatchRow]:
        """Its last batches, in the order in which they began."""
        return batches.rows(self._rows, chart, last)

    def take_moved_charts(self) -> set[tuple[str, str]]:
        """Recipe and view of charts with new frames since the last call."""
        with self._lock:
            moved, self._moved = self._moved, set()
            return moved

    def prune_batches(self, before_unix_s: float) -> None:
        """Forget batches without a frame since then."""
        with self.transaction():
            batches.prune(self._db, before_unix_s)

    # parts

    def part(self, key: PartKey) -> PartRow | None:
        """A part's state, if it was ever seen."""
        row = self._row(
            "SELECT updated_unix_s, closed, is_partial FROM parts"
            " WHERE recipe = ? AND batch = ? AND part = ?",
            (key.recipe, key.batch, key.part),
        )
        return PartRow(key, row[0], bool(row[1]), bool(row[2])) if row else None

    def part_views(self, key: PartKey) -> list[tuple[str, str, Evaluation, float | None, bool]]:
        """(view, result id, evaluation, score, repeated) of the current round."""
        rows = self._rows(
            "SELECT view, result_id, evaluation, score, repeated FROM part_views"
            " WHERE recipe = ? AND batch = ? AND part = ? ORDER BY view",
            (key.recipe, key.batch, key.part),
        )
        return [(*row[:4], bool(row[4])) for row in rows]

    def save_part(self, row: PartRow) -> None:
        """Write a part's state."""
        key = row.key
        self._db.execute(
            "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?)",
            (key.recipe, key.batch, key.part, row.updated_unix_s, row.closed, row.is_partial),
        )

    def save_part_view(
        self,
        key: PartKey,
        view: str,
        result_id: str,
        evaluation: str,
        score: float | None,
        repeated: bool = False,
    ) -> None:
        """Write a view's latest result."""
        self._db.execute(
            "INSERT OR REPLACE INTO part_views VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (key.recipe, key.batch, key.part, view, result_id, evaluation, score, repeated),
        )

    def clear_part_views(self, key: PartKey) -> None:
        """Begin a new round."""
        self._db.execute(
            "DELETE FROM part_views WHERE recipe = ? AND batch = ? AND part = ?",
            (key.recipe, key.batch, key.part),
        )

    def open_parts(self, recipe: str, updated_before_unix_s: float) -> list[PartRow]:
        """Parts of a recipe that wait for views and have not moved since then."""
        rows = self._rows(
            "SELECT batch, part, updated_unix_s, is_partial FROM parts"
            " WHERE NOT closed AND recipe = ? AND updated_unix_s <= ?",
            (recipe, updated_before_unix_s),
        )
        return [PartRow(PartKey(recipe, b, p), updated, False, bool(part)) for b, p, updated, part in rows]

    def restart_part_clocks(self, now_unix_s: float) -> None:
        """At start: time that the daemon was away does not count against a part."""
        with self.transaction():
            self._db.execute("UPDATE parts SET updated_unix_s = ? WHERE NOT closed", (now_unix_s,))

    def shift_part_clocks(self, by_s: float) -> None:
        """The wall clock was set by so much: parts that wait have waited no longer for it."""
        with self.transaction():
            self._db.execute("UPDATE parts SET updated_unix_s = updated_unix_s + ? WHERE NOT closed", (by_s,))

    def _row(self, sql: str, values: Sequence[Any] = ()) -> Any:
        return next(iter(self._rows(sql, values)), None)

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise self._failed(error, UnavailableError) from None


def suspect_mark(file: Path) -> Path:
    """The file that says that a run has met damage in its database: the next start checks all of it."""
    return file.with_name(file.name + ".suspect")


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, sqlite.org/rescode.html."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _text(path: str) -> str:
    """A path as SQLite can hold it: bytes of a name that are not UTF-8 are written out."""
    return path.encode("utf-8", "backslashreplace").decode()
