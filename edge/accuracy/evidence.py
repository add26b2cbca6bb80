"""What a run said of each frame it tested: enough for every figure, on disk so that runs can be pooled."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.artifacts import write_atomic
from edge.errors import DataError
from edge.evaluation_figures import Outcome
from edge.judge.ranking import COARSE_BINS, Curve, PixelCounts

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The frames of one run, or of several pooled; n frames, r false-reject rates."""

    groups: NDArray[np.str_]  # (n,) what is drawn as one
    is_defect: NDArray[np.bool_]  # (n,)
    scores: Floats  # (n,) relative to the view's threshold at the highest rate; NaN: none
    evaluations: NDArray[np.str_]  # (r, n) at each rate
    bounds: Floats  # (r, n) the share of good frames that the view's threshold is promised to reject at most
    coarse: NDArray[np.int32]  # (n, 2, COARSE_BINS) defect and good pixels, see `edge.judge.ranking`
    # all pixels whose truth is known, by score relative to the view's pixel threshold, highest first
    pixel_scores: Floats  # (m,)
    pixel_defect: Floats  # (m,) how many
    pixel_good: Floats  # (m,)

    @property
    def has_pixels(self) -> bool:
        """Whether both kinds of pixels are known."""
        return bool(self.pixel_defect.sum() and self.pixel_good.sum())

    def pixel_curve(self) -> Curve:
        """Over all pixels of known truth."""
        true, false = np.cumsum(self.pixel_defect), np.cumsum(self.pixel_good)
        return Curve(
            self.pixel_scores, true, false, float(self.pixel_defect.sum()), float(self.pixel_good.sum())
        )


def evidence_of(
    outcomes: Sequence[Outcome],
    groups: Mapping[Path, str],
    evaluations: Sequence[Sequence[str]],
    bounds: Sequence[Mapping[str, float]],
    pixels: PixelCounts,
) -> Evidence:
    """From what `edge evaluate` gathered; `evaluations` and `bounds` (by view) at each rate."""
    counts = pixels.curve()
    nothing = np.zeros((2, COARSE_BINS), np.int32)
    tallies = [nothing if o.pixels is None else o.pixels.counts for o in outcomes]
    return Evidence(
        groups=np.array([groups[o.sample.file] for o in outcomes], np.str_),
        is_defect=np.array([o.is_defect for o in outcomes], bool),
        scores=np.array([np.nan if o.score is None else o.score for o in outcomes], np.float64),
        evaluations=np.array([list(one) for one in evaluations], np.str_).reshape(len(bounds), len(outcomes)),
        bounds=np.array([[by.get(o.view, np.nan) for o in outcomes] for by in bounds], np.float64),
        coarse=np.stack(tallies) if tallies else np.zeros((0, 2, COARSE_BINS), np.int32),
        pixel_scores=counts.thresholds,
        pixel_defect=np.diff(counts.true_positives, prepend=0.0),
        pixel_good=np.diff(counts.false_positives, prepend=0.0),
    )


def pooled(parts: Sequence[Evidence]) -> Evidence:
    """Several runs as one: their frames one after another, their pixels added."""
    scores, place = np.unique(np.concatenate([p.pixel_scores for p in parts]), return_inverse=True)
    highest_first = len(scores) - 1 - place

    def added(counts: Sequence[Floats]) -> Floats:
        return np.bincount(highest_first, np.concatenate(counts), minlength=len(scores)).astype(np.float64)

    return Evidence(
        groups=np.concatenate([p.groups for p in parts]),
        is_defect=np.concatenate([p.is_defect for p in parts]),
        scores=np.concatenate([p.scores for p in parts]),
        evaluations=np.concatenate([p.evaluations for p in parts], axis=1),
        bounds=np.concatenate([p.bounds for p in parts], axis=1),
        coarse=np.concatenate([p.coarse for p in parts]),
        pixel_scores=scores[::-1],
        pixel_defect=added([p.pixel_defect for p in parts]),
        pixel_good=added([p.pixel_good for p in parts]),
    )


def save(file: Path, evidence: Evidence) -> None:
    """Write it whole or not at all.

    Raises:
        CannotWriteError: it cannot be written.
    """
    stream = io.BytesIO()
    np.savez_compressed(stream, **{f.name: getattr(evidence, f.name) for f in fields(evidence)})
    write_atomic(file, stream.getvalue())


def load(file: Path) -> Evidence:
    """Read what `save` wrote.

    Raises:
        DataError: missing, damaged, or of another version.
    """
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            return Evidence(**{f.name: stored[f.name] for f in fields(Evidence)})
    except Exception as error:  # a damaged archive raises whatever zip and numpy come upon
        raise DataError(f"{file}: cannot be read: {error}", hint="delete it: the run is done again") from None
