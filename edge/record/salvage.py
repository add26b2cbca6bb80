"""What can still be read of a damaged database, into a new one.

SQLite gives up a table at the first bad page. Its rows are read forwards up to there, backwards from the
other end, and then from places in between, as long as any are found. A verdict that is not whole is left out:
nothing is made up. (Python's sqlite3 has no `.recover`, and what that finds in freed pages may have been
deleted.)
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from edge.record.reviews import COLUMNS, as_review, wire
from edge.types import Evaluation, Sinks

FIRST = ("outbox", "files", "verdicts", "reviews")  # what matters most, should the disk fill up meanwhile
# facts are made anew, by the triggers on verdicts
TABLES = (
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    " AND name <> 'verdict_facts'"
)
MOST_GAPS = 200  # of a table, that are looked into
CHUNK_ROWS = 1000
KEY_BYTES = 64  # of a text, to find one in between
TYPES: dict[str, type | tuple[type, ...]] = {
    "INTEGER": int, "REAL": (float, int), "TEXT": str, "BLOB": bytes,
}  # fmt: skip

Key = tuple[Any, ...]
Row = tuple[Any, ...]


@dataclass(slots=True)
class Salvaged:
    """What was read, by table; `torn` are tables of which something could not be read or was not whole."""

    read: bool = False  # it said which tables it has; without that nothing can be read
    rows: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    torn: set[str] = field(default_factory=set)
    again: int = 0  # verdicts that wait again, as it is not known whether they were sent


def salvage(damaged: Path, target: sqlite3.Connection, sinks: Sinks, only: Sequence[str] = ()) -> Salvaged:
    """Copy what is readable of a database into a fresh one that has all tables; one transaction.

    `only`: these tables.

    Raises:
        sqlite3.DatabaseError: the new one cannot be written.
    """
    found = Salvaged()
    if not damaged.exists() or not damaged.stat().st_size:
        return found  # SQLite would delete its write-ahead log
    db = sqlite3.connect(f"{damaged.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        names = {name for (name,) in db.execute(TABLES)} & {name for (name,) in target.execute(TABLES)}
        names &= set(only or names)
        found.read = True
        db.text_factory = bytes  # a text that is not UTF-8 must cost its row only
        target.execute("BEGIN")
        for name in sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
            _copy(_Table.of(name, db, target), target, found)
        _complete(target, sinks, found)
        target.execute("COMMIT")
    except sqlite3.DatabaseError:
        if found.read:  # the new one fails, as reading rows does not raise
            raise
    finally:
        db.close()
    return found


@dataclass(slots=True)
class _Table:
    """A table of the damaged database, read in the order of its key."""

    db: sqlite3.Connection
    name: str
    columns: dict[str, str]  # declared type by name
    keys: tuple[str, ...]
    torn: bool = False
    left_out: int = 0
    _stopped: bool = False  # the last run met what cannot be read

    @classmethod
    def of(cls, name: str, db: sqlite3.Connection, target: sqlite3.Connection) -> _Table:
        info = target.execute(f"PRAGMA table_info({name})").fetchall()
        old = {column[1].decode() for column in db.execute(f"PRAGMA table_info({name})")}
        columns = {column[1]: column[2] for column in info if column[1] in old}
        keys = sorted((column[5], column[1]) for column in info if column[5])
        return cls(db, name, columns, tuple(key for _, key in keys))

    def rows(self) -> Iterator[Row]:
        """All that are readable and of the declared types; some may come twice."""
        low = yield from self._run(None, None, ascending=True)
        if not self.torn:
            return
        high = yield from self._run(low, None, ascending=False)
        gaps = deque(self._bounded(low, high))
        for _ in range(MOST_GAPS):
            if not gaps:
                break
            gaps += yield from self._inside(*gaps.popleft())

    def _inside(self, low: Key, high: Key) -> Generator[Row, None, list[tuple[Key, Key]]]:
        """Rows between two keys that both border on what cannot be read; gives the gaps that remain.

        Places are tried ever closer to one end and the other: readable rows that reach from there twice as
        far as what is bad are found whatever the keys look like.
        """
        for middle in self._places(low, high):
            below = yield from self._run(low, middle, ascending=False)
            all_below = not self._stopped
            above = yield from self._run(middle, high, ascending=True)
            all_above = not self._stopped
            if below or above or all_below or all_above:
                gaps = [] if all_below else [(low, below or middle)]
                return gaps if all_above else [*gaps, (above or middle, high)]
        return []

    def _run(self, low: Key | None, high: Key | None, *, ascending: bool) -> Generator[Row, None, Key | None]:
        """Rows between two keys up to the first that cannot be read; gives the key of the last one."""
        last: Key | None = None
        self._stopped = False
        for most in ("", " LIMIT 1"):  # one by one at the end: a stream loses the row before a bad page
            more = True
            while more:
                more = False
                try:
                    for raw in self.db.execute(*self._query(low, high, ascending, most)):
                        values = self._decoded(raw)
                        if values is None:
                            self.left_out += 1
                            continue
                        last = tuple(values[key] for key in self.keys)
                        low, high = (last, high) if ascending else (low, last)
                        more = most != ""
                        yield tuple(values.values())
                except sqlite3.Error:
                    self.torn = self._stopped = True
                    more = False
                else:
                    if most == "":
                        return last
        return last

    def _query(self, low: Key | None, high: Key | None, ascending: bool, most: str) -> tuple[str, Key]:
        keys, marks = ", ".join(self.keys), ", ".join("?" * len(self.keys))
        limits = [f"({keys}) {sign} ({marks})" for sign, key in ((">", low), ("<", high)) if key is not None]
        order = ", ".join(f"{key} {'ASC' if ascending else 'DESC'}" for key in self.keys)
        where = f" WHERE {' AND '.join(limits)}" if limits else ""
        sql = f"SELECT {', '.join(self.columns)} FROM {self.name}{where} ORDER BY {order}{most}"
        return sql, (*(low or ()), *(high or ()))

    def _decoded(self, raw: Row) -> dict[str, Any] | None:
        """A row by column; None if it is not of the declared types."""
        values: dict[str, Any] = {}
        for (column, kind), value in zip(self.columns.items(), raw, strict=True):
            try:
                values[column] = value.decode() if kind == "TEXT" and isinstance(value, bytes) else value
            except UnicodeDecodeError:
                return None
            if value is not None and not isinstance(values[column], TYPES[kind]):
                return None
        return values if all(values[key] is not None for key in self.keys) else None

    def _bounded(self, low: Key | None, high: Key | None) -> list[tuple[Key, Key]]:
        """A gap with both its ends; where one is open, first among keys that differ in the last column."""
        least: Key = tuple(0 if self.columns[key] == "INTEGER" else "" for key in self.keys)
        most: Key = tuple(2**53 if self.columns[key] == "INTEGER" else "~" for key in self.keys)
        if low is not None and high is not None:
            return [(low, high)]
        if low is not None:
            near = (*low[:-1], most[-1])
            return [(low, near), (near, most)]
        if high is not None:
            near = (*high[:-1], least[-1])
            return [(near, high), (least, near)]
        return [(least, most)]

    def _places(self, low: Key, high: Key) -> Iterator[Key]:
        """Keys in between, by the first column in which the two differ."""
        place = next((n for n, (a, b) in enumerate(zip(low, high, strict=True)) if a != b), None)
        if place is None:
            return
        is_text = self.columns[self.keys[place]] != "INTEGER"
        a, b = (_number(key[place]) if is_text else key[place] for key in (low, high))
        rest = tuple(0 if self.columns[key] == "INTEGER" else "" for key in self.keys[place + 1 :])
        for halvings in range(1, abs(b - a).bit_length() + 1):
            for number in (a + ((b - a) >> halvings), b - ((b - a) >> halvings)):
                key = (*low[:place], _as_text(number) if is_text else number, *rest)
                if low < key < high:
                    yield key


def _number(text: str) -> int:
    return int.from_bytes(text.encode()[:KEY_BYTES].ljust(KEY_BYTES, b"\0"))


def _as_text(number: int) -> str:
    """The text of such a number, as close as ASCII comes to it."""
    return bytes(min(byte, 0x7E) for byte in number.to_bytes(KEY_BYTES)).rstrip(b"\0").decode()


def _copy(table: _Table, target: sqlite3.Connection, found: Salvaged) -> None:
    check = CHECKS.get(table.name)
    into = f"INSERT OR IGNORE INTO {table.name} ({', '.join(table.columns)}) VALUES ({_marks(table.columns)})"
    chunk: list[Row] = []
    for row in table.rows():
        if check is None or check(dict(zip(table.columns, row, strict=True))):
            chunk.append(row)
        else:
            table.left_out += 1
        if len(chunk) == CHUNK_ROWS:
            target.executemany(into, chunk)
            chunk.clear()
    target.executemany(into, chunk)
    (found.rows[table.name],) = target.execute(f"SELECT count(*) FROM {table.name}").fetchone()
    found.left_out += table.left_out
    if table.torn or table.left_out:
        found.torn.add(table.name)


def _marks(columns: Iterable[str]) -> str:
    return ", ".join("?" for _ in columns)


def _is_verdict(row: dict[str, Any]) -> bool:
    payload = _payload(row["payload"])
    return bool(
        payload.get("resultId") == row["result_id"] and payload.get("resultEvaluation") == row["evaluation"]
    )


def _is_waiting(row: dict[str, Any]) -> bool:
    return bool(_payload(row["body"]).get("resultId") == row["result_id"])


def _payload(text: str | bytes) -> dict[str, Any]:
    try:
        payload = json.loads(text)
    except ValueError:
        return {}
    return payload if isinstance(payload, dict) else {}


def _is_review(row: dict[str, Any]) -> bool:
    return row["evaluation"] in get_args(Evaluation) and row["agrees"] in (0, 1)


CHECKS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "verdicts": _is_verdict, "outbox": _is_waiting, "reviews": _is_review,
}  # fmt: skip


def _complete(target: sqlite3.Connection, sinks: Sinks, found: Salvaged) -> None:
    """Mend what one table lost from what the others say."""
    _verdicts_from_outbox(target)
    _reviews_from_outbox(target)
    if "verdicts" in found.torn:
        _forget_journal_without_verdicts(target)
    if "files" in found.torn:
        _journal_from_verdicts(target)
    if "outbox" in found.torn:
        _send_again(target, sinks, found)
    for name in set(FIRST) & set(found.rows):
        (found.rows[name],) = target.execute(f"SELECT count(*) FROM {name}").fetchone()


def _verdicts_from_outbox(target: sqlite3.Connection) -> None:
    """A waiting result carries its whole verdict."""
    rows = target.execute(
        "SELECT result_id, kind, body FROM outbox WHERE kind <> 'review'"
        " AND result_id NOT IN (SELECT result_id FROM verdicts)"
    ).fetchall()
    for result_id, kind, body in rows:
        payload = _payload(body)
        image = payload.get("image") or {}
        try:
            created = datetime.fromisoformat(payload["creationTime"]).timestamp()
            evaluation, recipe = payload["resultEvaluation"], payload["recipeId"]
        except (KeyError, ValueError, TypeError):
            continue
        source = target.execute(
            "SELECT source FROM files WHERE path = ? AND sha256 = ?", (image.get("path"), image.get("sha256"))
        ).fetchone()
        target.execute(
            "INSERT OR IGNORE INTO verdicts (result_id, type, recipe, part, batch, view, evaluation,"
            " created_unix_s, source, path, sha256, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                result_id, kind, recipe, payload.get("partId"), payload.get("batchId"), payload.get("view"),
                evaluation, created, source and source[0], image.get("path") or "", image.get("sha256"),
                body.decode(),
            ),
        )  # fmt: skip


def _reviews_from_outbox(target: sqlite3.Connection) -> None:
    """A waiting review is all there."""
    for (body,) in target.execute("SELECT body FROM outbox WHERE kind = 'review'").fetchall():
        said = _payload(body)
        try:
            created = datetime.fromisoformat(said["createdAt"]).timestamp()
            values = [said[key] for key in ("reviewId", "resultId", "evaluation")]
            values += [int(said["agrees"]), said["reason"], said["reviewer"], created]
        except (KeyError, ValueError, TypeError):
            continue
        target.execute(f"INSERT OR IGNORE INTO reviews ({COLUMNS}) VALUES ({_marks(values)})", values)


def _forget_journal_without_verdicts(target: sqlite3.Connection) -> None:
    """A file whose verdict is lost is judged again; verdicts older than all that are left were pruned."""
    target.execute("CREATE INDEX salvage_by_content ON verdicts (source, path, sha256)")
    target.execute(
        "DELETE FROM files WHERE NOT EXISTS (SELECT 1 FROM verdicts AS v WHERE v.source = files.source"
        " AND v.path = files.path AND v.sha256 = files.sha256) AND recorded_unix_s >="
        " (SELECT coalesce(min(created_unix_s), 0) FROM verdicts)"
    )
    target.execute("DROP INDEX salvage_by_content")


def _journal_from_verdicts(target: sqlite3.Connection) -> None:
    """What was judged is read again, as its size and time are not known, and known by its content."""
    target.execute(
        "INSERT OR IGNORE INTO files (source, path, size_bytes, mtime_ns, sha256, recorded_unix_s)"
        " SELECT source, path, -1, -1, sha256, created_unix_s FROM verdicts"
        " WHERE type = 'frame' AND source IS NOT NULL AND sha256 <> '' ORDER BY created_unix_s DESC"
    )


def _send_again(target: sqlite3.Connection, sinks: Sinks, found: Salvaged) -> None:
    """Where it is not known what waited, every verdict and review waits: receivers drop copies by their
    resultId and reviewId, and nothing makes up for one that never came. In the order in which they were made.
    """
    ((before,),) = target.execute("SELECT count(*) FROM outbox").fetchall()
    for sink, wanted in sinks.items():
        target.execute(
            "DELETE FROM outbox WHERE sink = ? AND result_id IN (SELECT result_id FROM verdicts)", (sink,)
        )
        target.execute(
            "INSERT INTO outbox (sink, kind, result_id, body, created_unix_s)"
            " SELECT ?, type, result_id, CAST(payload AS BLOB), created_unix_s FROM verdicts"
            " WHERE type IN (SELECT value FROM json_each(?)) ORDER BY created_unix_s, result_id",
            (sink, json.dumps(list(wanted))),
        )
    _send_reviews_again(target, sinks)
    ((after,),) = target.execute("SELECT count(*) FROM outbox").fetchall()
    found.again = after - before


def _send_reviews_again(target: sqlite3.Connection, sinks: Sinks) -> None:
    rows = target.execute(
        f"SELECT {', '.join(f'r.{name.strip()}' for name in COLUMNS.split(','))}, v.payload"
        " FROM reviews AS r JOIN verdicts AS v ON v.result_id = r.result_id ORDER BY r.review_id"
    ).fetchall()
    receivers = [sink for sink, wanted in sinks.items() if "review" in wanted]
    for *row, payload in rows:
        review = as_review(row)
        body = wire(review, _payload(payload))
        target.executemany(
            "INSERT INTO outbox (sink, kind, result_id, body, created_unix_s) VALUES (?, 'review', ?, ?, ?)",
            [(sink, review.result_id, body, review.created_unix_s) for sink in receivers],
        )
