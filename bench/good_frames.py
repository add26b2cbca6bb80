"""How few good frames are enough: `python -m bench.good_frames [--folder DIR] [--out FILE.md]`.

Learns from 1, 3, 10 and more good frames of each set (one seed, whole parts on one side), judges the rest,
and draws the AUROC over the number of frames. What is finished is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.accuracy import TRIALS, rows
from bench.machine import describe
from bench.manifests import Row, read, write

COUNTS = (1, 3, 10, 30)
SETS = {"nanofibre": "pixel", "commutator": "image", "casting_C0045": "image"}
MINUTES = 1.0
SEED = 0
WIDTH, HEIGHT, MARGIN = 480, 300, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c")
Found = dict[str, dict[int, float]]  # set → good frames → AUROC


def main() -> int:
    """Learn, judge, and write the page and its picture beside it."""
    parser = argparse.ArgumentParser(prog="python -m bench.good_frames", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("var/good-frames"))
    parser.add_argument("--out", type=Path, default=Path("docs/good-frames.md"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    found: Found = {}
    for name, level in SETS.items():
        listed = rows(
            read(Path(os.environ.get("EDGE_DATA", "../shared/data")) / TRIALS[name].dataset), TRIALS[name]
        )
        for count in COUNTS:
            if (auroc := _trial(asked.folder, name, listed, count, level)) is not None:
                found.setdefault(name, {})[count] = auroc
    asked.out.write_text(_page(found, asked.out.with_suffix(".svg").name), encoding="utf-8")
    asked.out.with_suffix(".svg").write_text(picture(found), encoding="utf-8")
    return 0


def divided(listed: list[Row], count: int) -> list[Row] | None:
    """`count` good frames to learn from, part after part as the seed deals them; the rest is tested.

    Frames of parts that are learned from are left out of the test. None where that would leave no good frame,
    unless pixels can be judged.
    """
    good = [row for row in listed if row.label == "good"]
    names = sorted({row.part or row.path for row in good})
    order = [names[int(k)] for k in np.random.default_rng(SEED).permutation(len(names))]
    chosen = [row for name in order for row in good if (row.part or row.path) == name][:count]
    parts = {row.part or row.path for row in chosen}
    if len(chosen) < count or (len(parts) == len(names) and len(names) > 4):
        return None
    rest = [row for row in listed if (row.part or row.path) not in parts]
    return [row.with_split("train") for row in chosen] + [row.with_split("test") for row in rest]


def picture(found: Found) -> str:
    """An SVG: AUROC over the number of good frames, which grows by factors."""
    low = min(0.5, *(value for values in found.values() for value in values.values()))
    x = {count: MARGIN + k * (WIDTH - 2 * MARGIN) / (len(COUNTS) - 1) for k, count in enumerate(COUNTS)}

    def y(value: float) -> float:
        return HEIGHT - MARGIN - (value - low) / (1 - low) * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    ]
    for tick in np.arange(np.ceil(low * 10) / 10, 1.01, 0.1):
        parts.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
            f'<text x="{MARGIN - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.1f}</text>'
        )
    for count, at in x.items():
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{count}</text>')
    for (name, values), colour in zip(found.items(), COLOURS, strict=False):
        points = " ".join(f"{x[count]:.1f},{y(value):.1f}" for count, value in values.items())
        last = max(values)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{x[last]:.1f}" y="{y(values[last]) - 6:.1f}" fill="{colour}" text-anchor="middle">'
            f"{name}</text>"
        )
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">good frames</text></svg>')
    return "\n".join(parts)


def _trial(folder: Path, name: str, listed: list[Row], count: int, level: str) -> float | None:
    kept = folder / f"{name}-{count}.json"
    if not kept.is_file():
        if (parted := divided(listed, count)) is None:
            return None
        manifest = write(folder / f"{name}-{count}.csv", [replace(row) for row in parted])
        recipe = f"{name}-{count}"
        learned = edge_json(
            folder, "learn", manifest.name, "--recipe", recipe, "--minutes", MINUTES, "--seed", SEED
        )
        judged = edge_json(
            folder, "evaluate", "--recipe", recipe, "--manifest", manifest.name, "--split", "test"
        )
        kept.write_text(json.dumps({"learn": learned, "evaluate": judged}))
    auroc: float | None = json.loads(kept.read_text())["evaluate"][level].get("auroc")
    return auroc


def edge_json(folder: Path, *arguments: object) -> dict[str, object]:
    """What a command of the checkout answers with --json, run in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "edge", *map(str, arguments), "--json"],
        cwd=folder, check=True, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    document: dict[str, object] = json.loads(done.stdout)
    return document


def _page(found: Found, image: str) -> str:
    lines = [
        "# Good frames and what they are worth",
        "",
        f"`python -m bench.good_frames` ({describe()}): `edge learn` for {MINUTES:g} min, seed {SEED}, "
        "from so many good frames, of which thresholds take a part. Pixel AUROC of nanofibre, image AUROC of "
        "the others.",
        "",
        f"![AUROC over the number of good frames]({image})",
        "",
        "| set | " + " | ".join(str(count) for count in COUNTS) + " |",
        "| :-- |" + " --: |" * len(COUNTS),
    ]
    for name, values in found.items():
        cells = [f"{values[count]:.3f}" if count in values else "–" for count in COUNTS]
        lines.append(f"| {name} ({SETS[name]}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
