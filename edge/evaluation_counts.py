"""The truth of a frame's pixels, and what is counted of them beside the figures that every recipe has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from edge.infer.bundle import BundleManifest
from edge.judge.classes import ClassCounts
from edge.judge.fragments import FragmentCounts
from edge.judge.patchwise import patch_confusion
from edge.judge.ranking import f_beta
from edge.pipeline import Inspection
from edge.truth import Truth, to_frame

HALF = 0.5  # where the origin's patch network decides


class Section(Protocol):
    """One part of the document that is counted from pixels, frame by frame, in constant memory."""

    name: str  # its key in the document

    def add(self, inspection: Inspection, truth: Truth, pixel_threshold: float) -> None:
        """Count a frame."""
        ...

    def document(self) -> dict[str, Any] | None:
        """What was counted; None if there was nothing to count."""
        ...


def sections(manifest: BundleManifest) -> Sequence[Section]:
    """What a recipe is counted by."""
    chosen: list[Section] = []
    if patch_px := manifest.training.get("patch_px"):
        chosen.append(Patches(int(patch_px)))
    if manifest.classes:
        chosen.append(Classes(manifest.classes))
    if manifest.score.of == "fragment":
        chosen.append(FragmentStatistics())
    return chosen


class Patches:
    """System A's count: a grid of patches over the plane, each compared with the true mask.

    At the calibrated pixel threshold; at one half, where the origin's network decides; and there once more of
    the origin's own patches only, those that are all good or all defect.
    """

    name = "patches"

    def __init__(self, patch_px: int) -> None:
        self.patch_px = patch_px
        self._calibrated, self._half, self._pure = (np.zeros((2, 2), np.int64) for _ in range(3))

    def add(self, inspection: Inspection, truth: Truth, pixel_threshold: float) -> None:
        """See `Section`."""
        mask = truth.on_plane(inspection.frame, HALF)
        count = partial(patch_confusion, inspection.score.map, mask, self.patch_px)
        self._calibrated += np.array(count(pixel_threshold))
        self._half += np.array(count(HALF))
        self._pure += np.array(count(HALF, rule="pure"))

    def document(self) -> dict[str, Any] | None:
        """See `Section`."""
        if not self._half.any():
            return None
        return {
            "patch_px": self.patch_px,
            **_confusion(self._calibrated),
            "at_half": _confusion(self._half),
            "pure_at_half": _confusion(self._pure),
        }


def _confusion(counted: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Any]:
    (_, fp), (fn, tp) = counted.tolist()
    return {"confusion": counted.tolist(), "f1": f_beta(tp, fp, fn, 1)}


class Classes:
    """Areas, Dice and IoU of each class of a segmenter, in the frames' own pixels, at the pixel threshold.

    Frames with masks of a class that the bundle does not know are not counted.
    """

    name = "classes"

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._counts = ClassCounts(names)

    def add(self, inspection: Inspection, truth: Truth, pixel_threshold: float) -> None:
        """See `Section`."""
        if truth.defect.any() and not set(truth.sample.masks) <= set(self.names):
            return
        score = inspection.score
        layers = score.map[None] if score.layers is None else score.layers
        found = np.stack([to_frame(layer, inspection.frame) > pixel_threshold for layer in layers])
        self._counts.add(found, np.stack([truth.of_class(name) for name in self.names]))

    def document(self) -> dict[str, Any] | None:
        """See `Section`; class → its figures."""
        if not self._counts.frames:
            return None
        return {
            name: {key: value for key, value in row.items() if not math.isnan(value)}
            for name, row in self._counts.figures().items()
        }


class FragmentStatistics:
    """How well each statistic of the residual tells fragments with a defect from those without."""

    name = "fragments"

    def __init__(self) -> None:
        self._counts = FragmentCounts()

    def add(self, inspection: Inspection, truth: Truth, pixel_threshold: float) -> None:
        """See `Section`."""
        if inspection.score.fragments is not None:
            self._counts.add(inspection.score.fragments, truth.on_plane(inspection.frame))

    def document(self) -> dict[str, Any] | None:
        """See `Section`; AUROC by statistic."""
        counts = self._counts
        found = dict(counts.auroc())
        if not found:
            return None
        return {"good": counts.good, "defect": counts.defect, "not_counted": counts.between, "auroc": found}
