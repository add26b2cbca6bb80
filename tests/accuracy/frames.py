"""Small sets of frames, and runs that answer at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edge.accuracy.evidence import Evidence
from edge.accuracy.frame_sets import Row
from edge.dataset import Sample
from edge.judge.ranking import coarse_counts

RATES = (0.01, 0.05)


def write_set(folder: Path, good: int = 8, defect: int = 3, per_part: int = 2, split: bool = False) -> Path:
    """A manifest of noisy frames, 48×56; defects are bright squares with masks, of parts of their own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["path,label,mask,view,part,defect,split"]
    for k in range(good):
        cv2.imwrite(str(folder / f"g{k}.png"), rng.integers(80, 120, (48, 56)).astype(np.uint8))
        held = split and k >= good - 2 * per_part
        rows.append(f"g{k}.png,good,,,p{k // per_part},,{'test' if held else ''}")
    for k in range(defect):
        plane = rng.integers(80, 120, (48, 56)).astype(np.uint8)
        mask = np.zeros_like(plane)
        plane[20:26, 30:36], mask[20:26, 30:36] = 250, 255
        cv2.imwrite(str(folder / f"d{k}.png"), plane)
        cv2.imwrite(str(folder / f"m{k}.png"), mask)
        rows.append(f"d{k}.png,defect,m{k}.png,,q{k},,{'test' if split else ''}")
    file = folder / "manifest.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def row(name: str, group: str, *, defect: bool = False, split: str = "") -> Row:
    sample = Sample(Path(f"/{name}"), name, "defect" if defect else "good", part=group, split=split)
    return Row(sample, f"part {group}", hashlib.sha256(name.encode()).hexdigest())


def evidence(
    groups: Sequence[str],
    is_defect: Sequence[bool],
    scores: Sequence[float],
    *,
    bound: float = 0.05,
    rates: int = 2,
    pixels: bool = True,
) -> Evidence:
    """Frames with these scores, judged at 1; a defect frame has 10 defect pixels that score as it does."""
    values = np.array(scores, np.float64)
    truth = np.array(is_defect, bool)
    tallies = [
        coarse_counts(np.array([s] * 10 + [0.1] * 90, np.float32), np.arange(100) < (10 if d else 0))
        for s, d in zip(scores, is_defect, strict=True)
    ]
    marked, frames = (
        sorted({s for s, d in zip(scores, is_defect, strict=True) if d}, reverse=True),
        len(values),
    )
    return Evidence(
        groups=np.array(groups, np.str_),
        is_defect=truth,
        scores=values,
        evaluations=np.array([np.where(values > 1, "NotOK", "OK")] * rates),
        bounds=np.full((rates, frames), bound),
        coarse=np.stack(tallies).astype(np.int32),
        pixel_scores=np.array([*marked, 0.1]) if pixels else np.zeros(0),
        pixel_defect=np.array([10.0 * np.sum(values[truth] == s) for s in marked] + [0.0])
        if pixels
        else np.zeros(0),
        pixel_good=np.array([0.0] * len(marked) + [90.0 * frames]) if pixels else np.zeros(0),
    )
