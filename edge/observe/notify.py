"""Telling systemd how it goes: the notification protocol of sd_notify(3), without its library."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

WATCHDOG_SHARE = 0.5  # sd_watchdog_enabled(3): notify at half the time


def sd_notify(state: str, environ: Mapping[str, str]) -> bool:
    """Send `state`, such as "READY=1" or "WATCHDOG=1\\nSTATUS=…"; False when nobody listens.

    A NOTIFY_SOCKET starting with @ is in the abstract namespace.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError:
        return False
    return True


def watchdog_interval_s(environ: Mapping[str, str], pid: int | None = None) -> float | None:
    """How often to send WATCHDOG=1, in seconds; None when systemd does not ask this process for it."""
    wanted_pid = environ.get("WATCHDOG_PID", "")
    if wanted_pid and wanted_pid != str(os.getpid() if pid is None else pid):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or int(usec) == 0:
        return None
    return int(usec) / 1e6 * WATCHDOG_SHARE
