"""The disk is full, read-only or broken while verdicts are stored: none is lost, counted twice or made up."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.testing import write_frame
from tests.brokers import until
from tests.record.test_recovery import pages_of, spoil
from tests.sites import DaemonProcess, free_port, make_recipe, write_config
from tests.torture.shim import Shim
from tests.torture.test_power_loss import lost, words
from tests.torture.writers import GO, MARKS

VERDICTS = 400


@pytest.fixture
def shim(tmp_path: Path) -> Iterator[Shim]:
    shim = Shim(tmp_path / "var")
    yield shim
    shim.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(lambda shim: shim.full_disk(after_bytes=50_000), "full", id="full disk"),
        pytest.param(lambda shim: shim.full_disk("*-wal", 5_000), "full", id="no room for the WAL"),
        pytest.param(lambda shim: shim.full_disk("*.sqlite3"), None, id="no room for the database file"),
        pytest.param(lambda shim: shim.small_disk(200_000), "full", id="small disk"),
        pytest.param(lambda shim: shim.read_only(), "", id="read-only file system"),
        pytest.param(lambda shim: shim.fsync_fails(), "disk I/O error", id="fsync error"),
    ],
)
def test_verdicts_wait_for_the_disk_and_none_is_lost(shim: Shim, fault, said: str | None) -> None:
    site = shim.folder.parent
    marks = site / MARKS
    with shim.start("tests.torture.writers", "stubborn", str(site), str(VERDICTS), "50") as writer:
        until(lambda: marks.exists() and marks.read_bytes().count(b"stored") == 50, "the first verdicts")
        fault(shim)
        (site / GO).touch()
        if said is None:  # the WAL takes what the database cannot
            until(lambda: marks.read_bytes().count(b"stored") == VERDICTS, "all verdicts")
        else:
            until(lambda: marks.read_bytes().count(b"refused") > 20, "refusals")
            stored = marks.read_bytes().count(b"stored")
            assert stored < VERDICTS
        shim.clear()
        assert writer.wait(60) == 0
    lines = marks.read_text().splitlines()
    refused = [line for line in lines if line.startswith("refused")]
    if said is not None:
        assert all(said.replace(" ", "_") in line for line in refused)
    assert len(words(lines, "stored")) == VERDICTS
    assert lost(site, lines) == []
    with sqlite3.connect(shim.folder / "edge.sqlite3") as db:
        assert db.execute("SELECT count(*) FROM outbox").fetchone() == (2 * VERDICTS,)
    db.close()


@dataclass
class DiskSite:
    """A site without a broker, whose state lies on the disk that fails."""

    folder: Path
    shim: Shim
    http_port: int
    daemons: list[DaemonProcess] = field(default_factory=list)
    arrived: int = 0

    @property
    def database(self) -> Path:
        return self.folder / "var" / "edge.sqlite3"

    def start(self) -> DaemonProcess:
        self.daemons.append(DaemonProcess(self.folder / "config.toml", self.http_port, self.shim.env))
        return self.daemons[-1]

    def arrive(self, frames: int, *, defect: bool = False) -> None:
        for _ in range(frames):
            self.arrived += 1
            target = self.folder / "incoming" / "B1" / f"P{self.arrived:04d}_01.png"
            target.parent.mkdir(exist_ok=True)
            write_frame(self.folder / "scratch.png", defect=defect, seed=self.arrived).rename(target)

    def stored(self) -> list[str]:
        """The paths of all frame verdicts."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            return [path for (path,) in db.execute("SELECT path FROM verdicts WHERE type = 'frame'")]

    def check_all_stored_once(self) -> None:
        until(lambda: len(self.stored()) >= self.arrived, "all verdicts")
        assert len(self.stored()) == len(set(self.stored())) == self.arrived
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            (missing,) = db.execute(
                "SELECT count(*) FROM verdicts WHERE result_id NOT IN (SELECT result_id FROM outbox)"
            ).fetchone()
        assert missing == 0  # no broker has acknowledged anything

    def not_ready(self, name: str) -> str:
        """Why a condition does not hold; '' while it does."""
        code, body = self.daemons[-1].get("/readyz")
        return str(json.loads(body)["reasons"].get(name, "")) if code == 503 else ""

    def metric(self, name: str) -> float:
        families = text_string_to_metric_families(self.daemons[-1].get("/metrics")[1])
        values = {s.name + str(sorted(s.labels.values())): s.value for f in families for s in f.samples}
        return values.get(name, 0.0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    make_recipe(folder)
    return folder


@pytest.fixture
def site(tmp_path: Path, recipe: Path) -> Iterator[DiskSite]:
    for name in ("engines", "calibration"):
        (tmp_path / name).symlink_to(recipe / name)
    (tmp_path / "var").mkdir()
    site = DiskSite(tmp_path, Shim(tmp_path / "var"), free_port())
    write_config(tmp_path, free_port(), site.http_port)
    with (tmp_path / "config.toml").open("a") as config:
        config.write('[evidence]\nmin_free_bytes = "2MB"\n')
    yield site
    for daemon in site.daemons:
        if daemon.process.poll() is None:
            daemon.kill()
    site.shim.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(lambda shim: shim.full_disk("edge.sqlite3*"), "full", id="no room for the database"),
        pytest.param(lambda shim: shim.full_disk(), "full", id="full disk"),
        pytest.param(lambda shim: shim.fsync_fails("edge.sqlite3*"), "disk I/O error", id="fsync error"),
        pytest.param(lambda shim: shim.read_only(), "", id="read-only file system"),
    ],
)
def test_the_daemon_pauses_says_why_and_goes_on_by_itself(site: DiskSite, fault, said: str) -> None:
    daemon = site.start().ready()
    site.arrive(5)
    until(lambda: len(site.stored()) == 5, "the first verdicts")
    fault(site.shim)
    site.arrive(20)
    until(lambda: site.not_ready("database"), "not ready")
    assert said in site.not_ready("database")
    assert "record.failed" in daemon.log.read_text()
    assert len(site.stored()) == 5
    assert daemon.get("/healthz")[0] == 200  # it waits, it does not hang
    site.shim.clear()
    daemon.ready()
    site.check_all_stored_once()
    assert daemon.stop()[0] == 0


@pytest.mark.slow
def test_the_oldest_evidence_makes_room_and_no_verdict_waits(site: DiskSite) -> None:
    old = site.folder / "var" / "evidence" / "2026-01-01"
    for number in range(40):
        (old / f"old{number:02d}").mkdir(parents=True)
        (old / f"old{number:02d}" / "overlay.jpg").write_bytes(bytes(100_000))
    daemon = site.start().ready()
    site.arrive(3, defect=True)
    until(lambda: len(site.stored()) == 3, "the first verdicts")
    assert len(list(old.iterdir())) == 40
    site.shim.small_disk(1_500_000)  # 2 MB are to be kept free
    until(lambda: len(list(old.iterdir())) < 40, "room is made")
    left = sorted(folder.name for folder in old.iterdir())
    assert left == [f"old{number:02d}" for number in range(40 - len(left), 40)]
    assert len(left) > 25
    site.arrive(20, defect=True)
    site.check_all_stored_once()
    assert "record.failed" not in daemon.log.read_text()
    assert "evidence.pruned_for_room" in daemon.log.read_text()


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_start_is_made_room_on(site: DiskSite) -> None:
    old = site.folder / "var" / "evidence" / "2026-01-01"
    for number in range(40):
        (old / f"old{number:02d}").mkdir(parents=True)
        (old / f"old{number:02d}" / "overlay.jpg").write_bytes(bytes(100_000))
    site.shim.small_disk(0)
    site.start().ready()
    assert len(list(old.iterdir())) < 20
    site.arrive(3)
    site.check_all_stored_once()


@pytest.mark.slow
def test_a_disk_too_full_for_pictures_still_takes_verdicts(site: DiskSite) -> None:
    daemon = site.start().ready()
    site.shim.full_disk("evidence/*", after_bytes=1000)  # in the middle of a picture
    site.arrive(5, defect=True)
    site.check_all_stored_once()
    until(lambda: site.metric("edge_evidence_skipped_total['disk_full']") == 5, "the metric")
    assert [file for file in (site.folder / "var" / "evidence").rglob("*") if file.is_file()] == []
    assert list((site.folder / "var" / "evidence").glob("*/*")) == []
    site.shim.clear()
    site.arrive(1, defect=True)
    until(lambda: list((site.folder / "var" / "evidence").glob("*/*/overlay.jpg")), "a picture again")
    assert daemon.stop()[0] == 0


@pytest.mark.slow
def test_a_read_only_state_folder_ends_the_start_with_a_clear_line(site: DiskSite) -> None:
    site.shim.read_only()
    daemon = site.start()
    assert daemon.process.wait(60) == 73
    said = daemon.log.read_text()
    assert "Read-only file system" in said
    assert "fix:" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_database_that_goes_bad_is_set_aside_and_frames_are_inspected_on(site: DiskSite) -> None:
    daemon = site.start().ready()
    site.arrive(60)
    site.check_all_stored_once()
    assert daemon.stop()[0] == 0
    spoil(site.database, pages_of(site.database, "files"))
    daemon = site.start()
    until(lambda: daemon.process.poll() is not None, "it meets the damage and stops")
    assert daemon.process.returncode == 65
    assert "database disk image is malformed" in daemon.log.read_text()
    daemon = site.start()  # as systemd does
    until(lambda: "was set aside" in site.not_ready("database_damaged"), "the alarm")
    (aside,) = (file for file in site.database.parent.glob("*.damaged-*") if file.name.endswith("Z"))
    assert aside.name in site.not_ready("database_damaged")
    assert "60 waiting results" in site.not_ready("database_damaged")
    assert site.metric("edge_database_set_aside[]") == 1
    assert '"level": "critical"' in daemon.log.read_text()
    site.arrive(10)
    site.check_all_stored_once()  # none is judged again, though the journal was lost
    aside.rename(site.folder / "looked-at")
    daemon.ready()
