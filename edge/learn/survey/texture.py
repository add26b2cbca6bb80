"""What is on the surface: noise, spectrum, scale and direction of its texture; and what is along borders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.learn.anomalies.shapes import texture_direction
from edge.types import FloatImage

MOST_SIDE_PX = 512  # of the window that a spectrum is taken from
LEAST_CYCLES = 4.0  # along the window's shorter side: what is coarser is layout or light, not texture
RINGS_PER_OCTAVE = 4
CORNER = 0.5  # cycles a pixel: beyond, along diagonals only, cameras and lenses show little but noise
QUIET = 0.1  # the share of blocks that are taken to have nothing but noise
BLOCK_PX = 16
SIGNAL_TO_NOISE = 3.0  # in power: texture is seen from here on
NEGLIGIBLE = 0.01  # of the variance of texture
STRIP = 0.04  # of a side: how wide a border is looked for
LEAST_STRIP_PX = 3
LEAST_STRIPS = 16  # across a frame: fewer do not say how much strips differ
UNLIKE_SIGMA = 3.0  # robust standard deviations of the strips inside
UNLIKE_GREY = 0.02  # of the scale: less than that is seen by nobody
UNLIKE_GRADIENT = 1.5  # factor

Side = Literal["left", "right", "top", "bottom"]


@dataclass(frozen=True, slots=True)
class Texture:
    """Facts of small-scale structure; medians over frames. Lengths in pixels of the plane."""

    noise: float  # standard deviation of white noise: an upper bound
    contrast: float  # standard deviation of texture, without noise and what is coarser than texture
    wavelength_px: float  # 1 / the mean frequency of the texture's power; 0: no texture above the noise
    finest_px: float  # the wavelength below which there is only noise, or less than 1 % of the variance
    lost_at_half: float  # share of the texture's variance at wavelengths below 4 px, which half size loses
    slope: float  # β of power ~ 1 / frequency^β
    direction_rad: float  # along which grey values change least, over all frames
    coherence: float  # 0..1, of that direction over all frames
    coherence_each: float  # median of the frames' own


@dataclass(frozen=True, slots=True)
class Border:
    """A side of frames: the share of frames whose outer strip is unlike strips inside."""

    side: Side
    unlike: float
    grey: float  # median over frames: of the strip less those inside
    gradient: float  # median over frames: the strip's gradient energy as a factor of theirs


@dataclass(frozen=True, slots=True)
class _OfFrame:
    noise: float
    contrast: float
    wavelength_px: float
    finest_px: float
    lost_at_half: float
    slope: float


def texture_of(planes: Sequence[FloatImage], levels: float) -> Texture:
    """Facts of (h, w) planes in 0..1 that were stored with so many grey levels."""
    frames = [_of_frame(plane, 1 / (levels * math.sqrt(12))) for plane in planes]
    angles, coherences = np.array([texture_direction(plane) for plane in planes]).T
    along = complex((coherences * np.exp(2j * angles)).mean())

    def median(name: str) -> float:
        return float(np.median([getattr(frame, name) for frame in frames]))

    return Texture(
        noise=median("noise"),
        contrast=median("contrast"),
        wavelength_px=median("wavelength_px"),
        finest_px=median("finest_px"),
        lost_at_half=median("lost_at_half"),
        slope=median("slope"),
        direction_rad=float(np.angle(along) / 2 % math.pi),
        coherence=abs(along),
        coherence_each=float(np.median(coherences)),
    )


def noise_level(plane: FloatImage) -> float:
    """Standard deviation of white noise in the quietest tenth of blocks of a plane (h, w) in 0..1.

    Immerkær, "Fast noise variance estimation", Computer Vision and Image Understanding 64, 1996, with blocks
    so that texture counts less. What is clipped has no noise, and is left out.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    answer = np.abs(cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REFLECT_101))
    usable = ((plane > 0.004) & (plane < 0.996)).astype(np.float32)
    side = min(BLOCK_PX, *plane.shape)
    sums, counts = (
        cv2.blur(v, (side, side))[side // 2 :: side, side // 2 :: side] for v in (answer * usable, usable)
    )
    blocks = sums[counts > 0.5] / counts[counts > 0.5]
    if not blocks.size:
        return 0.0
    return float(math.sqrt(math.pi / 2) / 6 * np.quantile(blocks, QUIET))


def spectrum(
    plane: FloatImage,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """(frequency [cycles/px], mean power, coefficients) of rings up to 0.5, and the power beyond.

    White noise of variance v has power v everywhere (Hann window; Welch 1967). In the corners the median,
    which is ln 2 of white noise's mean, stands for the mean, so that a few strong lines do not count.
    """
    seen = _middle(plane)
    window = _hann(seen.shape)
    power = np.square(np.abs(np.fft.rfft2((seen - seen.mean()) * window))) / seen.size
    rings, frequency, counts = _rings(seen.shape)
    sums = np.bincount(rings.ravel(), power.ravel(), minlength=len(counts))
    corner = power[rings == len(counts) - 1]
    floor = float(np.median(corner)) / math.log(2) if corner.size else 0.0
    known = counts[:-1] > 0
    return frequency[known], (sums[:-1] / np.maximum(counts[:-1], 1))[known], counts[:-1][known], floor


def borders_of(planes: Sequence[FloatImage]) -> tuple[Border, ...]:
    """Each side of (h, w) planes: its outer 4 % against strips as wide inside, parallel to it."""
    turned: dict[Side, int] = {"left": 1, "right": 3, "top": 0, "bottom": 2}
    found = []
    for side, turns in turned.items():
        answers = np.array([_outer_strip(np.rot90(plane, -turns)) for plane in planes])
        unlike, grey, gradient = answers.T
        found.append(Border(side, float(unlike.mean()), float(np.median(grey)), float(np.median(gradient))))
    return tuple(found)


def _of_frame(plane: FloatImage, quantum: float) -> _OfFrame:
    frequency, power, counts, corner = spectrum(plane)
    noise = min(noise_level(plane), math.sqrt(corner))  # texture raises either, never lowers it
    floor = max(noise, quantum) ** 2
    fine = frequency >= LEAST_CYCLES / min(MOST_SIDE_PX, *plane.shape)
    frequency, power, counts = frequency[fine], power[fine], counts[fine]
    signal = np.maximum(power - floor, 0)
    if not (power > (1 + SIGNAL_TO_NOISE) * floor).any():
        return _OfFrame(noise, 0.0, 0.0, 0.0, 0.0, 0.0)
    variance = signal * counts
    total = float(variance.sum())
    of_all = total / float(_rings(_middle(plane).shape)[2].sum())
    beyond = np.cumsum(variance[::-1])[::-1] / total  # at this ring and finer ones
    finest = min(
        float(frequency[power > (1 + SIGNAL_TO_NOISE) * floor][-1]),
        float(frequency[beyond >= NEGLIGIBLE][-1]),
    )
    return _OfFrame(
        noise=noise,
        contrast=math.sqrt(of_all),
        wavelength_px=total / float((variance * frequency).sum()),
        finest_px=1 / finest,
        lost_at_half=float(variance[frequency > 0.25].sum()) / total,
        slope=_slope(frequency, power, floor),
    )


def _slope(frequency: NDArray[np.float64], power: NDArray[np.float64], floor: float) -> float:
    """β of power ~ 1 / frequency^β, over the rings that are well above the noise."""
    seen = power > (1 + SIGNAL_TO_NOISE) * floor
    if np.count_nonzero(seen) < 3:
        return 0.0
    return -float(np.polyfit(np.log(frequency[seen]), np.log(power[seen]), 1)[0])


def _middle(plane: FloatImage) -> FloatImage:
    """At most 512×512 of the plane, from its middle."""
    h, w = plane.shape
    top, left = max(0, (h - MOST_SIDE_PX) // 2), max(0, (w - MOST_SIDE_PX) // 2)
    return np.asarray(plane[top : top + MOST_SIDE_PX, left : left + MOST_SIDE_PX], np.float32)


@lru_cache(8)
def _hann(shape: tuple[int, int]) -> FloatImage:
    """Of mean square 1."""
    h, w = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)
    window = np.outer(h, w)
    normed: FloatImage = (window / np.sqrt(np.square(window).mean())).astype(np.float32)
    return normed


@lru_cache(8)
def _rings(shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """(ring of each coefficient of rfft2, rings' mean frequency, their coefficients); the last is corners."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    octaves = math.log2(0.5 * max(shape))
    count = max(1, math.ceil(RINGS_PER_OCTAVE * octaves))
    edges = 0.5 * 2.0 ** (-octaves * np.arange(count, -1, -1) / count)
    rings = np.clip(np.digitize(frequency, edges) - 1, 0, count)
    counts = np.bincount(rings.ravel(), minlength=count + 1).astype(np.float64)
    mean = np.bincount(rings.ravel(), frequency.ravel(), minlength=count + 1) / np.maximum(counts, 1)
    return rings, mean[:-1], counts


def _outer_strip(plane: FloatImage) -> tuple[float, float, float]:
    """(unlike, grey, gradient) of the topmost strip of rows against those from 15 to 85 % of the height."""
    width = max(LEAST_STRIP_PX, round(STRIP * plane.shape[0]))
    count = plane.shape[0] // width
    inside = slice(math.ceil(0.15 * count), math.floor(0.85 * count))
    if count < LEAST_STRIPS:
        return 0.0, 0.0, 1.0
    rows = np.ascontiguousarray(plane[: count * width], np.float32)
    across, along = cv2.Sobel(rows, -1, 0, 1), cv2.Sobel(rows, -1, 1, 0)
    greys = rows.reshape(count, -1).mean(axis=1)
    energy = np.log((np.square(across) + np.square(along)).reshape(count, -1).mean(axis=1) + 1e-6)
    grey, of_greys = _against(greys[0], greys[inside])
    gradient, of_energy = _against(energy[0], energy[inside])
    unlike = abs(grey) > max(UNLIKE_GREY, UNLIKE_SIGMA * of_greys) or abs(gradient) > max(
        math.log(UNLIKE_GRADIENT), UNLIKE_SIGMA * of_energy
    )
    return float(unlike), grey, math.exp(gradient)


def _against(value: float, others: NDArray[np.floating]) -> tuple[float, float]:
    """(difference to the median of the others, their robust standard deviation)."""
    centre = float(np.median(others))
    return float(value) - centre, 1.4826 * float(np.median(np.abs(others - centre)))
