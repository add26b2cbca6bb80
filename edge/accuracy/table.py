"""The leaderboard as Markdown: figures, promises, cost, what failed, and how it was made."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence

from edge import __version__
from edge.accuracy.board import Board, Entry
from edge.accuracy.figures import LEVEL, RANK_FALSE_REJECT, Promise, Value

NONE = "–"


def markdown(board: Board, command: str) -> str:
    """The whole file; `command` is how it was asked for."""
    plan = board.plan
    blocks = [
        ["# Accuracy"],
        [f"Written by `{command}` (edge {__version__}, {_machine()}); do not edit by hand."],
        _how(board),
        ["## Finding defects"],
        _table(
            ["set", "model", "image AUROC", "worst seed", f"recall at {RANK_FALSE_REJECT:.0%} (by rank)",
             "pixel AUROC", "worst seed", "pixel AP", "worst seed"],
            [_finding(entry) for entry in _ranked(board.entries)],
        ),
        _finding_notes(board),
        ["## False rejects: promised and measured"],
        _table(
            ["set", "model", "asked for", "promised", f"measured ({LEVEL:.0%} interval)", "promise",
             "escapes", "not decidable"],
            [_promised(entry, p) for entry in board.entries if entry.figures for p in entry.figures.promises],
        ),
        _promise_notes(board),
        ["## Cost"],
        _table(
            ["set", "model", "learned as", "minutes", "steps", "GFLOP/Mpx", "GFLOP a frame", "runs", "folds"],
            [_cost(entry) for entry in board.entries],
        ),
        ["GFLOP/Mpx: operations (a multiplication and an addition are two) for a megapixel of a large frame, "
         "as it comes from the scanner: overlap of tiles and scaling are in it. GFLOP a frame: of the tested "
         "frames, with the tiles that they fill."],
        *_overall(board),
        *_failures(board),
    ]  # fmt: skip
    if plan.learner.options:
        blocks[2].append(f"Options of `edge learn`: `{' '.join(plan.learner.options)}`.")
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _how(board: Board) -> list[str]:
    plan = board.plan
    if plan.respect_split:
        division = "The manifest's split: rows of split test are tested, of the other good ones is learned."
    else:
        division = (
            "Folds over parts (frames that name no part are their own; copies of a frame are of one part): "
            "learned from the good frames of the other folds, tested on all frames of the fold. Each seed "
            "deals the parts anew."
        )
    budget = plan.learner.budget
    lines = [
        f"{division} Folds of a seed are pooled, scores relative to their own run's thresholds; figures are "
        f"means over seeds {', '.join(map(str, plan.seeds))}, with {LEVEL:.0%} intervals over parts "
        "(bootstrap). "
        + (f"Each run learned {budget.steps} steps." if budget.steps else "")
        + (f"Each run had {budget.minutes:g} minutes to learn." if not budget.steps else "")
    ]
    if board.other_code:
        lines.append(
            f"{board.other_code} of these runs were done by another state of the code; --fresh does them "
            "again."
        )
    if board.open:
        lines.append(f"**Not finished: {board.open} runs are still to be done.**")
    return lines


def _finding(entry: Entry) -> list[str]:
    found = entry.figures
    if found is None:
        return [entry.frames.name, entry.model, *[NONE] * 7]
    return [
        entry.frames.name,
        entry.model,
        _value(found.image_auroc),
        _worst(found.image_auroc),
        _value(found.recall_at_rank),
        _value(found.pixel_auroc),
        _worst(found.pixel_auroc),
        _value(found.pixel_ap),
        _worst(found.pixel_ap),
    ]


def _promised(entry: Entry, promise: Promise) -> list[str]:
    measured = NONE
    if promise.measured is not None:
        measured = f"{promise.measured:.1%} {_range(promise.interval, 100, 1)} of {promise.frames}"
    escapes = NONE
    if promise.escapes is not None:
        escapes = f"{promise.escapes.mean:.1%} {_range(promise.escapes.interval, 100, 1)}".rstrip()
    return [
        entry.frames.name,
        entry.model,
        f"{promise.wanted:.1%}",
        _percent(promise.promised),
        measured,
        f"**{promise.kept}**" if promise.kept == "BROKEN" else promise.kept or NONE,
        escapes,
        _percent(promise.not_decidable),
    ]


def _cost(entry: Entry) -> list[str]:
    return [
        entry.frames.name,
        entry.model,
        ", ".join(entry.learned) or NONE,
        _number(entry.mean("minutes"), 1),
        _number(entry.mean("steps"), 0),
        _number(entry.mean("gflop_per_mpx"), 1),
        _number(entry.mean("gflop_per_frame"), 2),
        f"{len(entry.records)} of {entry.wanted}",
        str(entry.folds),
    ]


def _finding_notes(board: Board) -> list[str]:
    notes = [
        f"Recall at {RANK_FALSE_REJECT:.0%} by rank: the share of defect frames above the score that "
        f"{RANK_FALSE_REJECT:.0%} of the *tested* good frames exceed; like AUROC it says how well scores "
        "sort, not what the calibrated threshold does. Sets are sorted by image AUROC, or pixel AUROC."
    ]
    for entry in board.entries:
        where = f"{entry.frames.name}, {entry.model}"
        if entry.figures and not entry.figures.good:
            notes.append(f"{where}: no good frame was held out: figures of pixels only, no false rejects.")
        if not board.plan.respect_split and entry.folds < board.plan.folds:
            notes.append(
                f"{where}: {entry.folds} {'fold' if entry.folds == 1 else 'folds'} instead of "
                f"{board.plan.folds}, as it has too few parts or good frames."
            )
        if entry.figures and len(entry.records) < entry.wanted:
            notes.append(f"{where}: only {len(entry.records)} of {entry.wanted} runs are in these figures.")
        if entry.model == "auto" and entry.why:
            notes.append(f"{where}: {', '.join(entry.learned)}: {entry.why}.")
    return _listed(notes)


def _promise_notes(board: Board) -> list[str]:
    notes = [
        "Promised: the share of good frames that the calibration's bound allows; above what was asked for "
        "where there are too few calibration frames. Measured: good frames, never learned from or calibrated "
        f"with, that were called NotOK, a seed on average, with Clopper and Pearson's {LEVEL:.0%} interval.",
        "Promise: *inside*, it lies in that interval; *below*, fewer were rejected; **BROKEN**, more were.",
    ]
    for entry in {e.frames.name: e for e in board.entries if e.figures}.values():
        good = [row.group for row in entry.frames.rows if not row.is_defect]
        if len(set(good)) < len(good):
            notes.append(
                f"{entry.frames.name}: {len(good)} good frames are of {len(set(good))} parts, and frames of "
                "a part resemble each other: the interval is narrower than it should be."
            )
    return _listed(notes)


def _overall(board: Board) -> list[list[str]]:
    """Models over all sets that all of them have a figure for, best first."""
    by_set: dict[str, dict[str, float]] = {}
    for entry in board.entries:
        main = _main(entry)
        if main is not None:
            by_set.setdefault(entry.frames.name, {})[entry.model] = main
    models = [model.name for model in board.plan.models]
    shared = [scores for scores in by_set.values() if len(scores) == len(models)]
    if len(models) < 2 or not shared:
        return []
    rows = []
    for model in models:
        ranks = [1 + sum(other > scores[model] for other in scores.values()) for scores in shared]
        rows.append((sum(ranks) / len(ranks), sum(s[model] for s in shared) / len(shared), model))
    return [
        [f"## Over {len(shared)} of {len(board.plan.sets)} sets"],
        _table(
            ["model", "mean rank", "mean AUROC"],
            [[model, f"{rank:.2f}", f"{mean:.3f}"] for rank, mean, model in sorted(rows)],
        ),
        ["AUROC of images, or of pixels where a set has no image AUROC."],
    ]


def _failures(board: Board) -> list[list[str]]:
    if not board.failures:
        return []
    rows = [[failure.run, failure.reason.replace("|", "\\|")] for failure in board.failures]
    return [[f"## {len(rows)} runs failed"], _table(["run", "why"], rows)]


def _ranked(entries: Sequence[Entry]) -> Iterable[Entry]:
    """Sets in their order, the models of each best first."""
    order = list(dict.fromkeys(entry.frames.name for entry in entries))
    return sorted(entries, key=lambda e: (order.index(e.frames.name), -(_main(e) or -1.0)))


def _main(entry: Entry) -> float | None:
    found = entry.figures
    value = None if found is None else found.image_auroc or found.pixel_auroc
    return None if value is None else value.mean


def _value(value: Value | None) -> str:
    return NONE if value is None else f"{value.mean:.3f} {_range(value.interval, 1, 3)}".rstrip()


def _worst(value: Value | None) -> str:
    return NONE if value is None else f"{value.lowest:.3f}"


def _range(interval: tuple[float, float] | None, scale: float, digits: int) -> str:
    return f"({scale * interval[0]:.{digits}f}–{scale * interval[1]:.{digits}f})" if interval else ""


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.1%}"


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _listed(notes: Sequence[str]) -> list[str]:
    return [f"- {note}" for note in notes]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    aligned = [":--" if k < 2 else "--:" for k in range(len(header))]
    return [f"| {' | '.join(row)} |" for row in (header, aligned, *rows)]


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
