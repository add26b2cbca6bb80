"""The daemon against the origin's way of working: PyTorch fp32, tile by tile, one thing after the other.

`python -m bench.origin_way [--frames N] [--rounds R] [--precisions P…] [--out FILE]` prints a section.

The origin read a photograph, reduced and equalised it, cut 320×320 tiles, sent each through the autoencoder,
stitched their centres and took the root of the mean square: in one loop. Here the same weights go through
that loop and through `edge run`, over the same files, by turns. In the loop's favour: torch and the network
are loaded, and one frame is through, before its clock starts; it stores nothing and tells nobody.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bench import machine
from bench.alone import QUIET_CORES, accelerated, circumstances, fibre_planes, quiet, spread
from bench.burst import drop
from bench.context import Context, FailedError, environment, wait
from bench.section import table
from bench.site import running, site_with_broker
from edge.types import FloatImage

AIM = 8.0
FRAME_PX = (4248, 2832)  # width, height, as the origin's camera
PLANE_PX = (1536, 1024)
TILE_PX, KEEP_PX = 320, 256
CLIP, CLAHE_TILES = 9.0, 9
NETWORKS = ("cae", "anomaly-unet")
TOP_RATIO, SMOOTH_PX = 0.003, 4.0  # the score of the anomaly-unet
LEARN_STEPS = 100
CALIBRATED_ON = 20  # frames: the least that promise 5 % false rejects, and one
ORIGIN_FRAMES = 8  # of those that the daemon inspects: seconds each
STAGES = ("decode", "preprocess", "network", "score")


def mosaic(picture: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """A real picture mirrored into a frame of the camera's size; each number gives another one."""
    turned = picture[:: 1 - 2 * (number // 2 % 2), :: 1 - 2 * (number % 2)]
    moved = np.roll(turned, (17 * number, 31 * number), (0, 1))
    (wide, tall), (h, w) = FRAME_PX, picture.shape
    large = np.pad(moved, ((0, max(0, tall - h)), (0, max(0, wide - w))), mode="symmetric")
    return np.ascontiguousarray(large[:tall, :wide])


def origin_plane(file: Path) -> tuple[FloatImage, float]:
    """(plane in 0..1, seconds of decoding) as the origin prepared its photographs, by OpenCV."""
    began_s = time.perf_counter()
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    decode_s = time.perf_counter() - began_s
    assert pixels is not None, "we wrote it"
    small = cv2.resize(pixels, PLANE_PX, interpolation=cv2.INTER_AREA)
    equal = cv2.createCLAHE(CLIP, (CLAHE_TILES, CLAHE_TILES)).apply(small)
    return np.float32(1 / 255) * equal.astype(np.float32), decode_s


def origin_answer(plane: FloatImage, network: Any) -> FloatImage:
    """The network's answers to single tiles, one after the other, their centres put together."""
    import torch

    margin = (TILE_PX - KEEP_PX) // 2
    padded = np.pad(plane, margin, mode="reflect")
    whole = np.empty_like(plane)
    with torch.inference_mode():
        for y in range(0, plane.shape[0], KEEP_PX):
            for x in range(0, plane.shape[1], KEEP_PX):
                tile = torch.from_numpy(padded[y : y + TILE_PX, x : x + TILE_PX].copy())[None, None]
                centre = network(tile)[0, 0, margin:-margin, margin:-margin]
                whole[y : y + KEEP_PX, x : x + KEEP_PX] = centre.numpy()
    return whole


def origin_score(name: str, plane: FloatImage, answer: FloatImage) -> float:
    """Root of the mean square residual; of probabilities the mean of the highest few."""
    if name == "cae":
        return float(np.sqrt(np.mean(np.square(plane - answer))))
    smooth = cv2.GaussianBlur(answer, (0, 0), SMOOTH_PX).ravel()
    count = max(1, round(TOP_RATIO * smooth.size))
    return float(np.partition(smooth, -count)[-count:].mean())


def origin_loop(name: str, weights: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Every frame after the first is timed; gives scores by file name and mean seconds by stage."""
    import torch

    from edge.learn.models import MODELS

    kind = MODELS[name]
    raw = kind.build(1)
    raw.load_state_dict(torch.load(weights, weights_only=True))
    network = kind.finish(raw.eval()).eval()
    scores, seconds = {}, dict.fromkeys(STAGES, 0.0)
    began_s = time.perf_counter()
    for number, file in enumerate(files):
        if number == 1:
            began_s, seconds = time.perf_counter(), dict.fromkeys(STAGES, 0.0)
        a = time.perf_counter()
        plane, decode_s = origin_plane(file)
        b = time.perf_counter()
        answer = origin_answer(plane, network)
        c = time.perf_counter()
        scores[file.name] = origin_score(name, plane, answer)
        d = time.perf_counter()
        for stage, took in zip(STAGES, (decode_s, b - a - decode_s, c - b, d - c), strict=True):
            seconds[stage] += took
    timed = len(files) - 1
    return {
        "frames_per_s": timed / (time.perf_counter() - began_s),
        "stages_s": {stage: total / timed for stage, total in seconds.items()},
        "scores": scores,
        "threads": torch.get_num_threads(),
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line wants."""

    frames: int  # of the daemon's backlog
    rounds: int
    precisions: tuple[str, ...]  # of the daemon
    networks: tuple[str, ...] = NETWORKS


def measure(context: Context, asked: Asked) -> dict[str, list[dict[str, Any]]]:
    """Frames, recipes, then both ways by turns."""
    staged = _frames(context, asked.frames)
    refused = {name: _recipe(context, name, staged) for name in asked.networks}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in asked.networks}
    for _ in range(asked.rounds):
        for name, done in found.items():
            load, files = machine.OtherLoad(), sorted(staged.iterdir())[: ORIGIN_FRAMES + 1]
            one = {"origin": _child(context, name, files), "refused": refused[name]}
            one |= {p: _daemon(context, name, staged, asked.frames, p) for p in asked.precisions}
            done.append(one | {"other_cores": load.cores()})
            context.say(f"{name}: {[round(v['frames_per_s'], 2) for v in one.values() if 'scores' in v]}")
    return found


def _frames(context: Context, count: int) -> Path:
    staged = context.folder / "staged"
    staged.mkdir()
    planes = fibre_planes(CALIBRATED_ON, ("good", "defect"))  # both, so that scores are far apart
    pictures = [np.rint(255 * plane).astype(np.uint8) for plane in planes]
    for number in range(max(count, CALIBRATED_ON)):
        cv2.imwrite(str(staged / f"P{number:04d}.png"), mosaic(pictures[number % len(pictures)], number))
    return staged


def _recipe(context: Context, name: str, staged: Path) -> dict[str, str]:
    """Learned for moments on the origin's planes, calibrated and quantised; gives why precisions
    beside fp32 would not be let in."""
    import torch

    from bench import networks
    from edge.infer.bundle import ScoreSpec
    from edge.learn.models import MODELS
    from edge.preprocess import Clahe, PreprocessSpec, TileSpec

    kind = MODELS[name]
    tiles = TileSpec(size_px=TILE_PX, keep_px=KEEP_PX, step_px=KEEP_PX, whole_px=kind.whole_px)
    planes = networks.labelled([origin_plane(file)[0] for file in sorted(staged.iterdir())[:5]])
    network = networks.learned(kind, planes, tiles, LEARN_STEPS)
    torch.save(network.state_dict(), _weights(context, name))
    score = (
        ScoreSpec(map="l2", statistic="rmse")
        if name == "cae"
        else ScoreSpec(map="probability", smooth_px=SMOOTH_PX, statistic="top", top_ratio=TOP_RATIO)
    )
    networks.write_engine(
        context.folder / "engines" / name, kind.finish(network), planes,
        PreprocessSpec(size_px=PLANE_PX, clahe=Clahe(clip=CLIP, tiles=CLAHE_TILES), tiles=tiles), score,
        model=name, output=kind.output,
    )  # fmt: skip
    good = context.folder / "good"
    good.mkdir(exist_ok=True)
    for file in sorted(staged.iterdir())[:CALIBRATED_ON]:
        if not (good / file.name).exists():
            (good / file.name).hardlink_to(file)
    context.edge("calibrate", good, "--recipe", name, "--threshold", "mad")  # no frame is on it
    return accelerated(context, name, good)


def _weights(context: Context, name: str) -> Path:
    return context.folder / f"{name}.pt"


def _child(context: Context, name: str, files: Sequence[Path]) -> dict[str, Any]:
    """The origin's loop in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.origin_way", "--loop", name, str(_weights(context, name)),
         *map(str, files)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise FailedError(f"the origin's loop: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _daemon(context: Context, name: str, staged: Path, frames: int, precision: str) -> dict[str, Any]:
    """A backlog through `edge run`, as shipped but for the precision that was asked for."""
    from bench.throughput import Memory, rates

    folder = Path(tempfile.mkdtemp(dir=context.folder))
    chosen = folder / "staged"
    chosen.mkdir()
    for shared in ("engines", "calibration"):
        (folder / shared).symlink_to(context.folder / shared)
    for file in sorted(staged.iterdir())[:frames]:
        (chosen / file.name).hardlink_to(file)
    with site_with_broker(folder) as (site, _, _consumer):
        site.configure(
            name,
            source={"template": "{part}", "settle_s": 0.3, "rescan_s": 0.5},
            runtime={"precision": precision},
        )
        drop(chosen, site.incoming)
        with running(site) as daemon, Memory(daemon.process.pid) as memory:
            wait(lambda: daemon.judged() >= frames, f"{frames} verdicts", 900)
        verdicts = site.files()
        found = rates(site) | {"memory": memory.peaks_mb}
    shutil.rmtree(folder)
    return found | {"scores": {Path(v["image"]["path"]).name: v["scoreRaw"] for v in verdicts}}


def agreement(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Largest relative difference of the scores of the frames that both have."""
    shared = one.keys() & other.keys()
    return max(abs(one[name] - other[name]) / max(abs(one[name]), 1e-12) for name in shared)


def section(found: Mapping[str, Sequence[Mapping[str, Any]]], asked: Asked) -> list[str]:
    """The tables."""
    rates, stages = [], []
    for name, all_rounds in found.items():
        rounds = quiet(all_rounds)
        loop = [r["origin"]["frames_per_s"] for r in rounds]
        for precision in asked.precisions:
            daemon = [r[precision]["frames_per_s"] for r in rounds]
            ratios = [b / a for a, b in zip(loop, daemon, strict=True)]
            apart = max(agreement(r["origin"]["scores"], r[precision]["scores"]) for r in rounds)
            met = "" if statistics.median(ratios) >= AIM else " (missed)"
            rates.append([
                f"{name}, {precision} ({len(rounds)} of {len(all_rounds)} rounds)", spread(loop, 2),
                spread(daemon, 2), f"**{spread(ratios)}**{met}", f"{apart:.1%}",
                f"{max(r[precision]['memory']['pss'] for r in rounds):.0f}",
            ])  # fmt: skip
        means = [statistics.median(r["origin"]["stages_s"][s] for r in rounds) for s in STAGES]
        stages.append([name, *(f"{mean:.3f}" for mean in means)])
    threads = next(iter(found.values()))[0]["origin"]["threads"]
    refused = [
        f"- `edge compile` would refuse {precision} of {name}, learned so briefly: {why}"
        for name, rounds in found.items()
        for precision, why in rounds[0]["refused"].items()
    ]
    return [
        f"{FRAME_PX[0]}×{FRAME_PX[1]} 8-bit PNG (nanofibre frames mirrored to that size) → {PLANE_PX[0]}×"
        f"{PLANE_PX[1]}, CLAHE, {TILE_PX}×{TILE_PX} windows of which {KEEP_PX}×{KEEP_PX} are kept, networks "
        f"learned for {LEARN_STEPS} steps. The origin's way: torch fp32, eager, {threads} threads, one tile "
        f"at a time, {ORIGIN_FRAMES} frames after one that is not timed. The daemon: a backlog of "
        f"{asked.frames} frames, from their release to the last verdict stored, "
        f"Mosquitto connected. By turns; median (lowest–highest) of the rounds "
        f"during which other processes kept at most {QUIET_CORES} cores busy, or of all. Aim: {AIM:g}×.",
        "",
        *table(["network, precision of the daemon", "origin's way, frames/s", "`edge run`, frames/s", "ratio",
                "scores differ by at most", "daemon's memory, PSS MB"], rates),
        "",
        "Seconds a frame in the origin's way:",
        "",
        *table(["network", *STAGES], stages),
        *(["", *refused] if refused else []),
    ]  # fmt: skip


def main() -> int:
    """0; errors come as they are."""
    parser = argparse.ArgumentParser(prog="python -m bench.origin_way", description=__doc__)
    parser.add_argument("--frames", type=int, default=36, help="of the daemon's backlog")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "int8"], help="of the daemon")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--out", type=Path, help="write the section there, too")
    parser.add_argument("--loop", nargs="+", metavar="WHAT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        name, weights, *files = options.loop
        print(json.dumps(origin_loop(name, Path(weights), [Path(file) for file in files])))
        return 0
    asked = Asked(options.frames, options.rounds, tuple(options.precisions), tuple(options.networks))
    load, began_s = machine.OtherLoad(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edge-bench-origin-") as folder:
        found = measure(Context(Path(folder)), asked)
    text = "\n".join([
        "## Against the origin's way of working", "", *section(found, asked), "",
        circumstances("python -m bench.origin_way", load, began_s),
    ])  # fmt: skip
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
