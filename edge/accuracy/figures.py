"""Figures over runs: folds pooled for each seed, seeds averaged, intervals over parts.

The interval of a mean over seeds draws parts, the same ones for every seed: it says how the mean would have
come out with other parts. How much one seed differs from the next is said by the worst of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge.accuracy.evidence import Evidence
from edge.judge.bootstrap import (
    Bools,
    Bootstrap,
    Figure,
    Floats,
    Interval,
    auroc,
    average_precision,
    rank_counts,
    ratio,
)
from edge.judge.operating_point import lower_bound

RANK_FALSE_REJECT = 0.05  # of the tested good frames, for the recall by rank
LEVEL = 0.95

Kept = Literal["inside", "below", "BROKEN"]


@dataclass(frozen=True, slots=True)
class Value:
    """A figure over all seeds."""

    seeds: tuple[float, ...]  # of each
    interval: Interval | None  # of the mean

    @property
    def mean(self) -> float:
        return math.fsum(self.seeds) / len(self.seeds)

    @property
    def lowest(self) -> float:
        return min(self.seeds)


@dataclass(frozen=True, slots=True)
class Promise:
    """What was promised of false rejects, and what was measured."""

    wanted: float
    promised: float | None  # mean bound over the tested good frames; None: nothing was, or there are none
    measured: float | None
    frames: int  # good ones
    interval: Interval | None  # of the measured rate
    escapes: Value | None  # defect frames called OK
    not_decidable: float | None  # of all frames

    @property
    def kept(self) -> Kept | None:
        """inside: the promise lies in the interval; below: fewer are rejected; BROKEN: more."""
        if self.promised is None or self.interval is None:
            return None
        low, high = self.interval
        return "BROKEN" if low > self.promised else "below" if high < self.promised else "inside"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model can do on a set; None where it cannot be computed."""

    image_auroc: Value | None
    recall_at_rank: Value | None  # where a twentieth of the tested good frames score higher
    pixel_auroc: Value | None
    pixel_ap: Value | None
    promises: tuple[Promise, ...]  # at each rate
    good: int  # frames tested, a seed
    defect: int
    parts: int


def figures(seeds: Sequence[Evidence], rates: Sequence[float]) -> Figures:
    """From the pooled evidence of each seed."""
    boot = Bootstrap(
        [str(name) for e in seeds for name in e.groups], [bool(d) for e in seeds for d in e.is_defect]
    )
    defect = np.concatenate([e.is_defect for e in seeds])
    both = (defect, ~defect)
    with_pixels = np.concatenate([e.coarse[:, 0].any(axis=1) for e in seeds])
    pixels = all(e.has_pixels for e in seeds)

    def value(figure: Callable[[Evidence], Figure], *rests_on: Bools) -> Value | None:
        return _value(seeds, boot, figure, rests_on)

    return Figures(
        image_auroc=value(_image(auroc), *both),
        recall_at_rank=value(_image(recall_at), *both),
        pixel_auroc=value(_pixel(auroc, lambda e: e.pixel_curve().auroc()), with_pixels) if pixels else None,
        pixel_ap=value(_pixel(average_precision, lambda e: e.pixel_curve().average_precision()), with_pixels)
        if pixels
        else None,
        promises=tuple(_promise(seeds, boot, k, rate) for k, rate in enumerate(rates)),
        good=round(float(np.mean([(~e.is_defect).sum() for e in seeds]))),
        defect=round(float(np.mean([e.is_defect.sum() for e in seeds]))),
        parts=boot.groups,
    )


def recall_at(true: Floats, false: Floats, false_reject: float = RANK_FALSE_REJECT) -> Floats:
    """Share of defects above the lowest threshold that at most that share of good frames is above, (b,).

    From counts of defect and good frames at each score, (b, k), highest first. The threshold is chosen on the
    tested frames themselves: a figure of ranks, as the area under the curve is.
    """
    allowed = np.cumsum(false, axis=1) <= false_reject * false.sum(axis=1, keepdims=True) + 1e-9
    found = np.where(allowed, np.cumsum(true, axis=1), 0).max(axis=1)
    recall = ratio(found, true.sum(axis=1))
    return np.where(false.sum(axis=1) > 0, recall, np.nan)


def clopper_pearson(hits: float, of: int, level: float = LEVEL) -> Interval:
    """The exact interval of a share (Clopper and Pearson, Biometrika 26, 1934), two-sided.

    For a mean of counts, which need not be whole, interpolated between the whole numbers beside it.
    """
    whole, part = divmod(hits, 1)
    low, high = _exact(int(whole), of, level)
    if part:
        above = _exact(int(whole) + 1, of, level)
        low, high = low + part * (above[0] - low), high + part * (above[1] - high)
    return low, high


def _exact(hits: int, of: int, level: float) -> Interval:
    one_sided = (1 + level) / 2
    return lower_bound(hits, of, one_sided), 1 - lower_bound(of - hits, of, one_sided)


def _value(
    seeds: Sequence[Evidence],
    boot: Bootstrap,
    figure: Callable[[Evidence], Figure],
    rests_on: Sequence[Bools],
) -> Value | None:
    by_seed = [figure(e) for e in seeds]
    ends = np.cumsum([len(e.groups) for e in seeds])
    exact = [float(f(np.ones((1, len(e.groups))))[0]) for f, e in zip(by_seed, seeds, strict=True)]
    if not all(map(math.isfinite, exact)):
        return None

    def mean(weights: Floats) -> Floats:
        parts = np.split(weights, ends[:-1], axis=1)
        values: Floats = np.stack([f(part) for f, part in zip(by_seed, parts, strict=True)])
        averaged: Floats = values.mean(axis=0)
        return averaged

    return Value(tuple(exact), boot.interval(mean, *rests_on))


def _image(figure: Callable[[Floats, Floats], Floats]) -> Callable[[Evidence], Figure]:
    def of(evidence: Evidence) -> Figure:
        scores = [None if math.isnan(s) else float(s) for s in evidence.scores]
        counts = rank_counts(scores, evidence.is_defect)
        return lambda weights: figure(*counts(weights))

    return of


def _pixel(
    figure: Callable[[Floats, Floats], Floats], exact: Callable[[Evidence], float | None]
) -> Callable[[Evidence], Figure]:
    """From each frame's counts in coarse bins, moved by what the bins change of the figure itself."""

    def of(evidence: Evidence) -> Figure:
        counts = evidence.coarse[:, :, ::-1]  # (n, 2, bins), highest first
        used = counts[:, :, counts.any(axis=(0, 1))].astype(np.float64)
        true, false = used[:, 0], used[:, 1]
        known = exact(evidence)
        moved = (math.nan if known is None else known) - figure(true.sum(0)[None], false.sum(0)[None])
        return lambda weights: np.clip(figure(weights @ true, weights @ false) + moved, 0, 1)

    return of


def _promise(seeds: Sequence[Evidence], boot: Bootstrap, k: int, wanted: float) -> Promise:
    good = [~e.is_defect for e in seeds]
    frames = round(float(np.mean([g.sum() for g in good])))
    rejected = [float(((e.evaluations[k] == "NotOK") & g).sum()) for e, g in zip(seeds, good, strict=True)]
    bounds = np.concatenate([e.bounds[k][g] for e, g in zip(seeds, good, strict=True)])
    bounds = bounds[np.isfinite(bounds)]
    every = np.concatenate([e.evaluations[k] for e in seeds])
    measured = min(float(np.mean(rejected)), frames) if frames else None

    def escaped(e: Evidence) -> Figure:
        ok = e.is_defect & (e.evaluations[k] == "OK")
        return lambda w: ratio(w @ ok.astype(np.float64), w @ e.is_defect.astype(np.float64))

    return Promise(
        wanted=wanted,
        promised=float(bounds.mean()) if len(bounds) else None,
        measured=None if measured is None else measured / frames,
        frames=frames,
        interval=None if measured is None else clopper_pearson(measured, frames),
        escapes=_value(seeds, boot, escaped, [np.concatenate([e.is_defect for e in seeds])]),
        not_decidable=float((every == "NotDecidable").mean()) if len(every) else None,
    )


def plain(found: Figures) -> dict[str, object]:
    """For JSON: means with intervals and seeds, nothing that could not be computed."""
    values: Mapping[str, Value | None] = {
        "image_auroc": found.image_auroc,
        "recall_at_5_percent_by_rank": found.recall_at_rank,
        "pixel_auroc": found.pixel_auroc,
        "pixel_ap": found.pixel_ap,
    }
    document: dict[str, object] = {name: _plain(v) for name, v in values.items() if v is not None}
    document["false_rejects"] = [
        {
            name: one
            for name, one in {
                "wanted": p.wanted,
                "promised": p.promised,
                "measured": p.measured,
                "interval": p.interval and list(p.interval),
                "good_frames": p.frames,
                "kept": p.kept,
                "escapes": p.escapes and _plain(p.escapes),
                "not_decidable": p.not_decidable,
            }.items()
            if one is not None
        }
        for p in found.promises
    ]
    return document | {"good": found.good, "defect": found.defect, "parts": found.parts}


def _plain(value: Value) -> dict[str, object]:
    rest = {"interval": list(value.interval)} if value.interval else {}
    return {"mean": value.mean, "lowest": value.lowest, "seeds": list(value.seeds), **rest}
