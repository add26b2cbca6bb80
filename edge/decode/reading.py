"""Reading a file that a scanner may still be writing: all of one version of it, or an error."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.errors import DataError, IncompleteError
from edge.types import FileStamp


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is read where it is looked at. Not mapped: a mapped one that is cut off would kill us."""

    descriptor: int
    size_bytes: int

    def __len__(self) -> int:
        return self.size_bytes

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, _ = where.indices(self.size_bytes)
        return os.pread(self.descriptor, max(0, stop - start), start)

    def has_holes(self, *, at_the_end: bool = False) -> bool:
        """Whether some of it, or its last bytes, were reserved but never written; False where the file system
        does not tell."""
        try:
            if not at_the_end:
                return os.lseek(self.descriptor, 0, os.SEEK_HOLE) < self.size_bytes
            last = max(0, self.size_bytes - 1)
            return os.lseek(self.descriptor, last, os.SEEK_HOLE) == last and self.size_bytes > 0
        except OSError:  # it does not tell
            return False
        finally:
            os.lseek(self.descriptor, 0, os.SEEK_SET)


def read_stable(
    file: Path, stamp: FileStamp | None, look: Callable[[OpenFile], None] = lambda source: None
) -> bytes:
    """The bytes of a file that did not change while it was read.

    `stamp` is what the file looked like when it was found complete; None accepts any version of it. `look`
    may refuse it before all of it is read, by raising.

    Raises:
        IncompleteError: "changed_while_reading" when the stamp differs before, during or after the read;
            "empty" for 0 bytes. Both are worth another try.
        DataError: "vanished", "permission_denied", "unreadable_now" (worth another try); "not_a_file".
    """
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes to must not hang; it does nothing to regular files
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DataError(
            f"{file}: no longer there",
            hint="something moved or deleted it before it was read",
            reason="vanished",
            retryable=True,
        ) from None
    except PermissionError:
        raise _denied(file) from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_a_file(file) from None
        raise _failed(file, error) from error
    try:
        return _read_whole(file, descriptor, stamp, look)
    finally:
        os.close(descriptor)


def refuse_holes(source: OpenFile, name: str, *, anywhere: bool) -> None:
    """Refuse a copy whose space was reserved first and has not been filled to its end, or has holes anywhere.

    Formats without checksums cannot tell: what was never written reads as zeros.

    Raises:
        IncompleteError: "has_holes".
    """
    if source.has_holes(at_the_end=not anywhere):
        raise IncompleteError(
            f"{name}: parts of it were reserved but never written",
            hint='let the copy end; where the file system keeps zeros as holes, set holes = "accept"',
            reason="has_holes",
        )


def _read_whole(
    file: Path, descriptor: int, expected: FileStamp | None, look: Callable[[OpenFile], None]
) -> bytes:
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise _not_a_file(file)
        if expected is not None and _stamp(before) != expected:
            raise _changed(file)
        look(OpenFile(descriptor, before.st_size))
        data = _read_up_to(descriptor, before.st_size + 1)  # one more, to see that nothing was appended
        after = os.fstat(descriptor)
    except OSError as error:
        raise _failed(file, error) from error
    if _stamp(after) != _stamp(before) or len(data) != before.st_size:
        raise _changed(file)
    if not data:
        raise IncompleteError(f"{file}: 0 bytes", hint="the scanner has not written it yet", reason="empty")
    return data


def _read_up_to(descriptor: int, size_bytes: int) -> bytes:
    """At most `size_bytes`; less when the file ends first. One `read` stops at 2 GiB on Linux."""
    first = os.read(descriptor, size_bytes)
    parts = [first]
    missing = size_bytes - len(first)
    while parts[-1] and missing > 0:
        parts.append(os.read(descriptor, missing))
        missing -= len(parts[-1])
    return first if not any(parts[1:]) else b"".join(parts)


def _stamp(status: os.stat_result) -> FileStamp:
    return FileStamp(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def _changed(file: Path) -> IncompleteError:
    return IncompleteError(
        f"{file}: changed while it was being read",
        hint="raise the source's settle_s if the scanner writes in bursts",
        reason="changed_while_reading",
    )


def _not_a_file(file: Path) -> DataError:
    return DataError(
        f"{file}: not a regular file", hint="exclude it in the source's settings", reason="not_a_file"
    )


def _denied(file: Path) -> DataError:
    return DataError(
        f"{file}: permission denied",
        hint="let the daemon's user read the scanner's folder and files",
        reason="permission_denied",
        retryable=True,
    )


def _failed(file: Path, error: OSError) -> DataError:
    return DataError(
        f"{file}: cannot be read: {error.strerror or error}",
        hint="look at the disk or the network mount",
        reason="unreadable_now",
        retryable=True,
    )
