"""An engine that is lost judges nothing, is replaced or ends the process as configured, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from edge import app, config
from edge.engine_loss import PROVE_EVERY_S, EngineLoss, EngineWatch
from edge.errors import BundleError, EngineLostError
from edge.infer.bundle import MODEL, Bundle
from edge.infer.compile import CPU_RUNTIME, prove
from edge.infer.runtime import Runtime
from edge.observe.metrics import Metrics
from edge.pipeline import Inspector
from edge.recipes import open_on_cpu, open_recipe
from edge.testing import FakeClock, FakeRuntime
from edge.types import FloatImage
from tests.sites import make_recipe
from tests.test_stages import Rig


class Accelerator(FakeRuntime):
    """Works (flat grey is its golden answer) until told otherwise."""

    name = "accelerator"

    def __init__(self) -> None:
        super().__init__(self._now)
        self.state = "works"

    def _now(self, tiles: FloatImage) -> FloatImage:
        if self.state == "dead":
            raise RuntimeError("device lost")
        wrong = {"works": 0.5, "nan": np.nan, "inf": np.inf, "zero": 0.0}
        return np.full_like(tiles, wrong[self.state])


class Cpu(FakeRuntime):
    """What takes over."""

    name = CPU_RUNTIME


def loss(tmp_path: Path, wanted: str, **how: Any) -> EngineLoss:
    file = tmp_path / "config.toml"
    file.write_text(f'[runtime]\non_engine_loss = "{wanted}"\n')
    how = {"open_on_cpu": lambda settings, bundle: Cpu(), "meter": Metrics(CollectorRegistry())} | how
    return EngineLoss(config.load(file), log=structlog.get_logger(), **how)


def dies(rig: Rig) -> EngineLostError:
    with pytest.raises(EngineLostError) as caught:
        rig.run()
    assert rig.store.latest(10) == []
    return caught.value


@pytest.mark.parametrize("state", ["dead", "nan", "inf"])
def test_a_lost_engine_gives_no_frame_a_verdict_and_ends_the_process(tmp_path: Path, state: str) -> None:
    engine = Accelerator()
    rig = Rig(tmp_path, engine)
    engine.state = state
    for name in ("P1_1.png", "P1_2.png", "P2_1.png"):
        rig.add(name)
    error = dies(rig)
    assert (error.exit_code, error.retryable, error.reason) == (69, False, "engine_lost")
    assert "recipe r: the engine (accelerator) is lost" in error.message
    assert "on_engine_loss" in error.hint


def test_a_frame_that_breaks_a_sound_engine_costs_itself_only(tmp_path: Path) -> None:
    """The golden pair clears the engine, however often: no loop, no loss."""

    def answer(tiles: FloatImage) -> FloatImage:
        return np.full_like(tiles, np.nan if tiles.max() > 0.9 else 0.5)

    rig = Rig(tmp_path, FakeRuntime(answer))
    for number in range(5):
        rig.add(f"P{number}_1.png", defect=number % 2 == 1)
    reasons = {v["partId"]: v["reasons"] for v in rig.run() if v["resultType"] == "frame"}
    assert reasons == {
        "P0": [], "P1": ["score_not_finite"], "P2": [], "P3": ["score_not_finite"], "P4": [],
    }  # fmt: skip


def test_an_engine_that_stumbles_once_is_no_loss(tmp_path: Path) -> None:
    failures = [RuntimeError("out of memory for a moment")]

    def answer(tiles: FloatImage) -> FloatImage:
        if failures:
            raise failures.pop()
        return np.full_like(tiles, 0.5)

    rig = Rig(tmp_path, FakeRuntime(answer))
    rig.add("P1_1.png")
    rig.add("P2_1.png")
    assert [v["resultEvaluation"] for v in rig.run() if v["resultType"] == "frame"] == ["OK", "OK"]


@pytest.mark.parametrize("state", ["dead", "nan"])
def test_with_the_cpu_configured_the_same_frames_are_judged_by_it(tmp_path: Path, state: str) -> None:
    engine, meter = Accelerator(), Metrics(CollectorRegistry())
    rig = Rig(tmp_path, engine, loss(tmp_path, "cpu", meter=meter))
    engine.state = state
    rig.add("P1_1.png")
    rig.add("P1_2.png", defect=True)
    found = {v["view"]: v for v in rig.run() if v["resultType"] == "frame"}
    assert [found[view]["resultEvaluation"] for view in ("1", "2")] == ["OK", "NotOK"]
    assert found["1"]["model"]["runtime"] == CPU_RUNTIME
    sample = meter.registry.get_sample_value
    assert sample("edge_engine_losses_total", {"recipe": "r"}) == 1.0
    labels = {"recipe": "r", "sha256": found["1"]["model"]["sha256"], "precision": "fp32"}
    assert sample("edge_bundle_info", labels | {"runtime": CPU_RUNTIME}) == 1.0
    rig.add("P2_1.png")
    rig.run()
    assert sample("edge_engine_losses_total", {"recipe": "r"}) == 1.0


def test_a_verdict_names_the_engine_that_made_it(tmp_path: Path) -> None:
    """Not the one that took its place before it was recorded."""
    engine = Accelerator()
    rig = Rig(tmp_path, engine, loss(tmp_path, "cpu"))
    rig.add("P1_1.png")
    while rig.decode.step(0.0):
        pass
    rig.inspect.step(0.0)
    engine.state = "dead"
    rig.add("P2_1.png")
    runtimes = {v["partId"]: v["model"]["runtime"] for v in rig.run() if v["resultType"] == "frame"}
    assert runtimes == {"P1": "accelerator", "P2": CPU_RUNTIME}


def test_a_lost_cpu_has_nothing_to_fall_back_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Cpu(lambda tiles: tiles * np.nan), loss(tmp_path, "cpu"))
    rig.add("P1_1.png")
    assert "(openvino) is lost" in dies(rig).message


def test_when_the_cpu_cannot_take_over_the_process_ends(tmp_path: Path) -> None:
    def replaced(_settings: config.Settings, _bundle: Bundle) -> Runtime:
        raise BundleError("model.onnx: damaged")

    engine = Accelerator()
    rig = Rig(tmp_path, engine, loss(tmp_path, "cpu", open_on_cpu=replaced))
    engine.state = "dead"
    rig.add("P1_1.png")
    assert "the CPU cannot take over: model.onnx: damaged" in dies(rig).message


def test_an_engine_that_answers_wrongly_without_an_error_is_found_within_a_minute(tmp_path: Path) -> None:
    """Zeros are finite, and a network that says "no defect" everywhere would pass every frame."""
    engine = Accelerator()
    rig = Rig(tmp_path, engine)
    engine.state = "zero"
    rig.clock.advance(PROVE_EVERY_S)
    rig.add("P1_1.png")
    assert "differs from the learned network" in dies(rig).message


def test_a_sound_engine_is_proved_once_a_minute_and_not_at_every_frame() -> None:
    clock, asked = FakeClock(), list[str]()

    class Proved:
        @property
        def bundle(self) -> Bundle:
            asked.append("")
            raise RuntimeError("lost")

    inspector: Any = Proved()
    watch = EngineWatch(lambda recipe, inspector, why: None, clock=clock)
    for _ in range(10):
        clock.advance(PROVE_EVERY_S / 4)
        watch.check_now_and_then("r", inspector)
    assert len(asked) == 2


def test_the_real_cpu_runtime_takes_over_and_status_says_so(tmp_path: Path) -> None:
    make_recipe(tmp_path)
    file = tmp_path / "config.toml"
    file.write_text('[runtime]\non_engine_loss = "cpu"\n')
    settings = config.load(file)
    opened = open_recipe(settings, "blur")
    engine = Accelerator()
    inspector = Inspector(opened.bundle, engine, opened.calibration)
    described = app.describe(settings, {"blur": inspector})["recipes"]["blur"]
    assert (described["runtime"], described["engineReplacedBecause"]) == ("accelerator", None)
    engine.state = "dead"
    on_loss = EngineLoss(
        settings, open_on_cpu=open_on_cpu, meter=Metrics(CollectorRegistry()), log=structlog.get_logger()
    )
    assert EngineWatch(on_loss).was_replaced("blur", inspector, "inference failed")
    assert prove(inspector.bundle, inspector.runtime) < 1e-5
    described = app.describe(settings, {"blur": inspector})["recipes"]["blur"]
    assert described["runtime"] == CPU_RUNTIME
    assert "accelerator was lost: inference failed; golden pair: RuntimeError: device lost" in str(
        described["engineReplacedBecause"]
    )


def test_the_golden_pair_is_at_hand_when_the_bundle_on_disk_was_replaced(tmp_path: Path) -> None:
    """Relearned, and not reloaded yet: a frame's fault is still a frame's fault; a lost engine ends."""
    make_recipe(tmp_path)
    file = tmp_path / "config.toml"
    file.write_text('[runtime]\non_engine_loss = "cpu"\n')
    settings = config.load(file)
    opened = open_recipe(settings, "blur")
    for name in opened.bundle.manifest.files:
        (opened.bundle.folder / name).write_bytes(b"another")
    on_loss = EngineLoss(
        settings, open_on_cpu=open_on_cpu, meter=Metrics(CollectorRegistry()), log=structlog.get_logger()
    )
    watch = EngineWatch(on_loss)
    assert not watch.was_replaced("blur", opened, "a frame failed")
    lost = Inspector(opened.bundle, Accelerator(), opened.calibration)
    with pytest.raises(EngineLostError, match=rf"cannot take over: .*{MODEL}: damaged"):
        watch.was_replaced("blur", lost, "inference failed")
