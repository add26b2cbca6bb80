"""A picture that shows which defect class is where: colours that everybody can tell apart, and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.types import FloatImage

Picture = NDArray[np.uint8]  # (h, w, 3) BGR
Binary = NDArray[np.uint8]  # (h, w): 0 or 1

# Okabe and Ito, "Color Universal Design" (2008), without black, which is no colour on a grey frame; as BGR.
# Neighbours in this order also differ in brightness
PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 94, 213),  # vermillion
    (233, 180, 86),  # sky blue
    (66, 228, 240),  # yellow
    (115, 158, 0),  # bluish green
    (167, 121, 204),  # reddish purple
    (178, 114, 0),  # blue
    (0, 159, 230),  # orange
    (255, 255, 255),  # white
)
FILL = 0.3  # of the colour in the frame: the defect itself stays visible
DARK = (20, 20, 20)  # below outlines, and the legend's ground
PX_A_LINE = 700  # of the frame's longer side, for each pixel of an outline's width


def class_overlay(
    plane: FloatImage,
    masks: NDArray[np.bool_],
    names: Sequence[str],
    areas_px: Mapping[str, int] | None = None,
) -> Picture:
    """The plane (h, w) in 0..1 in grey, each class filled and outlined in its colour, a legend below.

    `masks` are (classes, h, w), or of another size, which is then brought to the plane's. Outlines lie
    outside their regions, each class's further out than the one before: thin cracks are not covered, and of
    two classes in the same place both lines are seen. The picture is (h + the legend's height, w, 3): the
    legend hides no pixel either. `areas_px` are shown beside the names.
    """
    grey = (np.clip(plane, 0, 1) * 255).astype(np.uint8)
    picture: Picture = np.repeat(grey[..., None], 3, axis=2)
    width = max(1, round(max(plane.shape) / PX_A_LINE))
    fitted = [_fitted(mask, plane.shape) for mask in masks]
    for k, mask in enumerate(fitted):
        picture[mask > 0] = _mixed(picture[mask > 0], colour_of(k))
    for k, mask in enumerate(fitted):
        _outline(picture, mask, colour_of(k), width, outset_px=(k + 1) * (width + 2))
    return np.concatenate((picture, _legend(picture.shape[1], names, areas_px or {}, masks)))


def colour_of(k: int) -> tuple[int, int, int]:
    """BGR of class k; beyond eight classes they come again."""
    return PALETTE[k % len(PALETTE)]


def _fitted(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> Binary:
    """0 or 1, in the plane's size; a hair crack does not vanish when it is reduced."""
    height, width = shape
    if mask.shape == shape:
        return mask.astype(np.uint8)
    reduced = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(reduced > 0.05, np.uint8)


def _mixed(pixels: Picture, colour: tuple[int, int, int]) -> Picture:
    return np.asarray(np.rint(pixels * (1 - FILL) + np.array(colour) * FILL), np.uint8)


def _outline(
    picture: Picture, mask: Binary, colour: tuple[int, int, int], width: int, outset_px: int
) -> None:
    """Around each region and not on it, with a dark line below that shows it on bright ground."""
    around = cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=outset_px)
    edges, _ = cv2.findContours(around, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, edges, -1, DARK, width + 2)
    cv2.drawContours(picture, edges, -1, colour, width)


def _legend(
    width: int, names: Sequence[str], areas_px: Mapping[str, int], masks: NDArray[np.bool_]
) -> Picture:
    """A strip (height, width, 3): swatch, name and area of each class, in as many lines as are needed."""
    scale = min(1.0, max(0.35, width / 1600))
    texts = [f"{name}  {areas_px[name]:,} px" if name in areas_px else name for name in names]
    texts = [text.encode("ascii", "replace").decode() for text in texts]  # all that OpenCV can draw
    sizes = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0] for text in texts]
    row_px = int(36 * scale) + 6
    places, x, row = [], 6, 0
    for size in sizes:
        entry_px = row_px + size[0] + int(24 * scale)
        if x > 6 and x + entry_px > width:
            x, row = 6, row + 1
        places.append((x, row * row_px))
        x += entry_px
    strip: Picture = np.full(((row + 1) * row_px, width, 3), DARK, np.uint8)
    for k, (text, (left, top)) in enumerate(zip(texts, places, strict=True)):
        found = bool(masks[k].any())
        swatch = (left, top + 5), (left + row_px - 10, top + row_px - 5)
        cv2.rectangle(strip, *swatch, colour_of(k), -1 if found else 1)  # filled: there is some of it
        grey = (235, 235, 235) if found else (140, 140, 140)
        baseline = left + row_px, top + row_px // 2 + int(10 * scale)
        cv2.putText(strip, text, baseline, cv2.FONT_HERSHEY_SIMPLEX, scale, grey, 1, cv2.LINE_AA)
    return strip
