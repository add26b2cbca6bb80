"""The daemon's pulse, and what it leaves behind of its own death."""

import faulthandler
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from edge.daemon import Pulse, report_fault, watch_faults
from edge.observe.health import Health
from edge.running import loop_of


@pytest.fixture(autouse=True)
def faults_of_tests() -> Iterator[None]:
    """pytest's own report of faults is back afterwards."""
    yield
    faulthandler.enable(sys.__stderr__)


def test_the_pulse_says_once_which_loops_hang_and_once_that_they_are_back() -> None:
    health, said = Health(), []
    pulse = Pulse(health, {}, said.append)
    health.expect("inspect#2", 25.0, 0.0)
    assert pulse.step(20.0)
    assert not pulse.step(30.0)
    assert not pulse.step(40.0)
    (silent,) = said
    assert [loop_of(name) for name in silent] == ["inspect"]
    health.beat("inspect#2", 45.0)
    assert pulse.step(50.0)
    assert said[1:] == [{}]


def test_what_a_run_leaves_behind_is_known_to_the_next_one_only(tmp_path: Path) -> None:
    file, log = tmp_path / "fault.log", structlog.get_logger()
    assert not watch_faults(file, log)
    report_fault(file, "KeyError: 'a'\n")
    with structlog.testing.capture_logs() as lines:
        assert watch_faults(file, structlog.get_logger())
    assert lines[0]["event"] == "daemon.faulted"
    assert "KeyError" in lines[0]["report"]
    assert not watch_faults(file, log)


def test_a_fault_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    report_fault(tmp_path / "gone" / "fault.log", "x")
    assert not watch_faults(tmp_path / "gone" / "fault.log", structlog.get_logger())
