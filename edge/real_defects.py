"""Which of the labelled defects are found, by their size and contrast: the real counterpart of planted
ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edge.judge.detection import fit_detection
from edge.pipeline import Inspection
from edge.planted_judge import overlap
from edge.truth import Truth
from edge.types import Box, FloatImage, Mask

HALF = 0.5  # of a plane's pixel must be defect
MOST = 20_000  # regions that are kept
# upper ends of size in frame pixels, and of contrast as a share of full scale
SIZE_ENDS = (4.0, 8.0, 16.0, 32.0, 64.0, math.inf)
CONTRAST_ENDS = (0.02, 0.04, 0.08, 0.16, math.inf)
LEAST_CONTRAST = 0.5 / 255  # for logarithms: half a grey level
RING_PX = (3, 24)  # width of the surroundings that a defect is compared with: half its size, within these


@dataclass(frozen=True, slots=True)
class Region:
    """A connected region of a true mask."""

    size_px: float  # diameter of the circle of its area, in pixels of the frame
    contrast: float  # mean of it against mean of its surroundings, of the full scale of the plane
    rejected: bool
    found: bool


class RealDefects:
    """A section of `edge evaluate`: regions of the true masks, and how many of them are found.

    As of planted defects (`edge.detectability`): found is a region whose frame is NotOK and that a box
    overlaps.
    """

    name = "defects_by_size"

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.not_kept = 0

    def add(self, inspection: Inspection, truth: Truth, pixel_threshold: float) -> None:
        """Count a frame's."""
        if not truth.defect.any():
            return
        frame, judgement = inspection.frame, inspection.judgement
        boxes = [frame.placement.inverse_box(defect.bbox) for defect in judgement.defects]
        scale = math.sqrt(abs(float(np.linalg.det(frame.placement.matrix[:2, :2]))))
        rejected = judgement.evaluation == "NotOK"
        for box, area_px, contrast in regions(frame.plane, truth.on_plane(frame, HALF)):
            if len(self.regions) >= MOST:
                self.not_kept += 1
                continue
            size_px = 2 * math.sqrt(area_px / math.pi) * scale
            found = rejected and any(overlap(box, other) for other in boxes)
            self.regions.append(Region(size_px, contrast, rejected, found))

    def document(self) -> dict[str, Any] | None:
        """Counts by size and contrast, and the model where they bound one; None where there is no mask."""
        if not self.regions:
            return None
        sizes = [region.size_px for region in self.regions]
        contrasts = [max(region.contrast, LEAST_CONTRAST) for region in self.regions]
        found = [region.found for region in self.regions]
        fit = fit_detection(sizes, contrasts, found)
        low, high = min(sizes), max(sizes)
        a90 = {}
        for contrast in CONTRAST_ENDS[:-1] if fit else ():
            size = fit.size_at(contrast) if fit else None
            a90[f"{contrast:g}"] = round(size, 2) if size is not None and low <= size <= high else None
        return {
            "regions": len(self.regions),
            "found": sum(found),
            "in_rejected_frames": sum(region.rejected for region in self.regions),
            "not_kept": self.not_kept or None,
            "a90_px": a90 or None,
            "cells": self._cells(),
        }

    def _cells(self) -> list[dict[str, float | None]]:
        counted: dict[tuple[int, int], list[int]] = {}
        for region in self.regions:
            at = _bin(region.size_px, SIZE_ENDS), _bin(region.contrast, CONTRAST_ENDS)
            cell = counted.setdefault(at, [0, 0])
            cell[0] += 1
            cell[1] += region.found
        return [
            {
                "size_from": SIZE_ENDS[i - 1] if i else 0.0,
                "size_to": SIZE_ENDS[i] if math.isfinite(SIZE_ENDS[i]) else None,
                "contrast_from": CONTRAST_ENDS[k - 1] if k else 0.0,
                "contrast_to": CONTRAST_ENDS[k] if math.isfinite(CONTRAST_ENDS[k]) else None,
                "regions": counts[0],
                "found": counts[1],
            }
            for (i, k), counts in sorted(counted.items())
        ]


def regions(plane: FloatImage, truth: Mask) -> list[tuple[Box, int, float]]:
    """Box, area in pixels, and contrast of each connected region of a mask, both (h, w).

    Contrast is the difference between its mean and that of a ring around it that no defect is in; 0 where
    there is no such ring.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8), connectivity=8)
    found = []
    for i in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[i])
        ring_px = round(min(max(math.sqrt(area) / 2, RING_PX[0]), RING_PX[1]))
        top, left = max(0, y - ring_px), max(0, x - ring_px)
        cut = np.s_[top : y + h + ring_px, left : x + w + ring_px]
        inside = np.asarray(labels[cut]) == i
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * ring_px + 1, 2 * ring_px + 1))
        ring = cv2.dilate(inside.astype(np.uint8), kernel).astype(bool) & ~truth[cut]
        contrast = abs(float(plane[cut][inside].mean() - plane[cut][ring].mean())) if ring.any() else 0.0
        found.append(((x, y, w, h), area, contrast))
    return found


def _bin(value: float, ends: tuple[float, ...]) -> int:
    return next(i for i, end in enumerate(ends) if value < end)
