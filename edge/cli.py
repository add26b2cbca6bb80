"""The command line. Heavy imports happen inside the command that needs them; every EdgeError becomes a line
for a person and its exit code, never a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edge import __version__
from edge.errors import EdgeError
from edge.learn.cli import calibrate, compile_, learn, train
from edge.simulate.cli import simulate

EXIT_USAGE = 64
EXIT_INTERRUPTED = 130

# typer brings its own copy of click in newer versions and uses the real one in older ones: either way its
# usage errors have the base of the one that it exports
_CliUsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="edge",
    help="Inspection daemon: frames from a scanner's folder in, verdicts on MQTT out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Configuration file [default: $EDGE_CONFIG, ./config.toml, /etc/edge/config.toml]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object (or JSON lines) on stdout.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="The recipe's name.")]


def main() -> None:
    """Run a command; exits with the codes of the README."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="edge", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _CliUsageError as error:
        error.show()
        return EXIT_USAGE
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except EdgeError as error:
        print(f"edge: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more; the interpreter would complain about it at exit
        return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `edge` itself."""


@app.command()
def demo(
    folder: Annotated[
        Path | None, typer.Argument(help="Site folder to make [default: a temporary one]")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="End after this many frames.", min=1)] = None,
    rate: Annotated[float, typer.Option(help="Frames per second.", min=0.01)] = 3.0,
) -> None:
    """Show it all: a simulated scanner, an embedded broker, the daemon, a live table."""
    from edge.demo import run_demo

    raise typer.Exit(run_demo(folder, frames=frames, rate=rate))


@app.command()
def run(config: Config = None) -> None:
    """The daemon: inspect what the sources bring until SIGTERM; SIGHUP reloads the configuration."""
    from edge import config as configuration
    from edge.observe import log as logging

    settings = configuration.load(configuration.find(config))
    logging.configure(settings.log.level, sys.stderr, json=not sys.stderr.isatty())
    from edge.daemon import Daemon

    raise typer.Exit(Daemon(settings, log=logging.logger()).run())


@app.command()
def check(config: Config = None, json_: Json = False) -> None:
    """Validate the configuration, and everything it names: bundles, calibrations, folders."""
    from edge import app as wiring
    from edge import config as configuration

    settings = configuration.load(configuration.find(config))
    problems = wiring.problems(settings)
    if json_:
        _print_json(
            {
                "config": str(settings.file),
                "ok": not problems,
                "problems": [{"message": p.message, "hint": p.hint, "reason": p.reason} for p in problems],
            }
        )
    else:
        for problem in problems:
            print(f"edge: {problem}", file=sys.stderr)
        if not problems:
            sources = ", ".join(f"{s.name} → {s.recipe}" for s in settings.source)
            print(f"{settings.file}: good ({sources})")
    if problems:
        raise typer.Exit(problems[0].exit_code)


@app.command()
def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Frames, or folders of frames.", metavar="PATH…")],
    recipe: RecipeName,
    out: Annotated[
        Path | None, typer.Option(help="Write overlays and maps here, and sort frames into io/ and nio/.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Names → part, view, batch: {batch}/{part}_{view}")
    ] = None,
    value_range: Annotated[
        str | None, typer.Option("--value-range", help="Stored values that are black and white, LOW:HIGH.")
    ] = None,
    config: Config = None,
    json_: Json = False,
) -> None:
    """Judge frames once, without a daemon: a verdict a line. Exit 1 if any is not OK."""
    from edge.inspect import run_inspect

    raise typer.Exit(
        run_inspect(
            paths,
            recipe=recipe,
            out=out,
            template=template,
            value_range=value_range,
            config=config,
            json=json_,
        )
    )


@app.command()
def evaluate(
    recipe: RecipeName,
    manifest: Annotated[Path, typer.Option(help="CSV: path,label,mask,view,part,defect,split")],
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report.")] = None,
    config: Config = None,
    json_: Json = False,
) -> None:
    """Judge frames whose truth is known, and say how good the recipe is."""
    from edge.evaluate import run_evaluate

    raise typer.Exit(
        run_evaluate(recipe=recipe, manifest=manifest, split=split, report=report, config=config, json=json_)
    )


@app.command()
def status(config: Config = None, json_: Json = False) -> None:
    """What the running daemon says of itself. Exit 1 if it is not ready, 69 if it does not answer."""
    from edge.status import run_status

    raise typer.Exit(run_status(config=config, json=json_))


app.command("learn")(learn)
app.command("train")(train)
app.command("calibrate")(calibrate)
app.command("compile")(compile_)
app.command("simulate")(simulate)


def _print_json(document: Any) -> None:
    import json

    print(json.dumps(document, allow_nan=False))
