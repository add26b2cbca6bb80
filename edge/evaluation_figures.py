"""What `edge evaluate` counts: figures over outcomes, named as in the contract's document, and intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dataset import Sample
from edge.judge.bootstrap import (
    Bootstrap,
    Figure,
    Floats,
    Interval,
    auroc,
    average_precision,
    f_measure,
    rank_counts,
    ratio,
)
from edge.judge.parts import ViewResult, judge_part
from edge.judge.ranking import PixelCounts, coarse_counts, curve, f_beta
from edge.types import Evaluation, Mask

LEAST_FOR_CORRELATION = 5  # frames


@dataclass(frozen=True, slots=True)
class PixelTally:
    """What is kept of the pixels of one frame; scores are in units of the view's pixel threshold."""

    true_positives: int  # of score > 1
    false_positives: int
    false_negatives: int
    counts: NDArray[np.int32]  # (2, bins): defect and good pixels by score, see `coarse_counts`


@dataclass(frozen=True, slots=True)
class Outcome:
    """One frame of known truth, and what was said of it; scores are None where it could not be scored."""

    sample: Sample
    view: str
    is_defect: bool
    evaluation: Evaluation
    score: float | None  # normalised by the view's threshold
    raw: float | None
    page: int = 0
    foreground_ratio: float = 1.0  # share of the plane
    was_learned_from: bool = False
    pixels: PixelTally | None = None  # None where the truth of the pixels is not known

    @property
    def group(self) -> str:
        """What is drawn, and split, as one: the part, or the file where it names none."""
        return f"part {self.sample.part}" if self.sample.part else f"file {self.sample.file}"


def tally(values: NDArray[np.float32], truth: Mask) -> PixelTally:
    """Count a frame's pixels (h, w), scores relative to the pixel threshold."""
    above = values > 1
    found = int(np.count_nonzero(above & truth))
    return PixelTally(
        true_positives=found,
        false_positives=int(np.count_nonzero(above)) - found,
        false_negatives=int(np.count_nonzero(truth)) - found,
        counts=coarse_counts(values, truth).astype(np.int32),
    )


def rates(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Good frames called NotOK, defect frames called OK, and frames that could not be decided."""
    good = [o for o in outcomes if not o.is_defect]
    defect = [o for o in outcomes if o.is_defect]
    return {
        "false_reject": _share(o.evaluation == "NotOK" for o in good),
        "escape": _share(o.evaluation == "OK" for o in defect),
        "not_decidable": _share(o.evaluation == "NotDecidable" for o in outcomes),
    }


def global_threshold_metrics(outcomes: Sequence[Outcome], threshold: float) -> dict[str, Any]:
    """What one threshold on raw scores, the same for all views, would have done.

    `auroc_gain` is what normalising by view adds to the area under the ROC curve.
    """
    raw = curve(*_scored([o.raw for o in outcomes], outcomes))
    rejected = [o.raw is None or o.raw > threshold for o in outcomes]
    one, by_view = raw.auroc(), image_metrics(outcomes)["auroc"]
    return {
        "auroc": one,
        "auprc": raw.average_precision(),
        "auroc_gain": None if one is None or by_view is None else by_view - one,
        "false_reject": _share(r for r, o in zip(rejected, outcomes, strict=True) if not o.is_defect),
        "escape": _share(not r for r, o in zip(rejected, outcomes, strict=True) if o.is_defect),
        "confusion": matrix(rejected, outcomes),
    }


def image_metrics(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Rank metrics of normalised scores, and what the calibrated thresholds made of the frames."""
    normalised = curve(*_scored([o.score for o in outcomes], outcomes))
    (_, fp), (fn, tp) = matrix(positive(outcomes), outcomes)
    return {
        "auroc": normalised.auroc(),
        "auprc": normalised.average_precision(),
        "f1": f_beta(tp, fp, fn, 1),
        "f2": f_beta(tp, fp, fn, 2),
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "threshold_source": "calibration",
    }


def pixel_metrics(pixels: PixelCounts, outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """Figures over all pixels of frames whose pixels are known; None without both kinds."""
    tallies = [o.pixels for o in outcomes if o.pixels is not None]
    counts = pixels.curve()
    best = counts.best_f1()
    if best is None:
        return None
    tp, fp, fn = (
        sum(getattr(t, name) for t in tallies)
        for name in ("true_positives", "false_positives", "false_negatives")
    )
    return {
        "auroc": counts.auroc(),
        "auprc": counts.average_precision(),
        "f1_max": best[0],
        "iou": tp / (tp + fp + fn) if tp + fp + fn else None,
        "dice": f_beta(tp, fp, fn, 1),
        "frames": len(tallies),
    }


def view_metrics(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of one view."""
    return {
        "frames": len(outcomes),
        "defects": sum(o.is_defect for o in outcomes),
        "auroc": image_metrics(outcomes)["auroc"],
        **rates(outcomes),
        "score_area_correlation": area_correlation(outcomes),
    }


def area_correlation(outcomes: Sequence[Outcome]) -> float | None:
    """Pearson's correlation of good frames' scores with their foreground's area; None where one is constant.

    Near 0 the score does not depend on how much of the part is in sight.
    """
    good = [(o.score, o.foreground_ratio) for o in outcomes if not o.is_defect and o.score is not None]
    if len(good) < LEAST_FOR_CORRELATION or (np.ptp(good, axis=0) < 1e-9).any():
        return None
    return float(np.corrcoef(np.transpose(good))[0, 1])


def part_metrics(outcomes: Sequence[Outcome], views: Sequence[str]) -> dict[str, Any] | None:
    """Parts with several views, judged as the daemon does; without a list of views those that are there."""
    parts: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.sample.part is not None:
            parts[outcome.sample.part].append(outcome)
    if not any(len({o.view for o in frames_}) > 1 for frames_ in parts.values()):
        return None
    judged: list[tuple[bool, Evaluation]] = []
    for members in parts.values():
        results = {o.view: ViewResult(o.view, "", o.evaluation, o.score) for o in members}
        verdict = judge_part(views or sorted(results), results)
        judged.append((any(o.is_defect for o in members), verdict.evaluation))
    confusion = [[0, 0], [0, 0]]
    for is_defect, evaluation in judged:
        confusion[is_defect][evaluation != "OK"] += 1
    return {
        "parts": len(judged),
        "confusion": confusion,
        "false_reject": _share(e == "NotOK" for d, e in judged if not d),
        "escape": _share(e == "OK" for d, e in judged if d),
        "not_decidable": _share(e == "NotDecidable" for _, e in judged),
    }


def positive(outcomes: Sequence[Outcome]) -> list[bool]:
    """Which frames are taken out of the line: all but those called OK."""
    return [o.evaluation != "OK" for o in outcomes]


def matrix(is_positive: Sequence[bool], outcomes: Sequence[Outcome]) -> list[list[int]]:
    """[[true negatives, false positives], [false negatives, true positives]]."""
    counted = [[0, 0], [0, 0]]
    for called, outcome in zip(is_positive, outcomes, strict=True):
        counted[outcome.is_defect][called] += 1
    return counted


def bootstrap(outcomes: Sequence[Outcome], seed: int = 0) -> Bootstrap:
    """Resamples of the parts of these frames."""
    return Bootstrap([o.group for o in outcomes], [o.is_defect for o in outcomes], seed=seed)


def intervals(
    outcomes: Sequence[Outcome], boot: Bootstrap, pixel: Mapping[str, Any] | None = None
) -> dict[str, list[float]]:
    """Confidence intervals by the figure's place in the document, as `image.auroc`: [low, high].

    `pixel` are the figures of `pixel_metrics`. Absent where a figure rests on the frames of one part, or
    cannot be computed in most resamples.
    """
    defect = np.array([o.is_defect for o in outcomes], bool)
    ok, not_ok = (np.array([o.evaluation == e for o in outcomes], bool) for e in ("OK", "NotOK"))
    both = (defect, ~defect)
    by_view = rank_counts([o.score for o in outcomes], defect)
    raw = rank_counts([o.raw for o in outcomes], defect)
    areas = boot.values(lambda w: auroc(*by_view(w))), boot.values(lambda w: auroc(*raw(w)))

    def f_of(beta: float) -> Figure:
        return lambda w: f_measure(w @ (defect & ~ok), w @ (~defect & ~ok), w @ (defect & ok), beta)

    found: dict[str, Interval | None] = {
        "image.auroc": boot.limits(areas[0], *both),
        "image.auprc": boot.interval(lambda w: average_precision(*by_view(w)), *both),
        "image.precision": boot.share(defect, ~ok),
        "image.recall": boot.share(~ok, defect),
        "image.f1": boot.interval(f_of(1), *both),
        "image.f2": boot.interval(f_of(2), *both),
        "rates.false_reject": boot.share(not_ok, ~defect),
        "rates.escape": boot.share(ok, defect),
        "rates.not_decidable": boot.share(~ok & ~not_ok, defect | ~defect),
        "global_threshold.auroc": boot.limits(areas[1], *both),
        "global_threshold.auroc_gain": boot.limits(areas[0] - areas[1], *both),
        **(_pixel_intervals(outcomes, boot, pixel) if pixel else {}),
    }
    return {name: [round(v, 6) for v in limits] for name, limits in found.items() if limits is not None}


def _pixel_intervals(
    outcomes: Sequence[Outcome], boot: Bootstrap, pixel: Mapping[str, Any]
) -> dict[str, Interval | None]:
    """Of Dice and IoU from each frame's exact counts, of rank metrics from its counts in coarse bins.

    Those from coarse bins are moved by what the bins change of the figure itself.
    """
    nothing = tally(np.zeros((0, 0), np.float32), np.zeros((0, 0), bool))
    tallies = [o.pixels or nothing for o in outcomes]
    tp = np.array([t.true_positives for t in tallies], np.float64)
    fp = np.array([t.false_positives for t in tallies], np.float64)
    fn = np.array([t.false_negatives for t in tallies], np.float64)
    has_defect = tp + fn > 0
    counts = np.stack([t.counts for t in tallies])[:, :, ::-1]  # (frames, 2, bins), highest first
    true, false = np.moveaxis(counts[:, :, counts.any(axis=(0, 1))].astype(np.float64), 1, 0)

    def ranked(figure: Callable[[Floats, Floats], Floats], exact: float) -> Interval | None:
        coarse = figure(true.sum(0, keepdims=True), false.sum(0, keepdims=True))
        values = boot.values(lambda w: figure(w @ true, w @ false))
        return boot.limits(np.clip(values + (exact - coarse), 0, 1), has_defect)

    return {
        "pixel.dice": boot.interval(lambda w: f_measure(w @ tp, w @ fp, w @ fn, 1), has_defect),
        "pixel.iou": boot.interval(lambda w: ratio(w @ tp, w @ (tp + fp + fn)), has_defect),
        "pixel.auroc": ranked(auroc, pixel["auroc"]),
        "pixel.auprc": ranked(average_precision, pixel["auprc"]),
    }


def _scored(scores: Sequence[float | None], outcomes: Sequence[Outcome]) -> tuple[list[float], list[bool]]:
    pairs = [(s, o.is_defect) for s, o in zip(scores, outcomes, strict=True) if s is not None]
    return [score for score, _ in pairs], [is_defect for _, is_defect in pairs]


def _share(truths: Iterable[bool]) -> float | None:
    listed = list(truths)
    return sum(listed) / len(listed) if listed else None
