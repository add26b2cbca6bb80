from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from edge.errors import DataError
from edge.observe.log import configure, logger


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("edge")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], root.level, ours.level = before
    root.manager._clear_cache()  # levels were set past setLevel
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_has_utc_time_level_and_context() -> None:
    stream = io.StringIO()
    configure("info", stream, json=True)
    logger(station="ct-1").info("started", sources=2)
    [line] = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "started", "level": "info", "station": "ct-1", "sources": 2}


def test_level_is_kept_and_can_be_changed() -> None:
    stream = io.StringIO()
    configure("warning", stream, json=True)
    logger().info("hidden")
    configure("debug", stream, json=True)
    logger().debug("shown")
    assert [line["event"] for line in lines(stream)] == ["shown"]


def test_exception_is_one_field_of_one_line() -> None:
    stream = io.StringIO()
    configure("info", stream, json=True)
    try:
        raise ValueError("inner")
    except ValueError:
        logger().exception("failed")
    [line] = lines(stream)
    assert "ValueError: inner" in line["exception"]


def test_error_of_ours_brings_reason_and_hint() -> None:
    stream = io.StringIO()
    configure("info", stream, json=True)
    logger().error("frame.failed", error=DataError("no pixels", hint="look at the file", reason="empty"))
    [line] = lines(stream)
    assert (line["error"], line["reason"], line["hint"]) == ("no pixels", "empty", "look at the file")


def test_other_libraries_come_through_at_warning() -> None:
    stream = io.StringIO()
    configure("debug", stream, json=True)
    logging.getLogger("uvicorn.error").info("hidden")
    logging.getLogger("uvicorn.error").warning("port %d", 80)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old", UserWarning, stacklevel=1)
    first, second = lines(stream)
    assert (first["event"], first["level"], first["logger"]) == ("port 80", "warning", "uvicorn.error")
    assert second["logger"] == "py.warnings"


def test_local_variables_do_not_get_into_the_log() -> None:
    stream = io.StringIO()
    configure("info", stream, json=False)
    password = "s3" + "cret"  # put together, so that the source line shown does not hold it
    try:
        raise ValueError(len(password))
    except ValueError:
        logger().exception("failed")
    assert "ValueError" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()
