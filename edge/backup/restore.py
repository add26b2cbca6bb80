"""`edge restore`: a site out of a backup. All is checked before anything is put in its place."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from edge import app
from edge import config as configuration
from edge.artifacts import make_folder, sync_folder
from edge.backup.contents import CONFIG, DATABASE, MANIFEST, Manifest, places
from edge.config import Settings
from edge.daemon import lock_site
from edge.errors import CannotWriteError, DataError, MissingInputError, UsageError
from edge.record.store import SCHEMA_VERSION

MOST_MANIFEST_BYTES = 256 << 20
BLOCK_BYTES = 1 << 20
BESIDE_DATABASE = ("-wal", "-shm", ".suspect")  # of the database that was there: never of ours


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of it."""

    folder: Path
    manifest: Manifest
    verdicts: int
    waiting: int  # verdicts in the outbox
    notes: tuple[str, ...]


def restore(file: Path, folder: Path, *, force: bool) -> Restored:
    """Check a backup and make the site in `folder`; with `force` also where there are files, over them.

    Raises:
        MissingInputError: no such file.
        DataError: damaged, not a backup, unsafe, or made by a newer edge.
        UsageError: the folder is not empty. TryAgainError: a daemon runs on the site there.
        CannotWriteError: the folder cannot be written.
    """
    if not file.is_file():
        raise MissingInputError(f"{file}: no such file", hint="give the file that edge backup made")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise UsageError(f"{folder} is not empty", hint="give an empty folder, or --force to write over it")
    try:
        make_folder(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".restore-") as scratch:
            unpacked = Path(scratch)
            manifest = _unpack(file, unpacked)
            settings = configuration.load(unpacked / CONFIG)
            verdicts, waiting = _look_into(unpacked / DATABASE) if DATABASE in manifest.files else (0, 0)
            roles, notes = places(settings)
            _put(unpacked, folder, manifest, roles)
    except OSError as error:
        raise CannotWriteError(f"{folder}: {error}", hint="check space and permissions") from None
    return Restored(folder, manifest, verdicts, waiting, (*notes, *_reminders(manifest, settings)))


def _unpack(file: Path, into: Path) -> Manifest:
    """All files, each as the manifest says it is."""
    try:
        with tarfile.open(file, "r:") as archive:
            found: dict[str, tuple[str, int]] = {}
            manifest: Manifest | None = None
            for member in archive:
                if member.name == MANIFEST and member.isreg() and member.size <= MOST_MANIFEST_BYTES:
                    manifest = _manifest(file, archive, member)
                    continue
                if member.name in found:
                    raise _bad(file, f"{member.name!r} is in it twice")
                found[member.name] = _extract(file, archive, member, into)
    except (tarfile.TarError, EOFError) as error:
        raise _bad(file, f"{error}") from None
    if manifest is None:
        raise _bad(file, f"it has no {MANIFEST}")
    wanted = {name: (stored.sha256, stored.bytes_) for name, stored in manifest.files.items()}
    if found != wanted:
        differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise _bad(file, f"{differing[0]!r} is not what was stored")
    if CONFIG not in found:
        raise _bad(file, f"it has no {CONFIG}")
    return manifest


def _bad(file: Path, why: str) -> DataError:
    return DataError(f"{file}: not a whole backup of edge: {why}", hint="use another backup; nothing was put")


def _manifest(file: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Manifest:
    stream = archive.extractfile(member)
    assert stream is not None
    try:
        return Manifest.model_validate_json(stream.read())
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad(file, f"{MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _extract(file: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> tuple[str, int]:
    """One regular file with a plain relative name, and nothing else; (sha256, bytes)."""
    pure = PurePosixPath(member.name)
    try:
        tarfile.data_filter(member, str(into))  # PEP 706: absolute names, '..', links, devices
    except tarfile.FilterError as error:
        raise _bad(file, f"unsafe: {error}") from None
    if not member.isreg() or pure.is_absolute() or ".." in pure.parts or "\\" in member.name:
        raise _bad(file, f"unsafe: {member.name!r} is no plain file")
    target = into.joinpath(*pure.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    source, digest, size = archive.extractfile(member), hashlib.sha256(), 0
    assert source is not None
    with target.open("xb") as stream:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    target.chmod(0o600)
    return digest.hexdigest(), size


def _look_into(database: Path) -> tuple[int, int]:
    """(verdicts, rows in the outbox) of a database that this edge can go on with."""
    try:
        with closing(sqlite3.connect(database)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if version > SCHEMA_VERSION:
                raise DataError(
                    f"the backup's database is of a newer edge (schema {version}, this one knows "
                    f"{SCHEMA_VERSION})",
                    hint="install that version, or a newer one, then restore",
                )
            if said != "ok":
                raise DataError(f"the backup's database is damaged: {said}", hint="use another backup")
            (verdicts,), (waiting,) = (
                db.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("verdicts", "outbox")
            )
    except sqlite3.Error as error:
        raise DataError(f"the backup's database is damaged: {error}", hint="use another backup") from None
    return int(verdicts), int(waiting)


def _put(unpacked: Path, folder: Path, manifest: Manifest, roles: dict[str, str]) -> None:
    """Move the files to their places, the database after all others, under the site's lock."""
    state = folder / roles["state"]
    make_folder(state)
    with lock_site(state):
        names = sorted(manifest.files, key=lambda name: (name == DATABASE, name))
        for name in names:
            role, _, rest = name.partition("/")
            target = folder / roles[role] / rest if rest and role in roles else folder / name
            make_folder(target.parent)
            if name == DATABASE:  # a journal of another database would be played into ours
                for ending in BESIDE_DATABASE:
                    target.with_name(app.DATABASE + ending).unlink(missing_ok=True)
            shutil.move(unpacked / name, target)
        for one in {target.parent, folder, state}:
            sync_folder(one)


def _reminders(manifest: Manifest, settings: Settings) -> list[str]:
    notes = [f"put back by hand: {key}: {what}" for key, what in manifest.left_out.items()]
    notes += [
        f"source {source.name!r} is {source.directory} in the old place: see that it is there"
        for source in settings.source
        if not source.directory.is_relative_to(settings.file.parent)
    ]
    return [*notes, f"never let two daemons run as station {manifest.station!r}"]
