"""Which files of a source are new and completely written. Scanning is the truth; events are only hints.

A file is handed on when its size and mtime have stayed the same for the settle time (and its marker file is
there, where the source has markers). Whether the format's own end is there is found out by the decoder; an
incomplete file comes back with `postpone`, and the caller gives up on it after `incomplete_after_s` without a
change.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge.errors import EdgeError, UnavailableError
from edge.types import Candidate, FileStamp

# A postponed file is looked at again after this many settle times, twice as many each time, up to the longest
FIRST_RETRY_SETTLES = 2.0
LONGEST_RETRY_S = 10.0
MOST_DOUBLINGS = 20  # a file may be postponed for months


@dataclass(frozen=True, slots=True)
class ScanRule:
    """What belongs to a source and when it counts as written."""

    source: str
    directory: Path
    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    recursive: bool = True
    settle_s: float = 1.0
    rescan_s: float = 5.0
    marker: str | None = None  # "NAME + marker" must exist, such as ".done"
    mount: Path | None = None  # a file system must be mounted there, or the folder counts as unavailable


@dataclass(slots=True)
class _Tracked:
    stamp: FileStamp
    first_seen_s: float
    unchanged_since_s: float
    due_s: float  # when to look again
    retries: int = 0
    handed: bool = False  # with the decoder, or done: nothing to do until the stamp changes


@dataclass(slots=True)
class FolderScan:
    """The state of one source. `recorded(path, stamp)` says whether a verdict is stored for that content."""

    rule: ScanRule
    recorded: Callable[[str, FileStamp], bool]
    _files: dict[str, _Tracked] = field(default_factory=dict)
    _odd: dict[str, str] = field(default_factory=dict)  # what is named like a frame and is none: the reason
    _told: set[str] = field(default_factory=set)
    _next_rescan_s: float = float("-inf")

    def step(self, now_s: float, hints: Iterable[str] = ()) -> list[Candidate]:
        """Look at the folder (in full when the rescan is due) and give the files that became ready.

        Raises:
            UnavailableError: the folder cannot be listed.
        """
        if now_s >= self._next_rescan_s:
            try:
                self._rescan(now_s)
            except OSError as error:  # a mount that hiccups while it is listed; nothing is forgotten
                raise self._unavailable(error) from None
            self._next_rescan_s = now_s + self.rule.rescan_s
        else:
            for path in hints:
                self._look(path, now_s)
        due = [path for path, file in self._files.items() if not file.handed and file.due_s <= now_s]
        ready: list[Candidate] = []
        try:
            for path in due:
                if candidate := self._settle(path, now_s):
                    ready.append(candidate)
        except EdgeError:  # the journal cannot be asked: what was ready stays due
            for candidate in ready:
                self._files[candidate.path].handed = False
            raise
        return ready

    def next_due_s(self) -> float:
        """When `step` has something to do again, on the monotonic clock."""
        waiting = (file.due_s for file in self._files.values() if not file.handed)
        return min(waiting, default=self._next_rescan_s)

    def waiting(self) -> int:
        """Files seen that are not yet complete."""
        return sum(not file.handed for file in self._files.values())

    def rescan_now(self) -> None:
        """Make the next step list the whole folder."""
        self._next_rescan_s = float("-inf")

    def postpone(self, candidate: Candidate, now_s: float) -> None:
        """Take back a file that is not ready: it will be handed on again, later each time."""
        file = self._files.get(candidate.path)
        if file is None or file.stamp != candidate.stamp:
            return
        wait_s = max(0.1, self.rule.settle_s) * FIRST_RETRY_SETTLES * 2 ** min(file.retries, MOST_DOUBLINGS)
        file.retries += 1
        file.handed = False
        file.due_s = now_s + min(wait_s, LONGEST_RETRY_S)

    def forget(self, candidate: Candidate) -> None:
        """Drop a file that is gone; should it come back it is new."""
        file = self._files.get(candidate.path)
        if file is not None and file.stamp == candidate.stamp:
            del self._files[candidate.path]

    def _rescan(self, now_s: float) -> None:
        if self.rule.mount is not None and not os.path.ismount(self.rule.mount):
            raise OSError(errno.ENOTCONN, f"nothing is mounted at {self.rule.mount}")
        present = set()
        closed: dict[str, str] = {}
        for path in self._list(closed):
            present.add(path)
            self._look(path, now_s)
        for path in self._files.keys() - present:
            del self._files[path]
        for path in self._odd.keys() - present:
            del self._odd[path]
        self._odd |= closed

    def _list(self, closed: dict[str, str]) -> Iterator[str]:
        """Paths of frames; folders that are not looked into go into `closed`, with the reason."""
        stack = [(os.scandir(self.rule.directory), "")]
        while stack:
            entries, prefix = stack.pop()
            with entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if self.rule.recursive and not entry.name.startswith("."):
                            try:
                                stack.append((os.scandir(entry.path), f"{prefix}{entry.name}/"))
                            except PermissionError:  # its frames are not inspected: that must be said
                                closed[f"{prefix}{entry.name}"] = "folder_not_readable"
                            except FileNotFoundError:
                                pass
                    elif self.rule.recursive and entry.is_symlink() and os.path.isdir(entry.path):
                        closed[f"{prefix}{entry.name}"] = "link_to_folder"  # could lead round in a circle
                    elif self.wanted(prefix + entry.name):
                        yield prefix + entry.name

    def _unavailable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"source {self.rule.source!r}: {self.rule.directory} cannot be listed: {error.strerror or error}",
            hint="create or mount the folder, and let the daemon's user read it",
            reason="source_unavailable",
        )

    def wanted(self, path: str) -> bool:
        """Whether a path relative to the source is a frame by include and exclude (case does not matter)."""
        whole = path.lower()
        folders, _, name = whole.rpartition("/")
        hidden = any(part.startswith(".") for part in (*folders.split("/"), name))

        def fits(patterns: tuple[str, ...]) -> bool:
            return any(fnmatch.fnmatchcase(whole if "/" in p else name, p.lower()) for p in patterns)

        return not hidden and fits(self.rule.include) and not fits(self.rule.exclude)

    def _look(self, path: str, now_s: float) -> None:
        """Start tracking a file, or notice that it changed."""
        stamp = self._stamp(path)
        if stamp is None:
            return
        known = self._files.get(path)
        if known is not None and known.stamp == stamp:
            return
        first_seen_s = known.first_seen_s if known and not known.handed else now_s
        file = _Tracked(stamp, first_seen_s, now_s, now_s + self.rule.settle_s)
        file.handed = self.recorded(path, stamp)
        self._files[path] = file

    def _settle(self, path: str, now_s: float) -> Candidate | None:
        file = self._files[path]
        stamp = self._stamp(path)
        if stamp is None:
            del self._files[path]
            return None
        if stamp != file.stamp:
            self._look(path, now_s)
            return None
        if self.rule.marker is not None and not self._marked(path):
            file.due_s = now_s + max(0.1, self.rule.settle_s)
            return None
        file.handed = True
        return Candidate(
            source=self.rule.source,
            path=path,
            file=self.rule.directory / path,
            stamp=stamp,
            first_seen_s=file.first_seen_s,
            unchanged_since_s=file.unchanged_since_s,
            settled_s=now_s,
        )

    def _marked(self, path: str) -> bool:
        return os.path.exists(f"{self.rule.directory / path}{self.rule.marker}")

    def take_odd(self) -> list[tuple[str, str]]:
        """(path, reason) of what is named like a frame and is none, each once."""
        new = [(path, reason) for path, reason in self._odd.items() if path not in self._told]
        self._told = set(self._odd)
        return new

    def _inside(self, file: Path) -> bool:
        """Whether a link ends inside the source; a link to itself is caught by the `stat` that follows."""
        return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(self.rule.directory))

    def _stamp(self, path: str) -> FileStamp | None:
        """The file's stamp; None if it is gone, no regular file, or a link that leaves the source."""
        file = self.rule.directory / path
        try:
            info = os.stat(file, follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                if not self._inside(file):
                    self._odd[path] = "link_leaves_source"
                    return None
                info = os.stat(file)
        except OSError:
            self._odd.pop(path, None)
            return None
        if not stat.S_ISREG(info.st_mode):
            self._odd[path] = "not_a_file"
            return None
        return FileStamp(info.st_size, info.st_mtime_ns)
