"""BMP: the pixel array must lie within the file, then OpenCV decodes.

Palettes become grey or RGB of 8 bits, 16-bit colours are spread over 8 bits a channel, and an alpha
channel is dropped. Run-length-coded bitmaps are refused: their size cannot be checked from the header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.decode.decoder import Size
from edge.errors import DataError, IncompleteError
from edge.types import Picture

_FILE_HEADER = struct.Struct("<2sIHHI")
_UNCOMPRESSED = (0, 3, 6)  # BI_RGB, BI_BITFIELDS, BI_ALPHABITFIELDS


@dataclass(frozen=True, slots=True)
class _Header:
    file_bytes: int  # 0: not stated
    pixels_at: int
    width: int
    height: int
    bits_per_pixel: int
    compression: int


@dataclass(frozen=True, slots=True)
class BmpDecoder:
    """A BMP file; see edge.decode.decoder.Decoder."""

    data: bytes

    @property
    def size(self) -> Size:
        header = _header(self.data)
        return Size(f"{header.width}×{header.height}", header.width * header.height)

    def check_complete(self) -> None:
        header = _header(self.data)
        if header.compression not in _UNCOMPRESSED:
            raise DataError(
                f"BMP compression {header.compression} is not read",
                hint="write it uncompressed, or as PNG",
                reason="unsupported_format",
            )
        row_bytes = (header.width * header.bits_per_pixel + 31) // 32 * 4  # rows are padded to 32 bits
        needed = max(header.pixels_at + row_bytes * header.height, header.file_bytes)
        if len(self.data) < needed:
            raise _cut(self.data, f"{needed} announced")

    def pictures(self) -> list[Picture]:
        before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its stderr says no more
        try:
            pixels: NDArray[Any] | None = cv2.imdecode(
                np.frombuffer(self.data, np.uint8), cv2.IMREAD_UNCHANGED
            )
        finally:
            cv2.utils.logging.setLogLevel(before)
        if pixels is None:
            raise DataError("OpenCV cannot read this BMP", hint="write it as 8 or 24 bits, or as PNG")
        if pixels.ndim == 3:
            pixels = pixels[..., 2::-1]  # BGR or BGRA → RGB
        return [Picture(np.ascontiguousarray(pixels), bits=8, low=0, high=255)]


def _header(data: bytes) -> _Header:
    if len(data) < 26:
        raise _cut(data, "the header is not all there")
    _, file_bytes, _, _, pixels_at = _FILE_HEADER.unpack_from(data)
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:  # OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif 40 <= header_bytes <= 124:
        if len(data) < 14 + header_bytes:
            raise _cut(data, "the header is not all there")
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise DataError(
            f"starts like BMP, but has a header of {header_bytes} bytes", reason="unsupported_format"
        )
    if width <= 0 or height == 0:
        raise DataError(f"BMP of {width}×{height} pixels", reason="corrupt")
    return _Header(file_bytes, pixels_at, width, abs(height), bits, compression)  # height < 0: top row first


def _cut(data: bytes, what: str) -> IncompleteError:
    return IncompleteError(
        f"BMP cut off after {len(data)} bytes: {what}", hint="wait for the rest of the file"
    )
