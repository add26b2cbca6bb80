"""Real defects cut out of their frames, to be planted on good windows as synthetic anomalies are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from edge.dataset import Unreadable, frames, read_folder
from edge.learn.anomalies.fills import DefectCrop
from edge.learn.labels import LabelledPlane
from edge.learn.specimens import Reading
from edge.types import Box, FloatImage

MARGIN_PX = 8  # of what lies around a defect: its contrast is told from it
LEAST_PX = 4  # of a defect's area: less is noise of the mask
MOST_CROPS = 400  # the largest ones: more would not be seen in a run, and take memory


def crops_of(labelled: Sequence[LabelledPlane], most_px: int) -> tuple[DefectCrop, ...]:
    """Every connected defect of frames with masks, the largest first; in pieces beyond `most_px` a side.

    Of what touches a defect's box, only the defect itself is under its cover.
    """
    found: list[tuple[int, DefectCrop]] = []
    for frame in labelled:
        _, names, stats, _ = cv2.connectedComponentsWithStats(
            (frame.truth > 0).astype(np.uint8), connectivity=8
        )
        for name in range(1, len(stats)):
            x, y, w, h, area = (int(value) for value in stats[name])
            if area < LEAST_PX:
                continue
            for left, top, width, height in _pieces((x, y, w, h), most_px):
                rows, columns = _around(top, height, names.shape[0]), _around(left, width, names.shape[1])
                cover = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)
                inner = (
                    slice(top - rows.start, top - rows.start + height),
                    slice(left - columns.start, left - columns.start + width),
                )
                cover[inner] = names[top : top + height, left : left + width] == name
                if cover.sum() >= LEAST_PX:
                    window = frame.plane[rows, columns].astype(np.float32)
                    found.append((int(cover.sum()), DefectCrop(window, cover)))
    found.sort(key=lambda entry: -entry[0])
    return tuple(crop for _, crop in found[:MOST_CROPS])


def given_crops(folder: Path, how: Reading, unreadable: list[Unreadable]) -> tuple[DefectCrop, ...]:
    """Every picture below a folder as a crop of a defect; what cannot be read is added to `unreadable`.

    They are brought to the planes' scale, but to no size, and have no foreground.

    Raises:
        DataError: no picture is there.
    """
    spec = how.preprocess.model_copy(update={"size_px": None, "mask": None})
    wanted = read_folder(folder, None).samples
    return tuple(
        whole_crop(frame.plane) for _, frame in frames(wanted, spec, how.limits, unreadable=unreadable)
    )


def whole_crop(plane: FloatImage) -> DefectCrop:
    """A picture that shows a defect and little else (h, w): what is inside an ellipse in it is the defect."""
    height, width = plane.shape
    cover = np.zeros((height, width), np.float32)
    middle, axes = (width // 2, height // 2), (max(1, round(0.45 * width)), max(1, round(0.45 * height)))
    cv2.ellipse(cover, middle, axes, 0, 0, 360, 1.0, -1)
    return DefectCrop(plane.astype(np.float32), cover)


def _pieces(box: Box, most_px: int) -> Iterator[Box]:
    """A box (x, y, w, h), cut into equal ones no larger than `most_px`."""
    x, y, w, h = box
    columns, rows = -(-w // most_px), -(-h // most_px)
    for row in range(rows):
        for column in range(columns):
            left, top = x + w * column // columns, y + h * row // rows
            yield left, top, x + w * (column + 1) // columns - left, y + h * (row + 1) // rows - top


def _around(start: int, length: int, of: int) -> slice:
    return slice(max(0, start - MARGIN_PX), min(of, start + length + MARGIN_PX))
