"""`edge run` whose engine faults in native code on frames 96 pixels wide, as a broken driver might."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from edge.cli import main
from edge.pipeline import Inspection, Inspector
from edge.types import Frame

original = Inspector.inspect


def faulting(self: Inspector, frames: Iterable[Frame], *rest: Any) -> Iterator[Inspection]:
    def watched() -> Iterator[Frame]:
        for frame in frames:
            if frame.image.width == 96:
                ctypes.string_at(0)
            yield frame

    return original(self, watched(), *rest)


if __name__ == "__main__":
    Inspector.inspect = faulting  # type: ignore[method-assign, assignment]
    sys.argv = ["edge", "run", *sys.argv[1:]]
    main()
