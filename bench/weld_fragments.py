"""Weld films judged by fragments: which statistic of the residual separates, on films not learned from."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.context import Context
from bench.manifests import Row, read, write
from bench.section import Section, table

MINUTES = 4.0
SEED = 1
AIM = 0.90
# Learned from films stored one way, tested on films stored the other way
POLARITIES = (("MONOCHROME1", "MONOCHROME2"), ("MONOCHROME2", "MONOCHROME1"))
NAMES = {"sum": "SUM", "mse": "MSE", "std": "STD", "min": "MIN", "max": "MAX", "absmax": "larger of both",
         "mean": "mean"}  # fmt: skip


def run(context: Context) -> Section:
    """Two folds by film: each of the ten is tested once, by a recipe that never saw it."""
    films = [replace(film, part=Path(film.path).stem) for film in read(context.dataset("weld_xray"))]
    random.Random(SEED).shuffle(films)
    half = len(films) // 2
    folds = [(films[:half], films[half:]), (films[half:], films[:half])]
    results = []
    for number, ((learned, tested), ways) in enumerate(zip(folds, POLARITIES, strict=True)):
        results.append(_fold(context, f"weld{number}", learned, tested[: context.size(half, 1)], ways))
    best = max(NAMES, key=lambda name: min(fold["auroc"].get(name, 0.0) for fold in results))
    lowest = min(fold["auroc"].get(best, 0.0) for fold in results)
    lines = [
        f"Ten films, all with defects; two folds by film (seed {SEED}): each is tested by a recipe that "
        "never saw it. Films are wrapped into 16-bit DICOM; those learned from are packed into one HDF5 "
        "store with their masks, and only fragments without a defect are learned "
        f"(`--preset weld-fragments`, {MINUTES:g} minutes). A fragment of the test films is a defect if at "
        "least 1 % of it is, and good if none of it is.",
        "",
        *table(
            ["fragment AUROC", *(f"{fold['learned']} → {fold['tested']}" for fold in results)],
            [
                [NAMES.get(name, name), *(f"{fold['auroc'].get(name, float('nan')):.3f}" for fold in results)]
                for name in NAMES
            ],
        ),
        "",
        f"Best in both folds: {NAMES[best]}, at least {lowest:.3f} (aim {AIM:.2f}, "
        f"{'met' if lowest >= AIM else 'NOT met'}). Fragments: "
        + "; ".join(f"{f['good']:,} good, {f['defect']:,} with a defect" for f in results)
        + f". Stores of {' and '.join(_megabytes(f['bytes']) for f in results)} from "
        f"{' and '.join(str(f['frames']) for f in results)} films.",
    ]
    return Section("weld_xray: which statistic of a fragment separates", lines, {"folds": results})


def _fold(
    context: Context, recipe: str, learned: Sequence[Row], tested: Sequence[Row], ways: tuple[str, str]
) -> dict[str, Any]:
    """Wrap, pack, learn, evaluate."""
    to_learn = _wrapped(context, f"{recipe}-learn", learned, ways[0])
    to_test = _wrapped(context, f"{recipe}-test", tested, ways[1])
    store = context.folder / f"{recipe}.h5"
    packed = context.edge_json("pack", to_learn, "--out", store)
    context.edge_json(
        "learn", store, "--recipe", recipe, "--preset", "weld-fragments", *context.budget(MINUTES),
        "--seed", SEED,
    )  # fmt: skip
    judged = context.edge_json("evaluate", "--recipe", recipe, "--manifest", to_test)
    return {
        "learned": _how(learned, ways[0]),
        "tested": _how(tested, ways[1]),
        "frames": packed["frames"],
        "bytes": packed["bytes"],
        **_fragment_figures(judged),
    }


def _wrapped(context: Context, name: str, films: Sequence[Row], photometric: str) -> Path:
    """The films as 16-bit DICOM; gives their manifest."""
    manifest = write(context.folder / f"{name}.csv", films)
    truth = context.folder / f"{name}-truth"
    context.edge(
        "simulate", context.folder / name, "--from", manifest, "--format", "dicom", "--photometric",
        photometric, "--burst", "--truth", truth,
    )  # fmt: skip
    return truth / "manifest.csv"


def _fragment_figures(judged: Mapping[str, Any]) -> dict[str, Any]:
    figures = judged.get("fragments", {})
    return {
        "auroc": figures.get("auroc", {}),
        "good": figures.get("good", 0),
        "defect": figures.get("defect", 0),
    }


def _how(films: Sequence[Row], photometric: str) -> str:
    return f"{', '.join(sorted(film.part.removeprefix('W0001_00') for film in films))} ({photometric})"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
