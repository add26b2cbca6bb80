"""The machine: processor, memory, disk, clock, and what its kernel allows."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from edge.doctor.finding import Finding, Level, read, size_text
from edge.mounts import is_network_mount

LITTLE_MEMORY, VERY_LITTLE_MEMORY = 2 << 30, 1 << 30  # the daemon with 12-Mpx frames takes up to 700 MB
LITTLE_DISK, VERY_LITTLE_DISK = 10 << 30, 1 << 30
FEW_WATCHES = 8192  # folders that are watched, this kernel's least; a burst of batches makes hundreds
FEW_INSTANCES = 16
FEW_FILES = 1024
LANDLOCK_CREATE, LANDLOCK_VERSION = 444, 1
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
EARLIEST = 1_750_000_000  # seconds since 1970: before edge was written

# flag of /proc/cpuinfo → what it is good for
INSTRUCTIONS = {
    "avx512f": "AVX-512", "avx512_vnni": "VNNI (int8)", "avx_vnni": "AVX-VNNI (int8)",
    "avx512_bf16": "bf16", "amx_int8": "AMX int8", "amx_bf16": "AMX bf16",
    "asimddp": "dot product (int8)", "i8mm": "int8 matrix", "bf16": "bf16",
}  # fmt: skip


def check_cpu(root: Path) -> Iterator[Finding]:
    """Instructions that make int8 and bf16 worth while."""
    text = read(root / "proc/cpuinfo")
    flags: set[str] = set()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            break
    if not flags:
        return
    name = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    has = [what for flag, what in INSTRUCTIONS.items() if flag in flags]
    said = f"{name[1] if name else platform.machine()}: {', '.join(has) or 'none of VNNI, bf16, AMX'}"
    if "avx2" in flags or "asimd" in flags:
        fix = "" if has else 'int8 and bf16 gain little here: leave precision = "auto", which measures'
        yield Finding("CPU", "ok" if has else "note", said, fix)
    else:
        yield Finding(
            "CPU",
            "warning",
            f"{said}, and no AVX2",
            "expect a fifth of the speed; see the hypervisor's CPU model",
        )


def check_cores(root: Path, cores: int) -> Iterator[Finding]:
    """Cores this process may use, and a container's quota that allows less than them."""
    quota = read(root / "sys/fs/cgroup/cpu.max").split()
    allowed = int(quota[0]) / int(quota[1]) if len(quota) == 2 and quota[0].isdecimal() else float(cores)
    if not cores:
        return
    if allowed < cores:
        yield Finding(
            "cores", "warning", f"{cores}, and a quota of {allowed:g} of them",
            "give as many cores as quota (cpuset), else threads are made that then wait for each other",
        )  # fmt: skip
    elif cores == 1:
        yield Finding(
            "cores", "warning", "1", "frames are decoded and judged one after the other: 2 are better"
        )
    else:
        yield Finding("cores", "ok", str(cores))


def check_memory(root: Path) -> Iterator[Finding]:
    """What is available, within a container's limit. Frames cross processes in memory of their own
    (memfd), so it is this and not /dev/shm that they need."""
    found = {
        key: int(kilobytes) << 10
        for key, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB", read(root / "proc/meminfo"), re.M)
    }
    if "MemAvailable" not in found:
        return
    available = found["MemAvailable"]
    limit, used = (read(root / f"sys/fs/cgroup/memory.{what}").strip() for what in ("max", "current"))
    said = f"{size_text(available)} of {size_text(found.get('MemTotal', available))} available"
    if limit.isdecimal() and used.isdecimal():
        available = min(available, int(limit) - int(used))
        said += (
            f", {size_text(max(0, int(limit) - int(used)))} left of the container's {size_text(int(limit))}"
        )
    fix = "the daemon takes up to 700 MB with 12-Mpx frames: give more, or lower runtime.decode_workers"
    level: Level = "ok"
    if available < LITTLE_MEMORY:
        level = "fault" if available < VERY_LITTLE_MEMORY else "warning"
    yield Finding("memory", level, said, "" if level == "ok" else fix)


def check_files(soft: int, hard: int) -> Iterator[Finding]:
    """Open files: connections, frames and workers have some each."""
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        yield Finding("open files", "warning", f"at most {soft} (may be raised to {hard})", "ulimit -n 4096")
    else:
        yield Finding(
            "open files", "ok", "unlimited" if soft == resource.RLIM_INFINITY else f"at most {soft}"
        )


def check_inotify(root: Path) -> Iterator[Finding]:
    """How many folders may be watched: beyond that they are only listed now and then."""
    folder = root / "proc/sys/fs/inotify"
    most = {what: read(folder / f"max_user_{what}").strip() for what in ("watches", "instances")}
    if not all(value.isdecimal() for value in most.values()):
        return
    watches, instances = int(most["watches"]), int(most["instances"])
    said = f"{watches} watches, {instances} instances"
    few = [
        f"fs.inotify.max_user_{what}={wanted}"
        for what, have, least, wanted in (
            ("watches", watches, FEW_WATCHES, 524288), ("instances", instances, FEW_INSTANCES, 512)
        )
        if have < least
    ]  # fmt: skip
    fix = f"sysctl -w {' '.join(few)}; until then new frames wait for the next rescan" if few else ""
    yield Finding("inotify", "warning" if few else "ok", said, fix)


def check_disk(folder: Path) -> Iterator[Finding]:
    """Space and place of the state folder, or of the nearest that exists: there is the database."""
    there = next((f for f in (folder, *folder.parents) if f.exists()), Path("/"))
    usage = shutil.disk_usage(there)
    said = f"{size_text(usage.free)} of {size_text(usage.total)} free at {folder}"
    if not os.access(there, os.W_OK):
        yield Finding(
            "disk", "fault", f"{there} cannot be written", "chown it to edge's user, or set paths.state"
        )
    elif is_network_mount(there):
        yield Finding(
            "disk", "fault", f"{folder} is on a network mount: SQLite's locks do not hold there",
            "set paths.state to a local disk",
        )  # fmt: skip
    elif usage.free < LITTLE_DISK:
        level: Level = "fault" if usage.free < VERY_LITTLE_DISK else "warning"
        yield Finding("disk", level, said, "make room, or lower evidence.max_bytes")
    else:
        yield Finding("disk", "ok", said)


def clock_state() -> int | None:
    """What adjtimex(2) says of the clock, without touching it; None where it cannot be asked."""
    try:
        # struct timex is 208 bytes; all zeros: modes = 0, only read
        state = int(ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512)))
    except (OSError, AttributeError):
        return None
    return state if state >= 0 else None


def check_clock(now_s: float, state: int | None) -> Iterator[Finding]:
    """Verdicts carry the time: a clock that nobody sets makes them hard to match."""
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    fix = "timedatectl set-ntp true, or install chrony"
    if now_s < EARLIEST:
        yield Finding("clock", "fault", f"{said}: in the past", fix)
    elif state == TIME_ERROR:
        yield Finding("clock", "warning", f"{said}, set by nobody (the kernel calls it unsynchronised)", fix)
    else:
        yield Finding("clock", "ok", said if state is None else f"{said}, synchronised")


def landlock_version() -> int:
    """Of the kernel; 0 where there is none, or it is not switched on (landlock_create_ruleset(2))."""
    with contextlib.suppress(OSError, AttributeError):
        return max(0, int(ctypes.CDLL(None).syscall(LANDLOCK_CREATE, None, 0, LANDLOCK_VERSION)))
    return 0


def check_confinement(status: str, landlock: int) -> Iterator[Finding]:
    """What decode workers lock themselves in with before they look at a file's bytes; /proc/self/status."""
    if not status:
        return
    if "Seccomp:" not in status:
        fix = "use a kernel with CONFIG_SECCOMP_FILTER: decoders are only limited in memory and time"
        yield Finding("confinement", "warning", "no seccomp", fix)
    elif not landlock:
        fix = "a kernel from 5.13 with landlock among its lsm= keeps decoders from writing files, too"
        yield Finding("confinement", "note", "seccomp, no Landlock", fix)
    else:
        yield Finding("confinement", "ok", f"seccomp, Landlock {landlock}")
