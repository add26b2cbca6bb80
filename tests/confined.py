"""Run a command as a systemd unit confines it, without systemd: its system calls, no privileges, its /proc.

    unshare --mount python -m tests.confined UNIT COMMAND…

systemd itself is the first process of a machine and not to be had in a test; what the unit's lines forbid can
be forbidden with the kernel's own means (seccomp(2), capabilities(7), proc(5)).
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

ALLOW = 0x7FFF0000
ERRNO = 0x00050000  # plus the error's number
UNKNOWN = -1
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
LAST_CAPABILITY = 40
EPERM = 1


def lines(unit: str, key: str) -> list[str]:
    """What a unit says for a key, line by line."""
    return re.findall(rf"^{key}=(.*)$", unit, re.M)


def members(name: str) -> set[str]:
    """The system calls of a group of systemd's, such as @system-service, or the one that is named."""
    if not name.startswith("@"):
        return {name}
    command = ["systemd-analyze", "syscall-filter", "--no-pager", name]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    names = [line.strip() for line in listed if line.strip() and not line.strip().startswith("#")]
    return set().union(*map(members, names))


def allowed(unit: str) -> set[str]:
    """systemd.exec(5), SystemCallFilter: later lines add to, or with ~ take from, the earlier ones."""
    calls = members("@default")
    for line in lines(unit, "SystemCallFilter"):
        named = set().union(*map(members, line.removeprefix("~").split()))
        calls = calls - named if line.startswith("~") else calls | named
    return calls


def filter_calls(calls: set[str]) -> None:
    """Every other system call is EPERM from here on, for this process and all that come from it."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(ERRNO | EPERM)))
    for call in sorted(calls):
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number != UNKNOWN:  # calls of other architectures
            library.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), ctypes.c_int(number), 0)
    if code := library.seccomp_load(context):
        raise OSError(-code, "seccomp_load")


def confine(unit: str) -> None:
    """CapabilityBoundingSet=, NoNewPrivileges=yes, ProtectProc=invisible, ProcSubset=, SystemCallFilter=."""
    subset = f",subset={value[0]}" if (value := lines(unit, "ProcSubset")) else ""
    options = f"hidepid=invisible{subset}"
    subprocess.run(["mount", "-t", "proc", "-o", options, "proc", "/proc"], check=True)
    calls = allowed(unit)
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(LAST_CAPABILITY + 1):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filter_calls(calls)


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text())
    os.execvp(sys.argv[2], sys.argv[2:])
