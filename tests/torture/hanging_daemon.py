"""`edge run` whose engine never answers for frames 96 pixels wide, as a lost device might."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from edge.cli import main
from edge.pipeline import Inspection, Inspector
from edge.types import Frame

original = Inspector.inspect


def hanging(self: Inspector, frames: Iterable[Frame], *rest: Any) -> Iterator[Inspection]:
    def watched() -> Iterator[Frame]:
        for frame in frames:
            if frame.image.width == 96:
                time.sleep(3600)
            yield frame

    return original(self, watched(), *rest)


if __name__ == "__main__":
    Inspector.inspect = hanging  # type: ignore[method-assign, assignment]
    sys.argv = ["edge", *sys.argv[1:]]
    main()
