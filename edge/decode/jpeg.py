"""JPEG: markers are walked to the end of image, then libjpeg-turbo decodes.

libjpeg fills what is missing with grey and only warns. The walk finds files that end early; damage inside the
entropy-coded data is found by libjpeg-turbo in strict mode (simplejpeg), unless it still decodes. EXIF
orientation never rotates: the pixels stay as the sensor wrote them. Baseline, extended (8 and 12 bits),
progressive and lossless (up to 16 bits) are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from edge.decode.decoder import Size
from edge.errors import DataError, IncompleteError
from edge.types import Picture

_EOI, _SOS = 0xD9, 0xDA
_SOF = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # F7: JPEG-LS; not DHT, JPG, DAC
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF, 0xF7})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and RSTn have no length
# ends a scan: a marker which is neither a stuffed zero nor a restart (ITU-T T.81, B.1.1.5)
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_FILL = re.compile(rb"\xff*")
_MAX_SEGMENTS = 100_000  # a scan or a table each; encoders write some tens


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker and where its parameters lie; EOI has none."""

    marker: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a start-of-frame segment says."""

    width: int
    height: int
    bits: int
    components: int
    lossless: bool = False


@dataclass(frozen=True, slots=True)
class JpegDecoder:
    """A JPEG file; see edge.decode.decoder.Decoder."""

    data: bytes

    @property
    def size(self) -> Size:
        header = frame_header(self.data)
        return Size(f"{header.width}×{header.height}", header.width * header.height)

    def check_complete(self) -> None:
        check_ends(self.data)

    def pictures(self) -> list[Picture]:
        header = frame_header(self.data)
        if header.components not in (1, 3):
            raise DataError(
                f"JPEG with {header.components} colour components",
                hint="write grey or RGB; CMYK is not read",
                reason="unsupported_format",
            )
        pixels = decode_pixels(self.data, header)
        return [Picture(pixels, bits=header.bits, low=0, high=2**header.bits - 1)]


def decode_pixels(data: bytes, header: FrameHeader) -> NDArray[Any]:
    """(h, w) or (h, w, 3) RGB; what libjpeg only warns of is an error here where 8 bits allow it.

    Raises:
        DataError: "corrupt".
    """
    if header.bits != 8 or header.lossless:
        return np.ascontiguousarray(imagecodecs.jpeg8_decode(data))
    colour = "GRAY" if header.components == 1 else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(data, colour, strict=True)
    except ValueError as error:
        raise _damaged(str(error).removeprefix("Corrupt JPEG data: ")) from None
    return np.ascontiguousarray(pixels[..., 0] if header.components == 1 else pixels)


def check_ends(data: bytes) -> None:
    """Walk a JPEG stream to its EOI marker.

    Raises:
        IncompleteError: it ends before that.
        DataError: "corrupt": there is no marker where one must be, or no scan.
    """
    if not any(segment.marker == _SOS for segment in list(segments(data))):
        raise _damaged("no scan before the end of image")


def frame_header(data: bytes) -> FrameHeader:
    """Size and depth, from the first start-of-frame segment.

    Raises:
        IncompleteError: the stream ends before it.
        DataError: "corrupt".
    """
    for segment in segments(data):
        if segment.marker in (_SOS, _EOI):
            break
        if segment.marker in _SOF and segment.end - segment.start >= 6:
            bits, components = data[segment.start], data[segment.start + 5]
            height = int.from_bytes(data[segment.start + 1 : segment.start + 3], "big")
            width = int.from_bytes(data[segment.start + 3 : segment.start + 5], "big")
            if width and height:
                return FrameHeader(width, height, bits, components, segment.marker in _LOSSLESS)
    raise _damaged("no valid start-of-frame segment")


def segments(data: bytes) -> Iterator[Segment]:
    """The segments of a JPEG stream (ITU-T T.81, annex B), up to and with EOI."""
    position = 2
    for _ in range(_MAX_SEGMENTS):
        start = position
        fill = _FILL.match(data, position)  # a marker may be preceded by any number of fill bytes
        position = fill.end() if fill else start
        if position >= len(data):
            raise _cut(data, "no end-of-image marker")
        if position == start:
            raise _damaged(f"no marker at byte {position}")
        marker = data[position]
        position += 1
        if marker == _EOI:
            yield Segment(marker, position, position)
            return
        if marker in _STANDALONE:
            continue
        end = position + int.from_bytes(data[position : position + 2], "big")
        if position + 2 > len(data) or end > len(data):
            raise _cut(data, f"inside the segment of marker ff{marker:02x}")
        yield Segment(marker, position + 2, end)
        position = end
        if marker == _SOS:
            found = _SCAN_END.search(data, position)
            if not found:
                raise _cut(data, "inside a scan")
            position = found.start()
    raise _damaged(f"more than {_MAX_SEGMENTS} segments")


def _cut(data: bytes, what: str) -> IncompleteError:
    return IncompleteError(
        f"JPEG cut off after {len(data)} bytes: {what}", hint="wait for the rest of the file"
    )


def _damaged(what: str) -> DataError:
    return DataError(f"JPEG damaged: {what}", hint="copy the file again from the scanner", reason="corrupt")
