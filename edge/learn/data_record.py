"""What a recipe was learned from, file by file: `data.csv` beside the report, and one digest over all of it.

Whoever has the files can prove that they are these:
`awk -F, 'NR > 1 && $2 != "left out" {print $1}' data.csv | LC_ALL=C sort -u | sha256sum` gives the digest.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from edge.artifacts import sha256_of
from edge.dataset import Dataset, Sample, Unreadable, is_store
from edge.learn.specimens import Specimen

FILE = "data.csv"
LEFT_OUT = "left out"
ROLES = {  # use → role, and what it is for
    "train": ("learn", ""),
    "validation": ("held out", "stops the learning"),
    "calibration": ("calibrate", ""),
    "learning defects": ("learn", "real defect"),
    "measuring recall": ("held out", "measures recall"),
}
SPREADSHEET_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Row:
    """A frame, or a file that gave none."""

    sha256: str  # of the file; empty: it could not be read
    role: str  # learn, held out, calibrate, left out
    reason: str
    label: str
    view: str
    part: str
    width_px: int | str
    height_px: int | str
    bits: int | str
    path: str


@dataclass(frozen=True, slots=True)
class DataRecord:
    """All frames of a data set with what became of them, in the order of the set."""

    rows: tuple[Row, ...]

    @property
    def used(self) -> tuple[Row, ...]:
        """Without what was left out."""
        return tuple(row for row in self.rows if row.role != LEFT_OUT)

    @property
    def digest(self) -> str:
        """sha256 over the sorted sha256 of the files used, a line each."""
        files = sorted({row.sha256 for row in self.used})
        return hashlib.sha256("".join(f"{one}\n" for one in files).encode()).hexdigest()

    def csv(self) -> str:
        """With a header; names that a spreadsheet would take for a formula get a '."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        for row in self.rows:
            writer.writerow(
                f"'{cell}" if isinstance(cell, str) and cell.startswith(SPREADSHEET_FORMULA) else cell
                for cell in astuple(row)
            )
        return stream.getvalue()


def record_of(
    dataset: Dataset,
    uses: Mapping[str, Sequence[Specimen]],
    unreadable: Iterable[Unreadable],
    *,
    crossed: bool = False,
) -> DataRecord:
    """Every sample of a data set: what it was used for, or why not.

    `crossed`: thresholds come from the same frames, scored by networks of folds.
    """
    faults = {bad.path: f"{bad.reason}: {bad.message}" for bad in unreadable}
    used: dict[str, list[Row]] = {}
    for use, members in uses.items():
        for specimen in members:
            used.setdefault(specimen.sample.path, []).append(_used(specimen, use, crossed))
    rows: list[Row] = []
    for sample in dataset.samples:
        rows += used.get(sample.path) or [_left_out(sample, faults)]
    rows += [
        Row("", LEFT_OUT, "its name does not match the rule", "", "", "", "", "", "", path)
        for path in dataset.unmatched
    ]
    return DataRecord(tuple(rows))


def _used(specimen: Specimen, use: str, crossed: bool) -> Row:
    role, reason = ROLES.get(use, (use, ""))
    if crossed and role in ("learn", "held out") and not specimen.is_defect:
        reason = "; ".join(filter(None, (reason, "calibrated by folds")))
    image, sample = specimen.image, specimen.sample
    return Row(
        image.sha256, role, reason, sample.label, specimen.view, sample.part or "", image.width, image.height,
        image.bits, sample.path,
    )  # fmt: skip


def _left_out(sample: Sample, faults: Mapping[str, str]) -> Row:
    reason = faults.get(sample.path) or _why(sample)
    sha256 = "" if is_store(sample.file) else _digest(sample.file)
    return Row(
        sha256, LEFT_OUT, reason, sample.label, sample.view or "", sample.part or "", "", "", "", sample.path
    )


def _why(sample: Sample) -> str:
    if sample.split == "test":
        return "set aside for testing"
    if sample.label == "defect":
        return "a defect; this model learns from good frames"
    return f"labelled {sample.label}" if sample.label not in ("good", "") else "not used"


def _digest(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError:
        return ""


def in_order(view: str) -> tuple[tuple[int, str], ...]:
    """Sorts views as people count: 2 before 10."""
    return tuple(
        (int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", view) if word
    )


def counted(rows: Collection[Row]) -> list[dict[str, str | int]]:
    """One line a view: frames by role, and parts of those used."""
    views = sorted({row.view for row in rows}, key=in_order)
    return [
        {
            "view": view or "–",
            **{
                role.replace(" ", "_"): sum(row.view == view and row.role == role for row in rows)
                for role in ("learn", "held out", "calibrate", LEFT_OUT)
            },
            "parts": len(
                {row.part for row in rows if (row.view == view and row.role != LEFT_OUT) and row.part}
            ),
        }
        for view in views
    ]
