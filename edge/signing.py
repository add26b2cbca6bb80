"""Signatures of bundles and calibrations: whose engines may judge here.

Digests show damage; they do not show who made a thing. With `[security] trusted_keys` set, an engine and its
calibration are used only if a key of that list signed both; without it, signature files are not looked at.

A signature is Ed25519 (RFC 8032) over three lines: the kind of document, its digest, which covers every byte
of it and of all files that a bundle lists, and its file name. A calibration is bound to its bundle, so the
name keeps the signed pair of one recipe from judging another. It lies beside the document: `bundle.json.sig`,
`NAME.json.sig`, one line: format, key, signature. The key's name in it only tells which one to try.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge.artifacts import write_atomic
from edge.errors import BundleError, CannotWriteError, ConfigError, MissingInputError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from edge.config import Settings

FORMAT = "edge/signature/1"
SUFFIX = ".sig"
PRIVATE_SUFFIX, PUBLIC_SUFFIX = ".key", ".pub"
LINE = re.compile(rf"{FORMAT} ([0-9a-f]{{16}}) ([A-Za-z0-9+/]{{86}}==)\n")
OTHERS = 0o077  # permission bits of group and world
MOST_BYTES = 4096  # of a key or signature file

Kind = Literal["edge/bundle/1", "edge/calibration/1", "edge/precisions/1"]
"""What a digest is of; part of what is signed, so that one cannot pass for the other."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """Public keys by their names."""

    where: str  # for people: what the configuration says
    keys: Mapping[str, Ed25519PublicKey]


def trusted_keys(settings: Settings) -> Trusted | None:
    """The keys that `[security] trusted_keys` names: files, or a folder of .pub files. None: not set.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    named = settings.security.trusted_keys
    if named is None:
        return None
    key = f"{settings.file}: security.trusted_keys"
    hint = f"name PEM files of Ed25519 public keys, or a folder of {PUBLIC_SUFFIX} files: see edge keygen"
    files = list(named) if isinstance(named, tuple) else sorted(_public_files(named))
    if not files:
        raise ConfigError(f"{key}: no {PUBLIC_SUFFIX} file in {named}", hint=hint)
    keys = {}
    for file in files:
        try:
            public = _read_public(file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{key}: {file}: {error}", hint=hint) from None
        keys[key_name(public)] = public
    return Trusted(", ".join(map(str, named)) if isinstance(named, tuple) else str(named), keys)


def check_signature(document: Path, kind: Kind, digest: str, trusted: Trusted, recipe: str) -> None:
    """Hold a document, already checked against its digest, to the signature beside it.

    Raises:
        BundleError: reason `signature`: there is none, or none of a trusted key for this very document.
    """
    from cryptography.exceptions import InvalidSignature

    file = signature_file(document)
    hint = f"edge sign --recipe {recipe} --key FILE, where the private key of a trusted one is"

    def refusal(what: str) -> BundleError:
        return BundleError(f"{file}: {what}", hint=hint, reason="signature")

    try:
        line = _read(file)
    except FileNotFoundError:
        raise refusal(
            f"not there: {document.name} is not signed, and security.trusted_keys wants it"
        ) from None
    except OSError as error:
        raise refusal(f"cannot be read: {error.strerror}") from None
    parts = LINE.fullmatch(line.decode("ascii", "replace"))
    signature = _decoded(parts[2]) if parts else None
    if parts is None or signature is None:
        raise refusal("is no signature file")
    public = trusted.keys.get(parts[1])
    if public is None:
        raise refusal(f"signed by key {parts[1]}, which is not in {trusted.where}")
    try:
        public.verify(signature, message(document, kind, digest))
    except InvalidSignature:
        raise refusal(
            f"is not of {document.name} as it is now: that was made again, or renamed, or one was changed"
        ) from None


def sign(document: Path, kind: Kind, digest: str, key: Ed25519PrivateKey) -> Path:
    """Write the signature of a document beside it; gives its file.

    Raises:
        CannotWriteError: it cannot be written.
    """
    signature = base64.b64encode(key.sign(message(document, kind, digest))).decode()
    file = signature_file(document)
    write_atomic(file, f"{FORMAT} {key_name(key.public_key())} {signature}\n".encode())
    return file


def message(document: Path, kind: Kind, digest: str) -> bytes:
    """What is signed; the name comes last, as only it could hold a line end."""
    return f"{kind}\n{digest}\n{document.name}\n".encode()


def signature_file(document: Path) -> Path:
    return document.with_name(document.name + SUFFIX)


def key_name(public: Ed25519PublicKey) -> str:
    """What a signature calls its key: the first 16 hex digits of the sha256 over its 32 bytes."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def make_keys(folder: Path, name: str) -> tuple[Path, Path, str]:
    """A new key pair: NAME.key, which only its owner may read, and NAME.pub; and the key's name.

    Raises:
        CannotWriteError: one of them is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = folder / f"{name}{PRIVATE_SUFFIX}", folder / f"{name}{PUBLIC_SUFFIX}"
    key = Ed25519PrivateKey.generate()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    shown = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for file in (private, public):
        if os.path.lexists(file):
            raise CannotWriteError(
                f"{file}: is there already, and a key is never overwritten",
                hint="give another folder or --name", retryable=False,
            )  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(private, secret, 0o600)
        _write_new(public, shown, 0o644)
    except OSError as error:
        raise CannotWriteError(
            f"{folder}: keys cannot be written: {error.strerror}", hint="check space and permissions"
        ) from None
    return private, public, key_name(key.public_key())


def read_private(file: Path) -> Ed25519PrivateKey:
    """A private key, PEM without a password, that only its owner may read. Its contents are in no error.

    Raises:
        MissingInputError: it cannot be read. UsageError: no such key, or others may read it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        mode, data = file.stat().st_mode, _read(file)
    except OSError as error:
        raise MissingInputError(
            f"{file}: cannot be read: {error.strerror}", hint="make a key with edge keygen"
        ) from None
    if mode & OTHERS:
        raise UsageError(f"{file}: others may read this private key", hint=f"chmod 600 {file}")
    try:
        key = load_pem_private_key(data, password=None)
    except Exception:  # damaged, or with a password; what the library says of a key is nothing for a log
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"{file}: no Ed25519 private key in PEM without a password", hint="make one with edge keygen"
        )
    return key


def _read_public(file: Path) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(file))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("no Ed25519 public key in PEM")
    return key


def _public_files(folder: Path) -> Iterator[Path]:
    """A folder's .pub files; a file stands for itself."""
    return folder.glob(f"*{PUBLIC_SUFFIX}") if folder.is_dir() else iter([folder])


def _read(file: Path) -> bytes:
    """A small file's bytes."""
    with file.open("rb") as stream:
        return stream.read(MOST_BYTES)


def _decoded(text: str) -> bytes | None:
    """Base64, written in the one way there is: no bit of the file is without meaning."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return data if base64.b64encode(data).decode() == text else None


def _write_new(file: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
