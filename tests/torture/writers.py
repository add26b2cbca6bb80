"""What runs under the shim: `python -m tests.torture.writers NAME FOLDER …`. Each says in the file `marks`
what it takes for done, so that a test can hold the disk to it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from edge.artifacts import write_atomic
from edge.errors import EdgeError
from edge.record.store import Store
from edge.types import KINDS, Candidate, FileStamp, Identity, Sinks, Verdict

MARKS = "marks"
GO = "go"
SINKS: Sinks = {"mqtt": KINDS, "file": KINDS}
MOST_TRIES = 2000


class Marks:
    """Lines that are written when something is done."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / MARKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, what: str, *names: object) -> None:
        os.write(self._fd, " ".join([what, *map(str, names)]).encode() + b"\n")


def add(store: Store, numbers: range) -> None:
    """So many verdicts with their journal rows, in one transaction."""
    with store.transaction():
        for number in numbers:
            name, path = f"id{number:06d}", f"{number:06d}.png"
            payload = {
                "resultId": name, "resultType": "frame", "resultEvaluation": "OK",
                "image": {"path": path, "sha256": f"sha{number}"}, "more": "x" * (number * 37 % 3000),
            }  # fmt: skip
            store.add_file(
                Candidate("s", path, Path(path), FileStamp(1, number), 0, 0, 0), f"sha{number}", 1.0
            )
            verdict = Verdict(name, "frame", "r", "OK", Identity(), 1000.0 + number, payload)
            store.add_verdict(verdict, json.dumps(payload).encode(), "s")


def stream(folder: Path, verdicts: str, synchronous: str = "FULL") -> None:
    """Verdicts in batches of one to seven; every third round what waits for a sink is acknowledged."""
    mark = Marks(folder)
    store = Store(folder / "var" / "edge.sqlite3", SINKS)
    store._db.execute(f"PRAGMA synchronous={synchronous}")
    made = turn = 0
    while made < int(verdicts):
        numbers = range(made, made + 1 + turn % 7)
        add(store, numbers)
        mark("stored", *(f"id{number:06d}" for number in numbers))
        if turn % 3 == 2:
            sink = list(SINKS)[turn % 2]
            rows = store.pending(sink, 0, 9)
            mark("acked", *(f"{sink}:{row.result_id}" for row in rows))
            store.delete(sink, [row.row_id for row in rows])
        made, turn = numbers.stop, turn + 1
        if turn % 101 == 0:  # a restart: the WAL is folded into the database
            store.close()
            store = Store(folder / "var" / "edge.sqlite3", SINKS)
            store._db.execute(f"PRAGMA synchronous={synchronous}")
    store.close()


def stubborn(folder: Path, verdicts: str, pause_at: str = "-1") -> None:
    """Verdicts one by one, each tried until it is stored; says when it is refused, and why.

    Before verdict `pause_at` it waits for the file `go`.
    """
    mark = Marks(folder)
    mark("began")
    store = Store(folder / "var" / "edge.sqlite3", SINKS)
    for number in range(int(verdicts)):
        while number == int(pause_at) and not (folder / GO).exists():
            time.sleep(0.005)
        for _ in range(MOST_TRIES):
            try:
                add(store, range(number, number + 1))
                break
            except EdgeError as error:
                if not error.retryable or store.counts()["frame"].get("OK", 0) != number:
                    raise
                mark("refused", f"id{number:06d}", error.message.replace(" ", "_"))
                time.sleep(0.01)
        else:
            raise SystemExit(f"{number}: never stored")
        mark("stored", f"id{number:06d}")
    store.close()


def documents(folder: Path, versions: str) -> None:
    """A file that is written anew many times, in a folder that is made for it."""
    mark = Marks(folder)
    for version in range(int(versions)):
        write_atomic(folder / "calibration" / "r.json", document(version))
        mark("written", version)


def document(version: int) -> bytes:
    """A file's content: whole if it begins and ends with its version."""
    return b"%06d" % version * (1 + version * 131 % 900)


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    globals()[what](Path(where), *rest)
