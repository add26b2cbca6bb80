"""A disk that fails on command, for a process that is started with it: full, read-only, hanging, without
fsync, or losing its power. `shim.c` is compiled when it is needed and preloaded into the process."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("shim.c")

FULL, FSYNC, READ_ONLY, HANG = 1, 2, 3, 4
RULES = 16


class _Rule(ctypes.Structure):
    _fields_ = [
        ("mode", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("left", ctypes.c_int64),
        ("hits", ctypes.c_int64),
        ("glob", ctypes.c_char * 232),
    ]


class _Control(ctypes.Structure):
    _fields_ = [("capacity", ctypes.c_int64), ("used", ctypes.c_int64), ("rules", _Rule * RULES)]


def require_compiler() -> str:
    """A C compiler; without one the test is skipped, or fails where nothing may be skipped."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        missing = "no C compiler for the shim of the torture tests (apt-get install gcc libc6-dev)"
        if os.environ.get("EDGE_REQUIRE_ALL") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return compiler


def library() -> Path:
    """The compiled shim; made once for a version of its source."""
    compiler = require_compiler()
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"edge-shim-{os.getuid()}-{digest}.so"
    if not made.exists():
        fresh = made.with_suffix(f".{os.getpid()}")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(fresh), str(SOURCE), "-ldl", "-lpthread"]
        subprocess.run(command, check=True, capture_output=True)
        fresh.replace(made)
    return made


class Shim:
    """Faults of the disk below `folder`, for processes started with `env`.

    Globs match paths relative to the folder (`*` matches `/` too); "" is the folder itself. Faults begin and
    end while the process runs. What is written is logged to `log` where `record` asks for it.
    """

    def __init__(self, folder: Path, *, record: bool = False) -> None:
        self.folder = folder.resolve()
        self._own = Path(tempfile.mkdtemp(prefix="edge-shim-"))
        control = self._own / "control"
        control.write_bytes(bytes(ctypes.sizeof(_Control)))
        with control.open("r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), ctypes.sizeof(_Control))
        self._control = _Control.from_buffer(self._map)
        self._control.capacity = -1
        self.log = self._own / "log"
        self.env = {
            "LD_PRELOAD": str(library()),
            "EDGE_SHIM_ROOT": str(self.folder),
            "EDGE_SHIM_CONTROL": str(control),
            **({"EDGE_SHIM_LOG": str(self.log)} if record else {}),
        }

    def full_disk(self, glob: str = "*", after_bytes: int = 0) -> int:
        """Writes to these files find no space after so many bytes; gives the fault's number, as all do."""
        return self._add(FULL, glob, after_bytes)

    def small_disk(self, free_bytes: int) -> None:
        """The folder is on a disk of its own with so much space left; removing files frees theirs."""
        self._control.used = sum(
            file.lstat().st_size
            for file in self.folder.rglob("*")
            if file.is_file() and not file.is_symlink()
        )
        self._control.capacity = self._control.used + free_bytes

    def fsync_fails(self, glob: str = "*", times: int = -1) -> int:
        """fsync and fdatasync of these files (or folders) say EIO, `times` times; -1: until cleared."""
        return self._add(FSYNC, glob, times)

    def read_only(self, glob: str = "*") -> int:
        """Nothing there can be opened for writing, written, made, renamed or removed."""
        return self._add(READ_ONLY, glob, 0)

    def hang(self, glob: str) -> int:
        """Opening, looking at, listing and reading these paths does not return until cleared."""
        return self._add(HANG, glob, 0)

    def hits(self, number: int) -> int:
        """How often a fault struck."""
        return int(self._control.rules[number].hits)

    def clear(self) -> None:
        """The disk is well again."""
        self._control.capacity = -1
        for rule in self._control.rules:
            rule.mode = 0

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A Python module with its arguments (or `-c` and a program), under the shim."""
        return subprocess.run(
            _command(arguments),
            env=os.environ | self.env, text=True, capture_output=True, timeout=120, check=check,
        )  # fmt: skip

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The same, running meanwhile; ended with the block."""
        process = subprocess.Popen(
            _command(arguments), env=os.environ | self.env, text=True, stderr=subprocess.PIPE
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def close(self) -> None:
        """Remove what it made outside the folder."""
        shutil.rmtree(self._own, ignore_errors=True)

    def _add(self, mode: int, glob: str, left: int) -> int:
        number = next(n for n, rule in enumerate(self._control.rules) if rule.mode == 0)
        rule = self._control.rules[number]
        rule.glob, rule.left, rule.hits = os.fsencode(glob), left, 0
        rule.mode = mode  # last: from here on it strikes
        return number


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, *([] if arguments[0] == "-c" else ["-m"]), *arguments]
