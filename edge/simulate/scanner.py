"""Writes planned shots into a folder with the manners and the faults of real scanners."""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edge.errors import CannotWriteError
from edge.simulate.shots import Capture, Shot, Style

Writer = Generator[float, None, None]
"""Writes a file burst by burst; yields how many seconds the scanner pauses before the next burst."""

OnWritten = Callable[[Shot, Capture], None]

# Pauses of a slow frame, in settle times: some too short for the frame to settle, some long enough that only
# the missing end of the format gives it away.
SLOW_PAUSES = (0.5, 1.3, 0.5, 0.8)
TRUNCATED_RATIO = 0.6  # of the bytes are there


def write(file: Path, data: bytes, style: Style, settle_s: float) -> Writer:
    """Write one frame in a style; a style without bursts yields nothing.

    Raises:
        OSError: the folder or the disk does not take it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if style == "atomic":
        half_done = file.with_name(f".{file.name}.part")  # no source includes *.part
        half_done.write_bytes(data)
        os.replace(half_done, file)
    elif style == "direct":
        file.write_bytes(data)
    elif style == "truncated":
        file.write_bytes(data[: int(len(data) * TRUNCATED_RATIO)])
    else:
        yield from _write_slowly(file, data, settle_s)


def _write_slowly(file: Path, data: bytes, settle_s: float) -> Writer:
    bursts = len(SLOW_PAUSES) + 1
    edges = [len(data) * n // bursts for n in range(bursts + 1)]
    with file.open("wb") as target:
        for number, pause in enumerate((*SLOW_PAUSES, None)):
            target.write(data[edges[number] : edges[number + 1]])
            target.flush()
            if pause is not None:
                yield pause * settle_s


@dataclass(order=True, slots=True)
class _Burst:
    """A frame on its way: when its next bytes are due."""

    due_s: float
    number: int
    shot: Shot = field(compare=False)
    capture: Capture = field(compare=False)
    writer: Writer = field(compare=False)


class Scanner:
    """A scanner over one folder: slow frames are written while the next ones are taken."""

    def __init__(
        self,
        folder: Path,
        shots: Iterable[Shot],
        *,
        frames_per_s: float | None = None,
        settle_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is written yet.

        Args:
            folder: the source's directory; made when the first frame is written.
            shots: what to write, in order; may be endless.
            frames_per_s: pace; None writes without waiting.
            settle_s: the settle time of the source that slow frames are to outlast (about three times).
            clock: monotonic seconds.
        """
        self._folder = folder
        self._shots = iter(shots)
        self._period_s = 1 / frames_per_s if frames_per_s else 0.0
        self._settle_s = settle_s
        self._clock = clock
        self._next_s: float | None = clock()  # when the next frame is taken; None after the last
        self._started = 0
        self._open: list[_Burst] = []  # heap

    def run(self, stop: threading.Event, on_written: OnWritten) -> None:
        """Write until the shots end or `stop` is set; frames under way are then left as they are.

        Raises:
            CannotWriteError: the folder does not take a frame.
        """
        try:
            while not stop.is_set():
                pause_s = self.step(on_written)
                if pause_s is None:
                    return
                stop.wait(pause_s)
        finally:
            self.close()

    def step(self, on_written: OnWritten) -> float | None:
        """Write at most one burst that is due.

        Returns:
            Seconds until the next burst is due, or None after the last one.

        Raises:
            CannotWriteError: the folder does not take a frame.
        """
        now_s = self._clock()
        if self._open and self._open[0].due_s <= now_s:
            self._advance(heapq.heappop(self._open), now_s, on_written)
        elif self._next_s is not None and self._next_s <= now_s:
            self._take(now_s, on_written)
        due = [self._open[0].due_s] if self._open else []
        due += [] if self._next_s is None else [self._next_s]
        return max(0.0, min(due) - self._clock()) if due else None

    def close(self) -> None:
        """Let go of files that are still being written."""
        for burst in self._open:
            burst.writer.close()
        self._open.clear()

    def _take(self, now_s: float, on_written: OnWritten) -> None:
        shot = next(self._shots, None)
        if shot is None:
            self._next_s = None
            return
        # late by more than a period: go on from now rather than catch up in a burst
        due_s = now_s if self._next_s is None else self._next_s
        self._next_s = max(due_s + self._period_s, now_s)
        capture = shot.take()
        writer = write(self._folder / shot.path, capture.data, shot.style, self._settle_s)
        self._started += 1
        self._advance(_Burst(now_s, self._started, shot, capture, writer), now_s, on_written)

    def _advance(self, burst: _Burst, now_s: float, on_written: OnWritten) -> None:
        try:
            pause_s = next(burst.writer, None)
        except OSError as error:
            raise CannotWriteError(
                f"{self._folder / burst.shot.path}: cannot be written: {error}",
                hint="check the folder's permissions and the free space",
            ) from None
        if pause_s is None:
            on_written(burst.shot, burst.capture)
        else:
            burst.due_s = now_s + pause_s
            heapq.heappush(self._open, burst)
