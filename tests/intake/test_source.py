import threading
from pathlib import Path

import pytest
import structlog

from edge.errors import UnavailableError
from edge.intake.backlog import Backlog
from edge.intake.scan import FolderScan, ScanRule
from edge.intake.source import SourceIntake
from edge.intake.watch import Hints
from edge.mounts import is_network_mount, keeps_zeros_as_holes
from edge.testing import FakeClock
from edge.types import Candidate, FileStamp


class Meter:
    def __init__(self) -> None:
        self.backlog, self.reachable = 0, True

    def rejected(self, source: str, reason: str) -> None:
        self.reachable = True

    def intake_state(self, source: str, *, backlog: int, reachable: bool) -> None:
        self.backlog, self.reachable = backlog, reachable


def intake_of(folder: Path, clock: FakeClock, meter: Meter, watch: str = "polling") -> SourceIntake:
    rule = ScanRule("s", folder, ("*.png",), settle_s=1.0, rescan_s=0.5)
    backlog = Backlog({"s": "oldest"})
    scan = FolderScan(rule, lambda path, stamp: False)
    intake = SourceIntake(
        scan,
        backlog,
        watch=watch,
        meter=meter,
        log=structlog.get_logger(),
        clock=clock,  # type: ignore[arg-type]
    )
    intake.test_backlog = backlog  # type: ignore[attr-defined]
    return intake


def candidate(source: str, path: str, mtime_ns: int) -> Candidate:
    return Candidate(source, path, Path(path), FileStamp(1, mtime_ns), 0, 0, 0)


def test_ready_files_reach_the_backlog_and_are_counted(tmp_path: Path) -> None:
    clock, meter = FakeClock(), Meter()
    intake = intake_of(tmp_path, clock, meter)
    (tmp_path / "a.png").write_bytes(b"x")
    intake.step(clock())
    assert meter.backlog == 1
    assert intake.step(clock.advance(1.0)) == 1
    taken = intake.test_backlog.take()  # type: ignore[attr-defined]
    assert taken.path == "a.png"
    intake.step(clock.advance(1.0))
    assert intake.waiting == 1  # until its verdict is stored
    intake.done(taken)
    intake.step(clock.advance(1.0))
    assert meter.backlog == 0


def test_a_source_that_vanishes_is_reported_and_found_again(tmp_path: Path) -> None:
    clock, meter, folder = FakeClock(), Meter(), tmp_path / "mount"
    intake = intake_of(folder, clock, meter)
    with pytest.raises(UnavailableError):
        intake.step(clock())
    assert intake.unavailable
    assert not meter.reachable
    folder.mkdir()
    intake.step(clock.advance(2.0))
    assert intake.unavailable == ""


def test_a_native_event_wakes_the_loop(tmp_path: Path) -> None:
    woken = threading.Event()
    hints = Hints(tmp_path, woken.set)
    from edge.intake.watch import NativeWatch

    watch = NativeWatch(tmp_path, recursive=True, hints=hints)
    try:
        (tmp_path / "a.png").write_bytes(b"x")
        assert woken.wait(5.0)
        assert "a.png" in hints.take()[0]
    finally:
        watch.close()


def test_backlog_order_and_fairness() -> None:
    backlog = Backlog({"old": "oldest", "new": "newest"})
    backlog.add(candidate("old", f"o{t}", t) for t in (3, 1, 2))
    backlog.add(candidate("new", f"n{t}", t) for t in (3, 1, 2))
    taken = [backlog.take().path for _ in range(6)]  # type: ignore[union-attr]
    assert [p for p in taken if p[0] == "o"] == ["o1", "o2", "o3"]
    assert [p for p in taken if p[0] == "n"] == ["n3", "n2", "n1"]
    assert {p[0] for p in taken[:2]} == {"o", "n"}
    assert backlog.take() is None


def test_network_mounts_are_recognised() -> None:
    mounts = "server:/x /mnt/scanner nfs4 rw 0 0\n/dev/sda / ext4 rw 0 0\n"
    assert is_network_mount(Path("/mnt/scanner/ct"), mounts)
    assert not is_network_mount(Path("/mnt/scanner2"), mounts)


def test_file_systems_that_keep_written_zeros_as_holes_are_recognised() -> None:
    mounts = "tank /tank zfs rw 0 0\n/dev/sda1 / ext4 rw 0 0\nnas:/x /mnt/x nfs4 rw 0 0\n"
    assert keeps_zeros_as_holes(Path("/tank/a.tif"), mounts)
    assert keeps_zeros_as_holes(Path("/mnt/x/a.tif"), mounts)
    assert not keeps_zeros_as_holes(Path("/srv/a.tif"), mounts)
