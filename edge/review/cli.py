"""`edge review` and its options; what it does is in `edge.review.command`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

WHICH, SAY, SETS = "Which verdicts", "What you say", "Manifests of reviewed frames"


def review(
    result: Annotated[
        str | None, typer.Option("--result", help="Show this verdict; with --evaluation, review it.")
    ] = None,
    evaluation: Annotated[
        Literal["OK", "NotOK", "NotDecidable"] | None,
        typer.Option("--evaluation", help="What the frame is.", rich_help_panel=SAY),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", help="Needed where it overrules.", rich_help_panel=SAY)
    ] = "",
    reviewer: Annotated[
        str | None,
        typer.Option("--reviewer", help="Who says it \\[default: the login name]", rich_help_panel=SAY),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Verdicts that want a look \\[the default]", rich_help_panel=WHICH)
    ] = False,
    history: Annotated[
        str | None, typer.Option("--history", help="All reviews of this verdict.", rich_help_panel=WHICH)
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Only of this recipe.", rich_help_panel=WHICH)
    ] = None,
    view: Annotated[
        str | None, typer.Option("--view", help="Only of this view.", rich_help_panel=WHICH)
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", help="Only of this batch.", rich_help_panel=WHICH)
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="From then on, ISO 8601.", rich_help_panel=WHICH)
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            max=100_000,
            help="At most so many \\[default: 20 listed, 200 suggested]",
            rich_help_panel=WHICH,
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Write all reviewed frames as a manifest.", rich_help_panel=SETS),
    ] = None,
    suggest_learning: Annotated[
        Path | None,
        typer.Option(
            "--suggest-learning",
            help="Write a varied choice of frames to learn from again: good ones that were not OK, and "
            "defects.",
            rich_help_panel=SETS,
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Look at verdicts that are not OK, and say what is true; nothing that was said is ever overwritten.

    Frames that people overruled are kept below STATE/reviewed. They make thresholds better with
    `edge calibrate --with-reviews`.
    """
    from edge.review.command import Asked, run_review

    run_review(
        Asked(
            result=result, evaluation=evaluation, reason=reason, reviewer=reviewer, list_=list_,
            history=history, recipe=recipe, view=view, batch=batch, since=since, limit=limit, export=export,
            suggest=suggest_learning, json=as_json,
        ),
        config,
    )  # fmt: skip
