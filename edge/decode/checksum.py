"""Checksum files beside frames, as some scanners and copying programs write them: `a.png.sha256` for `a.png`.

Formats without checksums of their own (TIFF, BMP, JPEG, native DICOM) cannot tell a pixel that was changed on
its way; such a file can.
"""

from __future__ import annotations

import errno
import hashlib
import re
import zlib
from pathlib import Path

from edge.decode.decoder import Readable
from edge.decode.reading import read_stable
from edge.errors import DataError, IncompleteError

ALGORITHMS = (".sha256", ".sha512", ".sha1", ".md5", ".crc32")  # by the suffix of the file that holds it
MOST_BYTES = 65536  # of a checksum file
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # as PowerShell redirects


def verify(data: bytes, file: Path, suffix: str) -> None:
    """Hold a frame's bytes against the checksum file beside it.

    Raises:
        IncompleteError: "checksum_missing", "checksum_unreadable", "checksum_mismatch": either file may still
            be in the making.
        DataError: "name_too_long": no such file can exist; else as `read_stable`, of the checksum file.
    """
    beside = file.with_name(file.name + suffix)
    try:
        text = read_stable(beside, None, _refuse_long)
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:  # nobody should wait for it
            raise DataError(
                f"{file.name}: with {suffix} behind it, its name is too long for a file",
                hint="shorten the names of frames, or take checksum out of the source",
                reason="name_too_long",
            ) from None
        if error.reason in ("vanished", "empty"):
            raise IncompleteError(
                f"{file.name}: its checksum file {beside.name} is not there yet",
                hint="let the scanner write it, or take checksum out of the source",
                reason="checksum_missing",
            ) from None
        raise
    expected = parse(text, suffix)
    if expected is None:
        raise IncompleteError(
            f"{beside.name}: holds no {suffix[1:]} checksum",
            hint="as sha256sum and its relatives write them: the checksum in hex first",
            reason="checksum_unreadable",
        )
    if digest(data, suffix) != expected:
        raise IncompleteError(
            f"{file.name}: its bytes do not have the checksum that {beside.name} says",
            hint="copy the file again from the scanner",
            reason="checksum_mismatch",
        )


def parse(text: bytes, suffix: str) -> str | None:
    """The first checksum of the right length: `HEX  NAME`, `ALGORITHM (NAME) = HEX`, or alone on a line."""
    digits = len(digest(b"", suffix))
    alone = re.compile(rf"\\?([0-9a-fA-F]{{{digits}}})(?:\s.*)?")  # sha256sum marks escaped names by \
    tagged = re.compile(rf"\S+ \(.*\) = ([0-9a-fA-F]{{{digits}}})\s*")
    for line in text.decode("utf-16" if text[:2] in _UTF_16 else "utf-8-sig", "replace").splitlines():
        if found := alone.fullmatch(line.strip()) or tagged.fullmatch(line):
            return found[1].lower()
    return None


def digest(data: bytes, suffix: str) -> str:
    """In lower-case hex."""
    if suffix == ".crc32":
        return f"{zlib.crc32(data):08x}"
    return hashlib.new(suffix[1:], data, usedforsecurity=False).hexdigest()


def _refuse_long(source: Readable) -> None:
    if len(source) > MOST_BYTES:
        raise IncompleteError(
            f"a checksum file of {len(source)} bytes",
            hint="one checksum a file",
            reason="checksum_unreadable",
        )
