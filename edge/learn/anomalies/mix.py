"""Which anomalies a network learns from, how often each, and how they are blended over good windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.learn.anomalies.fills import FILLS, DefectCrop, Ground, planted_defect
from edge.learn.anomalies.shapes import SHAPES, Cover, crack, texture_direction
from edge.types import FloatImage, Mask

ATTEMPTS = 3  # at a change that can be seen
LEAST_AREA_PX = 3
THIN = ("crack", "specks")
REGION = "band"
SPLICED = "splice"  # the fill of which nothing but the seam is wrong
COHERENT = 0.25  # from here on a texture has a direction, and cracks may follow it


@dataclass(frozen=True, slots=True)
class AnomalyMix:
    """How anomalies are drawn. Weights are relative; what is not named does not occur."""

    balance_areas: bool = False  # in the loss: small anomalies count as much as large ones
    share: float = 0.6  # of windows that have an anomaly …
    second: float = 0.3  # … and of those that have another one
    shapes: Mapping[str, float] = field(
        default_factory=lambda: {
            "blob": 0.33, "polygon": 0.33, "curve": 0.14, "crack": 0.1, "specks": 0.1,
        }
    )  # fmt: skip
    fills: Mapping[str, float] = field(
        default_factory=lambda: {
            "foreign-texture": 0.3, "noise": 0.28, "own-pixels": 0.2, "flat": 0.12, "paste": 0.07,
            "shade": 0.03,
        }
    )  # fmt: skip
    thin_fills: Mapping[str, float] = field(  # of cracks and specks, whose own texture nobody could see
        default_factory=lambda: {"flat": 0.45, "shade": 0.35, "noise": 0.1, "foreign-texture": 0.1}
    )
    region_fills: Mapping[str, float] = field(  # of bands: regions that were worked otherwise than the rest
        default_factory=lambda: {
            "splice": 0.4, "own-pixels": 0.2, "shade": 0.15, "foreign-texture": 0.1, "noise": 0.1,
            "flat": 0.05,
        }
    )  # fmt: skip
    poisson: float = 0.1  # share that is blended by Poisson's equation, so that only gradients remain
    opacity: tuple[float, float] = (0.5, 1.0)
    edge_px: tuple[float, float] = (0.6, 2.5)  # σ of the soft edge
    visible: float = 0.06  # of the scale: a pixel that changed by more is anomalous
    close_px: int = 7  # gaps in the label up to this wide are closed
    seam_px: int = 5  # of spliced texture so much on either side of its outline is labelled
    planted: float = 0.25  # share of anomalies that are real defects, where crops of any are given


@dataclass(frozen=True, slots=True)
class Painted:
    """A window with anomalies in it."""

    window: FloatImage  # (h, w) float32 in 0..1
    label: Mask  # (h, w): where it changed visibly
    kinds: tuple[tuple[str, str], ...] = ()  # (shape, fill) of each


def paint(
    window: FloatImage,
    rng: np.random.Generator,
    mix: AnomalyMix,
    donors: Sequence[FloatImage],
    crops: Sequence[DefectCrop] = (),
    foreground: Mask | None = None,
) -> Painted:
    """One or two anomalies over a good window (h, w) in 0..1, or none if nothing drawn could be seen.

    Where there is a `foreground` (h, w), nothing outside it changes, or is labelled.

    Segmenting anomalies pasted on good frames: Zavrtanik et al., "DRAEM", ICCV 2021; labels where the
    picture changed, and blending by Poisson's equation: Schlüter et al., "Natural Synthetic Anomalies" (NSA),
    ECCV 2022.
    """
    count = 1 + (rng.random() < mix.second)
    painted = window
    kinds: tuple[tuple[str, str], ...] = ()
    label, good = np.zeros(window.shape, np.bool_), np.zeros(window.shape, np.bool_)
    for _ in range(count):
        for _attempt in range(ATTEMPTS):
            changed, kind, cover = _one(painted, rng, mix, donors, crops, foreground)
            inner = good & (cover < 0.5)  # spliced before, and not painted over
            if kind[1] == SPLICED:
                inner |= _within(cover, mix.seam_px) & ~label  # what lay there shines through
            seen = _visible(window, changed, mix) & ~inner  # a second one may undo what the first one changed
            if foreground is not None:
                seen &= foreground
            if np.count_nonzero(seen & ~label) >= LEAST_AREA_PX:
                painted, label, good, kinds = changed, seen, inner, (*kinds, kind)
                break
    return Painted(painted, label, kinds)


def _one(
    window: FloatImage,
    rng: np.random.Generator,
    mix: AnomalyMix,
    donors: Sequence[FloatImage],
    crops: Sequence[DefectCrop],
    foreground: Mask | None,
) -> tuple[FloatImage, tuple[str, str], Cover]:
    """The window with one more anomaly, that one's shape and fill, and its cover."""
    if crops and rng.random() < mix.planted:
        shape, name = "its own", "real-defect"
        cover, fill = planted_defect(rng, window, crops)
        cover = cover if foreground is None else cover * foreground
    else:
        shape, cover = _cover(window, rng, mix)
        if foreground is not None:
            cover = cover * foreground
        fills = mix.thin_fills if shape in THIN else mix.region_fills if shape == REGION else mix.fills
        name = _drawn(rng, fills)
        fill = FILLS[name](rng, Ground(window, cover, donors, crops))
    blended = rng.random() < mix.poisson and name != SPLICED  # whose seam that would take away
    if blended and (joined := _poisson(window, fill, cover)) is not None:
        return joined, (shape, f"{name}, Poisson"), cover
    if cover.mean() < 0.002 or (cover > 0.5).sum() < 40:
        soft = cv2.GaussianBlur(cover, (0, 0), mix.edge_px[0])  # what is thin would vanish under more
    else:
        soft = cv2.GaussianBlur(cover, (0, 0), float(rng.uniform(*mix.edge_px)))
    weight = soft * np.float32(rng.uniform(*mix.opacity))
    if foreground is not None:  # beyond which the soft edge reaches
        weight = weight * foreground
    return np.clip((1 - weight) * window + weight * fill, 0, 1).astype(np.float32), (shape, name), cover


def _cover(window: FloatImage, rng: np.random.Generator, mix: AnomalyMix) -> tuple[str, Cover]:
    h, w = window.shape
    centre: NDArray[np.float64] = rng.uniform(0, 1, 2) * (w, h)
    name = _drawn(rng, mix.shapes)
    if name == "crack":
        angle, coherence = texture_direction(window)
        return name, crack(rng, (h, w), centre, angle if coherence > COHERENT else None)
    return name, SHAPES[name](rng, (h, w), centre)


def _within(cover: Cover, seam_px: int) -> Mask:
    """What is further than that inside the cover; the window's border is no outline."""
    inside = (cover > 0.5).astype(np.uint8)
    square = np.ones((2 * seam_px + 1, 2 * seam_px + 1), np.uint8)
    return np.asarray(cv2.erode(inside, square, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0, np.bool_)


def _visible(before: FloatImage, after: FloatImage, mix: AnomalyMix) -> Mask:
    changed = (np.abs(after - before) > mix.visible).astype(np.uint8)
    if mix.close_px > 1:
        ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (mix.close_px, mix.close_px))
        changed = np.asarray(cv2.morphologyEx(changed, cv2.MORPH_CLOSE, ellipse), np.uint8)
    return np.asarray(changed > 0, np.bool_)


def _poisson(window: FloatImage, fill: FloatImage, cover: Cover) -> FloatImage | None:
    """The fill's gradients inside the cover, the window's values around it (Pérez et al., SIGGRAPH 2003).

    OpenCV does so in 8 bits; the difference to the window is taken over, so that its other bits stay.
    """
    inside = (cover > 0.5).astype(np.uint8)
    inside[[0, -1]] = 0
    inside[:, [0, -1]] = 0
    if np.count_nonzero(inside) < 16:
        return None
    x, y, w, h = cv2.boundingRect(inside)
    low, high = float(min(window.min(), fill.min())), float(max(window.max(), fill.max()))
    scale = 255 / max(1e-6, high - low)
    ours, theirs = (
        cv2.cvtColor(np.clip((v - low) * scale, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
        for v in (window, fill)
    )
    centre = (x + w // 2, y + h // 2)
    try:
        joined = cv2.seamlessClone(theirs, ours, inside * 255, centre, cv2.NORMAL_CLONE)
    except cv2.error:  # a mask that touches the border in a way it does not take
        return None
    change = (joined[..., 0].astype(np.float32) - ours[..., 0]) / scale
    return np.clip(np.where(inside > 0, window + change, window), 0, 1).astype(np.float32)


def _drawn(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    names = list(weights)
    shares = np.array([weights[name] for name in names], np.float64)
    return names[int(rng.choice(len(names), p=shares / shares.sum()))]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A factor between the two, every ratio as likely."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))
