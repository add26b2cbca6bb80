"""What `bench.peer` found, as Markdown: both sides in a table, and aims against what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.alone import QUIET_CORES, quiet, spread
from bench.section import table

PEER = "anomalib[openvino]==2.7.*"
FRAME_PX = (1024, 700)  # width, height
NETWORKS = ("anomaly-unet", "light")
STAGES = ("decode", "preprocess", "infer", "judge")  # of a frame in edge, as verdicts have them
AIMS = {"anomaly-unet": 1.1, "light": 2.5}  # predict/bare
AIM_START, AIM_MEMORY, AIM_SPEED, AIM_MB = 1 / 3, 1 / 2, 3.0, 600


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line wants."""

    frames: int
    rounds: int
    networks: tuple[str, ...]
    precisions: tuple[str, ...]  # of edge; the peer runs in fp32, and in what its runtime prefers
    peer: Path  # its environment
    weigh: bool


def differences(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Largest difference of the scores (0..1) of the same frames."""
    return max(abs(one[name] - other[name]) for name in one)


def section(found: Mapping[str, Any], asked: Asked) -> list[str]:
    """The tables."""
    rounds, sizes = {key: quiet(done) for key, done in found["rounds"].items()}, found["sizes_mb"]
    lines = [
        f"{asked.frames} frames of {FRAME_PX[0]}×{FRAME_PX[1]} px, 8-bit PNG (nanofibre), by turns, median "
        f"(lowest–highest) of those of {asked.rounds} rounds during which other processes kept at most "
        f"{QUIET_CORES} cores busy, or of all. The peer is `{PEER}`, its `OpenVINOInferencer` on "
        "device CPU, in fp32 and (last row) in what its runtime prefers. The peer "
        "scores by the map's maximum, edge by the mean of its highest values. "
        "Bare: the peer's model file, compiled for latency, called with a tensor that is ready, by turns "
        "with predicting and in the same process; beside edge always in fp32. A folder: `edge inspect "
        "FOLDER`, and a loop of `predict(path)`, each a process of its own; start is the time from the start "
        "of the process to its first verdict, with compiled networks kept from the first round on, on both "
        "sides.",
        "",
    ]
    for name in asked.networks:
        lines += [f"**{name}**", "", *_rows(name, rounds), "", *_judged(name, rounds), ""]
    for name, refused in found["refused"].items():
        lines += [
            f"- `edge compile` would refuse {precision} of {name}: {why}"
            for precision, why in refused.items()
        ]
    if any(found["refused"].values()):
        lines += [
            "- here it is used all the same: networks learned for moments say little, and their scores agree "
            "badly; how fast they are does not depend on it",
            "",
        ]
    weights = " · ".join(f"{side} {mb:.0f} MB" for side, mb in sizes.items())
    lines += [
        f"Installed into site-packages: {weights} (aim for edge, without the extra `learn`: {AIM_MB} MB)"
    ]
    return lines


def _rows(name: str, rounds: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> list[str]:
    rows = []
    for (network, side), done in rounds.items():
        if network != name:
            continue

        def of(key: str, digits: int = 1, done: Sequence[Mapping[str, Any]] = done) -> str:
            return spread([one[key] for one in done], digits) if key in done[0] else "–"

        whose = "peer" if side.startswith("peer") else "edge"
        rows.append([
            f"{whose}, {done[0]['precision']}", of("predict_ms"), of("bare_ms"), of("ratio", 2),
            of("first_s", 2), of("frames_per_s"),
            of("run_frames_per_s"), of("memory_mb", 0), of("run_pss_mb", 0),
        ])  # fmt: skip
    header = ["", "predict ms", "bare ms", "predict/bare", "start s", "folder frames/s",
              "`edge run` frames/s", "resident MB", "`edge run` PSS MB"]  # fmt: skip
    return table(header, rows)


def _judged(name: str, rounds: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> list[str]:
    """Aims against what was measured."""
    peer, edge = rounds[name, "peer"], rounds.get((name, "fp32"))
    if edge is None:
        return []

    def middle(done: Sequence[Mapping[str, Any]], key: str) -> float:
        return float(statistics.median(one[key] for one in done))

    ratio = middle(edge, "ratio")
    run = 1e3 / middle(edge, "run_frames_per_s") / middle(edge, "bare_ms")
    start = middle(edge, "first_s") / middle(peer, "first_s")
    memory = middle(edge, "memory_mb") / middle(peer, "memory_mb")
    apart = max(differences(a["scores"], b["scores"]) for a, b in zip(peer, edge, strict=False))
    stages = " · ".join(f"{stage} {middle(edge, f'{stage}_ms'):.1f}" for stage in STAGES)
    found = [
        f"- one frame after the other, fp32: {ratio:.2f} × bare "
        f"(aim {AIMS[name]}: {_met(ratio <= AIMS[name])}); the peer {middle(peer, 'ratio'):.2f}. "
        f"A frame of a backlog through `edge run`: {run:.2f} × bare",
        f"- edge's milliseconds by stage, one frame after the other: {stages}",
        f"- start {start:.2f} of the peer's (aim {AIM_START:.2f}: {_met(start <= AIM_START)}), memory "
        f"{memory:.2f} (aim {AIM_MEMORY:.2f}: {_met(memory <= AIM_MEMORY)})",
        f"- the maps' maxima differ by at most {apart:.1e} (of 1) between both sides",
    ]
    best = rounds.get((name, "int8"))
    if best is not None:
        for side in ("peer", "peer-default"):
            other = rounds[name, side]
            folder, daemon = (
                middle(best, key) / middle(other, "frames_per_s")
                for key in ("frames_per_s", "run_frames_per_s")
            )
            found.append(
                f"- int8 against the peer in {other[0]['precision']}: {folder:.1f}× its frames/s by "
                f"`edge inspect`, {daemon:.1f}× by `edge run` (aim {AIM_SPEED:g}× of its fp32"
                + (f": {_met(max(folder, daemon) >= AIM_SPEED)})" if side == "peer" else ")")
            )
    return found


def _met(reached: bool) -> str:
    return "met" if reached else "missed"
