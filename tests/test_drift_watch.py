"""The daemon's watch over scores and pictures: alarms once, forgets nothing at a restart, keeps a bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console
from structlog.testing import CapturingLogger

from edge.drift_watch import BASE_FRAMES, EVERY_S, WINDOW_FRAMES, DriftWatch
from edge.judge.calibration import Calibration, GoodFrame, calibrate
from edge.judge.drift import DriftRule
from edge.observe.metrics import Metrics
from edge.publish.payload import encode
from edge.record.store import Store
from edge.status import show
from edge.testing import FakeClock
from edge.types import Evaluation, Identity, Score, Verdict

NOON = 1_795_176_000.0
WINDOW_S = 3600.0


def calibration(count: int = 200) -> Calibration:
    raw = 0.02 * np.exp(0.3 * np.random.default_rng(0).standard_normal(count))
    good = [GoodFrame("1", float(one), float(one), 0.5, 0.1, 8, 8) for one in raw]
    made = calibrate(
        good, recipe="r", bundle_sha256="b" * 64, statistic="peak", false_reject=0.05, too_few="refuse"
    )
    return made.model_copy(update={"digest": "c" * 64, "created": "2026-11-20T11:00:00+00:00"})


class Rig:
    def __init__(self) -> None:
        self.clock, self.log, self.metrics = FakeClock(NOON), CapturingLogger(), Metrics(CollectorRegistry())
        self.calibration = calibration()
        self.watch = self.fresh()
        self._rng, self._count = np.random.default_rng(1), 0

    def fresh(self) -> DriftWatch:
        return DriftWatch(
            DriftRule(), WINDOW_S, meter=self.metrics, log=self.log, clock=self.clock, unix_clock=self.clock
        )

    def verdict(
        self,
        score: float | None,
        part: str | None = None,
        *,
        batch: str | None = None,
        historical: bool = False,
    ) -> Verdict:
        self._count += 1
        evaluation: Evaluation = "OK"
        payload = {
            "score": score, "isHistorical": historical, "image": {"sha256": "", "path": "x"},
            "model": {"calibration_sha256": self.calibration.digest},
        }  # fmt: skip
        identity = Identity(part=part, view="1", batch=batch)
        return Verdict(f"{self._count:026d}", "frame", "r", evaluation, identity, self.clock(), payload)

    def see(
        self, count: int, shift: float = 0.0, *, every_s: float = 1.0, mean: float = 0.5,
        store: Store | None = None, part: str | None = None, batch: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        limits = self.calibration.of("1")
        assert limits is not None
        for z in self._rng.standard_normal(count) + shift:
            self.clock.advance(every_s)
            raw = 0.02 * float(np.exp(0.3 * z))
            verdict = self.verdict(raw / limits.threshold, part, batch=batch)
            score = Score(raw, np.zeros((8, 8), np.float32), {}, (0, 0, 1, 1), mean, 0.1)
            if store is not None:
                with store.transaction():
                    store.add_verdict(verdict, encode(verdict.payload))
            self.watch.recorded(verdict, self.calibration, score)
        return self.said()

    def said(self) -> dict[str, Any]:
        self.clock.advance(EVERY_S)
        return self.watch.report()["r"]["1"]

    def logged(self) -> list[str]:
        return [call.args[0] for call in self.log.calls]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_what_the_page_is_told(rig: Rig) -> None:
    said = rig.see(300)
    assert set(said) == {
        "psi", "ksP", "frames", "windowS", "medianRatio", "forecastFalseReject", "promisedFalseReject",
        "pictureMargins", "state", "why",
    }  # fmt: skip
    assert (said["state"], said["frames"], said["windowS"]) == ("ok", 300, WINDOW_S)
    assert said["medianRatio"] == pytest.approx(1, abs=0.1)


def test_an_alarm_is_logged_once_an_episode_and_its_end_too(rig: Rig) -> None:
    rig.see(100)
    assert rig.logged() == []
    assert rig.see(500, 2.0)["state"] == "alarm"
    rig.see(100, 2.0)
    assert rig.logged() == ["drift.alarm"]
    assert rig.metrics.drift_alarm.labels("r", "1")._value.get() == 1
    assert rig.see(700)["state"] == "ok"
    assert rig.logged() == ["drift.alarm", "drift.over"]
    assert rig.metrics.drift_alarm.labels("r", "1")._value.get() == 0


def test_scores_older_than_the_window_are_forgotten(rig: Rig) -> None:
    rig.see(100)
    rig.clock.advance(WINDOW_S)
    said = rig.said()
    assert (said["state"], said["frames"], said["psi"]) == ("too_few", 0, None)


def test_memory_is_bounded(rig: Rig) -> None:
    assert rig.see(WINDOW_FRAMES + 200, every_s=0.1)["frames"] == WINDOW_FRAMES


def test_frames_of_one_part_count_once(rig: Rig) -> None:
    said = rig.see(200, part="P1")
    assert (said["state"], said["frames"]) == ("too_few", 1)


def test_a_part_of_another_batch_is_another_part_after_a_restart_too(rig: Rig, tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    for batch in ("B1", "B2", "B3"):
        said = rig.see(2, part="P1", batch=batch, store=store)
    assert said["frames"] == 3
    rig.watch = rig.fresh()
    rig.watch.restore(store, "r", rig.calibration)
    assert rig.see(1, part="P1", batch="B4")["frames"] == 4
    store.close()


def test_frames_without_a_score_or_from_the_archive_say_nothing(rig: Rig) -> None:
    rig.watch.recorded(rig.verdict(None), rig.calibration, None)
    rig.watch.recorded(rig.verdict(3.0, historical=True), rig.calibration, None)
    rig.watch.recorded(rig.verdict(3.0), None, None)
    assert rig.watch.report() == {}


def test_a_restart_knows_as_much(rig: Rig, tmp_path: Path) -> None:
    store = Store(tmp_path / "edge.sqlite3")
    rig.see(BASE_FRAMES + 50, store=store)
    said = rig.see(500, 0.6, store=store)
    assert said["state"] == "alarm"
    rig.watch = rig.fresh()
    rig.watch.restore(store, "r", rig.calibration)
    again = rig.said()
    store.close()
    assert again["psi"] is not None
    assert {**said, "pictureMargins": {}} == {**again, "pictureMargins": {}}


def test_a_new_calibration_begins_anew(rig: Rig) -> None:
    rig.see(200)
    rig.calibration = rig.calibration.model_copy(update={"digest": "d" * 64})
    assert rig.see(10)["frames"] == 10


def test_pictures_that_drift_towards_a_gate_are_seen_before_they_are_undecidable(rig: Rig) -> None:
    assert rig.see(200)["state"] == "ok"
    said = rig.see(50, mean=0.61)  # the range ends at 0.625
    assert said["state"] == "watch"
    assert "brightness is close to where frames become NotDecidable" in said["why"]
    assert said["pictureMargins"]["brightness_outside_calibration"] < 0.2


def test_status_tells_a_person_which_view_drifts(rig: Rig) -> None:
    rig.see(100)
    rig.see(500, 2.0)
    status: dict[str, Any] = {
        "version": "1", "station": "s", "ready": True, "startedAt": "now", "notReady": {}, "recipes": {},
        "verdicts": {}, "backlog": {}, "outbox": {}, "lastResult": None, "drift": rig.watch.report(),
    }  # fmt: skip
    console = Console(width=200)
    with console.capture() as shown:
        show(status, console)
    assert "drift alarm: recipe r, view 1: the median score is" in shown.get()
