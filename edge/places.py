"""Where the file of a frame that was judged lies now: kept with its evidence or with a review, or still where
it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from edge.artifacts import sha256_of
from edge.config import Settings
from edge.record import evidence
from edge.record.keeping import FRAME

EVIDENCE, REVIEWED = "evidence", "reviewed"  # folders of paths.state
CHANGED = "its file has other content now"
NO_FILE = "its file is gone"
NO_SOURCE = "its source is no longer in config.toml"
NEVER_READ = "its bytes were never read"
_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,8}){0,2}")


class Places:
    """Looks up files of a site's frames by their verdicts' payloads; reads nothing but files."""

    def __init__(self, settings: Settings) -> None:
        self._state = settings.paths.state
        self._sources = {source.name: source for source in settings.source}

    def value_range(self, source: str | None) -> tuple[float, float] | None:
        """The stored values that are black and white in a source's frames."""
        known = self._sources.get(source or "")
        return known.value_range if known else None

    def candidates(self, payload: Mapping[str, Any], source: str | None, path: str = "") -> Iterator[Path]:
        """Files that may hold the frame; the content has to be held against its sha256.

        `path` is that of the journal, where it is known; else the payload's.
        """
        image = payload.get("image") or {}
        if folder := evidence.folder_of(self._state / EVIDENCE, payload.get("evidence")):
            yield from sorted(folder.glob(f"{FRAME}.*"))
        path = path or image.get("path") or ""
        if sha256 := image.get("sha256"):
            yield self.reviewed(sha256, path)
        known, below = self._sources.get(source or ""), PurePosixPath(path)
        if known and path and not below.is_absolute() and ".." not in below.parts:
            yield known.directory / path

    def reviewed(self, sha256: str, path: str) -> Path:
        """Where the copy of a frame lies that a person has reviewed, if there is one."""
        suffixes = "".join(PurePosixPath(path).suffixes[-2:])
        # what decoders know a format by; nothing where a name has something odd there
        return self._state / REVIEWED / f"{sha256}{suffixes if _SUFFIX.fullmatch(suffixes) else ''}"

    def find(self, payload: Mapping[str, Any], source: str | None, path: str = "") -> tuple[Path | None, str]:
        """The file with the verdict's content; else None, and why there is none."""
        sha256 = (payload.get("image") or {}).get("sha256")
        if not sha256:
            return None, NEVER_READ
        why = NO_FILE if source in self._sources else NO_SOURCE
        for file in self.candidates(payload, source, path):
            try:
                if not file.is_file():
                    continue
                if sha256_of(file) == sha256:
                    return file, ""
                why = CHANGED
            except OSError as error:
                why = f"its file cannot be read: {error.strerror}"
        return None, why
