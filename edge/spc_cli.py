"""`edge spc`: the quality of a recipe over its batches, from the site's database, daemon running or not."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import CannotWriteError, UsageError

if TYPE_CHECKING:
    from edge.quality import ControlChart

EXIT_OUT_OF_CONTROL = 1
PLOTS = (".html", ".svg")
SPREADSHEET_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def spc(
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe's name.")],
    view: Annotated[str | None, typer.Option("--view", help="Only this view.")] = None,
    last: Annotated[
        int | None, typer.Option("--last", min=1, help="Only so many batches \\[default: all]")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Write a row a batch and view into this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the control charts: .html, or .svg of one view.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Quality index (nQI) and control limits over batches. Exit 1 if a latest batch is out of control.

    nQI is the mean score of a batch's frames over that of the calibration's good frames.
    """
    from edge import app, quality
    from edge import config as configuration
    from edge.artifacts import write_atomic
    from edge.options import check_recipe_name
    from edge.recipes import find_recipe
    from edge.record.reader import BatchReader

    check_recipe_name(recipe)
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise UsageError(f"--plot {plot}: neither .html nor .svg", hint="give FILE.html or FILE.svg")
    for file in (table, plot):
        _check_folder(file)
    settings = configuration.load(configuration.find(config))
    reader = BatchReader(settings.paths.state / app.DATABASE)
    try:
        views = [row.view for row in reader.spc_charts(recipe)]
        charts = quality.control_charts(reader, recipe, view, last or quality.ALL)
    finally:
        reader.close()
    if not views:
        find_recipe(settings, recipe)  # refuses one that there is not
    elif view is not None and view not in views:
        raise UsageError(
            f"--view {view}: recipe {recipe!r} has no frame of it counted",
            hint=f"there are: {', '.join(name or '(none)' for name in views)}",
        )
    if plot is not None:
        write_atomic(plot, _drawn(plot, recipe, charts).encode())
    if table is not None:
        write_atomic(table, _csv(charts).encode())
    if as_json:
        documents = [quality.document(chart) for chart in charts]
        print(json.dumps({"recipe": recipe, "charts": documents}, allow_nan=False))
    else:
        _show(recipe, charts)
    if any(chart.in_control is False for chart in charts):
        raise typer.Exit(EXIT_OUT_OF_CONTROL)


def _check_folder(file: Path | None) -> None:
    """A misspelt folder is not made.

    Raises:
        CannotWriteError: the file's folder is not there.
    """
    if file is not None and not file.parent.is_dir():
        raise CannotWriteError(
            f"{file}: there is no folder {file.parent}", hint="make it, or name another file", retryable=False
        )


def _drawn(file: Path, recipe: str, charts: list[ControlChart]) -> str:
    from markupsafe import Markup

    from edge import quality
    from edge.report import render

    if file.suffix.lower() == ".html":
        return render(
            "quality.html",
            recipe=recipe,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
            charts=charts,
            drawings=[Markup(quality.draw(chart)) for chart in charts],  # escapes what names hold
        )
    if len(charts) != 1:
        views = ", ".join(chart.row.view or "(none)" for chart in charts) or "none yet"
        raise UsageError(
            f"--plot {file}: an .svg holds one view, there are: {views}", hint="give --view, or FILE.html"
        )
    return quality.draw(charts[0], standalone=True) + "\n"


def _csv(charts: list[ControlChart]) -> str:
    """Numbers in full, times in ISO 8601, no formulas: names that would be one in a spreadsheet get a '."""
    from edge.quality import COLUMNS
    from edge.quality import table as rows

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows(charts):
        writer.writerow(
            [f"'{c}" if isinstance(c, str) and c.startswith(SPREADSHEET_FORMULA) else c for c in row]
        )
    return stream.getvalue()


def _show(recipe: str, charts: list[ControlChart]) -> None:
    if not charts:
        print(f"{recipe}: no frame counted yet")
        return
    print(f"{'view':<10} {'batch':<20} {'frames':>6} {'nQI':>10} {'limits':>17} {'EWMA':>10}  state")
    for chart in charts:
        view = chart.row.view or "–"
        for batch, point in zip(chart.batches, chart.points, strict=True):
            limits, state = "none", "no limits"
            if point.limits:
                limits = f"{_digits(point.limits.lower)}–{_digits(point.limits.upper)}"
                state = "OUT: " + ", ".join(point.rules) if point.rules else "in control"
            print(
                f"{view:<10} {batch.label:<20} {batch.frames:>6} {_digits(point.nqi):>10} {limits:>17} "
                f"{_digits(point.ewma):>10}  {state}"
            )
    for chart in charts:
        if chart.why_no_limits:
            print(f"{chart.name}: no limits: {chart.why_no_limits}")


def _digits(value: float) -> str:
    """Four decimals about 1, where limits are near each other; five significant digits far from it."""
    return f"{value:.4f}" if 0.01 <= value < 10 else f"{value:.5g}"
