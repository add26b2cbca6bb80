"""The token that the page and the API ask for, where `http.token_file` or a systemd credential gives one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from edge.errors import ConfigError

CREDENTIAL = "http_token"
LEAST_CHARACTERS = 16  # guessed over a network, that is out of reach


def read_token(file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The token: the systemd credential `http_token`, else what `file` holds; None: nobody is asked for one.

    The credential comes first because it is a copy of that file: the daemon need not be allowed to read the
    file itself, and `edge status` of an administrator still finds the same token where the key says.

    Raises:
        ConfigError: the file cannot be read, or holds no good token. The token itself is never shown.
    """
    if has_credential(environ):
        return _checked(_credential(environ), f"the credential {CREDENTIAL}")
    return None if file is None else _checked(file, f"http.token_file = {str(file)!r}")


def has_credential(environ: Mapping[str, str]) -> bool:
    """Whether systemd gave this process the token; see systemd.exec(5), Credentials."""
    return _credential(environ).is_file()


def _credential(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("CREDENTIALS_DIRECTORY", os.devnull)) / CREDENTIAL


def _checked(file: Path, name: str) -> str:
    try:
        token = file.read_bytes().decode("ascii", errors="replace").strip()
    except OSError as error:
        raise ConfigError(
            f"{name} cannot be read: {error.strerror}",
            hint="put the token there, readable for the user that edge runs as, or give it as the systemd "
            f"credential {CREDENTIAL}",
        ) from None
    if len(token) < LEAST_CHARACTERS or not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(
            f"{name} holds no good token",
            hint=f"{LEAST_CHARACTERS} or more letters, digits and signs on one line, such as those of "
            "`openssl rand -hex 32`",
        )
    return token
