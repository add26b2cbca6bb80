"""What is learned without gradients: Gaussians that few samples support, and places worth remembering."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# What never varied in good frames would outweigh everything as soon as it does
LEAST_VARIANCE = 1e-4  # of a direction, relative to the mean of all
LEAST_STD = 1e-2  # of a feature, relative to the mean of all


def gaussian(rows: Callable[[], Iterable[Array]]) -> tuple[Array, Array]:
    """Mean (c,) and covariance (c, c) of features that come in pieces (k, c), gone through twice.

    Features have different units, so it is their correlations that are shrunk, not their covariances.
    """
    total, square, count = np.zeros(1), np.zeros(1), 0
    for piece in rows():
        total, square, count = total + piece.sum(0), square + np.square(piece).sum(0), count + len(piece)
    mean = total / count
    std = _not_zero(np.sqrt(np.maximum(square / count - mean**2, 0)))
    second, fourth = np.zeros((len(mean), len(mean))), 0.0
    for piece in rows():
        off = (piece - mean) / std
        second += off.T @ off
        fourth += float(np.square(np.square(off).sum(1)).sum())
    return mean, ledoit_wolf(second / count, np.asarray(fourth / count), count) * std[:, None] * std


def whitening(covariance: Array) -> Array:
    """(c, c) that turns features of this covariance into uncorrelated ones of variance 1, in any units."""
    std = _not_zero(np.sqrt(np.diagonal(covariance)))
    return inverse_root(covariance / std[:, None] / std) / std


def _not_zero(std: Array) -> Array:
    return np.maximum(std, max(LEAST_STD * float(std.mean()), 1e-9))


def ledoit_wolf(covariance: Array, fourth: Array, count: int) -> Array:
    """Covariances (…, c, c) drawn towards a multiple of the identity as much as `count` samples ask for.

    `fourth`, (…): mean of ‖x‖⁴ over the centred samples. Ledoit & Wolf, "A well-conditioned estimator for
    large-dimensional covariance matrices", Journal of Multivariate Analysis 88 (2004), section 3.
    """
    size = covariance.shape[-1]
    level = np.trace(covariance, axis1=-2, axis2=-1) / size
    square = np.square(covariance).sum((-2, -1))
    away = np.maximum(square / size - level**2, 0)  # d²
    doubt = np.clip((fourth - square) / size / count, 0, away)  # b²
    share = (doubt / np.maximum(away, 1e-300))[..., None, None]
    shrunk: Array = (1 - share) * covariance + share * level[..., None, None] * np.eye(size)
    return shrunk


def inverse_root(covariance: Array) -> Array:
    """Symmetric roots (…, c, c) of the inverses; directions that hardly vary are taken to vary a little."""
    values, vectors = np.linalg.eigh(covariance)
    least = LEAST_VARIANCE * values.mean(-1, keepdims=True)
    values = np.maximum(values, np.maximum(least, 1e-12))
    root: Array = (vectors / np.sqrt(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return root


def coreset(places: Array, count: int) -> Array:
    """`count` of (k, c) places that leave none far from all: each next one is the farthest so far.

    Sener & Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018.
    With fewer places than asked for, the first one repeats.
    """
    chosen, nearest = [0], np.full(len(places), np.inf)
    lengths = np.square(places).sum(1)
    while len(chosen) < count:
        latest = places[chosen[-1]]
        nearest = np.minimum(nearest, lengths - 2 * (places @ latest) + latest @ latest)
        nearest[chosen[-1]] = 0.0  # rounding
        chosen.append(int(nearest.argmax()))
    return places[chosen]
