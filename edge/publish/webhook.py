"""Verdicts as HTTP requests: one POST each, in order, signed where there is a secret.

The headers are those of Standard Webhooks 1.0 (standardwebhooks.com): `webhook-id` is the `resultId` (a
repeat has the same one), `webhook-signature` is HMAC-SHA256 over "ID.TIMESTAMP.BODY". Redirects are not
followed, and no proxy is taken from the environment: a verdict goes where the configuration says, or nowhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from edge.errors import ConfigError
from edge.publish import Message
from edge.publish.threaded import UnavailableNowError

AGAIN_LATER = (408, 425, 429)  # of 4xx: those that are about the moment, not the request
MOST_ANSWER_BYTES = 4096  # read of an answer, so that the connection can be used again
LONGEST_REST_S = 3600.0  # that a receiver may ask for
LEAST_SECRET_BYTES = 16
PREFIX = "whsec_"  # of secrets as Standard Webhooks writes them, in base64


class WebhookReceiver:
    """One connection that is kept open; see `edge.publish.threaded.Receiver`."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        secret: bytes | None,
        ca_file: Path | None,
        timeout_s: float,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(url)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"content-type": "application/json", **headers}
        self._secret, self._unix_clock = secret, unix_clock
        host = parts.hostname or ""
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
            self._connection = http.client.HTTPSConnection(
                host, parts.port, timeout=timeout_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)

    def open(self) -> None:
        try:
            self._connection.connect()
        except OSError as error:
            where = f"{self._connection.host}:{self._connection.port}"
            raise UnavailableNowError(f"cannot connect to {where}: {error}") from None

    def deliver(self, messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
        for message in messages:
            yield message.row_id, self._post(message)

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _post(self, message: Message) -> str:
        """Why it is refused; '' where it is taken."""
        try:
            status, reason, answer_headers, answer = self._request(message)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # servers close a connection that was idle: that says nothing of this request
            self._connection.close()
            self.open()
            status, reason, answer_headers, answer = self._request(message)
        except http.client.HTTPException as error:
            raise UnavailableNowError(f"an answer that is no HTTP: {error!r}") from None
        if 200 <= status < 300:
            return ""
        said = f"HTTP {status} {reason}: {answer[:200]}".rstrip(": ")
        if 300 <= status < 400:
            return f"{said} (redirects are not followed: set the new address)"
        if 400 <= status < 500 and status not in AGAIN_LATER:
            return said
        raise UnavailableNowError(said, _rest_s(answer_headers.get("retry-after", ""), self._unix_clock()))

    def _request(self, message: Message) -> tuple[int, str, Mapping[str, str], str]:
        headers = self._headers | signed(message, self._secret, int(self._unix_clock()))
        self._connection.request("POST", self._target, message.body, headers)
        with self._connection.getresponse() as response:
            answer = response.read(MOST_ANSWER_BYTES)
            more = not response.isclosed()
            found = {name.lower(): value for name, value in response.getheaders()}
            status, reason = response.status, response.reason
        if more:  # an answer that does not end: not worth reading
            self._connection.close()
        return status, reason, found, answer.decode("utf-8", "replace").strip()


def signed(message: Message, secret: bytes | None, unix_s: int) -> dict[str, str]:
    """The headers that say which verdict this is, and prove who sent it."""
    headers = {"webhook-id": message.result_id, "webhook-timestamp": str(unix_s)}
    if secret is not None:
        covered = f"{message.result_id}.{unix_s}.".encode() + message.body
        digest = hmac.new(secret, covered, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def read_secret(file: Path) -> bytes:
    """The secret in a file: as Standard Webhooks writes it ("whsec_" and base64), or its characters.

    Raises:
        ConfigError: it cannot be read, or is too short; the secret itself is never shown.
    """
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"secret_file = {str(file)!r} cannot be read: {error}",
            hint="put the secret there, readable for the user that edge runs as",
        ) from None
    secret = text.encode()
    if text.startswith(PREFIX):
        with suppress(binascii.Error, ValueError):
            secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    if len(secret) < LEAST_SECRET_BYTES:
        raise ConfigError(
            f"secret_file = {str(file)!r} holds fewer than {LEAST_SECRET_BYTES} bytes",
            hint="such as what `openssl rand -hex 32` prints",
        )
    return secret


def _rest_s(retry_after: str, now_unix_s: float) -> float:
    """RFC 9110, 10.2.3: seconds or a date; nothing where it is neither."""
    try:
        wait_s = float(retry_after)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(retry_after).timestamp() - now_unix_s
        except ValueError:
            return 0.0
    return min(max(0.0, wait_s), LONGEST_REST_S)
