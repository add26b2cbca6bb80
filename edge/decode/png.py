"""PNG: chunks are walked to IEND with their CRCs, then png_rows.py decodes, or libpng (through imagecodecs).

png_rows.py, with libdeflate, reads 8 and 16 bits that are not interlaced and have no palette. Whatever is
not quite as it should be is left to libpng, which says what is wrong: imagecodecs rather than OpenCV, since
it refuses pixel data that ends early with an exception instead of a line on stderr, and channels are RGB.
bench/decoders.py compares them. Alpha and transparent colours are dropped: an inspector looks at what the
scanner stored, not at a composition. sBIT is ignored: stored samples span the full depth whatever it says.
Grey of 1, 2 and 4 bits keeps its stored values (0..1, 0..3, 0..15); palettes become 8-bit RGB. Chunks that no
pixel depends on never reach libpng: they are where its past vulnerabilities were.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from edge.decode import png_rows
from edge.decode.decoder import Size
from edge.errors import DataError, IncompleteError
from edge.types import Picture

_SIGNATURE_BYTES = 8
_HEADER = struct.Struct(">I4sIIBBBBB")  # length and type of IHDR, then its fields
_CHUNK = struct.Struct(">I4s")
_IHDR_BYTES, _IEND_BYTES = 25, 12  # of the whole chunks
_GREY, _PALETTE = 0, 3  # colour types; 4 is grey with alpha
_GREY_TYPES = (0, 4)
# colour type → depths (PNG, 3rd edition, table 8)
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # of what libpng gives for a colour type
_HARMLESS = "Interlace handling should be turned on"  # libpng then turns it on itself (png_read_image)
_ANCILLARY = 0x20  # this bit of a chunk's first letter says that decoders may do without it


@dataclass(frozen=True, slots=True)
class _Header:
    """What IHDR says."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what libpng makes of it: (h, w), or (h, w, channels) where there are several."""
        channels = _CHANNELS[self.colour]
        return (self.height, self.width) if channels == 1 else (self.height, self.width, channels)


@dataclass(frozen=True, slots=True)
class PngDecoder:
    """A PNG file; see edge.decode.decoder.Decoder."""

    data: bytes

    @property
    def size(self) -> Size:
        header = _header(self.data)
        return Size(f"{header.width}×{header.height}", header.width * header.height)

    def check_complete(self) -> None:
        """Walk the chunks to IEND (PNG, 3rd edition, section 5.3)."""
        _header(self.data)
        view = memoryview(self.data)
        # libdeflate's has wider instructions
        crc32: Any = imagecodecs.deflate_crc32 if imagecodecs.DEFLATE.available else zlib.crc32
        position, kind = _SIGNATURE_BYTES, b""
        while kind != b"IEND":
            if position + 12 > len(view):
                raise _cut(self.data, f"no IEND chunk; the last one was {kind.decode('ascii', 'replace')}")
            length, kind = _CHUNK.unpack_from(view, position)
            end = position + 12 + length
            if not kind.isalpha():
                raise _damaged(self.data, f"no chunk at byte {position}")
            if end > len(view):
                raise _cut(
                    self.data, f"chunk {kind.decode()} at byte {position} wants {end - len(view)} more"
                )
            stored = int.from_bytes(view[end - 4 : end], "big")
            if crc32(view[position + 4 : end - 4]) != stored:
                raise _damaged(self.data, f"wrong checksum in chunk {kind.decode()} at byte {position}")
            position = end

    def pictures(self) -> list[Picture]:
        header = _header(self.data)
        depth = header.depth
        pixels = _by_rows(self.data, header)
        if pixels is None:
            pixels = _by_libpng(self.data, header)
        if pixels.ndim == 3:  # drop alpha, which comes last
            pixels = pixels[..., 0] if header.colour in _GREY_TYPES else pixels[..., :3]
        if header.colour == _PALETTE:
            depth = 8
        if depth < 8:
            pixels = pixels // (255 // (2**depth - 1))  # libpng spreads them over 0..255
        return [Picture(np.ascontiguousarray(pixels), bits=depth, low=0, high=2**depth - 1)]


def _by_rows(data: bytes, header: _Header) -> NDArray[Any] | None:
    """(h, w) or (h, w, channels); None for what only libpng can read, or refuse."""
    if header.interlaced or header.depth < 8 or header.colour == _PALETTE:
        return None
    if not imagecodecs.DEFLATE.available:  # a build without libdeflate
        return None
    first, *between, last = _critical(data)
    sizes = len(first), len(last)
    if sizes != (_IHDR_BYTES, _IEND_BYTES) or any(bytes(chunk[4:8]) != b"IDAT" for chunk in between):
        return None
    compressed = b"".join(chunk[8:-4] for chunk in between)
    return png_rows.decode_rows(compressed, header.shape, header.depth)


def _by_libpng(data: bytes, header: _Header) -> NDArray[Any]:
    """(h, w) or (h, w, channels)."""
    pixels: NDArray[Any] = np.empty(header.shape, np.uint16 if header.depth == 16 else np.uint8)
    with _libpng_heard() as said:
        try:
            imagecodecs.png_decode(b"".join([data[:_SIGNATURE_BYTES], *_critical(data)]), out=pixels)
        except Exception:
            # imagecodecs never lets go of the array when libpng gives up (2026.3.6): a picture each time
            pixels.resize(0, refcheck=False)
            raise
    complaints = [complaint for complaint in said if _HARMLESS not in complaint]
    if complaints:  # more rows than announced, a wrong checksum within the compressed data
        raise _damaged(data, "; ".join(complaints).replace("PNG warning: ", ""))
    return pixels


@contextlib.contextmanager
def _libpng_heard() -> Iterator[list[str]]:
    """What libpng only warns of, which imagecodecs logs; not safe with threads, as `decode` is not."""
    complaints: list[str] = []
    logger, handler = logging.getLogger("imagecodecs"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    before = logger.disabled, logger.propagate, logger.level
    logger.disabled, logger.propagate = False, False
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield complaints
    finally:
        logger.removeHandler(handler)
        logger.disabled, logger.propagate = before[:2]
        logger.setLevel(before[2])


def _header(data: bytes) -> _Header:
    """The fields of IHDR, which must come first."""
    if len(data) < _SIGNATURE_BYTES + _HEADER.size:
        raise _cut(data, "the header is not all there")
    _, kind, width, height, depth, colour, *methods = _HEADER.unpack_from(data, _SIGNATURE_BYTES)
    if kind != b"IHDR" or not width or not height:
        raise _damaged(data, "no valid IHDR chunk")
    if depth not in _DEPTHS.get(colour, ()) or methods not in ([0, 0, 0], [0, 0, 1]):
        raise _damaged(data, f"IHDR says depth {depth}, colour type {colour}, methods {methods}")
    return _Header(width, height, depth, colour, interlaced=methods[2] == 1)


def _critical(data: bytes) -> list[memoryview]:
    """The chunks that pixels depend on, whole, up to and with IEND; all of them were walked before."""
    view = memoryview(data)
    found: list[memoryview] = []
    position, kind = _SIGNATURE_BYTES, b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack_from(view, position)
        if not kind[0] & _ANCILLARY:
            found.append(view[position : position + 12 + length])
        position += 12 + length
    return found


def _cut(data: bytes, what: str) -> IncompleteError:
    return IncompleteError(
        f"PNG cut off after {len(data)} bytes: {what}", hint="wait for the rest of the file"
    )


def _damaged(data: bytes, what: str) -> DataError:
    if data.endswith(bytes(16)):  # a copy that reserved the space first and has not filled it
        return _cut(data, f"{what}, and only zeros at the end")
    return DataError(f"PNG damaged: {what}", hint="copy the file again from the scanner", reason="corrupt")
