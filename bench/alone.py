"""What is shared by benches that are commands of their own and print their section."""

from __future__ import annotations

import hashlib
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
from edge.infer.bundle import MODEL, load_bundle
from edge.infer.compile import golden_difference, open_runtime
from edge.infer.openvino import OpenVinoRuntime, can_compute, cpu_identity
from edge.infer.precisions import Agreement, AgreementLimits, Precisions, save_precisions
from edge.judge.calibration import load_calibration
from edge.pipeline import Inspection, Inspector
from edge.types import FloatImage

QUIET_CORES = 0.2  # that other processes may keep busy
COMPARED = 20  # frames that precisions are compared on
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
    """Quantise a recipe and let every precision judge; gives why those that the shipped limits refuse are so.

    What a network learned for moments says is of no use to anybody, and its scores agree badly; how fast it
    is does not depend on that. Unlike `edge compile` it plants no defects, which takes minutes for large
    frames, and tries only the first way to quantise: others keep layers in float.
    """
    from edge.dataset import samples
    from edge.decode import Limits
    from edge.learn.accelerate import Source
    from edge.learn.quantise import RECIPES, quantise, windows_of

    context.say(f"measuring precisions of {recipe}")
    bundle = load_bundle(context.folder / "engines" / recipe)
    calibration = load_calibration(context.folder / "calibration" / f"{recipe}.json", bundle.digest)
    seen = list(Source(list(samples(frames).good()), Limits(10**8, 1)).frames(bundle, COMPARED))
    onnx = bundle.read(MODEL)
    int8 = quantise(onnx, windows_of(seen, bundle.manifest.preprocess.tiles, 0), RECIPES[0])
    graphs = {"bf16": onnx, "int8": int8} if can_compute("bf16") else {"int8": int8}
    ours = list(Inspector(bundle, open_runtime(bundle, precision="fp32"), calibration).inspect(seen))
    agreements = {}
    for name, graph in graphs.items():
        runtime = OpenVinoRuntime(graph, origin=bundle.folder, precision=name)
        theirs = list(Inspector(bundle, runtime, calibration).inspect(seen))
        agreements[name] = compared(ours, theirs, golden_difference(runtime, bundle.golden()))
    sizes = {(frame.plane.shape[0], frame.plane.shape[1]) for frame in seen}
    made = Precisions(
        schema="edge/precisions/1", bundle_sha256=bundle.digest, calibration_sha256=calibration.digest,
        int8_sha256=hashlib.sha256(int8).hexdigest(), device=cpu_identity(), limits=ANYTHING,
        plane_px=sizes.pop() if len(sizes) == 1 else None, plane_kind=seen[0].grey.dtype.name,
        agreements=agreements,
    )  # fmt: skip
    save_precisions(bundle.folder, made, int8)
    return {name: one.why for name, one in agreements.items() if not shipped(one)}


def compared(ours: Sequence[Inspection], theirs: Sequence[Inspection], golden: float) -> Agreement:
    """How the scores and verdicts of the same frames agree; let in whatever it is."""
    from edge.learn.agreement import spearman

    rank = spearman([one.score.raw for one in ours], [one.score.raw for one in theirs])
    flips = sum(a.judgement.evaluation != b.judgement.evaluation for a, b in zip(ours, theirs, strict=True))
    said = "none" if rank is None else f"{rank:.4f}"
    return Agreement(
        accepted=True, why=f"rank correlation {said} over {len(ours)} frames, {flips} other verdicts",
        frames=len(ours), spearman=rank, flips=flips, golden_difference=golden,
    )  # fmt: skip


def shipped(one: Agreement, limits: AgreementLimits = AgreementLimits()) -> bool:
    """Whether a precision that agrees so with fp32 would be let in by the shipped limits."""
    return (
        one.accepted
        and one.spearman is not None
        and one.spearman >= limits.spearman
        and one.flips <= limits.flips * one.frames
        and (one.auroc_change is None or one.auroc_change <= limits.auroc_change)
    )


def quiet(rounds: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those during which others left the machine alone (`other_cores`), or all where there is none."""
    return [one for one in rounds if one["other_cores"] <= QUIET_CORES] or list(rounds)
