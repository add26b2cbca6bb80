"""What `edge evaluate` prints: its document for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

# name, place in the document, whether it is printed in per cent
FIGURES = (
    ("AUROC", "image.auroc", "pixel.auroc", False),
    ("AUPRC", "image.auprc", "pixel.auprc", False),
    ("precision", "image.precision", "", False),
    ("recall", "image.recall", "", False),
    ("F1, for pixels Dice", "image.f1", "pixel.dice", False),
    ("F2", "image.f2", "", False),
    ("IoU", "", "pixel.iou", False),
    ("false rejects", "rates.false_reject", "", True),
    ("escapes", "rates.escape", "", True),
    ("not decidable", "rates.not_decidable", "", True),
)

PATCHES_CAPTION = "only the first row uses the calibrated pixel threshold, the others 0.5"


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print the document."""
    (tn, fp), (fn, tp) = document["confusion"]
    drawn = document["bootstrap"]
    console.print(f"recipe {document['recipe']}: {document['frames']} frames of {drawn['parts']} parts, "
                  f"{document['timing'].get('frames_per_s', 0)} frames/s; in brackets {drawn['level']:.0%} "
                  "intervals over parts", highlight=False)  # fmt: skip
    console.print(_figures(document))
    console.print(f"good: {tn} OK, {fp} not · defect: {tp} not OK, {fn} called OK", highlight=False)
    for what, held in document.get("promise", {}).items():
        low, high = held["interval"]
        console.print(f"good {what}s rejected: promised {held['promised']:.1%}, measured "
                      f"{held['measured']:.1%} ({100 * low:.1f}–{100 * high:.1f}) of {held['count']}: "
                      f"{'kept' if held['kept'] else 'NOT kept'}", highlight=False)  # fmt: skip
    console.print()
    console.print(_thresholds(document))
    for table in (_patches(document), _classes(document), _fragments(document)):
        if table is not None:
            console.print()
            console.print(table)


def with_interval(document: Mapping[str, Any], place: str, percent: bool = False) -> str:
    """`0.931 (0.880–0.970)` of a figure at its place, as `image.auroc`; – where it could not be computed."""
    value: Any = document
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        return "–"
    limits = document["intervals"].get(place)
    if percent:
        return f"{value:.1%}" + (f" ({100 * limits[0]:.1f}–{100 * limits[1]:.1f})" if limits else "")
    return f"{value:.3f}" + (f" ({limits[0]:.3f}–{limits[1]:.3f})" if limits else "")


def _figures(document: Mapping[str, Any]) -> Table:
    has_pixels = "pixel" in document
    table = _table("", "frames", *(["pixels"] if has_pixels else []))
    for name, of_frames, of_pixels, percent in FIGURES:
        cells = [with_interval(document, of_frames, percent) if of_frames else ""]
        if has_pixels:
            cells.append(with_interval(document, of_pixels, percent) if of_pixels else "")
        if any(cells):
            table.add_row(name, *cells)
    return table


def _thresholds(document: Mapping[str, Any]) -> Table:
    table = _table("", "AUROC", "false rejects", "escapes", "not decidable")
    three = ("false_reject", "escape", "not_decidable")
    table.add_row("thresholds as calibrated", *_cells(document["image"], "auroc"),
                  *_percent(document["rates"], *three))  # fmt: skip
    one = document["global_threshold"]
    table.add_row("one global threshold", *_cells(one, "auroc"), *_percent(one, *three[:2]), "")
    for view, row in document["per_view"].items():
        name = f"  view {view} ({row['frames']})"
        table.add_row(name, *_cells(row, "auroc"), *_percent(row, *three))
    if "parts" in document:
        row = document["parts"]
        table.add_row(f"parts ({row['parts']})", "", *_percent(row, *three))
    return table


def _patches(document: Mapping[str, Any]) -> Table | None:
    if "patches" not in document:
        return None
    row = document["patches"]
    side = row["patch_px"]
    table = _table(f"patches of {side}×{side}", "F1", "good OK", "good not", "defect found", "defect missed")
    rows = ("pixel threshold", row), ("at 0.5", row["at_half"]), ("at 0.5, pure only", row["pure_at_half"])
    for name, one in rows:
        (tn, fp), (fn, tp) = one["confusion"]
        table.add_row(name, *_cells(one, "f1"), str(tn), str(fp), str(tp), str(fn))
    table.caption, table.caption_justify = PATCHES_CAPTION, "left"
    return table


def _classes(document: Mapping[str, Any]) -> Table | None:
    if "classes" not in document:
        return None
    table = _table("classes", "Dice", "IoU", "Dice a frame", "area px", "found px")
    for name, row in document["classes"].items():
        areas = (f"{row['area_px']:.0f}", f"{row['found_px']:.0f}")
        table.add_row(f"  {name}", *_cells(row, "dice", "iou", "dice_per_frame"), *areas)
    return table


def _fragments(document: Mapping[str, Any]) -> Table | None:
    if "fragments" not in document:
        return None
    row = document["fragments"]
    table = _table(f"fragments ({row['good']} good, {row['defect']} with a defect)", "AUROC")
    for name, value in sorted(row["auroc"].items(), key=lambda item: -item[1]):
        table.add_row(f"  {name}", f"{value:.3f}")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _cells(row: Mapping[str, Any], *keys: str) -> list[str]:
    return [f"{row[key]:.3f}" if key in row else "–" for key in keys]


def _percent(row: Mapping[str, Any], *keys: str) -> list[str]:
    return [f"{row[key]:.1%}" if key in row else "–" for key in keys]
