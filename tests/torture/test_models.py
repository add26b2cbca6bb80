"""What a daemon does about damaged, foreign, unsigned or failing models: real processes, files and broker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge import config
from edge.infer.bundle import load_bundle
from edge.judge.calibration import load_calibration, save_calibration
from edge.recipes import sign_recipe
from edge.signing import make_keys, read_private
from edge.testing import write_frame
from tests.brokers import until
from tests.e2e.conftest import Site, recipe, site  # noqa: F401  # fixtures
from tests.sites import DaemonProcess
from tests.torture.failing_engine import FAULT

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]


@pytest.fixture
def own(site: Site) -> Site:  # noqa: F811
    """A site whose models may be spoiled."""
    for name in ("engines", "calibration"):
        shared = (site.folder / name).resolve()
        (site.folder / name).unlink()
        shutil.copytree(shared, site.folder / name)
    return site


def engine(own: Site) -> Path:
    return own.folder / "engines" / "blur"


def calibration(own: Site) -> Path:
    return own.folder / "calibration" / "blur.json"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def of_another_bundle(file: Path) -> None:
    digest = json.loads(file.read_text())["bundle_sha256"]
    made = load_calibration(file, digest)
    save_calibration(file, made.model_copy(update={"bundle_sha256": "ab" * 32}))


FAULTS: dict[str, Callable[[Site], None]] = {
    "network flipped": lambda own: flip(engine(own) / "model.onnx"),
    "golden pair cut": lambda own: cut(engine(own) / "golden.npz"),
    "manifest flipped": lambda own: flip(engine(own) / "bundle.json"),
    "network gone": lambda own: (engine(own) / "model.onnx").unlink(),
    "calibration flipped": lambda own: flip(calibration(own)),
    "calibration of another bundle": lambda own: of_another_bundle(calibration(own)),
}


def arrive(own: Site, name: str, *, defect: bool = False, seed: int = 0) -> None:
    temporary = write_frame(own.folder / "scratch.png", defect=defect, seed=seed)
    target = own.folder / "incoming" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, target)


def frames(own: Site) -> dict[str, dict[str, Any]]:
    verdicts = [json.loads(body) for body in own.subscriber.bodies("result/frame")]
    return {verdict["image"]["path"]: verdict for verdict in verdicts}


def judges_rightly(own: Site, batch: str) -> dict[str, dict[str, Any]]:
    """A good and a bad frame get what they deserve."""
    arrive(own, f"{batch}/P1_01.png")
    arrive(own, f"{batch}/P1_02.png", defect=True, seed=1)
    good, bad = f"{batch}/P1_01.png", f"{batch}/P1_02.png"
    until(lambda: {good, bad} <= frames(own).keys(), "two verdicts", 30)
    found = frames(own)
    assert (found[good]["resultEvaluation"], found[bad]["resultEvaluation"]) == ("OK", "NotOK")
    return found


def refusal(daemon: DaemonProcess) -> str:
    """What the last reload was refused for; empty while there is none."""
    code, body = daemon.get("/api/v1/status")
    last = json.loads(body)["lastReload"] if code == 200 else None
    return last["error"] if last and not last["ok"] else ""


def run_to_its_end(own: Site) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", "run", "--config", str(own.folder / "config.toml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reload_with_damaged_models_is_refused_and_the_old_ones_go_on(own: Site, fault: str) -> None:
    daemon = own.start()
    before = daemon.status()["recipes"]
    FAULTS[fault](own)
    daemon.signal(signal.SIGHUP)
    until(lambda: refusal(daemon), "the refusal is visible")
    assert refusal(daemon).startswith(str(own.folder))
    assert daemon.status()["recipes"] == before
    assert daemon.status()["ready"]
    assert "edge_reload_failures_total 1.0" in daemon.get("/metrics")[1]
    judges_rightly(own, "after")
    assert daemon.stop()[0] == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_start_with_damaged_models_ends_with_one_line_and_its_fix(own: Site, fault: str) -> None:
    arrive(own, "B1/P1_01.png")
    FAULTS[fault](own)
    ended = run_to_its_end(own)
    assert ended.returncode == 65
    said, fix = ended.stderr.strip().splitlines()[-2:]
    assert said.startswith(f"edge: {own.folder}")
    assert fix.startswith("  fix: ")
    assert "Traceback" not in ended.stderr
    assert frames(own) == {}


def spoil(state: Path, how: str, foreign: Path) -> None:
    (compiled,) = state.glob("compiled/*.compiled")
    if how == "deleted":
        shutil.rmtree(compiled.parent)
    elif how == "flipped":
        flip(compiled)
    elif how == "cut":
        os.truncate(compiled, compiled.stat().st_size // 2)
    elif how == "empty":
        os.truncate(compiled, 0)
    elif how == "foreign":
        compiled.write_bytes(foreign.read_bytes())
    elif how == "in the way":
        shutil.rmtree(compiled.parent)
        compiled.parent.write_text("a file where a folder should be")


@pytest.mark.parametrize("how", ["deleted", "flipped", "cut", "empty", "foreign", "in the way"])
def test_a_start_with_damaged_compiled_engines_is_ready_and_judges_rightly(own: Site, how: str) -> None:
    first = own.start()
    assert first.stop()[0] == 0
    spoil(own.folder / "var", how, engine(own) / "model.onnx")
    own.start()
    judges_rightly(own, "again")
    said = "engine.note" in (own.folder / "daemon.log").read_text()
    assert said == (how != "deleted")


class FailingDaemon(DaemonProcess):
    """Its engine fails as soon as `fail` says so."""

    module = "tests.torture.failing_engine"

    def __init__(self, own: Site) -> None:
        self.fault = own.folder / "fault"
        super().__init__(own.folder / "config.toml", own.http_port, {FAULT: str(self.fault)})
        own.daemons.append(self)

    def fail(self, how: str) -> None:
        temporary = self.fault.with_suffix(".tmp")
        temporary.write_text(how)
        temporary.replace(self.fault)


def stored(own: Site) -> list[dict[str, Any]]:
    database = sqlite3.connect(f"file:{own.folder}/var/edge.sqlite3?mode=ro", uri=True)
    rows = database.execute("SELECT payload FROM verdicts WHERE type = 'frame'").fetchall()
    database.close()
    return [json.loads(payload) for (payload,) in rows]


@pytest.mark.parametrize("how", ["dead", "nan"])
def test_a_lost_engine_convicts_no_frame_and_the_next_start_judges_them_all(own: Site, how: str) -> None:
    daemon = FailingDaemon(own)
    daemon.ready()
    judges_rightly(own, "before")
    daemon.fail(how)
    for number in range(12):
        arrive(own, f"B1/P{number:02d}_01.png", seed=number)
    assert daemon.process.wait(30) == 69
    log = daemon.log.read_text()
    assert "the engine (accelerator) is lost" in log
    assert {v["batchId"] for v in stored(own)} == {"before"}
    own.start()
    until(lambda: len(frames(own)) == 14, "all verdicts", 30)
    evaluations = [(v["image"]["path"], v["resultEvaluation"]) for v in stored(own)]
    assert len(evaluations) == len(set(evaluations)) == 14
    assert [name for name, evaluation in evaluations if evaluation != "OK"] == ["before/P1_02.png"]


def test_a_lost_engine_is_replaced_by_the_cpu_where_that_is_configured(own: Site) -> None:
    file = own.folder / "config.toml"
    file.write_text(file.read_text().replace("[runtime]\n", '[runtime]\non_engine_loss = "cpu"\n'))
    daemon = FailingDaemon(own)
    daemon.ready()
    before = judges_rightly(own, "before")["before/P1_01.png"]
    daemon.fail("dead")
    after = judges_rightly(own, "after")["after/P1_01.png"]
    assert (before["model"]["runtime"], after["model"]["runtime"]) == ("accelerator", "openvino")
    assert daemon.process.poll() is None
    status = daemon.status()
    assert status["ready"]
    assert "device lost" in status["recipes"]["blur"]["engineReplacedBecause"]
    metrics = daemon.get("/metrics")[1]
    assert 'edge_engine_losses_total{recipe="blur"} 1.0' in metrics
    (info,) = [line for line in metrics.splitlines() if line.startswith("edge_bundle_info{")]
    assert 'runtime="openvino"' in info
    assert "engine.lost" in daemon.log.read_text()
    daemon.fault.unlink()  # mended: a reload takes the accelerator again
    daemon.signal(signal.SIGHUP)
    until(lambda: runtime_now(daemon) == "accelerator", "the reload")
    judges_rightly(own, "mended")


def runtime_now(daemon: DaemonProcess) -> str:
    code, body = daemon.get("/api/v1/status")
    return str(json.loads(body)["recipes"]["blur"]["runtime"]) if code == 200 else ""


def test_unsigned_models_are_refused_where_signatures_are_required(own: Site) -> None:
    daemon = own.start()
    private, public, _ = make_keys(own.folder / "keys", "edge")
    file = own.folder / "config.toml"
    file.write_text(f'{file.read_text()}\n[security]\ntrusted_keys = ["keys/{public.name}"]\n')
    daemon.signal(signal.SIGHUP)
    until(lambda: "bundle.json is not signed" in refusal(daemon), "the refusal is visible")
    judges_rightly(own, "old")
    assert daemon.stop()[0] == 0
    ended = run_to_its_end(own)
    assert ended.returncode == 65
    assert "bundle.json.sig: not there" in ended.stderr
    sign_recipe(config.load(file), "blur", read_private(private))
    own.start()
    judges_rightly(own, "signed")
    assert load_bundle(engine(own)).digest
