"""Weld radiographs as 16-bit DICOM, both polarities: fragments at half steps over films of 5,000 pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.context import Context, FailedError
from bench.machine import ROOT
from bench.manifests import Row, read, write
from bench.section import Section, table

MINUTES = 4.0
SEED = 1
LEARNED_FILMS = 6
CLEAR_PX = 64  # no defect closer than this to a region that is learned from
CROP_PX, CROP_STEP_PX = 256, 128
FRAGMENT_PX, FRAGMENT_STEP_PX = 64, 32
OVERLAY = ROOT / "results/weld_overlay.jpg"  # ignored by git: research images stay out of the project
OVERLAY_WIDTH_PX = 1600
OVERLAY_MAX_BYTES = 150_000
PHOTOMETRICS = ("MONOCHROME1", "MONOCHROME2")


def run(context: Context) -> Section:
    """Learn from clean regions of six films, inspect the other four whole, stored both ways."""
    films = read(context.dataset("weld_xray"))
    crops = {film.path: _crops(context.folder / "clean", film) for film in films}
    order = sorted(films, key=lambda film: -len(crops[film.path]))
    learned_from = order[:LEARNED_FILMS]
    tested = sorted(order[LEARNED_FILMS:][: context.size(4, 1)], key=lambda film: film.path)
    manifest = write(context.folder / "clean.csv", [c for film in learned_from for c in crops[film.path]])
    learned = context.edge_json(
        "learn", manifest, "--recipe", "weld", "--model", "fragment-cae", *context.budget(MINUTES),
        "--seed", SEED,
    )  # fmt: skip
    results = {photometric: _inspect(context, tested, photometric) for photometric in PHOTOMETRICS}
    overlay = _keep_overlay(context.folder / "MONOCHROME1-out/overlay", results["MONOCHROME1"]["verdicts"])
    first, second = (results[photometric] for photometric in PHOTOMETRICS)
    difference = _largest_difference(first["verdicts"], second["verdicts"])
    lines = [
        f"All ten films show defects, so `edge learn --model fragment-cae` ({MINUTES:g} minutes, seed "
        f"{SEED}, {learned['steps']} steps) saw "
        f"{sum(len(crops[f.path]) for f in learned_from)} crops of {CROP_PX}×"
        f"{CROP_PX} px at least {CLEAR_PX} px away from every marked defect, from the {LEARNED_FILMS} films "
        f"with most such room ({_stems(learned_from)}); the other {len(tested)} ({_stems(tested)}) were "
        f"wrapped by `edge simulate --format dicom` into 16 bits and inspected whole: fragments of "
        f"{FRAGMENT_PX}×{FRAGMENT_PX} px at {FRAGMENT_STEP_PX}-px steps, borders covered.",
        "",
        *_film_table(first["verdicts"]),
        "",
        *table(
            ["stored as", "pixel AUROC", "pixel AUPRC", "best F1", "seconds a film (all of `edge inspect`)"],
            [
                [p, f"{r['pixel']['auroc']:.4f}", f"{r['pixel']['auprc']:.4f}", f"{r['pixel']['f1_max']:.4f}",
                 f"{r['wall_s'] / len(tested):.1f}"]
                for p, r in results.items()
            ],
        ),
        "",
        f"Largest relative difference between the two polarities' scores: {difference:.1e}. "
        f"An overlay ({overlay}) is written to `{OVERLAY.relative_to(ROOT)}`, outside version control: "
        "research images are not copied into the project.",
    ]  # fmt: skip
    facts = {p: {"pixel": r["pixel"], "wall_s": r["wall_s"]} for p, r in results.items()}
    return Section("weld_xray: 16-bit DICOM films by fragments", lines, facts | {"difference": difference})


def fragments(width_px: int, height_px: int) -> int:
    """How many windows cover a film at half steps, the last ones shifted inwards."""

    def along(length: int) -> int:
        return math.ceil(max(0, length - FRAGMENT_PX) / FRAGMENT_STEP_PX) + 1

    return along(width_px) * along(height_px)


def _crops(folder: Path, film: Row) -> list[Row]:
    """Regions of a film that are clear of its defects, written as PNG."""
    pixels = cv2.imread(film.path, cv2.IMREAD_UNCHANGED)
    mask = (cv2.imread(film.mask, cv2.IMREAD_GRAYSCALE) > 127).astype(np.uint8)
    near = cv2.dilate(mask, np.ones((2 * CLEAR_PX + 1, 2 * CLEAR_PX + 1), np.uint8))
    folder.mkdir(exist_ok=True)
    found = []
    for y in range(0, pixels.shape[0] - CROP_PX + 1, CROP_STEP_PX):
        for x in range(0, pixels.shape[1] - CROP_PX + 1, CROP_PX):
            window = slice(y, y + CROP_PX), slice(x, x + CROP_PX)
            if near[window].any():
                continue
            name = folder / f"{Path(film.path).stem}_{y}_{x}.png"
            cv2.imwrite(str(name), pixels[window])
            found.append(Row(str(name), "good", part=Path(film.path).stem, split="train"))
    return found


def _inspect(context: Context, films: Sequence[Row], photometric: str) -> dict[str, Any]:
    """Wrap the films, inspect and evaluate them."""
    manifest = write(context.folder / "films.csv", films)
    incoming, truth = context.folder / photometric, context.folder / f"{photometric}-truth"
    context.edge(
        "simulate", incoming, "--from", manifest, "--format", "dicom", "--photometric", photometric,
        "--burst", "--truth", truth,
    )  # fmt: skip
    began_s = time.monotonic()
    verdicts = context.edge_lines(
        "inspect", incoming, "--recipe", "weld", "--out", context.folder / f"{photometric}-out",
        exit_codes=(0, 1),
    )  # fmt: skip
    wall_s = time.monotonic() - began_s
    judged = context.edge_json("evaluate", "--recipe", "weld", "--manifest", truth / "manifest.csv")
    return {"verdicts": verdicts, "wall_s": wall_s, "pixel": judged["pixel"]}


def _film_table(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for verdict in verdicts:
        image, times = verdict["image"], verdict["processingTimes"]
        rows.append([
            Path(image["path"]).stem, f"{image['width']}×{image['height']}, {image['bits']} bits",
            f"{fragments(image['width'], image['height']):,}", f"{times['infer_s']:.1f}",
            f"{times['total_s']:.1f}", f"{verdict['resultEvaluation']} ({verdict['score']:.2f})",
            len(verdict["defects"]),
        ])  # fmt: skip
    header = ["film", "size", "fragments", "engine s", "total s", "verdict (score)", "defects listed"]
    return table(header, rows)


def _largest_difference(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> float:
    """Of the raw scores of the same films, relative."""
    scores = {Path(v["image"]["path"]).name: v["scoreRaw"] for v in one}
    return max(abs(v["scoreRaw"] / scores[Path(v["image"]["path"]).name] - 1) for v in other)


def _keep_overlay(folder: Path, verdicts: Sequence[Mapping[str, Any]]) -> str:
    """The first film's overlay, made small; says how small."""
    name = verdicts[0]["image"]["path"]
    picture = cv2.imread(str(folder / f"{name}.jpg"))
    if picture is None:
        raise FailedError(f"no overlay of {name} in {folder}")
    factor = OVERLAY_WIDTH_PX / picture.shape[1]
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    for quality in (88, 75, 60, 40):
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= OVERLAY_MAX_BYTES:
            break
    OVERLAY.parent.mkdir(exist_ok=True)
    OVERLAY.write_bytes(data)
    return f"{Path(name).stem}, {small.shape[1]}×{small.shape[0]}, {len(data) // 1000} kB"


def _stems(films: Sequence[Row]) -> str:
    return ", ".join(sorted(Path(film.path).stem.removeprefix("W0001_") for film in films))
