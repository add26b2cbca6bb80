"""Manifests of the image sets, read where they lie and written with absolute paths for a bench."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a manifest; paths are absolute, empty where there is none."""

    path: str
    label: str
    mask: str = ""
    view: str = ""
    part: str = ""
    defect: str = ""
    split: str = ""

    def with_split(self, split: str) -> Row:
        return replace(self, split=split)


def read(dataset: Path) -> list[Row]:
    """The rows of an image set."""
    with (dataset / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [Row(**row) for row in csv.DictReader(stream)]
    base = dataset.resolve()
    return [
        replace(row, path=str(base / row.path), mask=str(base / row.mask) if row.mask else "") for row in rows
    ]


def write(file: Path, rows: Iterable[Row]) -> Path:
    """Write a manifest; gives its path."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(field.name for field in fields(Row))
        writer.writerows(astuple(row) for row in rows)
    return file
