"""Masks as text: run lengths in the order of system C, and the CSV files that carry them.

A mask's pixels are counted from 1, top to bottom and then left to right; `start length start length …` lists
the runs of defect pixels in that order. `5 3 10 2` are pixels 5, 6, 7, 10 and 11; no text is a good frame.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import CannotWriteError, DataError, MissingInputError
from edge.types import Mask

Runs = NDArray[np.int64]  # (n, 2): first pixel, counted from 1, and how many

JOINT, PIXELS = "ImageId_ClassId", "EncodedPixels"  # the origin's columns
IMAGE, CLASS = "ImageId", "ClassId"  # the same in two columns
FIELD_LIMIT_BYTES = 16 * 1024 * 1024  # of a cell: a 4248×2832 mask of single pixels, twice over
REASON = "bad_run_lengths"


@dataclass(frozen=True, slots=True)
class RleRow:
    """One line of a CSV: where a class is in an image; no text where it is not."""

    image: str
    class_name: str
    text: str = ""
    line: int = 0  # in the file it was read from, for people


def encode(mask: Mask) -> str:
    """The runs of a (h, w) mask, as few as there can be."""
    return " ".join(map(str, runs_of(mask).ravel().tolist()))


def decode(text: str, height: int, width: int) -> Mask:
    """The (height, width) mask that a text stands for.

    Raises:
        DataError: an odd count, something not a number, a start below 1, a length below 1, runs beyond the
            frame, overlapping or not in order; the message names the run.
    """
    flat = np.zeros(height * width, bool)
    for start, length in parse(text, height * width):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(width, height).T


def runs_of(mask: Mask) -> Runs:
    """The runs of a (h, w) mask in order."""
    flat = np.zeros(mask.size + 2, np.int8)
    flat[1:-1] = np.asarray(mask, bool).T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1  # where a run begins, where it has ended, …; counted from 1
    starts, ends = edges[::2], edges[1::2]
    return np.stack((starts, ends - starts), axis=1).astype(np.int64)


def parse(text: str, pixels: int) -> Runs:
    """The runs in a text, for a frame of so many pixels; raises as `decode` does."""
    words = text.split()
    if len(words) % 2:
        raise _bad(
            f"{len(words)} numbers, an odd count", "each run is a start and a length; the last has no length"
        )
    runs = np.array([_number(word, at) for at, word in enumerate(words)], np.int64).reshape(-1, 2)
    starts, lengths = runs[:, 0], runs[:, 1]
    _refuse(runs, starts < 1, "starts below 1", "pixels are counted from 1")
    _refuse(runs, lengths < 1, "has no pixels", "leave it out")
    _refuse(
        runs, starts - 1 > pixels - lengths, f"ends beyond the frame's {pixels} pixels",
        "is that the size of the frames? Height and width swapped give another order, not another count",
    )  # fmt: skip
    after = np.zeros(len(runs), bool)
    after[1:] = starts[1:] < starts[:-1]
    _refuse(runs, after, "starts before the one ahead of it", "runs go from the top left downwards")
    after[1:] = starts[1:] < starts[:-1] + lengths[:-1]
    _refuse(runs, after, "overlaps the one ahead of it", "a pixel is in one run only")
    return runs


def read_rle(file: Path) -> Iterator[RleRow]:
    """The rows of a CSV, one after the other, under the origin's header or with image and class apart.

    The texts are not looked at; `decode` does that.

    Raises:
        MissingInputError: no such file. DataError: another header, or a row that names no image and class.
    """
    csv.field_size_limit(FIELD_LIMIT_BYTES)
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            columns = [cell.strip() for cell in next(reader, [])]
            if columns not in ([JOINT, PIXELS], [IMAGE, CLASS, PIXELS]):
                raise DataError(
                    f"{file}:1: the header is {','.join(columns) or 'empty'}",
                    hint=f"{JOINT},{PIXELS} or {IMAGE},{CLASS},{PIXELS}",
                )
            for cells in reader:
                if cells:
                    yield _row(f"{file}:{reader.line_num}", columns, cells, reader.line_num)
    except FileNotFoundError:
        raise MissingInputError(f"{file}: no such file", hint="check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}", hint="a CSV in UTF-8 is needed") from None


def write_rle(file: Path, rows: Iterable[RleRow], *, joint: bool = True) -> int:
    """Write rows one at a time, in the origin's two columns or in three; gives how many.

    The file is there whole, or as it was.

    Raises:
        CannotWriteError: no space or no permission. DataError: a class whose name has an underscore, in two
            columns: it could not be told from the image's name when read again.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    count = 0
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow((JOINT, PIXELS) if joint else (IMAGE, CLASS, PIXELS))
            for row in rows:
                names = (_joined(row),) if joint else (row.image, row.class_name)
                writer.writerow((*names, row.text))
                count += 1
        os.replace(temporary, file)
    except OSError as error:
        raise CannotWriteError(
            f"{file}: cannot be written: {error}", hint="check space and permissions"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return count


def _row(where: str, columns: list[str], cells: list[str], line: int) -> RleRow:
    if len(cells) != len(columns):
        raise DataError(f"{where}: {len(cells)} values for {len(columns)} columns", hint=",".join(columns))
    *names, text = (cell.strip() for cell in cells)
    image, class_name = names if len(names) == 2 else (*names[0].rpartition("_")[::2],)
    if not image or not class_name:
        raise DataError(
            f"{where}: {cells[0]!r} names no image and class", hint="such as 0002cc93b.jpg_1: class 1"
        )
    return RleRow(image, class_name, text, line)


def _joined(row: RleRow) -> str:
    if "_" in row.class_name:
        raise DataError(
            f"class {row.class_name!r} has an underscore",
            hint="the last one ends the image's name; rename it",
        )
    return f"{row.image}_{row.class_name}"


def _number(word: str, at: int) -> int:
    if not (word.isascii() and word.isdecimal()) and not (word[:1] == "-" and word[1:].isdecimal()):
        raise _bad(f"run {at // 2 + 1}: {word[:20]!r} is not a whole number", "digits separated by spaces")
    if len(word) > 18:  # beyond 64 bits, or nearly
        raise _bad(f"run {at // 2 + 1}: {word[:20]}… is beyond any frame", "starts and lengths of pixels")
    return int(word)


def _refuse(runs: Runs, bad: NDArray[np.bool_], what: str, hint: str) -> None:
    if bad.any():
        first = int(bad.argmax())
        start, length = runs[first]
        raise _bad(f"run {first + 1} of {len(runs)} ({start} {length}) {what}", hint)


def _bad(message: str, hint: str) -> DataError:
    return DataError(message, hint=hint, reason=REASON)
