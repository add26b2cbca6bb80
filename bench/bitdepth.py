"""The same frames in 8 bits, 16 bits and 1 % of 16 bits: the same verdicts, where the peer sees white."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.context import Context
from bench.manifests import read
from bench.section import Section, table

MINUTES = 1.5
SEED = 1
PARTS_LEARNED, PARTS_TESTED = 40, 30  # of six views
DEFECT_SHARE = 0.3
ONE_PERCENT = 0.01
WHITE = 655  # of 65535, as `edge simulate --full-scale 0.01` stores it
TEMPLATE = "{batch}/{part}_{view}"

Verdicts = Mapping[str, Mapping[str, Any]]  # by the frame's name without suffix


@dataclass(frozen=True, slots=True)
class Variant:
    """The same frames, stored in another way."""

    name: str
    simulate: tuple[object, ...]  # options of `edge simulate`
    inspect: tuple[object, ...] = ()  # options of `edge inspect`


VARIANTS = (
    Variant("16-bit PNG, whole scale (×257)", ("--format", "png", "--bits", 16)),
    Variant(
        "16-bit PNG, 1 % of the scale, declared by `--value-range 0:655`",
        ("--format", "png", "--bits", 16, "--full-scale", ONE_PERCENT),
        ("--value-range", f"0:{WHITE}"),
    ),
    Variant(
        "16-bit TIFF, 1 %, declared by MaxSampleValue",
        ("--format", "tiff", "--bits", 16, "--full-scale", ONE_PERCENT),
    ),
    Variant(
        "16-bit DICOM MONOCHROME2, 1 %, declared by its window",
        ("--format", "dicom", "--full-scale", ONE_PERCENT),
    ),
    Variant(
        "16-bit DICOM MONOCHROME1, 1 %, declared by its window",
        ("--format", "dicom", "--full-scale", ONE_PERCENT, "--photometric", "MONOCHROME1"),
    ),
)
UNDECLARED = Variant(
    "16-bit PNG, 1 %, nothing declared", ("--format", "png", "--bits", 16, "--full-scale", ONE_PERCENT)
)


def run(context: Context) -> Section:
    """Two recipes (declared and percentile window), every way of storing, one reference each."""
    _simulate(context)
    for recipe, window in (("declared", "declared"), ("percentile", "percentile")):
        context.edge("learn", context.folder / "good", "--recipe", recipe, "--template", TEMPLATE,
                     *context.budget(MINUTES), "--seed", SEED, "--window", window)  # fmt: skip
    for variant in (*VARIANTS, UNDECLARED):
        context.edge("simulate", _folder(context, variant), "--from", context.folder / "eight/B01",
                     "--template", "{batch}/{stem}", "--burst", *variant.simulate)  # fmt: skip
    reference = _inspect(context, "declared", context.folder / "eight")
    by_percentile = _inspect(context, "percentile", context.folder / "eight")
    rows = [Row("8-bit PNG (reference)", "declared", reference, reference)]
    for variant in VARIANTS:
        found = _inspect(context, "declared", _folder(context, variant), *variant.inspect)
        rows.append(Row(variant.name, "declared", found, reference))
    undeclared = _folder(context, UNDECLARED)
    found = _inspect(context, "declared", undeclared)
    rows.append(Row(UNDECLARED.name, "declared", found, reference))
    rows.append(Row("8-bit PNG (reference)", "percentile", by_percentile, by_percentile))
    rows.append(
        Row(UNDECLARED.name, "percentile", _inspect(context, "percentile", undeclared), by_percentile)
    )
    clipped = {
        variant.name: _inspect(context, "declared", _clip(context, variant))
        for variant in (VARIANTS[0], UNDECLARED)
    }
    truth = _truth(context)
    lines = [
        f"{len(reference)} simulated frames of six views ({sum(truth.values())} show a defect), stored in "
        f"six ways; recipe learned from 8-bit frames for {MINUTES:g} minutes (seed {SEED}), "
        f"thresholds per view: in 8 bits {_rejected(reference, truth)} of the defect frames are NotOK. "
        "Differences are to the 8-bit frames of the same recipe.",
        "",
        *table(
            ["stored as", "window", "OK", "NotOK", "NotDecidable", "same verdict",
             "same on defect frames", "largest relative score difference"],
            [_cells(row, truth) for row in rows],
        ),
        "",
        "Clipping to 8 bits as the peer does (`numpy.clip(…, 0, 255)`), then the same recipe: "
        + "; ".join(_clip_line(name, found, reference, truth) for name, found in clipped.items())
        + ".",
    ]  # fmt: skip
    facts = {"rows": [_facts(row, truth) for row in rows],
             "clipped": {name: _counts(found) for name, found in clipped.items()}}  # fmt: skip
    return Section("Bit depth: 8 bits, 16 bits, 1 % of 16 bits", lines, facts)


@dataclass(frozen=True, slots=True)
class Row:
    """One way of storing, inspected, with what it is compared with."""

    name: str
    window: str
    found: Verdicts
    reference: Verdicts

    def same(self, paths: list[str]) -> int:
        return sum(self.found[p]["resultEvaluation"] == self.reference[p]["resultEvaluation"] for p in paths)

    def largest_difference(self) -> float | None:
        """Of raw scores, relative to the reference; None where a frame has no score."""
        pairs = [(self.found[p]["scoreRaw"], self.reference[p]["scoreRaw"]) for p in self.reference]
        if any(a is None or b is None for a, b in pairs):
            return None
        return max(abs(a / b - 1) for a, b in pairs)


def _simulate(context: Context) -> None:
    """Good 8-bit frames to learn from, and others, some defective, to inspect."""
    parts = context.size(PARTS_LEARNED, 14), context.size(PARTS_TESTED, 4)
    context.edge("simulate", context.folder / "good", "--parts", parts[0], "--defect-share", 0, "--burst",
                 "--seed", 11)  # fmt: skip
    context.edge("simulate", context.folder / "eight", "--parts", parts[1], "--defect-share", DEFECT_SHARE,
                 "--burst", "--seed", 12, "--truth", context.folder / "truth")  # fmt: skip


def _folder(context: Context, variant: Variant) -> Path:
    return context.folder / f"variant-{(*VARIANTS, UNDECLARED).index(variant)}"


def _inspect(context: Context, recipe: str, folder: Path, *options: object) -> Verdicts:
    verdicts = context.edge_lines(
        "inspect", folder, "--recipe", recipe, "--template", TEMPLATE, *options, exit_codes=(0, 1)
    )
    return {str(Path(verdict["image"]["path"]).with_suffix("")): verdict for verdict in verdicts}


def _clip(context: Context, variant: Variant) -> Path:
    """The frames as a program sees them that clips 16 bits to 8."""
    source, target = _folder(context, variant), context.folder / f"clipped-{_folder(context, variant).name}"
    for file in sorted(source.rglob("*.png")):
        pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        clipped = target / file.relative_to(source)
        clipped.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(clipped), np.clip(pixels, 0, 255).astype(np.uint8))
    return target


def _truth(context: Context) -> dict[str, bool]:
    """Which frames show a defect."""
    base = (context.folder / "eight").resolve()
    return {
        str(Path(row.path).resolve().relative_to(base).with_suffix("")): row.label == "defect"
        for row in read(context.folder / "truth")
    }


def _counts(found: Verdicts) -> Counter[str]:
    return Counter(verdict["resultEvaluation"] for verdict in found.values())


def _rejected(found: Verdicts, truth: Mapping[str, bool]) -> int:
    return sum(is_defect and found[p]["resultEvaluation"] == "NotOK" for p, is_defect in truth.items())


def _facts(row: Row, truth: Mapping[str, bool]) -> dict[str, Any]:
    defects = [path for path in row.reference if truth[path]]
    return {"name": row.name, "window": row.window, "counts": _counts(row.found),
            "same": row.same(list(row.reference)), "same_defects": row.same(defects),
            "largest_difference": row.largest_difference()}  # fmt: skip


def _cells(row: Row, truth: Mapping[str, bool]) -> list[object]:
    facts, total = _facts(row, truth), len(row.reference)
    counts, difference = facts["counts"], facts["largest_difference"]
    return [row.name, row.window, counts["OK"], counts["NotOK"], counts["NotDecidable"],
            f"{facts['same']} of {total}", f"{facts['same_defects']} of {sum(truth.values())}",
            "–" if difference is None else f"{difference:.1e}"]  # fmt: skip


def _clip_line(name: str, found: Verdicts, reference: Verdicts, truth: Mapping[str, bool]) -> str:
    counts = _counts(found)
    defects = [path for path in reference if truth[path]]
    below = sum((found[path]["score"] or 0) <= 1 for path in defects)
    same = Row(name, "", found, reference).same(list(reference))
    return (
        f"{name}: same verdict for {same} of {len(reference)} frames ({counts['OK']} OK, {counts['NotOK']} "
        f"NotOK, {counts['NotDecidable']} NotDecidable), and {below} of {len(defects)} defect frames score "
        "below the threshold"
    )
