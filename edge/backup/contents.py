"""What belongs to a site, and the manifest that a backup ends with.

In the archive as in the site's folder: `config.toml`, and below `engines`, `calibration` and `state` what
[paths] of that name holds, wherever it lies. Files that other keys name (certificates, public keys) have
their place relative to `config.toml`, if they lie beside or below it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edge import app
from edge.check import public_files, secret_files
from edge.config import Settings
from edge.places import REVIEWED

MANIFEST = "manifest.json"
CONFIG = "config.toml"
DATABASE = f"state/{app.DATABASE}"
MADE_ANEW = {"compiled", ".resume"}  # folders that are made again from the rest
PICTURES = (app.EVIDENCE, app.REPLAYS, REVIEWED)


class Stored(BaseModel):
    """One file of the archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes_: int = Field(ge=0, alias="bytes")


class Manifest(BaseModel):
    """What a backup holds; newer edges may add to it."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_: Literal["edge/backup/1"] = Field("edge/backup/1", alias="schema")
    edge: str  # version
    created: str
    station: str
    with_evidence: bool
    with_secrets: bool
    left_out: Mapping[str, str]  # key of config.toml → file, which has to be put back by hand
    files: Mapping[str, Stored]


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a site by their names in the archive, without its database."""

    files: Mapping[str, Path]
    left_out: Mapping[str, str]


def contents(settings: Settings, *, with_evidence: bool, with_secrets: bool) -> Contents:
    """Look up what there is; nothing is read yet."""
    base, files, left_out = settings.file.parent, {CONFIG: settings.file}, {}
    secret = secret_files(settings)
    if settings.http.token_file is None and settings.mqtt.password_file is None:
        left_out["systemd credentials"] = "LoadCredential= of the unit, if there is one"
    for key, file in {**secret, **_public_files(settings)}.items():
        inside = file.is_relative_to(base)
        if not inside or (key in secret and not with_secrets):
            left_out[key] = str(file)
        elif file.is_file():
            files[file.relative_to(base).as_posix()] = file
    hidden = {file.resolve() for file in secret.values()}
    folders = {"engines": settings.paths.engines, "calibration": settings.paths.calibration}
    if not with_evidence and (settings.paths.state / REVIEWED).is_dir():
        left_out["frames that people reviewed"] = (
            f"{settings.paths.state / REVIEWED}, without --with-evidence"
        )
    if with_evidence:
        folders |= {f"state/{name}": settings.paths.state / name for name in PICTURES}
    for role, folder in folders.items():
        found = {f"{role}/{file.relative_to(folder).as_posix()}": file for file in _below(folder)}
        files |= {name: file for name, file in found.items() if file.resolve() not in hidden}
    return Contents(files, left_out)


def _public_files(settings: Settings) -> dict[str, Path]:
    keys = settings.security.trusted_keys
    listed = () if keys is None else keys if isinstance(keys, tuple) else (keys,)
    found = [file for one in listed for file in (sorted(one.glob("*.pub")) if one.is_dir() else [one])]
    return public_files(settings) | {f"security.trusted_keys {file.name}": file for file in found}


def _below(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - MADE_ANEW)
        for name in sorted(names):
            if (file := Path(where) / name).is_file() and not name.endswith(".tmp"):
                yield file


def places(settings: Settings) -> tuple[dict[str, str], list[str]]:
    """Where in a restored folder each role goes, as its own config.toml has it; and what does not fit it."""
    base, found, notes = settings.file.parent, {}, []
    for role in ("engines", "calibration", "state"):
        folder: Path = getattr(settings.paths, role)
        if folder != base and folder.is_relative_to(base) and ".." not in folder.parts:
            found[role] = folder.relative_to(base).as_posix()
        else:
            found[role] = role
            notes.append(
                f'paths.{role} of config.toml is {folder}: move {role}/ there, or set it to "{role}"'
            )
    return found, notes
