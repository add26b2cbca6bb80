"""What a person at a pipe or a log sees."""

from __future__ import annotations

import pytest

from edge.learn.progress import Event, PlainLines, console


def test_plain_lines_are_few_but_no_sentence_is_lost() -> None:
    lines: list[str] = []
    now = [0.0]
    listen = PlainLines(lines.append, lambda: now[0])
    for step in range(100):
        now[0] = step * 0.5
        listen(Event("learn", f"step {step}", step / 100))
    listen(Event("learn", "WARNING something"))
    listen(Event("calibrate", "frame 1", 0.0))
    assert lines[0] == "learn   0%  step 0"
    assert len(lines) == 5 + 2
    assert lines[-2:] == ["WARNING something", "calibrate   0%  frame 1"]


def test_progress_goes_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    with console() as listen:
        listen(Event("learn", "step 1", 0.5))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 1" in captured.err
