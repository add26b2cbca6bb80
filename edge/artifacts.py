"""Files that must be whole and unchanged: atomic writes, and JSON documents bound by their own digest."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edge.errors import BundleError, CannotWriteError

COPIED_BYTES = 1 << 20  # at a time
Document = TypeVar("Document", bound=BaseModel)


def write_signed_json(path: Path, document: BaseModel) -> None:
    """Write a document with its `digest`: the sha256 over the canonical JSON of everything else."""
    data = document.model_dump(mode="json", by_alias=True)
    data["digest"] = _digest(data)
    write_atomic(path, _serialised(data))


def read_signed_json(path: Path, kind: type[Document]) -> Document:
    """Read a document that `write_signed_json` wrote; any changed byte is noticed.

    Raises:
        BundleError: missing, not JSON, not of this kind, or not what was written.
    """
    try:
        text = path.read_bytes()
        data = json.loads(text)
    except FileNotFoundError:
        raise BundleError(f"{path}: not there", hint="run `edge learn`, or copy it here") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read: {error}", hint="copy it again") from None
    if not isinstance(data, dict) or data.get("digest") != _digest(data) or text != _serialised(data):
        raise BundleError(
            f"{path}: damaged or edited by hand: its digest does not match its contents",
            hint="copy it again, or make it again with edge learn or edge calibrate",
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint="it was written by another version of edge: learn or calibrate again",
        ) from None


def _serialised(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def _digest(data: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in data.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_verified(file: Path, target: Path, sha256: str) -> bool:
    """Copy a file under its final name, if its content is the one that is meant: else nothing is left.

    A FIFO in its place does not hang it.

    Raises:
        OSError: it cannot be read, or not be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    digest = hashlib.sha256()
    try:
        with (
            open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source,
            temporary.open("wb") as copy,
        ):
            while chunk := source.read(COPIED_BYTES):
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        if digest.hexdigest() != sha256:
            return False
        os.replace(temporary, target)
        sync_folder(target.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut; a file's own fsync keeps its bytes only."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it, that is still there after a power cut."""
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):
        sync_folder(one.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """temp → fsync → rename → fsync the folder: after a crash the old or the new file is there, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make_folder(path.parent)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CannotWriteError(
            f"{path}: cannot be written: {error}", hint="check space and permissions"
        ) from None
