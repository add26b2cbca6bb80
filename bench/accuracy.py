"""The figures of docs/accuracy.md: `python -m bench.accuracy [NAME…] [--folder DIR] [--out FILE]`.

Writes a manifest of each set, lets `edge bench accuracy` learn and judge by folds over parts and three seeds,
and puts its tables together. What is finished is not repeated, so it may be interrupted, or run by parts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from bench.machine import describe
from bench.manifests import Row, read, write

SEEDS = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """How a set is learned and judged."""

    dataset: str
    what: str
    minutes: float
    folds: int = 2
    models: str = "auto"
    part: str = ""  # only frames of this part, each then a part of its own: it is one part's series


TRIALS = {
    "nanofibre": Trial("nanofibre_sem", "all four good frames, one of them for the threshold", 15, folds=1),
    "magnetic_tile": Trial("magnetic_tile", "folds by part; six exposures are six views", 8),
    "commutator": Trial("commutator", "parts by folds", 3),
    "casting_C0045": Trial("casting_xray", "the series C0045; every frame counts as a part", 1, part="C0045"),
    "solar_cell": Trial("solar_cell", "two variants are two views; frames to be reviewed are left out", 2),
    "solder_joint": Trial("solder_joint", "joints of all kinds", 1),
    "leaderboard": Trial(
        "nanofibre_sem", "every model that learns from good frames, a minute each", 1, folds=1,
        models="anomaly-unet,fusion,features-memory,features-gaussian,frequency-unet,fragment-cae,cae",
    ),
}  # fmt: skip


def main() -> int:
    """Run the trials that are named, or all; then put every table that there is into one page."""
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--folder", type=Path, default=Path("var/accuracy"), help="what runs leave behind")
    parser.add_argument("--out", type=Path, help="put the tables together as this page")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in TRIALS]:
        parser.error(f"no trial {unknown[0]!r}: choose {', '.join(TRIALS)}")
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.names or ([] if asked.out else TRIALS):
        run(name, TRIALS[name], asked.folder)
    if asked.out:
        asked.out.write_text(page(asked.folder), encoding="utf-8")
    return 0


def run(name: str, trial: Trial, folder: Path) -> None:
    """One set; its table is FOLDER/NAME.md."""
    data = Path(os.environ.get("EDGE_DATA", "../shared/data")) / trial.dataset
    write(folder / f"{name}.csv", rows(read(data), trial))
    subprocess.run(
        [
            sys.executable, "-m", "edge", "bench", "accuracy", f"{name}.csv", "--models", trial.models,
            "--folds", str(trial.folds), "--seeds", str(SEEDS),
            "--minutes", f"{trial.minutes:g}", "--out", f"{name}.md",
        ],
        cwd=folder, check=True, env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip


def rows(listed: list[Row], trial: Trial) -> list[Row]:
    """What of a set is looked at: good and defect frames; the series' frames without their common part."""
    kept = [row for row in listed if row.label in ("good", "defect")]
    if not trial.part:
        return kept
    return [replace(row, part="", view="") for row in kept if row.part == trial.part]


def page(folder: Path) -> str:
    """All tables that are there, one after the other."""
    sections = [f"# Accuracy\n\n{describe()}\n"]
    for name, trial in TRIALS.items():
        table = folder / f"{name}.md"
        if table.is_file():
            body = table.read_text(encoding="utf-8").replace("\n## ", "\n### ").split("\n", 1)[1]
            sections.append(f"## {name}: {trial.what}\n{body}")
    return "\n".join(sections)


if __name__ == "__main__":
    sys.exit(main())
