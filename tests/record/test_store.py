import sqlite3
from pathlib import Path

import pytest

from edge.errors import CannotWriteError, DataError
from edge.record.store import DAMAGED, PartKey, PartRow, Store
from edge.types import KINDS, Candidate, FileStamp, Identity, Verdict


def verdict(number: int, evaluation: str = "OK") -> Verdict:
    return Verdict(
        f"id{number:03d}", "frame", "r", evaluation, Identity("P", "01", "B"), 1000.0 + number,  # type: ignore[arg-type]
        {"resultId": f"id{number:03d}", "image": {"path": "a.png", "sha256": "s"}},
    )  # fmt: skip


def candidate(path: str = "a.png", mtime_ns: int = 5) -> Candidate:
    return Candidate("s", path, Path(path), FileStamp(10, mtime_ns), 0, 0, 0)


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / "edge.sqlite3", {"mqtt": KINDS, "file": KINDS})
    yield store
    store.close()


def test_a_verdict_goes_into_every_sinks_outbox_in_order(store: Store) -> None:
    with store.transaction():
        for number in range(3):
            store.add_verdict(verdict(number), b"{}", "s")
    rows = store.pending("mqtt", 0, 10)
    assert [row.result_id for row in rows] == ["id000", "id001", "id002"]
    assert store.pending("mqtt", rows[1].row_id, 10) == rows[2:]
    store.delete("mqtt", [row.row_id for row in rows])
    assert (store.depth("mqtt"), store.depth("file")) == (0, 3)
    assert store.oldest_unix_s("file") == 1000.0
    assert store.oldest_unix_s("mqtt") is None


def test_what_fails_in_a_transaction_leaves_nothing(store: Store) -> None:
    def interrupted() -> None:
        with store.transaction():
            store.add_file(candidate(), "sha", 1.0)
            store.add_verdict(verdict(1), b"{}", "s")
            raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        interrupted()
    assert not store.is_recorded("s", "a.png", FileStamp(10, 5))
    assert store.depth("mqtt") == 0
    assert store.latest(5) == []


def test_the_journal_knows_files_by_stamp_and_content(store: Store) -> None:
    with store.transaction():
        store.add_file(candidate(), "sha", 1.0)
    assert store.is_recorded("s", "a.png", FileStamp(10, 5))
    assert not store.is_recorded("s", "a.png", FileStamp(10, 6))
    assert not store.is_recorded("t", "a.png", FileStamp(10, 5))
    assert store.has_verdict("s", "a.png", "sha")
    assert not store.has_verdict("s", "a.png", "other")
    assert not store.has_verdict("s", "a.png", "")


def test_verdicts_survive_reopening(tmp_path: Path) -> None:
    file = tmp_path / "edge.sqlite3"
    first = Store(file, {"mqtt": KINDS})
    with first.transaction():
        first.add_verdict(verdict(1, "NotOK"), b"{}", "s")
    first.close()
    second = Store(file, {"mqtt": KINDS})
    assert second.counts() == {"frame": {"NotOK": 1}, "part": {}}
    assert second.depth("mqtt") == 1
    second.close()


def test_parts_wait_and_expire(store: Store) -> None:
    key = PartKey("r", "B", "P")
    with store.transaction():
        store.save_part(PartRow(key, 100.0, False, False))
        store.save_part_view(key, "01", "id", "OK", 0.5)
    assert store.open_parts("r", 99.0) == []
    assert store.open_parts("r", 100.0) == [PartRow(key, 100.0, False, False)]
    store.restart_part_clocks(500.0)
    assert store.open_parts("r", 499.0) == []
    assert store.part_views(key) == [("01", "id", "OK", 0.5, False)]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "edge.sqlite3"
    Store(file).close()
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(DataError, match="newer edge"):
        Store(file)


def test_a_damaged_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """`edge.record.recovery` sets it aside."""
    file = tmp_path / "edge.sqlite3"
    file.write_bytes(b"this is not a database, it is a note" * 100)
    with pytest.raises(DataError, match="not a usable database") as raised:
        Store(file)
    assert raised.value.reason == DAMAGED
    assert file.read_bytes().startswith(b"this is not")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotWriteError, match="file"):
        Store(tmp_path / "file" / "edge.sqlite3")


def test_old_verdicts_go_when_every_sink_has_them(store: Store) -> None:
    with store.transaction():
        for number in range(5):
            store.add_verdict(verdict(number), b"{}", "s")
    for sink in ("mqtt", "file"):
        store.delete(sink, [row.row_id for row in store.pending(sink, 0, 3)])
    assert store.prune(1004.0, 2) == 2
    assert store.prune(1004.0, 2) == 1
    assert store.prune(1004.0, 2) == 0
    assert store.counts() == {"frame": {"OK": 2}, "part": {}}


def test_a_sink_that_is_gone_does_not_keep_verdicts_for_ever(tmp_path: Path) -> None:
    store = Store(tmp_path / "db", {"mqtt": KINDS, "gone": KINDS})
    with store.transaction():
        store.add_verdict(verdict(1), b"{}", "s")
    store.delete("mqtt", [row.row_id for row in store.pending("mqtt", 0, 9)])
    assert store.prune(1e12, 10) == 0  # it waits for a sink that is configured
    store.close()
    store = Store(tmp_path / "db", {"mqtt": KINDS})
    assert store.abandoned() == {"gone": 1}
    assert store.prune(1e12, 10) == 1
    assert store.abandoned() == {}
    store.close()


def test_a_sink_waits_only_for_what_it_wants(tmp_path: Path) -> None:
    store = Store(tmp_path / "db", {"mes": ("part", "review"), "log": ("frame",)})
    with store.transaction():
        store.add_verdict(verdict(1), b'{"resultEvaluation": "OK"}', "s")
    assert [store.depth(sink) for sink in ("mes", "log")] == [0, 1]
    store.add_review("id001", "OK", "", "Ada", 2000.0)
    assert [store.depth(sink) for sink in ("mes", "log")] == [1, 1]
    store.close()
