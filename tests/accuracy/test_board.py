"""The whole leaderboard: resumed, with failures, as a table; runs answer at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edge.accuracy import board
from edge.accuracy.board import Board, Model, Plan, work_through
from edge.accuracy.cli import _models, bench_app, parse_rates, parse_seeds
from edge.accuracy.frame_sets import read_sets
from edge.accuracy.learning import Budget, Learner
from edge.accuracy.ledger import Ledger
from edge.accuracy.runs import Judged, LeakageError, Run
from edge.accuracy.table import markdown
from edge.errors import CannotWriteError, DataError, EdgeError, MissingInputError, TryAgainError, UsageError
from tests.accuracy.frames import RATES, evidence, write_set

LEARNER = Learner(Budget(steps=2), 0.05)


class Runs:
    """`perform` in its place: a defect scores 2, a good frame 0.5."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: dict[str, BaseException] = {}

    def __call__(self, run: Run, learner: Learner, rates: Sequence[float], work: Path) -> Judged:
        for words, error in self.fails.items():
            if words in str(run):
                raise error
        self.done.append(str(run))
        test = run.division.test
        found = evidence(
            [r.group for r in test], [r.is_defect for r in test], [2.0 if r.is_defect else 0.5 for r in test]
        )
        facts = {
            "learned_model": "cae",
            "why": "small frames",
            "minutes": 1.0,
            "steps": 2,
            "gflop_per_mpx": 9.5,
        }
        return Judged(found, facts)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    fake = Runs()
    monkeypatch.setattr(board, "perform", fake)
    return fake


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    sets = read_sets([write_set(tmp_path / "tiles"), write_set(tmp_path / "wires", good=4, per_part=1)])
    return Plan(tuple(sets), (Model("auto"), Model("cae")), 3, (0, 1), LEARNER, RATES, code="1")


def carry_out(plan: Plan, folder: Path, after: list[Board] | None = None) -> Board:
    ledger = Ledger(folder / "out.jsonl", folder / "work")
    told = [] if after is None else after
    return work_through(plan, ledger, folder / "work", note=lambda line: None, after=told.append)


def test_every_model_and_fold_and_seed_is_run_once_and_pooled(plan: Plan, runs: Runs, tmp_path: Path) -> None:
    found = carry_out(plan, tmp_path)
    assert len(runs.done) == len(set(runs.done)) == 2 * 2 * (3 + 2)
    assert [(e.frames.name, e.model, e.folds, len(e.records)) for e in found.entries] == [
        ("tiles", "auto", 3, 6), ("tiles", "cae", 3, 6), ("wires", "auto", 2, 4), ("wires", "cae", 2, 4),
    ]  # fmt: skip
    figures = found.entries[0].figures
    assert figures is not None
    assert figures.image_auroc is not None
    assert figures.image_auroc.seeds == (1.0, 1.0)
    assert figures.good == 8
    assert runs.done[0] == "tiles · auto · fold 1 of 3 · seed 0"
    assert runs.done[9].endswith("seed 0")
    assert runs.done[10].endswith("seed 1"), "a whole seed before the next"


def test_an_interrupted_board_goes_on_and_repeats_nothing(plan: Plan, runs: Runs, tmp_path: Path) -> None:
    runs.fails = {"wires · cae · fold 2 of 2 · seed 0": TryAgainError("stopped")}
    said: list[Board] = []
    with pytest.raises(TryAgainError, match="fold 2 of 2 · seed 0: stopped") as caught:
        carry_out(plan, tmp_path, said)
    assert "same command" in caught.value.hint
    assert said[-1].open == 11
    assert "11 runs are still to be done" in markdown(said[-1], "edge bench accuracy")
    before = list(runs.done)
    runs.fails = {}
    with (tmp_path / "out.jsonl").open("a") as stream:
        stream.write('{"schema": "edge/accuracy-run/1", "key": "cut o')  # the machine went down
    found = carry_out(plan, tmp_path)
    assert len(runs.done) == len(set(runs.done)) == 20
    assert runs.done[: len(before)] == before
    assert found.open == 0
    assert carry_out(plan, tmp_path) == found
    assert len(runs.done) == 20


def test_lost_or_damaged_evidence_is_made_again(plan: Plan, runs: Runs, tmp_path: Path) -> None:
    carry_out(plan, tmp_path)
    files = sorted((tmp_path / "work" / "evidence").iterdir())
    files[0].unlink()
    files[1].write_bytes(b"x")
    carry_out(plan, tmp_path)
    assert len(runs.done) == 22


def test_runs_of_other_code_are_told_apart_and_done_again_if_wanted(
    plan: Plan, runs: Runs, tmp_path: Path
) -> None:
    carry_out(plan, tmp_path)
    later = replace(plan, code="2")
    found = carry_out(later, tmp_path)
    assert found.other_code == len(runs.done) == 20
    assert "20 of these runs were done by another state of the code" in markdown(found, "x")
    assert carry_out(replace(later, fresh=True), tmp_path).other_code == 0
    assert len(runs.done) == 40
    carry_out(replace(later, fresh=True), tmp_path)
    assert len(runs.done) == 40


def test_a_run_that_fails_is_noted_and_the_rest_go_on(plan: Plan, runs: Runs, tmp_path: Path) -> None:
    runs.fails = {
        "tiles · cae · fold 1 of 3 · seed 1": DataError("one | two\nthree"),
        "wires · auto": ZeroDivisionError("by zero"),
    }
    found = carry_out(plan, tmp_path)
    assert len(runs.done) == 15
    assert [len(e.records) for e in found.entries] == [6, 5, 0, 4]
    cae = found.entries[1].figures
    assert cae is not None
    assert cae.image_auroc is not None
    assert len(cae.image_auroc.seeds) == 1, "a seed that misses a fold is of other frames"
    text = markdown(found, "x")
    assert "| tiles · cae · fold 1 of 3 · seed 1 | one \\| two three |" in text
    assert "ZeroDivisionError: by zero" in text
    assert "5 runs failed" in text
    assert "only 5 of 6 runs" in text
    runs.fails = {}
    assert not carry_out(plan, tmp_path).failures, "what failed is tried again"


@pytest.mark.parametrize("error", [LeakageError("seen"), CannotWriteError("full"), KeyboardInterrupt()])
def test_a_leak_or_a_full_disk_stops_everything(
    plan: Plan, runs: Runs, tmp_path: Path, error: BaseException
) -> None:
    runs.fails = {"tiles": error}
    with pytest.raises(type(error)):
        carry_out(plan, tmp_path)
    assert not runs.done


def test_a_set_that_cannot_be_divided_is_a_failure_not_the_end(runs: Runs, tmp_path: Path) -> None:
    (frames,) = read_sets([write_set(tmp_path / "few", good=2, defect=1)])
    plan = Plan((frames,), (Model("auto"), Model("segmenter", supervised=True)), 5, (0,), LEARNER, RATES)
    found = carry_out(plan, tmp_path)
    assert [f.run for f in found.failures] == ["few · segmenter · seed 0"]
    text = markdown(found, "x")
    assert "1 fold instead of 5" in text
    assert "figures of pixels only" in text


def test_the_table_says_what_was_measured(plan: Plan, runs: Runs, tmp_path: Path) -> None:
    text = markdown(carry_out(plan, tmp_path), "edge bench accuracy tiles/manifest.csv")
    rows = [line for line in text.splitlines() if line.startswith("| tiles | auto")]
    assert rows[0].startswith("| tiles | auto | 1.000 (1.000–1.000) | 1.000 |")
    assert rows[1].startswith("| tiles | auto | 1.0% | 5.0% | 0.0% (0.0–36.9) of 8 | inside | 0.0% (0.0–")
    assert rows[3] == "| tiles | auto | cae | 1.0 | 2 | 9.5 | – | 6 of 6 | 3 |"
    assert "tiles, auto: cae: small frames." in text
    assert "8 good frames are of 4 parts" in text
    assert "| auto | 1.00 | 1.000 |" in text
    block = text.split("## Finding defects")[1].split("##")[0].splitlines()
    assert {line.count("|") for line in block} == {0, 10}


def test_another_file_is_not_taken_for_the_record(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text('{"frames": 3}\n')
    with pytest.raises(DataError, match=r"out\.jsonl:1: not a run"):
        Ledger(tmp_path / "out.jsonl", tmp_path)


def invoke(*words: str) -> tuple[int, str, str]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.add_typer(bench_app, name="bench")
    result = CliRunner().invoke(app, ["bench", "accuracy", *words], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_writes_the_table_the_lines_and_one_json_object(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "tiles")
    words = ("tiles/manifest.csv", "--folds", "2", "--seeds", "4,", "--steps", "2")
    code, said, progress = invoke(*words, "--json")
    assert code == 0
    answer = json.loads(said)
    assert answer["entries"][0]["image_auroc"]["mean"] == 1.0
    assert answer["entries"][0]["runs"] == 2
    assert answer["failed"] == []
    assert "[1/2] tiles · auto · fold 1 of 2 · seed 4: learns from 4 frames" in progress
    assert len((tmp_path / "accuracy.jsonl").read_text().splitlines()) == 2
    text = (tmp_path / "accuracy.md").read_text()
    assert "`edge bench accuracy tiles/manifest.csv --models auto --folds 2 --seeds 4, --steps 2 " in text
    runs.fails = {"fold 2": DataError("no")}
    code, said, _ = invoke(*words, "--models", "cae")
    assert code == 1
    assert "## 1 runs failed" in said


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["--models", "resnet"], UsageError, "no model 'resnet'"),
        (["--models", "mask-unet"], UsageError, "judges nothing"),
        (["--models", ","], UsageError, "names none"),
        (["--seeds", "-1"], UsageError, "neither a number nor a list"),
        (["--seeds", "0"], UsageError, "not 1 to 100"),
        (["--false-reject", "0.7"], UsageError, "not rates"),
        (["--minutes", "3", "--steps", "5"], UsageError, "two ways"),
        (["--minutes", "inf"], UsageError, "finite"),
        (["--learn-option", "--model cae"], UsageError, "not for single runs"),
        (["--out", "none/accuracy.md"], CannotWriteError, "no folder"),
        (["--out", "accuracy.jsonl"], UsageError, "Markdown"),
        (["nothing.csv"], MissingInputError, "no such manifest"),
    ],
)
def test_what_makes_no_sense_is_said_before_learning(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    error: type[EdgeError],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "tiles")
    with pytest.raises(error, match=says):
        invoke("tiles/manifest.csv", *words)
    assert not runs.done
    assert not list(tmp_path.glob("*.md"))


def test_seeds_rates_and_models_are_read_as_the_help_says() -> None:
    assert parse_seeds("3") == [0, 1, 2]
    assert parse_seeds("5,0") == [5, 0]
    assert parse_seeds("7,") == [7]
    assert parse_rates("0.05,0.01") == [0.01, 0.05]
    every = {model.name: model.supervised for model in _models("all")}
    assert every["auto"] is every["cae"] is False
    assert not any(every.values())
    assert "mask-unet" not in every
    assert [m.supervised for m in _models("auto,patch-cnn,supervised-ae")] == [False, True, True]
