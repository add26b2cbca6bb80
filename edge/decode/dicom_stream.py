"""DICOM's elements, walked without a library: is the pixel data there, and all of it?

pydicom hands out what it finds of a file that is cut off; an inspector must know. This follows PS3.5 section
7 (data elements), annex A.4 (encapsulated pixel data) and PS3.10 section 7 (preamble and file meta).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from edge.errors import DataError, IncompleteError

ROWS = 0x00280010
PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA = 0x7FE00010, 0x7FE00008, 0x7FE00009
IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, EXPLICIT_BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

_TRANSFER_SYNTAX = 0x00020010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED = 0xFFFFFFFF
_MAX_DEPTH = 32  # of nested sequences
_META_BYTES = 4096  # more than file meta information takes
_MAX_ELEMENTS = 100_000  # at top level; scanners write some hundreds


@dataclass(frozen=True, slots=True)
class Element:
    """A data element: its tag, and where its value lies. `length` is None where a delimiter ends it."""

    tag: int
    vr: bytes  # empty in implicit VR
    start: int
    length: int | None


@dataclass(frozen=True, slots=True)
class Stream:
    """The data set of a file: bytes, where in them it starts, and how it is written."""

    data: bytes
    start: int
    syntax: str  # transfer syntax UID
    explicit: bool
    order: str  # "<" or ">"

    def header(self, at: int) -> Element:
        """The element that starts at a byte.

        Raises:
            IncompleteError: the data ends within its tag and length.
        """
        return _header(self.data, at, self.explicit, self.order)

    def end(self, element: Element) -> int:
        """Where an element ends; for one with a delimiter, after walking to it.

        Raises:
            IncompleteError: beyond the end of the data.
            DataError: "corrupt".
        """
        return _end(self.data, element, self.explicit, self.order, 0)

    def elements(self) -> Iterator[Element]:
        """The elements at top level, up to and with the pixel data, whose own end is not yet checked."""
        at, count = self.start, 0
        while at < len(self.data):
            element = self.header(at)
            yield element
            if element.tag in (PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA):
                return
            at, count = self.end(element), count + 1
            if count > _MAX_ELEMENTS:
                raise damaged(f"more than {_MAX_ELEMENTS} elements before the pixel data")


def open_stream(data: bytes, max_bytes: int) -> Stream:
    """Find the data set in a file and how it is written; a deflated one is inflated, to `max_bytes` at most.

    Raises:
        IncompleteError: the file meta information or the deflated data end too early.
        DataError: "too_large" when more would be inflated; "corrupt".
    """
    start = 132 if data[128:132] == b"DICM" else 0
    syntax = ""
    while data[start : start + 2] == b"\x02\0":  # file meta information is always explicit, little endian
        element = _header(data, start, True, "<")
        start = _end(data, element, True, "<", 0)
        if element.tag == _TRANSFER_SYNTAX:
            syntax = data[element.start : start].decode("ascii", "replace").strip("\0 ")
    if syntax == DEFLATED:
        return Stream(_inflated(data[start:], max_bytes), 0, syntax, True, "<")
    if not syntax:
        syntax = _guess(data, start)
    return Stream(data, start, syntax, syntax != IMPLICIT_LITTLE, ">" if syntax == EXPLICIT_BIG else "<")


def is_deflated(head: bytes) -> bool:
    """Whether file meta information, which is short and never deflated, says that the rest is."""
    return DEFLATED.encode() in head[:_META_BYTES]


def _guess(data: bytes, start: int) -> str:
    """The transfer syntax of a data set without file meta, from its first element (group 0008)."""
    if not data[start + 4 : start + 6].isalpha():
        return IMPLICIT_LITTLE
    return EXPLICIT_BIG if data[start : start + 1] == b"\0" else EXPLICIT_LITTLE


def _inflated(deflated: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # PS3.5 A.5: no zlib header
    try:
        data = inflater.decompress(deflated, max_bytes)
    except zlib.error as error:
        raise damaged(f"the deflated data set: {error}") from error
    if not inflater.eof:
        if inflater.unconsumed_tail:
            raise DataError(f"DICOM inflates to more than {max_bytes} bytes", reason="too_large")
        raise cut(deflated, "the deflated data set has no end")
    return data


def _header(data: bytes, at: int, explicit: bool, order: str) -> Element:
    if at + 8 > len(data):
        raise cut(data, f"within the element at byte {at}")
    group, number = struct.unpack_from(order + "HH", data, at)
    tag, vr = group << 16 | number, data[at + 4 : at + 6]
    if not explicit or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
        (length,) = struct.unpack_from(order + "I", data, at + 4)
        return Element(tag, b"", at + 8, None if length == _UNDEFINED else length)
    if vr not in _LONG_VRS:
        (length,) = struct.unpack_from(order + "H", data, at + 6)
        return Element(tag, vr, at + 8, length)
    if at + 12 > len(data):
        raise cut(data, f"within the element at byte {at}")
    (length,) = struct.unpack_from(order + "I", data, at + 8)
    return Element(tag, vr, at + 12, None if length == _UNDEFINED else length)


def _end(data: bytes, element: Element, explicit: bool, order: str, depth: int) -> int:
    if element.length is not None:
        end = element.start + element.length
        if end > len(data):
            raise cut(data, f"element {_name(element.tag)} ends at byte {end}")
        return end
    if depth > _MAX_DEPTH:
        raise damaged(f"sequences nested deeper than {_MAX_DEPTH}")
    # PS3.5 6.2.2 note 2: the items of UN with undefined length are written in implicit VR, little endian
    inner_explicit, inner_order = (False, "<") if element.vr == b"UN" else (explicit, order)
    at = element.start
    while True:
        item = _header(data, at, inner_explicit, inner_order)
        if item.tag == _SEQUENCE_END:
            return item.start
        if item.tag != _ITEM:
            if data.count(0, at) == len(data) - at:
                raise cut(data, f"only zeros from byte {at}, within {_name(element.tag)}")
            raise damaged(f"{_name(item.tag)} at byte {at}, where an item of {_name(element.tag)} must be")
        at = _item_end(data, item, inner_explicit, inner_order, depth + 1)


def _item_end(data: bytes, item: Element, explicit: bool, order: str, depth: int) -> int:
    if item.length is not None:
        return _end(data, item, explicit, order, depth)
    at = item.start
    while True:
        inner = _header(data, at, explicit, order)
        if inner.tag == _ITEM_END:
            return inner.start
        at = _end(data, inner, explicit, order, depth)


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def cut(data: bytes, what: str) -> IncompleteError:
    return IncompleteError(
        f"DICOM cut off after {len(data)} bytes: {what}", hint="wait for the rest of the file"
    )


def damaged(what: str) -> DataError:
    return DataError(
        f"DICOM damaged: {what}", hint="export the file again from the scanner", reason="corrupt"
    )
