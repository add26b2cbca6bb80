"""Sums over batches in the database: added with verdicts or not at all, and brought into older databases."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import DataError, MissingInputError
from edge.record.batches import ChartRow
from edge.record.reader import BatchReader
from edge.record.store import MIGRATIONS, SCHEMA_VERSION, Store
from edge.types import KINDS
from tests.record.test_store import verdict

CHART = ChartRow("r", "07", "c" * 64, 0.02, 0.2, 40)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "edge.sqlite3", {"mqtt": KINDS})
    yield store
    store.close()


def count(
    store: Store, *scores: float, batch: str = "B1", unix_s: float = 1000.0, chart: ChartRow = CHART
) -> None:
    with store.transaction():
        for at, score in enumerate(scores):
            store.add_to_batch(chart, batch, "", score, unix_s + at)


def test_a_batch_is_one_row_however_many_frames_it_has(store: Store) -> None:
    count(store, 1.0, 1.5, 0.5)
    (row,) = store.spc_batches(CHART, 10)
    assert (row.frames, row.total, row.squares) == (3, 3.0, pytest.approx(3.5))
    assert (row.first_unix_s, row.last_unix_s) == (1000.0, 1002.0)


def test_batches_come_in_the_order_in_which_they_began_also_where_frames_arrive_late(store: Store) -> None:
    count(store, 1.0, batch="B1", unix_s=100)
    count(store, 1.0, batch="B2", unix_s=200)
    count(store, 1.0, batch="B0", unix_s=300)
    count(store, 2.0, batch="B1", unix_s=400)
    assert [row.batch for row in store.spc_batches(CHART, 10)] == ["B1", "B2", "B0"]
    assert [row.batch for row in store.spc_batches(CHART, 2)] == ["B2", "B0"]
    assert store.spc_batches(CHART, 10)[0].total == 3.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABC"), st.floats(0.01, 100)), max_size=40))
def test_sums_are_those_of_the_frames_in_any_order(tmp_path_factory, frames: list[tuple[str, float]]) -> None:  # type: ignore[no-untyped-def]
    store = Store(tmp_path_factory.mktemp("db") / "edge.sqlite3")
    with store.transaction():
        for at, (name, score) in enumerate(frames):
            store.add_to_batch(CHART, name, "", score, float(at))
    rows = {row.batch: row for row in store.spc_batches(CHART, 10)}
    for name in "ABC":
        mine = [score for batch, score in frames if batch == name]
        assert (name in rows) == bool(mine)
        if mine:
            assert rows[name].frames == len(mine)
            assert rows[name].total == pytest.approx(sum(mine))
    store.close()


def test_a_recalibration_begins_a_chart_of_its_own(store: Store) -> None:
    count(store, 1.0, unix_s=100)
    again = ChartRow("r", "07", "d" * 64, 0.03, 0.1, 50)
    count(store, 1.0, unix_s=200, chart=again)
    count(store, 1.0, unix_s=150, chart=ChartRow("r", "", "d" * 64, 0.03, 0.1, 50))
    charts = store.spc_charts("r")
    assert [(chart.view, chart.calibration[0]) for chart in charts] == [("", "d"), ("07", "d")]
    assert charts[1].mean == 0.03
    assert store.spc_charts("r", "") == charts[:1]
    assert store.spc_charts("other") == []


def test_a_frame_counts_with_its_verdict_or_not_at_all(store: Store) -> None:
    def interrupted() -> None:
        with store.transaction():
            store.add_verdict(verdict(1), b"{}", "s")
            store.add_to_batch(CHART, "B1", "", 1.0, 1.0)
            raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        interrupted()
    assert store.spc_charts() == []
    assert store.latest(5) == []


KILLED = """
import os, sys
from pathlib import Path
from edge.record.store import Store
from edge.types import KINDS
from tests.record.test_batches import CHART
from tests.record.test_store import verdict
store = Store(Path(sys.argv[1]), {"mqtt": KINDS})
for number in range(1000):
    with store.transaction():
        store.add_verdict(verdict(number), b"{}", "s")
        if number == 37:
            os.kill(os.getpid(), 9)  # between the verdict and its count
        store.add_to_batch(CHART, "B1", "", 1.0, float(number))
"""


def test_after_a_kill_as_many_frames_are_counted_as_have_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "edge.sqlite3"
    done = subprocess.run([sys.executable, "-c", KILLED, str(file)], timeout=60)
    assert done.returncode == -9
    store = Store(file, {"mqtt": KINDS})
    (row,) = store.spc_batches(CHART, 10)
    assert row.frames == store.counts()["frame"]["OK"] == 37
    store.close()


def test_an_older_database_is_brought_up_to_date_and_keeps_its_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "edge.sqlite3"
    db = sqlite3.connect(file)
    db.executescript(f"BEGIN; {MIGRATIONS[0]} PRAGMA user_version=1; COMMIT;")
    db.execute(
        "INSERT INTO verdicts VALUES ('id', 'frame', 'r', 'P', 'B', '07', 'OK', 5.0, 's', 'p', 'h', '{}')"
    )
    db.commit()
    db.close()
    store = Store(file)
    assert store.counts()["frame"] == {"OK": 1}
    count(store, 1.0)
    assert store.spc_batches(CHART, 10)[0].frames == 1
    store.close()
    db = sqlite3.connect(file)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


def test_old_batches_go_and_their_charts_with_them(store: Store) -> None:
    count(store, 1.0, batch="B1", unix_s=100)
    count(store, 1.0, batch="B2", unix_s=200)
    store.prune_batches(150)
    assert [row.batch for row in store.spc_batches(CHART, 10)] == ["B2"]
    store.prune_batches(300)
    assert store.spc_charts() == []


def test_moved_charts_are_named_once(store: Store) -> None:
    count(store, 1.0, 1.0)
    assert store.take_moved_charts() == {("r", "07")}
    assert store.take_moved_charts() == set()


def test_it_is_read_while_the_daemon_writes_and_nothing_is_changed(store: Store, tmp_path: Path) -> None:
    count(store, 1.0)
    reader = BatchReader(tmp_path / "edge.sqlite3")
    with store.transaction():
        store.add_to_batch(CHART, "B1", "", 1.0, 1.0)
        assert reader.spc_batches(CHART, 10)[0].frames == 1  # what is committed, without waiting
    assert reader.spc_batches(CHART, 10)[0].frames == 2
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._db.execute("DELETE FROM spc_batches")
    assert [chart.recipe for chart in reader.spc_charts("r")] == ["r"]
    reader.close()


def test_what_cannot_be_read_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no database"):
        BatchReader(tmp_path / "edge.sqlite3")
    assert not (tmp_path / "edge.sqlite3").exists()
    (tmp_path / "note").write_bytes(b"this is not a database, it is a note" * 100)
    with pytest.raises(DataError, match="not a usable database"):
        BatchReader(tmp_path / "note")
    sqlite3.connect(tmp_path / "old").executescript(
        f"{MIGRATIONS[0]} PRAGMA user_version=1;"
    ).connection.close()
    with pytest.raises(DataError, match="an older edge"):
        BatchReader(tmp_path / "old")
