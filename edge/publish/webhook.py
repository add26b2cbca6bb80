"""Verdicts as HTTP requests: one POST each, in order, signed where there is a secret.

The headers are those of Standard Webhooks 1.0 (standardwebhooks.com): `webhook-id` is the `resultId`, of a
review the `reviewId` (a repeat has the same one), `webhook-signature` is HMAC-SHA256 over
"ID.TIMESTAMP.BODY". Redirects are not followed, and no proxy is taken from the environment: a verdict goes
where the configuration says, or nowhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import json
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
        self._tls, self._ca_file, self._timeout_s = parts.scheme == "https", ca_file, timeout_s
        # always with a port: http.client takes the end of an IPv6 address for one
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._connection: http.client.HTTPConnection | None = None
        self._sock: socket.socket | None = None  # http.client forgets it before an answer is read
        self._used = self._aborted = False

    def open(self) -> None:
        try:
            self._connection = self._new_connection()
            self._connection.connect()
        except (OSError, UnicodeError) as error:  # of names that cannot be looked up
            raise UnavailableNowError(f"cannot connect to {self._host}:{self._port}: {error}") from None
        self._used = False
        self._sock = self._connection.sock
        if self._aborted:
            self.close()
            raise UnavailableNowError("given up")

    def _new_connection(self) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        context = ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=context)

    def deliver(self, messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
        for message in messages:
            yield message.row_id, self._post(message)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._sock = None

    def abort(self) -> None:
        self._aborted = True
        if (sock := self._sock) is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _post(self, message: Message) -> str:
        """Why it is refused; '' where it is taken."""
        if self._connection is None:
            self.open()
        try:
            status, reason, answer_headers, answer = self._request(message)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if not self._used or self._aborted:
                raise
            # servers close a connection that was idle: that says nothing of this request
            self.close()
            self.open()
            status, reason, answer_headers, answer = self._request(message)
        except http.client.HTTPException as error:
            raise UnavailableNowError(f"an answer that is no HTTP: {error!r}") from None
        self._used = True
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
        assert self._connection is not None, "deliver opens it"
        self._connection.request("POST", self._target, message.body, headers)
        response = self._connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        try:
            answer = response.read(MOST_ANSWER_BYTES)
            more = not response.isclosed() or response.will_close
        except (OSError, http.client.HTTPException):  # the status is what counts: a 2xx is not sent again
            answer, more = b"", True
        finally:
            response.close()
        if more:  # an answer that does not end, or the last on this connection
            self.close()
        return response.status, response.reason, found, answer.decode("utf-8", "replace").strip()


def signed(message: Message, secret: bytes | None, unix_s: int) -> dict[str, str]:
    """The headers that say which verdict this is, and prove who sent it."""
    identity = message_id(message)
    headers = {"webhook-id": identity, "webhook-timestamp": str(unix_s)}
    if secret is not None:
        covered = f"{identity}.{unix_s}.".encode() + message.body
        digest = hmac.new(secret, covered, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def message_id(message: Message) -> str:
    """What repeats have in common. A review has an id of its own, or it were a repeat of its verdict."""
    return str(json.loads(message.body)["reviewId"]) if message.kind == "review" else message.result_id


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
