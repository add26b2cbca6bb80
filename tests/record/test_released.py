"""Databases of every schema ever in use (`released/`, made by the code of that time) are taken over."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edge.errors import DataError
from edge.record.store import SCHEMA_VERSION, PartKey, Store
from edge.types import KINDS, FileStamp, Identity, Verdict

RELEASED = sorted((Path(__file__).parent / "released").glob("schema-*.sql"))
TABLES = ("files", "verdicts", "parts", "part_views", "outbox", "spc_charts", "spc_batches", "reviews")


def schema_of(dump: Path) -> int:
    return int(dump.stem.partition("-")[2])


@pytest.fixture(params=RELEASED, ids=lambda dump: dump.stem)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The database as that edge left it."""
    file = tmp_path / "edge.sqlite3"
    database = sqlite3.connect(file)
    database.executescript(request.param.read_text())
    assert database.execute("PRAGMA user_version").fetchone() == (schema_of(request.param),)
    database.close()
    return file


def rows(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Every table's rows, columns by name."""
    database = sqlite3.connect(file)
    database.row_factory = sqlite3.Row
    there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found = {
        table: [dict(row) for row in database.execute(f"SELECT * FROM {table}")]
        for table in TABLES
        if table in there
    }
    database.close()
    return found


def test_there_is_a_dump_of_every_schema() -> None:
    assert [schema_of(dump) for dump in RELEASED] == list(range(1, SCHEMA_VERSION + 1))


def test_no_row_is_lost_or_changed(released: Path) -> None:
    before = rows(released)
    assert len(before["verdicts"]) == len(before["files"]) == 12
    assert len(before["outbox"]) >= 6
    warned: list[bool] = []
    Store(released, {"mqtt": KINDS}, lambda: warned.append(True)).close()
    after = rows(released)
    for table, were in before.items():
        kept = [{key: row[key] for key in were[0]} for row in after[table]] if were else after[table]
        assert kept == were, table
    database = sqlite3.connect(released)
    assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    Store(released, {"mqtt": KINDS}, lambda: warned.append(True)).close()
    assert len(warned) <= 1  # the second time there is nothing to bring up to date


def test_it_works_on_as_a_new_one_would(released: Path) -> None:
    store = Store(released, {"mqtt": KINDS})
    try:
        assert store.is_recorded("scanner", "B1/P0_01.png", FileStamp(1000, 5))
        assert store.has_verdict("scanner", "B1/P0_01.png", f"{0:064x}")
        assert store.verdicts_on("scanner", "blur", f"{3:064x}", None)[0]["resultId"] == "R003"
        assert store.counts()["frame"] == {"OK": 6, "NotOK": 3, "NotDecidable": 3}
        assert len(store.part_views(PartKey("blur", "B1", "P0"))) == 2
        waiting = store.pending("mqtt", 0, 100)
        assert [row.result_id for row in waiting][:6] == [f"R{number:03d}" for number in range(6, 12)]
        store.add_review("R003", "NotOK", "cracked", "qe", 1_795_000_200.0)
        assert store.reviews_of(["R003"])["R003"][-1].reviewer == "qe"
        new = Verdict("R900", "frame", "blur", "OK", Identity("P9", "01", "B1"), 1_795_000_300.0, {})
        with store.transaction():
            store.add_verdict(new, json.dumps({"resultId": "R900"}).encode(), "scanner")
        last = store.pending("mqtt", 0, 100)[-1]
        assert last.result_id == "R900"
        assert last.row_id > max(row.row_id for row in waiting)  # no id of a sent row comes again
        assert store.latest(1)[0]["resultId"] == "R900"
    finally:
        store.close()


def test_one_of_a_newer_edge_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "edge.sqlite3"
    Store(file).close()
    database = sqlite3.connect(file)
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    before = rows(file)
    with pytest.raises(DataError, match="written by a newer edge") as raised:
        Store(file)
    assert "install the newer version" in raised.value.hint
    assert rows(file) == before
