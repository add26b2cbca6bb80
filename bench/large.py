"""12-megapixel 16-bit frames through the daemon: frames/s, latency at 80 % load, memory, start, cost by size.

The recipe is what `edge learn` makes of such frames by default.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.context import Context, FailedError, environment, wait
from bench.large_frames import write_frames
from bench.machine import ROOT, OtherLoad
from bench.manifests import read
from bench.section import Section, table
from bench.site import Daemon, running, site_with_broker
from bench.throughput import STAGES, Memory, _stages, rates
from edge import config as configuration
from edge.decode import Limits
from edge.infer.bundle import load_bundle
from edge.infer.precisions import INT8_MODEL
from edge.pipeline import Inspector, PrepareJob, planes_of, prepare_file
from edge.preprocess import Tiling
from edge.recipes import open_recipe

RECIPE, TEMPLATE = "large", "{part}_{view}"
GOOD, MINUTES = 40, 5.0
DISTINCT, REPEATED = 24, 4  # frames of a backlog: distinct ones, each under so many names
ROUNDS = 3
SETTLE_S, LOAD = 0.5, 0.8
LATENCY_FRAMES = 300
STARTS = 5
BARE_S = 10.0
MEGAPIXELS = (1, 3, 6, 12, 25, 50)
KINDS = ("tif", "png")
AIMS = {"frames": 6.0, "ratio": 0.9, "late_s": 1.0, "rss_mb": 700.0, "ready_s": 3.0}


def run(context: Context) -> Section:
    """Learn, then measure; the daemon and the bare model by turns."""
    sources = [Path(row.path) for row in read(context.dataset("nanofibre_sem")) if row.label == "good"]
    learned = _learn(context, sources)
    count = context.size(DISTINCT, 2)
    staged = {
        kind: write_frames(sources, context.folder / kind, count, kind=kind, first_seed=1000)
        for kind in KINDS
    }
    rounds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for number in range(context.size(ROUNDS, 1)):
        for kind in KINDS:
            load = OtherLoad()
            found = _backlog(context, kind, staged[kind], number) | _bare(context, staged["tif"])
            rounds[kind].append(found | {"other_cores": load.cores()})
            context.say(f"{kind}: {rounds[kind][-1]}")
    middle = {kind: statistics.median(r["frames_per_s"] for r in done) for kind, done in rounds.items()}
    late = _latency(context, staged["tif"], LOAD * middle["tif"])
    context.say(f"latency: {late}")
    starts = _starts(context)
    costs = _costs(context, sources)
    facts = {"learn": learned, "rounds": rounds, "latency": late, "starts_s": starts, "costs": costs}
    lines = [
        *_intro(learned, rounds, context),
        *_rates(rounds),
        "",
        *_stage_rows(rounds),
        "",
        f"- p99 from the last byte written to the verdict at a subscriber of Mosquitto, {late['frames']} "
        f"TIFF frames at {late['per_s']:.1f} a second ({LOAD:.0%} of the above): **{late['p99_s']:.2f} s**, "
        f"median {late['median_s']:.2f}, highest {late['max_s']:.2f}; aim settle ({SETTLE_S} s) + "
        f"{AIMS['late_s']:g} s",
        f"- start of the process to /readyz, compiled before: **{statistics.median(starts):.2f} s** "
        f"({min(starts):.2f}–{max(starts):.2f}); aim ≤ {AIMS['ready_s']:g}",
        "",
        *_cost_rows(costs),
    ]
    return Section("12-megapixel 16-bit frames", lines, facts)


def _learn(context: Context, sources: Sequence[Path]) -> dict[str, Any]:
    good = context.folder / "good"
    write_frames(sources, good, context.size(GOOD, 4))
    done = context.edge_json(
        "learn", good, "--recipe", RECIPE, "--template", TEMPLATE, *context.budget(MINUTES), "--seed", 1
    )
    shutil.rmtree(good)
    file = context.folder / "engines" / RECIPE / "precisions.json"
    return dict(done) | {"precisions": json.loads(file.read_text())["agreements"]}


def _backlog(context: Context, kind: str, files: Sequence[Path], number: int) -> dict[str, Any]:
    """All frames are there at once: what the daemon can do at most."""
    repeated = context.size(REPEATED, 1)
    with _site(context, f"{kind}-{number}") as (site, _consumer), running(site) as daemon:
        daemon.ready()
        with Memory(daemon.process.pid) as memory:
            for again in range(repeated):
                for file in files:
                    (site.incoming / f"r{again}{file.name}").hardlink_to(file)
            wait(lambda: daemon.judged() >= repeated * len(files), "all verdicts", 600)
            latency = daemon.metrics()
        precision = site.files()[0]["model"]["precision"]
        return rates(site) | {
            "memory": memory.peaks_mb, "stages_s": _stages(latency), "precision": precision,
        }  # fmt: skip


def _latency(context: Context, files: Sequence[Path], per_s: float) -> dict[str, Any]:
    """Frames come evenly, written as a scanner does: under their own name, byte after byte."""
    contents = [file.read_bytes() for file in files]
    count, ends = context.size(LATENCY_FRAMES, 6), dict[str, float]()
    with _site(context, "latency") as (site, consumer), running(site) as daemon:
        daemon.ready()
        began = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, began + number / per_s - time.monotonic()))
            name = f"l{number:04d}_a.tif"
            with (site.incoming / name).open("wb") as stream:
                stream.write(contents[number % len(contents)])
            ends[name] = time.monotonic()
        wait(lambda: len(consumer.frames()) >= count, "all verdicts on Mosquitto", 120)
        came = {verdict["image"]["path"]: at for at, verdict in consumer.verdicts}
    late = sorted(came[name] - end for name, end in ends.items())
    return {
        "frames": count, "per_s": per_s, "median_s": statistics.median(late), "max_s": late[-1],
        "p99_s": float(np.quantile(late, 0.99, method="higher")),
    }  # fmt: skip


def _starts(context: Context) -> list[float]:
    """Seconds from the start of the process to ready, with networks compiled before."""
    found = []
    with _site(context, "starts") as (site, _):
        for _ in range(context.size(STARTS, 1)):
            daemon = Daemon(site)
            found.append(daemon.ready())
            daemon.stop()
    return found


def _costs(context: Context, sources: Sequence[Path]) -> list[dict[str, float]]:
    """Reading to score in one process, of frames of several sizes; CPU and wall milliseconds."""
    inspector = open_recipe(configuration.load(_config(context)), RECIPE)
    spec, found = inspector.bundle.manifest.preprocess, []
    for megapixels in MEGAPIXELS if not context.quick else MEGAPIXELS[:2]:
        side = (megapixels * 1e6 / 1.5) ** 0.5
        size = (round(1.5 * side / 64) * 64, round(side / 64) * 64)
        (file,) = write_frames(sources, context.folder / f"size{megapixels}", 1, size=size)
        job = PrepareJob(file, file.name, None, spec, Limits(10**9, 1))
        _score(inspector, job)  # compiled for that size
        rounds = max(3, round(context.size(60, 3) / megapixels))
        wall, cpu = [], []
        for _ in range(rounds):
            began, used = time.perf_counter(), time.process_time()
            _score(inspector, job)
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
        pixels = size[0] * size[1] / 1e6
        found.append({"mpx": pixels, "wall_ms": 1e3 * min(wall), "cpu_ms": 1e3 * min(cpu)})
    return found


def _score(inspector: Inspector, job: PrepareJob) -> None:
    list(inspector.score(planes_of(frame) for frame in prepare_file(job)))


def _bare(context: Context, files: Sequence[Path]) -> dict[str, Any]:
    """Frames/s of the compiled network alone, on the windows of two of the frames, in the same precision."""
    inspector = load_bundle(context.folder / "engines" / RECIPE)
    precisions = json.loads((inspector.folder / "precisions.json").read_text())["agreements"]
    int8 = precisions["int8"]["accepted"]
    spec, array = inspector.manifest.preprocess, context.folder / "windows.npy"
    if not array.exists():
        windows = []
        for file in files[:2]:
            (frame,) = prepare_file(PrepareJob(file, file.name, None, spec, Limits(10**9, 1)))
            tiling = Tiling(frame.plane.shape[0], frame.plane.shape[1], spec.tiles)
            padded = tiling.pad(frame.plane)
            windows += [tiling.cut(padded, i, i + 1) for i in range(len(tiling))]
        np.save(array, np.concatenate(windows))
    per_frame = len(np.load(array, mmap_mode="r")) / 2
    model = inspector.folder / INT8_MODEL if int8 else inspector.model_file
    precision = "fp32" if int8 or not precisions["bf16"]["accepted"] else "bf16"
    done = subprocess.run(
        [sys.executable, "-m", "bench.bare_model", str(model), str(array), "1", precision,
         str(context.size(int(BARE_S), 1))],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise FailedError(f"bench.bare_model: {done.stderr[-2000:]}")
    return {"bare_frames_per_s": json.loads(done.stdout)["tiles_per_s"] / per_frame}


class _site:  # noqa: N801  # reads as the context manager that it is
    """A fresh site with a broker that shares engines and what was compiled for them."""

    def __init__(self, context: Context, name: str) -> None:
        self._context, self._folder = context, context.folder / f"site-{name}"

    def __enter__(self) -> tuple[Any, Any]:
        self._folder.mkdir()
        for shared in ("engines", "calibration"):
            (self._folder / shared).symlink_to(self._context.folder / shared)
        kept = self._context.folder / "compiled"
        kept.mkdir(exist_ok=True)
        (self._folder / "var").mkdir()
        (self._folder / "var/compiled").symlink_to(kept)
        self._inner = site_with_broker(self._folder)
        site, _, consumer = self._inner.__enter__()
        site.configure(RECIPE, source={"template": TEMPLATE, "settle_s": SETTLE_S})
        return site, consumer

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)
        shutil.rmtree(self._folder)


def _config(context: Context) -> Path:
    file = context.folder / "config.toml"
    file.write_text(
        f'schema_version = 1\n[station]\nname = "bench"\n[[source]]\nname = "s"\ndirectory = "in"\n'
        f'recipe = "{RECIPE}"\ntemplate = "{TEMPLATE}"\n[recipe.{RECIPE}]\n[mqtt]\nenabled = false\n'
    )
    return file


def _intro(learned: Mapping[str, Any], rounds: Mapping[str, Any], context: Context) -> list[str]:
    said = "; ".join(f"{name}: {one['why']}" for name, one in learned["precisions"].items())
    precision = rounds["tif"][0]["precision"]
    return [
        f"Frames of 4248×2832 pixels, 16 bits, made from real SEM frames (`bench/large_frames.py`): as "
        f"uncompressed TIFF (24 MB) and as PNG (zlib level 1). `edge learn` with its defaults ({MINUTES:g} "
        f"minutes, {context.size(GOOD, 4)} good frames) chose {learned['model']}; {said}. So the daemon "
        f"took **{precision}**. A backlog of {context.size(DISTINCT, 2) * context.size(REPEATED, 1)} frames, "
        f"shipped settings, Mosquitto connected; the bare model is the same compiled network on the windows "
        f"of the same frames, right after it. Median (lowest–highest) of {len(rounds['tif'])} rounds.",
        "",
    ]


def _rates(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    rows = []
    for kind, done in rounds.items():
        ratios = [r["frames_per_s"] / r["bare_frames_per_s"] for r in done]
        highest = {key: max(r["memory"][key] for r in done) for key in ("core", "workers", "pss")}
        rows.append(
            [
                kind,
                f"**{_spread([r['frames_per_s'] for r in done])}**",
                _spread([r["bare_frames_per_s"] for r in done]),
                _spread(ratios, 2),
                *(f"{mb:.0f}" for mb in highest.values()),
                f"{max(r['other_cores'] for r in done):.2f}",
            ]
        )
    header = ["frames", "`edge run` frames/s (aim ≥ 6)", "bare network frames/s", "ratio", "core RSS MB",
              "workers RSS MB", "all, PSS MB", "cores others used"]  # fmt: skip
    return table(header, rows)


def _stage_rows(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    stages = [s for s in STAGES if s not in ("queue", "total")]
    rows = [
        [kind, *(f"{statistics.median(r['stages_s'].get(s, 0.0) for r in done):.4f}" for s in stages)]
        for kind, done in rounds.items()
    ]
    return ["Wall seconds by stage, mean per frame:", "", *table(["frames", *stages], rows)]


def _cost_rows(costs: Sequence[Mapping[str, float]]) -> list[str]:
    x, y = np.array([c["mpx"] for c in costs]), np.array([c["cpu_ms"] for c in costs])
    slope, offset = np.polyfit(x, y, 1)
    fit = 1 - float(np.var(y - (slope * x + offset)) / np.var(y))
    (ROOT / "docs/cost.svg").write_text(_plot(x, y, slope, offset) + "\n")
    rows = [
        [f"{c['mpx']:.1f}", f"{c['wall_ms']:.0f}", f"{c['cpu_ms']:.0f}", f"{c['cpu_ms'] / c['mpx']:.1f}"]
        for c in costs
    ]
    return [
        f"Cost against size, one process, file to score: {slope:.1f} ms of CPU a megapixel, R² = {fit:.4f} "
        "([plot](cost.svg)).",
        "",
        *table(["Mpx", "wall ms", "CPU ms", "CPU ms/Mpx"], rows),
    ]


def _plot(x: Any, y: Any, slope: float, offset: float) -> str:
    """Measured points and the straight line through them, as SVG."""
    wide, tall, left, below = 480, 300, 50, 40
    most_x, most_y = 1.05 * float(x.max()), 1.05 * float(y.max())

    def at(px: float, py: float) -> tuple[float, float]:
        return left + px / most_x * (wide - left - 20), tall - below - py / most_y * (tall - below - 20)

    (x0, y0), (x1, y1) = at(0, max(0.0, offset)), at(most_x, slope * most_x + offset)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{tall}" font-family="sans-serif" '
        f'font-size="12"><rect width="{wide}" height="{tall}" fill="white"/>',
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="#69c"/>',
    ]
    for px, py in zip(x, y, strict=True):
        cx, cy = at(px, py)
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4" fill="#036"/>')
        parts.append(f'<text x="{cx:.1f}" y="{tall - below + 16}" text-anchor="middle">{px:.0f}</text>')
        parts.append(f'<text x="{cx - 6:.1f}" y="{cy - 8:.1f}" text-anchor="end">{py:.0f}</text>')
    middle = f'<text x="{wide / 2}" y="{tall - 6}" text-anchor="middle">'
    parts.append(f"{middle}megapixels a frame; CPU milliseconds from file to score</text></svg>")
    return "\n".join(parts)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
