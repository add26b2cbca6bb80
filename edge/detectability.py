"""What size of defect at what contrast a recipe finds: test defects planted in good frames, and the curve
fitted.

The defects go through the recipe as it is delivered: its network in its runtime, its score, its thresholds.
Only reading and preprocessing are behind them: they are planted in the prepared plane.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.artifacts import write_atomic
from edge.calibrate import Calibrated, CalibrationFrame, learned_id
from edge.dataset import frames
from edge.decode import Limits
from edge.judge.detection import CONFIDENCE, PROBABILITY, Detection, fit_detection
from edge.pipeline import Inspector
from edge.planted import CONTRASTS, SHAPES, SIZES_PX, Planted, Shape, Wanted, plant, with_defect
from edge.planted_judge import Judged, judge_of, overlap
from edge.types import Box, Frame

FILE = "detectability.json"
SCHEMA = "edge/detectability/1"
RULE = (
    "found: the frame is NotOK and a box around what was found overlaps the planted defect; "
    "rejected: the frame is NotOK, wherever the boxes are"
)
SECONDS = 60.0
MOST_DEFECTS = 1500
MOST_FRAMES = 24
FEW_FRAMES = 10  # below it what is particular to a frame weighs in all trials
RELATIVE = (
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
)  # contrasts in standard deviations of the surroundings, of the second table
CROP_PX = 96
MISFIT = 3.0  # standard deviations of a count
EXAMPLES = 4  # of what was found, and of what was missed, of a shape


@dataclass(frozen=True, slots=True)
class Trial:
    """A planted defect, and what became of it. Lengths in pixels of the frame, contrasts of the full
    scale."""

    shape: Shape
    nominal_px: float  # in the plane, as is `box`
    size_px: float
    nominal_contrast: float
    contrast: float
    local_std: float
    rejected: bool
    found: bool
    frame: str
    box: Box
    crop: NDArray[np.uint8] = field(repr=False, compare=False)  # (96, 96) or less, with the defect in it …
    place: Box = field(repr=False, compare=False)  # … there

    @property
    def relative(self) -> float:
        """Contrast in standard deviations of the surroundings."""
        return self.contrast / self.local_std


@dataclass(frozen=True, slots=True)
class SizeFigure:
    """a90 and a90/95 at one contrast, as texts in pixels of the frame, and the numbers where they are within
    what was tested."""

    contrast: float
    a90: str
    a90_95: str
    a90_px: float | None
    a90_95_px: float | None
    planted: int  # at about that contrast
    found: int


@dataclass(frozen=True, slots=True)
class Curves:
    """What was found out about one shape."""

    shape: Shape
    trials: tuple[Trial, ...]
    by_contrast: Detection | None  # None: the trials do not bound it
    by_relative: Detection | None

    @property
    def found(self) -> int:
        return sum(trial.found for trial in self.trials)

    @property
    def rejected(self) -> int:
        return sum(trial.rejected for trial in self.trials)

    def sizes(self) -> list[SizeFigure]:
        """a90 at each contrast that was planted."""
        planted = sorted({trial.nominal_contrast for trial in self.trials})
        return [
            self._size(c, self.by_contrast, [t for t in self.trials if t.nominal_contrast == c])
            for c in planted
        ]

    def sizes_relative(self) -> list[SizeFigure]:
        """a90 at contrasts in standard deviations of the surroundings, as far as they occurred."""
        low, high = (
            np.quantile([t.relative for t in self.trials], (0.02, 0.98)) if self.trials else (1.0, 0.0)
        )
        return [
            self._size(c, self.by_relative, [t for t in self.trials if c / 1.5 <= t.relative <= c * 1.5])
            for c in RELATIVE
            if low <= c <= high
        ]

    def cells(self) -> dict[tuple[float, float], tuple[int, int, int]]:
        """(nominal size, contrast) → planted, rejected, found."""
        counted: dict[tuple[float, float], tuple[int, int, int]] = {}
        for trial in self.trials:
            key = trial.nominal_px, trial.nominal_contrast
            planted, rejected, found = counted.get(key, (0, 0, 0))
            counted[key] = planted + 1, rejected + trial.rejected, found + trial.found
        return dict(sorted(counted.items()))

    def misfit(self) -> list[str]:
        """The contrasts, in grey levels of 255, at which more or fewer were found than the curve can
        explain."""
        if self.by_contrast is None:
            return []
        poor = []
        for contrast in sorted({trial.nominal_contrast for trial in self.trials}):
            mine = [trial for trial in self.trials if trial.nominal_contrast == contrast]
            p = np.array([self.by_contrast.probability(t.size_px, t.contrast) for t in mine])
            gap = sum(trial.found for trial in mine) - float(p.sum())
            if abs(gap) > MISFIT * math.sqrt(float((p * (1 - p)).sum()) + 1):
                poor.append(f"{255 * contrast:.0f}")
        return poor

    def examples(self) -> tuple[list[Trial], list[Trial]]:
        """The found ones that were least, and the missed ones that were most to be expected."""

        def expected(trial: Trial) -> float:
            if self.by_contrast is None:
                return trial.size_px * trial.contrast
            return self.by_contrast.probability(trial.size_px, trial.contrast)

        ranked = sorted(self.trials, key=expected)
        found = [trial for trial in ranked if trial.found][:EXAMPLES]
        return found, [trial for trial in reversed(ranked) if not trial.found][:EXAMPLES]

    def _size(self, contrast: float, fit: Detection | None, near: Sequence[Trial]) -> SizeFigure:
        low, high = min(t.size_px for t in self.trials), max(t.size_px for t in self.trials)
        counts = len(near), sum(trial.found for trial in near)
        if fit is None:
            text = _unfitted(*counts, low)
            return SizeFigure(contrast, text, text, None, None, *counts)
        a90, proved = fit.size_at(contrast), fit.size_proved(contrast)
        return SizeFigure(
            contrast, _within(a90, low, high), _within(proved, low, high),
            a90 if a90 is not None and low <= a90 <= high else None,
            proved if proved is not None and low <= proved <= high else None,
            *counts,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Detectability:
    """What a recipe finds of planted defects."""

    curves: tuple[Curves, ...]
    frames: int  # good frames planted in
    learned_frames: int  # those of them that the network has learned from: there it finds more than elsewhere
    no_room: int  # defects wanted that no place had room for
    seconds: float
    seed: int
    bundle_sha256: str
    calibration_sha256: str

    @property
    def planted(self) -> int:
        return sum(len(one.trials) for one in self.curves)

    def caution(self) -> str:
        """What has to be known of a90/95, in a sentence; empty where the frames are enough."""
        if self.frames >= FEW_FRAMES:
            return ""
        one, sure = self.frames == 1, f"a{100 * PROBABILITY:.0f}/{100 * CONFIDENCE:.0f}"
        where = f"{self.frames} good frame{'' if one else 's'}"
        return (
            f"All {self.planted} defects were planted in {where}. Trials on one frame are not independent of "
            f"each other, so for new frames {sure} is too optimistic: it holds for "
            f"{'this frame' if one else 'these frames'}. Calibrate with {FEW_FRAMES} or more to know "
            "what holds for others."
        )

    def document(self) -> dict[str, Any]:
        """As JSON: what it says, and the trials that it rests on."""
        return {
            "schema": SCHEMA,
            "bundle_sha256": self.bundle_sha256,
            "calibration_sha256": self.calibration_sha256,
            "rule": RULE,
            "probability": PROBABILITY,
            "confidence": CONFIDENCE,
            "frames": self.frames,
            "learned_frames": self.learned_frames,
            "planted": self.planted,
            "caution": self.caution(),
            "no_room": self.no_room,
            "seconds": round(self.seconds, 1),
            "seed": self.seed,
            "shapes": {one.shape: _shape_document(one) for one in self.curves},
        }


def _shape_document(one: Curves) -> dict[str, Any]:
    def sizes(figures: Sequence[SizeFigure], unit: str) -> list[dict[str, Any]]:
        return [
            {unit: f.contrast, "planted": f.planted, "found": f.found, "a90": f.a90, "a90_95": f.a90_95,
             "a90_px": _rounded(f.a90_px), "a90_95_px": _rounded(f.a90_95_px)}
            for f in figures
        ]  # fmt: skip

    return {
        "planted": len(one.trials),
        "rejected": one.rejected,
        "found": one.found,
        "by_contrast": sizes(one.sizes(), "contrast"),
        "by_relative_contrast": sizes(one.sizes_relative(), "standard_deviations"),
        "model": _model(one.by_contrast),
        "model_of_relative_contrast": _model(one.by_relative),
        "columns": ["size_px", "contrast", "local_std", "rejected", "found", "frame", "plane_bbox"],
        "trials": [
            [round(t.size_px, 3), round(t.contrast, 5), round(t.local_std, 5), int(t.rejected), int(t.found),
             t.frame, list(t.box)]
            for t in one.trials
        ],
    }  # fmt: skip


def _model(fit: Detection | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    return {
        "log_odds": [fit.intercept, fit.by_size, fit.by_contrast],
        "covariance": [list(row) for row in fit.covariance],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _within(size_px: float | None, low: float, high: float) -> str:
    """Sizes beyond those that were planted are not claimed."""
    if size_px is None:
        return "not bounded"
    if size_px < low:
        return f"< {low:.3g}"
    return f"{size_px:.3g}" if size_px <= high else f"> {high:.3g}"


def _unfitted(planted: int, found: int, low: float) -> str:
    """Where hardly any or nearly all were found, or there were too few: with n of n found, 90 % is proved at
    95 % from 29 on."""
    if found == planted and PROBABILITY**planted <= 1 - CONFIDENCE:
        return f"≤ {low:.3g}"
    return "not bounded"


def detect_planted(
    calibrated: Calibrated,
    inspector: Inspector,
    limits: Limits,
    *,
    seconds: float = SECONDS,
    most: int = MOST_DEFECTS,
    seed: int = 0,
    on_share: Callable[[float], None] = lambda share: None,
) -> Detectability | None:
    """Plant in the frames that a recipe was calibrated with, which its network has not seen unless it was
    calibrated by folds; None where every one of them is beyond its threshold. `inspector` has the
    calibration."""
    chosen = _grounds(calibrated, seed)
    if not chosen:
        return None
    found = measure(
        inspector, _read(chosen, inspector, limits), len(chosen), seconds=seconds, most=most, seed=seed,
        on_share=on_share,
    )  # fmt: skip
    return found if found.frames else None


def save(folder: Path, found: Detectability) -> Path:
    """Write it beside a bundle's own files.

    Raises:
        CannotWriteError: no space or no permission.
    """
    write_atomic(folder / FILE, (json.dumps(found.document(), allow_nan=False) + "\n").encode())
    return folder / FILE


def _grounds(calibrated: Calibrated, seed: int) -> list[CalibrationFrame]:
    """Calibration frames that are OK, of every view as many, at most MOST_FRAMES."""
    views = calibrated.calibration.views
    rng = np.random.default_rng(seed)
    by_view: dict[str, list[CalibrationFrame]] = {}
    for index in rng.permutation(len(calibrated.frames)):
        entry = calibrated.frames[index]
        if entry.good.raw <= views[entry.good.view].threshold:
            by_view.setdefault(entry.good.view, []).append(entry)
    ranks = [(rank, entry) for members in by_view.values() for rank, entry in enumerate(members)]
    return [entry for _, entry in sorted(ranks, key=lambda pair: pair[0])[:MOST_FRAMES]]


def _read(chosen: Sequence[CalibrationFrame], inspector: Inspector, limits: Limits) -> Iterator[Frame]:
    bundle = inspector.bundle
    for entry in chosen:
        pages = frames(
            [entry.sample], bundle.manifest.preprocess, limits, unreadable=[], assets=bundle.folder
        )
        for _, frame in pages:
            if frame.image.page != entry.page:
                continue
            if _is_learned(frame, inspector):  # scored by the network of another fold
                (inspection,) = inspector.inspect([frame])
                if inspection.judgement.evaluation == "NotOK":
                    continue
            yield frame


def _is_learned(frame: Frame, inspector: Inspector) -> bool:
    known = inspector.bundle.manifest.training.get("learned_from", ())
    return learned_id(frame.image.sha256) in known


def measure(
    inspector: Inspector,
    good: Iterable[Frame],
    count: int,
    *,
    seconds: float = SECONDS,
    most: int = MOST_DEFECTS,
    seed: int = 0,
    on_share: Callable[[float], None] = lambda share: None,
) -> Detectability:
    """Plant up to `most` defects in about `count` good frames that the recipe calls OK, one at a time, until
    the time is up. Every combination of shape, size and contrast has as many, give or take one."""
    assert inspector.calibration is not None, "what is found depends on the thresholds"
    rng = np.random.default_rng((seed, 0xDE7EC7))
    order = cycle(_combinations(rng))
    trials: list[Trial] = []
    started, no_room, used, learned = time.monotonic(), 0, 0, 0
    for k, frame in enumerate(good):
        judged_by = judge_of(inspector, frame)
        used, learned = used + 1, learned + _is_learned(frame, inspector)
        for wanted in islice(order, math.ceil((most - len(trials) - no_room) / max(1, count - k))):
            planted = plant(frame.plane, wanted, rng, frame.foreground)
            if planted is None:
                no_room += 1
            else:
                trials.append(_trial(frame, planted, judged_by(planted)))
            elapsed = time.monotonic() - started
            on_share(min(1.0, max(elapsed / max(seconds, 1e-9), (len(trials) + no_room) / most)))
            if elapsed > seconds * min(1.0, (k + 1) / count):
                break
        if time.monotonic() - started > seconds:
            break
    return Detectability(
        tuple(_curves(shape, [t for t in trials if t.shape == shape]) for shape in SHAPES),
        used, learned, no_room, time.monotonic() - started, seed, inspector.bundle.digest,
        inspector.calibration.digest,
    )  # fmt: skip


def _combinations(rng: np.random.Generator) -> list[Wanted]:
    every = [Wanted(shape, size, c) for shape in SHAPES for size in SIZES_PX[shape] for c in CONTRASTS]
    return [every[i] for i in rng.permutation(len(every))]


def _curves(shape: Shape, trials: Sequence[Trial]) -> Curves:
    sizes, found = [t.size_px for t in trials], [t.found for t in trials]
    return Curves(
        shape,
        tuple(trials),
        fit_detection(sizes, [t.contrast for t in trials], found),
        fit_detection(sizes, [t.relative for t in trials], found),
    )


def _trial(frame: Frame, planted: Planted, judged: Judged) -> Trial:
    rejected, boxes = judged
    matrix = frame.placement.matrix[:2, :2]
    scale = math.sqrt(abs(float(np.linalg.det(matrix))))  # frame pixels a pixel of the plane
    x, y, w, h = planted.box
    left = min(max(0, x + w // 2 - CROP_PX // 2), max(0, frame.plane.shape[1] - CROP_PX))
    top = min(max(0, y + h // 2 - CROP_PX // 2), max(0, frame.plane.shape[0] - CROP_PX))
    crop = with_defect(frame.plane, planted)[top : top + CROP_PX, left : left + CROP_PX]
    return Trial(
        planted.wanted.shape, planted.wanted.size_px, planted.wanted.size_px * scale, planted.wanted.contrast,
        planted.contrast, planted.local_std, rejected, any(overlap(planted.box, box) for box in boxes),
        frame.image.path, planted.box, (crop * 255).astype(np.uint8), (x - left, y - top, w, h),
    )  # fmt: skip
