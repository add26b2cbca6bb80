"""The power goes at any moment: what was said to be stored is stored, and what is found is whole."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from edge.record import evidence
from edge.record.store import Store
from edge.types import KINDS
from tests.brokers import until
from tests.e2e.conftest import Site, recipe, site  # noqa: F401  # fixtures
from tests.e2e.test_run import arrive
from tests.sites import DaemonProcess
from tests.torture.power_loss import Disk, read_log, write_out
from tests.torture.shim import Shim
from tests.torture.writers import MARKS, SINKS, document

DATABASE = "var/edge.sqlite3"
CUTS = 400
DAEMON_CUTS = 200
PICTURES = (evidence.OVERLAY, evidence.HEATMAP)


def cuts(
    log: Path, count: int, seed: int, marks_file: str = MARKS
) -> Iterator[tuple[Disk, list[str], random.Random]]:
    """The disk at random moments, with the words that were marked as done until then."""
    chance = random.Random(seed)
    operations = list(read_log(log))
    moments = set(chance.sample(range(1, len(operations) + 1), min(count, len(operations))))
    disk, marks = Disk(), bytearray()
    for number, operation in enumerate(operations, 1):
        if operation.name == marks_file:
            marks += operation.data
        else:
            disk.step(operation)
        if number in moments:
            yield disk, marks.decode().splitlines(), chance


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
            until(lambda n=stored: marks.read_bytes().count(b"stored") >= n or writer.poll() is not None)  # type: ignore[misc]
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


@pytest.mark.slow
@pytest.mark.mosquitto
def test_a_daemon_whose_power_goes_has_what_it_said(site: Site, tmp_path: Path) -> None:  # noqa: F811
    """The daemon as it runs: what its log calls judged is in the database, its result waits or is at the
    broker, and evidence is whole or not there. The broker comes in the middle."""
    site.broker.stop()
    shim = Shim(site.folder, record=True)
    daemon = DaemonProcess(site.folder / "config.toml", site.http_port, shim.env)
    site.daemons.append(daemon.ready())
    for number in range(60):
        arrive(site, f"B1/P{number // 2:03d}_0{1 + number % 2}.png", defect=number % 3 == 0, seed=number)
        if number == 30:
            until(lambda: daemon.log.read_text().count("frame.judged") >= 25, "the first verdicts")
            site.broker.start()
    until(lambda: daemon.log.read_text().count("frame.judged") == 60, "all verdicts")
    until(lambda: daemon.status()["outbox"]["mqtt"]["depth"] == 0, "all delivered")
    daemon.stop()
    received = {
        json.loads(m.payload)["resultId"] for m in list(site.subscriber.messages) if "/result/" in m.topic
    }
    found: list[str] = []
    for disk, log, chance in cuts(shim.log, DAEMON_CUTS, seed=5, marks_file="daemon.log"):
        left = {name: content for name, content in disk.after_cut(chance).items() if name.startswith("var")}
        folder = write_out(without_shared_memory(left), tmp_path / "after")
        found += after_cut(folder, log, received)
        shutil.rmtree(folder)
    shim.close()
    assert found == []


def after_cut(folder: Path, log: list[str], received: set[str]) -> list[str]:
    """What is not as the daemon's log and the broker have it."""
    if not (folder / "var").exists():
        return ["verdicts without a folder"] if any("frame.judged" in line for line in log) else []
    Store(folder / DATABASE, {"mqtt": KINDS}).close()
    db = sqlite3.connect(folder / DATABASE)
    found = [line for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]
    payloads = {row: json.loads(text) for row, text in db.execute("SELECT result_id, payload FROM verdicts")}
    waiting = {row for (row,) in db.execute("SELECT result_id FROM outbox")}
    journal = db.execute("SELECT count(*) FROM files").fetchone()[0]
    db.close()
    judged = {
        json.loads(line)["result_id"] for line in log if '"frame.judged"' in line and line.endswith("}")
    }
    found += [f"{name}: judged, and not stored" for name in judged - payloads.keys()]
    found += [f"{name}: neither waiting nor received" for name in payloads.keys() - waiting - received]
    if journal != sum(payload["resultType"] == "frame" for payload in payloads.values()):
        found.append("journal and verdicts differ")
    named = {payload["evidence"] for payload in payloads.values() if payload.get("evidence")}
    there = {
        str(one.relative_to(folder / "var/evidence")): one for one in folder.glob("var/evidence/*/[!.]*")
    }
    found += [f"{name}: no evidence" for name in named - there.keys()]
    for one in there.values():
        found += [f"{one}: {name}" for name in PICTURES if cv2.imread(str(one / name)) is None]
    return found
