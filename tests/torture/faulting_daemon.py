"""`edge run` whose engine faults in native code on frames 96 pixels wide, as a broken driver might."""

from __future__ import annotations

import ctypes
import sys

from edge.cli import main
from edge.stages import InspectStage

original = InspectStage._judge


def faulting(self, route, frames, beat):  # type: ignore[no-untyped-def]
    if any(frame.image.width == 96 for frame in frames):
        ctypes.string_at(0)
    return original(self, route, frames, beat)


if __name__ == "__main__":
    InspectStage._judge = faulting  # type: ignore[method-assign]
    sys.argv = ["edge", "run", *sys.argv[1:]]
    main()
