"""Why a classifier decided as it did: class activation maps of a frame, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge.infer.bundle import EXPLAIN_MODEL, Bundle
from edge.judge.cam import smooth_grad_cam_pp, upscaled, xgrad_cam
from edge.types import FloatImage

Explainer = Callable[[FloatImage], Mapping[str, FloatImage]]
"""Plane (h, w) in 0..1 → name of the method → map (h, w) in 0..1, its maximum 1 unless nothing speaks."""


def open_explainer(bundle: Bundle) -> Explainer | None:
    """What explains a bundle's verdicts; None where its model is no classifier of whole frames."""
    if not bundle.has(EXPLAIN_MODEL):
        return None
    from edge.infer.openvino import open_explainer as compiled

    explain = compiled(bundle.folder / EXPLAIN_MODEL, bundle.manifest.preprocess.tiles.size_px)

    def maps(plane: FloatImage) -> Mapping[str, FloatImage]:
        height, width = plane.shape
        activations, gradients = explain(plane[None, None])
        return {
            "smoothgrad-cam++": upscaled(smooth_grad_cam_pp(explain, plane), (height, width)),
            "xgrad-cam": upscaled(xgrad_cam(activations[0], gradients[0]), (height, width)),
        }

    return maps
