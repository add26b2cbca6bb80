"""Ctrl-C and SIGTERM → an event, so that a run ends between two frames and still says what it did."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """While inside, the first SIGINT or SIGTERM sets `stop`; a second one raises KeyboardInterrupt.

    Does nothing outside the main thread, where Python forbids signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True
        # another thread sets it: the handler may have interrupted this one inside stop.wait(), which holds
        # the lock that set() needs
        threading.Thread(target=stop.set, daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
