"""Housekeeping stepped by hand: room on the disk, what is old enough to go, what stops the daemon."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from edge.config import Evidence, Record
from edge.errors import DataError
from edge.housekeeping import FUTILE_REST_S, PRUNE_S, ROOM_S, Housekeeping
from edge.observe.health import Health
from edge.observe.metrics import Metrics
from edge.record import evidence
from edge.record.recovery import open_store
from edge.record.store import DAMAGED
from edge.testing import FakeClock
from edge.types import Identity, Verdict

DAY_S = 86400.0
NOW = 1_790_000_000.0
GB = 10**9


class House:
    """Housekeeping over a real store and folder, with a disk whose free space the test sets."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.clock, self.unix = state, FakeClock(), FakeClock(NOW)
        self.health, self.metrics = Health(), Metrics(CollectorRegistry())
        self.store = open_store(state / "edge.sqlite3", {}, log=structlog.get_logger())
        self.free = 100 * GB
        settings = SimpleNamespace(
            paths=SimpleNamespace(state=state),
            evidence=Evidence(max_age_days=90),
            record=Record(max_age_days=400),
        )
        line: Any = SimpleNamespace(
            intakes=[],
            workers=SimpleNamespace(take_restarts=lambda: 0, trouble="", confined_by=None),
            settings=settings,
            inspectors={},
        )
        self.house = Housekeeping(
            line, self.store, self.health, self.metrics, log=structlog.get_logger(),
            clock=self.clock, unix_clock=self.unix,
        )  # fmt: skip
        usage = shutil._ntuple_diskusage  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(200 * GB, 0, self.free))

    def step(self, after_s: float = 0.0) -> None:
        self.clock.advance(after_s)
        self.unix.advance(after_s)
        self.house.step()

    def keep(self, number: int, created: float) -> None:
        name = f"id{number:03d}"
        evidence.save(self.root, name, created, {"a.png": np.zeros((9, 9), np.uint8)})
        with self.store.transaction():
            payload = {"resultId": name}
            self.store.add_verdict(Verdict(name, "frame", "r", "OK", Identity(), created, payload), b"{}")

    @property
    def root(self) -> Path:
        return self.state / "evidence"

    def pictures(self) -> int:
        return len(list(self.root.glob("*/*")))

    def not_ready(self, name: str) -> str | None:
        return self.health.ready()[1].get(name)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    house = House(tmp_path, monkeypatch)
    yield house
    house.store.close()


def test_the_oldest_evidence_makes_room_before_the_disk_is_full(house: House) -> None:
    for number in range(5):
        house.keep(number, NOW - 5 * DAY_S + number * DAY_S)
    size = next(house.root.glob("*/*/*")).stat().st_size
    house.step()
    assert house.pictures() == 5
    wanted = evidence.wanted_free(house.root, None)
    house.free = int(1.1 * wanted) - 2 * size  # enough is free
    house.step(ROOM_S)
    assert house.pictures() == 5
    house.free = wanted - 1
    house.step(ROOM_S)
    assert house.pictures() == 0  # a tenth more is made, of which there was less
    assert house.not_ready("disk") is None
    house.step(ROOM_S)
    assert "no evidence left to remove" in str(house.not_ready("disk"))
    house.free = 100 * GB
    house.step(ROOM_S)
    assert house.not_ready("disk") is None


def test_no_more_goes_than_is_short(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        house.keep(number, NOW - 5 * DAY_S + number * DAY_S)
    size = next(house.root.glob("*/*/*")).stat().st_size
    monkeypatch.setattr(evidence, "MIN_FREE_BYTES", 10 * size)
    house.free = 9 * size  # two short of a tenth more than ten
    house.step()
    assert house.pictures() == 3


def test_a_quota_that_does_not_show_makes_room_too(house: House) -> None:
    for number in range(3):
        house.keep(number, NOW - DAY_S)
    house.store.disk_full = True
    house.step()
    assert house.pictures() == 0


@pytest.mark.parametrize("jump", ["while running", "before the start"])
def test_a_clock_that_jumps_years_ahead_deletes_nothing(house: House, jump: str) -> None:
    for number in range(10):
        house.keep(number, NOW - number * DAY_S)
    if jump == "while running":
        house.step()
    house.unix.advance(14 * 365 * DAY_S)
    house.step(PRUNE_S)
    house.keep(10, house.unix())  # nor after the first result of the wrong time
    house.step(PRUNE_S)
    assert house.store.counts()["frame"] == {"OK": 11}
    assert house.pictures() == 11


def test_what_is_old_goes_when_the_clock_is_right(house: House) -> None:
    for age_days in range(0, 420, 10):
        house.keep(age_days, NOW - age_days * DAY_S)
    house.step()
    assert house.store.counts()["frame"] == {"OK": 41}
    assert house.pictures() == 10


def test_after_a_long_rest_the_old_results_stay_until_the_limit_has_passed_the_rest(house: House) -> None:
    for number in range(10):
        house.keep(number, NOW - (450 + number) * DAY_S)
    house.keep(10, NOW)
    house.step()
    assert house.store.counts()["frame"] == {"OK": 11}
    house.keep(11, NOW + 15 * DAY_S)
    house.keep(12, NOW + 380 * DAY_S)
    house.keep(13, NOW + 10 * DAY_S)
    house.step(410.5 * DAY_S)
    assert house.store.counts()["frame"] == {"OK": 2}


def test_a_database_that_was_set_aside_is_not_ready_until_it_is_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge.sqlite3").write_bytes(b"a note" * 1000)
    house = House(tmp_path, monkeypatch)
    house.step()
    why = str(house.not_ready(DAMAGED))
    assert "edge.sqlite3.damaged-" in why
    assert "0 verdicts, 0 waiting results" in why
    assert house.metrics.registry.get_sample_value("edge_database_set_aside") == 1
    next(tmp_path.glob("*Z")).rename(tmp_path / "looked-at")
    house.step()
    assert house.not_ready(DAMAGED) is None
    assert house.metrics.registry.get_sample_value("edge_database_set_aside") == 0
    house.store.close()


def test_damage_that_any_loop_met_stops_the_daemon(house: House) -> None:
    house.store.damaged = "database disk image is malformed"
    with pytest.raises(DataError, match="malformed") as raised:
        house.step()
    assert not raised.value.retryable


def test_evidence_is_not_all_removed_where_that_frees_nothing(house: House) -> None:
    """Snapshots hold it, or something else fills the disk."""
    for number in range(40):
        house.keep(number, NOW - 40 * DAY_S + number * DAY_S)
    size = next(house.root.glob("*/*/*")).stat().st_size
    wanted = evidence.wanted_free(house.root, 5 * size)
    house.house._room._settings.evidence = Evidence(min_free_bytes=wanted)
    house.free = 3 * size
    for _ in range(20):
        house.step(ROOM_S)
    assert 25 < house.pictures() < 40
    assert "removing evidence does not help" in str(house.not_ready("disk"))
    house.step(FUTILE_REST_S)  # it may be of use again: some file systems free space late
    left = house.pictures()
    house.free = 100 * GB
    house.step(ROOM_S)
    house.step(ROOM_S)
    assert house.not_ready("disk") is None
    assert house.pictures() == left


def test_workers_that_do_not_start_are_not_ready_and_said_once(house: House) -> None:
    workers: Any = house.house._line.workers
    with structlog.testing.capture_logs() as lines:
        house.house._log = structlog.get_logger()
        house.step()
        assert house.not_ready("decoders") is None
        workers.trouble = "decode workers end before they are ready (exit code 1)"
        house.step()
        house.step()
        assert "exit code 1" in str(house.not_ready("decoders"))
        workers.trouble = ""
        house.step()
        assert house.not_ready("decoders") is None
    assert [line["event"] for line in lines] == ["decoders.failing", "decoders.working"]


def test_workers_that_a_kernel_does_not_hold_are_said_once(house: House) -> None:
    workers: Any = house.house._line.workers
    workers.confined_by = ("seccomp",)
    with structlog.testing.capture_logs() as lines:
        house.house._log = structlog.get_logger()
        house.step()
        house.step()
    (line,) = lines
    assert (line["event"], line["missing"]) == ("decoders.not_confined", ["landlock"])
