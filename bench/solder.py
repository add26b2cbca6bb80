"""Solder joints, io and nio: a supervised autoencoder held to a demanded recall, three 64/16/20 splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from bench.context import Context
from bench.manifests import Row, read, write
from bench.section import Section, table
from edge.judge.operating_point import lower_bound
from edge.learn.classes import split_64_16_20

MINUTES = 4.0
SEEDS = (0, 1, 2)
MIN_RECALL = 0.99
AIM_RECALL, AIM_PRECISION = 0.99, 0.98
THUMBNAIL_PX = 24
SAME_CORRELATION = 0.98  # of thumbnails; copies are above 0.997, the next pair below 0.97


@dataclass(frozen=True, slots=True)
class Trial:
    """One split: what was learned, what it said of the frames set aside, and what their shape alone says."""

    seed: int
    learned: Mapping[str, Any]
    judged: Mapping[str, Any]
    by_shape: tuple[int, int, int]  # not square = defect: true positives, false positives, false negatives

    @property
    def confusion(self) -> tuple[int, int, int, int]:
        (tn, fp), (fn, tp) = self.judged["confusion"]
        return tn, fp, fn, tp

    @property
    def recall(self) -> float:
        _, _, fn, tp = self.confusion
        return tp / (tp + fn)

    @property
    def precision(self) -> float:
        _, fp, _, tp = self.confusion
        return tp / (tp + fp) if tp else 0.0

    @property
    def reached(self) -> bool:
        return self.recall >= AIM_RECALL and self.precision >= AIM_PRECISION


def run(context: Context) -> Section:
    """Learn and choose the operating point on 80 %, test on the 20 % that neither has seen, seed by seed."""
    rows = _with_parts(read(context.dataset("solder_joint")))
    if context.quick:
        rows = _few(rows)
    trials = [_trial(context, rows, seed) for seed in SEEDS[: context.size(len(SEEDS), 1)]]
    return Section(
        "solder_joint: io and nio at a demanded recall",
        [*_method_lines(rows), "", *_result_table(trials), "", *_verdict_lines(trials)],
        {str(t.seed): {"learn": t.learned, "evaluate": t.judged, "by_shape": t.by_shape} for t in trials},
    )


def _trial(context: Context, rows: Sequence[Row], seed: int) -> Trial:
    divided = _divided(rows, seed)
    manifest = write(context.folder / f"solder-{seed}.csv", divided)
    recipe = f"solder-{seed}"
    learned = context.edge_json(
        "learn", manifest, "--recipe", recipe, "--model", "supervised-ae", "--min-recall", MIN_RECALL,
        "--seed", seed, *context.budget(MINUTES),
    )  # fmt: skip
    judged = context.edge_json("evaluate", "--recipe", recipe, "--manifest", manifest, "--split", "test")
    return Trial(seed, learned, judged, _by_shape([row for row in divided if row.split == "test"]))


def _with_parts(rows: Sequence[Row]) -> list[Row]:
    """Frames that show the same joint twice become one part, so that no split learns what it is tested on."""
    thumbnails = np.array([_thumbnail(row.path) for row in rows])  # (n, 3 · THUMBNAIL_PX²), norm 1
    alike = np.argwhere(np.triu(thumbnails @ thumbnails.T, 1) > SAME_CORRELATION)
    part = list(range(len(rows)))  # the first frame of each: pairs come in rising order
    for first, second in alike:
        part[second] = min(part[second], part[first])
    return [replace(row, part=f"joint-{part[k]:04d}") for k, row in enumerate(rows)]


def _thumbnail(path: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    small = cv2.resize(cv2.imread(path).astype(np.float32), (THUMBNAIL_PX, THUMBNAIL_PX),
                       interpolation=cv2.INTER_AREA).ravel()  # fmt: skip
    centred = small - small.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-6), np.float32)


def _divided(rows: Sequence[Row], seed: int) -> list[Row]:
    """Rows with their split column, stratified by kind of defect."""
    sides = split_64_16_20([row.part for row in rows], [row.defect for row in rows], seed)
    named = {"train": sides.train, "validation": sides.validation, "test": sides.test}
    use = {part: name for name, parts in named.items() for part in parts}
    return [row.with_split(use[row.part]) for row in rows]


def _by_shape(rows: Sequence[Row]) -> tuple[int, int, int]:
    """(true positives, false positives, false negatives) of calling all that is not square a defect."""
    odd = [len(set(cv2.imread(row.path).shape[:2])) > 1 for row in rows]
    truth = [row.label == "defect" for row in rows]
    pairs = list(zip(odd, truth, strict=True))
    return pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))


def _method_lines(rows: Sequence[Row]) -> list[str]:
    parts = len({row.part for row in rows})
    defects = sum(row.label == "defect" for row in rows)
    return [
        f"{len(rows) - defects} good joints and {defects} defects of four kinds; {len(rows) - parts} frames "
        f"are copies of others and stay on the side of their original (`part`). Each seed divides them "
        f"64/16/20 by part, stratified by kind. `edge learn --model supervised-ae --min-recall "
        f"{MIN_RECALL:g}`, {MINUTES:g} minutes: stops early and chooses its threshold on the 16 %; the 20 % "
        "are seen by `edge evaluate` only.",
    ]


def _result_table(trials: Sequence[Trial]) -> list[str]:
    rows = []
    for trial in trials:
        tn, fp, fn, tp = trial.confusion
        rows.append([
            f"seed {trial.seed}", f"{trial.recall:.3f}", f"{lower_bound(tp, tp + fn):.3f}",
            f"{trial.precision:.3f}", f"{2 * tp / (2 * tp + fp + fn):.3f}", f"{tp} / {fn}", f"{tn} / {fp}",
            f"{trial.judged['image']['auroc']:.4f}",
        ])  # fmt: skip
    header = ["", "recall", "its 95 % lower bound", "precision", "F1", "defects found / missed",
              "good OK / rejected", "image AUROC"]  # fmt: skip
    return table(header, rows)


def _verdict_lines(trials: Sequence[Trial]) -> list[str]:
    reached = sum(trial.reached for trial in trials)
    shape = "; ".join(
        f"seed {t.seed}: recall {t.by_shape[0] / (t.by_shape[0] + t.by_shape[2]):.3f}, precision "
        f"{t.by_shape[0] / max(1, t.by_shape[0] + t.by_shape[1]):.3f}"
        for t in trials
    )
    fewest = min(trial.confusion[2] + trial.confusion[3] for trial in trials)
    return [
        f"- {'**' if reached == len(trials) else 'NOT REACHED: '}{reached} of {len(trials)} splits have "
        f"recall ≥ {AIM_RECALL:g} at precision ≥ {AIM_PRECISION:g}{'**' if reached == len(trials) else ''}. "
        f"With {fewest} defects tested one missed is {1 / fewest:.1%} of recall, so the aim means none "
        "missed; that many cannot prove a recall of 0.99 (299 without a miss could), hence the bound. The "
        "tests of the seeds overlap, so they do not add up.",
        "- What the set gives away: its defects were cropped by another hand. Calling every frame that is "
        f"not square a defect reaches, on the same frames, {shape}. The network sees the shape (frames are "
        "padded, not stretched, into its square), so the figures say what the method does on this set, not "
        "on joints cropped alike. Stretched, which hides most of the shape, a trial of 900 steps a seed had "
        "recall 0.85 / 0.92 / 0.92 at precision 0.92 / 0.86 / 0.96 (docs/decisions.md).",
    ]


def _few(rows: Sequence[Row]) -> list[Row]:
    """Some parts of every kind."""
    kept: dict[str, list[Row]] = {}
    for row in rows:
        kept.setdefault(row.defect, []).append(row)
    return [row for some in kept.values() for row in some[:12]]
