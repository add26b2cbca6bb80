"""The disk is full, read-only or broken while verdicts are stored: nothing is lost, counted twice or made up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import until
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
