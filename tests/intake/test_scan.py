import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import UnavailableError
from edge.intake.scan import FolderScan, ScanRule
from edge.types import FileStamp

SETTLE_S = 1.0


def scan_of(folder: Path, recorded: dict[str, FileStamp] | None = None, **rule: object) -> FolderScan:
    known = recorded or {}
    options: dict = {"include": ("*.png",), "settle_s": SETTLE_S, "rescan_s": 0.5} | rule
    return FolderScan(ScanRule("s", folder, **options), lambda path, stamp: known.get(path) == stamp)


def paths(candidates: list) -> list[str]:
    return sorted(candidate.path for candidate in candidates)


def test_a_file_is_ready_after_the_settle_time_and_only_once(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    assert scan.step(0.0) == []
    assert scan.step(0.9) == []
    (ready,) = scan.step(1.0)
    assert (ready.path, ready.settled_s - ready.first_seen_s) == ("a.png", 1.0)
    assert [scan.step(t) for t in (2.0, 5.0)] == [[], []]


def test_half_written_file_is_not_yielded(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    file = tmp_path / "slow.png"
    for tenth in range(0, 50, 8):  # a burst every 0.8 s for 5 s
        with file.open("ab") as stream:
            stream.write(b"burst")
        assert scan.step(tenth / 10) == []
    assert scan.step(5.3) == []
    assert paths(scan.step(5.9)) == ["slow.png"]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0.05, 3.0), st.booleans()), max_size=25))
def test_no_file_is_handed_on_within_the_settle_time_of_a_seen_change(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("settle")
    scan, file = scan_of(folder, rescan_s=0.01), folder / "f.png"
    now, last_change, size = 0.0, 0.0, 0
    file.write_bytes(b"")
    scan.step(now)
    for wait, writes in steps:
        now += wait
        if writes:
            size += 1
            file.write_bytes(b"x" * size)
            last_change = now
        for candidate in scan.step(now):
            assert candidate.stamp.size_bytes == size
            assert now - last_change >= SETTLE_S


def test_a_changed_file_is_new_and_an_unchanged_recorded_one_is_not(tmp_path: Path) -> None:
    old, new = tmp_path / "old.png", tmp_path / "new.png"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    info = old.stat()
    scan = scan_of(tmp_path, {"old.png": FileStamp(info.st_size, info.st_mtime_ns)})
    scan.step(0.0)
    assert paths(scan.step(2.0)) == ["new.png"]
    old.write_bytes(b"other content")
    scan.step(3.0)
    assert paths(scan.step(5.0)) == ["old.png"]


def test_include_exclude_subfolders_and_hidden_files(tmp_path: Path) -> None:
    for name in ("a.png", "B.PNG", "c.txt", ".d.png", "skip_e.png", "sub/f.png", ".git/g.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    scan = scan_of(tmp_path, exclude=("skip_*",))
    scan.step(0.0)
    assert paths(scan.step(1.0)) == ["B.PNG", "a.png", "sub/f.png"]
    flat = scan_of(tmp_path, exclude=("skip_*",), recursive=False)
    flat.step(0.0)
    assert paths(flat.step(1.0)) == ["B.PNG", "a.png"]


def test_a_marker_file_is_waited_for(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, marker=".done")
    (tmp_path / "a.png").write_bytes(b"x")
    assert [scan.step(t) for t in (0.0, 1.0, 5.0)] == [[], [], []]
    (tmp_path / "a.png.done").touch()
    assert paths(scan.step(6.5)) == ["a.png"]


def test_a_postponed_file_comes_back_later_each_time(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    scan.step(0.0)
    (ready,) = scan.step(1.0)
    scan.postpone(ready, 1.0)
    assert scan.step(2.9) == []
    (again,) = scan.step(3.0)
    assert again.unchanged_since_s == 0.0
    scan.postpone(again, 3.0)
    assert scan.step(6.9) == []
    assert len(scan.step(7.0)) == 1


def test_hints_find_a_file_before_the_rescan(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, rescan_s=100.0)
    scan.step(0.0)
    (tmp_path / "a.png").write_bytes(b"x")
    assert scan.step(1.0) == []
    assert scan.waiting() == 0
    scan.step(1.0, ["a.png"])
    assert scan.next_due_s() == 2.0
    assert paths(scan.step(2.0)) == ["a.png"]


def test_a_deleted_file_is_forgotten_and_new_when_it_returns(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    file = tmp_path / "a.png"
    file.write_bytes(b"x")
    scan.step(0.0)
    file.unlink()
    assert scan.step(1.0) == []
    assert scan.waiting() == 0
    file.write_bytes(b"x")
    scan.step(2.0)
    assert paths(scan.step(3.0)) == ["a.png"]


def test_folders_that_are_not_looked_into_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, real = tmp_path / "in", os.scandir
    for folder in (inside / "open", inside / "closed", tmp_path / "else"):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(b"x")
    (inside / "linked").symlink_to(tmp_path / "else")

    def scandir(path: str | Path) -> object:
        if str(path).endswith("closed"):  # as for a user who may not: root may
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    scan = scan_of(inside)
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        scan.step(0.0)
        assert paths(scan.step(1.0)) == ["open/a.png"]
    assert sorted(scan.take_odd()) == [("closed", "folder_not_readable"), ("linked", "link_to_folder")]
    scan.step(20.0)
    assert paths(scan.step(21.0)) == ["closed/a.png"]
    assert scan.take_odd() == []


def test_links_out_of_the_source_and_pipes_are_not_frames(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (inside / "real.png").write_bytes(b"x")
    (inside / "link.png").symlink_to(inside / "real.png")
    (inside / "out.png").symlink_to(tmp_path / "secret.png")
    (inside / "loop.png").symlink_to(inside / "loop.png")
    os.mkfifo(inside / "pipe.png")
    scan = scan_of(inside)
    scan.step(0.0)
    assert paths(scan.step(1.0)) == ["link.png", "real.png"]
    assert sorted(scan.take_odd()) == [("out.png", "link_leaves_source"), ("pipe.png", "not_a_file")]
    assert scan.take_odd() == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="nowhere"):
        scan_of(tmp_path / "nowhere").step(0.0)


def test_a_hint_from_a_hidden_staging_folder_is_no_frame(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    assert not scan.wanted(".tmp/a.png")
    assert not scan.wanted("sub/.partial/a.png")
    assert scan.wanted("sub/a.png")


def test_an_error_while_listing_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = scan_of(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    scan.step(0.0)

    def stale(path: object) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", stale)
        with pytest.raises(UnavailableError, match="Stale file handle"):
            scan.step(0.6)
    assert paths(scan.step(1.2)) == ["a.png"]


def test_a_file_may_be_postponed_for_months(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    scan.step(0.0)
    now = 1.0
    for _ in range(1100):
        (ready,) = scan.step(now)
        scan.postpone(ready, now)
        now += 10.0
    assert paths(scan.step(now)) == ["a.png"]


def test_a_journal_that_does_not_answer_loses_no_ready_file(tmp_path: Path) -> None:
    answers = True

    def recorded(path: str, stamp: FileStamp) -> bool:
        if not answers:
            raise UnavailableError("disk I/O error")
        return False

    scan = FolderScan(ScanRule("s", tmp_path, ("*.png",), settle_s=1.0, rescan_s=60.0), recorded)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    scan.step(0.0)
    (tmp_path / "b.png").write_bytes(b"longer")
    answers = False
    with pytest.raises(UnavailableError):
        scan.step(1.0)
    answers = True
    assert "a.png" in paths(scan.step(1.1))


def test_forgetting_spares_a_successor_of_the_same_name(tmp_path: Path) -> None:
    scan = scan_of(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    scan.step(0.0)
    (gone,) = scan.step(1.0)
    (tmp_path / "a.png").write_bytes(b"another")
    scan.step(2.0)
    scan.forget(gone)
    assert paths(scan.step(3.0)) == ["a.png"]
    assert scan.step(9.0) == []
