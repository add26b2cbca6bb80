"""Score maps and the numbers drawn from them; pure functions of arrays."""

from __future__ import annotations

import math

import cv2
import numpy as np

from edge.judge.sharpness import sharpness
from edge.types import GREATEST, Box, FloatImage, Mask, Score, TileArray, as_float

# Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004: 11×11, σ 1.5
SSIM_SIGMA_PX = 1.5
SSIM_WINDOW_PX = 11
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2

# Xue et al., "Gradient Magnitude Similarity Deviation", 2014: Prewitt, c = 170/255²; four scales as Zavrtanik
# et al., "Reconstruction by inpainting for visual anomaly detection" (RIAD), 2021
GMS_C = 0.0026
GMS_SCALES = 4
GMS_FLOOR = 1e-12  # under the root, which has no slope at 0

PROBABLE = 0.5  # from here on a probability says defect: of the statistic `area`
LEAST_COVER = 0.5  # a mean over less foreground than half its window is divided as if it were half


def score_map(
    plane: TileArray, answer: FloatImage, kind: str, smooth_px: float = 0.0, foreground: Mask | None = None
) -> FloatImage:
    """Per-pixel anomaly, (h, w) float32 ≥ 0, from the plane and the network's stitched answer.

    `l2` squared residual · `l1` absolute residual · `ssim` (1 − SSIM)/2 · `msgms` 1 − gradient magnitude
    similarity, mean of four scales · `probability` the answer itself.

    With a `foreground` (h, w) the map is zero outside it, and nothing outside reaches the inside: there plane
    and answer are black, as a mask leaves them, and smoothing is a mean over foreground only.
    """
    values: FloatImage = (
        answer if kind == "probability" else _residual(as_float(plane), answer, kind, foreground)
    )
    if foreground is not None:
        return _within(values, foreground, smooth_px)
    return _blur(values, smooth_px) if smooth_px > 0 else values


def _residual(plane: FloatImage, answer: FloatImage, kind: str, foreground: Mask | None) -> FloatImage:
    if foreground is not None:
        plane, answer = (np.where(foreground, values, np.float32(0)) for values in (plane, answer))
    if kind in ("l1", "l2"):
        residual: FloatImage = plane - answer
        return residual * residual if kind == "l2" else np.abs(residual)
    return gradient_dissimilarity(plane, answer) if kind == "msgms" else dissimilarity(plane, answer)


def _within(values: FloatImage, foreground: Mask, smooth_px: float) -> FloatImage:
    """The map inside the foreground, smoothed over the foreground's pixels alone; zero elsewhere."""
    values = np.where(foreground, values, np.float32(0))
    if smooth_px > 0:
        cover = _blur(foreground.astype(np.float32), smooth_px)
        values = np.where(foreground, _blur(values, smooth_px) / np.maximum(cover, LEAST_COVER), 0)
    return values.astype(np.float32, copy=False)


def dissimilarity(x: FloatImage, y: FloatImage) -> FloatImage:
    """(1 − SSIM)/2 per pixel, in 0..1 (Wang et al. 2004, with Gaussian windows and dynamic range 1)."""
    mean_x, mean_y = _window(x), _window(y)
    variance_x = _window(x * x) - mean_x * mean_x
    variance_y = _window(y * y) - mean_y * mean_y
    covariance = _window(x * y) - mean_x * mean_y
    ssim = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    ssim /= (mean_x * mean_x + mean_y * mean_y + SSIM_C1) * (variance_x + variance_y + SSIM_C2)
    return np.clip((1 - ssim) * np.float32(0.5), 0.0, 1.0)


def gradient_dissimilarity(x: FloatImage, y: FloatImage) -> FloatImage:
    """1 − GMS per pixel, in 0..1 (Xue et al. 2014): mean of four scales, each half the last (RIAD).

    Borders repeat the last pixel, so that a frame's edge is no gradient. Coarser scales are means of 2×2 and
    come back by linear interpolation.
    """
    height, width = x.shape
    coarsest = 1 << (GMS_SCALES - 1)
    padding = (0, -height % coarsest, 0, -width % coarsest)
    x, y = (cv2.copyMakeBorder(v, *padding, cv2.BORDER_REPLICATE) for v in (x, y))  # type: ignore[assignment]  # float32
    total = np.zeros_like(x)
    for scale in range(GMS_SCALES):
        if scale:
            half = (x.shape[1] // 2, x.shape[0] // 2)
            x, y = (cv2.resize(v, half, interpolation=cv2.INTER_AREA) for v in (x, y))  # type: ignore[assignment]  # float32
        one = _one_scale(x, y)
        if scale:
            one = cv2.resize(one, total.shape[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]  # float32
        total += one
    return total[:height, :width] / np.float32(GMS_SCALES)


def _one_scale(x: FloatImage, y: FloatImage) -> FloatImage:
    """1 − GMS of one scale: 1 − (2 gx gy + c) / (gx² + gy² + c)."""
    gx, gy = _gradient(x), _gradient(y)
    similarity = (2 * gx * gy + np.float32(GMS_C)) / (gx * gx + gy * gy + np.float32(GMS_C))
    return np.clip(1 - similarity, 0.0, 1.0)


def _gradient(values: FloatImage) -> FloatImage:
    """Magnitude of the Prewitt gradient (thirds of three differences), borders repeated."""
    slope, mean = np.array([-1.0, 0.0, 1.0]), np.full(3, 1 / 3)
    along = [
        cv2.sepFilter2D(values, cv2.CV_32F, row, column, borderType=cv2.BORDER_REPLICATE)
        for row, column in ((slope, mean), (mean, slope))
    ]
    magnitude: FloatImage = np.sqrt(np.square(along[0]) + np.square(along[1]) + np.float32(GMS_FLOOR))
    return magnitude


def summarise(
    plane: TileArray,
    values: FloatImage,
    statistic: str,
    peak_px: int,
    foreground: Mask | None = None,
    top_ratio: float = 0.01,
) -> Score:
    """The score of a frame and its companions from a map (h, w), all of them over the foreground's pixels.

    `peak` is the largest mean over a peak_px square: one noisy pixel does not reject, a small defect does.
    `top` is the mean of the highest `top_ratio` of the pixels: what is wrong here and there adds up.
    `area` is the share of pixels at or above 0.5, for probabilities. `sum` grows with the parts in sight and
    is kept to be looked at only: divided by the foreground's area it is `mean`, which does not.

    Where the foreground is empty, nothing was looked at: the score is NaN, which no judge calls OK.
    """
    inside = values if foreground is None else values[foreground]
    seen = plane if foreground is None else plane[foreground]
    highest, box = peak(values, peak_px, foreground)
    if not inside.size:
        inside, seen = np.full(1, np.nan, np.float32), np.full(1, np.nan, np.float32)
    mean, std = mean_and_std(inside)
    if not np.isfinite(mean):  # a map that is not finite is judged, not warned about
        highest = float("nan")
    statistics = {
        "mean": mean,
        "max": float(inside.max()),
        "std": std,
        "rmse": math.sqrt(mean) if mean >= 0 else float("nan"),
        "sum": mean * inside.size,
        "area": np.count_nonzero(inside >= PROBABLE) / inside.size if np.isfinite(mean) else float("nan"),
        "peak": highest,
        "top": top(inside, top_ratio) if np.isfinite(mean) else float("nan"),
    }
    plane_mean, plane_std = mean_and_std(seen)
    return Score(
        raw=statistics[statistic],
        map=values,
        statistics=statistics,
        peak_box=box,
        plane_mean=plane_mean,
        plane_std=plane_std,
        foreground_px=values.size if foreground is None else int(np.count_nonzero(foreground)),
        sharpness=sharpness(plane, foreground),
    )


def mean_and_std(values: TileArray) -> tuple[float, float]:
    """Of all values, in 0..1 whatever they are stored as; NaN where one is not finite."""
    mean, std = (float(found[0, 0]) / GREATEST.get(values.dtype.name, 1) for found in cv2.meanStdDev(values))
    return mean, std if math.isfinite(mean) else math.nan


def top(values: FloatImage, ratio: float) -> float:
    """Mean of the highest `ratio` of the values, of one at least; NaN where one is not finite."""
    flat = values.ravel()
    if not np.isfinite(flat).all():
        return float("nan")
    count = max(1, round(ratio * flat.size))
    return float(np.partition(flat, flat.size - count)[flat.size - count :].mean(dtype=np.float64))


def peak(values: FloatImage, side_px: int, foreground: Mask | None = None) -> tuple[float, Box]:
    """Largest mean over any side×side window inside the map, and that window as (x, y, w, h).

    A map smaller than the window is the window. With a `foreground` a window's mean is over its foreground
    pixels, but over no fewer than half the window: a part's edge counts as its middle does, and a few pixels
    of a corner do not count as a window.
    """
    height, width = values.shape
    h, w = min(side_px, height), min(side_px, width)

    def means_of(array: FloatImage) -> FloatImage:
        means = cv2.boxFilter(array, cv2.CV_32F, (w, h), borderType=cv2.BORDER_REFLECT_101)
        return np.asarray(means[h // 2 : h // 2 + height - h + 1, w // 2 : w // 2 + width - w + 1])

    inside = means_of(values if foreground is None else np.where(foreground, values, np.float32(0)))
    if foreground is not None:
        inside /= np.maximum(means_of(foreground.astype(np.float32)), LEAST_COVER)
    x, y = cv2.minMaxLoc(inside)[3]  # the first of equals
    return float(inside[y, x]), (int(x), int(y), w, h)


def _window(values: FloatImage) -> FloatImage:
    size = (SSIM_WINDOW_PX, SSIM_WINDOW_PX)
    return cv2.GaussianBlur(  # type: ignore[return-value]  # float32 in, float32 out
        values, size, SSIM_SIGMA_PX, borderType=cv2.BORDER_REFLECT_101
    )


def _blur(values: FloatImage, sigma_px: float) -> FloatImage:
    return cv2.GaussianBlur(  # type: ignore[return-value]  # float32 in, float32 out
        values, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101
    )
