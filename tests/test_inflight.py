"""Notes of files under way: what a start makes of those that a death left behind."""

import os
from pathlib import Path

import pytest

from edge.inflight import InFlight, oom_kills
from edge.types import Candidate, FileStamp


def candidate(path: str, size_bytes: int = 10) -> Candidate:
    return Candidate("s", path, Path("/in") / path, FileStamp(size_bytes, 1), 0.0, 0.0, 0.0)


A, B = candidate("a.png"), candidate("b\udcff.png")


def test_what_was_judged_leaves_nothing(tmp_path: Path) -> None:
    notes = InFlight(tmp_path)
    for one in (A, B):
        notes.enter(one)
    notes.leave(A)
    notes.leave(B, judged=False)
    assert InFlight(tmp_path).suspects == 0


def test_suspects_go_alone_and_others_wait(tmp_path: Path) -> None:
    before = InFlight(tmp_path)
    before.enter(A)
    before.enter(B)
    after = InFlight(tmp_path)
    assert after.suspects == 2
    after.enter(A)
    assert not after.admits(B)
    assert not after.admits(candidate("new.png"))
    after.leave(A)
    after.enter(candidate("new.png"))
    assert not after.admits(B)
    assert after.admits(candidate("newer.png"))
    after.leave(candidate("new.png"))
    assert after.admits(B)
    assert after.suspects == 1


def test_a_file_with_which_native_code_faults_twice_is_condemned_and_no_other(tmp_path: Path) -> None:
    first = InFlight(tmp_path)
    first.enter(A)
    first.enter(B)
    second = InFlight(tmp_path, faulted=True)
    assert not second.is_condemned(A)  # it was in company
    second.enter(A)
    third = InFlight(tmp_path, faulted=True)
    assert third.is_condemned(A)
    assert not third.is_condemned(B)
    third.enter(A)
    third.leave(A)
    assert not InFlight(tmp_path).is_condemned(A)


def test_a_daemon_that_is_killed_from_outside_condemns_no_file_however_often(tmp_path: Path) -> None:
    for _ in range(100):
        notes = InFlight(tmp_path, oom_kills=lambda: 5)
        assert not notes.is_condemned(A)
        assert notes.admits(A)
        notes.enter(A)


def test_a_file_for_which_the_kernel_ended_the_daemon_is_condemned(tmp_path: Path) -> None:
    InFlight(tmp_path, oom_kills=lambda: 5).enter(A)
    InFlight(tmp_path, oom_kills=lambda: 6).enter(A)  # in company the first time: only a suspect
    after = InFlight(tmp_path, oom_kills=lambda: 7)
    assert after.is_condemned(A)
    after.enter(A)  # and dies again before its verdict is stored
    assert InFlight(tmp_path, oom_kills=lambda: 7).is_condemned(A)


def test_what_the_kernel_says_of_itself_is_read() -> None:
    assert oom_kills() >= 0


def test_new_content_is_no_suspect(tmp_path: Path) -> None:
    InFlight(tmp_path).enter(A)
    after = InFlight(tmp_path)
    after.enter(candidate("a.png", 11))
    assert after.admits(candidate("c.png"))


def test_a_line_that_ended_leaves_no_suspects(tmp_path: Path) -> None:
    notes = InFlight(tmp_path)
    notes.enter(A)
    notes.leave_all()
    assert notes.admits(B)
    assert InFlight(tmp_path).suspects == 0


def test_half_written_notes_and_a_full_disk_are_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InFlight(tmp_path).enter(A)
    (note,) = tmp_path.glob("*.json")
    note.write_text(note.read_text()[:20])
    after = InFlight(tmp_path)
    assert after.suspects == 0

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    after.enter(B)
    after.leave(B)


def test_what_has_its_verdict_is_no_suspect_and_leaves_no_note(tmp_path: Path) -> None:
    notes = InFlight(tmp_path)
    notes.enter(A)
    notes.enter(B)
    after = InFlight(tmp_path)
    after.drop(lambda source, path, stamp: (source, path, stamp) == ("s", A.path, A.stamp))
    assert after.suspects == 1
    assert after.admits(B)
    assert InFlight(tmp_path).suspects == 1


def test_notes_of_files_that_never_came_back_go(tmp_path: Path) -> None:
    InFlight(tmp_path).enter(A)
    (note,) = tmp_path.glob("*.json")
    os.utime(note, (1, 1))
    assert InFlight(tmp_path).suspects == 0
    assert list(tmp_path.glob("*.json")) == []


def test_how_a_run_ended_says_nothing_of_the_runs_before_it(tmp_path: Path) -> None:
    InFlight(tmp_path).enter(A)
    InFlight(tmp_path).enter(A)  # alone, and killed by somebody
    InFlight(tmp_path)  # faults before it takes any file
    assert not InFlight(tmp_path, faulted=True).is_condemned(A)
