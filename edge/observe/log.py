"""One log: JSON lines for machines, coloured lines for a terminal, with other libraries' warnings in it."""

from __future__ import annotations

import logging
from typing import IO, Any

import structlog

from edge.errors import EdgeError
from edge.observe.journal import JournalHandler

OTHER_LIBRARIES_LEVEL = logging.WARNING  # uvicorn, paho, watchdog and the like
_OURS = "edge"  # the name of our handler on the root logger


def configure(level: str, stream: IO[str], *, json: bool, journal: str | None = None) -> None:
    """Set up logging for the whole process; calling it again replaces what was there.

    Args:
        level: debug, info, warning or error.
        stream: where lines go, usually stderr.
        json: one JSON object a line; else for people, coloured if `stream` is a terminal.
        journal: the socket of systemd's journal, which then has every line in fields instead.
    """
    threshold = getattr(logging, level.upper())
    shared = _shared_processors(json or journal is not None)
    to_formatter = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
    structlog.configure(
        processors=[*shared, to_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(stream, json)],
    )
    handler: logging.Handler = (
        logging.StreamHandler(stream) if journal is None else JournalHandler(stream, journal)
    )
    handler.set_name(_OURS)
    if journal is None:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if other.get_name() != _OURS] + [handler]
    root.setLevel(max(threshold, OTHER_LIBRARIES_LEVEL))
    logging.getLogger(_OURS).setLevel(threshold)
    logging.captureWarnings(True)


def logger(**context: Any) -> Any:
    """The daemon's logger; hand it to whoever logs. `context` is in each of its lines."""
    return structlog.get_logger(_OURS, **context)


def _shared_processors(json: bool) -> list[structlog.types.Processor]:
    processors: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_hint,
    ]
    if json:
        processors.append(structlog.processors.format_exc_info)  # one field, not many lines
    return processors


def _renderer(stream: IO[str], json: bool) -> structlog.types.Processor:
    if json:
        return structlog.processors.JSONRenderer(default=str)
    # plain: the pretty tracebacks show local variables, and a password may be one
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)


def _add_hint(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """An EdgeError given as `error=` brings its reason and hint as fields of their own."""
    error = event.get("error")
    if isinstance(error, EdgeError):
        event.update(error=error.message, reason=error.reason)
        if error.hint:
            event["hint"] = error.hint
    return event
