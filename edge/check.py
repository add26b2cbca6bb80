"""What would keep a site from running: `edge check`, and what the daemon refuses to start or reload with."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from edge.config import FileSink, Mqtt, Settings, Sparkplug, Tls, is_loopback
from edge.errors import ConfigError, EdgeError
from edge.publish.webhook import read_secret
from edge.recipes import check_state, open_recipe
from edge.web.token import read_token


def problems(settings: Settings) -> list[EdgeError]:
    """Everything that would keep the site from running, for `edge check`; empty when all is well."""
    recipes = dict.fromkeys(source.recipe for source in settings.source)
    checks: list[Callable[[], object]] = [
        partial(check_state, settings),
        partial(check_sources, settings),
        partial(check_secrets, settings),
        partial(check_token, settings),
        partial(check_sinks, settings),
        *(partial(open_recipe, settings, name) for name in recipes),
    ]
    found: list[EdgeError] = []
    for check in checks:
        try:
            check()
        except EdgeError as error:
            if str(error) not in map(str, found):  # every recipe needs the state folder
                found.append(error)
    for source in settings.source:
        if not source.directory.is_dir():
            found.append(
                ConfigError(
                    f"{settings.file}: source {source.name!r}: {source.directory} is no folder",
                    hint="create or mount it; the daemon waits for it and is not ready until it is there",
                )
            )
    return found


def notes(settings: Settings) -> list[str]:
    """What keeps nothing from running and yet lets somebody in; said by `edge check` and at every start."""
    mqtt, http = settings.mqtt, settings.http
    found = []
    if mqtt.enabled and mqtt.tls is None and not is_loopback(mqtt.host):
        what = "verdicts" if mqtt.username is None else "the password and verdicts"
        found.append(
            f"mqtt.host = {mqtt.host!r} without [mqtt.tls]: {what} cross the network in clear, and anybody "
            "on it may pretend to be the broker"
        )
    asked = settings.sparkplug
    broker = asked.broker(mqtt)
    said = mqtt.enabled and asked.host is None
    if asked.enabled and not said and broker.tls is None and not is_loopback(broker.host):
        found.append(
            f"[sparkplug] to {broker.host!r} without TLS: verdicts cross the network in clear, and anybody "
            "on it may pretend to be the broker"
        )
    if http.enabled and not http.on_loopback:
        found.append(
            f"http.listen = {http.listen!r}: the page, and its token, cross the network in clear; better "
            "listen on 127.0.0.1 behind a reverse proxy with TLS"
        )
    found += [
        f"sink {sink.name!r}: {sink.url} without TLS: verdicts cross the network in clear"
        for sink in settings.sink
        if not isinstance(sink, FileSink)
        and urlsplit(sink.url).scheme == "http"
        and not is_loopback(urlsplit(sink.url).hostname or "")
    ]
    return found + [
        f"{key} = {str(file)!r} can be read by everybody on this machine: chmod o= it"
        for key, file in secret_files(settings).items()
        if _is_public(file)
    ]


def secret_files(settings: Settings) -> dict[str, Path]:
    """Files whose contents nobody else may know, by the key that names them."""
    of_brokers = _files_of("mqtt", settings.mqtt) | _files_of("sparkplug", settings.sparkplug)
    named = {
        **{key: file for key, file in of_brokers.items() if key.endswith(("password_file", "key_file"))},
        "http.token_file": settings.http.token_file,
        **{f"sink {one.name} secret_file": getattr(one, "secret_file", None) for one in settings.sink},
    }
    return {key: file for key, file in named.items() if file is not None}


def public_files(settings: Settings) -> dict[str, Path]:
    """Certificates that the configuration names, by the key that names them."""
    of_brokers = _files_of("mqtt", settings.mqtt) | _files_of("sparkplug", settings.sparkplug)
    named = {
        **{key: file for key, file in of_brokers.items() if key.endswith(("ca_file", "cert_file"))},
        **{f"sink {one.name} ca_file": getattr(one, "ca_file", None) for one in settings.sink},
    }
    return {key: file for key, file in named.items() if file is not None}


def _files_of(table: str, broker: Mqtt | Sparkplug) -> dict[str, Path | None]:
    tls = broker.tls or Tls()
    files = {f"{table}.tls.{key}": getattr(tls, key) for key in ("ca_file", "cert_file", "key_file")}
    return {f"{table}.password_file": broker.password_file, **files}


def _is_public(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & 0o007)
    except OSError:  # the checks say what is wrong with it
        return False


def check_sources(settings: Settings) -> None:
    """A daemon without a source would run for ever and do nothing.

    Raises:
        ConfigError: there is no source.
    """
    if not settings.source:
        raise ConfigError(
            f"{settings.file}: no [[source]]: nothing to inspect",
            hint="add one with name, directory and recipe, as README shows",
        )


def check_secrets(settings: Settings) -> None:
    """Files that [mqtt] and [sparkplug] name, read as the connection will.

    Raises:
        ConfigError: one is missing or cannot be read.
    """
    mqtt, sparkplug = settings.mqtt, settings.sparkplug
    named: dict[str, Path | None] = {}
    if mqtt.enabled or (sparkplug.enabled and sparkplug.host is None):
        named |= _files_of("mqtt", mqtt)
    if sparkplug.enabled:
        named |= _files_of("sparkplug", sparkplug)
    for key, file in named.items():
        try:
            if file is not None:
                file.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{settings.file}: {key} = {str(file)!r} cannot be read: {error.strerror}",
                hint="put the file there, readable for the user that edge runs as, or take the key out",
            ) from None


def check_sinks(settings: Settings) -> None:
    """Files that webhooks name.

    Raises:
        ConfigError: one cannot be read, or holds no good secret.
    """
    for sink in settings.sink:
        if isinstance(sink, FileSink):
            continue
        try:
            if sink.secret_file is not None:
                read_secret(sink.secret_file)
            if sink.ca_file is not None:
                ssl.create_default_context(cafile=str(sink.ca_file))
        except ConfigError as error:
            raise ConfigError(
                f"{settings.file}: sink {sink.name!r}: {error.message}", hint=error.hint
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{settings.file}: sink {sink.name!r}: {sink.ca_file}: {error.strerror or error}",
                hint="put PEM certificates there, readable for the user that edge runs as, or remove the key",
            ) from None


def check_token(settings: Settings) -> None:
    """The token of [http], read as the server will.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    if not settings.http.enabled:
        return
    try:
        read_token(settings.http.token_file, os.environ)
    except ConfigError as error:
        raise ConfigError(f"{settings.file}: {error.message}", hint=error.hint) from None
