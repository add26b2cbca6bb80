"""Frames/s of the daemon against the bare model on the same tiles, its memory, and where the time goes."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from bench.burst import drop
from bench.context import Context, FailedError, SkippedError, environment, wait
from bench.machine import OtherLoad
from bench.manifests import read
from bench.recipes import blur_engine
from bench.section import Section, table
from bench.site import Site, running, site_with_broker, unix_s
from edge.decode import Limits
from edge.infer.bundle import load_bundle
from edge.infer.openvino import PIXELS_PER_CALL
from edge.pipeline import PrepareJob, prepare_file
from edge.preprocess import Tiling

ROUNDS = 3
QUIET_CORES = 0.2  # a round during which others kept more than this busy says nothing; it is repeated
MOST_TRIES = 4  # for each round
FRAMES = {"cae": 72, "blur": 180}
GAINS = 12  # brightness variants of each frame: no two files are the same
TILES_FROM = 12  # frames whose tiles the bare model gets, again and again
BARE_S = 10.0
BLUR_TILE_PX = 256
SAMPLE_S = 0.5
STAGES = ("settle", "queue", "decode", "preprocess", "infer", "judge", "record", "total")


def run(context: Context) -> Section:
    """Both models, daemon and bare model by turns."""
    staged, origin = _frames(context)
    _recipes(context, staged)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in FRAMES}
    for number in range(context.size(ROUNDS * MOST_TRIES, 1)):
        for name, done in rounds.items():
            if len(_quiet(done)) >= ROUNDS:
                continue
            done.append(_round(context, name, staged, number))
            context.say(f"{name}: {done[-1]}")
    measured = {name: _quiet(done) or done for name, done in rounds.items()}
    lines = [
        f"{origin}, 1024×700 px, 8-bit PNG. The daemon works off a backlog with its shipped settings "
        f"(precision fp32, decode workers from the cores, Mosquitto connected); its rate is all frames over "
        f"the time from the backlog's release to the last verdict stored (in brackets: from the first stored "
        f"verdict on). The bare model is `compile_model` with asynchronous requests on the tiles of "
        f"{context.size(TILES_FROM, 2)} of these frames for {BARE_S:g} s, same precision, threads and batch, "
        f"in a process of its own right after it. Median (lowest–highest) of "
        f"{', '.join(f'{len(measured[n])} of {len(rounds[n])} rounds ({n})' for n in rounds)}: those during "
        f"which other processes kept at most {QUIET_CORES} cores busy"
        + ("." if all(_quiet(done) for done in rounds.values()) else ", or all where there was none."),
        "",
        *_rate_table(measured),
        "",
        "Resident memory at its highest while it works; PSS counts shared pages once, so it adds up:",
        "",
        *_memory_table(measured),
        "",
        "Seconds by stage, mean per frame, from `edge_frame_latency_seconds` (decode and preprocess run in "
        "the workers beside the engine; queue is waiting in the backlog):",
        "",
        *_stage_table(measured),
    ]
    return Section("Throughput: the daemon against the bare model", lines, {"rounds": rounds})


def _round(context: Context, name: str, staged: Path, number: int) -> dict[str, Any]:
    """The daemon, then the bare model, and how much others disturbed either."""
    load = OtherLoad()
    with_daemon = _daemon(context, name, staged, number)
    load_daemon, load = load.cores(), OtherLoad()
    bare = _bare(context, name, staged)
    return with_daemon | bare | {"other_cores": max(load_daemon, load.cores())}


def _quiet(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in rounds if one["other_cores"] <= QUIET_CORES]


def _frames(context: Context) -> tuple[Path, str]:
    """Distinct 1024×700 PNG files, and what they are."""
    staged, count = context.folder / "staged", context.size(max(FRAMES.values()), 12)
    staged.mkdir()
    try:
        files = [Path(row.path) for row in read(context.dataset("nanofibre_sem")) if row.label == "good"]
        origin = "Good nanofibre frames, flipped and with slightly changed gain"
    except SkippedError:
        context.edge("simulate", context.folder / "simulated", "--frames", 4, "--views", "01", "--burst",
                     "--size", "1024x700", "--defect-share", 0)  # fmt: skip
        files = sorted((context.folder / "simulated").rglob("*.png"))
        origin = "Simulated good frames, flipped and with slightly changed gain (real images absent)"
    pictures = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    for number in range(count):
        flip, gain = number // len(pictures) % 4, 1 - 0.004 * (number // (4 * len(pictures)) % GAINS)
        pixels = pictures[number % len(pictures)][:: 1 - 2 * (flip // 2), :: 1 - 2 * (flip % 2)]
        cv2.imwrite(str(staged / f"P{number:04d}.png"), np.rint(pixels * gain).astype(np.uint8))
    return staged, origin


def _recipes(context: Context, staged: Path) -> None:
    """The heavy recipe, learned briefly (its speed is that of a long learned one), and the light one."""
    good = context.folder / "good"
    good.mkdir()
    for file in sorted(staged.iterdir())[:32]:
        (good / file.name).hardlink_to(file)
    context.edge("learn", good, "--recipe", "cae", "--model", "cae", "--steps", context.size(60, 2),
                 "--seed", 1)  # fmt: skip
    blur_engine(context.folder / "engines/blur", BLUR_TILE_PX)
    context.edge("calibrate", good, "--recipe", "blur")


def _daemon(context: Context, name: str, staged: Path, number: int) -> dict[str, Any]:
    """One backlog through `edge run`."""
    folder = context.folder / f"{name}-{number}"
    folder.mkdir()
    for shared in ("engines", "calibration"):
        (folder / shared).symlink_to(context.folder / shared)
    chosen = folder / "staged"
    chosen.mkdir()
    frames = min(FRAMES[name], len(list(staged.iterdir())))
    for file in sorted(staged.iterdir())[:frames]:
        (chosen / file.name).hardlink_to(file)
    with site_with_broker(folder) as (site, _, _consumer):
        source = {"template": "{part}", "settle_s": 0.3, "rescan_s": 0.5}
        site.configure(name, source=source, runtime={"precision": "fp32"})  # as the bare model
        drop(chosen, site.incoming)
        with running(site) as daemon, Memory(daemon.process.pid) as memory:
            wait(lambda: daemon.judged() >= frames, f"{frames} verdicts", 600)
            latency = daemon.metrics()
        found = rates(site) | {"memory": memory.peaks_mb, "stages_s": _stages(latency)}
    shutil.rmtree(folder)
    return found


def rates(site: Site) -> dict[str, Any]:
    """Frames/s from what is stored: over everything, and from the first stored verdicts on."""
    verdicts = site.files()
    stored = sorted(verdict["stored_unix_s"] for verdict in verdicts)
    released = min(_released_unix_s(verdict) for verdict in verdicts)
    first = [s for s in stored if s < stored[0] + 0.05]  # stored together, in one transaction
    return {
        "frames": len(verdicts),
        "ok": sum(verdict["resultEvaluation"] == "OK" for verdict in verdicts),
        "frames_per_s": len(verdicts) / (stored[-1] - released),
        "later_frames_per_s": (len(stored) - len(first)) / max(1e-9, stored[-1] - first[-1]),
    }


def _released_unix_s(verdict: Mapping[str, Any]) -> float:
    """When intake handed the frame to the decoder: total_s counts from when it was first seen."""
    times = verdict["processingTimes"]
    return unix_s(verdict["creationTime"]) - float(times["total_s"]) + float(times["settle_s"])


def _bare(context: Context, name: str, staged: Path) -> dict[str, Any]:
    """Frames/s of the model alone."""
    bundle = load_bundle(context.folder / "engines" / name)
    spec = bundle.manifest.preprocess
    array = context.folder / f"{name}-tiles.npy"
    files = sorted(staged.iterdir())[: context.size(TILES_FROM, 2)]
    if not array.exists():
        np.save(array, np.concatenate([_tiles(file, spec) for file in files]))
    stored = np.load(array, mmap_mode="r")
    per_frame = len(stored) / len(files)
    batch = max(1, PIXELS_PER_CALL // (stored.shape[2] * stored.shape[3]))
    done = subprocess.run(
        [sys.executable, "-m", "bench.bare_model", str(bundle.model_file), str(array), str(batch), "fp32",
         str(context.size(int(BARE_S), 1))],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise FailedError(f"bench.bare_model: {done.stderr[-2000:]}")
    rate = json.loads(done.stdout)["tiles_per_s"]
    return {"tiles_per_frame": per_frame, "batch": batch, "bare_frames_per_s": rate / per_frame}


def _tiles(file: Path, spec: Any) -> Any:
    (frame,) = prepare_file(PrepareJob(file, file.name, None, spec, Limits(10**8, 1)))
    tiling = Tiling(frame.plane.shape[0], frame.plane.shape[1], spec.tiles)
    return tiling.cut(tiling.pad(frame.plane), 0, len(tiling))


@dataclass
class Memory:
    """Watches a process and its children; the highest values in MB (10⁶ bytes)."""

    pid: int
    peaks_mb: dict[str, float] = field(default_factory=lambda: {"core": 0.0, "workers": 0.0, "pss": 0.0})
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            try:
                core = psutil.Process(self.pid)
                used = [process.memory_full_info() for process in (core, *core.children(recursive=True))]
            except psutil.Error:  # one of them has just ended
                continue
            now = {
                "core": used[0].rss,
                "workers": sum(u.rss for u in used[1:]),
                "pss": sum(u.pss for u in used),
            }
            self.peaks_mb = {key: max(peak, now[key] / 1e6) for key, peak in self.peaks_mb.items()}


def _stages(metrics: Mapping[str, float]) -> dict[str, float]:
    """Mean seconds a frame, by stage."""
    series = "edge_frame_latency_seconds"
    return {
        stage: metrics[f'{series}_sum{{stage="{stage}"}}'] / metrics[f'{series}_count{{stage="{stage}"}}']
        for stage in STAGES
        if metrics.get(f'{series}_count{{stage="{stage}"}}')
    }


def _rate_table(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    rows = []
    for name, rounds in measured.items():
        one = rounds[0]
        later = statistics.median(r["later_frames_per_s"] for r in rounds)
        ratios = [r["frames_per_s"] / r["bare_frames_per_s"] for r in rounds]
        rows.append([
            f"{name} ({one['tiles_per_frame']:g} tiles a frame, batch {one['batch']})",
            f"{one['frames']} ({statistics.median(r['ok'] for r in rounds):g} OK)",
            f"{_spread([r['frames_per_s'] for r in rounds])} [{later:.1f}]",
            _spread([r["bare_frames_per_s"] for r in rounds]),
            f"**{_spread(ratios, 2)}**",
        ])  # fmt: skip
    header = ["model", "frames", "`edge run` frames/s", "bare model frames/s", "ratio"]
    return table(header, rows)


def _memory_table(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    rows = [
        [name, *(f"{max(r['memory'][key] for r in rounds):.0f}" for key in ("core", "workers", "pss"))]
        for name, rounds in measured.items()
    ]
    return table(["model", "core RSS MB", "decode workers RSS MB", "all of it, PSS MB"], rows)


def _stage_table(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    rows = [
        [name, *(f"{statistics.median(r['stages_s'].get(s, 0.0) for r in rounds):.4f}" for s in STAGES)]
        for name, rounds in measured.items()
    ]
    return table(["model", *STAGES], rows)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
