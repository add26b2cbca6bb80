"""Which measure sees blur, and what the gates refuse: `python -m bench.picture_gates [--measures]`.

Real good frames of EDGE_DATA. Of each group that is alike (a view, an object) 20 frames set the ranges as a
calibration does, whole parts on one side; of the others is counted how many are refused as they are, and how
many once they were spoilt. Blur is of the plane, with and without the noise of a camera on top.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.judge import ranges
from edge.judge.calibration import Calibration, GoodFrame, calibrate
from edge.judge.judgement import judge
from edge.judge.sharpness import sharpness
from edge.judge.statistics import mean_and_std
from edge.types import FloatImage, Score

# what makes frames alike in each set: the column of the manifest; nanofibre: defects are tiny, all frames
SETS = {
    "nanofibre_sem": "", "magnetic_tile": "view", "commutator": "view", "solar_cell": "view",
    "solder_joint": "view", "casting_xray": "part", "turntable": "part",
}  # fmt: skip
CALIBRATED, LEAST, MOST = 20, 12, 150  # frames: of a calibration, of a group at least and at most
DEALS = 40
NOISE = 1.5 / 255
Frames = list[tuple[str, FloatImage]]  # part, plane in 0..1
Measure = Callable[[FloatImage], float]


def main() -> int:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.picture_gates", description=__doc__)
    parser.add_argument("--measures", action="store_true", help="compare measures of sharpness")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    table = defaultdict[str, dict[str, NDArray[np.float64]]](dict)
    for name in SETS:
        spoilt_by = BLURS if asked.measures else SPOILT
        for who, shares in _of_set(name, spoilt_by, MEASURES if asked.measures else {"gates": None}).items():
            table[who][name] = shares
    columns = ["good, refused", *(BLURS if asked.measures else SPOILT)]
    if asked.measures:
        rows = {who: np.mean(list(found.values()), axis=0) for who, found in table.items()}
    else:
        rows = table["gates"] | {"mean": np.mean(list(table["gates"].values()), axis=0)}
    print(f"| {'measure' if asked.measures else 'set'} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for who, shares in rows.items():
        print(f"| {who} | {shares[0]:.1%} | " + " | ".join(f"{share:.0%}" for share in shares[1:]) + " |")
    return 0


def _of_set(
    name: str, spoilt_by: Mapping[str, Spoil], measures: Mapping[str, Measure | None]
) -> dict[str, NDArray[np.float64]]:
    """measure → share refused of good frames, then of each way to spoil them; mean over the set's groups."""
    shares = defaultdict[str, list[NDArray[np.float64]]](list)
    for frames in groups(name):
        kinds = [frames, *([(part, f(plane)) for part, plane in frames] for f in spoilt_by.values())]
        for who, measure in measures.items():
            if measure is None:
                scores = [[_score(plane) for _, plane in kind] for kind in kinds]
                shares[who].append(_dealt(frames, partial(_refused_by_judge, scores)))
            else:
                values = [np.array([measure(plane) for _, plane in kind]) for kind in kinds]
                shares[who].append(_dealt(frames, partial(_below_range, values)))
    return {who: np.mean(found, axis=0) for who, found in shares.items()}


def groups(name: str, most: int = MOST) -> list[Frames]:
    """Frames that are alike, as planes in 0..1; bench and test read them, nothing is copied."""
    folder = Path(os.environ.get("EDGE_DATA", "../shared/data")) / name
    found = defaultdict[str, Frames](list)
    with (folder / "manifest.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["label"] != "good" and SETS[name]:
                continue
            image = cv2.imread(str(folder / row["path"]), cv2.IMREAD_GRAYSCALE)
            if image is not None and min(image.shape) >= 20:
                plane = np.asarray(image / 255, np.float32)
                key = row[SETS[name]] if SETS[name] else ""
                part = row["path"] if SETS[name] == "part" else row["part"] or row["path"]
                found[key].append((part, plane))
    rng = np.random.default_rng(0)
    return [
        [frames[int(k)] for k in rng.permutation(len(frames))[:most]]
        for frames in found.values()
        if len(frames) >= LEAST
    ]


def _dealt(frames: Frames, shares_of: Callable[[NDArray[np.bool_]], Sequence[float]]) -> NDArray[np.float64]:
    """Mean over deals of the parts; `shares_of` is given which frames calibrate."""
    rng, parts = np.random.default_rng(1), np.array([part for part, _ in frames])
    names, found = np.unique(parts), []
    for _ in range(DEALS):
        chosen = np.zeros(len(frames), bool)
        for part in rng.permutation(names)[:-1]:
            if chosen.sum() < min(CALIBRATED, 0.6 * len(frames)):
                chosen |= parts == part
        found.append(shares_of(chosen))
    return np.asarray(np.mean(found, axis=0), np.float64)


def _below_range(values: Sequence[NDArray[np.float64]], chosen: NDArray[np.bool_]) -> list[float]:
    """Refused of good ones, either way; of blurred ones those below: added noise is no blur that is seen."""
    low, high = ranges.sharpness(values[0][chosen].tolist()) or (0.0, np.inf)
    good = values[0][~chosen]
    return [
        float(np.mean((good < low) | (good > high))),
        *(float(np.mean(v[~chosen] < low)) for v in values[1:]),
    ]


def _refused_by_judge(scores: Sequence[Sequence[Score]], chosen: NDArray[np.bool_]) -> list[float]:
    good = [_good(score) for score, mine in zip(scores[0], chosen, strict=True) if mine]
    made = calibrate(good, recipe="r", bundle_sha256="", statistic="peak", false_reject=0.05, too_few="bound")
    return [_refused(kind, ~chosen, made) for kind in scores]


def _refused(kind: Sequence[Score], which: NDArray[np.bool_], made: Calibration) -> float:
    judged = [judge(score, None, made) for score, asked in zip(kind, which, strict=True) if asked]
    return float(np.mean([one.evaluation == "NotDecidable" for one in judged]))


def _score(plane: FloatImage) -> Score:
    """Of a frame whose defect score is nil: what is refused is refused by the picture."""
    mean, std = mean_and_std(plane)
    nothing = np.zeros(plane.shape, np.float32)
    return Score(0.0, nothing, {}, (0, 0, 1, 1), mean, std, plane.size, sharpness=sharpness(plane))


def _good(score: Score) -> GoodFrame:
    height, width = score.map.shape
    return GoodFrame(
        "default", 0.0, 0.0, score.plane_mean, score.plane_std, height, width, sharpness=score.sharpness
    )


Spoil = Callable[[FloatImage], FloatImage]


def stored(plane: FloatImage, noise: float = 0.0) -> FloatImage:
    """As a camera of 8 bits stores it."""
    rng = np.random.default_rng(plane.size)
    noisy = plane + noise * rng.standard_normal(plane.shape)
    return np.asarray(np.clip(np.rint(noisy * 255), 0, 255) / 255, np.float32)


def blurred(sigma_px: float, noise: float = 0.0) -> Spoil:
    """Out of focus, about."""
    return lambda plane: stored(np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma_px)), noise)


def moved(length_px: int, axis: int) -> Spoil:
    """Moved along x (1) or y (0) while it was exposed."""
    kernel = np.full((length_px, 1) if axis == 0 else (1, length_px), 1 / length_px)
    return lambda plane: stored(np.asarray(cv2.filter2D(plane, -1, kernel)))


def flattened(share: float) -> Spoil:
    """Contrast reduced to a share, around the mean: fog, or a dirty window."""
    return lambda plane: stored(np.asarray(plane.mean() + share * (plane - plane.mean()), np.float32))


BLURS: dict[str, Spoil] = {
    "σ 2 px": blurred(2), "σ 3 px": blurred(3), "σ 2 px, noise": blurred(2, NOISE),
    "σ 3 px, noise": blurred(3, NOISE), "moved 11 px, x": moved(11, 1), "moved 11 px, y": moved(11, 0),
}  # fmt: skip
SPOILT: dict[str, Spoil] = BLURS | {
    "−30 % light": lambda plane: stored(plane * np.float32(0.7)),
    "−50 % light": lambda plane: stored(plane * np.float32(0.5)),
    "+50 % light": lambda plane: stored(plane * np.float32(1.5)),
    "½ contrast": flattened(0.5), "⅓ contrast": flattened(1 / 3),
}  # fmt: skip


def _halved(plane: FloatImage) -> FloatImage:
    size = max(1, plane.shape[1] // 2), max(1, plane.shape[0] // 2)
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA))


def _laplacian(plane: FloatImage) -> float:
    return float(cv2.Laplacian(plane, cv2.CV_32F).var() / max(float(plane.var()), 1e-9))


def _gradient_energy(plane: FloatImage) -> float:
    x, y = (cv2.Sobel(plane, cv2.CV_32F, dx, 1 - dx) / 8 for dx in (1, 0))
    return float(np.mean(x * x + y * y))


def _tenengrad(plane: FloatImage) -> float:
    return _gradient_energy(plane) / max(float(plane.var()), 1e-9)


def _octaves(plane: FloatImage) -> float:
    half = _halved(plane)
    return _gradient_energy(half) / max(_gradient_energy(_halved(half)), 1e-12)


def _edge_width(plane: FloatImage) -> float:
    x, y = (cv2.Sobel(plane, cv2.CV_32F, dx, 1 - dx) / 8 for dx in (1, 0))
    kernel = np.ones((9, 9), np.uint8)
    span = cv2.dilate(plane, kernel) - cv2.erode(plane, kernel)
    return float(np.quantile(np.hypot(x, y), 0.99) / max(float(np.quantile(span, 0.99)), 1e-6))


def structure(near_px: int, far_px: int) -> Measure:
    """As `edge.judge.sharpness`, at other distances."""

    def of(plane: FloatImage) -> float:
        found = []
        for values in (plane, plane.T):
            near, far = (values[d:] - values[:-d] for d in (near_px, far_px))
            found.append(float(np.sqrt(np.mean(near**2) / max(float(np.mean(far**2)), 1e-12))))
        return min(found)

    return of


MEASURES: dict[str, Measure | None] = {
    "variance of Laplacian / variance": _laplacian,
    "the same at half size": lambda plane: _laplacian(_halved(plane)),
    "Tenengrad / variance": _tenengrad,
    "gradient energy, half over quarter size": _octaves,
    "steepest edges: gradient / span of 9 px": _edge_width,
    "differences 1 px / 2 px": structure(1, 2),
    "differences 1 px / 4 px": structure(1, 4),
    "**differences 1 px / 8 px**": structure(1, 8),
    "differences 1 px / 16 px": structure(1, 16),
    "differences 2 px / 8 px": structure(2, 8),
}


if __name__ == "__main__":
    raise SystemExit(main())
