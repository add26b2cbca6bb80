"""Run lengths of 1,200 steel-strip masks: every row decoded and encoded again, areas of the classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.context import Context, FailedError, SkippedError
from bench.machine import ROOT
from bench.section import Section, table

WIDTH, HEIGHT = 1600, 256
ROWS = 1200


def run(context: Context) -> Section:
    """`check` row by row, and the whole file through masks and back."""
    source = _source()
    report = context.edge_json("rle", "check", source, "--size", f"{WIDTH}x{HEIGHT}")
    same = _through_masks(context, source)
    reached = report["exact"] == report["rows"] == ROWS and not report["bad"] and same
    lines = [
        f"- {'' if reached else 'NOT REACHED: '}**{report['exact']:,} of {report['rows']:,} rows come back "
        f"exactly** (text → {HEIGHT}×{WIDTH} mask → text), {len(report['bad'])} are refused",
        f"- `edge rle decode` to PNG masks and `edge rle encode` of them: the defect rows are "
        f"{'the same, byte for byte' if same else 'NOT the same'}",
        f"- {report['frames']} frames, {len(report['classes'])} classes:",
        "",
        *_areas(report["classes"]),
    ]
    return Section("steel_rle: run lengths in and out", lines, {"check": report, "through_masks": same})


def _source() -> Path:
    """The table; this image set has no images, and so no manifest."""
    folder = Path(os.environ.get("EDGE_DATA") or ROOT.parent / "shared/data") / "steel_rle"
    file = folder / "run_lengths.csv"
    if not file.is_file():
        raise SkippedError(f"data absent: {file} (set EDGE_DATA)")
    return file


def _through_masks(context: Context, source: Path) -> bool:
    """Whether masks as PNG files keep every row that has a defect; empty masks are not written."""
    masks, again = context.folder / "masks", context.folder / "again.csv"
    decoded = context.edge_json("rle", "decode", source, "--size", f"{WIDTH}x{HEIGHT}", "--out", masks)
    encoded = context.edge_json("rle", "encode", masks, "--out", again)
    if encoded["rows"] < decoded["masks"]:
        raise FailedError(f"{decoded['masks']} masks, {encoded['rows']} rows of them")
    return _defect_rows(source) == _defect_rows(again)


def _defect_rows(file: Path) -> list[str]:
    rows = file.read_text(encoding="utf-8").splitlines()[1:]
    return sorted(row for row in rows if not row.endswith(","))


def _areas(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    def row(name: str, c: Mapping[str, Any]) -> list[str]:
        if not c["frames"]:
            return [name, "0", *["–"] * 5]
        return [
            name, f"{c['frames']}", f"{c['least_px']:,}", f"{c['median_px']:,.0f}", f"{c['mean_px']:,.0f}",
            f"{c['most_px']:,}", f"{c['mean_ratio']:.2%}",
        ]  # fmt: skip

    header = ["class", "frames with it", "least px", "median", "mean", "most", "mean share of a frame"]
    return table(header, [row(name, figures) for name, figures in classes.items()])
