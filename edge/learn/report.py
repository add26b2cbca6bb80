"""`report.html`: what was learned from what, and how far its thresholds can be trusted; in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifacts import write_atomic
from edge.calibrate import BASIS, Calibrated, CalibrationFrame
from edge.dataset import frames
from edge.decode import Limits
from edge.detectability import Detectability
from edge.explain import fired, open_explainer
from edge.infer.bundle import Bundle
from edge.infer.precisions import Precisions
from edge.infer.runtime import Runtime
from edge.judge.thresholds import frames_needed
from edge.neighbours import open_neighbours
from edge.pipeline import Inspector, planes_of
from edge.report import data_url, environment_of_this_machine, heat, render
from edge.report.charts import loss_curve, score_histogram
from edge.report.explained import Similar, detectability_view, similar

WORST_FRAMES = 6


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame with its map laid over it, as data: URLs."""

    path: str
    page: int
    view: str
    score: float  # 1.0 is the view's threshold
    frame: str
    overlay: str
    fired: str  # which statistic, its value, and where
    similar: Sequence[Similar]  # the place itself, and the good crops most like it
    cams: Mapping[str, str]  # method → class activation map, of classifiers


def write_report(
    file: Path,
    *,
    bundle: Bundle,
    calibrated: Calibrated | None,
    runtime: Runtime,
    limits: Limits,
    curve: Sequence[tuple[int, float, float]],
    agreement: Mapping[str, float | str],
    left_out: Sequence[str],
    detectability: Detectability | None = None,
    precisions: Precisions | None = None,
) -> Path:
    """Render the report and write it as one self-contained file."""
    text = render(
        "learned.html",
        manifest=bundle.manifest,
        training=bundle.manifest.training,
        uses=_uses(bundle.manifest.training["frames"]),
        digest=bundle.digest,
        calibration=calibrated and calibrated.calibration,
        views=_views(calibrated) if calibrated else [],
        shortfalls=calibrated.shortfalls() if calibrated else [],
        needed=frames_needed(calibrated.calibration.false_reject) if calibrated else 0,
        worst=_worst(bundle, calibrated, runtime, limits) if calibrated else [],
        weakest=_weakest(bundle, calibrated, runtime, limits) if calibrated else [],
        curve=loss_curve(curve, bundle.manifest.training["best_step"]),
        agreement=agreement,
        precisions=precisions.agreements if precisions else {},
        detectability=detectability and detectability_view(detectability),
        left_out=left_out,
        environment=environment_of_this_machine(),
    )
    write_atomic(file, text.encode())
    return file


def _uses(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """One row a view: how many frames each use has of it."""
    views = sorted({view for of_use in counts.values() for view in of_use})
    return [{"view": view} | {use: counts[use].get(view, 0) for use in counts} for view in views]


def _views(calibrated: Calibrated) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "limits": limits,
            "basis": BASIS[limits.basis],
            "median": float(np.median(limits.scores or (0.0,))) / limits.threshold,
            "highest": max(limits.scores, default=0.0) / limits.threshold,
            "chart": score_histogram(limits.scores, limits.threshold),
        }
        for name, limits in calibrated.calibration.views.items()
    ]


def _worst(bundle: Bundle, calibrated: Calibrated, runtime: Runtime, limits: Limits) -> list[Picture]:
    """The good calibration frames nearest to their threshold, or beyond it."""
    show = _Shower(bundle, calibrated, runtime, limits)
    return [show(entry) for entry in sorted(calibrated.frames, key=show.relative)[: -WORST_FRAMES - 1 : -1]]


def _weakest(bundle: Bundle, calibrated: Calibrated, runtime: Runtime, limits: Limits) -> list[Picture]:
    """The defect calibration frames with the lowest scores."""
    show = _Shower(bundle, calibrated, runtime, limits)
    return [show(entry) for entry in sorted(calibrated.defects, key=show.relative)[:WORST_FRAMES]]


class _Shower:
    """Draws calibration frames, their maps, and why a classifier scored them as it did."""

    def __init__(self, bundle: Bundle, calibrated: Calibrated, runtime: Runtime, limits: Limits) -> None:
        self._views, self._limits = calibrated.calibration.views, limits
        self._inspector, self._explain = Inspector(bundle, runtime), open_explainer(bundle)
        self._good = open_neighbours(bundle)

    def relative(self, entry: CalibrationFrame) -> float:
        """Its score; 1.0 is the view's threshold."""
        return entry.good.raw / self._views[entry.good.view].threshold

    def __call__(self, entry: CalibrationFrame) -> Picture:
        bundle = self._inspector.bundle
        pages = frames([entry.sample], bundle.manifest.preprocess, self._limits, assets=bundle.folder)
        frame = next(frame for _, frame in pages if frame.image.page == entry.page)
        plane = frame.plane
        (score,) = self._inspector.score([planes_of(frame)])
        why = self._explain(plane) if self._explain else {}
        reason = fired(score, bundle.manifest.score, self._views[entry.good.view].threshold)
        return Picture(
            path=entry.sample.path,
            page=entry.page,
            view=entry.good.view,
            score=self.relative(entry),
            frame=data_url(np.repeat((plane[..., None] * 255).astype(np.uint8), 3, axis=2)),
            overlay=data_url(heat(plane, score.map, self._views[entry.good.view].pixel_threshold)),
            fired=reason.text(frame.placement),
            similar=similar(self._good, plane, reason.box, entry.good.view),
            cams={method: data_url(heat(plane, values, 0.5)) for method, values in why.items()},
        )
