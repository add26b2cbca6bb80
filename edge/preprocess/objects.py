"""A mask into its single objects, so that each can have a verdict of its own."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.types import Box, Mask

Labels = NDArray[np.int32]  # (h, w): 0 is background, k the pixels of the object with label k


@dataclass(frozen=True, slots=True)
class Object:
    """A connected piece of foreground."""

    bbox: Box
    area_px: int
    label: int  # in the labels, from 1


def split_objects(mask: Mask, min_area_ratio: float = 0.0) -> tuple[list[Object], Labels]:
    """The 8-connected pieces of a (h, w) mask, and (h, w) labels; the topmost first, then the leftmost.

    Pieces below `min_area_ratio` of the plane's area are left out, of the labels too. A mask without
    foreground has none.
    """
    if not mask.any():
        return [], np.zeros(mask.shape, np.int32)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] >= min_area_ratio * mask.size
    kept[0] = False  # the background
    (order,) = np.nonzero(kept)
    order = order[np.lexsort((stats[order, cv2.CC_STAT_LEFT], stats[order, cv2.CC_STAT_TOP]))]
    renumbered = np.zeros(count, np.int32)
    renumbered[order] = np.arange(1, len(order) + 1)
    objects = []
    for k, (x, y, w, h, area) in enumerate(stats[order].tolist(), 1):
        objects.append(Object((x, y, w, h), area, k))
    return objects, renumbered[labels]
