"""Moments as text: ISO 8601 in UTC, as payloads and the API have it, and back."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_text(unix_s: float, timespec: str = "microseconds") -> str:
    """Such as 2026-11-20T10:15:30.123456Z; `timespec` as of `datetime.isoformat`."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def unix_s_of(text: str) -> float:
    """Seconds since 1970; UTC where the text names no zone.

    Raises:
        ValueError: it is no moment, or one that the system cannot count.
    """
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except OverflowError as error:
        raise ValueError(str(error)) from None
