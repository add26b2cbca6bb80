"""What a decode worker may no longer do once it meets untrusted bytes: open the network, write a file, start
or signal a process. Its memory and descriptors are limited as well.

seccomp (a classic BPF filter, `man 2 seccomp`) refuses system calls by number; Landlock (`man 7 landlock`)
refuses writing below every folder and signals to other processes. Both hold for good and need no privileges.
A kernel without one of them still has the other; `confine` says what it could do.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from contextlib import suppress
from pathlib import Path

# System calls a decoder has no business with, by number: x86_64, aarch64 (None: it has no such call)
# (arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux 6.12)
_REFUSED: dict[str, tuple[int, int | None]] = {
    # network
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242), "bind": (49, 200),
    "listen": (50, 201), "sendto": (44, 206),
    # other programs and processes
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "setpriority": (141, 140),
    # what Landlock does not see of files
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    # the system
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265), "personality": (135, 92),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142),
}  # fmt: skip
_CLONE, _CLONE3, _PRLIMIT64 = (56, 220), (435, 435), (302, 261)
_CLONE_THREAD = 0x00010000
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_X32_BIT = 0x40000000

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_VERSION = 1  # flag of create_ruleset: which version is there
# rights by the Landlock version that brought them: all that change files, TCP, and what leaves our domain
_WRITE_RIGHTS = 1 << 1 | sum(1 << bit for bit in range(4, 13))  # WRITE_FILE, REMOVE_*, MAKE_*
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_TCP = 0b11
_SCOPED = 0b11  # abstract sockets, signals

# BPF opcodes
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data; the low half of the first argument
_EPERM, _ENOSYS = 1, 38

MOST_DESCRIPTORS = 256
OOM_SCORE = 800  # of 1000: short of memory, the kernel ends a worker before anything else of ours


def limit(memory_bytes: int) -> None:
    """Memory of the process and size of what it writes, no core dumps, few descriptors, first to go when
    memory is short.

    Raises:
        OSError, ValueError: the limits cannot be set.
    """
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MOST_DESCRIPTORS),
    ):
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))
    with suppress(OSError):  # no such file outside Linux: the kernel chooses by itself
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def confine() -> tuple[str, ...]:
    """Give up network, writing and other processes, for this thread and those it starts; says which of
    "seccomp" and "landlock" hold now."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl") or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return ()
    held = []
    if _landlock(libc):  # first: its own system calls are let through by the filter, but why rely on it
        held.append("landlock")
    if _seccomp(libc):
        held.append("seccomp")
    return tuple(held)


def _landlock(libc: ctypes.CDLL) -> bool:
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return False
    files = _WRITE_RIGHTS | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    fields = [files]
    if version >= 4:
        fields.append(_TCP)
    if version >= 6:
        fields.append(_SCOPED)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:  # no rule is added: nothing that the ruleset handles is allowed anywhere
        return bool(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(libc: ctypes.CDLL) -> bool:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return False
    code = _filter(*_ARCHITECTURES[machine])
    program = _Program(len(code) // 8, code)
    return bool(libc.syscall(_SECCOMP[machine], _SET_MODE_FILTER, 0, ctypes.byref(program)) == 0)


def _filter(column: int, architecture: int) -> bytes:
    """The BPF program: EPERM for refused calls, the end for another architecture's, all else allowed.

    Threads may be made and processes may not: clone only with CLONE_THREAD; clone3, whose flags no filter
    sees, is "not there", and libc falls back to clone. Limits may be set of the process itself only.
    """
    numbers = sorted(both[column] or 0 for both in _REFUSED.values() if both[column] is not None)

    def step(opcode: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", opcode, if_true, if_false, value)  # struct sock_filter

    refuse = step(_RETURN, _REFUSE | _EPERM)
    steps = [
        step(_LOAD, _ARCH_AT),
        step(_JUMP_EQUAL, architecture, 1, 0),
        step(_RETURN, _KILL),
        step(_LOAD, _NUMBER_AT),
        step(_JUMP_AT_LEAST, _X32_BIT, 0, 1),  # x32: the same calls by other numbers
        refuse,
        step(_JUMP_EQUAL, _CLONE3[column], 0, 1),
        step(_RETURN, _REFUSE | _ENOSYS),
        step(_JUMP_EQUAL, _CLONE[column], 0, 4),
        step(_LOAD, _ARGUMENT_AT),
        step(_JUMP_BITS, _CLONE_THREAD, 0, 1),
        step(_RETURN, _ALLOW),
        refuse,
        step(_JUMP_EQUAL, _PRLIMIT64[column], 0, 4),
        step(_LOAD, _ARGUMENT_AT),
        step(_JUMP_EQUAL, 0, 0, 1),
        step(_RETURN, _ALLOW),
        refuse,
        *(step(_JUMP_EQUAL, number, len(numbers) - i, 0) for i, number in enumerate(numbers)),
        step(_RETURN, _ALLOW),
        refuse,
    ]
    return b"".join(steps)
