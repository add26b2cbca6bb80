"""TIFF's directories, read without a library: what must be in the file before anything is decoded.

tifffile fills missing strips with zeros and trusts the chain of directories; an inspector must not. This
walk follows TIFF 6.0 section 2 and the BigTIFF layout, and reads nothing but the header's numbers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edge.decode.decoder import Readable
from edge.errors import DataError, IncompleteError

_UNSIGNED = {
    1: "B",
    3: "H",
    4: "I",
    13: "I",
    16: "Q",
    18: "Q",
}  # field type → struct code, of offsets and sizes
_TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_NEW_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES = 254, 256, 257, 258, 259, 277
_STRIP_AT, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_AT, _TILE_BYTES = 322, 323, 324, 325
_UNCOMPRESSED = 1
_WANTED = frozenset(
    {_NEW_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _STRIP_AT, _ROWS_PER_STRIP, _STRIP_BYTES,
     _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_AT, _TILE_BYTES}
)  # fmt: skip
_MAX_ENTRIES = 4096  # of a directory; writers use some tens


@dataclass(frozen=True, slots=True)
class Segment:
    """A strip or tile: where it lies in the file."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Directory:
    """One image file directory: the numbers of a page."""

    at: int
    fields: dict[int, tuple[int, ...]]

    def first(self, tag: int, default: int) -> int:
        return (self.fields.get(tag) or (default,))[0]

    @property
    def width(self) -> int:
        return self.first(_WIDTH, 0)

    @property
    def height(self) -> int:
        return self.first(_HEIGHT, 0)

    @property
    def compression(self) -> int:
        return self.first(_COMPRESSION, _UNCOMPRESSED)

    @property
    def is_page(self) -> bool:
        """False for thumbnails and masks (NewSubfileType bits 0 and 2)."""
        return not self.first(_NEW_SUBFILE, 0) & 0b101


def directories(data: Readable, most: int) -> list[Directory]:
    """Every directory of the main chain, `most` at most.

    Raises:
        IncompleteError: a directory, or values it points to, lie beyond the end of the file.
        DataError: "corrupt": the chain loops, or a field makes no sense; "too_large": there are more.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (at,) = _unpack(data, order + ("Q" if big else "I"), 8 if big else 4)
    if at == 0:
        raise cut(data, "no directory yet")  # libtiff writes its place last
    found: list[Directory] = []
    seen: set[int] = set()
    while at:
        if at in seen:
            raise damaged(f"the directory at byte {at} comes twice")
        seen.add(at)
        if len(seen) > most:
            raise DataError(
                f"TIFF with more than {most} directories",
                hint="raise runtime.max_pages in config.toml if such files are expected",
                reason="too_large",
            )
        directory, at = _directory(data, order, big, at)
        found.append(directory)
    return found


def segments(data: Readable, directory: Directory) -> list[Segment]:
    """The strips or tiles of a page, all of them within the file.

    Raises:
        IncompleteError: one was not written, or lies beyond the end of the file.
        DataError: "corrupt": there are fewer than the page needs, or they are too small for it.
    """
    tiled = _TILE_AT in directory.fields
    starts = directory.fields.get(_TILE_AT if tiled else _STRIP_AT, ())
    sizes = directory.fields.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    needed, sample_bytes = _needed(directory, tiled)
    if not sizes and len(starts) == 1 and directory.compression == _UNCOMPRESSED:
        sizes = (sample_bytes,)  # old writers leave it out
    if len(starts) != len(sizes) or len(starts) < needed:
        raise damaged(f"{len(starts)} strips or tiles with {len(sizes)} sizes, where {needed} are needed")
    for number, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if not start or not size:
            raise cut(data, f"strip or tile {number} has not been written")
        if start + size > len(data):
            raise cut(data, f"strip or tile {number} ends at byte {start + size}")
    if sum(sizes) > len(data):  # however many times the same bytes are named, they are read once at most
        raise damaged(f"{len(sizes)} strips or tiles of {sum(sizes)} bytes lie over each other")
    if directory.compression == _UNCOMPRESSED:
        stored = sum(sizes)
        # one strip with rows that the header does not know: only part of the picture would be looked at
        behind = data[starts[0] + sample_bytes : starts[0] + stored] if len(sizes) == 1 and not tiled else b""
        if stored < sample_bytes or (len(behind) > 1 and behind.count(0) < len(behind)):
            raise damaged(f"{stored} bytes of pixels, where {sample_bytes} are needed")
    return [Segment(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _needed(directory: Directory, tiled: bool) -> tuple[int, int]:
    """(strips or tiles, bytes of all samples when uncompressed) of a page."""
    width, height = directory.width, directory.height
    samples = directory.first(_SAMPLES, 1)
    planes = samples if directory.first(_PLANAR, 1) == 2 else 1
    row_bytes = -(-width * directory.first(_BITS, 1) * (samples // planes) // 8)
    if tiled:
        across = -(-width // max(1, directory.first(_TILE_WIDTH, width)))
        down = -(-height // max(1, directory.first(_TILE_HEIGHT, height)))
        return across * down * planes, row_bytes * height * planes
    rows = max(1, min(height, directory.first(_ROWS_PER_STRIP, height)))
    return -(-height // rows) * planes, row_bytes * height * planes


def _directory(data: Readable, order: str, big: bool, at: int) -> tuple[Directory, int]:
    """The directory at a byte, and where the next one is (0: this was the last)."""
    (count,) = _unpack(data, order + ("Q" if big else "H"), at)
    if count > _MAX_ENTRIES:
        raise damaged(f"the directory at byte {at} has {count} entries")
    at_entries = at + (8 if big else 2)
    entry_bytes = 20 if big else 12
    end = at_entries + count * entry_bytes
    if end > len(data):
        raise cut(data, f"the directory at byte {at} ends at byte {end}")
    fields: dict[int, tuple[int, ...]] = {}
    for entry in range(at_entries, end, entry_bytes):
        (tag,) = _unpack(data, order + "H", entry)
        fields[tag] = _values(data, order, big, entry, tag)
    (following,) = _unpack(data, order + ("Q" if big else "I"), end)
    return Directory(at, fields), following


def _values(data: Readable, order: str, big: bool, entry: int, tag: int) -> tuple[int, ...]:
    """The numbers of a field; () for types that hold none which matter here, after checking their place."""
    kind, count = _unpack(data, order + ("HQ" if big else "HI"), entry + 2)
    inline_at, inline_bytes = (entry + 12, 8) if big else (entry + 8, 4)
    total = _TYPE_BYTES.get(kind, 0) * count
    at = inline_at
    if total > inline_bytes:
        (at,) = _unpack(data, order + ("Q" if big else "I"), inline_at)
        if at + total > len(data):
            raise cut(data, f"the values of the field at byte {entry} end at byte {at + total}")
    if kind not in _UNSIGNED or tag not in _WANTED:
        return ()
    return tuple(_unpack(data, f"{order}{count}{_UNSIGNED[kind]}", at))


def _unpack(data: Readable, layout: str, at: int) -> tuple[int, ...]:
    end = at + struct.calcsize(layout)
    if end > len(data):
        raise cut(data, f"numbers at byte {at}")
    return struct.unpack(layout, data[at:end])


def cut(data: Readable, what: str) -> IncompleteError:
    return IncompleteError(
        f"TIFF cut off after {len(data)} bytes: {what}", hint="wait for the rest of the file"
    )


def damaged(what: str) -> DataError:
    return DataError(f"TIFF damaged: {what}", hint="copy the file again from the scanner", reason="corrupt")
