"""Lines for systemd's journal, by its own protocol, systemd.io/JOURNAL_NATIVE_PROTOCOL.

A message for people, and every value as a field, `EDGE_EVENT`, `EDGE_SOURCE`, `EDGE_RESULT_ID`, … for
`journalctl EDGE_SOURCE=ct`.

Without its library: the protocol is one datagram a line.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import IO, Any

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "edge"
SEND_S = 1.0  # a journal that does not take a line must not hold up inspection
MOST_BYTES = 16_384  # of one value: a datagram has to fit into the socket's buffer
NOT_SAID = {"event", "level", "timestamp", "logger"}  # in MESSAGE, PRIORITY, or the journal's own fields
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog(3)


def goes_to_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Whether the journal reads this stream: JOURNAL_STREAM is its DEVICE:INODE, systemd.exec(5).

    A child that was started with another stderr inherits the variable, and is not meant.
    """
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each record to the journal; what it does not take goes to `stream`, for people."""

    def __init__(self, stream: IO[str], address: str = SOCKET) -> None:
        super().__init__()
        self._stream, self._address = stream, address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SEND_S)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = fields(record)
            try:
                self._socket.sendto(encode(said), self._address)
            except OSError:
                self._stream.write(f"<{said['PRIORITY']}>{said['MESSAGE']}\n")  # sd-daemon(3)
                self._stream.flush()
        except Exception:  # logging must not end what logs
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def fields(record: logging.LogRecord) -> dict[str, str]:
    """A record's fields: structlog's event with its values, or another library's line."""
    event: Mapping[str, Any] = (
        record.msg if isinstance(record.msg, dict) else {"event": record.getMessage(), "library": record.name}
    )
    values = {key: _text(value) for key, value in event.items() if key not in NOT_SAID and key[0] != "_"}
    if record.exc_info and "exception" not in values:
        values["exception"] = logging.Formatter().formatException(record.exc_info)
    short = " ".join(f"{key}={_quoted(value)}" for key, value in values.items() if key != "exception")
    message = f"{event.get('event', '')} {short}".strip()
    if "exception" in values:
        message += "\n" + values["exception"]
    priority = next((number for level, number in PRIORITIES if record.levelno >= level), 7)
    return {
        "MESSAGE": message,
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "EDGE_EVENT": _text(event.get("event", "")),
        **{_name(key): value for key, value in values.items()},
    }


def encode(said: Mapping[str, str]) -> bytes:
    """`NAME=value`, or where a value has lines `NAME`, its length in 64 bits little-endian, the value."""
    data = b""
    for name, text in said.items():
        value = text.encode("utf-8", "backslashreplace")[:MOST_BYTES]
        if b"\n" in value:
            data += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            data += name.encode() + b"=" + value + b"\n"
    return data


def _name(key: str) -> str:
    """The journal takes capitals, digits and _, at most 64 of them."""
    return f"EDGE_{re.sub('[^A-Z0-9_]', '_', key.upper())}"[:64]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if not value or re.search(r"[\s\"=]", value) else value
