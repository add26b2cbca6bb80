"""A damaged database: set aside, never deleted, never silently replaced by an empty one.

What is readable of it is copied into a new one, with which the daemon goes on inspecting. As long as the
damaged file lies beside it, the daemon is not ready, so that somebody looks at it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge.artifacts import sync_folder, write_atomic
from edge.errors import CannotWriteError, DataError
from edge.record.salvage import Salvaged, salvage
from edge.record.store import DAMAGED, Store, suspect_mark
from edge.types import Sinks

JOURNALS = ("-wal", "-shm")
REPORT = ".json"
PAGE_BYTES = 4096  # SQLite's default, which is used
FIRST_TABLES = ("outbox", "files", "verdicts", "parts", "part_views")


@dataclass(frozen=True, slots=True)
class SetAside:
    """A damaged database that lies beside the one in use, and what was saved from it."""

    name: str
    why: str
    verdicts: int = 0
    waiting: int = 0
    files: int = 0
    left_out: int = 0
    again: int = 0
    whole: bool = False  # nothing is known to be missing

    def __str__(self) -> str:
        missing = "nothing is known to be missing" if self.whole else "some could not be read"
        saved = f"{self.verdicts} verdicts, {self.waiting} waiting results, {self.files} journal rows saved"
        if self.again:
            saved += f" ({self.again} sent again, because what had arrived could not be read)"
        return f"{self.name} was set aside ({self.why}): {saved}, {missing}; look at it, then move it away"


def open_store(
    file: Path,
    sinks: Sinks,
    *,
    log: Any,
    unix_clock: Callable[[], float] = time.time,
    takes_long: Callable[[], None] = lambda: None,
) -> Store:
    """The site's database; a damaged one is set aside first, and what is readable of it taken over.

    `takes_long` is called before it is checked and read: minutes, where there are millions of rows.

    Raises:
        CannotWriteError: it cannot be opened or written. DataError: a newer edge has written it.
    """
    try:
        _finish(file)
        if suspect_mark(file).exists():
            takes_long()
        why = _damage(file)
        if not why:
            try:
                return Store(file, sinks, takes_long)
            except DataError as error:
                if error.reason != DAMAGED:
                    raise
                why = error.message
        log.error("database.damaged", file=str(file), why=why)
        takes_long()
        _save_what_is_readable(file, why, sinks, unix_clock())
        _finish(file)
    except (OSError, sqlite3.DatabaseError) as error:
        raise CannotWriteError(
            f"{file}: {error}", hint="check the disk that paths.state is on, and its free space"
        ) from None
    for one in set_aside(file):
        log.critical("database.set_aside", **asdict(one))
    return Store(file, sinks)


def set_aside(file: Path) -> list[SetAside]:
    """The damaged databases that lie beside this one, oldest first."""
    return [
        _report(found) for found in sorted(file.parent.glob(f"{file.name}.damaged-*Z*")) if _is_one(found)
    ]


def _is_one(found: Path) -> bool:
    return not found.name.endswith((*JOURNALS, REPORT))


def _report(found: Path) -> SetAside:
    try:
        return SetAside(**json.loads(found.with_name(found.name + REPORT).read_bytes()))
    except (OSError, ValueError, TypeError):
        return SetAside(found.name, "its report cannot be read")


def _damage(file: Path) -> str:
    """What is known to be wrong with a database before it is opened; '' if nothing is."""
    log = file.with_name(file.name + "-wal")
    if _size(log) and not _size(file):  # SQLite would delete the log with what was committed to it
        return "there is a write-ahead log, but the database is empty or gone"
    mark = suspect_mark(file)
    if not mark.exists():
        return ""
    why = _integrity(file)
    if not why:
        mark.unlink()
    return why


def _integrity(file: Path) -> str:
    """What SQLite says of every page and index; '' if all is well, as after a fault of memory or cable."""
    try:
        db = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        try:
            ((said,),) = db.execute("PRAGMA integrity_check(1)").fetchall()
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        return str(error)
    return "" if said == "ok" else str(said).replace("\n", " ")


def _save_what_is_readable(file: Path, why: str, sinks: Sinks, now_unix_s: float) -> None:
    """Into FILE.salvaged, with a report. It has this name when it is whole: a crash before that starts again,
    one after it goes on with `_finish`."""
    fresh, done = _beside(file, ".salvaging"), _beside(file, ".salvaged")
    for old in (fresh, *(_beside(fresh, suffix) for suffix in (*JOURNALS, "-journal"))):
        old.unlink(missing_ok=True)
    Store(fresh, sinks).close()
    found = _salvaged(file, fresh, sinks)
    report = SetAside(
        name=_free_name(file, now_unix_s), why=why, verdicts=found.rows.get("verdicts", 0),
        waiting=found.rows.get("outbox", 0), files=found.rows.get("files", 0), left_out=found.left_out,
        again=found.again, whole=not found.torn and not found.left_out and found.read,
    )  # fmt: skip
    write_atomic(_beside(done, REPORT), (json.dumps(asdict(report), indent=1) + "\n").encode())
    fresh.rename(done)
    sync_folder(file.parent)


def _salvaged(file: Path, fresh: Path, sinks: Sinks) -> Salvaged:
    target = sqlite3.connect(fresh, isolation_level=None)
    try:
        target.execute("PRAGMA journal_mode=OFF")  # it counts only when it is whole
        target.execute("PRAGMA synchronous=OFF")
        found = salvage(file, target, sinks)
        if not found.read:
            found = _salvaged_below_first_page(file, fresh, target, sinks)
    finally:
        target.close()
    with fresh.open("rb") as stream:
        os.fsync(stream.fileno())
    return found


def _salvaged_below_first_page(file: Path, fresh: Path, target: sqlite3.Connection, sinks: Sinks) -> Salvaged:
    """Without its first page a database does not know its tables. Those of the first schema have had the same
    place in every one since: with the first page of a fresh one, a copy can be read."""
    pages = max(1, _size(file) // PAGE_BYTES)
    if pages < 2 and not _size(_beside(file, "-wal")):
        return Salvaged()
    copy = _beside(file, ".salvaging-copy")
    try:
        for suffix in ("", "-wal"):
            if _size(_beside(file, suffix)):
                shutil.copyfile(_beside(file, suffix), _beside(copy, suffix))
        copy.touch()
        with copy.open("r+b") as stream, fresh.open("rb") as whole:
            page = bytearray(whole.read(PAGE_BYTES))
            page[28:40] = struct.pack(">III", pages, 0, 0)  # sqlite.org/fileformat.html: size, no free pages
            stream.write(page)
        found = salvage(copy, target, sinks, only=FIRST_TABLES)
        found.torn.add("sqlite_master")
        return found
    finally:
        for suffix in ("", *JOURNALS):
            _beside(copy, suffix).unlink(missing_ok=True)


def _finish(file: Path) -> None:
    """Put a salvaged database into the place of the damaged one, all of whose files get a new name."""
    done = _beside(file, ".salvaged")
    if not done.exists():
        return
    report = _beside(done, REPORT)
    aside = file.with_name(json.loads(report.read_bytes())["name"])
    write_atomic(_beside(aside, REPORT), report.read_bytes())
    for suffix in (*JOURNALS, ""):
        with contextlib.suppress(FileNotFoundError):
            _beside(file, suffix).rename(_beside(aside, suffix))
    aside.touch()  # a log without its database has to be looked at, too
    sync_folder(file.parent)
    done.rename(file)
    for rest in (report, suspect_mark(file)):
        rest.unlink(missing_ok=True)
    sync_folder(file.parent)


def _free_name(file: Path, now_unix_s: float) -> str:
    when = datetime.fromtimestamp(now_unix_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    names = (f"{file.name}.damaged-{when}{f'-{n}' if n else ''}" for n in range(1000))
    return next(name for name in names if not (file.parent / name).exists())


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
