"""Copies of frames' own files beside their evidence, made apart from the line: a scanner's folder that hangs
must hold up no verdict."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.artifacts import copy_verified
from edge.record.evidence import free_bytes, wanted_free

FRAME = "frame"  # stem of the copy; the suffix is the file's own
MOST_WAITING = 64
BUSY, CHANGED, FULL, FAILED = "copies_behind", "frame_changed", "disk_full", "failed"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A frame's file that is to be copied into a folder of evidence."""

    folder: Path
    file: Path
    sha256: str


class FrameKeeper:
    """Takes orders from the record stage, and carries them out in a loop of its own."""

    def __init__(
        self, root: Path, min_free_bytes: int | None, skipped: Callable[[str], None], log: Any
    ) -> None:
        """`root` is that of all evidence; `skipped` is told why a frame was not copied."""
        self._root, self._min_free_bytes, self._skipped, self._log = root, min_free_bytes, skipped, log
        self._wanted: queue.Queue[Wanted] = queue.Queue(MOST_WAITING)

    def add(self, wanted: Wanted) -> None:
        """Order a copy; never waits."""
        try:
            self._wanted.put_nowait(wanted)
        except queue.Full:
            self._skipped(BUSY)

    def step(self, wait_s: float = 0.2) -> bool:
        """Make the next copy; says whether there was one to make."""
        try:
            wanted = self._wanted.get(timeout=wait_s)
        except queue.Empty:
            return False
        try:
            why = self._copy(wanted)
        except OSError as error:
            why = FAILED
            self._log.warning("evidence.frame_not_kept", file=str(wanted.file), error=str(error))
        if why:
            self._skipped(why)
        return True

    def _copy(self, wanted: Wanted) -> str:
        """Why there is no copy; '' if there is."""
        if free_bytes(self._root) < wanted_free(self._root, self._min_free_bytes):
            return FULL
        target = wanted.folder / f"{FRAME}{wanted.file.suffix.lower()}"
        return "" if copy_verified(wanted.file, target, wanted.sha256) else CHANGED
