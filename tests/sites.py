"""Whole sites for tests: a recipe with a real (if small) network, a config.toml, a daemon process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
from onnx import TensorProto, helper, numpy_helper

from edge.decode import Limits
from edge.infer.bundle import Bundle, ScoreSpec, write_bundle
from edge.infer.compile import open_runtime
from edge.judge.calibration import calibrate, save_calibration
from edge.pipeline import Inspector, PrepareJob, prepare_file
from edge.preprocess import PreprocessSpec, TileSpec
from edge.testing import write_frame
from tests.brokers import free_port, until

PX = 32
VIEWS = ("01", "02")


def blurring_network(px: int = PX, side: int = 9) -> bytes:
    """A box blur as an autoencoder: what is small does not come back."""
    shape = ["n", 1, px, px]
    kernel = np.full((1, 1, side, side), 1 / side**2, np.float32)
    pads = [0, 0, side // 2, side // 2] * 2
    graph = helper.make_graph(
        [
            helper.make_node("Pad", ["tiles", "pads"], ["padded"], mode="edge"),
            helper.make_node("Conv", ["padded", "kernel"], ["answers"]),
        ],
        "blur",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.array(pads, np.int64), "pads"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def blurring_bundle(folder: Path) -> Bundle:
    tiles = np.random.default_rng(0).random((2, 1, PX, PX), np.float32)
    reference = onnx.reference.ReferenceEvaluator(onnx.load_from_string(blurring_network()))
    (answers,) = reference.run(None, {"tiles": tiles})
    return write_bundle(
        folder,
        name=folder.name,
        model="blur",
        preprocess=PreprocessSpec(tiles=TileSpec(size_px=PX, keep_px=PX, step_px=PX)),
        score=ScoreSpec(map="l1", statistic="peak", peak_px=4),
        output="reconstruction",
        onnx=blurring_network(),
        golden=(tiles, answers),
        training={},
    )


def make_recipe(folder: Path, name: str = "blur", views: tuple[str, ...] = VIEWS) -> None:
    """engines/NAME and calibration/NAME.json below a folder, calibrated on frames of `write_frame`."""
    bundle = blurring_bundle(folder / "engines" / name)
    inspector = Inspector(bundle, open_runtime(bundle))
    good = []
    for seed in range(20):
        file = write_frame(folder / "good" / f"{seed}.png", seed=1000 + seed)
        (frame,) = prepare_file(PrepareJob(file, "", None, bundle.manifest.preprocess, Limits(10**8, 8)))
        (scored,) = inspector.good_frames([frame])
        # other frames of `write_frame` score a little higher than these
        good += [replace(scored, view=view, raw=scored.raw * 1.3) for view in views]
    save_calibration(
        folder / "calibration" / f"{name}.json",
        calibrate(
            good, recipe=name, bundle_sha256=bundle.digest, statistic="peak", false_reject=0.05,
            too_few="refuse",
        ),
    )  # fmt: skip


def write_config(folder: Path, mqtt_port: int, http_port: int, **source: Any) -> Path:
    """A site with one source `incoming`; keyword arguments become keys of it."""
    keys = {"settle_s": 0.2, "rescan_s": 0.3, "incomplete_after_s": 1.5, "template": "{batch}/{part}_{view}"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (keys | source).items() if value is not None]
    file = folder / "config.toml"
    file.write_text(
        f"""schema_version = 1
[station]
name = "st"
[[source]]
name = "scanner"
directory = "incoming"
recipe = "blur"
{chr(10).join(lines)}
[recipe.blur]
views = {json.dumps(VIEWS)}
part_timeout_s = 3
[runtime]
decode_workers = 1
[mqtt]
port = {mqtt_port}
requests = true
[http]
listen = "127.0.0.1:{http_port}"
"""
    )
    (folder / "incoming").mkdir(exist_ok=True)
    return file


class DaemonProcess:
    """`edge run` as its own process."""

    module = "edge"

    def __init__(self, config: Path, http_port: int, environ: Mapping[str, str] | None = None) -> None:
        self.config, self.http_port = config, http_port
        self.log = config.parent / "daemon.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "run", "--config", str(config)],
                stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
            )  # fmt: skip

    def ready(self) -> DaemonProcess:
        until(self._is_ready, "daemon ready", 60)
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> tuple[int, str]:
        """(status, body); status 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.get("/api/v1/status")[1])
        return status

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> tuple[int, float]:
        """SIGTERM; gives (exit code, seconds it took)."""
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        return self.process.wait(30), time.monotonic() - began

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


__all__ = ["VIEWS", "DaemonProcess", "free_port", "make_recipe", "write_config"]
