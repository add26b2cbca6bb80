"""`edge replay` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe whose verdicts are held against.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Archived frames, or folders of them: judged by the current recipe and by the candidate "
            "\\[default: the frames of stored verdicts]",
            metavar="PATH",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="Its bundle: a name, or a folder \\[default: the recipe's]"),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            help="Its calibration: a name, or a file \\[default: the one of the engine's name]",
        ),
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="Verdicts from then on, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Verdicts before then, ISO 8601.")] = None,
    batch: Annotated[str | None, typer.Option("--batch", help="Verdicts of this batch.")] = None,
    last: Annotated[
        int | None,
        typer.Option("--last", min=1, help="The last so many \\[default: 1000, or all that is asked for]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report \\[default: STATE/replays/ID]")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Judge frames again with a new engine or calibration, and show what changes.

    The frames are those of the site's stored verdicts, or of folders. Exit 1 if a defect that a person
    confirmed would now be OK.
    """
    from edge.replay.command import Options, run_replay

    options = Options(
        recipe, engine, calibration, since, until, batch, last, tuple(paths or ()), out, as_json
    )
    raise typer.Exit(run_replay(options, config))
