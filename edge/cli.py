"""The command line. Heavy imports happen inside the command that needs them; every error becomes a line for a
person and its exit code, never a traceback."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edge import __version__
from edge.accuracy.cli import bench_app
from edge.backup.cli import backup, restore
from edge.errors import CannotWriteError, ConfigError, EdgeError, MissingInputError, UnavailableError
from edge.learn.cli import calibrate, compile_, learn, train
from edge.pack_cli import pack
from edge.replay.cli import replay
from edge.review.cli import review
from edge.rle_cli import app as rle
from edge.schema_cli import schema
from edge.signing_cli import keygen, sign
from edge.simulate.commands import simulate_app
from edge.spc_cli import spc

EXIT_USAGE = 64
EXIT_CANNOT_WRITE = CannotWriteError.exit_code
EXIT_INTERRUPTED = 130
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}

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
        "--config", help="Configuration file \\[default: $EDGE_CONFIG, ./config.toml, /etc/edge/config.toml]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object (or JSON lines) on stdout.")]
ValueRange = Annotated[
    str | None,
    typer.Option(
        "--value-range", help="Stored values that are black and white, LOW:HIGH \\[default: the source's]"
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", help="The recipe's name.")]


def main() -> None:
    """Run a command; exits with the codes of the README."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="edge", standalone_mode=False)
        _flush()
        return code if isinstance(code, int) else 0
    except _CliUsageError as error:
        error.message = error.message.replace("Value error, ", "")  # pydantic's, which typer checks with
        error.show()
        return EXIT_USAGE
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit as error:  # how typer and rich answer a broken pipe
        if isinstance(error.__context__, BrokenPipeError):
            return _nobody_reads()
        raise
    except EdgeError as error:
        return _fail(error)
    except OSError as error:
        return _fail(_explained(error))
    except Exception as error:  # a person gets a line and a code, whatever we did not foresee
        return _fail(
            EdgeError(
                f"internal error: {type(error).__name__}: {_one_line(error)} ({_origin(error)})",
                hint="this is a fault in edge: report it with the line above and the command",
            )
        )


def _fail(error: EdgeError) -> int:
    print(f"edge: {error}", file=sys.stderr)
    return error.exit_code


def _flush() -> None:
    """What was printed goes out now: at the interpreter's end an error could only be a complaint."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the command is done, and whoever read it had enough: its own exit code counts
        _nobody_reads()
    except OSError:
        _nobody_reads()
        raise


def _nobody_reads() -> int:
    """`edge … | head`: end without a word, but not with 0 or 1, as not all of the answer was given."""
    with suppress(OSError, ValueError):  # the interpreter flushes once more, into nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return EXIT_CANNOT_WRITE


def _explained(error: OSError) -> EdgeError:
    """An error of the operating system that no command foresaw, as the error of edge that comes nearest."""
    what = f"{error.strerror or _one_line(error)} ({_origin(error)})"
    file = error.filename2 or error.filename
    if file is None and error.errno not in DISK_ERRORS:
        return UnavailableError(f"cannot go on: {what}", hint="see what this machine lacks, and try again")
    if isinstance(error, FileNotFoundError):
        return MissingInputError(f"cannot find {file}: {what}", hint="check the path")
    if isinstance(error, PermissionError) and os.path.isfile(file) and not os.access(file, os.R_OK):
        return MissingInputError(f"cannot read {file}: {what}", hint="make it readable for this user")
    return CannotWriteError(
        f"cannot write {file or 'to the disk'}: {what}", hint="check the path, its permissions and the space"
    )


def _origin(error: BaseException) -> str:
    """file:line where it arose: in edge, if any of it is."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).parent)
    ours = [frame for frame in frames if frame.filename.startswith(package)]
    last = (ours or frames)[-1]
    return f"{last.filename.removeprefix(str(Path(package).parent) + os.sep)}:{last.lineno}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no message"


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
        Path | None, typer.Argument(help="Site folder to make \\[default: a temporary one]")
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
    from edge.observe.journal import SOCKET, goes_to_journal

    settings = configuration.load(configuration.find(config))
    journal = SOCKET if goes_to_journal(sys.stderr, os.environ) else None
    logging.configure(settings.log.level, sys.stderr, json=not sys.stderr.isatty(), journal=journal)
    from edge.check import check_sources
    from edge.daemon import Daemon
    from edge.heap import steady_heap

    check_sources(settings)
    steady_heap()

    raise typer.Exit(Daemon(settings, log=logging.logger()).run())


@app.command()
def check(config: Config = None, json_: Json = False) -> None:
    """Validate the configuration, and everything it names: bundles, calibrations, folders."""
    from edge import config as configuration
    from edge.check import notes as find_notes
    from edge.check import problems as find_problems

    file = configuration.find(config)
    notes: list[str] = []
    try:
        settings = configuration.load(file)
        problems, notes = find_problems(settings), find_notes(settings)
    except ConfigError as error:
        problems = [error]
    if json_:
        listed = [{"message": p.message, "hint": p.hint, "reason": p.reason} for p in problems]
        found = {"ok": not problems, "problems": listed, "notes": notes}
        _print_json({"config": str(file.resolve()), **found})
    else:
        for note in notes:
            print(f"edge: note: {note}", file=sys.stderr)
        for problem in problems:
            print(f"edge: {problem}", file=sys.stderr)
        if not problems:
            sources = ", ".join(f"{s.name} → {s.recipe}" for s in settings.source)
            print(f"{settings.file}: good ({sources})")
    if problems:
        raise typer.Exit(problems[0].exit_code)


@app.command()
def inspect(
    paths: Annotated[list[Path], typer.Argument(help="Frames, or folders of frames.", metavar="PATH")],
    recipe: RecipeName,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Sort frames into io/, nio/ and undecided/ here; overlays, maps, classes, fragments and "
            "class activation maps beside."
        ),
    ] = None,
    sort: Annotated[
        Literal["copy", "link"] | None,
        typer.Option(help="How frames get there: copies or links \\[default: copy]"),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="Names → part, view: {batch}/{part}_{view} \\[default: the source's]"),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="The same as a regex with named groups \\[default: the source's]")
    ] = None,
    value_range: ValueRange = None,
    config: Config = None,
    json_: Json = False,
) -> None:
    """Judge frames once, without a daemon: a verdict a line. Exit 1 if any is not OK.

    Names and grey values are read as by the source that uses the recipe in config.toml, if there is one.
    """
    from edge.inspect import run_inspect

    raise typer.Exit(
        run_inspect(
            paths,
            recipe=recipe,
            out=out,
            template=template,
            pattern=pattern,
            value_range=value_range,
            config=config,
            json=json_,
            sort=sort,
        )
    )


@app.command()
def evaluate(
    recipe: RecipeName,
    manifest: Annotated[Path, typer.Option(help="CSV: path,label,mask,view,part,defect,split")],
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report.")] = None,
    value_range: ValueRange = None,
    config: Config = None,
    json_: Json = False,
) -> None:
    """Judge frames whose truth is known, and say how good the recipe is.

    Views and parts are the manifest's; grey values are read as by the source that uses the recipe in
    config.toml, if there is one.
    """
    from edge.evaluate import run_evaluate

    raise typer.Exit(
        run_evaluate(
            recipe=recipe,
            manifest=manifest,
            split=split,
            report=report,
            value_range=value_range,
            config=config,
            json=json_,
        )
    )


@app.command()
def status(config: Config = None, json_: Json = False) -> None:
    """What the running daemon says of itself. Exit 1 if it is not ready, 69 if it does not answer."""
    from edge.status import run_status

    raise typer.Exit(run_status(config=config, json=json_))


@app.command()
def doctor(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Prove the GPU: right answers, and how fast. Exit 69 without one.")
    ] = False,
    config: Config = None,
    json_: Json = False,
) -> None:
    """What is wrong with this machine and installation, and how to mend it. Exit 1 if something is."""
    from edge.doctor.command import run_doctor

    raise typer.Exit(run_doctor(config=config, gpu=gpu, json=json_))


app.command("learn")(learn)
app.command("train")(train)
app.command("calibrate")(calibrate)
app.command("compile")(compile_)
app.command("pack")(pack)
app.command("replay")(replay)
app.command("review")(review)
app.command("spc")(spc)
app.command("schema")(schema)
app.command("backup")(backup)
app.command("restore")(restore)
app.command("keygen")(keygen)
app.command("sign")(sign)
app.add_typer(rle, name="rle")
app.add_typer(bench_app, name="bench")
app.add_typer(simulate_app, name="simulate")


def _print_json(document: Any) -> None:
    import json

    print(json.dumps(document, allow_nan=False))
