"""How long it takes to refuse what is too large: `python -m bench.bombs` prints a table, nothing is written.

Files are sparse, so gigabytes of them cost no disk. Decoders are warm, as in a worker that has had a frame.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import machine
from bench.section import table
from edge.decode import Limits
from edge.errors import DataError
from edge.pipeline import PrepareJob, prepare_file
from edge.preprocess import PreprocessSpec
from tests.decode import bombs
from tests.decode import builders as make

LIMITS = Limits(200_000_000, 64)  # the daemon's defaults
TRIES = 5
ALLOWED_MS = 50.0
WIDE_BYTES = 2 * bombs.WIDE_PX**2  # as 16 bits take
HUGE_BYTES = 2 * bombs.HUGE_PX**2


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(what it is, the file)."""
    for kind, build in bombs.HEADS.items():
        for side_px, file_bytes in (
            (bombs.HUGE_PX, 0),
            (bombs.HUGE_PX, HUGE_BYTES),
            (bombs.WIDE_PX, 0),
            (bombs.WIDE_PX, WIDE_BYTES),
        ):
            what = f"{kind}, {side_px:,}×{side_px:,}, {'header only' if not file_bytes else 'whole size'}"
            yield what, bombs.sparse(folder / f"{kind}-{side_px}-{file_bytes}", build(side_px), file_bytes)
    yield (
        f"tiff, {bombs.WIDE_PX:,}×{bombs.WIDE_PX:,}, directory last",
        bombs.tiff_directory_last(folder / "last.tif", bombs.WIDE_PX, WIDE_BYTES),
    )
    pages = folder / "pages.tif"
    pages.write_bytes(make.tiff(*[make.grey(height=8, width=8)] * 10_000))
    yield "tiff, 10,000 pages", pages


def refuse_ms(file: Path) -> float:
    """The slowest of some tries, in milliseconds."""
    slowest = 0.0
    for _ in range(TRIES):
        started_s = time.perf_counter()
        try:
            prepare_file(PrepareJob(file, file.name, None, PreprocessSpec(), LIMITS))
        except DataError as error:
            if error.reason != "too_large":
                raise
        else:
            raise AssertionError(f"{file.name} was decoded")
        slowest = max(slowest, 1000 * (time.perf_counter() - started_s))
    return slowest


def main() -> int:
    """0 if all were refused in time."""
    with tempfile.TemporaryDirectory(prefix="edge-bombs-") as name:
        folder = Path(name)
        for kind, data in (("tif", make.tiff(make.grey())), ("dcm", make.dicom(make.grey()))):
            warm = folder / f"warm.{kind}"
            warm.write_bytes(data)
            prepare_file(PrepareJob(warm, warm.name, None, PreprocessSpec(), LIMITS))
        found = [(what, file.stat().st_size, refuse_ms(file)) for what, file in files(folder)]
    rows = [(what, f"{size:,}", f"{took_ms:.1f}") for what, size, took_ms in found]
    print(*table(["file", "bytes", f"refused within, ms (slowest of {TRIES})"], rows), sep="\n")
    print(f"\n*{machine.describe()} · commit {machine.commit()}*")
    return int(any(took_ms > ALLOWED_MS for _, _, took_ms in found))


if __name__ == "__main__":
    sys.exit(main())
