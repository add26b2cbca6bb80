"""Whether scores in fewer bits are those of fp32: on calibration frames, without and with planted defects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.infer.compile import golden_difference
from edge.infer.precisions import Agreement, AgreementLimits
from edge.infer.runtime import Runtime
from edge.judge.judgement import judge
from edge.judge.ranking import curve
from edge.pipeline import Inspector, Planes, planes_of
from edge.planted import plant, random_defect, with_defect
from edge.types import Frame, Judgement, Score

MOST_PLANTED, LEAST_PLANTED = 200, 40  # defects, over all frames: …
PLANTED_PIXELS = 120e6  # … each costs a whole plane
LEAST_FRAMES = 5  # a rank correlation of fewer says nothing
SAME, NEARLY = 1e-6, 0.01  # relative to the threshold
MOST_GOLDEN = 0.5  # of the golden answers: a network that differs by more somewhere was broken on the way


@dataclass(slots=True)
class _Seen:
    """What one runtime said."""

    raw: list[float] = field(default_factory=list)  # of calibration frames
    evaluations: list[str] = field(default_factory=list)
    relative: list[float] = field(default_factory=list)  # to the threshold; NaN where there is no verdict
    planted: list[float] = field(default_factory=list)  # of the same with a planted defect


class Reference:
    """What fp32 says of calibration frames: other runtimes are held to it.

    `frames` gives the `count` of them anew each time it is called; one is in memory at a time, with so many
    `pixels`. With `plants` each is also
    scored with planted defects, one at a time: the recipe learned from good frames only.
    """

    def __init__(
        self,
        inspector: Inspector,
        frames: Callable[[], Iterable[Frame]],
        *,
        count: int,
        pixels: int,
        plants: bool,
        seed: int,
        limits: AgreementLimits = AgreementLimits(),
    ) -> None:
        self._inspector, self._frames, self._limits, self._seed = inspector, frames, limits, seed
        planted = min(MOST_PLANTED, max(LEAST_PLANTED, PLANTED_PIXELS // max(1, pixels)))
        self._plants_each = math.ceil(planted / max(1, count)) if plants else 0
        self._ours = self._said_by(inspector.runtime)

    def agreement_of(self, runtime: Runtime) -> Agreement:
        """Hold another runtime of the same recipe to it."""
        ours, theirs, limits = self._ours, self._said_by(runtime), self._limits
        count = len(ours.raw)
        flips = sum(
            one != other and not _at_threshold(before, after)
            for one, other, before, after in zip(
                ours.evaluations, theirs.evaluations, ours.relative, theirs.relative, strict=True
            )
        )
        rank = spearman(ours.raw, theirs.raw)
        change = None
        if ours.planted:
            change = abs(_auroc(ours) - _auroc(theirs))
        golden = golden_difference(runtime, self._inspector.bundle.golden())
        reasons = []
        if count < LEAST_FRAMES:
            reasons.append(f"{count} calibration frames are too few to compare ({LEAST_FRAMES} are needed)")
        elif rank is None or rank < limits.spearman:
            reasons.append(
                f"rank correlation {_figure(rank)} over {count} frames, at least {limits.spearman} is wanted"
            )
        if flips > limits.flips * count:
            reasons.append(f"{flips} of {count} frames get another verdict")
        if change is not None and not change <= limits.auroc_change:
            reasons.append(f"AUROC changes by {change:.4f}, at most {limits.auroc_change} is allowed")
        if not golden <= MOST_GOLDEN:
            reasons.append(f"golden answers differ by {golden:.2g}")
        said = f"rank correlation {_figure(rank)} over {count} frames, {flips} other verdicts"
        if change is not None:
            said += f", AUROC of {len(ours.planted)} planted defects changes by {change:.4f}"
        return Agreement(
            accepted=not reasons, why="; ".join(reasons) or said, frames=count, spearman=rank,
            flips=flips, planted=len(ours.planted), auroc_change=change,
            golden_difference=golden,
        )  # fmt: skip

    def _said_by(self, runtime: Runtime) -> _Seen:
        inspector = Inspector(self._inspector.bundle, runtime, self._inspector.calibration)
        rng, seen = np.random.default_rng((self._seed, 0xA9)), _Seen()
        for frame in self._frames():
            scores = inspector.score(self._planes(frame, rng))
            first = next(scores)
            seen.raw.append(first.raw)
            judged = _judgement(inspector, frame, first)
            seen.evaluations.append(judged.evaluation)
            seen.relative.append(math.nan if judged.score is None else judged.score)
            seen.planted += [score.raw for score in scores]
        return seen

    def _planes(self, frame: Frame, rng: np.random.Generator) -> Iterator[Planes]:
        yield planes_of(frame)
        for _ in range(self._plants_each):
            found = plant(frame.plane, random_defect(rng), rng, frame.foreground)
            if found is not None:
                yield Planes(with_defect(frame.plane, found), frame.foreground)


def _all(seen: _Seen) -> list[float]:
    return [*seen.raw, *seen.planted]


def _at_threshold(before: float, after: float) -> bool:
    """Whether it is the frame whose score became the threshold, and still all but equals it.

    Any rounding puts it on one side or the other.
    """
    return abs(before - 1) < SAME and abs(after - 1) < NEARLY


def _judgement(inspector: Inspector, frame: Frame, score: Score) -> Judgement:
    manifest, calibration = inspector.bundle.manifest, inspector.calibration
    assert calibration is not None, "verdicts are compared"
    least = manifest.score.min_area_px
    return judge(
        score, frame.identity.view, calibration, frame.placement, manifest.classes, least,
        frame.image.channels,
    )  # fmt: skip


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equals sharing ranks; None where one has no spread or is not finite."""
    if len(one) < 2 or not np.isfinite([*one, *other]).all() or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _auroc(seen: _Seen) -> float:
    truth = [False] * len(seen.raw) + [True] * len(seen.planted)
    found = curve(_all(seen), truth).auroc()
    return math.nan if found is None else found


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.5f}"
