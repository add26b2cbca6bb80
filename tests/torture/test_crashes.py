"""The daemon dies at every boundary between its stages, and at random; nothing is lost or made twice."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.testing import write_frame
from tests.brokers import until
from tests.e2e.conftest import Site
from tests.e2e.test_run import arrive
from tests.sites import VIEWS
from tests.torture.dying_daemon import BOUNDARIES
from tests.torture.kill_loop import Loop
from tests.torture.tally import count

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]

PARTS = 4
PATHS = [f"B1/P{part:03d}_{view}.png" for part in range(PARTS) for view in VIEWS]


def results(site: Site) -> list[bytes]:
    return [bytes(m.payload) for m in list(site.subscriber.messages) if "/result/" in m.topic]


def run_to_the_end(site: Site, frames: int, parts: int) -> None:
    """Start the daemon, and wait until all has its verdict and nothing waits any more."""
    daemon = site.start()
    until(lambda: daemon.status()["verdicts"]["frame"].get("OK", 0) >= frames, "all frames judged", 60)
    until(lambda: sum(daemon.status()["verdicts"]["part"].values()) >= parts, "all parts closed", 60)
    until(lambda: daemon.status()["outbox"]["mqtt"]["depth"] == 0, "the outbox is empty", 60)
    code, _ = daemon.stop()
    assert code == 0


def die(site: Site, where: str, times: int) -> None:
    command = [sys.executable, "-m", "tests.torture.dying_daemon", where, str(times)]
    with (site.folder / "dying.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--config", str(site.folder / "config.toml")], stdout=log, stderr=log
        )
    try:
        assert process.wait(60) == -signal.SIGKILL, (site.folder / "dying.log").read_text()[-2000:]
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("where", BOUNDARIES)
def test_killed_between_two_stages_it_loses_nothing_and_repeats_only_copies(
    site: Site,
    where: str,
) -> None:
    for seed, path in enumerate(PATHS):
        arrive(site, path, seed=seed)
    die(site, where, 1)
    die(site, where, 3 if where in {"submitted", "in the transaction", "sent"} else 1)
    run_to_the_end(site, len(PATHS), PARTS)
    tally = count(site.folder / "var/edge.sqlite3", PATHS, results(site))
    assert tally.broken(PARTS) == []
    assert tally.copies <= 2 * 20  # what was in flight
    assert list((site.folder / "var/in-flight").glob("*.json")) == []


def test_killed_at_random_again_and_again_it_loses_nothing(site: Site) -> None:
    loop = Loop(site, seed=1)
    for _ in range(10):
        loop.kill_once()
    loop.stop_feeding()
    run_to_the_end(site, len(loop.paths), loop.parts)
    tally = count(site.folder / "var/edge.sqlite3", loop.paths, results(site))
    assert tally.broken(loop.parts) == []
    assert tally.frames > 20


def test_a_stop_in_the_middle_of_inference_is_over_in_time_and_loses_nothing(site: Site) -> None:
    from edge.testing import write_frame as write

    rng = np.random.default_rng(0)
    for number in range(6):  # each takes the engine a good while
        file = write(site.folder / "scratch.png", size=(3000, 3000), seed=int(rng.integers(1000)))
        (site.folder / "incoming/B1").mkdir(exist_ok=True)
        file.replace(site.folder / f"incoming/B1/P{number}_01.png")
    daemon = site.start()
    until(lambda: any((site.folder / "var/in-flight").glob("*.json")), "frames are under way")
    code, seconds = daemon.stop()
    assert code == 0
    assert seconds < 10
    assert list((site.folder / "var/in-flight").glob("*.json")) == []
    again = site.start()
    until(lambda: sum(again.status()["verdicts"]["frame"].values()) == 6, "all six", 90)
    database = sqlite3.connect(f"file:{site.folder}/var/edge.sqlite3?mode=ro", uri=True)
    rows = database.execute("SELECT path, count(*) FROM verdicts WHERE type='frame' GROUP BY path").fetchall()
    database.close()
    assert [n for _, n in rows] == [1] * 6


def test_a_file_that_takes_the_core_down_is_tried_twice_and_set_aside(site: Site, tmp_path: Path) -> None:
    """The engine faults in native code on one frame: the daemon dies, and is started again by systemd."""
    for seed, path in enumerate(PATHS):
        arrive(site, path, seed=seed)
    poison = write_frame(tmp_path / "poison.png", size=(96, 48), seed=99)
    poison.replace(site.folder / "incoming/B1/P900_01.png")
    deaths = 0
    for _ in range(4):
        with (site.folder / "faulting.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.faulting_daemon", "--config",
                 str(site.folder / "config.toml")], stdout=log, stderr=log,
            )  # fmt: skip
        try:
            code = _ended_or_done(site, process, len(PATHS) + 1)
        finally:
            process.kill()
            process.wait(10)
        if code is None:
            break
        assert code == -signal.SIGSEGV, (site.folder / "faulting.log").read_text()[-2000:]
        deaths += 1
    assert deaths == 2
    log_text = (site.folder / "faulting.log").read_text()
    assert "daemon.faulted" in log_text
    until(lambda: len(_evaluations(site)) == len(PATHS) + 1, "everything has its verdict")
    assert _evaluations(site)["B1/P900_01.png"] == "NotDecidable"
    assert {_evaluations(site)[path] for path in PATHS} == {"OK"}
    assert b'"inspection_crashed"' in b"".join(results(site))


def _evaluations(site: Site) -> dict[str, str]:
    database = sqlite3.connect(f"file:{site.folder}/var/edge.sqlite3?mode=ro", uri=True)
    try:
        rows = database.execute("SELECT path, evaluation FROM verdicts WHERE type='frame'").fetchall()
    finally:
        database.close()
    return dict(rows)


def _ended_or_done(site: Site, process: subprocess.Popen[bytes], frames: int) -> int | None:
    """The exit code, or None once all frames have their verdicts at the consumer."""
    seen: dict[str, int | None] = {"code": None}

    def over() -> bool:
        seen["code"] = process.poll()
        paths = {body for body in results(site) if b'"resultType":"frame"' in body}
        return seen["code"] is not None or len(paths) >= frames

    until(over, "the daemon dies or is done", 60)
    return seen["code"]
