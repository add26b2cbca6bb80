"""`python -m tests.torture.dying_daemon WHERE TIMES --config FILE`: `edge run` that kills itself without a
word when it comes to a boundary between two stages for the so-manieth time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import edge.pipeline
from edge.cli import main
from edge.inflight import InFlight
from edge.intake.source import SourceIntake
from edge.publish.mqtt import MqttSink
from edge.record.store import Store
from edge.recording import RecordStage
from edge.stages import DecodeStage, Judged

# where: the method or function that is the boundary, and on which side of it to die
BOUNDARIES: dict[str, tuple[Any, str, str]] = {
    "found": (SourceIntake, "_step", "after"),
    "noted": (InFlight, "enter", "after"),
    "submitted": (DecodeStage, "_start", "after"),
    "decoded": (DecodeStage, "_sort", "after"),
    "inferred": (edge.pipeline, "judge", "before"),  # in the middle of a stream of frames
    "judged": (Judged, "__init__", "after"),
    "drafted": (RecordStage, "_draft", "after"),  # pictures are written, the database knows nothing
    "in the transaction": (Store, "add_verdict", "after"),
    "part closed in the transaction": (RecordStage, "_close_part", "after"),
    "committed": (InFlight, "leave", "before"),
    "reported": (RecordStage, "_write", "after"),
    "sent": (MqttSink, "send", "after"),
    "acknowledged": (Store, "delete", "before"),
    "deleted": (Store, "delete", "after"),
}


def arm(where: str, times: int) -> None:
    """Have the process die there."""
    owner, name, side = BOUNDARIES[where]
    original: Callable[..., Any] = getattr(owner, name)
    left = times

    def die_if_due() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(*arguments: Any, **options: Any) -> Any:
        if side == "before":
            die_if_due()
        result = original(*arguments, **options)
        if side == "after":
            die_if_due()
        return result

    setattr(owner, name, dying)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["edge", "run", *sys.argv[3:]]
    main()
