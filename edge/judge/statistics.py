"""Score maps and the numbers drawn from them; pure functions of arrays."""

from __future__ import annotations

import cv2
import numpy as np

from edge.types import FloatImage, Score

# Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004: 11×11, σ 1.5
SSIM_SIGMA_PX = 1.5
SSIM_WINDOW_PX = 11
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def score_map(plane: FloatImage, answer: FloatImage, kind: str, smooth_px: float = 0.0) -> FloatImage:
    """Per-pixel anomaly, (h, w) float32 ≥ 0, from the plane and the network's stitched answer.

    `l2` squared residual · `l1` absolute residual · `ssim` (1 − SSIM)/2 · `probability` the answer itself.
    """
    if kind == "probability":
        values = answer
    elif kind == "l2":
        values = np.square(plane - answer)
    elif kind == "l1":
        values = np.abs(plane - answer)
    else:
        values = dissimilarity(plane, answer)
    if smooth_px > 0:
        values = _blur(values, smooth_px)
    return values


def dissimilarity(x: FloatImage, y: FloatImage) -> FloatImage:
    """(1 − SSIM)/2 per pixel, in 0..1 (Wang et al. 2004, with Gaussian windows and dynamic range 1)."""
    mean_x, mean_y = _window(x), _window(y)
    variance_x = _window(x * x) - mean_x * mean_x
    variance_y = _window(y * y) - mean_y * mean_y
    covariance = _window(x * y) - mean_x * mean_y
    ssim = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    ssim /= (mean_x * mean_x + mean_y * mean_y + SSIM_C1) * (variance_x + variance_y + SSIM_C2)
    return np.clip((1 - ssim) * np.float32(0.5), 0.0, 1.0)


def summarise(plane: FloatImage, values: FloatImage, statistic: str, peak_px: int) -> Score:
    """The score of a frame and its companions from a map (h, w).

    `peak` is the largest mean over a peak_px square: one noisy pixel does not reject, a small defect does.
    """
    highest, box = peak(values, peak_px)
    with np.errstate(invalid="ignore"):  # a map that is not finite is judged, not warned about
        statistics = {
            "mean": float(values.mean()),
            "max": float(values.max()),
            "std": float(values.std()),
            "rmse": float(np.sqrt(values.mean())),
            "peak": highest,
        }
    return Score(
        raw=statistics[statistic],
        map=values,
        statistics=statistics,
        peak_box=box,
        plane_mean=float(plane.mean()),
        plane_std=float(plane.std()),
    )


def peak(values: FloatImage, side_px: int) -> tuple[float, tuple[int, int, int, int]]:
    """Largest mean over any side×side window inside the map, and that window as (x, y, w, h).

    A map smaller than the window is the window.
    """
    height, width = values.shape
    h, w = min(side_px, height), min(side_px, width)
    means = cv2.boxFilter(values, cv2.CV_32F, (w, h), borderType=cv2.BORDER_REFLECT_101)
    inside = means[h // 2 : h // 2 + height - h + 1, w // 2 : w // 2 + width - w + 1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
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
