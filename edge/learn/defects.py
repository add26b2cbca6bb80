"""A few real defects: whether they make the recipe better, shown on defects that were held out.

Networks learn for a short time, one without the defects and one a fold with those of the other folds;
held-out defects and good frames say which is better. Only what is better by more than chance explains is
learned from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge.artifacts import write_atomic
from edge.judge.ranking import PixelCounts, curve
from edge.learn.labels import LabelledPlane
from edge.types import FloatImage

MOST_FOLDS = 3
GOOD_HELD = 1 / 3  # share of the good groups that pilots are compared on
# A rise of average precision that two networks show for their seeds alone (nanofibres, good frames only: from
# 0.77 to 0.79), and, as that shrinks with what there is to gain, the share of what is missing of 1
LEAST_RISE, LEAST_SHARE = 0.03, 0.2
MOST_LOSS = 0.02  # of the frames' AUROC, or what one pair of held-out frames counts: that says nothing
# Student's t at 90 %, one-sided, from one degree of freedom: where defects change nothing, they are taken for
# an improvement once in ten times, and then they change nothing
T90 = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372, 1.363, 1.356)

Use = Literal["nothing", "crops", "windows"]
"""What is learned from real defects: nothing; anomalies made from them; these, and windows around them."""


@dataclass(frozen=True, slots=True)
class Known:
    """A frame whose truth is known: good, or a defect with or without a mask of where."""

    group: str  # whose frames are never on two sides
    labelled: LabelledPlane
    is_defect: bool

    @property
    def is_marked(self) -> bool:
        return self.is_defect and bool(self.labelled.truth.any())


@dataclass(frozen=True, slots=True)
class Shown:
    """What a pilot says of a plane."""

    score: float
    map: FloatImage  # (h, w) ≥ 0


Scorer = Callable[[LabelledPlane], Shown]
Pilot = Callable[[Sequence[LabelledPlane], Sequence[LabelledPlane]], Scorer]
"""(good frames, defect frames with masks, maybe none) → a network that learned from them, as a function."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Held-out frames, judged by pilots without the defects and with those of the other folds."""

    without_ap: float  # average precision of pixels, mean over the held-out frames with masks
    with_ap: float
    least: float  # rise that seeds alone may explain
    margin: float  # by which it had to rise: `least`, or what chance explains of so few frames
    without_auroc: float | None  # of frames; None: no good frame could be held out
    with_auroc: float | None
    frames: int  # held out, with masks
    folds: int
    worst_fold: float  # the smallest rise of a fold's mean
    pair: float  # what one pair of a held-out defect and good frame counts at most in the AUROC; 0: none


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether real defects are learned from, and why; `sentence` is for the user."""

    use: Use
    sentence: str
    figures: Figures | None = None

    def facts(self) -> dict[str, Any]:
        """For the bundle's record of its training."""
        return {"use": self.use, "why": self.sentence, "figures": self.figures and asdict(self.figures)}


NONE_GIVEN = Verdict("nothing", "no real defect was given")


def judge_defects(
    goods: Sequence[Known], defects: Sequence[Known], pilot: Pilot, *, seed: int, most_folds: int = MOST_FOLDS
) -> Verdict:
    """Whether the defects that have masks are to be learned from.

    The groups of defects are dealt into folds; a fold's frames are judged by the pilot that learned from the
    other folds, and by the one that learned from none. Both learned from the same good frames: two thirds of
    their groups, the rest are held out with every fold. Frames without a mask cannot be learned from; they
    count in the AUROC of frames.

    The average precision of pixels must rise by more than chance explains, in the mean over the frames
    (Student's t, one-sided, 90 %), and by more than seeds explain (`LEAST_RISE`, or `LEAST_SHARE` of what is
    missing); in no fold may it fall by as much; and the AUROC of frames must not fall by more than
    `MOST_LOSS`. A single group of defects allows no comparison: crops of it
    become anomalies, which leaves the rest of the learning as it is.
    """
    marked = [frame for frame in defects if frame.is_marked]
    groups = sorted({frame.group for frame in marked})
    if not defects:
        return NONE_GIVEN
    if not marked:
        return Verdict(
            "nothing",
            f"{_frames(len(defects))} without masks cannot be learned from, as they do not say where; "
            "they measure the recipe",
        )
    if len(groups) == 1:
        return Verdict(
            "crops",
            f"{_frames(len(marked))} of one part cannot be held out to see whether they help: only "
            "anomalies are made from crops of them, untested",
        )
    dealt = deal(groups, min(len(groups), most_folds), seed)
    return _decided(_compared(goods, defects, marked, dealt, pilot, seed))


def deal(groups: Sequence[str], folds: int, seed: int) -> list[frozenset[str]]:
    """Groups in as many folds, whose sizes differ by one at most."""
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(groups))]
    return [frozenset(order[k::folds]) for k in range(folds)]


def pilot_share(groups: int, share: float, most_folds: int = MOST_FOLDS) -> float:
    """What of a run's minutes (or steps) each pilot has where all of them together have `share`.

    0 where none learns.
    """
    return share / (1 + min(groups, most_folds)) if groups > 1 else 0.0


def remembered(file: Path, key: str, judge: Callable[[], Verdict]) -> Verdict:
    """The verdict of an interrupted run with the same key; else a new one, which is kept in the file.

    Raises:
        CannotWriteError: it cannot be kept.
    """
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == key:
            figures = kept["figures"]
            return Verdict(kept["use"], kept["why"], figures and Figures(**figures))
    except (OSError, ValueError, KeyError, TypeError):  # none, or not of this version: judge again
        pass
    verdict = judge()
    write_atomic(file, json.dumps({"key": key, **verdict.facts()}).encode())
    return verdict


def _compared(
    goods: Sequence[Known],
    defects: Sequence[Known],
    marked: Sequence[Known],
    dealt: Sequence[frozenset[str]],
    pilot: Pilot,
    seed: int,
) -> Figures:
    held_goods = _held(sorted({frame.group for frame in goods}), seed)
    shown = [frame.labelled for frame in goods if frame.group in held_goods]
    learned = [frame.labelled for frame in goods if frame.group not in held_goods]
    unmarked = [frame for frame in defects if not frame.is_marked]
    before = pilot(learned, [])
    good_before = [before(labelled).score for labelled in shown]
    rises: list[list[float]] = []
    precisions: list[tuple[float, float]] = []
    aurocs: list[tuple[float, float]] = []
    counts: list[float] = []
    for held in dealt:
        after = pilot(learned, [frame.labelled for frame in marked if frame.group not in held])
        judged = [frame for frame in marked if frame.group in held]
        pairs = [(before(frame.labelled), after(frame.labelled)) for frame in judged]
        pixels = [
            (_precision(old, frame), _precision(new, frame))
            for frame, (old, new) in zip(judged, pairs, strict=True)
        ]
        precisions += pixels
        rises.append([new - old for old, new in pixels])
        if shown:
            pairs += [(before(frame.labelled), after(frame.labelled)) for frame in unmarked]
            good_after = [after(labelled).score for labelled in shown]
            counts.append(1 / (len(dealt) * len(pairs) * len(shown)))
            aurocs.append(
                (
                    _auroc([old.score for old, _ in pairs], good_before),
                    _auroc([new.score for _, new in pairs], good_after),
                )
            )
    every = [rise for fold in rises for rise in fold]
    without = float(np.mean([old for old, _ in precisions]))
    least = min(LEAST_RISE, LEAST_SHARE * (1 - without))
    return Figures(
        without_ap=without,
        with_ap=float(np.mean([new for _, new in precisions])),
        least=least,
        margin=max(least, _by_chance(every)),
        without_auroc=float(np.mean([old for old, _ in aurocs])) if aurocs else None,
        with_auroc=float(np.mean([new for _, new in aurocs])) if aurocs else None,
        frames=len(precisions),
        folds=len(dealt),
        worst_fold=min(float(np.mean(fold)) for fold in rises),
        pair=max(counts, default=0.0),
    )


def _decided(figures: Figures) -> Verdict:
    f = figures
    rise = f.with_ap - f.without_ap
    said = (
        f"average precision on {f.frames} held-out defect frames {f.without_ap:.3f} without them, "
        f"{f.with_ap:.3f} with them ({f.folds} folds)"
    )
    loss = 0.0
    if f.without_auroc is not None and f.with_auroc is not None:
        loss = f.without_auroc - f.with_auroc
        said += f", AUROC of frames {f.without_auroc:.3f} and {f.with_auroc:.3f}"
    if rise <= f.margin:
        why = "at most chance" if rise > 0 else "no improvement"
        return Verdict(
            "nothing", f"real defects are left out: {said}; {why}, as {f.margin:+.3f} was needed", f
        )
    if f.worst_fold < -f.least:
        return Verdict(
            "nothing", f"real defects are left out: {said}; in one fold it fell by {-f.worst_fold:.3f}", f
        )
    if loss > max(MOST_LOSS, 1.001 * f.pair):
        return Verdict("nothing", f"real defects are left out: {said}; good frames are told apart worse", f)
    return Verdict("windows", f"real defects are learned from: {said}", f)


def _held(groups: Sequence[str], seed: int) -> frozenset[str]:
    """Good groups to compare on; none where there is only one, which must be learned from."""
    if len(groups) < 2:
        return frozenset()
    order = [str(name) for name in np.random.default_rng((seed, 1)).permutation(list(groups))]
    return frozenset(order[: max(1, round(GOOD_HELD * len(groups)))])


def _precision(shown: Shown, frame: Known) -> float:
    counts = PixelCounts()
    counts.add(shown.map, frame.labelled.truth > 0)
    found = counts.curve().average_precision()
    return 1.0 if found is None else found  # a frame that is defect all over: every order is right


def _auroc(defects: Sequence[float], goods: Sequence[float]) -> float:
    found = curve([*defects, *goods], [True] * len(defects) + [False] * len(goods)).auroc()
    assert found is not None, "both kinds are there"
    return found


def _by_chance(rises: Sequence[float]) -> float:
    """What the mean of so many differences must exceed, so that it is above 0 with 90 % confidence."""
    if len(rises) < 2:
        return math.inf
    error = float(np.std(rises, ddof=1)) / math.sqrt(len(rises))
    return T90[min(len(rises) - 1, len(T90)) - 1] * error


def _frames(count: int) -> str:
    return f"{count} defect frame{'s' if count != 1 else ''}"
