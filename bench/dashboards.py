"""Pictures of the dashboards' queries for docs/monitoring.md: a real Prometheus over a real daemon.

    python -m bench.dashboards [--minutes 6] [--out docs]

A simulated scanner feeds the demo recipe: good parts, then a batch with many defects, then a broker that
goes away and comes back, then good parts again. Each panel's query is asked as Grafana would ask it, and
drawn with its title, unit and legend; Chromium makes the picture. Needs mosquitto, prometheus and chromium.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from edge.simulate.site import Site, shipped_site, write_site
from tests.brokers import Mosquitto, free_port
from tests.monitoring.servers import Prometheus, filled_in
from tests.sites import DaemonProcess

ROOT = Path(__file__).parents[1]
DASHBOARDS = ROOT / "monitoring/grafana/dashboards"
WINDOW = "30s"
COLOURS = ("#3274d9", "#e0752d", "#1a7f37", "#a352cc", "#c4162a", "#0a8a8a", "#8f6b00", "#5a636e")
FIXED = {"OK": "#1a7f37", "NotOK": "#c4162a", "NotDecidable": "#e0752d"}
UNIT_PX, ROW_PX, GAP_PX = 52, 30, 8  # of Grafana's grid

Series = list[tuple[float, float]]


@dataclass(frozen=True)
class Drawn:
    """A line of a panel."""

    name: str
    points: Series


@contextmanager
def under_load(folder: Path, minutes: float) -> Iterator[Prometheus]:
    """The run that is shown; ends with all of it recorded."""
    site = Site(folder / "site", free_port(), free_port())
    write_site(site, shipped_site())
    broker = Mosquitto(folder / "broker", site.mqtt_port).start()
    daemon = DaemonProcess(site.config, site.http_port).ready()
    server = Prometheus(folder / "prometheus", site.http_port, ROOT / "monitoring/alerts.yml")
    try:
        share_s = minutes * 60 / 4
        for number, (batch, defects, away) in enumerate(
            (("B01", 0.02, False), ("B02", 0.6, False), ("B03", 0.02, True), ("B04", 0.02, False))
        ):
            outage = threading.Timer(share_s / 4, broker.stop)
            if away:
                outage.start()
            scan(site.incoming, batch, defects, share_s, seed=number + 1)
            if away:
                outage.join()
                broker.start()
        yield server
    finally:
        server.stop()
        daemon.kill()
        broker.stop()


def scan(incoming: Path, batch: str, defects: float, seconds: float, seed: int) -> None:
    """A scanner's frames for so long, two broken ones in a hundred."""
    rate = 4.0
    words = ["--frames", str(int(rate * seconds)), "--rate", str(rate), "--batch", batch, "--seed", str(seed),
             "--defect-share", str(defects), "--truncated-share", "0.02"]  # fmt: skip
    command = [sys.executable, "-m", "edge", "simulate", "scan", str(incoming), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=seconds * 2 + 60)


def lines_of(server: Prometheus, panel: dict[str, Any], start_s: float, end_s: float) -> list[Drawn]:
    """What a panel would show."""
    found = []
    for target in panel["targets"]:
        query = filled_in(
            target["expr"], WINDOW if "$__range" not in target["expr"] else f"{end_s - start_s:.0f}s"
        )
        series = server.query_range(query, start_s, end_s, 2.0) if target["range"] else server.query(query)
        for one in series:
            values = one.get("values") or [one["value"]]
            points = [(float(t), float(v)) for t, v in values if math.isfinite(float(v))]
            found.append(Drawn(named(target["legendFormat"], one["metric"]), points))
    return sorted(found, key=lambda one: one.name)


def named(legend: str, labels: dict[str, str]) -> str:
    """A legend with its labels filled in; without one, all labels."""
    if not legend:
        return ", ".join(
            f"{k} {v[:12]}" for k, v in labels.items() if k not in ("__name__", "instance", "job")
        )
    for name, value in labels.items():
        legend = legend.replace("{{" + name + "}}", value)
    return legend


def shown(value: float, unit: str) -> str:
    """A number as Grafana writes it, about."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return next(f"{value / 1000**n:.3g} {name}" for n, name in ((3, "GB"), (2, "MB"), (1, "kB"), (0, "B"))
                    if abs(value) >= 1000**n or n == 0)  # fmt: skip
    if unit == "s":
        return f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"
    return f"{value:.3g}" if abs(value) < 1e5 else f"{value:.2e}"


def colour_of(panel: dict[str, Any], value: float) -> str:
    """A stat's background, by its thresholds or mappings."""
    defaults = panel["fieldConfig"]["defaults"]
    for mapping in defaults["mappings"]:
        if option := mapping["options"].get(f"{value:g}"):
            return str(option["color"])
    colour = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return str(colour)


def text_of(panel: dict[str, Any], value: float) -> str:
    """A stat's value, or the word that stands for it."""
    defaults = panel["fieldConfig"]["defaults"]
    for mapping in defaults["mappings"]:
        if option := mapping["options"].get(f"{value:g}"):
            return str(option["text"])
    return shown(value, defaults["unit"])


def chart(panel: dict[str, Any], lines: Sequence[Drawn], width: int, height: int) -> str:
    """Lines over time as SVG, stacked where the panel stacks."""
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    left, bottom, top = 58, 20, 6
    drawn: list[Drawn] = []
    base: dict[float, float] = {}
    for line in lines:
        points = [(t, v + base.get(t, 0.0)) for t, v in line.points] if stacked else line.points
        if stacked:
            base.update(dict(points))
        drawn.append(Drawn(line.name, points))
    values = [v for line in drawn for _, v in line.points] or [0.0]
    steps = [s["value"] for s in defaults["thresholds"]["steps"] if s["value"] is not None]
    limits = steps if defaults["custom"].get("thresholdsStyle", {}).get("mode") == "dashed" else []
    low = min([*values, *limits, defaults.get("min", min(values))])
    high = max([*values, *limits, defaults.get("max", max(values))]) * 1.05 or 1.0
    times = [t for line in drawn for t, _ in line.points] or [0.0, 1.0]
    t0, t1 = min(times), max(times)

    def at(t: float, v: float) -> str:
        x = left + (t - t0) / max(t1 - t0, 1e-9) * (width - left - 8)
        y = top + (high - v) / max(high - low, 1e-12) * (height - top - bottom)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for n in range(5):
        value = low + (high - low) * n / 4
        _, y = at(t0, value).split(",")
        parts.append(f'<line x1="{left}" x2="{width - 8}" y1="{y}" y2="{y}" class="grid"/>'
                     f'<text x="{left - 6}" y="{float(y) + 4}" text-anchor="end">'
                     f"{html.escape(shown(value, defaults['unit']))}</text>")  # fmt: skip
    for n in range(4):
        t = t0 + (t1 - t0) * n / 3
        x, _ = at(t, low).split(",")
        anchor = "end" if n == 3 else "middle"
        parts.append(f'<text x="{x}" y="{height - 4}" text-anchor="{anchor}">'
                     f"{time.strftime('%H:%M:%S', time.gmtime(t))}</text>")  # fmt: skip
    for limit in limits:
        _, y = at(t0, limit).split(",")
        parts.append(f'<line x1="{left}" x2="{width - 8}" y1="{y}" y2="{y}" class="limit"/>')
    for index, line in reversed(list(enumerate(drawn))):
        if not line.points:
            continue
        path = " ".join(at(t, v) for t, v in line.points)
        colour = FIXED.get(line.name, COLOURS[index % len(COLOURS)])
        if stacked:
            ground = f"{at(line.points[-1][0], low)} {at(line.points[0][0], low)}"
            parts.append(f'<polygon points="{path} {ground}" fill="{colour}" fill-opacity=".85"/>')
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg>'


def body(panel: dict[str, Any], lines: Sequence[Drawn], width: int, height: int) -> str:
    """What is inside a panel's frame."""
    if not lines:
        return '<p class="none">no data</p>'
    if panel["type"] == "stat":
        value = lines[0].points[-1][1]
        return f'<p class="stat {colour_of(panel, value)}">{html.escape(text_of(panel, value))}</p>'
    if panel["type"] in ("table", "bargauge"):
        rows = "".join(
            f"<tr><td>{html.escape(line.name)}</td><td>{shown(line.points[-1][1], 'short')}</td></tr>"
            for line in lines
        )
        return f"<table>{rows}</table>"
    legend = " ".join(
        f'<span><i style="background:{FIXED.get(line.name, COLOURS[n % len(COLOURS)])}"></i>'
        f"{html.escape(line.name)}</span>"
        for n, line in enumerate(lines)
    )
    return chart(panel, lines, width - 20, height - 62) + f'<p class="legend">{legend}</p>'


STYLE = """
body{margin:0;padding:12px;background:#f4f5f7;font:13px system-ui,sans-serif;color:#1f2328;position:relative}
h1{font-size:18px;margin:0 0 4px}
h1+p{margin:0 0 10px;color:#5a636e}
section{position:absolute;background:#fff;border:1px solid #d9dee3;border-radius:4px;
 padding:8px 10px;box-sizing:border-box;overflow:hidden}
h2{font-size:13px;margin:0 0 4px}
h3{position:absolute;font-size:14px;margin:0}
text{font-size:11px;fill:#5a636e}
.grid{stroke:#e6e9ec}
.limit{stroke:#c4162a;stroke-dasharray:5 4}
.legend{margin:2px 0 0;font-size:11px;white-space:nowrap}
.legend span{margin-right:10px}
.legend i{display:inline-block;width:10px;height:3px;margin-right:4px;vertical-align:middle}
.stat{margin:0;height:64px;line-height:64px;text-align:center;font-size:26px;font-weight:600;border-radius:4px;color:#fff}
.green{background:#1a7f37}
.orange{background:#b35900}
.red{background:#c4162a}
.text{background:#5a636e}
table{border-collapse:collapse;font-size:11px}
td{padding:2px 10px 2px 0;border-bottom:1px solid #e6e9ec}
.none{color:#c4162a}
"""


def page(document: dict[str, Any], server: Prometheus, start_s: float, end_s: float) -> tuple[str, int, int]:
    """A dashboard as HTML, laid out as its grid says; with its width and height in pixels."""
    parts, bottom, top = [], 0, 62
    for panel in document["panels"]:
        grid = panel["gridPos"]
        x, y = 12 + grid["x"] * UNIT_PX, top + grid["y"] * ROW_PX
        width, height = grid["w"] * UNIT_PX - GAP_PX, grid["h"] * ROW_PX - GAP_PX
        bottom = max(bottom, y + height)
        if panel["type"] == "row":
            parts.append(f'<h3 style="left:{x}px;top:{y + 4}px">{html.escape(panel["title"])}</h3>')
            continue
        inside = body(panel, lines_of(server, panel, start_s, end_s), width, height)
        parts.append(f'<section style="left:{x}px;top:{y}px;width:{width}px;height:{height}px">'
                     f"<h2>{html.escape(panel['title'])}</h2>{inside}</section>")  # fmt: skip
    head = f"<h1>{html.escape(document['title'])}</h1><p>{html.escape(document['description'])}</p>"
    text = f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{head}{''.join(parts)}"
    return text, 24 + 24 * UNIT_PX, bottom + 16


def photograph(text: str, size: tuple[int, int], to: Path) -> None:
    """HTML to PNG by headless Chromium."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(text)
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", f"--user-data-dir={folder}/profile",
            f"--window-size={size[0]},{size[1]}", f"--screenshot={to}", file.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> int:
    """Run, ask, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    for program in ("mosquitto", "prometheus", "chromium"):
        if shutil.which(program) is None and not Path(f"/usr/sbin/{program}").exists():
            parser.error(f"{program} is missing: apt-get install {program}")
    empty = []
    with tempfile.TemporaryDirectory() as folder:
        start_s = time.time()
        with under_load(Path(folder), options.minutes) as server:
            end_s = time.time()
            for file in sorted(DASHBOARDS.glob("*.json")):
                text, width, height = page(json.loads(file.read_text()), server, start_s + 5, end_s)
                empty += [file.stem] * text.count("no data")
                photograph(text, (width, height), (options.out / f"monitoring-{file.stem}.png").resolve())
    print(f"{machine.describe()}: {len(empty)} panels without data {empty or ''}")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
