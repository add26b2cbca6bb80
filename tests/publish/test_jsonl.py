"""Verdicts in files: whole lines, on the disk, a file a day."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edge.publish import Message
from edge.publish.jsonl import FileReceiver
from edge.publish.threaded import UnavailableNowError
from tests.publish.rigs import message

DAY_S = 86400.0


def receiver(folder: Path, days: list[float], **options: float) -> FileReceiver:
    made = FileReceiver(folder, unix_clock=lambda: days[0] * DAY_S, **options)
    made.open()
    return made


def written(file: Path) -> list[str]:
    return [json.loads(line)["resultId"] for line in file.read_text().splitlines()]


def test_each_day_has_its_file_and_earlier_ones_never_change(tmp_path: Path) -> None:
    days = [1.0]
    sink = receiver(tmp_path, days)
    assert list(sink.deliver([message(1), message(2)])) == [(1, ""), (2, "")]
    days[0] = 2.5
    assert list(sink.deliver([message(3)])) == [(3, "")]
    sink.close()
    assert written(tmp_path / "verdicts-1970-01-02.jsonl") == ["R1", "R2"]
    assert written(tmp_path / "verdicts-1970-01-03.jsonl") == ["R3"]


@pytest.mark.parametrize("torn", [b'{"resultId":"R2","x":', b"x" * 200_000])
def test_a_line_that_a_crash_tore_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "verdicts-1970-01-02.jsonl"
    file.write_bytes(message(1).body + b"\n" + torn)
    sink = receiver(tmp_path, [1.0])
    list(sink.deliver([message(2)]))
    sink.close()
    assert written(file) == ["R1", "R2"]


def test_a_file_that_is_one_torn_line_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "verdicts-1970-01-02.jsonl"
    file.write_bytes(b'{"resultId"')
    sink = receiver(tmp_path, [1.0])
    list(sink.deliver([message(2)]))
    sink.close()
    assert written(file) == ["R2"]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = receiver(tmp_path, [1.0])
    list(sink.deliver([message(1)]))
    real = os.write
    calls = []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(descriptor, bytes(data)[:7])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UnavailableNowError, match="No space left"):
        list(sink.deliver([message(2)]))
    monkeypatch.undo()
    assert len(calls) == 2
    list(sink.deliver([message(2)]))
    sink.close()
    assert written(tmp_path / "verdicts-1970-01-02.jsonl") == ["R1", "R2"]


def test_files_that_are_too_old_go_and_nothing_else(tmp_path: Path) -> None:
    for name in ("verdicts-1970-01-02.jsonl", "verdicts-1970-03-01.jsonl", "notes.jsonl", "verdicts-x.jsonl"):
        (tmp_path / name).write_text("{}\n")
    receiver(tmp_path, [100.0], max_age_days=50).close()
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {
        "verdicts-1970-03-01.jsonl", "notes.jsonl", "verdicts-x.jsonl", "verdicts-1970-04-11.jsonl"
    }  # fmt: skip


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableNowError, match="file"):
        FileReceiver(tmp_path / "file" / "below").open()


def test_a_line_is_the_body_as_it_is(tmp_path: Path) -> None:
    sink = receiver(tmp_path, [1.0])
    body = '{"resultId":"R1","partId":"Teil ü"}'.encode()
    list(sink.deliver([Message(1, "part", "R1", body)]))
    sink.close()
    assert (tmp_path / "verdicts-1970-01-02.jsonl").read_bytes() == body + b"\n"


def test_two_writers_do_not_share_a_file(tmp_path: Path) -> None:
    first = receiver(tmp_path, [1.0])
    with pytest.raises(UnavailableNowError, match="another sink or daemon"):
        receiver(tmp_path, [1.0])
    first.close()
    receiver(tmp_path, [1.0]).close()


def test_a_file_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    sink = receiver(tmp_path, [1.0])
    list(sink.deliver([message(1)]))
    (tmp_path / "verdicts-1970-01-02.jsonl").unlink()
    list(sink.deliver([message(2)]))
    sink.close()
    assert written(tmp_path / "verdicts-1970-01-02.jsonl") == ["R2"]
