"""The demonstration in a terminal: the last verdicts as a table, or as plain lines."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edge.simulate.ledger import Comparison, Entry, Ledger

ROWS = 12
BAR_WIDTH = 16
BAR_END = 2.0  # the score at the right end of a bar; its middle is the threshold
COLOURS = {"OK": "green", "NotOK": "red", "NotDecidable": "yellow"}


def board(ledger: Ledger, urls: Sequence[str]) -> Group:
    """The last verdicts, the counts, and where to look further."""
    table = Table(expand=False)
    for heading in ("time", "part", "view", "evaluation", "score", "", "reason", "latency"):
        table.add_column(heading, justify="right" if heading in ("score", "latency") else "left")
    for entry in ledger.entries[-ROWS:]:
        table.add_row(*_row(entry))
    return Group(table, Text(counts(ledger)), *(Text(url, style="dim") for url in urls))


def plain_line(entry: Entry) -> str:
    """One verdict for a log or a pipe."""
    where = f"view {entry.view}" if entry.view else "part   "
    score = "" if entry.score is None else f"{entry.score:.2f}"
    columns = f"{entry.time} {entry.part} {where} {entry.evaluation:12} {score:>6} {_latency(entry):>8}"
    return f"{columns} {','.join(entry.reasons)}".rstrip()


def counts(ledger: Ledger) -> str:
    """Frames and verdicts so far, in one line."""
    evaluations = ledger.evaluations
    by_kind = ", ".join(f"{evaluations[kind]} {kind}" for kind in COLOURS)
    return (
        f"{ledger.frames_written} frames written, {ledger.frame_verdicts} frame verdicts ({by_kind}), "
        f"{ledger.part_verdicts} part verdicts"
    )


def truth_line(comparison: Comparison) -> str:
    """The verdicts against the simulated truth, in one line."""
    return (
        f"simulated truth: {comparison.found} of {comparison.defects} frames with a defect found, "
        f"{comparison.false_alarms} false alarms in {comparison.good} good frames, "
        f"{comparison.undecided} whole frames not decided, "
        f"{comparison.truncated_refused} of {comparison.truncated} truncated frames refused"
    )


def _row(entry: Entry) -> list[Text]:
    colour = COLOURS.get(entry.evaluation, "magenta")
    return [
        Text(entry.time),
        Text(entry.part),
        Text(entry.view or "part", style="" if entry.view else "bold"),
        Text(entry.evaluation, style=colour if entry.view else f"bold {colour}"),
        Text("" if entry.score is None else f"{entry.score:.2f}"),
        _bar(entry.score, colour),
        Text(", ".join(entry.reasons)),
        Text(_latency(entry)),
    ]


def _bar(score: float | None, colour: str) -> Text:
    """A score as a bar whose middle, marked on every bar, is the threshold."""
    if score is None:
        return Text(" " * BAR_WIDTH)
    filled = round(min(max(score, 0.0), BAR_END) / BAR_END * BAR_WIDTH)
    cells = ["━" if cell < filled else "·" for cell in range(BAR_WIDTH)]
    cells.insert(BAR_WIDTH // 2, "┃")
    return Text("".join(cells), style=colour)


def _latency(entry: Entry) -> str:
    return "" if entry.latency_s is None else f"{entry.latency_s:.2f} s"
