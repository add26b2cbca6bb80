"""One engine of the leaderboard: learned by `edge learn` itself, from a manifest that names nothing else."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from edge.accuracy.frame_sets import Row, own_group
from edge.artifacts import write_atomic
from edge.dataset import ANY_DEFECT, COLUMNS
from edge.errors import UsageError
from edge.learn.cli import learn

CONFIG = "config.toml"
# what the leaderboard says itself; everything else may be given to `edge learn`
RESERVED = (
    "images", "recipe", "preset", "template", "pattern", "manifest", "masks", "model", "minutes", "steps",
    "seed", "fresh", "false_reject", "config", "as_json",
)  # fmt: skip
# typer brings its own copy of click in newer versions and uses the real one in older ones
_CliError: Any = typer.BadParameter.__base__


@dataclass(frozen=True, slots=True)
class Budget:
    """How long is learned: minutes, or steps where there are any."""

    minutes: float = 5.0
    steps: int = 0

    @property
    def words(self) -> list[str]:
        return ["--steps", str(self.steps)] if self.steps else ["--minutes", f"{self.minutes:g}"]


@dataclass(frozen=True, slots=True)
class Learner:
    """`edge learn` with a budget and options of its own."""

    budget: Budget
    false_reject: float
    options: tuple[str, ...] = ()

    def words(self, manifest: Path, recipe: str, model: str, seed: int, config: Path) -> list[str]:
        """The command line, without `edge learn`."""
        return [
            str(manifest), "--recipe", recipe, "--model", model, "--seed", str(seed), *self.budget.words,
            "--false-reject", f"{self.false_reject:g}", *self.options, "--config", str(config), "--json",
        ]  # fmt: skip

    def parsed(self) -> Mapping[str, Any]:
        """The options as `edge learn` reads them.

        Raises:
            UsageError: it does not know one, or it is the leaderboard's own.
        """
        words = self.words(Path("manifest.csv"), "x", "auto", 0, Path("config.toml"))
        try:
            context = _command().make_context("edge learn", words)
            alone = _command().make_context("edge learn", ["manifest.csv", "--recipe", "x", *self.options])
        except _CliError as error:
            raise UsageError(
                f"--learn-option {shlex.join(self.options)}: {error.format_message()}",
                hint="give options of `edge learn`, as its --help lists them",
            ) from None
        for name in RESERVED:
            source = alone.get_parameter_source(name)
            if name not in ("images", "recipe") and source is not None and source.name == "COMMANDLINE":
                raise UsageError(
                    f"--learn-option: --{'json' if name == 'as_json' else name.replace('_', '-')} is not for "
                    "single runs",
                    hint="edge bench accuracy --help lists what can be said for all of them",
                )
        if context.params["recipe"] != "x":
            raise UsageError("--learn-option: --recipe is not for single runs", hint="leave it out")
        return dict(context.params)

    def learn(self, manifest: Path, recipe: str, model: str, seed: int, config: Path) -> Mapping[str, Any]:
        """Learn a recipe; gives what `edge learn --json` prints.

        Raises:
            EdgeError: as `edge learn`.
        """
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            words = self.words(manifest, recipe, model, seed, config)
            _command().main(words, prog_name="edge learn", standalone_mode=False)
        facts: Mapping[str, Any] = json.loads(said.getvalue())
        return facts


def options_from(texts: Sequence[str]) -> tuple[str, ...]:
    """ "--scale 0.5 --clahe" → its words, as a shell reads them.

    Raises:
        UsageError: a quotation that does not end.
    """
    try:
        return tuple(word for text in texts for word in shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--learn-option: {error}", hint='such as --learn-option "--scale 0.5"') from None


def write_manifest(file: Path, rows: Sequence[Row]) -> None:
    """The rows as a manifest for `edge learn`: all of them are for learning, whatever their split was."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    merged = {row.group for row in rows if row.group != own_group(row.sample)}
    for row in rows:
        s = row.sample
        part = row.group if row.group in merged else s.part or ""
        masks: Mapping[str, Path | None] = s.masks or {s.defect: s.mask}
        for name, mask in masks.items():
            defect = "" if name == ANY_DEFECT and not s.defect else name
            writer.writerow([s.file, s.label, mask or "", s.view or "", part, defect, ""])
    write_atomic(file, text.getvalue().encode())


def write_site(folder: Path) -> Path:
    """A site for engines that are judged once; gives its config.toml."""
    file = folder / CONFIG
    write_atomic(file, b"schema_version = 1\n")
    return file


def _command() -> Any:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command("learn")(learn)
    return typer.main.get_command(app)
