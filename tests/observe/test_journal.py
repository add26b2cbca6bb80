"""Lines for the journal, against a socket that reads them as systemd does."""

from __future__ import annotations

import io
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from edge.errors import DataError
from edge.observe.journal import JournalHandler, goes_to_journal
from edge.observe.log import configure, logger


class Journal:
    """journald's end: one datagram an entry."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "journal")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(5)

    def entry(self) -> dict[str, str]:
        rest, found = self._socket.recv(1 << 20), {}
        while rest:
            name, sign, after = rest.partition(b"\n")
            if b"=" in name:
                key, _, value = name.partition(b"=")
                rest = after
            else:  # the binary form
                assert sign
                key, (size,) = name, struct.unpack("<Q", after[:8])
                value, rest = after[8 : 8 + size], after[8 + size + 1 :]
            found[key.decode()] = value.decode()
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    root, ours = logging.getLogger(), logging.getLogger("edge")
    before = (root.handlers[:], root.level, ours.level)
    journal = Journal(tmp_path)
    yield journal
    for handler in root.handlers:
        if isinstance(handler, JournalHandler):
            handler.close()
    root.handlers[:], root.level, ours.level = before
    root.manager._clear_cache()  # type: ignore[attr-defined]  # levels were set past setLevel
    logging.captureWarnings(False)
    structlog.reset_defaults()
    journal.close()


def test_every_value_is_a_field_and_the_message_is_for_people(journal: Journal) -> None:
    configure("info", io.StringIO(), json=True, journal=journal.address)
    log = logger(station="ct-1")
    log.warning(
        "evidence.skipped", source="ct", recipe="bracket", result_id="01J", frames=3, why="disk is full"
    )
    entry = journal.entry()
    message = entry.pop("MESSAGE")
    assert message.startswith("evidence.skipped ")
    assert "source=ct" in message
    assert 'why="disk is full"' in message
    assert entry == {
        "PRIORITY": "4", "SYSLOG_IDENTIFIER": "edge", "EDGE_EVENT": "evidence.skipped",
        "EDGE_STATION": "ct-1", "EDGE_SOURCE": "ct", "EDGE_RECIPE": "bracket",
        "EDGE_RESULT_ID": "01J", "EDGE_FRAMES": "3", "EDGE_WHY": "disk is full",
    }  # fmt: skip


def test_an_error_brings_its_hint_and_a_traceback_stays_one_entry(journal: Journal) -> None:
    configure("info", io.StringIO(), json=True, journal=journal.address)
    logger().error("x", error=DataError("bad\nframe", hint="mend it", reason="truncated"))
    entry = journal.entry()
    assert (entry["EDGE_ERROR"], entry["EDGE_HINT"]) == ("bad\nframe", "mend it")
    assert (entry["EDGE_REASON"], entry["PRIORITY"]) == ("truncated", "3")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logger().exception("died")
    entry = journal.entry()
    assert "Traceback" in entry["EDGE_EXCEPTION"]
    assert entry["MESSAGE"].endswith("second")


def test_a_forged_field_in_a_value_stays_a_value(journal: Journal) -> None:
    configure("info", io.StringIO(), json=True, journal=journal.address)
    logger().info("frame", path="a\nPRIORITY=0\nEDGE_EVENT=forged")
    entry = journal.entry()
    assert (entry["PRIORITY"], entry["EDGE_EVENT"]) == ("6", "frame")


def test_other_libraries_warnings_come_too(journal: Journal) -> None:
    configure("info", io.StringIO(), json=True, journal=journal.address)
    logging.getLogger("paho").warning("lost %s", "it")
    entry = journal.entry()
    assert (entry["EDGE_EVENT"], entry["EDGE_LIBRARY"]) == ("lost it", "paho")


def test_a_line_that_the_journal_does_not_take_goes_to_stderr_with_its_priority(
    journal: Journal, tmp_path: Path
) -> None:
    stream = io.StringIO()
    configure("info", stream, json=True, journal=str(tmp_path / "nobody"))
    logger().error("lost", source="ct")
    assert stream.getvalue() == "<3>lost source=ct\n"


def test_only_the_stream_that_systemd_named_goes_to_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as ours, (tmp_path / "b").open("w") as other:
        there = os.fstat(ours.fileno())
        environ = {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}
        assert goes_to_journal(ours, environ)
        assert not goes_to_journal(other, environ)
        assert not goes_to_journal(ours, {})
    assert not goes_to_journal(io.StringIO(), environ)
