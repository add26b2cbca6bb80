"""Frames in one HDF5 file: what a scanner stored in thousands of DICOM files, as grey levels to learn from.

Layout, version 1:

    /                        attributes format = "edge-frames", version, bits (8 or 16), frames (how many)
    /frames/000000           a source file. Attributes: key, path, sha256, label, part, view, defect, split
    /frames/000000/tags      the file's DICOM tags, as JSON text
    /frames/000000/00_0000   page 0, crop 0. Attributes: page, pages; x, y, w, h in the frame's own pixels,
                             name; and what the source declared: width, height, source_bits, low, high,
                             photometric, clipped (pixels outside low…high)
        pixels               (h, w) or (h, w, 3) uint8 or uint16, in chunks of at most 256×256
        truth                (h, w) uint8, 1 where the sample's mask says defect; only where it has a mask

Stored values are mapped linearly from the declared `low`…`high` to 0…2^bits − 1, so MONOCHROME1 is turned
and bright is bright; `value = low + stored · (high − low) / (2^bits − 1)`, rounded, gives the source's values
back (all of them, with 16 bits, where the source's integers range over 16 bits or fewer). What lies outside
low…high is clipped, as it is in inspection.

HDF5 cannot be trusted after a kill in the middle of a write. So each source file is first written into a part
of its own, `.STORE.parts/KEY.h5`, temp → fsync → rename; that a part has its name says that it is whole. When
all are there they are copied into a new store, which replaces the old one by a rename. A kill costs the frame
that was being written; the same command goes on with the next. One file's pages are in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from edge.crops import Rectangle
from edge.dataset import ANY_DEFECT, Label, Sample
from edge.errors import DataError, MissingInputError, UnavailableError
from edge.types import Mask, Picture

FORMAT, VERSION = "edge-frames", 1
ABOUT = ("label", "part", "view", "defect", "split")  # of a sample; empty where unknown
SOURCE = ("width", "height", "source_bits", "low", "high", "photometric", "clipped")


@dataclass(frozen=True, slots=True)
class StoredCrop:
    """A crop of a store that is open. `pixels` and `truth` are read when sliced."""

    name: str  # PATH, or PATH#CROP where a file has several
    sample: Sample  # as it was packed; its file is the store
    box: Rectangle
    pixels: Any  # h5py dataset (h, w) or (h, w, 3), uint8 or uint16
    truth: Any | None  # h5py dataset (h, w), non-zero is defect
    sha256: str  # of the source file
    source: Mapping[str, Any]  # what it declared: width, height, source_bits, low, high, photometric, clipped
    page: int
    pages: int
    tags: Mapping[str, str]

    def picture(self) -> Picture:
        """The crop as if it had just been decoded: the normal preprocessing runs on it."""
        bits = 8 * self.pixels.dtype.itemsize
        return Picture(
            self.pixels[()], bits, 0.0, float(2**bits - 1), page=self.page, pages=self.pages, tags=self.tags
        )

    def mask(self) -> Mask:
        """(h, w) True where there is a defect; all False where the sample had no mask."""
        if self.truth is None:
            return np.zeros(self.pixels.shape[:2], bool)
        return np.asarray(self.truth[()], bool)

    def value_range(self, wanted: tuple[float, float] | None) -> tuple[float, float] | None:
        """Black and white in values of the source → in values of the store."""
        low, high = float(self.source["low"]), float(self.source["high"])
        if wanted is None or low == high:
            return None
        top = 2 ** (8 * self.pixels.dtype.itemsize) - 1
        black, white = ((value - low) / (high - low) * top for value in wanted)
        return black, white


@contextmanager
def open_store(file: Path) -> Iterator[Iterator[StoredCrop]]:
    """The crops of a store, in the order they were packed; valid while inside.

    Raises:
        MissingInputError: not there. DataError: not a store, cut short, or of another version.
    """
    with _opened(file) as handle:
        yield (_crop(file, handle, name, place) for name, place in _names(handle))


def stored_samples(file: Path) -> tuple[Sample, ...]:
    """A sample for every crop: its file is the store, its path the crop's name. `load_crop` takes these two.

    Raises:
        MissingInputError, DataError: as `open_store`.
    """
    with open_store(file) as crops:
        return tuple(crop.sample for crop in crops)


def load_crop(file: Path, name: str) -> StoredCrop:
    """One crop by its name, in memory: its `pixels` and `truth` are arrays.

    Raises:
        MissingInputError, DataError: as `open_store`; DataError: no crop of that name.
    """
    with _opened(file) as handle:
        status = file.stat()
        place = _places(file, status.st_mtime_ns, status.st_size).get(name)
        if place is None:
            raise DataError(f"{file}: no crop {name}", hint="pack it again", reason="vanished")
        crop = _crop(file, handle, name, place)
        truth = None if crop.truth is None else crop.truth[()]
        return replace(crop, pixels=crop.pixels[()], truth=truth)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The HDF5 file, once it is clear that it is a whole store."""
    h5py = h5py_library()
    if not file.is_file():
        raise MissingInputError(f"{file}: no such store", hint="make it with `edge pack`")
    try:
        handle = h5py.File(file, "r")
    except OSError as error:
        raise DataError(
            f"{file}: no HDF5 file, or cut short: {error}", hint="copy it again, or pack it again"
        ) from None
    with handle:
        about = handle.attrs
        if about.get("format") != FORMAT or about.get("version") != VERSION:
            raise DataError(
                f"{file}: not a store of version {VERSION}", hint="make it with `edge pack`", reason="corrupt"
            )
        if len(handle["frames"]) != about["frames"]:
            raise DataError(f"{file}: frames are missing", hint="copy or pack it again", reason="corrupt")
        yield handle


def _names(handle: Any) -> Iterator[tuple[str, str]]:
    """Each crop's name and its group below /frames, in order."""
    for key, frame in handle["frames"].items():
        groups = [name for name in frame if name != "tags"]
        path = str(frame.attrs["path"])
        for group in groups:
            yield (f"{path}#{group}" if len(groups) > 1 else path), f"{key}/{group}"


@lru_cache(maxsize=4)
def _places(file: Path, mtime_ns: int, size_bytes: int) -> Mapping[str, str]:
    """Name → group, of a store that looks like this to `stat`."""
    with _opened(file) as handle:
        return dict(_names(handle))


def _crop(file: Path, handle: Any, name: str, place: str) -> StoredCrop:
    group = handle["frames"][place]
    frame, own = group.parent.attrs, dict(group.attrs)
    about = {key: str(frame[key]) for key in ABOUT}
    mask = file if group.get("truth") is not None else None
    marked = mask is not None and about["label"] == "defect"
    return StoredCrop(
        name=name,
        sample=Sample(
            file=file,
            path=name,
            label=cast(Label, about["label"]),
            mask=mask,
            masks={about["defect"] or ANY_DEFECT: file} if marked else {},
            view=about["view"] or None,
            part=about["part"] or None,
            defect=about["defect"],
            split=about["split"],
        ),
        box=Rectangle(int(own["x"]), int(own["y"]), int(own["w"]), int(own["h"]), str(own["name"])),
        pixels=group["pixels"],
        truth=group.get("truth"),
        sha256=str(frame["sha256"]),
        source={key: own[key].item() if isinstance(own[key], np.generic) else own[key] for key in SOURCE},
        page=int(own["page"]),
        pages=int(own["pages"]),
        tags=json.loads(group.parent["tags"][()]),
    )


def h5py_library() -> Any:
    """The library, which only those need who pack or learn from stores.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise UnavailableError(
            "a store needs h5py, which is not installed",
            hint='pip install "edge-inspect[learn]"; a daemon needs it not',
            retryable=False,
        ) from None
    return h5py
