"""Copies of frames beside their evidence."""

import hashlib
import os
from pathlib import Path

import pytest
import structlog

from edge.record import keeping
from edge.record.keeping import FrameKeeper, Wanted


class Rig:
    def __init__(self, folder: Path, min_free_bytes: int = 0) -> None:
        self.skipped: list[str] = []
        self.folder = folder / "evidence" / "d" / "R1"
        self.folder.mkdir(parents=True)
        self.file = folder / "a.PNG"
        self.file.write_bytes(b"frame" * 1_000_000)
        self.sha256 = hashlib.sha256(self.file.read_bytes()).hexdigest()
        log = structlog.get_logger()
        self.keeper = FrameKeeper(folder / "evidence", min_free_bytes, self.skipped.append, log)

    def keep(self) -> list[str]:
        self.keeper.add(Wanted(self.folder, self.file, self.sha256))
        assert self.keeper.step()
        return sorted(one.name for one in self.folder.iterdir())


def test_a_frame_is_copied_as_it_is_and_only_once_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert rig.keep() == ["frame.png"]
    assert (rig.folder / "frame.png").read_bytes() == rig.file.read_bytes()
    assert rig.skipped == []
    assert not rig.keeper.step(0.0)


def test_a_frame_that_changed_since_is_not_kept(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.file.write_bytes(b"another")
    assert rig.keep() == []
    assert rig.skipped == ["frame_changed"]


def test_what_cannot_be_read_or_written_is_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.file.unlink()
    assert rig.keep() == []
    os.mkfifo(rig.file)  # nobody writes to it: it must not hang
    assert rig.keep() == []
    rig.folder.rmdir()
    rig.keeper.add(Wanted(rig.folder, rig.file, rig.sha256))  # evidence went meanwhile
    assert rig.keeper.step()
    assert rig.skipped == ["failed", "frame_changed", "failed"]


def test_no_frame_takes_the_space_that_verdicts_need(tmp_path: Path) -> None:
    rig = Rig(tmp_path, min_free_bytes=2**62)
    assert rig.keep() == []
    assert rig.skipped == ["disk_full"]


def test_orders_never_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    for _ in range(keeping.MOST_WAITING + 3):
        rig.keeper.add(Wanted(rig.folder, rig.file, rig.sha256))
    assert rig.skipped == ["copies_behind"] * 3
