"""A damaged database is set aside and said so; what is readable of it goes on, and nothing is made up."""

import json
import random
import sqlite3
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from edge.errors import DataError
from edge.record.recovery import open_store, set_aside
from edge.record.store import DAMAGED, PartKey, PartRow, Store, suspect_mark
from edge.types import KINDS, Candidate, FileStamp, Identity, Verdict

NOW = 1_790_000_000.0
PAGE = 4096
LOG = structlog.get_logger()


def name_of(number: int) -> str:
    return f"01J{number:023d}"


def add(store: Store, numbers: range) -> None:
    with store.transaction():
        for n in numbers:
            path = f"B1/P{n:05d}_01.png"
            payload = {
                "resultId": name_of(n), "resultType": "frame", "resultEvaluation": "OK" if n % 3 else "NotOK",
                "recipeId": "r", "creationTime": "2026-11-20T10:15:30.123456Z",
                "partId": f"P{n}", "batchId": "B1", "view": "01",
                "image": {"path": path, "sha256": f"{n:064d}"}, "filling": "x" * (n * 31 % 1500),
            }  # fmt: skip
            store.add_file(Candidate("s", path, Path(path), FileStamp(9, n), 0, 0, 0), f"{n:064d}", NOW + n)
            verdict = Verdict(
                name_of(n), "frame", "r", payload["resultEvaluation"],  # type: ignore[arg-type]
                Identity(f"P{n}", "01", "B1"), NOW + n, payload,
            )  # fmt: skip
            store.add_verdict(verdict, json.dumps(payload).encode(), "s")
            store.save_part(PartRow(PartKey("r", "B1", f"P{n}"), NOW + n, False, False))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A closed database of 600 verdicts, of which the first 400 were delivered."""
    file = tmp_path / "var" / "edge.sqlite3"
    store = Store(file, {"mqtt": KINDS})
    for first in range(0, 600, 50):
        add(store, range(first, first + 50))
    store.delete("mqtt", [row.row_id for row in store.pending("mqtt", 0, 400)])
    store.close()
    return file


def pages_of(file: Path, name: str) -> list[int]:
    """The leaf and overflow pages of a table or index, in order (dbstat)."""
    db = sqlite3.connect(file)
    found = [page for (page,) in db.execute(
        "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path", (name,)
    )]  # fmt: skip
    db.close()
    return found


def spoil(file: Path, pages: list[int]) -> None:
    with file.open("r+b") as stream:
        for page in pages:
            stream.seek((page - 1) * PAGE)
            stream.write(b"\xff" * PAGE)


def read(file: Path, sql: str) -> list:
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    rows = db.execute(sql).fetchall()
    db.close()
    return rows


def meet_damage(file: Path) -> None:
    """Run as a daemon does until it meets the damage."""
    store = Store(file, {"mqtt": KINDS})
    with pytest.raises(DataError, match="damaged"):
        store._rows(
            "SELECT count(payload), count(path) FROM verdicts, (SELECT count(body) FROM outbox)"
            ", (SELECT count(sha256) FROM files)"
        )
    assert store.damaged
    store.close()
    assert suspect_mark(file).exists()


def recovered(file: Path) -> Store:
    with capture_logs() as said:
        store = open_store(file, {"mqtt": KINDS}, log=LOG, unix_clock=lambda: NOW)
    assert "critical" in {line["log_level"] for line in said if line["event"] == "database.set_aside"}
    assert read(file, "PRAGMA integrity_check") == [("ok",)]
    assert not suspect_mark(file).exists()
    return store


def test_what_is_no_database_is_set_aside_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "edge.sqlite3"
    file.write_bytes(b"this is not a database, it is a note" * 100)
    store = recovered(file)
    add(store, range(3))
    store.close()
    (one,) = set_aside(file)
    assert (tmp_path / one.name).read_bytes().startswith(b"this is not")
    assert one.name == "edge.sqlite3.damaged-20260921T141320Z"
    assert (one.verdicts, one.whole) == (0, False)
    assert "0 verdicts" in str(one)
    again = open_store(file, {"mqtt": KINDS}, log=LOG)
    assert again.depth("mqtt") == 3
    again.close()
    assert set_aside(file) == [one]  # it is said until somebody moves it away
    (tmp_path / one.name).rename(tmp_path / "looked-at")
    assert set_aside(file) == []


@pytest.mark.parametrize("table", ["verdicts", "outbox", "files"])
def test_rows_around_bad_pages_are_saved(file: Path, table: str) -> None:
    pages = pages_of(file, table)
    bad = [pages[len(pages) // 5], pages[len(pages) // 2], pages[len(pages) // 2 + 3], pages[-1]]
    spoil(file, bad)
    meet_damage(file)
    recovered(file).close()
    verdicts = {row for (row,) in read(file, "SELECT result_id FROM verdicts")}
    journal = {path for (path,) in read(file, "SELECT path FROM files")}
    waiting = [row for (row,) in read(file, "SELECT result_id FROM outbox ORDER BY id")]
    assert len(verdicts) > (575 if table == "verdicts" else 599)
    assert {name_of(n) for n in range(400, 600)} <= verdicts  # those that waited carry themselves
    assert set(waiting) >= {name_of(n) for n in range(400, 600)}
    assert waiting == sorted(waiting)
    assert {f"B1/P{int(name[3:]):05d}_01.png" for name in verdicts} >= journal  # the rest is judged again
    assert len(journal) == len(verdicts)
    if table == "files":
        store = Store(file, {"mqtt": KINDS})
        assert all(store.has_verdict("s", f"B1/P{n:05d}_01.png", f"{n:064d}") for n in range(600))
        store.close()
    (one,) = set_aside(file)
    assert (one.verdicts, one.waiting, one.whole) == (len(verdicts), len(waiting), False)


def test_a_spoiled_index_costs_no_row(file: Path) -> None:
    spoil(file, pages_of(file, "verdicts_by_time")[1:3])
    store = Store(file, {"mqtt": KINDS})
    with pytest.raises(DataError, match="damaged"):
        store.latest(600)
    store.close()
    recovered(file).close()
    (one,) = set_aside(file)
    assert (one.verdicts, one.waiting, one.files, one.left_out, one.whole) == (600, 200, 600, 0, True)


@pytest.mark.parametrize("zeroed", [512, PAGE])
def test_without_its_first_page_the_tables_are_still_found(file: Path, zeroed: int) -> None:
    with file.open("r+b") as stream:
        stream.write(bytes(zeroed))
    recovered(file).close()
    assert len(read(file, "SELECT 1 FROM verdicts")) == 600
    assert len(read(file, "SELECT 1 FROM files")) == 600
    waiting = {row for (row,) in read(file, "SELECT result_id FROM outbox")}
    assert waiting == {name_of(n) for n in range(400, 600)}
    (one,) = set_aside(file)
    assert (one.verdicts, one.whole) == (600, False)
    assert list(file.parent.glob("*salvag*")) == []


def test_a_verdict_that_is_not_whole_is_left_out(file: Path) -> None:
    db = sqlite3.connect(file)
    db.execute("UPDATE verdicts SET payload = substr(payload, 1, 100) WHERE result_id = ?", (name_of(5),))
    db.execute("UPDATE verdicts SET evaluation = 'OK' WHERE result_id = ?", (name_of(6),))
    db.execute(
        "UPDATE verdicts SET payload = CAST(x'ff' || payload AS TEXT) WHERE result_id = ?", (name_of(7),)
    )
    db.commit()
    db.close()
    spoil(file, pages_of(file, "verdicts_by_time")[1:3])
    suspect_mark(file).touch()
    recovered(file).close()
    verdicts = {row for (row,) in read(file, "SELECT result_id FROM verdicts")}
    assert verdicts == {name_of(n) for n in range(600)} - {name_of(n) for n in (5, 6, 7)}
    (one,) = set_aside(file)
    assert one.left_out == 3
    journal = {path for (path,) in read(file, "SELECT path FROM files")}
    assert len(journal) == 597  # the three are judged again


def test_random_damage_makes_nothing_up(file: Path) -> None:
    true = {row[0]: row[1] for row in read(file, "SELECT result_id, payload FROM verdicts")}
    whole = file.read_bytes()
    chance, aside = random.Random(4), 0
    for _ in range(8):
        spoilt = bytearray(whole)
        for _ in range(chance.choice([1, 3, 30])):
            at = chance.randrange(PAGE, len(spoilt))
            spoilt[at : at + chance.choice([1, 64, PAGE])] = chance.randbytes(chance.choice([1, 64, PAGE]))
        for old in file.parent.iterdir():
            old.unlink()
        file.write_bytes(spoilt)
        suspect_mark(file).touch()
        open_store(file, {"mqtt": KINDS}, log=LOG).close()
        aside += len(set_aside(file))
        for result_id, payload in read(file, "SELECT result_id, payload FROM verdicts"):
            found = json.loads(payload)
            assert found["resultId"] == result_id
            assert result_id in true
    assert aside > 4


@pytest.mark.parametrize("gone", [True, False])
def test_a_log_without_its_database_is_read_and_kept(tmp_path: Path, gone: bool) -> None:
    """SQLite deletes the log of a database that is empty."""
    file = tmp_path / "edge.sqlite3"
    store = Store(file, {"mqtt": KINDS})
    add(store, range(20))
    log = file.with_name("edge.sqlite3-wal").read_bytes()
    store.close()
    file.unlink()
    if not gone:
        file.touch()
    file.with_name("edge.sqlite3-wal").write_bytes(log)
    store = recovered(file)
    assert store.depth("mqtt") == 20
    store.close()
    assert len(read(file, "SELECT 1 FROM verdicts")) == 20
    (one,) = set_aside(file)
    assert file.with_name(one.name + "-wal").read_bytes() == log


def test_a_fault_that_is_gone_sets_nothing_aside(file: Path) -> None:
    suspect_mark(file).touch()
    open_store(file, {"mqtt": KINDS}, log=LOG).close()
    assert not suspect_mark(file).exists()
    assert set_aside(file) == []


@pytest.mark.parametrize("crash_at", range(8))
def test_a_crash_while_it_is_set_aside_loses_nothing(
    file: Path, crash_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(file, {"mqtt": KINDS})
    add(store, range(600, 610))
    kept = {name: file.with_name(f"edge.sqlite3{name}").read_bytes() for name in ("", "-wal")}
    store.close()
    for name, content in kept.items():
        file.with_name(f"edge.sqlite3{name}").write_bytes(content)
    spoil(file, pages_of_copy(file, "verdicts_by_time")[1:3])
    suspect_mark(file).touch()
    steps = iter(range(100))
    rename = Path.rename

    def crash(self: Path, target: Path) -> Path:
        if next(steps) == crash_at // 2:
            if crash_at % 2:
                rename(self, target)
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            open_store(file, {"mqtt": KINDS}, log=LOG)
    store = open_store(file, {"mqtt": KINDS}, log=LOG)
    assert store.depth("mqtt") == 210
    store.close()
    assert len(read(file, "SELECT 1 FROM verdicts")) == 610
    assert [one.verdicts for one in set_aside(file)] == [610]


def pages_of_copy(file: Path, name: str) -> list[int]:
    """As `pages_of`, without folding the log into the database."""
    db = sqlite3.connect(f"file:{file}?immutable=1", uri=True)
    found = [page for (page,) in db.execute(
        "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path", (name,)
    )]  # fmt: skip
    db.close()
    return found


def test_a_newer_schema_is_refused_and_left_alone(file: Path) -> None:
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(DataError, match="newer edge") as raised:
        open_store(file, {"mqtt": KINDS}, log=LOG)
    assert raised.value.reason != DAMAGED
    assert set_aside(file) == []
