"""The scanner's manners, step by step on a clock of our own."""

import threading
from pathlib import Path

import pytest

from edge.errors import CannotWriteError
from edge.simulate.scanner import SLOW_PAUSES, TRUNCATED_RATIO, Scanner, write
from edge.simulate.shots import Capture, Shot, Style

DATA = bytes(range(250)) * 4


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shot(name: str, style: Style = "direct") -> Shot:
    return Shot(f"B/{name}.png", lambda: Capture(DATA), "good", name, "01", "B", style)


def run_through(scanner: Scanner, clock: Clock) -> list[tuple[str, float]]:
    """Names and times of what was written, with all pauses skipped."""
    written: list[tuple[str, float]] = []
    while (pause_s := scanner.step(lambda shot, _: written.append((shot.part, clock.now)))) is not None:
        clock.now += pause_s
    return written


def test_atomic_frames_appear_whole_under_their_name(tmp_path: Path) -> None:
    assert list(write(tmp_path / "a.png", DATA, "atomic", 1)) == []
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == DATA


def test_the_temporary_name_of_an_atomic_frame_is_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr("os.replace", lambda source, target: names.append(Path(source).suffix))
    list(write(tmp_path / "a.png", DATA, "atomic", 1))
    assert names == [".part"]


def test_a_slow_frame_grows_in_bursts_and_is_whole_only_at_the_end(tmp_path: Path) -> None:
    sizes, pauses = [], []
    for pause_s in write(tmp_path / "s.png", DATA, "slow", 2.0):
        sizes.append((tmp_path / "s.png").stat().st_size)
        pauses.append(pause_s)
    assert sizes == [200, 400, 600, 800]
    assert (tmp_path / "s.png").read_bytes() == DATA
    assert sum(pauses) > 3 * 2.0
    assert max(pauses) > 2.0, "one pause must look like the end to a settle rule that only waits"
    assert pauses == [ratio * 2.0 for ratio in SLOW_PAUSES]


def test_a_truncated_frame_stays_cut_off(tmp_path: Path) -> None:
    assert list(write(tmp_path / "t.png", DATA, "truncated", 1)) == []
    assert (tmp_path / "t.png").read_bytes() == DATA[: int(len(DATA) * TRUNCATED_RATIO)]


def test_frames_come_at_the_pace_asked_for(tmp_path: Path) -> None:
    clock = Clock()
    scanner = Scanner(tmp_path, [shot("a"), shot("b"), shot("c")], frames_per_s=4, clock=clock)
    assert run_through(scanner, clock) == [("a", 100.0), ("b", 100.25), ("c", 100.5)]


def test_a_slow_frame_does_not_hold_up_the_others(tmp_path: Path) -> None:
    clock = Clock()
    shots = [shot("slow", "slow"), shot("b"), shot("c")]
    written = run_through(Scanner(tmp_path, shots, frames_per_s=10, settle_s=1, clock=clock), clock)
    assert [name for name, _ in written] == ["b", "c", "slow"]
    assert written[-1][1] == pytest.approx(100 + sum(SLOW_PAUSES))


def test_a_burst_has_no_waits(tmp_path: Path) -> None:
    clock = Clock()
    written = run_through(Scanner(tmp_path, [shot(str(n)) for n in range(50)], clock=clock), clock)
    assert len(written) == 50
    assert clock.now == 100.0


def test_a_scanner_that_was_held_up_does_not_catch_up_in_a_burst(tmp_path: Path) -> None:
    clock = Clock()
    scanner = Scanner(tmp_path, [shot(str(n)) for n in range(4)], frames_per_s=1, clock=clock)
    written: list[float] = []
    scanner.step(lambda *_: written.append(clock.now))
    clock.now += 10
    while (pause_s := scanner.step(lambda *_: written.append(clock.now))) is not None:
        clock.now += pause_s
    assert written[1] - written[0] == 10
    assert len(set(written)) >= 3


def test_run_ends_when_it_is_stopped_even_with_endless_shots(tmp_path: Path) -> None:
    def endless():  # type: ignore[no-untyped-def]
        number = 0
        while True:
            yield shot(str(number), "slow" if number == 0 else "direct")
            number += 1

    stop, seen = threading.Event(), []

    def on_written(shot: Shot, capture: Capture) -> None:
        seen.append(shot.part)
        if len(seen) == 5:
            stop.set()

    Scanner(tmp_path, endless(), settle_s=60).run(stop, on_written)
    assert seen == ["1", "2", "3", "4", "5"]
    assert (tmp_path / "B/0.png").stat().st_size == 200  # left as it was


def test_a_folder_that_takes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "B").write_text("a file where a folder should be")
    with pytest.raises(CannotWriteError, match=r"B/a\.png"):
        Scanner(tmp_path, [shot("a")]).run(threading.Event(), lambda *_: None)
