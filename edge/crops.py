"""Which parts of a frame are kept: all of it, rectangles from a table, or the objects of a mask."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from edge.dataset import Sample
from edge.errors import DataError, MissingInputError
from edge.preprocess import PreprocessSpec, to_plane
from edge.types import FloatImage, Mask, Picture

COLUMNS = ("path", "x", "y", "w", "h")
MARGIN_PX = 16  # around the objects of a mask
LEAST_PX = 64 * 64  # objects of fewer pixels than a fragment are specks


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A part of a frame, in the frame's own pixels."""

    x: int
    y: int
    w: int
    h: int
    name: str = ""


class Cropper(Protocol):
    """Chooses the parts of a frame."""

    def key(self, sample: Sample) -> str:
        """What the choice depends on besides the frame's pixels; equal keys give equal crops."""
        ...

    def __call__(self, sample: Sample, picture: Picture) -> Iterable[Rectangle]:
        """The parts of a page, inside it. Raises DataError."""
        ...


class WholeFrames:
    """Keeps all of every frame."""

    def key(self, sample: Sample) -> str:
        return "whole"

    def __call__(self, sample: Sample, picture: Picture) -> Iterable[Rectangle]:
        height, width = picture.pixels.shape[:2]
        return [Rectangle(0, 0, width, height)]


@dataclass(frozen=True, slots=True)
class ListedCrops:
    """Rectangles of a table; frames that it does not name have none."""

    source: Path
    rows: Mapping[Path, Sequence[Rectangle]]  # resolved file → its rectangles

    def key(self, sample: Sample) -> str:
        return repr([astuple(row) for row in self.rows.get(sample.file, ())])

    def __call__(self, sample: Sample, picture: Picture) -> Iterable[Rectangle]:
        height, width = picture.pixels.shape[:2]
        for row in self.rows.get(sample.file, ()):
            if row.x + row.w > width or row.y + row.h > height:
                raise DataError(
                    f"{sample.path}: rectangle {row.x},{row.y},{row.w},{row.h} of {self.source} reaches "
                    f"beyond its {width}×{height} pixels",
                    hint="rectangles are x,y,w,h in the frame's own pixels",
                    reason="crop_outside",
                )
        return self.rows.get(sample.file, ())


@dataclass(frozen=True, slots=True)
class MaskedCrops:
    """The box around every object of a mask, with a margin."""

    mask_of: Callable[[FloatImage], Mask]  # (h, w) float32 plane in 0..1 → (h', w') bool, of any size
    name: str  # of the mask's network or rule, with its digest: it is part of the key
    margin_px: int = MARGIN_PX
    least_px: int = LEAST_PX

    def key(self, sample: Sample) -> str:
        return f"mask {self.name} {self.margin_px} {self.least_px}"

    def __call__(self, sample: Sample, picture: Picture) -> Iterable[Rectangle]:
        plane = to_plane(picture, PreprocessSpec())
        found = objects(self.mask_of(plane), (plane.shape[0], plane.shape[1]), self.margin_px, self.least_px)
        if not found:
            raise DataError(
                f"{sample.path}: no object of {self.least_px} pixels in it",
                hint="give its rectangle with --crops, or leave the frame out",
                reason="no_object",
            )
        return found


def objects(mask: Mask, shape: tuple[int, int], margin_px: int, least_px: int) -> list[Rectangle]:
    """The boxes around a mask's connected regions, from left to right, in a frame of `shape` (h, w).

    `margin_px` and `least_px` are in pixels of the frame, whatever the mask's own size.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=8)
    height, width = shape
    sy, sx = height / mask.shape[0], width / mask.shape[1]
    found = []
    for x, y, w, h, area in np.asarray(stats)[1:].tolist():
        if area * sx * sy < least_px:
            continue
        left, top = max(0, int(x * sx) - margin_px), max(0, int(y * sy) - margin_px)
        right = min(width, int(np.ceil((x + w) * sx)) + margin_px)
        bottom = min(height, int(np.ceil((y + h) * sy)) + margin_px)
        found.append(Rectangle(left, top, right - left, bottom - top))
    return sorted(found, key=lambda box: (box.x, box.y))


def read_crops(file: Path, samples: Sequence[Sample]) -> ListedCrops:
    """The rectangles of a CSV with the header `path,x,y,w,h[,name]`; paths as the frames are named, relative
    to the CSV, or absolute.

    Raises:
        MissingInputError: the table is not there. DataError: a row is bad, or names no frame; as file:line.
    """
    known = {s.path: s.file for s in samples} | {str(s.file): s.file for s in samples}
    rows: dict[Path, list[Rectangle]] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True, skipinitialspace=True)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise DataError(
                    f"{file}:1: no column {', '.join(missing)}", hint="the header is path,x,y,w,h,name"
                )
            for row in reader:
                where = f"{file}:{reader.line_num}"
                target = known.get(row["path"]) or known.get(str((file.parent / row["path"]).resolve()))
                if target is None:
                    raise DataError(f"{where}: {row['path']}: not among the frames", hint="mend the path")
                rows.setdefault(target, []).append(_rectangle(where, row))
    except FileNotFoundError:
        raise MissingInputError(f"{file}: no such table of crops", hint="check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}", hint="a CSV in UTF-8 is needed") from None
    return ListedCrops(file, rows)


def _rectangle(where: str, row: Mapping[str, str]) -> Rectangle:
    try:
        x, y, w, h = (int(row[name] or "") for name in COLUMNS[1:])
    except (TypeError, ValueError):
        raise DataError(f"{where}: x, y, w, h are not whole numbers", hint="pixels of the frame") from None
    if x < 0 or y < 0 or w < 1 or h < 1:
        raise DataError(f"{where}: {x},{y},{w},{h} is no rectangle", hint="x, y ≥ 0 and w, h ≥ 1")
    return Rectangle(x, y, w, h, (row.get("name") or "").strip())
