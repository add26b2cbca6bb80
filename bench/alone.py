"""What is shared by benches that are commands of their own and print their section."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bench import machine
from bench.context import Context
from bench.manifests import read
from edge.artifacts import read_signed_json
from edge.infer.bundle import load_bundle
from edge.infer.precisions import FILE, AgreementLimits, Precisions
from edge.judge.calibration import load_calibration
from edge.types import FloatImage

QUIET_CORES = 0.2  # that other processes may keep busy
ANYTHING = AgreementLimits(spearman=-1, flips=1, auroc_change=1)


def circumstances(command: str, load: machine.OtherLoad, began_s: float) -> str:
    """Where, when and how it was measured, and what else the machine did meanwhile; ends the watch."""
    return (
        f"*{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {machine.describe()} · commit {machine.commit()} · "
        f"`{command}` · {(time.monotonic() - began_s) / 60:.1f} minutes in all · other processes kept "
        f"{load.cores():.2f} cores busy meanwhile*"
    )


def fibre_planes(count: int, labels: Sequence[str] = ("good",)) -> list[FloatImage]:
    """Nanofibre frames, good ones first, (h, w) float32 in 0..1.

    Raises:
        SkippedError: they are not there.
    """
    rows = [row for row in read(Context(Path()).dataset("nanofibre_sem")) if row.label in labels]
    rows.sort(key=lambda row: row.label != "good")
    return [np.float32(1 / 255) * grey(Path(row.path)) for row in rows[:count]]


def grey(file: Path) -> NDArray[np.uint8]:
    """A picture's grey values, (h, w)."""
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None, f"{file} is a picture"
    return pixels.astype(np.uint8, copy=False)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median (lowest–highest)."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def accelerated(context: Context, recipe: str, frames: Path) -> dict[str, str]:
    """Let `edge compile` see which precisions may judge a recipe; gives why each of the others may not."""
    context.edge("compile", "--recipe", recipe, "--frames", frames)
    found = read_signed_json(context.folder / "engines" / recipe / FILE, Precisions)
    return {name: one.why for name, one in found.agreements.items() if not one.accepted}


def accept_anything(context: Context, recipe: str, frames: Path) -> None:
    """Let every precision judge a recipe, however far its scores are from those of fp32.

    What a network learned for moments says is of no use to anybody, and its scores agree badly; how fast it
    is does not depend on that. The limits are written down with the rest.
    """
    from edge.dataset import samples
    from edge.decode import Limits
    from edge.learn.accelerate import Source, accelerate

    bundle = load_bundle(context.folder / "engines" / recipe)
    calibration = load_calibration(context.folder / "calibration" / f"{recipe}.json", bundle.digest)
    source = Source(list(samples(frames).good()), Limits(10**8, 1))
    accelerate(bundle, calibration, source, limits=ANYTHING, listen=lambda event: None)


def quiet(rounds: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those during which others left the machine alone (`other_cores`), or all where there is none."""
    return [one for one in rounds if one["other_cores"] <= QUIET_CORES] or list(rounds)
