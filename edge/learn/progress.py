"""What long work says while it runs: one listener, two kinds (a bar on a terminal, plain lines elsewhere)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PLAIN_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Event:
    """`share` of a stage that is done (0..1), or None for a sentence that must be seen."""

    stage: str
    text: str
    share: float | None = None


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """Says nothing."""


@contextmanager
def console() -> Iterator[Listener]:
    """A listener for the person at stderr: a bar on a terminal, otherwise a line now and then."""
    if not sys.stderr.isatty():
        yield PlainLines(lambda line: print(line, file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, text="")

        def listen(event: Event) -> None:
            if event.share is None:
                bar.console.print(event.text, highlight=False)
                return
            if bar.tasks[0].description != event.stage:
                bar.reset(task, total=1.0, description=event.stage)
            bar.update(task, completed=event.share, text=event.text)

        yield listen


class PlainLines:
    """A line for every sentence, and for progress at a new stage and every ten seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._stage, self._next_s = "", 0.0

    def __call__(self, event: Event) -> None:
        if event.share is None:
            self._write(event.text)
            return
        if event.stage == self._stage and self._clock() < self._next_s:
            return
        self._stage, self._next_s = event.stage, self._clock() + PLAIN_EVERY_S
        self._write(f"{event.stage} {event.share:4.0%}  {event.text}")
