"""What a few labelled defects add: `python -m bench.few_defects [--folder DIR] [--out FILE.md]`.

Nanofibres: the four good frames and the masks of 9 of the 18 defect frames are learned from, the other 9 are
judged; three seeds deal them. The learner decides by itself whether the defects help. What is finished is not
repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.good_frames import edge_json
from bench.machine import describe
from bench.manifests import Row, read, write

SEEDS = (0, 1, 2)
MASKS = 9
MINUTES = 4.0


def main() -> int:
    """Learn, judge, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.few_defects", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("var/few-defects"))
    parser.add_argument("--out", type=Path, default=Path("docs/few-defects.md"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    listed = read(Path(os.environ.get("EDGE_DATA", "../shared/data")) / "nanofibre_sem")
    asked.out.write_text(page([_trial(asked.folder, listed, seed) for seed in SEEDS]), encoding="utf-8")
    return 0


def dealt(listed: list[Row], seed: int) -> list[Row]:
    """Good frames and half of the defect frames to learn from, the other half to test."""
    defects = [row for row in listed if row.label == "defect"]
    order = [defects[int(k)] for k in np.random.default_rng(seed).permutation(len(defects))]
    good = [row.with_split("train") for row in listed if row.label == "good"]
    return [
        *good,
        *(row.with_split("train") for row in order[:MASKS]),
        *(row.with_split("test") for row in order[MASKS:]),
    ]


def page(trials: list[dict[str, Any]]) -> str:
    """A line a seed."""
    lines = [
        "# What a few labelled defects add",
        "",
        f"`python -m bench.few_defects` ({describe()}): nanofibre_sem, 4 good frames and {MASKS} masks "
        f"learned from for {MINUTES:g} minutes (pilots take part of them), the other {MASKS} defect frames "
        "judged.",
        "",
        "| seed | learned from | pixel AUROC | pixel AP | defect frames rejected | what the learner said |",
        "| --: | :-- | --: | --: | --: | :-- |",
    ]
    for seed, trial in zip(SEEDS, trials, strict=True):
        pixel, rates, real = trial["pixel"], trial["rates"], trial["real"]
        lines.append(
            f"| {seed} | {real['use']} | {pixel['auroc']:.4f} | {pixel['auprc']:.3f} | "
            f"{1 - rates['escape']:.0%} | {real['why']} |"
        )
    for key in ("auroc", "auprc"):
        values = [trial["pixel"][key] for trial in trials]
        lines += ["", f"Pixel {key}: mean {np.mean(values):.4f}, worst {min(values):.4f}."]
    return "\n".join(lines) + "\n"


def _trial(folder: Path, listed: list[Row], seed: int) -> dict[str, Any]:
    kept = folder / f"{seed}.json"
    if not kept.is_file():
        manifest = write(folder / f"{seed}.csv", dealt(listed, seed)).name
        recipe = f"few-{seed}"
        edge_json(folder, "learn", manifest, "--recipe", recipe, "--minutes", MINUTES, "--seed", seed)
        judged = edge_json(folder, "evaluate", "--recipe", recipe, "--manifest", manifest, "--split", "test")
        bundle = json.loads((folder / "engines" / recipe / "bundle.json").read_text())
        kept.write_text(json.dumps({**judged, "real": bundle["training"]["real_defects"]}))
    document: dict[str, Any] = json.loads(kept.read_text())
    return document


if __name__ == "__main__":
    sys.exit(main())
