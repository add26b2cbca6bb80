"""Where an anomaly is: covers (h, w) float32 in 0..1, from specks and hair-thin cracks to large patches.

All lengths are in pixels of the window. The same generator gives the same cover. Edges are hard (OpenCV
smooths lines in 8 bits only): they are softened where covers are blended.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.types import FloatImage

SHIFT = 4  # OpenCV draws on 1/16 of a pixel
SPECK_PX = (1.0, 4.0)  # radius
CRACK_WIDTH_PX = (0.7, 3.0)
CURVE_WIDTH_PX = (1.5, 9.0)
LEAST_PATCH_PX = 2.5
MOST_PATCH = 0.35  # of the window's side: a patch is a region in it, never most of it

Cover = FloatImage


def clouds(
    rng: np.random.Generator, shape: tuple[int, int], exponent: float, cell_px: float = 1.0
) -> FloatImage:
    """1/f^exponent noise (h, w), mean 0 and standard deviation 1; nothing finer than `cell_px`."""
    h, w = shape
    y, x = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None, :]
    frequency = np.hypot(y, x)
    frequency[0, 0] = np.inf
    amplitude = frequency**-exponent * np.exp(-np.square(frequency * cell_px) / 2)
    phase = rng.standard_normal((2, *amplitude.shape))
    noise = np.fft.irfft2(amplitude * (phase[0] + 1j * phase[1]), (h, w))
    return np.asarray((noise - noise.mean()) / max(1e-9, float(noise.std())), np.float32)


def blob(rng: np.random.Generator, shape: tuple[int, int], centre: NDArray[np.float64]) -> Cover:
    """A ragged patch: 1/f noise over a dome, thresholded."""
    radius = _log_uniform(rng, LEAST_PATCH_PX, MOST_PATCH * min(shape))
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    turn, flat = rng.uniform(0, np.pi), rng.uniform(0.35, 1.0)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    along = dx * math.cos(turn) + dy * math.sin(turn)
    across = (dy * math.cos(turn) - dx * math.sin(turn)) / flat
    dome = 1 - np.hypot(along, across) / radius
    ragged = dome + rng.uniform(0.1, 0.6) * clouds(rng, shape, rng.uniform(1.0, 2.0))
    return np.asarray(ragged > 0.2, np.float32)


def polygon(rng: np.random.Generator, shape: tuple[int, int], centre: NDArray[np.float64]) -> Cover:
    """A polygon with 3 to 10 corners at random distances from its middle."""
    radius = _log_uniform(rng, LEAST_PATCH_PX, MOST_PATCH * min(shape))
    corners = int(rng.integers(3, 11))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = radius * rng.uniform(0.4, 1.0, corners)
    points = np.column_stack([np.cos(angle) * reach * rng.uniform(0.3, 1.0), np.sin(angle) * reach])
    turn = rng.uniform(0, 2 * np.pi)
    spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    cover = np.zeros(shape, np.float32)
    cv2.fillPoly(cover, [_fixed(points @ spin.T + centre)], 1.0, cv2.LINE_8, SHIFT)
    return cover


def specks(rng: np.random.Generator, shape: tuple[int, int], centre: NDArray[np.float64]) -> Cover:
    """One to four round spots of 2 to 8 px."""
    cover = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        radius = _log_uniform(rng, *SPECK_PX)
        axes = (radius, radius * rng.uniform(0.5, 1.0))
        at = centre + rng.normal(0, 6, 2)
        cv2.ellipse(
            cover, _point(at), _point(np.array(axes)), float(rng.uniform(0, 180)), 0, 360, 1.0, -1,
            cv2.LINE_8, SHIFT,
        )  # fmt: skip
    return cover


def curve(rng: np.random.Generator, shape: tuple[int, int], centre: NDArray[np.float64]) -> Cover:
    """A band along a bent line, some as wide as a hair on the lens."""
    length = _log_uniform(rng, 10, 0.9 * min(shape))
    return _stroke(shape, _bent(rng, centre, length, 0.5, 0.06), _log_uniform(rng, *CURVE_WIDTH_PX))


def crack(
    rng: np.random.Generator, shape: tuple[int, int], centre: NDArray[np.float64], along: float | None = None
) -> Cover:
    """A hair-thin broken line that branches; half of them along the texture's own direction `along` [rad]."""
    length = _log_uniform(rng, 10, 0.8 * min(shape))
    turn = None if along is None or rng.random() < 0.5 else along + rng.normal(0, 0.08)
    width = _log_uniform(rng, *CRACK_WIDTH_PX)
    line = _bent(rng, centre, length, 0.25, 0.22, turn)
    cover = _stroke(shape, line, width)
    for _ in range(int(rng.integers(0, 3))):
        start = line[int(rng.integers(len(line)))]
        branch = _bent(rng, start, length * rng.uniform(0.1, 0.5), 0.25, 0.22)
        cover = np.maximum(cover, _stroke(shape, branch, max(CRACK_WIDTH_PX[0], width * 0.7)))
    return cover


def band(rng: np.random.Generator, shape: tuple[int, int], centre: NDArray[np.float64]) -> Cover:
    """All on one side of a slightly bent line: a region that was worked otherwise, or a missing corner."""
    turn = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.integers(4) * np.pi / 2
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    across = (x - np.float32(centre[0])) * math.cos(turn) + (y - np.float32(centre[1])) * math.sin(turn)
    wave = clouds(rng, shape, 2.0) * np.float32(rng.uniform(0, 4))
    return np.asarray(across + wave > 0, np.float32)


Shape = Callable[[np.random.Generator, tuple[int, int], NDArray[np.float64]], Cover]

SHAPES: dict[str, Shape] = {
    "blob": blob,
    "polygon": polygon,
    "specks": specks,
    "curve": curve,
    "crack": crack,
    "band": band,
}


def texture_direction(plane: FloatImage) -> tuple[float, float]:
    """(angle [rad] along which grey values change least, coherence 0..1) from the mean structure tensor.

    Bigün & Granlund, "Optimal orientation detection of linear symmetry", ICCV 1987.
    """
    if min(plane.shape) < 2:  # nothing to differ from
        return 0.0, 0.0
    smooth = cv2.GaussianBlur(np.asarray(plane, np.float32), (0, 0), 1.0)
    gy, gx = np.gradient(smooth)
    xx, yy, xy = float((gx * gx).mean()), float((gy * gy).mean()), float((gx * gy).mean())
    energy = xx + yy
    if energy <= 1e-12:
        return 0.0, 0.0
    coherence = math.hypot(xx - yy, 2 * xy) / energy
    return 0.5 * math.atan2(2 * xy, xx - yy) + np.pi / 2, coherence


def _bent(
    rng: np.random.Generator,
    centre: NDArray[np.float64],
    length: float,
    bend: float,
    jitter: float,
    turn: float | None = None,
) -> NDArray[np.float64]:
    """(n, 2) x, y along an arc of `bend` standard deviation [rad], through the centre."""
    steps = max(6, min(40, int(length / 3)))
    start = rng.uniform(0, 2 * np.pi) if turn is None else turn
    angle = start + rng.normal(0, bend) * np.linspace(-1, 1, steps) + np.cumsum(rng.normal(0, jitter, steps))
    line = np.cumsum(np.column_stack([np.cos(angle), np.sin(angle)]) * (length / steps), axis=0)
    return np.asarray(line + (centre - line[steps // 2]), np.float64)


def _stroke(shape: tuple[int, int], line: NDArray[np.float64], width: float) -> Cover:
    """A line of that width; thinner than a pixel it is fainter, as a lens shows it."""
    cover = np.zeros(shape, np.float32)
    points = [_fixed(line)]
    cv2.polylines(cover, points, False, min(1.0, width), max(1, round(width)), cv2.LINE_8, SHIFT)
    return cover


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.rint(points * (1 << SHIFT)).astype(np.int32)


def _point(at: NDArray[np.float64]) -> tuple[int, int]:
    x, y = _fixed(at)
    return int(x), int(y)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(max(low * 1.01, high)))))
