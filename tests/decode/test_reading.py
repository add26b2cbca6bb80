from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edge.decode import read_stable
from edge.errors import DataError, IncompleteError
from edge.types import FileStamp


def stamp_of(file: Path) -> FileStamp:
    status = file.stat()
    return FileStamp(status.st_size, status.st_mtime_ns)


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    file = tmp_path / "frame.png"
    file.write_bytes(b"all of it")
    return file


def test_bytes_of_an_unchanged_file_come_back(frame: Path) -> None:
    assert read_stable(frame, stamp_of(frame)) == b"all of it"
    assert read_stable(frame, None) == b"all of it"


def test_file_that_changed_since_it_was_found_is_refused(frame: Path) -> None:
    stamp = stamp_of(frame)
    os.utime(frame, ns=(0, stamp.mtime_ns + 1))
    with pytest.raises(IncompleteError, match="changed while it was being read") as caught:
        read_stable(frame, stamp)
    assert caught.value.reason == "changed_while_reading"
    assert caught.value.retryable


@pytest.mark.parametrize("change", [b"all of it, and more", b"all", b"ALL OF IT"])
def test_file_that_changes_during_the_read_is_refused(
    frame: Path, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    really_read = os.read

    def read_while_it_is_written(descriptor: int, size: int) -> bytes:
        frame.write_bytes(change)
        os.utime(frame, ns=(0, 12345))
        return really_read(descriptor, size)

    monkeypatch.setattr(os, "read", read_while_it_is_written)
    with pytest.raises(IncompleteError) as caught:
        read_stable(frame, stamp_of(frame))
    assert caught.value.reason == "changed_while_reading"


def test_reads_that_return_less_than_asked_are_continued(
    frame: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: really_read(descriptor, min(size, 2)))
    assert read_stable(frame, None) == b"all of it"


def test_empty_file_is_worth_another_try(frame: Path) -> None:
    frame.write_bytes(b"")
    with pytest.raises(IncompleteError) as caught:
        read_stable(frame, None)
    assert caught.value.reason == "empty"


def test_file_that_vanished_is_worth_another_try(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_stable(tmp_path / "gone.png", None)
    assert caught.value.reason == "vanished"
    assert caught.value.retryable


def test_file_that_may_not_be_read_is_worth_another_try(frame: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")  # root may read anything, so chmod would not do

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(DataError) as caught:
        read_stable(frame, None)
    assert caught.value.reason == "permission_denied"
    assert caught.value.retryable


def test_disk_error_is_worth_another_try(frame: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(DataError, match="Input/output error") as caught:
        read_stable(frame, None)
    assert caught.value.reason == "unreadable_now"
    assert caught.value.retryable


@pytest.mark.timeout(10)
def test_fifo_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError) as caught:
        read_stable(tmp_path / "pipe.png", None)
    assert caught.value.reason == "not_a_file"
    assert not caught.value.retryable


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_stable(tmp_path, None)
    assert caught.value.reason == "not_a_file"


def test_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "frame.png"))
        with pytest.raises(DataError) as caught:
            read_stable(tmp_path / "frame.png", None)
    assert caught.value.reason == "not_a_file"


def test_no_descriptor_is_left_open(frame: Path, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    read_stable(frame, None)
    with pytest.raises(DataError):
        read_stable(tmp_path, None)
    assert os.listdir("/proc/self/fd") == before
