"""Files that announce, or hold, far more than may be decoded; sparse, so that they cost no disk."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from tests.decode import builders as make

HUGE_PX, WIDE_PX = 60_000, 30_000  # of a side; the wide ones have 16 bits: 1.8 GB


def png(side_px: int) -> bytes:
    header = struct.pack(">IIBBBBB", side_px, side_px, 16, 0, 0, 0, 0)
    return make.PNG_SIGNATURE + make.png_chunk(b"IHDR", header) + struct.pack(">I4s", 2**31 - 1, b"IDAT")


def jpeg(side_px: int) -> bytes:
    data = bytearray(make.jpeg(make.smooth()))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side_px, side_px)
    return bytes(data[: data.index(b"\xff\xda") + 20])


def bmp(side_px: int) -> bytes:
    data = bytearray(make.bmp(make.grey())[:1200])
    data[18:26] = struct.pack("<ii", side_px, side_px)
    return bytes(data)


def tiff(side_px: int) -> bytes:
    """Its directory comes first, as tifffile writes it."""
    data = bytearray(make.tiff(make.grey()))
    for tag in (256, 257):
        at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
        data[at : at + 4] = struct.pack("<I", side_px)
    return bytes(data)


def dicom(side_px: int) -> bytes:
    return make.dicom(make.grey(16), bits=16, Rows=side_px, Columns=side_px)


def tiff_directory_last(file: Path, side_px: int, file_bytes: int) -> Path:
    """As libtiff writes it: pixels, then the directory."""
    whole = tiff(side_px)
    (at,) = struct.unpack_from("<I", whole, 4)
    (count,) = struct.unpack_from("<H", whole, at)
    directory = whole[at : at + 2 + 12 * count + 4]
    sparse(file, whole[:4] + struct.pack("<I", file_bytes - len(directory)), file_bytes)
    with file.open("r+b") as stream:
        stream.seek(file_bytes - len(directory))
        stream.write(directory)
    return file


def sparse(file: Path, head: bytes, file_bytes: int) -> Path:
    """A file with this beginning and nothing but a hole behind it."""
    file.write_bytes(head)
    os.truncate(file, max(file_bytes, len(head)))
    return file


HEADS: dict[str, Callable[[int], bytes]] = {
    "png": png, "jpeg": jpeg, "bmp": bmp, "tiff": tiff, "dicom": dicom,
}  # fmt: skip
