"""Why a frame was judged as it was: the statistic that fired and where; a classifier's class activation
maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from edge.infer.bundle import EXPLAIN_MODEL, Bundle, ScoreSpec
from edge.judge.cam import smooth_grad_cam_pp, upscaled, xgrad_cam
from edge.judge.fragments import as_scores
from edge.types import Box, FloatImage, Placement, Score

Explainer = Callable[[FloatImage], Mapping[str, FloatImage]]
"""Plane (h, w) in 0..1 → name of the method → map (h, w) in 0..1, its maximum 1 unless nothing speaks."""


def open_explainer(bundle: Bundle) -> Explainer | None:
    """What explains a bundle's verdicts; None where its model is no classifier of whole frames."""
    if not bundle.has(EXPLAIN_MODEL):
        return None
    from edge.infer.openvino import open_explainer as compiled

    explain = compiled(
        bundle.read(EXPLAIN_MODEL),
        origin=bundle.folder / EXPLAIN_MODEL,
        tile_px=bundle.manifest.preprocess.tiles.size_px,
    )

    def maps(plane: FloatImage) -> Mapping[str, FloatImage]:
        height, width = plane.shape
        activations, gradients = explain(plane[None, None])
        return {
            "smoothgrad-cam++": upscaled(smooth_grad_cam_pp(explain, plane), (height, width)),
            "xgrad-cam": upscaled(xgrad_cam(activations[0], gradients[0]), (height, width)),
        }

    return maps


@dataclass(frozen=True, slots=True)
class Fired:
    """The number that a frame was judged by, and where it comes from."""

    statistic: str
    of: str  # "frame", "object", "fragment"
    value: float
    threshold: float | None
    box: Box  # in the plane: what the value was measured on, or where the map is highest
    is_place: bool  # False: it is a figure of the whole frame, to which everything contributes

    def text(self, placement: Placement) -> str:
        """One line, with the place in the frame's own pixels."""
        x, y, w, h = placement.box(self.box)
        name = self.statistic if self.of == "frame" else f"{self.statistic} of the worst {self.of}"
        against = "" if self.threshold is None else f" (threshold {self.threshold:.4g})"
        spread = "of the highest pixels" if self.statistic == "top" else "of the whole frame"
        where = "at" if self.is_place else f"{spread}; the map is highest at"
        return f"{name} {self.value:.4g}{against} {where} {x},{y} {w}×{h}"


def fired(score: Score, spec: ScoreSpec, threshold: float | None) -> Fired:
    """What made a frame's score. `threshold` is that of the raw score; None where the view has none."""
    box, is_place = score.peak_box, True
    if spec.of == "fragment" and score.fragments is not None and len(score.fragments.boxes):
        worst = int(as_scores(spec.statistic, score.fragments.statistics[spec.statistic]).argmax())
        x, y, w, h = (int(v) for v in score.fragments.boxes[worst])
        box = x, y, w, h
    elif spec.of == "object" and score.objects:
        box = max(score.objects, key=lambda one: one.raw if math.isfinite(one.raw) else -math.inf).box
    elif spec.statistic == "max":
        highest = np.unravel_index(int(score.map.argmax()), score.map.shape)
        box = int(highest[1]), int(highest[0]), 1, 1
    elif spec.statistic == "level":
        box = _largest_region(score) or box
    else:
        is_place = spec.statistic == "peak"
    return Fired(spec.statistic, spec.of, score.raw, threshold, box, is_place)


def _largest_region(score: Score) -> Box | None:
    """The box of the largest region of the map that reaches the score's level."""
    reached = (score.map >= np.float32(score.raw) * (1 - 1e-6)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(reached, connectivity=8)
    if len(stats) < 2:
        return None
    x, y, w, h, _ = (int(v) for v in stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())])
    return x, y, w, h
