"""What an anomaly is made of: (h, w) float32 planes to be blended over a window under a cover."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edge.learn.anomalies.shapes import Cover, clouds
from edge.types import FloatImage

ZOOM = (1.5, 4.5)  # of foreign texture: less is hardly foreign
FLAT = (0.0, 1.0)
SHIFT_STD = (0.6, 3.0)  # contrasts, in standard deviations of the window
PLANTED_ZOOM = 1.4  # of real defects, either way
LEAST_SHIFT = 0.04  # and never below this share of the scale


@dataclass(frozen=True, slots=True)
class DefectCrop:
    """A defect that was really seen, cut out with some of what lies around it."""

    window: FloatImage  # (h, w) in 0..1
    cover: Cover  # (h, w) in 0..1: where in it the defect is


@dataclass(frozen=True, slots=True)
class Ground:
    """What an anomaly is painted on."""

    window: FloatImage  # (h, w) in 0..1
    cover: Cover  # (h, w) in 0..1
    donors: Sequence[FloatImage]  # windows of good planes, at least one
    crops: Sequence[DefectCrop] = ()  # if there are any


def foreign_texture(rng: np.random.Generator, ground: Ground) -> FloatImage:
    """Good texture, magnified or shrunk, turned, and moved half way to the grey value of the place."""
    donor = _any(rng, ground.donors)
    zoom = math.exp(rng.uniform(math.log(ZOOM[0]), math.log(ZOOM[1])))
    zoom = zoom if rng.random() < 0.5 else 1 / zoom
    patch = _placed(rng, donor, ground.window.shape, zoom, rng.uniform(0, 360))
    return _towards(rng, patch, ground, float(rng.uniform(0, 1)))


def turned_texture(rng: np.random.Generator, ground: Ground) -> FloatImage:
    """Good texture at its own scale, but turned: a fault where the texture has a direction."""
    patch = _placed(rng, _any(rng, ground.donors), ground.window.shape, 1.0, rng.uniform(20, 160))
    return _towards(rng, patch, ground, float(rng.uniform(0, 1)))


def noise(rng: np.random.Generator, ground: Ground) -> FloatImage:
    """1/f^β noise, from white to clouds."""
    std = max(LEAST_SHIFT, float(ground.window.std())) * rng.uniform(0.5, 2.0)
    mean = _shifted(rng, ground)
    shape = (ground.window.shape[0], ground.window.shape[1])
    return np.asarray(mean + std * clouds(rng, shape, rng.uniform(0, 2.0)), np.float32)


def own_pixels(rng: np.random.Generator, ground: Ground) -> FloatImage:
    """The window itself, blurred, of another contrast, or another brightness."""
    window = ground.window
    kind = rng.random()
    if kind < 0.35:
        window = np.asarray(cv2.GaussianBlur(window, (0, 0), float(rng.uniform(1.2, 6.0))), np.float32)
    mean = float(window.mean())
    factor = 1.0 if kind < 0.25 else math.exp(rng.uniform(math.log(1.4), math.log(3.0)) * rng.choice((-1, 1)))
    offset = 0.0 if kind < 0.25 or rng.random() < 0.3 else _shifted(rng, ground) - mean
    return np.asarray((window - mean) * factor + mean + offset, np.float32)


def shade(rng: np.random.Generator, ground: Ground) -> FloatImage:
    """The window, darker or brighter by a factor: stains, missing light, shallow dents."""
    factor = math.exp(rng.uniform(0.1, 0.8) * rng.choice((-1, 1)))
    return np.asarray(ground.window * factor, np.float32)


def flat(rng: np.random.Generator, ground: Ground) -> FloatImage:
    """One grey value: holes, blots, glare."""
    value = float(rng.uniform(*FLAT)) if rng.random() < 0.5 else _shifted(rng, ground)
    return np.full_like(ground.window, value)


def paste(rng: np.random.Generator, ground: Ground) -> FloatImage:
    """Good texture from elsewhere, as it is (Li et al., "CutPaste", CVPR 2021)."""
    return _placed(rng, _any(rng, ground.donors), ground.window.shape, 1.0, 90.0 * int(rng.integers(4)))


def splice(rng: np.random.Generator, ground: Ground) -> FloatImage:
    """Good texture from elsewhere, as it lies, moved towards the place's grey value: its seam is wrong."""
    patch = _placed(rng, _any(rng, ground.donors), ground.window.shape, 1.0, 180.0 * int(rng.integers(2)))
    return _towards(rng, patch, ground, float(rng.uniform(0, 1)))


def real_defect(rng: np.random.Generator, ground: Ground) -> FloatImage:
    """What defects that the user gave are made of, under any shape; foreign texture where there is none."""
    if not ground.crops:
        return foreign_texture(rng, ground)
    zoom = math.exp(rng.uniform(-0.4, 0.4))
    crop = ground.crops[int(rng.integers(len(ground.crops)))]
    return _placed(rng, crop.window, ground.window.shape, zoom, rng.uniform(0, 360))


def planted_defect(
    rng: np.random.Generator, window: FloatImage, crops: Sequence[DefectCrop]
) -> tuple[Cover, FloatImage]:
    """(cover, fill) of a defect that the user gave, at a new place of a window, size and turn.

    It keeps its own outline, and its contrast to what lies around it.
    """
    crop = crops[int(rng.integers(len(crops)))]
    source, cover = crop.window, crop.cover
    if rng.random() < 0.5:
        source, cover = np.ascontiguousarray(source[:, ::-1]), np.ascontiguousarray(cover[:, ::-1])
    height, width = source.shape
    h, w = window.shape
    zoom = math.exp(rng.uniform(-1, 1) * math.log(PLANTED_ZOOM))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(0, 360), zoom)
    matrix[:, 2] += rng.uniform(0, 1, 2) * np.array([w - 1, h - 1]) - np.array([width - 1, height - 1]) / 2
    placed = np.asarray(
        cv2.warpAffine(source, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101),
        np.float32,
    )
    where = np.asarray(cv2.warpAffine(cover, matrix, (w, h), flags=cv2.INTER_LINEAR), np.float32)
    inside, around = where > 0.5, crop.cover < 0.5
    if inside.any() and around.any():
        placed = placed + np.float32(window[inside].mean() - crop.window[around].mean())
    return where, np.clip(placed, 0, 1).astype(np.float32)


Fill = Callable[[np.random.Generator, Ground], FloatImage]

FILLS: dict[str, Fill] = {
    "foreign-texture": foreign_texture,
    "turned-texture": turned_texture,
    "noise": noise,
    "own-pixels": own_pixels,
    "shade": shade,
    "flat": flat,
    "paste": paste,
    "splice": splice,
    "real-defect": real_defect,
}


def _any(rng: np.random.Generator, planes: Sequence[FloatImage]) -> FloatImage:
    return planes[int(rng.integers(len(planes)))]


def _shifted(rng: np.random.Generator, ground: Ground) -> float:
    """A grey value that stands out of the place by a multiple of the window's standard deviation."""
    std = max(LEAST_SHIFT, float(ground.window.std()))
    under = ground.window[ground.cover > 0.5]
    mean = float(under.mean() if under.size else ground.window.mean())
    sign = rng.choice((-1, 1))
    return float(np.clip(mean + sign * std * rng.uniform(*SHIFT_STD), 0, 1))


def _towards(rng: np.random.Generator, patch: FloatImage, ground: Ground, share: float) -> FloatImage:
    """The patch with its mean moved towards the place's, so that texture counts and not brightness alone."""
    inside = ground.cover > 0.5
    if not inside.any():
        return patch
    gap = float(ground.window[inside].mean()) - float(patch[inside].mean())
    return np.asarray(patch + np.float32(share * gap), np.float32)


def _placed(
    rng: np.random.Generator, source: FloatImage, shape: tuple[int, ...], zoom: float, turn_deg: float
) -> FloatImage:
    """(h, w) of the source at that zoom and turn, from anywhere in it; mirrored beyond its borders."""
    h, w = shape
    height, width = source.shape
    if zoom < 1:  # before it is sampled at wide steps
        source = cv2.GaussianBlur(source, (0, 0), 0.5 / zoom)  # type: ignore[assignment]  # float32
    matrix = np.asarray(cv2.getRotationMatrix2D((w / 2, h / 2), turn_deg, zoom), np.float64)
    at = rng.uniform(0, 1, 2) * (width, height)
    matrix[:, 2] += matrix[:, :2] @ (np.array([w / 2, h / 2]) - at)
    flags = cv2.INTER_LINEAR
    return np.asarray(
        cv2.warpAffine(source, matrix, (w, h), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.float32
    )
