"""The common kinds of PNG without zlib: libdeflate inflates in one call, then the rows are unfiltered.

libpng inflates through zlib's streaming interface, which takes longer than everything else it does. Here the
whole zlib stream is inflated at once, and bands of rows that stay in the cache are unfiltered: those without
Average and Paeth in arrays, those with them by libpng, which gets each band as a small PNG of stored (not
compressed) blocks. bench/decoders.py has the figures.
"""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

_SUB, _UP, _PAETH = 1, 2, 4  # filter types (PNG, 3rd edition, section 9.2); 0 is None, 3 Average
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels
_BAND_BYTES = 2**18  # a band, its copies and its pixels: within the second-level cache
_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Bytes = NDArray[np.uint8]
codecs: Any = imagecodecs  # its annotations leave out that arrays are as good as bytes


def decode_rows(compressed: bytes, shape: tuple[int, ...], depth: int) -> NDArray[Any] | None:
    """Pixels of `shape`, (h, w) or (h, w, channels), as uint8 or uint16, from a PNG's zlib stream.

    The PNG is not interlaced, and `depth` is 8 or 16. None unless the stream is exactly that picture, with
    its right checksum: libpng then says what is wrong.
    """
    height, width, channels = (*shape, 1)[:3]
    pixel_bytes = channels * depth // 8
    row_bytes = width * pixel_bytes
    # Pixels replace the stored rows in place. Stored rows have a filter byte each, so that pixels never catch
    # up with them; the row of zeros in front is what the first row is filtered against.
    memory = np.empty(row_bytes + height * (1 + row_bytes), np.uint8)
    memory[:row_bytes] = 0
    stored = memory[row_bytes:]
    if not _inflate(compressed, stored):
        return None
    filtered = stored.reshape(height, 1 + row_bytes)
    if filtered[:, 0].max() > _PAETH:
        return None
    pixels = memory[: (height + 1) * row_bytes].reshape(height + 1, row_bytes)
    step = max(1, _BAND_BYTES // row_bytes)
    for first in range(0, height, step):
        band = filtered[first : first + step].copy()
        into = pixels[first : first + len(band) + 1]  # its first row is there already
        if (band[:, 0] <= _UP).all():
            _unfilter_in_arrays(band, into, pixel_bytes, depth)
        else:
            _unfilter_by_libpng(band, into, (width, channels), depth)
    return pixels[1:].view(f"u{depth // 8}").reshape(shape)


def _inflate(compressed: bytes, into: Bytes) -> bool:
    """Whether the stream has exactly as many bytes as fit, a right Adler-32, and nothing behind it."""
    try:
        inflated = codecs.deflate_decode(compressed, out=into)
    except codecs.DeflateError:
        return False
    checksum = int.from_bytes(compressed[-4:], "big")  # checked already, unless other bytes follow it
    return bool(inflated.size == into.size and codecs.deflate_adler32(into) == checksum)


def _unfilter_in_arrays(band: Bytes, into: Bytes, pixel_bytes: int, depth: int) -> None:
    """Rows of the filters None, Sub and Up: sums of bytes modulo 256, along the row or down the column.

    band: (n, 1 + row bytes), filtered. into: (1 + n, row bytes), of which the first row is given.
    """
    before = _swapped(into[:1], depth)[0]  # sums are of bytes as the file has them: big-endian
    filters, rows, done = band[:, 0], band[:, 1:], into[1:]
    starts = np.flatnonzero(np.diff(filters, prepend=255))
    for start, end in zip(starts, [*starts[1:], len(band)], strict=True):
        if filters[start] == _UP:
            for number in range(start, end):
                before = np.add(rows[number], before, out=done[number])
            continue
        if filters[start] == _SUB:
            shape = (end - start, -1, pixel_bytes)
            codecs.delta_decode(rows[start:end].reshape(shape), axis=1, out=done[start:end].reshape(shape))
        else:
            done[start:end] = rows[start:end]
        before = done[end - 1]
    done[:] = _swapped(done, depth)


def _unfilter_by_libpng(band: Bytes, into: Bytes, layout: tuple[int, int], depth: int) -> None:
    """Rows of any filters; `band` and `into` as above, layout: (width, channels)."""
    width, channels = layout
    given = np.concatenate([np.zeros((1, 1), np.uint8), _swapped(into[:1], depth)], axis=1)  # filter None
    rows = codecs.deflate_encode(np.concatenate([given, band]), level=0)
    header = struct.pack(">IIBBBBB", width, len(into), depth, _COLOUR_TYPES[channels], 0, 0, 0)
    png = b"".join([_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", rows), _chunk(b"IEND", b"")])
    shape = (len(into), width) if channels == 1 else (len(into), width, channels)
    codecs.png_decode(png, out=into.view(f"u{depth // 8}").reshape(shape))


def _swapped(rows: Bytes, depth: int) -> Bytes:
    """Bytes of native samples in the file's order, or the other way round; 8-bit samples have none."""
    return rows if depth == 8 else rows.view(">u2").astype("=u2").view(np.uint8)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = codecs.deflate_crc32(content, codecs.deflate_crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
