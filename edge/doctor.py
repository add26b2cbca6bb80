"""`edge doctor`: what is wrong with this machine and this installation, and how to mend it.

Each check looks at one thing and says how it stands. What cannot be told here (another system, a container
that hides it) is left out rather than guessed. `edge.gpu_proof` is what `--gpu` adds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json as jsonlib
import os
import platform
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeAlias

from edge import __version__
from edge import config as configuration
from edge.config import Settings
from edge.errors import ConfigError, EdgeError
from edge.mounts import is_network_mount

Level: TypeAlias = Literal["ok", "note", "warning", "fault"]
"""note: worth knowing; warning: it runs, and worse than it could; fault: it does not run, or not for long."""

EXIT_FAULT = 1
PACKAGE = "edge-inspect"
OLDEST_PYTHON = (3, 11)
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


@dataclass(frozen=True, slots=True)
class Finding:
    """How one thing stands; `fix` says what to do, and is empty where there is nothing to do."""

    topic: str
    level: Level
    says: str
    fix: str = ""


def run_doctor(*, config: Path | None, gpu: bool, json: bool) -> int:
    """Look at everything and print it; 0 if nothing keeps edge from running, 1 if something does.

    Raises:
        UnavailableError: with `gpu`, no GPU can be used.
        BundleError: with `gpu`, one answers wrongly.
    """
    findings, settings = examine(config)
    proof = None
    if gpu:
        from edge.gpu_proof import prove_gpus

        proof = prove_gpus(settings, progress=lambda sentence: print(sentence, file=sys.stderr))
    if json:
        document = {
            "ok": not _faults(findings),
            "edge": __version__,
            "findings": [asdict(f) for f in findings],
        }
        print(jsonlib.dumps(document | ({} if proof is None else {"gpu": proof.document()})))
    else:
        print("\n".join([*lines(findings), *([] if proof is None else ["", *proof.lines()])]))
    if proof is not None:
        proof.raise_if_bad()
    return EXIT_FAULT if _faults(findings) else 0


def examine(config: Path | None, root: Path = Path("/")) -> tuple[list[Finding], Settings | None]:
    """Every check, and the site if its configuration can be read. `root` holds proc and sys, for tests."""
    about_config, settings = check_config(config)
    findings = [
        *check_python(sys.version_info[:2]),
        *check_packages(),
        *check_engine(),
        *check_cpu(root),
        *check_cores(root, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0),
        *check_memory(root),
        *check_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        *check_inotify(root),
        *check_disk(Path.cwd() if settings is None else settings.paths.state),
        *check_clock(time.time(), clock_state()),
        *check_confinement(_read(root / "proc/self/status"), landlock_version()),
        *check_gpu(root),
        *about_config,
    ]
    return findings, settings


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """For people: what needs doing stands out, and comes once more in the last line."""
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        mark = {"ok": "   ok", "note": " note", "warning": " WARN", "fault": "FAULT"}[finding.level]
        yield f"{mark}  {finding.topic:<{width}}  {finding.says}"
        if finding.fix:
            yield f"{'':>{width + 9}}fix: {finding.fix}"
    faults, warnings = len(_faults(findings)), sum(finding.level == "warning" for finding in findings)
    yield ""
    if faults:
        yield f"{_count(faults, 'fault')} to mend before edge runs well" + (
            f", and {_count(warnings, 'warning')}" if warnings else ""
        )
    else:
        yield "edge can run here" + (f"; {_count(warnings, 'warning')} to look at" if warnings else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _faults(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "fault"]


def check_python(version: Sequence[int]) -> Iterator[Finding]:
    """Old Pythons, and systems that the daemon was not made for."""
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}, edge {__version__}"
    if tuple(version) < OLDEST_PYTHON:
        yield Finding(
            "Python", "fault", said, "edge needs Python 3.11 or newer: make a new virtual environment"
        )
    elif platform.system() != "Linux":
        yield Finding(
            "Python", "warning", said, "the daemon is made for Linux; elsewhere nobody has tried it"
        )
    else:
        yield Finding("Python", "ok", said)


def check_packages(
    needed: Sequence[str] | None = None, installed: Callable[[str], str] = metadata.version
) -> Iterator[Finding]:
    """What edge depends on, whether it is there, and in a version that it may be."""
    wanted = _requirements() if needed is None else needed
    missing, wrong = [], []
    for requirement in wanted:
        match = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*([^;]*)", requirement)
        assert match, requirement
        name, bounds = match[1], match[2].strip()
        try:
            version = installed(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if not _within(version, bounds):
            wrong.append(f"{name} {version} (needs {bounds})")
    if missing or wrong:
        says = "; ".join(
            part for part in (
                f"missing: {', '.join(missing)}" if missing else "",
                f"other versions: {', '.join(wrong)}" if wrong else "",
            ) if part
        )  # fmt: skip
        yield Finding(
            "packages", "fault" if missing else "warning", says,
            "pip install -c constraints.txt edge-inspect, in edge's own virtual environment",
        )  # fmt: skip
    else:
        yield Finding("packages", "ok", f"all {len(wanted)} that the daemon needs")


def _requirements() -> list[str]:
    """Of the daemon, without those of extras."""
    try:
        return [line for line in metadata.requires(PACKAGE) or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:  # run from a folder that was only copied
        return []


def _within(version: str, bounds: str) -> bool:
    """Whether a version is within bounds such as ">=1.2,<3"; of numbers only, as edge's own bounds are."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text.split("+")[0])[:4]]

    have = numbers(version)
    for bound in filter(None, (part.strip() for part in bounds.strip("()").split(","))):
        sign, limit = bound.rstrip("0123456789."), numbers(bound)
        length = max(len(have), len(limit))
        here, there = (side + [0] * (length - len(side)) for side in (have, limit))
        if (sign == ">=" and here < there) or (sign == "<" and here >= there):
            return False
    return True


def check_engine() -> Iterator[Finding]:
    """OpenVINO: whether it loads, and what it makes of this CPU."""
    try:
        from edge.infer.openvino import the_core

        can = sorted(the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        version = metadata.version("openvino")
    except (ImportError, RuntimeError) as error:  # PackageNotFoundError is an ImportError
        first = next(iter(str(error).splitlines()), type(error).__name__)
        yield Finding(
            "OpenVINO", "fault", f"does not load: {first}", "pip install --force-reinstall openvino"
        )
    else:
        yield Finding("OpenVINO", "ok", f"{version}, computes {', '.join(can)}")


def check_cpu(root: Path) -> Iterator[Finding]:
    """Instructions that make int8 and bf16 worth while."""
    text = _read(root / "proc/cpuinfo")
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
    quota = _read(root / "sys/fs/cgroup/cpu.max").split()
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
        for key, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB", _read(root / "proc/meminfo"), re.M)
    }
    if "MemAvailable" not in found:
        return
    available = found["MemAvailable"]
    limit, used = (_read(root / f"sys/fs/cgroup/memory.{what}").strip() for what in ("max", "current"))
    said = f"{_size(available)} of {_size(found.get('MemTotal', available))} available"
    if limit.isdecimal() and used.isdecimal():
        available = min(available, int(limit) - int(used))
        said += f", {_size(max(0, int(limit) - int(used)))} left of the container's {_size(int(limit))}"
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
    read = {what: _read(folder / f"max_user_{what}").strip() for what in ("watches", "instances")}
    if not all(value.isdecimal() for value in read.values()):
        return
    watches, instances = int(read["watches"]), int(read["instances"])
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
    said = f"{_size(usage.free)} of {_size(usage.total)} free at {folder}"
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


def check_gpu(root: Path, installed: Callable[[str], str] = metadata.version) -> Iterator[Finding]:
    """Whether there is an NVIDIA GPU, and something that uses it. Whether it works, `--gpu` proves."""
    driver = _read(root / "proc/driver/nvidia/version").splitlines()
    with_gpu = sorted(path.name for path in (root / "proc/driver/nvidia/gpus").glob("*"))
    runtimes = {}
    for name in ("tensorrt", "torch"):
        try:
            runtimes[name] = installed(name)
        except metadata.PackageNotFoundError:
            continue
    usable = [f"{name} {version}" for name, version in runtimes.items() if "+cpu" not in version]
    if not driver:
        yield Finding("GPU", "ok", "no NVIDIA driver: the CPU judges")
    elif not with_gpu:
        yield Finding("GPU", "warning", "an NVIDIA driver without a GPU", "see `nvidia-smi` and dmesg")
    elif not usable:
        says = f"{_count(len(with_gpu), 'NVIDIA GPU')}, and neither TensorRT nor a torch that uses it"
        fix = 'pip install "edge-inspect[tensorrt]", then `edge doctor --gpu`'
        yield Finding("GPU", "note", says, fix)
    else:
        says = f"{_count(len(with_gpu), 'NVIDIA GPU')}, {', '.join(usable)}"
        yield Finding("GPU", "note", says, "`edge doctor --gpu` proves that they work together")


def check_config(explicit: Path | None) -> tuple[list[Finding], Settings | None]:
    """The configuration, if there is one, and all that it names: as `edge check` does."""
    file = configuration.find(explicit)
    if explicit is None and not os.environ.get("EDGE_CONFIG") and not file.exists():
        return [
            Finding("site", "note", "no config.toml here", "`edge demo` needs none; else copy edge's own")
        ], None
    try:
        settings = configuration.load(file)
    except ConfigError as error:
        return [Finding("site", "fault", error.message, error.hint)], None
    from edge.check import notes, problems

    try:
        found = problems(settings)
    except Exception as error:  # a broken installation: the other findings say more
        return [
            Finding("site", "fault", f"{file}: cannot be checked: {type(error).__name__}: {error}")
        ], settings
    said = [Finding("site", "fault", _one_line(problem), problem.hint) for problem in found]
    said += [Finding("site", "note", note) for note in notes(settings)]
    return said or [Finding("site", "ok", f"{file}: good")], settings


def _one_line(error: EdgeError) -> str:
    return " ".join(error.message.split())


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _read(file: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
