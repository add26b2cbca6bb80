"""Good windows with synthetic anomalies: what the segmenter learns from; one batch a step number.

Real defects that have masks may join: some windows are cut around them, and what is good of their frames is
good ground for anomalies as that of any other frame, since its truth is known, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.learn.anomalies.fills import DefectCrop
from edge.learn.anomalies.lighting import Lighting
from edge.learn.anomalies.mix import AnomalyMix, paint
from edge.learn.datasets import Plane16, mirrored
from edge.learn.labels import LabelledPlane
from edge.learn.segments import SegmentAugmentation, SegmentBatches
from edge.types import FloatImage, Mask

DONORS = 4  # windows that a batch's anomalies take texture from
WINDOWS_A_FRAME = 2  # around defects, of a batch: of a single frame more would be learned by heart
AROUND_TURN_DEG = 45.0  # where texture may be turned
AROUND_ZOOM, AROUND_ELASTIC_PX = 0.15, 2.0


@dataclass(frozen=True, slots=True)
class AnomalyPlan:
    """What a segmenter of synthetic anomalies learns from: anomalies, and how good windows vary."""

    mix: AnomalyMix = field(default_factory=AnomalyMix)
    lighting: Lighting = field(default_factory=Lighting)
    at_border: float = 0.0  # share of windows' rows and of their columns that begin or end at the border
    flip_across: bool = True  # left-right
    flip_down: bool = True  # top-bottom
    transpose: bool = True
    trim: float = 0.0  # of a plane's sides: at most so much is cut off, so that borders vary
    zoom: float = 0.0  # relative, either way
    turn_deg: float = 0.0
    around_defects: float = 0.25  # largest share of windows cut around real defects, where there are any


@dataclass(frozen=True, slots=True)
class AnomalyBatches:
    """Random windows of good planes, some with anomalies; which ones depends on the seed and the step only.

    A window may lie `margin_px` beyond a plane's mirrored border, as a tile may.
    """

    planes: Sequence[Plane16]
    window_px: int
    batch: int
    plan: AnomalyPlan
    seed: int
    margin_px: int = 16
    crops: Sequence[DefectCrop] = ()
    defects: Sequence[LabelledPlane] = ()  # real ones: every bit of their truth is a defect
    _around: SegmentBatches | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        marked = [_any_class(labelled) for labelled in self.defects if labelled.truth.any()]
        windows = min(int(self.batch * self.plan.around_defects), WINDOWS_A_FRAME * len(marked))
        if not windows:
            return
        around = SegmentBatches(
            marked, classes=1, window_px=(self.window_px, self.window_px), batch=windows, seed=self.seed,
            defect_share=1.0, margin_px=self.margin_px, augmentation=self._augmentation(),
        )  # fmt: skip
        object.__setattr__(self, "_around", around)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """(windows, labels), each (batch, 1, window, window) float32 in 0..1."""
        rng = np.random.default_rng((self.seed, step))
        shape = (self.batch, 1, self.window_px, self.window_px)
        inputs, labels = np.empty(shape, np.float32), np.zeros(shape, np.float32)
        grounds = [*self.planes, *(labelled.plane for labelled in self.defects)]
        areas = np.sqrt([plane.size for plane in grounds])  # small frames count, too
        chosen = rng.choice(len(grounds), self.batch, p=areas / areas.sum())
        donors = [self._window(self.planes[int(i)], rng)[0] for i in rng.choice(len(self.planes), DONORS)]
        real = self._around.batch if self._around else 0
        with_anomaly = np.arange(self.batch) < round((self.batch - real) * self.plan.mix.share)
        for k, index in enumerate(chosen[: self.batch - real]):
            window, truth = self._window(grounds[index], rng, self._truth(int(index)))
            window = self.plan.lighting.vary(window, rng)
            if with_anomaly[k]:
                painted = paint(window, rng, self.plan.mix, donors, self.crops)
                window, labels[k, 0] = painted.window, painted.label
            inputs[k, 0] = window
            if truth is not None:
                labels[k, 0] = np.maximum(labels[k, 0], truth)
        if self._around:
            windows, marked = self._around.at(step)
            inputs[-real:, 0] = [self.plan.lighting.vary(window, rng) for window in windows[:, 0].numpy()]
            labels[-real:] = marked.numpy()
        return torch.from_numpy(inputs), torch.from_numpy(labels)

    def _truth(self, ground: int) -> NDArray[np.uint8] | None:
        """What is where on a ground; None where it is a good frame."""
        return None if ground < len(self.planes) else self.defects[ground - len(self.planes)].truth

    def _augmentation(self) -> SegmentAugmentation:
        """Of windows around defects: more than of others, since they are fewer; light varies as in theirs."""
        turn_deg = AROUND_TURN_DEG if self.plan.transpose else 0.0
        return SegmentAugmentation(
            flip_across=self.plan.flip_across,
            flip_down=self.plan.flip_down,
            rotation_deg=max(self.plan.turn_deg, turn_deg),
            scale=max(self.plan.zoom, AROUND_ZOOM),
            elastic_px=AROUND_ELASTIC_PX,
        )

    def _window(
        self, plane: Plane16, rng: np.random.Generator, truth: NDArray[np.uint8] | None = None
    ) -> tuple[FloatImage, Mask | None]:
        """A window of a plane anywhere, and of its truth, if there is one, moved as its pixels are."""
        trim = _trimmed(plane.shape, self.plan.trim, rng)
        plane, truth = plane[trim], None if truth is None else truth[trim]
        moved = bool(self.plan.zoom or self.plan.turn_deg) and rng.random() < 0.7
        side = round(self.window_px * (1 + self.plan.zoom) * 1.1) if moved else self.window_px
        rows, columns = (self._span(length, side, rng) for length in plane.shape)
        there = np.ix_(rows, columns)
        layers = [plane[there].astype(np.float32)]
        if truth is not None:
            layers.append((truth[there] > 0).astype(np.float32))
        if moved:
            layers = self._moved(layers, rng)
        if self.plan.flip_down and rng.random() < 0.5:
            layers = [layer[::-1] for layer in layers]
        if self.plan.flip_across and rng.random() < 0.5:
            layers = [layer[:, ::-1] for layer in layers]
        if self.plan.transpose and rng.random() < 0.5:
            layers = [layer.T for layer in layers]
        return np.ascontiguousarray(layers[0]), None if truth is None else layers[1] > 0.5

    def _moved(self, layers: Sequence[FloatImage], rng: np.random.Generator) -> list[FloatImage]:
        """The middle of larger windows of the same place, turned and zoomed."""
        zoom = math.exp(rng.uniform(-1, 1) * math.log1p(self.plan.zoom))
        middle = (layers[0].shape[1] - 1) / 2
        matrix = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-1, 1) * self.plan.turn_deg, zoom)
        matrix[:, 2] += (self.window_px - 1) / 2 - middle
        size = (self.window_px, self.window_px)
        border = cv2.BORDER_REFLECT_101
        return [
            np.asarray(
                cv2.warpAffine(layer, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border), np.float32
            )
            for layer in layers
        ]

    def _span(self, length: int, side: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`side` indices of a plane's row or column, mirrored beyond its ends."""
        first, last = -self.margin_px, length + self.margin_px - side
        if last < first:  # a plane smaller than the window: mirrored around it
            first = last = -((side - length) // 2)
        start = int(rng.integers(first, last + 1))
        if rng.random() < self.plan.at_border:
            start = first if rng.random() < 0.5 else last
        return mirrored(np.arange(start, start + side), length)


def _trimmed(shape: tuple[int, ...], most: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """What is left of a plane's rows and columns."""
    height, width = shape
    if not most or rng.random() < 0.3:
        return slice(0, height), slice(0, width)
    top, bottom, left, right = (
        int(rng.uniform(0, most) * length) for length in (height, height, width, width)
    )
    return slice(top, height - bottom), slice(left, width - right)


def _any_class(labelled: LabelledPlane) -> LabelledPlane:
    """With one class, for all that are marked."""
    return LabelledPlane(labelled.plane, (labelled.truth > 0).astype(np.uint8), labelled.label)
