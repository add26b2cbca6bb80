"""Damage of every kind a disk, a network, a bad writer or an enemy does to a picture file: pure functions.

Blind damage (flipped bits, runs, cuts, splices) mostly ends at the first check; damage that knows the format
keeps lengths and checksums right and so reaches what lies behind them.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.decode import dicom_stream, jpeg, tiff_directory
from edge.errors import EdgeError
from tests.decode.builders import PNG_SIGNATURE, png_chunk

Mutation = Callable[[bytes, random.Random], bytes]

# Numbers at which parsers break: none, one, the ends of every width, and one beside them
TELLING = (0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 127, 128, 255, 256, 257, 32767, 32768, 65535, 65536,
           2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**63 - 1, 2**64 - 1)  # fmt: skip
AMPLIFIED_BYTES = 2_000_000
NEAR_BYTES = 600  # headers and directories lie this near to one end of a file
CODESTREAMS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")  # JPEG and JPEG 2000 within TIFF and DICOM
VRS = [b"AE", b"CS", b"DS", b"FD", b"IS", b"LO", b"OB", b"OF", b"OW", b"SQ", b"UI", b"UL", b"UN", b"US",
       b"UT", b"ZZ", b"\0\0"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutated:
    """A damaged file and what was done to it."""

    data: bytes
    how: str
    in_place: bool  # only bytes of the one file changed, and no checksum was mended


def mutate(data: bytes, other: bytes, rng: random.Random) -> Mutated:
    """One file damaged in one to three ways; `other` is what it may be spliced with."""
    names: list[str] = []
    changed = data
    in_place = True
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        choices: Sequence[tuple[str, Mutation]] = BLIND
        if rng.random() < 0.5 and (knowing := KNOWING.get(kind_of(changed))):
            choices = knowing
        name, mutation = rng.choice(choices)
        changed = splice(changed, other, rng) if mutation is _SPLICE else mutation(changed, rng)
        names.append(name)
        in_place = in_place and name in IN_PLACE
    return Mutated(changed, "+".join(names), in_place)


def kind_of(data: bytes) -> str:
    """The format by its magic bytes; empty where they are gone."""
    if data[128:132] == b"DICM":
        return "dicom"
    for kind, magic in (("png", PNG_SIGNATURE), ("jpeg", b"\xff\xd8"), ("bmp", b"BM"), ("tiff", b"II"),
                        ("tiff", b"MM")):  # fmt: skip
        if data.startswith(magic):
            return kind
    return ""


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """One to eight single bits."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite_run(data: bytes, rng: random.Random) -> bytes:
    """Zeros, ones or noise over a stretch: a lost block."""
    at, size = _stretch(data, rng)
    run = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return data[:at] + run + data[at + size :]


def zero_tail(data: bytes, rng: random.Random) -> bytes:
    """A copy whose space was reserved first."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes(len(data) - at)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The beginning only."""
    return data[: rng.randrange(len(data) + 1)]


def delete_stretch(data: bytes, rng: random.Random) -> bytes:
    """A lost packet."""
    at, size = _stretch(data, rng)
    return data[:at] + data[at + size :]


def repeat_stretch(data: bytes, rng: random.Random) -> bytes:
    """A packet that came twice."""
    at, size = _stretch(data, rng)
    return data[: at + size] + data[at:]


def amplify(data: bytes, rng: random.Random) -> bytes:
    """A short stretch again and again: what takes quadratic time becomes a hang."""
    at = rng.randrange(len(data) + 1)
    stretch = data[at : at + rng.choice((1, 2, 4, 8, 12, 16, 20))] or b"\xff"
    return data[:at] + stretch * (AMPLIFIED_BYTES // len(stretch)) + data[at:]


def insert_noise(data: bytes, rng: random.Random) -> bytes:
    """Bytes that belong to nothing."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randint(1, 64)) + data[at:]


def write_number(data: bytes, rng: random.Random) -> bytes:
    """A telling number of 1 to 8 bytes, mostly near an end, where headers are."""
    return _number_within(data, rng, _near_an_end(data, rng))


def number_in_codestream(data: bytes, rng: random.Random) -> bytes:
    """A telling number in the headers of a codestream within the file."""
    places = [at for magic in CODESTREAMS if (at := data.find(magic)) >= 0]
    if not places:
        return write_number(data, rng)
    at = rng.choice(places)
    return _number_within(data, rng, min(len(data), at + rng.randrange(200)))


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one file with the end of another."""
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def rebuild_png(data: bytes, rng: random.Random) -> bytes:
    """Chunks doubled, dropped, exchanged or edited, each with its right length and checksum."""
    chunks = _png_chunks(data)
    if not chunks:
        return flip_bits(data, rng)
    at = rng.randrange(len(chunks))
    kind, content = chunks[at]
    match rng.randrange(6):
        case 0:
            chunks.insert(rng.randrange(len(chunks) + 1), (kind, content))
        case 1:
            del chunks[at]
        case 2:
            to = rng.randrange(len(chunks))
            chunks[at], chunks[to] = chunks[to], chunks[at]
        case 3:  # the filtered rows themselves
            at = next((n for n, (name, _) in enumerate(chunks) if name == b"IDAT"), at)
            chunks[at] = chunks[at][0], _deflated_again(chunks[at][1], rng)
        case 4:
            chunks[at] = kind, write_number(content, rng) if content else b"\0"
        case _:
            chunks[at] = kind, flip_bits(content, rng) if content else rng.randbytes(4)
    return PNG_SIGNATURE + b"".join(png_chunk(name, body) for name, body in chunks)


def edit_tiff_field(data: bytes, rng: random.Random) -> bytes:
    """Type, count or value of a field of some directory, or where the next directory is."""
    try:
        directory = rng.choice(tiff_directory.directories(data, 256))
    except (EdgeError, struct.error, MemoryError, IndexError):
        return write_number(data, rng)
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count_layout, entry_bytes = (order + "Q", 20) if big else (order + "H", 12)
    (count,) = struct.unpack_from(count_layout, data, directory.at)
    first = directory.at + struct.calcsize(count_layout)
    if rng.random() < 0.15:
        target = rng.choice((directory.at, 0, 8, rng.randrange(len(data)), rng.choice(TELLING)))
        return _put(data, first + count * entry_bytes, _packed(target, order, 8 if big else 4))
    entry = first + rng.randrange(max(1, count)) * entry_bytes
    at, size = rng.choice(
        ((entry, 2), (entry + 2, 2), (entry + 4, 8 if big else 4), (entry + entry_bytes // 5 * 3, 4))
    )
    if size == 2 and at == entry + 2:
        return _put(data, at, _packed(rng.randrange(20), order, 2))
    return _put(data, at, _packed(rng.choice((*TELLING, rng.randrange(2 * len(data)))), order, size))


def edit_dicom_element(data: bytes, rng: random.Random) -> bytes:
    """The VR, length or value of an element, or the whole element doubled, dropped or nested deeply."""
    try:
        stream = dicom_stream.open_stream(data, 10_000_000)
        elements = list(stream.elements())
    except (EdgeError, RecursionError):
        return write_number(data, rng)
    if stream.data is not data or not elements:  # deflated: there is nothing to edit in place
        return write_number(data, rng)
    element = rng.choice(elements)
    end = element.start + (element.length or 0)
    head = element.start - (12 if element.vr in dicom_stream._LONG_VRS else 8)
    match rng.randrange(7):
        case 0:
            return _put(data, head + 4, rng.choice(VRS))
        case 1:
            return _put(data, element.start - 4, _packed(rng.choice(TELLING), stream.order, 4))
        case 2:
            return _put(data, element.start - 2, _packed(rng.choice(TELLING), stream.order, 2))
        case 3:
            return data[:end] + data[head:]
        case 4:
            return data[:head] + data[end:]
        case 5:
            depth = rng.choice((2, 31, 33, 2000))
            opened = b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
            return data[:head] + opened * depth + data[head:]
        case _:
            size = min(rng.choice((1, 2, 4)), max(1, element.length or 4))
            return _put(data, element.start, _packed(rng.choice(TELLING), stream.order, size))


def edit_jpeg_segment(data: bytes, rng: random.Random) -> bytes:
    """A segment doubled, dropped or edited, or entropy-coded bytes changed without making markers."""
    try:
        found = list(jpeg.segments(data))
    except (EdgeError, IndexError):
        return write_number(data, rng)
    segment = rng.choice(found)
    head = max(0, segment.start - 4)
    match rng.randrange(4):
        case 0:
            return data[: segment.end] + data[head:]
        case 1:
            return data[:head] + data[segment.end :]
        case 2:
            return _number_within(data, rng, rng.randrange(head, max(segment.end, head + 1)))
        case _:
            changed = bytearray(data)
            scan = [s.end for s in found if s.marker == jpeg._SOS]
            for _ in range(rng.randint(1, 5)):
                at = rng.randrange(scan[0], len(data)) if scan and scan[0] < len(data) else 0
                if changed[at] != 0xFF and changed[at - 1] != 0xFF:
                    changed[at] = rng.randrange(255)
            return bytes(changed)


_SPLICE: Mutation = lambda data, rng: data  # noqa: E731 - stands for `splice`, which needs a second file
BLIND: Sequence[tuple[str, Mutation]] = (
    ("flip", flip_bits),
    ("run", overwrite_run),
    ("zero_tail", zero_tail),
    ("cut", cut),
    ("delete", delete_stretch),
    ("repeat", repeat_stretch),
    ("amplify", amplify),
    ("insert", insert_noise),
    ("number", write_number),
    ("codestream", number_in_codestream),
    ("splice", _SPLICE),
)
KNOWING: dict[str, Sequence[tuple[str, Mutation]]] = {
    "png": (("chunk", rebuild_png),),
    "tiff": (("field", edit_tiff_field), ("codestream", number_in_codestream)),
    "dicom": (("element", edit_dicom_element), ("codestream", number_in_codestream)),
    "jpeg": (("segment", edit_jpeg_segment),),
    "bmp": (("number", lambda data, rng: _number_within(data, rng, rng.randrange(min(len(data), 60) + 1))),),
}
IN_PLACE = frozenset({"flip", "run", "number", "codestream", "zero_tail", "cut"})


def _stretch(data: bytes, rng: random.Random) -> tuple[int, int]:
    at = rng.randrange(len(data) + 1)
    return at, min(len(data) - at, rng.choice((1, 2, 4, 16, 64, 512, 4096)))


def _near_an_end(data: bytes, rng: random.Random) -> int:
    near = min(NEAR_BYTES, len(data))
    return rng.choice((rng.randrange(near + 1), len(data) - rng.randrange(near + 1)))


def _number_within(data: bytes, rng: random.Random, at: int) -> bytes:
    return _put(data, at, _packed(rng.choice(TELLING), rng.choice("<>"), rng.choice((1, 2, 4, 8))))


def _packed(value: int, order: str, size: int) -> bytes:
    return (value % 256**size).to_bytes(size, "little" if order == "<" else "big")


def _put(data: bytes, at: int, content: bytes) -> bytes:
    """Overwrites; the file keeps its length."""
    return (data[:at] + content + data[at + len(content) :])[: len(data)]


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _deflated_again(content: bytes, rng: random.Random) -> bytes:
    try:
        rows = zlib.decompress(content)
    except zlib.error:
        return content
    mutation = rng.choice((flip_bits, overwrite_run, cut, repeat_stretch))
    return zlib.compress(mutation(rows, rng))
