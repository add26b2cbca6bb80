"""What a decode worker answers, as bytes that are only ever data: JSON, checked field by field.

A worker that was taken over by a file could answer anything, so nothing of it is unpickled, and what does not
fit is as good as no answer. Planes come in a memory file of their own and are copied out of it: one that is
mapped could be shrunk under the core, and keeps a descriptor open for as long as the plane lives.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from edge.errors import DataError, EdgeError, IncompleteError
from edge.types import Frame, ImageInfo, TileArray

MOST_REPLY_BYTES = 64 * 2**20  # names, tags and times of all pages
_KINDS = {"DataError": DataError, "IncompleteError": IncompleteError}


@dataclass(frozen=True, slots=True)
class _Page:
    """A frame without its planes, which follow each other in the memory file."""

    image: ImageInfo
    tags: dict[str, str]
    times_s: dict[str, float]
    to_frame: list[list[float]] | None  # 3 × 3
    height: int
    width: int
    kind: Literal["float32", "uint16", "uint8"]
    masked: bool  # whether a foreground follows the plane, a byte a pixel


@dataclass(frozen=True, slots=True)
class _Fault:
    kind: str
    message: str
    hint: str
    reason: str
    retryable: bool


_PAGES, _FAULT = TypeAdapter(list[_Page]), TypeAdapter(_Fault)


class NoAnswerError(Exception):
    """The bytes are not what a worker says."""


def pack_frames(frames: Sequence[Frame]) -> tuple[bytes, int]:
    """(reply, descriptor of the memory file that has the planes); the caller closes it.

    Raises:
        OSError: there is no memory for it.
    """
    pages = [
        _Page(
            frame.image, {key: _text(text) for key, text in frame.tags.items()}, dict(frame.times_s),
            None if frame.to_frame is None else frame.to_frame.tolist(),
            frame.grey.shape[0], frame.grey.shape[1], _kind(frame.grey), frame.foreground is not None,
        )
        for frame in frames
    ]  # fmt: skip
    descriptor = os.memfd_create("edge-frames")
    try:
        for frame in frames:
            planes: list[np.ndarray[Any, Any]] = [frame.grey]
            if frame.foreground is not None:
                planes.append(frame.foreground)
            for plane in planes:
                _write_all(descriptor, np.ascontiguousarray(plane))
                _write_all(descriptor, np.zeros(-plane.nbytes % 4, np.uint8))  # the next one is aligned
    except BaseException:
        os.close(descriptor)
        raise
    return b"F" + _PAGES.dump_json(pages), descriptor


def unpack_frames(reply: bytes, descriptor: int) -> list[Frame]:
    """The frames, with their planes read from the memory file. The descriptor may be closed afterwards.

    Raises:
        NoAnswerError: they are not what `pack_frames` makes.
    """
    try:
        pages = _PAGES.validate_json(reply[1:], strict=True)
        size_bytes = sum(map(_bytes_of, pages))
        if not size_bytes or os.fstat(descriptor).st_size != size_bytes:
            raise NoAnswerError("planes of another size")
        whole = np.empty(size_bytes, np.uint8)
        _read_all(descriptor, whole)
        whole.flags.writeable = False
        return _frames(pages, whole)
    except (ValidationError, OSError, ValueError) as error:
        raise NoAnswerError(str(error)) from None


def pack_fault(error: EdgeError) -> bytes:
    """An error as a reply; what the core need not tell apart becomes a DataError."""
    kind = "IncompleteError" if isinstance(error, IncompleteError) else "DataError"
    fault = _Fault(kind, _text(error.message), _text(error.hint), error.reason, error.retryable)
    return b"E" + _FAULT.dump_json(fault)


def unpack_fault(reply: bytes) -> EdgeError:
    """The error in a reply.

    Raises:
        NoAnswerError: it is not what `pack_fault` makes.
    """
    try:
        fault = _FAULT.validate_json(reply[1:], strict=True)
        kind = _KINDS[fault.kind]
    except (ValidationError, KeyError) as error:
        raise NoAnswerError(str(error)) from None
    reason = (
        fault.reason if fault.reason.isascii() and fault.reason.replace("_", "").isalpha() else "unreadable"
    )
    return kind(fault.message, hint=fault.hint, reason=reason, retryable=fault.retryable)


def _bytes_of(page: _Page) -> int:
    pixels = page.height * page.width
    if page.height <= 0 or page.width <= 0:
        raise NoAnswerError("a plane of no size")
    return _padded(pixels * np.dtype(page.kind).itemsize) + (_padded(pixels) if page.masked else 0)


def _padded(size_bytes: int) -> int:
    return size_bytes + -size_bytes % 4


def _kind(grey: TileArray) -> Any:
    """What the page says of it; other types are no planes."""
    return grey.dtype.name


def _frames(pages: Sequence[_Page], whole: np.ndarray[Any, Any]) -> list[Frame]:
    frames, start = [], 0
    for page in pages:
        pixels = page.height * page.width
        shape = page.height, page.width
        size_bytes = pixels * np.dtype(page.kind).itemsize
        plane: TileArray = whole[start : start + size_bytes].view(page.kind).reshape(shape)
        start += _padded(size_bytes)
        frame = Frame(page.image, plane, tags=page.tags, times_s=page.times_s)
        if page.masked:
            # not `view(bool)`: bytes other than 0 and 1 would be neither true nor false
            frame = replace(frame, foreground=(whole[start : start + pixels] != 0).reshape(shape))
            start += _padded(pixels)
        if page.to_frame is not None:
            frame = replace(frame, to_frame=np.array(page.to_frame, np.float64).reshape(3, 3))
        frames.append(frame)
    return frames


def _write_all(descriptor: int, values: np.ndarray[Any, Any]) -> None:
    view = memoryview(values.data).cast("B") if values.size else memoryview(b"")
    while view:  # one `write` stops at 2 GiB on Linux
        view = view[os.write(descriptor, view) :]


def _read_all(descriptor: int, whole: np.ndarray[Any, Any]) -> None:
    view, at = memoryview(whole.data), 0
    while at < len(view):
        read = os.preadv(descriptor, [view[at:]], at)
        if read == 0:
            raise NoAnswerError("fewer bytes than there were")
        at += read


def _text(text: str) -> str:
    """Text that JSON can hold: what is no character is written out."""
    return text.encode("utf-8", "backslashreplace").decode()
