"""`edge bench`: how good the models are, measured as their users would."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.errors import CannotWriteError, UnavailableError, UsageError

if TYPE_CHECKING:
    from edge.accuracy.board import Board, Model, Plan

EXIT_SOME_FAILED = 1
AUTO = "auto"
ALL = "all"
MOST_SEEDS = 100
DEFAULT_RATES = "0.01,0.05"

bench_app = typer.Typer(no_args_is_help=True, help="Measure models on frames whose truth is known.")


@bench_app.callback()
def _bench() -> None:
    """Measure models on frames whose truth is known."""


@bench_app.command()
def accuracy(
    manifests: Annotated[
        list[Path],
        typer.Argument(
            help="CSVs with good and defect frames: path,label,mask,view,part,…", metavar="MANIFEST"
        ),
    ],
    models: Annotated[
        str,
        typer.Option(
            help="Names of `edge learn --model`, by commas; all: each that learns from good frames."
        ),
    ] = AUTO,
    folds: Annotated[
        int,
        typer.Option(min=1, help="Learn so often, each time without other parts. 1: hold no good part out."),
    ] = 5,
    seeds: Annotated[str, typer.Option(help="How many, or which: 3 is 0,1,2; and 7, is seed 7.")] = "3",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Of learning, each run \\[default: 5]")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Learn so many steps instead.")] = None,
    false_reject: Annotated[
        str, typer.Option(help="Rates that are promised and measured, by commas, each in 0..0.5.")
    ] = DEFAULT_RATES,
    respect_split: Annotated[
        bool,
        typer.Option("--respect-split", help="No folds: test the rows of split test, learn from the others."),
    ] = False,
    learn_option: Annotated[
        list[str] | None,
        typer.Option(
            help='More options of `edge learn`: "--scale 0.5 --illumination median". May be repeated.'
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The table, Markdown; FILE.jsonl beside it has a line for each run.")
    ] = Path("accuracy.md"),
    work: Annotated[
        Path | None, typer.Option(help="Folder for engines and evidence of the runs \\[default: FILE.work]")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do again what is on record from an earlier state of the code.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Learn and judge models over sets of frames, and write the leaderboard.

    Every run learns a recipe with `edge learn` from the good frames of some parts, and judges frames of other
    parts with it. That is runs = sets × models × folds × seeds, each of --minutes: start with --seeds 1.

    Interrupt it at any time: the same command goes on where it was, and does nothing twice. Example:

      edge bench accuracy tiles/manifest.csv --models auto,cae --folds 5 --seeds 3 --minutes 15

    Exit 1 if a run failed; the table says which and why.
    """
    budget_steps, budget_minutes = _budget(minutes, steps)
    numbers, rates = parse_seeds(seeds), parse_rates(false_reject)
    _check_out(out)
    wanted = _models(models)

    from edge.accuracy.board import Plan, code_digest, work_through
    from edge.accuracy.frame_sets import read_sets
    from edge.accuracy.learning import Budget, Learner, options_from
    from edge.accuracy.ledger import Ledger
    from edge.accuracy.table import markdown
    from edge.artifacts import write_atomic

    learner = Learner(Budget(budget_minutes, budget_steps), rates[-1], options_from(learn_option or ()))
    learner.parsed()
    plan = Plan(
        sets=tuple(read_sets(manifests)),
        models=tuple(wanted),
        folds=folds,
        seeds=tuple(numbers),
        learner=learner,
        rates=tuple(rates),
        respect_split=respect_split,
        code=code_digest(),
        fresh=fresh,
    )
    command = _command(plan)
    folder = (out.with_suffix(".work") if work is None else work).resolve()
    board = work_through(
        plan,
        Ledger(out.with_suffix(".jsonl"), folder),
        folder,
        note=lambda line: print(line, file=sys.stderr, flush=True),
        after=lambda board: write_atomic(out, markdown(board, command).encode()),
    )
    if as_json:
        print(json.dumps(document(board, out), allow_nan=False))
    else:
        print(out.read_text(encoding="utf-8"))
    if board.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


def _command(plan: Plan) -> str:
    """The command line that asks for this plan, wherever its files are written."""
    words = ["edge", "bench", "accuracy", *(str(frames.manifest) for frames in plan.sets)]
    words += ["--models", ",".join(model.name for model in plan.models)]
    words += ["--respect-split"] if plan.respect_split else ["--folds", str(plan.folds)]
    alone = "," if len(plan.seeds) == 1 else ""
    words += ["--seeds", ",".join(map(str, plan.seeds)) + alone, *plan.learner.budget.words]
    words += ["--false-reject", ",".join(f"{rate:g}" for rate in plan.rates)]
    if plan.learner.options:
        words += ["--learn-option", shlex.join(plan.learner.options)]
    return shlex.join(words)


def document(board: Board, out: Path) -> dict[str, object]:
    """What `--json` prints."""
    from edge.accuracy.figures import plain

    return {
        "table": str(out),
        "runs": str(out.with_suffix(".jsonl")),
        "entries": [
            {
                "set": entry.frames.name,
                "manifest": str(entry.frames.manifest),
                "model": entry.model,
                "learned": list(entry.learned),
                "folds": entry.folds,
                "runs": len(entry.records),
                "runs_wanted": entry.wanted,
                **(plain(entry.figures) if entry.figures else {}),
                **{
                    name: value
                    for name in ("minutes", "steps", "gflop_per_mpx", "gflop_per_frame", "infer_s_per_mpx")
                    if (value := entry.mean(name)) is not None
                },
            }
            for entry in board.entries
        ],
        "failed": [{"run": failure.run, "reason": failure.reason} for failure in board.failures],
    }


def parse_seeds(text: str) -> list[int]:
    """ "3" → [0, 1, 2]; "0,5" → [0, 5]; "7," → [7].

    Raises:
        UsageError: neither, or too many.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and len(word) < 10 for word in words):
        raise UsageError(f"--seeds {text}: neither a number nor a list", hint="such as 3, or 0,1,2")
    numbers = list(dict.fromkeys(map(int, words)))
    if "," not in text:
        numbers = list(range(numbers[0])) if numbers[0] <= MOST_SEEDS else [0] * numbers[0]
    if not 1 <= len(numbers) <= MOST_SEEDS:
        raise UsageError(f"--seeds {text}: not 1 to {MOST_SEEDS} seeds", hint='seed 7 alone is "7,"')
    return numbers


def parse_rates(text: str) -> list[float]:
    """ "0.05,0.01" → [0.01, 0.05].

    Raises:
        UsageError: not rates that can be promised.
    """
    try:
        rates = sorted({float(word) for word in text.split(",") if word.strip()})
    except ValueError:
        rates = []
    if not rates or not all(1e-6 <= rate <= 0.5 for rate in rates):
        raise UsageError(
            f"--false-reject {text}: not rates between 0.000001 and 0.5", hint="such as 0.01,0.05"
        )
    return rates


def _budget(minutes: float | None, steps: int | None) -> tuple[int, float]:
    if minutes is not None and steps is not None:
        raise UsageError("--minutes and --steps are two ways to say the same", hint="leave one out")
    if minutes is not None and not minutes < 1e6:
        raise UsageError(f"--minutes {minutes}: not a finite number", hint="such as 15")
    return steps or 0, 5.0 if minutes is None else minutes


def _check_out(out: Path) -> None:
    """Said before hours of learning.

    Raises:
        UsageError: it would be its own list of runs. CannotWriteError: its folder is not there.
    """
    if out.suffix.lower() in (".jsonl", ".work"):
        raise UsageError(f"--out {out}: the table is Markdown", hint="such as accuracy.md")
    if out.is_dir() or not out.parent.is_dir():
        raise CannotWriteError(
            f"{out}: {'a folder' if out.is_dir() else f'there is no folder {out.parent}'}",
            hint="name a file in a folder that is there",
            retryable=False,
        )


def _models(text: str) -> Sequence[Model]:
    """The models of those names.

    Raises:
        UnavailableError: learning is not installed.
        UsageError: one is not known, or judges nothing.
    """
    try:
        from edge.learn.models import MODELS, of_name
    except ImportError as error:
        raise UnavailableError(
            f"learning needs {error.name}, which is not installed",
            hint='pip install "edge-inspect[learn]"',
            retryable=False,
        ) from None
    from edge.accuracy.board import Model

    names = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if names == [ALL]:
        names = [AUTO, *(name for name, kind in MODELS.items() if kind.truth == "none")]
    if not names:
        raise UsageError("--models names none", hint=f"choose {AUTO}, {', '.join(MODELS)}")
    found = []
    for name in names:
        truth = "none" if name == AUTO else of_name(name).truth
        if truth == "foreground":
            raise UsageError(f"--models {name}: finds the part, and judges nothing", hint="leave it out")
        found.append(Model(name, supervised=truth in ("pixels", "frames")))
    return found
