"""Quality over batches, from judged frames to rows, charts, metrics and drawings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from edge import quality
from edge.buffer import Buffer
from edge.drift_watch import DriftWatch
from edge.errors import CannotWriteError, UnavailableError
from edge.housekeeping import QUALITY_S, Housekeeping
from edge.judge.calibration import Calibration, GoodFrame, calibrate
from edge.judge.drift import DriftRule
from edge.observe.health import Health
from edge.observe.metrics import Metrics
from edge.record.batches import ChartRow
from edge.record.store import Store
from edge.recording import EvidenceRule, RecordStage
from edge.stages import FrameResult, Judged
from edge.testing import FakeClock
from edge.types import KINDS, Candidate, FileStamp, Identity, ImageInfo, Judgement, ModelInfo, Score

NOON = 1_795_176_000.0  # 2026-11-20T12:00Z
MEAN = 0.02


def calibration(views: tuple[str, ...] = ("07",), factor: float = 1.0) -> Calibration:
    """Good scores of mean 0.02 and relative deviation 0.2."""
    scores = np.linspace(-1, 1, 40)
    scores = MEAN * (1 + 0.2 * (scores - scores.mean()) / scores.std(ddof=1)) * factor
    good = [GoodFrame(view, float(raw), 0.1, 0.5, 0.1, 48, 64) for view in views for raw in scores]
    made = calibrate(
        good, recipe="r", bundle_sha256="b" * 64, statistic="peak", false_reject=0.05, too_few="refuse"
    )
    return made.model_copy(update={"digest": f"{factor}" * 8})


class Rig:
    """The record stage with nothing before it."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(NOON)
        self.store = Store(folder / "edge.sqlite3", {"mqtt": KINDS})
        self.metrics = Metrics(CollectorRegistry())
        self.calibration: Calibration | None = calibration()
        self._judged: Buffer[Judged] = Buffer(1e9)
        self._count = 0
        drift = DriftWatch(
            DriftRule(), 86400, meter=self.metrics, log=structlog.get_logger(), clock=self.clock,
            unix_clock=self.clock,
        )  # fmt: skip
        self.stage = RecordStage(
            self._judged, self.store, station="t", parts={}, evidence_rule=EvidenceRule(folder, 0.0),
            meter=self.metrics, drift=drift, wake_delivery=lambda: None, done=lambda candidate: None,
            log=structlog.get_logger(), clock=self.clock, unix_clock=self.clock,
        )  # fmt: skip

    def add(self, raw: float, evaluation: str = "OK", *, content: str | None = None, **who: str) -> None:
        """A judged frame; `who` is its batch, view, part."""
        self._count += 1
        name = content or f"{self._count}"
        model = ModelInfo("b", "b" * 64, "fake", "fp32", "c" * 64)
        route: Any = SimpleNamespace(
            recipe="r",
            same_content="judge",
            inspector=SimpleNamespace(model=model, calibration=self.calibration),
        )
        values = np.zeros((4, 4), np.float32)
        result = FrameResult(
            ImageInfo(f"{name}.png", name, 4, 4, 8),
            Identity(**({"view": "07", "batch": "B1"} | who)),
            Judgement(evaluation, (), raw / 0.03, 0.03),  # type: ignore[arg-type]
            score=Score(raw, values, {}, (0, 0, 1, 1), 0.5, 0.1),
        )
        stamp = FileStamp(1, self._count)
        candidate = Candidate("s", f"{name}.png", Path(f"{name}.png"), stamp, 0, 0, NOON)
        self._judged.put(Judged(candidate, route, (result,), route.inspector.model), 1.0)

    def run(self) -> None:
        while len(self._judged) or self.stage.holding:
            self.stage.step(0.0)

    def charts(self) -> list[quality.ControlChart]:
        return quality.control_charts(self.store)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.store.close()


def test_decided_frames_count_relative_to_their_views_calibration(rig: Rig) -> None:
    for raw, evaluation in ((0.02, "OK"), (0.03, "OK"), (0.04, "NotOK"), (5.0, "NotDecidable")):
        rig.add(raw, evaluation)
    rig.run()
    (of,) = rig.charts()
    assert (of.row.recipe, of.row.view, of.row.sigma) == ("r", "07", pytest.approx(0.2))
    assert of.batches[0].frames == 3
    assert of.points[0].nqi == pytest.approx(0.03 / MEAN)


def test_the_same_file_again_does_not_count_twice(rig: Rig) -> None:
    rig.add(0.02, content="same")
    rig.run()
    rig.add(0.02, content="same")
    rig.run()
    assert rig.charts()[0].batches[0].frames == 1


def test_frames_without_a_batch_count_for_their_day_and_without_a_view_for_the_recipe(rig: Rig) -> None:
    rig.calibration = calibration(("default",))
    rig.add(0.02, batch="", view="")
    rig.run()
    rig.clock.advance(13 * 3600)
    rig.add(0.02, batch="", view="")
    rig.run()
    (of,) = rig.charts()
    assert (of.row.view, of.name) == ("", "r")
    assert [batch.label for batch in of.batches] == ["2026-11-20", "2026-11-21"]


def test_frames_of_views_without_scores_of_their_own_do_not_count(rig: Rig) -> None:
    rig.add(0.02, view="08")
    rig.calibration = None
    rig.add(0.02)
    rig.run()
    assert rig.charts() == []
    assert rig.store.counts()["frame"] == {"OK": 2}


def test_a_disk_that_refuses_costs_no_frame_and_counts_none_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.add(0.02)
    refused = []

    def refuse(*_: Any) -> None:
        refused.append(1)
        raise CannotWriteError("database: disk full")

    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "add_to_batch", refuse)
        with pytest.raises(CannotWriteError):
            rig.run()
    assert rig.store.counts()["frame"] == {}
    rig.run()
    assert rig.charts()[0].batches[0].frames == rig.store.counts()["frame"]["OK"] == 1


def fill(rig: Rig, levels: dict[str, float], frames: int = 16) -> None:
    for batch, level in levels.items():
        for _ in range(frames):
            rig.add(level * MEAN, batch=batch)
        rig.run()
        rig.clock.advance(60)


def test_a_point_is_the_same_however_many_batches_are_asked_for(rig: Rig) -> None:
    fill(rig, {f"B{k}": 1 + 0.01 * k for k in range(12)}, frames=3)
    (all_of_them,), (few,) = quality.control_charts(rig.store), quality.control_charts(rig.store, last=2)
    assert few.points == all_of_them.points[-2:]
    assert few.batches == all_of_them.batches[-2:]


def test_a_batch_that_is_worse_is_out_of_control_and_said_everywhere(rig: Rig) -> None:
    fill(rig, {"B1": 1.0, "B2": 1.02, "B3": 1.4})
    (of,) = rig.charts()
    assert of.in_control is False
    said = quality.document(of)
    assert said["inControl"] is False
    assert [point["rules"] for point in said["points"]] == [[], [], ["above_limit", "ewma_above"]]
    assert said["points"][2]["upper"] == pytest.approx(1 + 3 * 0.2 * (1 / 16 + 1 / 40) ** 0.5, rel=1e-6)
    rows = [dict(zip(quality.COLUMNS, row, strict=True)) for row in quality.table([of])]
    assert [(row["batch"], row["frames"], row["rules"]) for row in rows][2] == (
        "B3",
        16,
        "above_limit ewma_above",
    )
    assert 'class="out"' in quality.draw(of)


def housekeeping(rig: Rig, store: Any = None) -> Housekeeping:
    inspector = SimpleNamespace(calibration=rig.calibration)
    state = SimpleNamespace(paths=SimpleNamespace(state=Path("/nowhere")))
    line: Any = SimpleNamespace(
        intakes=[],
        workers=SimpleNamespace(take_restarts=lambda: 0, trouble="", confined_by=None),
        settings=state,
        inspectors={"r": inspector},
    )
    log = structlog.get_logger()
    house = Housekeeping(
        line, store or rig.store, Health(), rig.metrics, log=log, clock=rig.clock, unix_clock=rig.clock
    )
    house._next_prune_s = float("inf")
    return house


def exposed(rig: Rig) -> dict[str, float]:
    found = {}
    for name in ("edge_nqi", "edge_nqi_ewma", "edge_spc_out_of_control"):
        value = rig.metrics.registry.get_sample_value(name, {"recipe": "r", "view": "07"})
        if value is not None:
            found[name] = value
    return found


def test_metrics_show_the_latest_batch_also_after_a_restart(rig: Rig) -> None:
    house = housekeeping(rig)
    house.step()
    assert exposed(rig) == {}
    fill(rig, {"B1": 1.0, "B2": 1.4})
    house.step()
    first = exposed(rig)
    assert first["edge_nqi"] == pytest.approx(1.4)
    assert first["edge_nqi_ewma"] == pytest.approx(1.08)
    assert first["edge_spc_out_of_control"] == 1
    fill(rig, {"B3": 1.0, "B4": 1.0})
    rig.clock.advance(QUALITY_S)
    house.step()
    assert exposed(rig)["edge_spc_out_of_control"] == 0
    rig.metrics.forget_quality()
    housekeeping(rig).step()
    assert exposed(rig)["edge_nqi"] == pytest.approx(1.0)


def test_after_a_recalibration_metrics_wait_for_frames_under_it(rig: Rig) -> None:
    fill(rig, {"B1": 1.4})
    rig.calibration = calibration(factor=2.0)
    house = housekeeping(rig)
    house.step()
    assert exposed(rig) == {}
    fill(rig, {"B1": 2.0})
    house.step()
    assert exposed(rig)["edge_nqi"] == pytest.approx(1.0)
    assert rig.charts()[0].batches[0].frames == 16


def test_without_limits_there_is_an_index_and_no_alarm(rig: Rig) -> None:
    rig.calibration = with_scores(calibration(), (0.02, 0.021))
    fill(rig, {"B1": 1.4})
    housekeeping(rig).step()
    assert set(exposed(rig)) == {"edge_nqi", "edge_nqi_ewma"}
    assert rig.charts()[0].in_control is None


def with_scores(made: Calibration, scores: tuple[float, ...]) -> Calibration:
    views = {name: limits.model_copy(update={"scores": scores}) for name, limits in made.views.items()}
    return made.model_copy(update={"views": views})


def test_a_database_that_does_not_answer_is_asked_again(rig: Rig) -> None:
    fill(rig, {"B1": 1.0})

    class Shaky:
        failing = True
        damaged = ""

        def take_moved_charts(self) -> set[tuple[str, str]]:
            return rig.store.take_moved_charts()

        def spc_charts(self, *who: Any) -> list[ChartRow]:
            if self.failing:
                raise UnavailableError("database: busy")
            return rig.store.spc_charts(*who)

        spc_batches = staticmethod(rig.store.spc_batches)

    shaky = Shaky()
    house = housekeeping(rig, shaky)
    house.step()
    assert exposed(rig) == {}
    shaky.failing = False
    rig.clock.advance(QUALITY_S)
    house.step()
    assert exposed(rig)["edge_nqi"] == pytest.approx(1.0)


def test_a_chart_that_lost_its_batches_is_not_shown(rig: Rig) -> None:
    fill(rig, {"B1": 1.0})
    row = rig.store.spc_charts()[0]
    rig.store._db.execute("DELETE FROM spc_batches")
    assert rig.store.spc_charts() == [row]
    assert rig.charts() == []
