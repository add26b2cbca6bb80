"""The power goes at any moment: what was said to be stored is stored, and what is found is whole."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.record.store import Store
from tests.brokers import until
from tests.torture.power_loss import Disk, Operation, read_log, write_out
from tests.torture.shim import Shim
from tests.torture.writers import MARKS, SINKS, document

DATABASE = "var/edge.sqlite3"
CUTS = 400


def cuts(log: Path, count: int, seed: int) -> Iterator[tuple[Disk, list[str], random.Random]]:
    """The disk at random moments, with the words that were marked as done until then."""
    chance = random.Random(seed)
    operations = list(read_log(log))
    moments = set(chance.sample(range(1, len(operations) + 1), min(count, len(operations))))
    disk, marks = Disk(), bytearray()
    for number, operation in enumerate(operations, 1):
        if is_mark(operation):
            marks += operation.data
        else:
            disk.step(operation)
        if number in moments:
            yield disk, marks.decode().splitlines(), chance


def is_mark(operation: Operation) -> bool:
    return operation.name == MARKS


def words(marks: list[str], what: str) -> set[str]:
    lines = (line.split() for line in marks)
    return {word for first, *rest in lines if first == what for word in rest}


def lost(folder: Path, marks: list[str]) -> list[str]:
    """What the database below the folder should hold and does not."""
    Store(folder / DATABASE, SINKS).close()
    db = sqlite3.connect(folder / DATABASE)
    found = [line for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]
    verdicts = {row for (row,) in db.execute("SELECT result_id FROM verdicts")}
    journal = {f"id{path[:6]}" for (path,) in db.execute("SELECT path FROM files")}
    waiting = {f"{sink}:{row}" for sink, row in db.execute("SELECT sink, result_id FROM outbox")}
    db.close()
    found += [f"{name}: no verdict" for name in words(marks, "stored") - verdicts]
    found += [f"{name}: journal and verdicts differ" for name in journal ^ verdicts]
    unsent = {f"{sink}:{name}" for sink in SINKS for name in verdicts} - waiting
    found += [f"{name}: neither sent nor waiting" for name in unsent - words(marks, "acked")]
    return found


def all_lost(log: Path, folder: Path, count: int, seed: int = 1) -> list[str]:
    found = []
    for disk, marks, chance in cuts(log, count, seed):
        shutil.rmtree(folder, ignore_errors=True)
        found += lost(write_out(without_shared_memory(disk.after_cut(chance)), folder), marks)
    return found


def without_shared_memory(found: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """The -shm file is a memory map, made anew at every start; the log of writes does not know it."""
    return {name: content for name, content in found.items() if not name.endswith("-shm")}


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Shim]:
    folder = tmp_path / "site"
    folder.mkdir()
    shim = Shim(folder, record=True)
    yield shim
    shim.close()


@pytest.mark.slow
def test_no_stored_verdict_is_lost_when_the_power_goes(recording: Shim, tmp_path: Path) -> None:
    recording.run("tests.torture.writers", "stream", str(recording.folder), "1200")
    assert all_lost(recording.log, tmp_path / "after", CUTS) == []


@pytest.mark.slow
def test_a_failed_fsync_is_no_commit_and_trying_again_makes_it_one(recording: Shim, tmp_path: Path) -> None:
    """The pages of a failed fsync are clean for the kernel and may not be on the disk: each must be written
    again. SQLite does so, as a refused transaction leaves the WAL index as it was and the next one takes the
    same place in the file; a checkpoint that failed is done again from the WAL."""
    marks = recording.folder / MARKS
    with recording.start("tests.torture.writers", "stubborn", str(recording.folder), "500") as writer:
        until(marks.exists, "the writer runs")
        for stored in range(20, 500, 12):
            until(lambda n=stored: marks.read_bytes().count(b"stored") >= n or writer.poll() is not None)
            recording.clear()
            recording.fsync_fails("var/edge.sqlite3" if stored % 5 == 0 else "var/*", times=stored % 4 + 1)
        recording.clear()
        assert writer.wait(60) == 0
    refused = [line for line in marks.read_text().splitlines() if line.startswith("refused")]
    assert len(refused) > 20
    assert all("disk_I/O_error" in line for line in refused)
    assert all_lost(recording.log, tmp_path / "after", CUTS, seed=3) == []


def test_the_simulation_notices_a_store_that_does_not_sync(recording: Shim, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    recording.run("tests.torture.writers", "stream", str(recording.folder), "60", "NORMAL")
    found = all_lost(recording.log, tmp_path / "after", 60)
    assert any("no verdict" in line for line in found)


def test_a_document_is_the_old_or_the_new_one_and_whole(recording: Shim) -> None:
    recording.run("tests.torture.writers", "documents", str(recording.folder), "60")
    for disk, marks, chance in cuts(recording.log, CUTS, seed=2):
        content = disk.after_cut(chance).get("calibration/r.json")
        written = max(map(int, words(marks, "written")), default=-1)
        if content is None:
            assert written == -1, "a document that was written is gone"
        else:
            assert content in (document(written), document(written + 1))
