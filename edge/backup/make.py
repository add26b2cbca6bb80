"""`edge backup`: one file of a site, consistent while the daemon runs."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from edge import __version__, app
from edge.artifacts import sync_folder
from edge.backup.contents import DATABASE, MANIFEST, Contents, Manifest, Stored, contents
from edge.config import Settings
from edge.errors import CannotWriteError, UnavailableError, UsageError

BUSY_S = 10.0


def back_up(
    settings: Settings, target: Path, *, with_evidence: bool, with_secrets: bool, force: bool
) -> Manifest:
    """Write a site into `target`: whole, or not at all.

    The database is taken first, by SQLite's backup: one moment of it, whatever is written meanwhile. Pictures
    come after, so that those of every verdict in it are there, unless retention has removed them.

    Raises:
        UsageError: the file is there already.
        UnavailableError: the database cannot be read. CannotWriteError: the file cannot be written.
    """
    if target.exists() and not force:
        raise UsageError(f"{target} is there already", hint="give another name, or --force to replace it")
    if not target.parent.is_dir():  # not made: below a mount point without its disk that would be no backup
        raise CannotWriteError(f"{target.parent}: no such folder", hint="mount it, or make it first")
    found = contents(settings, with_evidence=with_evidence, with_secrets=with_secrets)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        # pictures, and perhaps secrets: for nobody else
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                stored = _fill(archive, settings, found, target.parent)
                manifest = Manifest(
                    edge=__version__, created=datetime.now(UTC).isoformat(timespec="seconds"),
                    station=settings.station.name, with_evidence=with_evidence, with_secrets=with_secrets,
                    left_out=found.left_out, files=stored,
                )  # fmt: skip
                _add(archive, MANIFEST, manifest.model_dump_json(by_alias=True, indent=1).encode())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise CannotWriteError(f"{target}: {error}", hint="check space and permissions") from None
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


def _fill(
    archive: tarfile.TarFile, settings: Settings, found: Contents, scratch: Path
) -> Mapping[str, Stored]:
    stored = {}
    database = settings.paths.state / app.DATABASE
    if database.exists():
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".edge-backup-") as folder:
            copy = Path(folder) / app.DATABASE
            _copy_database(database, copy)
            stored[DATABASE] = _add_file(archive, DATABASE, copy)
    for name, file in found.files.items():
        try:
            stored[name] = _add_file(archive, name, file)
        except FileNotFoundError:  # retention removes pictures while we read
            continue
    return stored


def _copy_database(database: Path, copy: Path) -> None:
    """All of it at one moment (sqlite.org/backup.html); writers go on meanwhile, as it is in WAL mode."""
    try:
        with (
            closing(
                sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
            ) as there,
            closing(sqlite3.connect(copy)) as here,
        ):
            there.backup(here)
            (said,) = here.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise UnavailableError(
            f"{database}: cannot be copied: {error}", hint="edge doctor says more; nothing was written"
        ) from None
    if said != "ok":
        raise UnavailableError(
            f"{database}: damaged: {said}",
            hint="restart the daemon: it sets the database aside",
            retryable=False,
        )


def _add_file(archive: tarfile.TarFile, name: str, file: Path) -> Stored:
    """As much as the file has when it is opened, and the digest of just that."""
    with file.open("rb") as stream:
        info = archive.gettarinfo(arcname=name, fileobj=stream)
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        reading = _Reading(stream)
        archive.addfile(info, reading)
    return Stored(sha256=reading.digest.hexdigest(), bytes=info.size)


class _Reading(io.RawIOBase):
    """A file on its way into the archive, hashed as it passes."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        return data


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    archive.addfile(info, io.BytesIO(data))
