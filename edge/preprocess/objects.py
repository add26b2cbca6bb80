"""A mask into its single objects, so that each can have a verdict of its own."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.types import Box, Mask

NECK = 0.7  # objects touch where the passage is narrower than this share of the smaller one's width
LEAST_NECK_DEPTH_PX = 2.0  # less is the outline's noise
LEVELS = 32  # of depth at which a neck is looked for

Labels = NDArray[np.int32]  # (h, w): 0 is background, k the pixels of the object with label k


@dataclass(frozen=True, slots=True)
class Object:
    """A connected piece of foreground."""

    bbox: Box
    area_px: int
    label: int  # in the labels, from 1


def split_objects(
    mask: Mask, min_area_ratio: float = 0.0, separate_touching: bool = False
) -> tuple[list[Object], Labels]:
    """The 8-connected pieces of a (h, w) mask, and (h, w) labels; the topmost first, then the leftmost.

    Pieces below `min_area_ratio` of the plane's area are left out, of the labels too. With
    `separate_touching` pieces are also cut at necks (where the passage is narrower than 0.7 of the smaller
    side's width), along the watershed of the distance to the background. A mask without foreground has none.
    """
    if not mask.any():
        return [], np.zeros(mask.shape, np.int32)
    _, found = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    pieces = found.astype(np.int32)
    return _ordered(_separated(pieces) if separate_touching else pieces, min_area_ratio * mask.size)


def _ordered(labels: Labels, least_px: float) -> tuple[list[Object], Labels]:
    """Labels renumbered from the top left, small ones gone."""
    areas = np.bincount(labels.ravel())
    found = [
        (box, int(areas[label]), label)
        for label, box in enumerate(_boxes(labels), 1)
        if areas[label] >= max(1.0, least_px)
    ]
    found.sort(key=lambda one: (one[0][1], one[0][0], one[2]))
    renumbered = np.zeros(int(labels.max()) + 1, np.int32)
    renumbered[[label for _, _, label in found]] = np.arange(1, len(found) + 1)
    objects = [Object(box, area, k) for k, (box, area, _) in enumerate(found, 1)]
    return objects, renumbered[labels]


def _boxes(labels: Labels) -> list[Box]:
    """Of labels 1, 2, …, in one pass over the pixels."""
    count = int(labels.max())
    ys, xs = np.nonzero(labels)
    which = labels[ys, xs]
    low, high = np.full((count + 1, 2), np.iinfo(np.int64).max), np.full((count + 1, 2), -1)
    for axis, places in enumerate((xs, ys)):
        np.minimum.at(low[:, axis], which, places)
        np.maximum.at(high[:, axis], which, places)
    sizes = high - low + 1
    return [(int(x), int(y), int(w), int(h)) for (x, y), (w, h) in zip(low[1:], sizes[1:], strict=True)]


def _separated(labels: Labels) -> Labels:
    """Each piece cut at its necks; new labels."""
    cut = np.zeros_like(labels)
    count = 0
    for label, (x, y, w, h) in enumerate(_boxes(labels), 1):
        piece = labels[y : y + h, x : x + w] == label
        parts = _cut(piece)
        cut[y : y + h, x : x + w][piece] = parts[piece] + count
        count += int(parts.max())
    return cut


def _cut(piece: Mask) -> Labels:
    """1, 2, … on the parts of one connected piece; every pixel of it belongs to one."""
    padded = np.pad(piece.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float32)
    cores = _cores(depth)
    if len(cores) < 2:
        return piece.astype(np.int32)
    return _flooded(depth, cores)[1:-1, 1:-1]


def _cores(depth: NDArray[np.float32]) -> list[Mask]:
    """The middles of the objects in one piece: what hangs together above a depth, where it falls apart into
    pieces that each reach much deeper. Salient maxima of the distance transform, relative to their height."""
    found: list[Mask] = []
    waiting = [(depth > 0, 0.0)]
    steps = np.linspace(0, float(depth.max()), LEVELS, endpoint=False)[1:]
    while waiting:
        region, reached = waiting.pop()
        for level in steps[steps > reached]:
            count, labels = cv2.connectedComponents((region & (depth > level)).astype(np.uint8))
            peaks = np.zeros(count, np.float32)
            np.maximum.at(peaks, labels.astype(np.int32), np.where(labels > 0, depth, 0))
            needed = np.maximum(LEAST_NECK_DEPTH_PX, (1 - NECK) * peaks)
            salient = [np.asarray(labels == k) for k in range(1, count) if peaks[k] - level >= needed[k]]
            if len(salient) >= 2:
                waiting.extend((part, float(level)) for part in salient)
                break
            if not salient:
                found.append(region)
                break
        else:
            found.append(region)
    return found


def _flooded(depth: NDArray[np.float32], cores: list[Mask]) -> Labels:
    """The cores grown from deep to shallow, so that they meet at the necks.

    Vincent and Soille, "Watersheds in Digital Spaces" (1991), immersion by levels. (`cv2.watershed` orders
    pixels by how much neighbours differ, not by height, and so cuts anywhere on an even slope.)
    """
    labels = np.zeros(depth.shape, np.float32)  # a type that cv2.dilate knows, exact to 2^24
    for k, core in enumerate(cores, 1):
        labels[core] = k
    for level in np.linspace(float(depth.max()), 0, LEVELS + 1):
        while True:
            spread = cv2.dilate(labels, np.ones((3, 3), np.uint8))
            reached = (depth > level) & (labels == 0) & (spread > 0)
            if not reached.any():
                break
            labels[reached] = spread[reached]
    return labels.astype(np.int32)
