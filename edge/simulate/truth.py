"""The truth about simulated frames, kept where the daemon does not look: a manifest for `edge evaluate`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import cv2

from edge.errors import CannotWriteError, UsageError
from edge.simulate.shots import Capture, Shot

COLUMNS = ("path", "label", "mask", "view", "part", "defect", "split")
MANIFEST = "manifest.csv"


class Truth:
    """Collects what was written; the manifest appears at `close`, whole."""

    def __init__(self, folder: Path, scanned: Path) -> None:
        """Prepare a folder for the truth about the frames in `scanned`.

        Raises:
            UsageError: the folder is inside the scanned one, where masks would be taken for frames.
            CannotWriteError: there is a manifest already, or the folder cannot be made.
        """
        if folder.resolve().is_relative_to(scanned.resolve()):
            raise UsageError(f"{folder} is inside {scanned}", hint="keep --truth outside the scanned folder")
        if (folder / MANIFEST).exists():
            raise CannotWriteError(f"{folder / MANIFEST} exists", hint="choose another --truth folder")
        self._folder = folder.resolve()
        self._scanned = scanned.resolve()
        self._rows: list[dict[str, str]] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotWriteError(f"{folder}: cannot be made: {error}") from None

    @property
    def manifest(self) -> Path:
        return self._folder / MANIFEST

    def add(self, shot: Shot, capture: Capture) -> None:
        """Remember a frame that was written, and write its mask if it shows a defect.

        Raises:
            CannotWriteError: the disk does not take the mask.
        """
        mask = ""
        if capture.mask is not None and capture.mask.any():
            mask = str(PurePosixPath("mask") / PurePosixPath(shot.path).with_suffix(".png"))
            write_file(self._folder / mask, cv2.imencode(".png", capture.mask)[1].tobytes())
        path = os.path.relpath(self._scanned / shot.path, self._folder).replace(os.sep, "/")
        values = (path, shot.label, mask, shot.view, shot.part, shot.defect, shot.split)
        self._rows.append(dict(zip(COLUMNS, values, strict=True)))

    def close(self) -> None:
        """Write the manifest.

        Raises:
            CannotWriteError: the disk does not take it.
        """
        write_table(self.manifest, sorted(self._rows, key=lambda row: row["path"]))  # parts stay together


def write_table(file: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a manifest, whole or not at all; columns that a row lacks stay empty.

    Raises:
        CannotWriteError: the disk does not take it.
    """
    half_done = file.with_suffix(".csv.part")
    try:
        with half_done.open("w", newline="", encoding="utf-8") as target:
            table = csv.DictWriter(target, COLUMNS, restval="", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        os.replace(half_done, file)
    except OSError as error:
        raise CannotWriteError(f"{file}: cannot be written: {error}") from None


def write_file(file: Path, data: bytes) -> None:
    """Write a frame or a mask, and the folders above it.

    Raises:
        CannotWriteError: the disk does not take it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise CannotWriteError(f"{file}: cannot be written: {error}") from None
