"""Wakes the scan early when the file system says that something changed. Losing events loses nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

# More hints than this are not worth following one by one: the scan lists the folder instead
MOST_HINTS = 2000


class Hints(FileSystemEventHandler):
    """Paths that changed since they were last taken; `wake` is called on every event."""

    def __init__(self, directory: Path, wake: Callable[[], None]) -> None:
        self._directory = os.fsencode(directory)
        self._wake = wake
        self._lock = threading.Lock()
        self._paths: set[str] = set()
        self._overflow = False

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog's thread."""
        if event.is_directory or event.event_type in ("opened", "closed_no_write"):
            return
        with self._lock:
            for path in (event.src_path, event.dest_path):
                if path:
                    self._paths.add(os.path.relpath(os.fsdecode(path), os.fsdecode(self._directory)))
            if len(self._paths) > MOST_HINTS:
                self._paths.clear()
                self._overflow = True
        self._wake()

    def take(self) -> tuple[set[str], bool]:
        """(paths relative to the directory, whether some were dropped and a full scan is due)."""
        with self._lock:
            paths, overflow = self._paths, self._overflow
            self._paths, self._overflow = set(), False
        return {path for path in paths if not path.startswith("..")}, overflow


class NativeWatch:
    """watchdog's observer on a folder. Starting it may fail (no such folder, inotify limit): OSError."""

    def __init__(self, directory: Path, *, recursive: bool, hints: Hints) -> None:
        self._observer = Observer()
        self._observer.schedule(hints, str(directory), recursive=recursive)
        self._observer.start()

    def close(self) -> None:
        """Stop and join the observer's threads."""
        self._observer.stop()
        self._observer.join(timeout=5)
