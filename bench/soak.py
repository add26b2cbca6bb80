"""`python -m bench.soak`: the daemon at full rate for hours, and what its memory does meanwhile.

A backlog always waits, so nothing is ever idle; a scanner's own cleaning takes frames away once they are
judged, evidence is pruned by its limit, a consumer takes the verdicts from a real Mosquitto.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench import machine
from bench.context import Context
from bench.section import table
from bench.site import Daemon, Site, running, site_with_broker

POOL = 600  # different frames, linked again and again under new names
BACKLOG = 300  # frames that wait, at least
KEEP = 1000  # judged frames that stay in the folder before the scanner's cleaning takes them
SAMPLE_S = 10.0
WARM_UP_SHARE = 1 / 6  # of the time, before growth is measured
VIEWS = tuple(f"{view:02d}" for view in range(1, 7))


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment; memory in MB."""

    at_s: float
    frames: int
    core_rss_mb: float
    core_private_mb: float  # its own: not shared, not of mapped files
    workers_rss_mb: float
    threads: int
    descriptors: int
    outbox: int
    database_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, sample, and print a table."""
    asked = _parser().parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="edge-soak-"))
    began = datetime.now(UTC)
    try:
        samples = soak(folder, asked.minutes * 60, asked.samples)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [
        f"{began:%Y-%m-%d}, commit {machine.commit()}, {machine.describe()}. "
        f"`{shlex.join(['python', '-m', 'bench.soak', *(arguments or sys.argv[1:])])}`",
        "",
        *report(samples),
    ]
    print(*lines, sep="\n")
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n")
    return 0


def soak(folder: Path, for_s: float, samples_file: Path | None) -> list[Sample]:
    """Keep the daemon busy for so long; what was seen."""
    context = Context(folder)
    pool = folder / "pool"
    context.edge(
        "simulate", pool, "--parts", POOL // len(VIEWS), "--defect-share", 0.03, "--burst", "--seed", 5
    )
    for name in ("engines", "calibration"):
        shutil.copytree(machine.ROOT / name, folder / name)
    with site_with_broker(folder, "max_queued_messages 0") as (site, _broker, consumer):
        source = {"template": "{batch}/{part}_{view}", "settle_s": 0.2, "rescan_s": 1.0}
        site.configure("demo", views=VIEWS, source=source)
        with site.config.open("a") as configuration:
            configuration.write('[evidence]\nmax_bytes = "200MB"\n')
        stop = threading.Event()
        with running(site) as daemon:
            daemon.ready()
            feeder = threading.Thread(target=_feed, args=(site, daemon, sorted(pool.rglob("*.png")), stop))
            feeder.start()
            try:
                return _watch(site, daemon, consumer.verdicts, for_s, samples_file)
            finally:
                stop.set()
                feeder.join()


def _feed(site: Site, daemon: Daemon, pool: Sequence[Path], stop: threading.Event) -> None:
    """Scanner and its cleaning: as many new frames as were judged, and the old ones away."""
    made: list[Path] = []
    removed = 0
    while not stop.wait(0.2):
        judged = daemon.judged()
        while len(made) - judged < BACKLOG and not stop.is_set():
            part, view = divmod(len(made), len(VIEWS))
            target = site.incoming / f"B{part // 500:05d}" / f"P{part:07d}_{VIEWS[view]}.png"
            target.parent.mkdir(exist_ok=True)
            target.hardlink_to(pool[len(made) % len(pool)])
            made.append(target)
        while removed < judged - KEEP:
            made[removed].unlink()
            removed += 1


def _watch(
    site: Site, daemon: Daemon, taken: list[tuple[float, Any]], for_s: float, samples_file: Path | None
) -> list[Sample]:
    samples: list[Sample] = []
    began_s = time.monotonic()
    while (at_s := time.monotonic() - began_s) < for_s:
        time.sleep(SAMPLE_S)
        taken.clear()  # this process would grow, not the daemon
        samples.append(_sample(site, daemon, at_s))
        if samples_file is not None:
            with samples_file.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(Sample.__slots__)
                writer.writerows([getattr(one, key) for key in Sample.__slots__] for one in samples)
    return samples


def _sample(site: Site, daemon: Daemon, at_s: float) -> Sample:
    metrics = daemon.metrics()
    core = psutil.Process(daemon.process.pid)
    workers = core.children(recursive=True)
    used = core.memory_full_info()
    return Sample(
        at_s, round(sum(n for name, n in metrics.items() if name.startswith("edge_frames_total"))),
        used.rss / 1e6, used.uss / 1e6, sum(one.memory_info().rss for one in workers) / 1e6,
        core.num_threads(), core.num_fds(),
        round(sum(n for name, n in metrics.items() if name.startswith("edge_outbox_depth"))),
        sum(file.stat().st_size for file in (site.folder / "var").glob("edge.sqlite3*")) / 1e6,
    )  # fmt: skip


def report(samples: Sequence[Sample]) -> list[str]:
    """Growth by a straight line through what was seen after the warm-up, and the ends of it."""
    end_s = samples[-1].at_s
    warm = [one for one in samples if one.at_s >= WARM_UP_SHARE * end_s]
    hours = np.array([one.at_s for one in warm]) / 3600
    rows = []
    for name, key in (
        ("core, resident", "core_rss_mb"),
        ("core, its own (USS)", "core_private_mb"),
        ("decode workers, resident", "workers_rss_mb"),
    ):
        values = np.array([getattr(one, key) for one in warm])
        slope = np.polyfit(hours, values, 1)[0]
        rows.append(
            [name, f"{values[0]:.0f}", f"{values[-1]:.0f}", f"{values.max():.0f}", f"**{slope:+.1f}**"]
        )
    last = samples[-1]
    return [
        f"{last.frames:,} frames in {end_s / 3600:.2f} h ({last.frames / end_s:.0f} a second, the backlog "
        f"never empty), database {last.database_mb:.0f} MB at the end, at most "
        f"{max(one.outbox for one in warm)} verdicts in the outbox, threads "
        f"{warm[0].threads} → {last.threads}, descriptors {warm[0].descriptors} → {last.descriptors}.",
        "",
        *table(["memory, MB", "after warm-up", "at the end", "highest", "growth, MB/h"], rows),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--out", type=Path, help="write the table here as well")
    parser.add_argument("--samples", type=Path, help="write what was seen as CSV, all the time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
