"""What a disk may hold after a power cut, from the log of what was written to it.

The disk is as unkind as POSIX lets it be. Only what was synced is sure: a file's bytes by fsync of the file,
names by fsync of their folder. Every sector written since then may be there or not, whatever the order of the
writes was. A failed fsync leaves the pages clean: no later fsync writes them (Rebello et al., "Can
Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

SECTOR = 512
HEAD = struct.Struct("<4sBQQIIQ")

WRITE, TRUNCATE, SYNC, SYNC_FAILED, SYNC_FOLDER, CREATE, RENAME, UNLINK, MKDIR, RMDIR = range(1, 11)

Mood = Literal["nothing", "all", "prefix", "torn"]  # which of the unsynced writes reach the disk
MOODS: tuple[Mood, ...] = ("nothing", "all", "prefix", "torn", "torn")


@dataclass(frozen=True, slots=True)
class Operation:
    """A line of the log."""

    kind: int
    inode: int
    offset: int  # of a write; the new size of a truncation
    name: str
    other: str
    data: bytes


def read_log(file: Path) -> Iterator[Operation]:
    """What `shim.c` has recorded, in order."""
    log = file.read_bytes()
    at = 0
    while at < len(log):
        magic, kind, inode, offset, name, other, size = HEAD.unpack_from(log, at)
        assert magic == b"EDGE", "the log is damaged"
        at += HEAD.size
        ends = at + name, at + name + other, at + name + other + size
        yield Operation(
            kind, inode, offset, log[at : ends[0]].decode(), log[ends[0] : ends[1]].decode(),
            log[ends[1] : ends[2]],
        )  # fmt: skip
        at = ends[2]


@dataclass(slots=True)
class _File:
    """A file's bytes as they surely are, and what was done to it since."""

    sure: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)

    def apply(self, operation: Operation) -> None:
        _apply(self.sure, operation)

    def after_cut(self, mood: Mood, chance: random.Random) -> bytes:
        found = bytearray(self.sure)
        done = self.pending
        if mood == "nothing":
            return bytes(found)
        if mood == "prefix":
            done = done[: chance.randint(0, len(done))]
        for operation in done:
            if mood == "torn":
                _apply_torn(found, operation, chance)
            else:
                _apply(found, operation)
        return bytes(found)


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.kind == TRUNCATE:
        size = operation.offset
        del content[size:]
        content.extend(bytes(size - len(content)))
    else:
        end = operation.offset + len(operation.data)
        content.extend(bytes(max(0, end - len(content))))
        content[operation.offset : end] = operation.data


def _apply_torn(content: bytearray, operation: Operation, chance: random.Random) -> None:
    """Each sector of a write may have reached the disk or not."""
    if operation.kind == TRUNCATE:
        if chance.random() < 0.5:
            _apply(content, operation)
        return
    at, end = operation.offset, operation.offset + len(operation.data)
    while at < end:
        to = min(end, (at // SECTOR + 1) * SECTOR)
        if chance.random() < 0.5:
            data = operation.data[at - operation.offset : to - operation.offset]
            _apply(content, Operation(WRITE, 0, at, "", "", data))
        at = to


class Disk:
    """A folder as a power cut would leave it. `start` is what was surely there before: content by name."""

    def __init__(self, start: Mapping[str, bytes] | None = None) -> None:
        self._files: dict[int, _File] = {}
        self._sure: dict[str, int] = {}  # number of the file by name; 0 a folder
        self._names: list[Operation] = []  # since the last sync of their folder
        self._now: dict[str, int] = {}  # by name, as the running process sees it
        self._file_of: dict[int, int] = {}  # by inode number, which is used again when a file is gone
        for number, (name, content) in enumerate(sorted((start or {}).items())):
            self._files[-1 - number] = _File(bytearray(content))
            self._sure[name] = self._now[name] = -1 - number

    def step(self, operation: Operation) -> None:
        """Take in a line of the log."""
        kind = operation.kind
        if kind in (WRITE, TRUNCATE):
            self._file(operation).pending.append(operation)
        elif kind == SYNC:
            file = self._file(operation)
            for done in file.pending:
                file.apply(done)
            file.pending.clear()
        elif kind == SYNC_FAILED:
            file = self._file(operation)
            chance = random.Random(len(file.pending))
            for done in file.pending:
                _apply_torn(file.sure, done, chance)
            file.pending.clear()
        elif kind == SYNC_FOLDER:
            mine = [done for done in self._names if operation.name in _folders(done)]
            for done in mine:
                _rename(self._sure, done)
            self._names = [done for done in self._names if done not in mine]
        else:
            if kind == CREATE:
                operation = replace(operation, inode=self._new_file(operation.inode))
            self._names.append(operation)
            _rename(self._now, operation)

    def after_cut(self, chance: random.Random) -> dict[str, bytes | None]:
        """Content by name, None for a folder, as it may be found after the power comes back."""
        names = dict(self._sure)
        mood: Mood = chance.choice(MOODS)
        end = chance.randint(0, len(self._names))
        for number, done in enumerate(self._names):
            happens = {"nothing": False, "all": True, "prefix": number < end, "torn": chance.random() < 0.5}
            if happens[mood]:
                _rename(names, done)
        mood = chance.choice(MOODS)
        contents = {
            number: self._files[number].after_cut(mood, chance)
            for number in sorted(set(names.values()) - {0})
        }
        found: dict[str, bytes | None] = {}
        for name, number in names.items():
            if all(parent in names for parent in _parents(name)):
                found[name] = None if number == 0 else contents[number]
        return found

    def _file(self, operation: Operation) -> _File:
        number = self._now.get(operation.name, 0)
        if number >= 0:  # it was made while the log was written
            number = self._file_of.get(operation.inode) or self._new_file(operation.inode)
        return self._files[number]

    def _new_file(self, inode: int) -> int:
        number = len(self._files) + 1
        self._files[number], self._file_of[inode] = _File(), number
        return number


def write_out(found: Mapping[str, bytes | None], folder: Path) -> Path:
    """The files as they were found, below a folder."""
    for name, content in found.items():
        target = folder / name
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return folder


def _folders(done: Operation) -> set[str]:
    """Whose sync makes an operation on names sure; a rename between folders needs only one of both here."""
    return {name.rpartition("/")[0] for name in (done.name, done.other) if name}


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _rename(names: dict[str, int], done: Operation) -> None:
    """Do an operation on names, where what it needs is there."""
    if done.kind == CREATE:
        names[done.name] = done.inode
    elif done.kind == MKDIR:
        names[done.name] = 0
    elif done.kind in (UNLINK, RMDIR):
        names.pop(done.name, None)
    elif done.name in names:
        below = f"{done.name}/"
        moved = [name for name in names if name == done.name or name.startswith(below)]
        for name in moved:
            names[done.other + name.removeprefix(done.name)] = names.pop(name)
