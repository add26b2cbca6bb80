"""`edge` with an accelerator (the CPU behind another name) that fails once the file of FAULT says how.

Run as `python -m tests.torture.failing_engine run --config …`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge import recipes
from edge.infer.bundle import Bundle
from edge.infer.compile import open_runtime, prove
from edge.infer.runtime import Runtime
from edge.types import FloatImage, TileArray

FAULT = "EDGE_TEST_FAULT"  # names a file that says "dead" or "nan", once it is there


class Accelerator:
    """Works until the file is there."""

    name = "accelerator"

    def __init__(self, inner: Runtime, fault: Path) -> None:
        self._inner, self._fault = inner, fault
        self.precision, self.batch_of = inner.precision, inner.batch_of

    def infer(self, batches: Iterable[TileArray]) -> Iterator[FloatImage]:
        """See `Runtime.infer`."""
        for answer in self._inner.infer(batches):
            if not self._fault.is_file():
                yield answer
            elif self._fault.read_text() == "dead":
                raise RuntimeError("device lost")
            else:
                yield np.full_like(answer, np.nan)


def open_accelerated(bundle: Bundle, *, device: str, **how: Any) -> Runtime:
    """As `open_runtime`; what is not asked of the CPU runs on the accelerator."""
    runtime = open_runtime(bundle, device="cpu", **how)
    if device == "cpu":
        return runtime
    accelerated = Accelerator(runtime, Path(os.environ[FAULT]))
    prove(bundle, accelerated)
    return accelerated


if __name__ == "__main__":
    from edge.cli import main

    recipes.open_runtime = open_accelerated  # type: ignore[assignment, attr-defined]
    main()
