"""Verdicts into files of JSON lines: a file a day, on the disk before they count as delivered.

Whoever reads follows a file as it grows, up to its last newline, or takes those of other days, which never
change again. What a crash left of a line is cut off at the next start; the verdict is then written again.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge.artifacts import make_folder, sync_folder
from edge.errors import EdgeError
from edge.publish import Message
from edge.publish.threaded import UnavailableNowError

NAME = re.compile(r"verdicts-(\d{4}-\d{2}-\d{2})\.jsonl")
TAIL_BYTES = 65536  # looked at a time for the end of the last whole line


class FileReceiver:
    """Appends to `verdicts-DAY.jsonl`, by the UTC day of writing; see `edge.publish.threaded.Receiver`."""

    def __init__(
        self,
        directory: Path,
        *,
        max_age_days: float | None = None,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory, self._max_age_days, self._unix_clock = directory, max_age_days, unix_clock
        self._day, self._descriptor = "", -1

    def open(self) -> None:
        try:
            make_folder(self._directory)
        except (OSError, EdgeError) as error:
            raise UnavailableNowError(f"{self._directory}: {error}") from None
        self._turn(self._today())

    def deliver(self, messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
        if (day := self._today()) != self._day or os.fstat(self._descriptor).st_nlink == 0:  # it was removed
            self._turn(day)
        lines = b"".join(message.body + b"\n" for message in messages)
        try:
            self._append(lines)
        except OSError as error:
            raise UnavailableNowError(f"{self._file(self._day)}: {error.strerror or error}") from None
        for message in messages:
            yield message.row_id, ""

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def abort(self) -> None:
        """A disk that hangs cannot be talked out of it."""

    def _today(self) -> str:
        """The day, which does not go back where the clock does: earlier files do not change again."""
        return max(self._day, datetime.fromtimestamp(self._unix_clock(), UTC).strftime("%Y-%m-%d"))

    def _file(self, day: str) -> Path:
        return self._directory / f"verdicts-{day}.jsonl"

    def _turn(self, day: str) -> None:
        self.close()
        file = self._file(day)
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, whole_lines_bytes(self._descriptor))
            os.fsync(self._descriptor)
            sync_folder(self._directory)
        except BlockingIOError:  # what one cuts off as torn, another may just be writing
            raise UnavailableNowError(f"{file}: another sink or daemon writes into this folder") from None
        except OSError as error:
            raise UnavailableNowError(f"{file}: {error.strerror or error}") from None
        self._day = day
        self._forget_old()

    def _append(self, lines: bytes) -> None:
        """All of it on the disk, or none of it in the file."""
        before = os.fstat(self._descriptor).st_size
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fdatasync(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise

    def _forget_old(self) -> None:
        if self._max_age_days is None:
            return
        last = datetime.fromtimestamp(self._unix_clock(), UTC) - timedelta(days=self._max_age_days)
        for file in self._directory.iterdir():
            match = NAME.fullmatch(file.name)
            if match and match[1] < last.strftime("%Y-%m-%d"):
                with suppress(OSError):
                    file.unlink()


def whole_lines_bytes(descriptor: int) -> int:
    """How much of a file is whole lines: up to its last newline."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        begin = max(0, end - TAIL_BYTES)
        at = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0
