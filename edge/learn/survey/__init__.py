"""What good frames are like, measured before anything is learned; `edge.learn.automatic` chooses by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.learn.survey.layout import Layout, Symmetry, layout_of
from edge.learn.survey.light import Light, light_of
from edge.learn.survey.texture import Border, Texture, borders_of, texture_of
from edge.types import FloatImage

MOST_FRAMES = 64
LEAST_SIDE_PX = 8
MOST_PIXELS = 1_000_000  # of a frame: the middle of a larger one is looked at for its texture


@dataclass(frozen=True, slots=True)
class Seen:
    """A good frame as it will be learned from, before illumination and scale are chosen."""

    plane: NDArray[np.floating]  # (h, w) in 0..1
    view: str
    part: str | None = None
    bits: int = 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of all frames, in pixels."""

    height: int  # median
    width: int
    least: tuple[int, int]  # of heights, of widths
    most: tuple[int, int]
    all_equal: bool
    examples: tuple[tuple[int, int], ...]  # (height, width): those looked at, each size once


@dataclass(frozen=True, slots=True)
class Survey:
    """Facts of good frames; JSON by `dataclasses.asdict`."""

    frames: int
    looked_at: int
    parts: int  # 0: unknown
    views: int
    bits: int  # the fewest
    sizes: Sizes
    light: Light
    texture: Texture
    borders: tuple[Border, ...]
    layout: Layout
    symmetry: tuple[Symmetry, ...]
    colour_lost: float | None = None  # see `colour_lost`; None: grey frames


def survey(frames: Sequence[Seen], *, seed: int = 0, colour: float | None = None) -> Survey:
    """Facts of good frames of at least 8 px a side; of at most 64, drawn evenly over views by the seed.

    `colour` is what `colour_lost` says of the frames where they are coloured.

    Raises:
        DataError: there is none.
    """
    frames = [frame for frame in frames if min(frame.plane.shape) >= LEAST_SIDE_PX]
    if not frames:
        raise DataError(
            f"no good frame of at least {LEAST_SIDE_PX}×{LEAST_SIDE_PX} pixels", hint="look at the files"
        )
    chosen = [frames[index] for index in drawn([frame.view for frame in frames], MOST_FRAMES, seed)]
    planes = [np.ascontiguousarray(frame.plane, np.float32) for frame in chosen]
    views = [frame.view for frame in chosen]
    bits = min(frame.bits for frame in frames)
    parts = {frame.part for frame in frames if frame.part is not None}
    facts, symmetry = layout_of(planes, views)
    detail = [middle(plane) for plane in planes]
    return Survey(
        frames=len(frames),
        looked_at=len(chosen),
        parts=len(parts),
        views=len({frame.view for frame in frames}),
        bits=bits,
        sizes=sizes([frame.plane.shape for frame in frames], [plane.shape for plane in planes]),
        light=light_of(planes, views),
        texture=texture_of(detail, 2.0**bits),
        borders=borders_of(planes),
        layout=facts,
        symmetry=symmetry,
        colour_lost=colour,
    )


def drawn(views: Sequence[str], most: int, seed: int) -> list[int]:
    """At most so many indices, each view as often as the others as far as it has frames; sorted."""
    rng = np.random.default_rng(seed)
    by_view = {view: [k for k, name in enumerate(views) if name == view] for view in sorted(set(views))}
    queues = [list(rng.permutation(members)) for members in by_view.values()]
    rng.shuffle(queues)
    found: list[int] = []
    while len(found) < most and any(queues):
        for queue in queues:
            if queue and len(found) < most:
                found.append(int(queue.pop()))
    return sorted(found)


def sizes(shapes: Sequence[tuple[int, ...]], examples: Sequence[tuple[int, ...]]) -> Sizes:
    """Of all frames' (height, width)s, and of those looked at."""
    heights, widths = np.array(shapes).T
    return Sizes(
        height=int(np.median(heights)),
        width=int(np.median(widths)),
        least=(int(heights.min()), int(widths.min())),
        most=(int(heights.max()), int(widths.max())),
        all_equal=bool(np.ptp(heights) == 0 and np.ptp(widths) == 0),
        examples=tuple(sorted({(int(height), int(width)) for height, width in examples})),
    )


def middle(plane: FloatImage) -> FloatImage:
    """At most 1 megapixel of a plane, from its middle, at its own resolution."""
    h, w = plane.shape
    if h * w <= MOST_PIXELS:
        return plane
    share = (MOST_PIXELS / (h * w)) ** 0.5
    height, width = int(h * share), int(w * share)
    top, left = (h - height) // 2, (w - width) // 2
    return plane[top : top + height, left : left + width]


def colour_lost(pixels: NDArray[np.floating]) -> float:
    """Share of the variance of structure in (h, w, 3) RGB in 0..1 that grey (BT.601) does not show.

    The variance of the three channels around their mean over the frame, less what the grey value predicts of
    each by a straight line; 0 for grey pictures, however bright.
    """
    rgb = np.asarray(pixels, np.float32)
    fine = rgb - cv2.GaussianBlur(rgb, (0, 0), max(1.0, min(rgb.shape[:2]) / 8))
    values = fine.reshape(-1, 3)
    values = values - values.mean(axis=0)
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    total, of_grey = float(np.square(values).sum()), float(np.square(grey).sum())
    if total <= 1e-12:
        return 0.0
    explained = float(np.square(grey @ values).sum()) / of_grey if of_grey > 1e-12 else 0.0
    return float(np.clip(1 - explained / total, 0, 1))


__all__ = [
    "Border", "Layout", "Light", "Seen", "Sizes", "Survey", "Symmetry", "Texture",
    "colour_lost", "drawn", "middle", "sizes", "survey",
]  # fmt: skip
