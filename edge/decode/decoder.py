"""Which format is it, is all of it there, is it small enough: the order of checks before any pixel."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from edge.decode.dicom_stream import is_deflated
from edge.errors import DataError, EdgeError, IncompleteError
from edge.types import Picture

FORMATS = "PNG, JPEG, BMP, TIFF, DICOM"

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_BMP = b"BM"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF, either byte order
_DICOM = b"DICM"
_DICOM_AT = 128

HEAD_BYTES = 2**20  # of a larger file, read first to look for its header
MOST_BYTES_A_PIXEL = 16  # four samples of 32 bits, uncompressed
SLACK_BYTES = 64 * 2**20  # besides pixels: tables, thumbnails, private elements


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may ask for, checked against its header before pixels are decoded."""

    max_pixels: int  # of all pages together: they are in memory together
    max_pages: int


@dataclass(frozen=True, slots=True)
class Size:
    """What a header announces: the pixels of all pages together, and how many pages."""

    text: str  # "4248×2832", of the largest page, for messages
    pixels: int
    pages: int = 1


class Readable(Protocol):
    """Bytes, or a file that is read where it is looked at."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> bytes: ...


class Decoder(Protocol):
    """One file's bytes in one format. Making one reads the header only, and may raise IncompleteError."""

    @property
    def size(self) -> Size: ...

    def check_complete(self) -> None:
        """Raises IncompleteError when the format's own end is missing, DataError when it is damaged."""

    def pictures(self) -> list[Picture]:
        """Every page's pixels. Called only after `check_complete`; may raise anything."""


def decode(data: bytes, name: str, limits: Limits) -> list[Picture]:
    """The pictures in a file's bytes, one a page; the format is told by its magic bytes.

    `name` is for messages, and for DICOM without a preamble, which only its suffix tells.

    Raises:
        IncompleteError: "truncated": the format's own end is missing.
        DataError: "unsupported_format", "unsupported_transfer_syntax", "too_large", "corrupt", "no_pixels",
            "unreadable": the bytes are not a picture that can be judged.
    """
    try:
        with _quiet_libraries():
            decoder = _open(data, name, limits)
            check_budget(decoder.size, limits)
            decoder.check_complete()
            return decoder.pictures()
    except EdgeError as error:
        raise type(error)(
            f"{name}: {error.message}", hint=error.hint, reason=error.reason, retryable=error.retryable
        ) from error
    except MemoryError as error:
        raise DataError(
            f"{name}: does not fit into the decoder's memory",
            hint="raise runtime.decode_memory, or lower runtime.max_pixels to refuse such files early",
            reason="out_of_memory",
            retryable=True,  # a fresh worker has what earlier files left of this one's
        ) from error
    except Exception as error:  # whatever a library makes of damaged bytes
        raise DataError(
            f"{name}: cannot be decoded: {type(error).__name__}: {error}",
            hint="open it in another program; if that works, report it as a bug with the file",
            reason="unreadable",
        ) from error


def refuse_large(source: Readable, name: str, limits: Limits) -> None:
    """Refuse a file by its size, or the header in its first part, before all of it is read.

    What the header does not say there is left to `decode`, as is everything else that may be wrong.

    Raises:
        DataError: "too_large".
    """
    most_bytes = MOST_BYTES_A_PIXEL * limits.max_pixels + SLACK_BYTES
    if len(source) > most_bytes:
        raise DataError(
            f"{name}: {len(source)} bytes are more than {limits.max_pixels} pixels need ({most_bytes})",
            hint="raise runtime.max_pixels in config.toml if such files are expected",
            reason="too_large",
        )
    if len(source) <= HEAD_BYTES:
        return
    try:
        with _quiet_libraries():
            check_budget(_size_of(source, name, limits), limits)
    except DataError as error:
        if error.reason == "too_large":
            raise DataError(f"{name}: {error.message}", hint=error.hint, reason=error.reason) from None
    except Exception:  # whatever it is, `decode` will meet it again
        return


def _size_of(source: Readable, name: str, limits: Limits) -> Size:
    head = source[:HEAD_BYTES]
    is_dicom = head.startswith(_DICOM, _DICOM_AT)
    if is_dicom and is_deflated(head):
        raise DataError("a deflated header cannot be read alone", reason="unreadable")
    if head.startswith(_TIFF) and not is_dicom:  # its directories may be anywhere
        from edge.decode.tiff import TiffDecoder

        return TiffDecoder(source, limits).size
    return _open(head, name, limits).size


def check_budget(size: Size, limits: Limits) -> None:
    """Refuse from the header what would not fit.

    Raises:
        DataError: "too_large", naming both numbers.
    """
    if size.pages > limits.max_pages:
        raise DataError(
            f"{size.pages} pages are more than the {limits.max_pages} allowed",
            hint="raise runtime.max_pages in config.toml if such files are expected",
            reason="too_large",
        )
    if size.pixels > limits.max_pixels:
        pages = f" on {size.pages} pages" if size.pages > 1 else ""
        raise DataError(
            f"{size.text}{pages} = {size.pixels} pixels are more than the {limits.max_pixels} allowed",
            hint="raise runtime.max_pixels in config.toml if such files are expected",
            reason="too_large",
        )


def _open(data: bytes, name: str, limits: Limits) -> Decoder:
    """The decoder for these bytes. Format modules are imported here: they bring heavy libraries."""
    dicom_name = name.lower().endswith((".dcm", ".dicom"))
    # before TIFF: the preamble may hold a TIFF header for dual-personality files (PS3.10 7.1)
    if data.startswith(_DICOM, _DICOM_AT) or (dicom_name and _starts_like_dicom(data)):
        from edge.decode.dicom import DicomDecoder

        return DicomDecoder(data, limits)
    if data.startswith(_PNG):
        from edge.decode.png import PngDecoder

        return PngDecoder(data)
    if data.startswith(_JPEG):
        from edge.decode.jpeg import JpegDecoder

        return JpegDecoder(data)
    if data.startswith(_TIFF):
        from edge.decode.tiff import TiffDecoder

        return TiffDecoder(data, limits)
    if data.startswith(_BMP):
        from edge.decode.bmp import BmpDecoder

        return BmpDecoder(data)
    if _could_become_known(data, dicom_name):
        raise IncompleteError(f"only {len(data)} bytes are there", hint="wait for the rest of the file")
    raise DataError(
        f"not a picture in a known format (starts with {data[:8].hex(' ')})",
        hint=f"known are {FORMATS}; the content counts, not the suffix",
        reason="unsupported_format",
    )


def _starts_like_dicom(data: bytes) -> bool:
    """A data set without preamble starts with group 0002 or 0008, in either byte order."""
    return len(data) >= 8 and data[:2] in (b"\x02\0", b"\x08\0", b"\0\x08")


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep to themselves what libraries warn of and log about odd input: what matters comes out as an error.

    Not safe with threads, as warnings.catch_warnings is not: decoding has a process of its own.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "tifffile", "imagecodecs")]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.disabled = True
        try:
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled


def _could_become_known(data: bytes, dicom_name: bool) -> bool:
    if dicom_name and len(data) < _DICOM_AT + len(_DICOM):
        return True
    return any(magic.startswith(data) for magic in (_PNG, _JPEG, _BMP, *_TIFF))
