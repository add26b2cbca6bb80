"""TIFF and BigTIFF: the directories are walked first (tiff_directory.py), then tifffile decodes.

Every page of the main chain is a picture, but thumbnails and masks are not. Integers of 1 to 32 bits, signed
or not, and floats; one sample or RGB; palettes become 16-bit RGB; extra samples (alpha) and the orientation
tag are ignored. MinSampleValue/MaxSampleValue, or SMinSampleValue/SMaxSampleValue, are the declared range
when both are written; otherwise the declared bits are, and floats mean 0..1. WhiteIsZero swaps low and high.
Uncompressed samples in the machine's byte order are not copied: the pixels are a view of the file's bytes.
"""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from edge.decode import tiff_directory
from edge.decode.decoder import Limits, Readable, Size
from edge.decode.jpeg import check_ends
from edge.errors import DataError
from edge.types import Picture

_MIN_SAMPLE, _MAX_SAMPLE, _S_MIN, _S_MAX = 280, 281, 340, 341
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_JPEG = 7
DIRECTORIES_A_PAGE = 4  # walked before a file is refused: a page may have a thumbnail and masks besides
_SOI = b"\xff\xd8"


@dataclass(frozen=True)
class TiffDecoder:
    """A TIFF file; see edge.decode.decoder.Decoder."""

    data: Readable  # bytes, unless only the size is asked for
    limits: Limits

    @functools.cached_property
    def _directories(self) -> list[tiff_directory.Directory]:
        most = DIRECTORIES_A_PAGE * self.limits.max_pages
        return [directory for directory in tiff_directory.directories(self.data, most) if directory.is_page]

    @property
    def size(self) -> Size:
        if not self._directories:
            raise tiff_directory.damaged("it holds no pages, only thumbnails or masks")
        largest = max(self._directories, key=lambda page: page.width * page.height)
        if not all(page.width and page.height for page in self._directories):
            raise tiff_directory.damaged("a page has no width or height")
        return Size(
            f"{largest.width}×{largest.height}",
            sum(page.width * page.height for page in self._directories),
            len(self._directories),
        )

    def check_complete(self) -> None:
        for directory in self._directories:
            for segment in tiff_directory.segments(self.data, directory):
                stored = self.data[segment.start : segment.end] if directory.compression == _JPEG else b""
                if stored.startswith(_SOI):
                    check_ends(stored)

    def pictures(self) -> list[Picture]:
        pages_at = [directory.at for directory in self._directories]
        data = self.data[:]
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            pages = [
                page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.offset in pages_at
            ]
            if len(pages) != len(pages_at):
                raise tiff_directory.damaged(f"{len(pages)} of {len(pages_at)} pages can be read")
            for page, directory in zip(pages, self._directories, strict=True):
                if (page.imagewidth, page.imagelength, page.imagedepth) != (
                    directory.width,
                    directory.height,
                    1,
                ):
                    raise tiff_directory.damaged("two sizes for one page")  # the budget was for the other
            return [_picture(page, _stored(page, data), n, len(pages)) for n, page in enumerate(pages)]


def _stored(page: Any, data: bytes) -> NDArray[Any]:
    """A page's samples, as tifffile arranges them."""
    view = _view(page, data)
    # one thread: the pool of worker processes already uses the cores
    return np.asarray(page.asarray(maxworkers=1)) if view is None else view


def _view(page: Any, data: bytes) -> NDArray[Any] | None:
    """A read-only view of the file's bytes; None unless the samples lie there one after another."""
    if not page.is_final or page.dtype is None:
        return None
    kind = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    count = math.prod(page.shape)
    view = np.frombuffer(data, kind, count, offset=page.dataoffsets[0]).reshape(page.shape)
    return np.require(view, requirements=["ALIGNED"])  # a copy, where it begins at an odd byte


def _picture(page: Any, stored: NDArray[Any], number: int, pages: int) -> Picture:
    pixels, bits = _arranged(page, stored, int(page.bitspersample))
    low, high = _declared_range(page, pixels, bits)
    if page.photometric == _WHITE_IS_ZERO:
        low, high = high, low
    return Picture(pixels, bits, low, high, page=number, pages=pages)


def _arranged(page: Any, stored: NDArray[Any], bits: int) -> tuple[NDArray[Any], int]:
    """(pixels as (h, w) or (h, w, 3) in a type Picture allows, bits)."""
    if page.photometric == _PALETTE:
        # colormap: (3, 2**bits) uint16
        return np.ascontiguousarray(np.moveaxis(page.colormap[:, stored], 0, -1), dtype=np.uint16), 16
    if page.axes == "SYX":
        stored = np.moveaxis(stored, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise _unsupported(f"axes {page.axes}")
    if page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        stored = stored if stored.ndim == 2 else stored[..., 0]
    elif page.photometric == _RGB or (page.photometric == _YCBCR and page.compression == _JPEG):
        stored = stored[..., :3]  # tifffile has libjpeg convert YCbCr
    else:
        raise _unsupported(f"photometric interpretation {page.photometric!r}")
    if stored.ndim == 3 and stored.shape[2] != 3:
        raise _unsupported(f"{stored.shape[2]} samples of RGB")
    return np.ascontiguousarray(stored, dtype=_type(stored)), bits


def _type(stored: NDArray[Any]) -> type[np.generic]:
    """The native type that holds these samples unchanged (64-bit floats are rounded to 32).

    Raises:
        DataError: "unsupported_format" for other types, "not_finite" for NaN and infinity: they would
            pass every comparison with a threshold.
    """
    if stored.dtype.kind == "b":
        return np.uint8
    if stored.dtype.kind == "f":
        if not np.isfinite(stored).all():
            raise DataError(
                "holds NaN or infinite pixels", hint="let the scanner fill gaps", reason="not_finite"
            )
        return np.float32
    held: dict[str, type[np.generic]] = {
        "u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "i1": np.int16, "i2": np.int16, "i4": np.int32,
    }  # fmt: skip
    key = f"{stored.dtype.kind}{stored.dtype.itemsize}"
    if key not in held:
        raise _unsupported(f"samples of type {stored.dtype}")
    return held[key]


def _declared_range(page: Any, pixels: NDArray[Any], bits: int) -> tuple[float, float]:
    """(low, high) before WhiteIsZero: as tags say, else from the declared bits."""
    for low_tag, high_tag in ((_S_MIN, _S_MAX), (_MIN_SAMPLE, _MAX_SAMPLE)):
        low, high = (_numbers(page, tag) for tag in (low_tag, high_tag))
        if low and high and np.isfinite([*low, *high]).all() and min(low) < max(high):
            return min(low), max(high)
    if pixels.dtype.kind == "f":
        return 0.0, 1.0
    if pixels.dtype.kind == "i":
        return -float(2 ** (bits - 1)), float(2 ** (bits - 1) - 1)
    return 0.0, float(2**bits - 1)


def _numbers(page: Any, tag: int) -> list[float]:
    value = page.tags.valueof(tag)
    values = value if isinstance(value, tuple | list) else () if value is None else (value,)
    return [float(number) for number in values]


def _unsupported(what: str) -> DataError:
    return DataError(f"TIFF with {what} is not read", hint="write grey or RGB", reason="unsupported_format")
