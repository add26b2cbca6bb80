"""Sorts of frames: views or variants of an object that should not share one model."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.learn.labels import LabelledPlane

LEAST_OF_A_SORT = 3  # planes; fewer say nothing about how a place varies
THUMBNAIL_PX = 32  # by which sorts are told apart
ATTEMPTS = 5  # starts of k-means, of which the best counts
LEAST_APART = 0.15  # mean silhouette: frames that differ by noise alone have less than 0.05


def sorts_of(planes: Sequence[LabelledPlane], most: int, seed: int) -> list[list[LabelledPlane]]:
    """Planes sorted by what they show, into `most` sorts or fewer, each of at least three (or all in one).

    k-means over thumbnails without their mean and contrast (Lloyd 1982; k-means++ starts, Arthur &
    Vassilvitskii 2007); as many sorts as have the largest mean silhouette (Rousseeuw 1987), one where even
    that is small: models of a part of alike frames each know less than one model of all. A sort of fewer than
    three planes is given up, and its planes go to the nearest other one.
    """
    if most < 2 or len(planes) < 2 * LEAST_OF_A_SORT:
        return [list(planes)]
    small = np.stack([_thumbnail(labelled.plane) for labelled in planes])
    found = [_clusters(small, k, seed) for k in range(2, min(most, len(planes) - 1) + 1)]
    best = max(found, key=lambda labels: silhouette(small, labels))
    if silhouette(small, best) < LEAST_APART:
        return [list(planes)]
    return [[planes[int(i)] for i in np.flatnonzero(best == k)] for k in np.unique(best)]


def silhouette(points: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean over (n, d) points of (b − a) / max(a, b), within −1..1; 0 for one cluster.

    a: mean distance to the others of the point's cluster, b: to those of the nearest other cluster
    (Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20, 1987). A point alone in its cluster counts 0.
    """
    kinds = np.unique(labels)
    if len(kinds) < 2:
        return 0.0
    members = (labels[:, None] == kinds).astype(np.float64)  # (n, clusters)
    square = np.square(points, dtype=np.float64).sum(1)
    products = points.astype(np.float64) @ points.T.astype(np.float64)
    away = np.sqrt(np.maximum(square[:, None] + square - 2 * products, 0))
    np.fill_diagonal(away, 0)
    sums, sizes = away @ members, members.sum(0)
    own = members.astype(bool)
    size = sizes[np.argmax(own, axis=1)]
    a = sums[own] / np.maximum(size - 1, 1)
    b = np.where(own, np.inf, sums / sizes).min(axis=1)
    return float(np.where(size > 1, (b - a) / np.maximum(np.maximum(a, b), 1e-12), 0).mean())


def _clusters(small: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    """Which of `count` clusters or fewer each of (n, d) is in; each has at least LEAST_OF_A_SORT."""
    cv2.setRNGSeed(seed % 2**31)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-4)
    start = np.zeros((len(small), 1), np.int32)
    _, _, centres = cv2.kmeans(small, count, start, criteria, ATTEMPTS, cv2.KMEANS_PP_CENTERS)
    away = np.linalg.norm(small[:, None] - centres[None], axis=2)  # (n, count)
    kept = np.flatnonzero(np.bincount(away.argmin(1), minlength=count) >= LEAST_OF_A_SORT)
    if not len(kept):
        return np.zeros(len(small), np.int64)
    return np.asarray(away[:, kept].argmin(1), np.int64)


def _thumbnail(plane: NDArray[np.float16]) -> NDArray[np.float32]:
    small = cv2.resize(plane.astype(np.float32), (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    off = small - small.mean()
    return np.asarray(off / max(1e-6, float(off.std())), np.float32).ravel()
