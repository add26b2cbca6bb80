"""Side by side with the peer: the same network over the same folder through anomalib's OpenVINO inferencer.

`python -m bench.peer [--peer-venv PATH] [--rounds R] [--frames N] [--out FILE]` prints a section. Without
`--peer-venv` the peer is installed first (`pip install 'anomalib[openvino]==2.7.*'`: gigabytes).

Two networks with the same weights on both sides, exported for each as it wants it: the default model of this
product, and one so light that everything around it shows. Each side runs in processes of its own, by turns:
- frame by frame as its users call it (`OpenVINOInferencer.predict(path)`, `edge inspect`), against the bare
  model, which is the peer's file compiled by OpenVINO for lowest latency, on a tensor that is ready;
- a folder from the start of the process to its end: first verdict, frames/s after it, peak of its memory;
- and, which the peer has no counterpart of, the folder as a backlog of `edge run` with verdicts in SQLite
  and a broker.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench import machine
from bench.alone import accelerated, circumstances, fibre_planes
from bench.burst import drop
from bench.context import Context, FailedError, environment, wait
from bench.peer_page import FRAME_PX, NETWORKS, PEER, STAGES, Asked, section
from bench.site import running, site_with_broker
from bench.venv import Venv, clean_environment, install

LEARN_STEPS = 150
TURN = 10  # frames predicted, then as many calls of the bare model; as in peer_anomalib


def measure(context: Context, asked: Asked) -> dict[str, Any]:
    """Both sides, by turns; rows by network and side."""
    staged = _frames(context, asked.frames)
    refused = {name: _recipe(context, name, staged) for name in asked.networks}
    rounds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(asked.rounds):
        for name in asked.networks:
            for side in ("peer", *asked.precisions, "peer-default"):
                load = machine.OtherLoad()
                if side.startswith("peer"):
                    one = _peer(context, name, staged, asked, default=side == "peer-default")
                else:
                    one = _edge(context, name, staged, side)
                one["other_cores"] = load.cores()
                rounds.setdefault((name, side), []).append(one)
                context.say(f"{number} {name} {side}: {_short(one)}")
    sizes = {"peer": _site_packages_mb(asked.peer)}
    if asked.weigh:
        sizes["edge"] = sum(install(context.folder / "venv").sizes_mb().values())
    return {"rounds": rounds, "refused": refused, "sizes_mb": sizes}


def _short(one: Mapping[str, Any]) -> str:
    shown = {key: round(value, 2) for key, value in one.items() if isinstance(value, float)}
    return json.dumps(shown)


def _frames(context: Context, count: int) -> Path:
    """Real frames, good ones and such with defects, each turned a few ways: their scores are far apart."""
    staged = context.folder / "staged"
    staged.mkdir()
    pictures = fibre_planes(40, ("good", "defect"))
    for number in range(count):
        ways = number // len(pictures)
        picture = pictures[number % len(pictures)]
        turned = picture[:: 1 - 2 * (ways // 2 % 2), :: 1 - 2 * (ways % 2)] * (1 - 0.01 * (ways // 4))
        width, height = FRAME_PX
        more = max(0, height - turned.shape[0]), max(0, width - turned.shape[1])
        large = np.pad(turned, ((0, more[0]), (0, more[1])), mode="symmetric")[:height, :width]
        cv2.imwrite(str(staged / f"P{number:04d}.png"), np.rint(255 * large).astype(np.uint8))
    return staged


def _recipe(context: Context, name: str, staged: Path) -> dict[str, str]:
    """The network for both sides, and the recipe, calibrated and quantised; gives why precisions beside
    fp32 would not be let in.

    The peer scores by the map's highest value, edge by its top (as its default does, which also smooths); the
    highest value is in every verdict, too. Thresholds are drawn from frames with defects and without alike:
    speed is what is asked here.
    """
    from bench import networks
    from edge.infer.bundle import ScoreSpec
    from edge.learn.models import MODELS
    from edge.preprocess import PreprocessSpec

    kind = networks.LIGHT if name == "light" else MODELS[name]
    planes = networks.labelled(fibre_planes(5))
    tiles = kind.tiles.model_copy(update={"whole_px": 32})  # padded as the peer's
    network = kind.finish(networks.learned(kind, planes, tiles, LEARN_STEPS))
    networks.write_whole(context.folder / f"{name}.xml", network, FRAME_PX, multiple_px=32)
    networks.write_engine(
        context.folder / "engines" / name, network, planes, PreprocessSpec(tiles=tiles),
        ScoreSpec(map="probability", statistic="top", top_ratio=kind.score.top_ratio), model="anomaly-unet",
        output="probability",
    )  # fmt: skip
    context.edge("calibrate", staged, "--recipe", name, "--threshold", "mad")  # no frame is on it
    return accelerated(context, name, staged)


def _peer(context: Context, name: str, staged: Path, asked: Asked, *, default: bool) -> dict[str, Any]:
    """Timed frame by frame, then a folder from start to end."""
    more = ["--default-precision"] if default else []
    python, script = asked.peer / "bin/python", machine.ROOT / "bench/peer_anomalib.py"
    model = context.folder / f"{name}.xml"
    folder = context.folder / "peer"  # it keeps its compiled networks in the working folder
    folder.mkdir(exist_ok=True)
    env = clean_environment()
    command = [str(python), str(script)]
    done = subprocess.run(
        [*command, "timed", str(model), str(staged), *more],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise FailedError(f"the peer: {done.stderr[-3000:]}")
    whole = observe([*command, "lines", str(model), str(staged), *more], folder, env)
    scores = {line["name"]: line["score"] for line in whole.pop("lines")}
    return _middles(json.loads(done.stdout.splitlines()[-1])) | whole | {"scores": scores}


def _edge(context: Context, name: str, staged: Path, precision: str) -> dict[str, Any]:
    """Timed frame by frame, a folder from start to end, and the folder as a backlog of the daemon."""
    folder = context.folder / precision
    if not folder.exists():
        folder.mkdir()
        for shared in ("engines", "calibration"):
            (folder / shared).symlink_to(context.folder / shared)
        (folder / "config.toml").write_text(f'schema_version = 1\n[runtime]\nprecision = "{precision}"\n')
    done = subprocess.run(
        [sys.executable, "-m", "bench.peer", "--timed", str(folder / "config.toml"), name,
         str(context.folder / f"{name}.xml"), str(staged)],
        cwd=folder, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise FailedError(f"edge, frame by frame: {done.stderr[-3000:]}")
    inspect = [sys.executable, "-m", "edge", "inspect", str(staged), "--recipe", name, "--json"]
    whole = observe(inspect, folder, environment(), exit_codes=(0, 1))
    scores = {Path(line["image"]["path"]).name: line["statistics"]["max"] for line in whole.pop("lines")}
    daemon = _daemon(context, name, staged, precision)
    return _middles(json.loads(done.stdout.splitlines()[-1])) | whole | {"scores": scores} | daemon


def _daemon(context: Context, name: str, staged: Path, precision: str) -> dict[str, Any]:
    """The folder as a backlog."""
    from bench.throughput import Memory, rates

    frames = len(list(staged.iterdir()))
    with tempfile.TemporaryDirectory(dir=context.folder) as place:
        folder = Path(place)
        for shared in ("engines", "calibration"):
            (folder / shared).symlink_to(context.folder / shared)
        with site_with_broker(folder) as (site, _, _consumer):
            site.configure(
                name, source={"template": "{part}", "settle_s": 0.3, "rescan_s": 0.5},
                runtime={"precision": precision},
            )  # fmt: skip
            drop(staged, site.incoming)
            with running(site) as daemon, Memory(daemon.process.pid) as memory:
                wait(lambda: daemon.judged() >= frames, f"{frames} verdicts", 600)
            return {"run_frames_per_s": rates(site)["frames_per_s"], "run_pss_mb": memory.peaks_mb["pss"]}


def observe(
    command: Sequence[str], folder: Path, env: Mapping[str, str], exit_codes: Sequence[int] = (0,)
) -> dict[str, Any]:
    """Run a command that prints a JSON line a frame: seconds from its start to the first, frames/s from the
    first to the last, highest resident memory in MB (10⁶ bytes).

    Raises:
        FailedError: it ends otherwise than expected, or prints fewer than two lines.
    """
    began_s = time.monotonic()
    lines, times, peak_kb = [], [], 0
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            list(command), cwd=folder, env=dict(env), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout is not None, "it was asked for"
            for line in process.stdout:
                times.append(time.monotonic())
                peak_kb = max(peak_kb, resident_peak_kb(process.pid))
                lines.append(json.loads(line))
        errors.seek(0)
        if process.returncode not in exit_codes or len(lines) < 2:
            raise FailedError(f"{command[0]} …: exit code {process.returncode}\n{errors.read()[-3000:]}")
    return {
        "first_s": times[0] - began_s,
        "frames_per_s": (len(times) - 1) / (times[-1] - times[0]),
        "memory_mb": peak_kb * 1024 / 1e6,
        "lines": lines,
    }


def resident_peak_kb(pid: int) -> int:
    """VmHWM: the highest resident memory of a process so far; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def timed(config: Path, recipe: str, whole: Path, folder: Path) -> dict[str, Any]:
    """Frames from file to verdict, as `edge inspect` does it (the next is read meanwhile), and the peer's
    file compiled for lowest latency in fp32 on a tensor that is ready; milliseconds."""
    import openvino as ov
    import openvino.properties.hint as hint

    from edge import config as configuration
    from edge.decode import Limits
    from edge.inspect import verdicts
    from edge.pipeline import PrepareJob
    from edge.recipes import naming_of, open_recipe

    settings = configuration.site(config)
    inspector, naming = open_recipe(settings, recipe), naming_of(settings, recipe)
    limits = Limits(settings.runtime.max_pixels, settings.runtime.max_pages)
    options = {
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        hint.inference_precision(): ov.Type.f32,
    }
    bare = ov.Core().compile_model(whole, "CPU", options)
    tensor = np.random.default_rng(0).random(tuple(bare.input(0).shape), np.float32)
    request = bare.create_infer_request()
    files = sorted(folder.glob("*.png"))

    spec = inspector.bundle.manifest.preprocess

    def predict(turn: Sequence[Path]) -> list[Mapping[str, float]]:
        jobs = [
            PrepareJob(file, file.name, None, spec, limits, naming=naming, named=file.name) for file in turn
        ]
        found = verdicts(jobs, inspector, station="bench", recipe=recipe)
        return [payload["processingTimes"] for _, payload, _ in found]

    def call() -> None:
        request.infer([tensor], share_inputs=True, share_outputs=True)

    for _ in range(3):  # warm
        predict(files[:2])
        call()
    predict_ms, bare_ms, stages_ms = [], [], dict.fromkeys(STAGES, 0.0)
    for start in range(0, len(files), TURN):
        turn = files[start : start + TURN]
        began_s = time.perf_counter()
        for times in predict(turn):
            for stage in STAGES:
                stages_ms[stage] += 1e3 * times[f"{stage}_s"] / len(files)
        predict_ms += [1e3 * (time.perf_counter() - began_s) / len(turn)] * len(turn)
        for _ in turn:
            began_s = time.perf_counter()
            call()
            bare_ms.append(1e3 * (time.perf_counter() - began_s))
    precision = inspector.runtime.precision
    return {"predict_ms": predict_ms, "bare_ms": bare_ms, "stages_ms": stages_ms, "precision": precision}


def _middles(found: Mapping[str, Any]) -> dict[str, Any]:
    """Means over frames: one slow frame in ten is a cost that users have."""
    predict, bare = statistics.mean(found["predict_ms"]), statistics.mean(found["bare_ms"])
    means = {"predict_ms": predict, "bare_ms": bare, "ratio": predict / bare}
    stages = {f"{stage}_ms": value for stage, value in found.get("stages_ms", {}).items()}
    return {**means, **stages, "precision": found["precision"]}


def peer_environment(folder: Path) -> Path:
    """Install the peer into an environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/pip"), "install", "-q", PEER], check=True, env=clean_environment())
    return folder


def _site_packages_mb(folder: Path) -> float:
    return sum(Venv(folder, frozenset(("pip", "setuptools"))).sizes_mb().values())


def main() -> int:
    """0; errors come as they are."""
    parser = argparse.ArgumentParser(prog="python -m bench.peer", description=__doc__)
    parser.add_argument("--peer-venv", type=Path, help="an environment that has the peer [default: make one]")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"], help="of edge")
    parser.add_argument("--weigh", action="store_true", help="install edge afresh, too, and weigh it")
    parser.add_argument("--out", type=Path, help="write the section there, too")
    parser.add_argument("--timed", nargs=4, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.timed:
        config, recipe, whole, folder = options.timed
        print(json.dumps(timed(config, str(recipe), whole, folder)))
        return 0
    load, began_s = machine.OtherLoad(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edge-bench-peer-") as place:
        peer = options.peer_venv or peer_environment(Path(place) / "peer-venv")
        asked = Asked(
            options.frames, options.rounds, tuple(options.networks), tuple(options.precisions),
            peer.absolute(), options.weigh,
        )  # fmt: skip
        found = measure(Context(Path(place)), asked)
    text = "\n".join([
        "## Side by side with the peer", "", *section(found, asked), "",
        circumstances("python -m bench.peer", load, began_s),
    ])  # fmt: skip
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
