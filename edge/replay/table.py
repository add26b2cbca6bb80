"""What a replay found, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.options import relative_score

MOST_FLIPS = 15
COLOURS = {"OK": "green", "NotOK": "red", "NotDecidable": "yellow"}


def show(document: Mapping[str, Any], report: Path, console: Console | None = None) -> None:
    """Counts by view, what people had said, the largest flips, what was gone, and where the report is."""
    console = console or Console()
    console.print(f"{document['recipe']}: {verdict_line(document)}", highlight=False)
    console.print(_views(document))
    if (reviews := document["reviews"]) is not None:
        console.print(f"\n{reviews_line(reviews)}", highlight=False, soft_wrap=True)
        for one in reviews["passing"]:
            console.print(
                f"  [red]a confirmed defect passes[/] {_flip(one)}", soft_wrap=True, highlight=False
            )
    for one in document["listed"][:MOST_FLIPS]:
        console.print(f"  {_flip(one)}", soft_wrap=True, highlight=False)
    if (more := document["flips"] - MOST_FLIPS) > 0:
        console.print(f"  and {more} more: see the report")
    for why, frames in document["gone"]["because"].items():
        console.print(f"[yellow]{frames} not looked at[/]: {escape(why)}", highlight=False, soft_wrap=True)
    if document["interrupted"]:
        done = document["frames"] + document["gone"]["frames"]
        console.print(f"[yellow]interrupted[/]: {done} of {document['asked']} frames", highlight=False)
    console.print(f"report: {escape(str(report))}", highlight=False, soft_wrap=True)


def verdict_line(document: Mapping[str, Any]) -> str:
    """One sentence."""
    frames, flips = document["frames"], document["flips"]
    if not frames:
        return "no frame could be judged again"
    against = "their stored verdicts" if document["against"]["kind"] == "verdicts" else "the current recipe"
    return f"{flips} of {frames} frames would be judged otherwise than by {against} ({flips / frames:.1%})"


def reviews_line(reviews: Mapping[str, Any]) -> str:
    """How often each recipe agrees with the people."""
    frames = reviews["frames"]
    return (
        f"Of {frames} reviewed frames the old verdicts are right on {reviews['oldRight']}, "
        f"the candidate on {reviews['newRight']}"
    )


def counts(evaluations: Mapping[str, Mapping[str, int]]) -> tuple[int, int, int]:
    """(OK→NotOK, NotOK→OK, to or from NotDecidable) of a matrix old → new."""
    undecided = sum(
        frames
        for old, row in evaluations.items()
        for new, frames in row.items()
        if old != new and "NotDecidable" in (old, new)
    )
    return evaluations["OK"]["NotOK"], evaluations["NotOK"]["OK"], undecided


def median_change(view: Mapping[str, Any]) -> str:
    """Median of a view's scores, old → new."""
    old, new = view["medianScore"]["old"], view["medianScore"]["new"]
    return " → ".join("–" if value is None else relative_score(value) for value in (old, new))


def _views(document: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("view")
    for column in ("frames", "OK → NotOK", "NotOK → OK", "undecided", "median score"):
        table.add_column(column, justify="right")
    rows = {**document["perView"]}
    for name, view in rows.items():
        table.add_row(
            escape(name), str(view["frames"]), *map(str, counts(view["evaluations"])), median_change(view)
        )
    if len(rows) > 1:
        table.add_row("all", str(document["frames"]), *map(str, counts(document["evaluations"])), "")
    return table


def _flip(one: Mapping[str, Any]) -> str:
    def said(it: Mapping[str, Any]) -> str:
        score = "–" if it["score"] is None else relative_score(it["score"])
        return f"[{COLOURS[it['evaluation']]}]{it['evaluation']}[/] {score}"

    where = escape(one["path"]) + (f" page {one['page'] + 1}" if one["page"] else "")
    view = f" view {escape(one['view'])}" if one["view"] else ""
    review = f", a person said {one['review']}" if one["review"] else ""
    return f"{said(one['old'])} → {said(one['new'])}  {where}{view}{review}"
