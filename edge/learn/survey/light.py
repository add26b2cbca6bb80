"""How bright frames are, how evenly lit, and what of them is mere background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edge.types import FloatImage

BLACK, WHITE = 0.05, 0.95  # of the scale: nothing of a part is to be seen below, or above
SATURATED = 0.5 / 255  # from either end of the scale
LEAST_BACKGROUND = 0.01  # of a frame: smaller regions are not called background
COARSE_CELLS = 8  # along a side: the large-scale part of a frame
DARKEST = 0.5 / 255  # a median below this is of a black background, and has no logarithm
STRIDED_PX = 256  # quantiles are taken from about so many rows and columns


@dataclass(frozen=True, slots=True)
class Light:
    """Facts of exposure and illumination; grey in 0..1, the rest relative."""

    median: float  # of the frames' medians; without dark background, as are the next three
    exposure_within: float  # a frame's median against its view's: 0.15 means that 9 of 10 are within ±15 %
    exposure_between: float  # views' medians against their mean, the farthest
    gain_like: float  # share of what the quartiles vary that falls out when frames are divided by the median
    dark_median: float  # share of frames whose whole median is as dark as background
    clipped_by_median: float  # share of pixels that would be lost above white when divided by it
    uneven: float  # standard deviation of a frame's large-scale part, relative to its mean
    uneven_varying: float  # the same of what differs from frame to frame of a view
    black: float  # share of pixels at the lower end of the scale
    saturated: float  # … at the upper end
    dark_background: float  # share of a frame, in dark regions that touch its border
    bright_background: float  # … in bright ones


def light_of(planes: Sequence[FloatImage], views: Sequence[str]) -> Light:
    """Facts of (h, w) planes in 0..1, and the view of each."""
    shares = np.array([_shares(plane) for plane in planes])
    quartiles = np.array([_quartiles(plane, dark) for plane, dark in zip(planes, shares[:, 3], strict=True)])
    within, between = _exposure(quartiles[:, 1], views)
    coarse = np.stack([_coarse(plane) for plane in planes])
    return Light(
        median=float(np.median(quartiles[:, 1])),
        exposure_within=within,
        exposure_between=between,
        gain_like=_gain_like(quartiles),
        dark_median=float(np.mean([np.median(_strided(plane)) <= BLACK for plane in planes])),
        clipped_by_median=float(shares[:, 0].mean()),
        uneven=float(np.median(coarse.std(axis=(1, 2)))),
        uneven_varying=_varying(coarse, views),
        black=float(shares[:, 1].mean()),
        saturated=float(shares[:, 2].mean()),
        dark_background=float(np.median(shares[:, 3])),
        bright_background=float(np.median(shares[:, 4])),
    )


def _quartiles(plane: FloatImage, dark_background: float) -> np.ndarray:
    """Of what is not dark background, if there is any."""
    seen = _strided(plane)
    if dark_background and (seen > BLACK).any():
        seen = seen[seen > BLACK]
    return np.percentile(seen, (25, 50, 75))


def _exposure(medians: np.ndarray, views: Sequence[str]) -> tuple[float, float]:
    """Within and between views, from the logarithms of the frames' medians."""
    logs = np.log(np.maximum(medians, DARKEST))
    centres = {view: float(np.median(logs[_of(views, view)])) for view in set(views)}
    off = np.abs(logs - np.array([centres[view] for view in views]))
    overall = float(np.mean(list(centres.values())))
    farthest = max(abs(centre - overall) for centre in centres.values())
    # one frame a view differs from nothing
    return float(np.expm1(np.quantile(off, 0.9))), float(np.expm1(farthest))


def _gain_like(quartiles: np.ndarray) -> float:
    """1: frames differ by a factor, as exposures do. 0: not at all, as different contents do."""
    logs = np.log(np.maximum(quartiles, DARKEST))
    before = float(logs[:, [0, 2]].var(axis=0).sum())
    if before < 1e-8:
        return 0.0
    after = float((logs[:, [0, 2]] - logs[:, [1]]).var(axis=0).sum())
    return float(np.clip(1 - after / before, 0, 1))


def _varying(coarse: np.ndarray, views: Sequence[str]) -> float:
    """What is left of the large-scale parts (n, 8, 8) when their view's mean is taken off."""
    left = []
    for view in set(views):
        members = coarse[_of(views, view)]
        if len(members) > 1:
            bessel = np.sqrt(len(members) / (len(members) - 1))
            left.extend((members - members.mean(axis=0)).std(axis=(1, 2)) * bessel)
    return float(np.median(left)) if left else 0.0


def _coarse(plane: FloatImage) -> FloatImage:
    """(8, 8) means of cells, relative to the plane's mean."""
    small: FloatImage = cv2.resize(plane, (COARSE_CELLS, COARSE_CELLS), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]  # float32
    return small / max(DARKEST, float(small.mean()))


def _shares(plane: FloatImage) -> tuple[float, float, float, float, float]:
    """Above twice the median, at either end of the scale, in dark and in bright background."""
    seen = _strided(plane)
    clipped = float(((seen > 2 * np.median(seen)) & (seen < 1 - SATURATED)).mean())
    black, white = float((seen <= SATURATED).mean()), float((seen >= 1 - SATURATED).mean())
    small = _smoothed(plane)
    return clipped, black, white, _at_border(small <= BLACK), _at_border(small >= WHITE)


def _smoothed(plane: FloatImage) -> FloatImage:
    """At most 256 px a side, so that specks and noise are no background."""
    scale = min(1.0, STRIDED_PX / max(plane.shape))
    size = (max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale)))
    small = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    return cv2.blur(small, (3, 3))  # type: ignore[return-value]  # float32


def _at_border(where: np.ndarray) -> float:
    """Share of the plane in connected regions of `where` that touch its border and are not small."""
    count, regions, stats, _ = cv2.connectedComponentsWithStats(where.astype(np.uint8), connectivity=4)
    rim = np.zeros(count, np.bool_)
    for side in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        rim[np.unique(side)] = True
    rim[0] = False  # what is not in `where`
    areas = stats[:, cv2.CC_STAT_AREA] / where.size
    return float(areas[rim & (areas >= LEAST_BACKGROUND)].sum())


def _strided(plane: FloatImage) -> FloatImage:
    """Every pixel of small planes, some of large ones: enough for quantiles."""
    step = max(1, min(plane.shape) // STRIDED_PX)
    return plane[::step, ::step]


def _of(views: Sequence[str], view: str) -> np.ndarray:
    return np.array([name == view for name in views])
