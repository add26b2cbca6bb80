"""The runs of a leaderboard, one after another: what is on record is not done again, what fails is noted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge import __version__
from edge.accuracy.evidence import Evidence, pooled
from edge.accuracy.figures import Figures, figures, plain
from edge.accuracy.folds import Fold, by_split, deal, possible_folds
from edge.accuracy.frame_sets import FrameSet
from edge.accuracy.learning import Learner
from edge.accuracy.ledger import Ledger, Record
from edge.accuracy.runs import LeakageError, Run, perform
from edge.artifacts import sha256_of
from edge.errors import CannotWriteError, DataError, EdgeError, TryAgainError

OF_RUNS = ("decode", "preprocess", "infer", "judge", "learn")  # folders whose code they go through


@dataclass(frozen=True, slots=True)
class Model:
    """A model by its name, and whether it learns from defects, too."""

    name: str
    supervised: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was asked for."""

    sets: tuple[FrameSet, ...]
    models: tuple[Model, ...]
    folds: int
    seeds: tuple[int, ...]
    learner: Learner
    rates: tuple[float, ...]  # ascending; `edge learn` is asked for the last
    respect_split: bool = False
    code: str = ""  # see `code_digest`
    fresh: bool = False  # what other code did is done again

    def on_record(self, run: Run, ledger: Ledger) -> bool:
        """Whether a run is done."""
        return ledger.holds(run.key(self.learner, self.rates), self.code if self.fresh else None)

    def folds_of(self, frames: FrameSet, model: Model) -> int:
        """As many as were asked for, unless the set has too few good frames for them."""
        if self.respect_split:
            return 1
        return possible_folds(frames.rows, self.folds, supervised=model.supervised)

    def runs(self) -> Iterator[Run | Impossible]:
        """All runs; a seed over everything before the next, so that an early end leaves whole tables."""
        for seed in self.seeds:
            for frames in self.sets:
                divided = {model: self._divided(frames, model, seed) for model in self.models}
                for fold in range(max(map(len, divided.values()))):
                    for model, divisions in divided.items():
                        if fold >= len(divisions):
                            continue
                        division = divisions[fold]
                        if isinstance(division, DataError):
                            yield Impossible(frames, model, seed, division)
                            continue
                        yield Run(frames, model.name, fold, len(divisions), seed, division, model.supervised)

    def _divided(self, frames: FrameSet, model: Model, seed: int) -> tuple[Fold | DataError, ...]:
        try:
            if self.respect_split:
                return by_split(frames.rows, supervised=model.supervised)
            folds = self.folds_of(frames, model)
            return deal(frames.rows, folds, seed, supervised=model.supervised)
        except DataError as error:
            if error.reason == LeakageError.reason:
                raise
            return (error,)


@dataclass(frozen=True, slots=True)
class Impossible:
    """A set that cannot be divided for a model, and why."""

    frames: FrameSet
    model: Model
    seed: int
    error: DataError

    def __str__(self) -> str:
        return f"{self.frames.name} · {self.model.name} · seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that gave nothing."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table: a model on a set."""

    frames: FrameSet
    model: str
    learned: tuple[str, ...]  # what `auto` chose
    why: str
    folds: int
    wanted: int  # runs
    records: tuple[Record, ...]  # of those done
    figures: Figures | None  # None: no run is done

    def mean(self, name: str) -> float | None:
        """Of a fact over the runs that are done."""
        values = [float(record[name]) for record in self.records if record.get(name) is not None]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True, slots=True)
class Board:
    """What is known by now."""

    plan: Plan
    entries: tuple[Entry, ...]
    failures: tuple[Failure, ...]
    open: int  # runs not tried yet
    other_code: int  # runs done by other code


Note = Callable[[str], None]


def work_through(plan: Plan, ledger: Ledger, work: Path, note: Note, after: Callable[[Board], None]) -> Board:
    """Do every run that is not on record; `after` each, and at the end, it is told how things stand.

    Raises:
        LeakageError: a tested frame was learned from.
        TryAgainError: interrupted; the same command goes on.
        CannotWriteError: the disk does not take it.
    """
    runs = list(plan.runs())
    failures: dict[int, Failure] = {}
    tried: set[int] = set()
    known: list[Entry] = []
    for number, run in enumerate(runs):
        tried.add(number)
        at = f"[{number + 1}/{len(runs)}] {run}"
        if isinstance(run, Impossible):
            failures[number] = Failure(str(run), run.error.message)
            note(f"{at}: FAILED: {run.error.message}")
            continue
        if plan.on_record(run, ledger):
            note(f"{at}: on record")
            continue
        note(f"{at}: learns from {len(run.division.learn)} frames")
        reason = _try(run, plan, ledger, work)
        if reason is not None:
            failures[number] = Failure(str(run), reason)
        note(f"{at}: {_outcome(run, plan, ledger) if reason is None else f'FAILED: {reason}'}")
        board = _board(plan, runs, ledger, failures, tried, known)
        known = list(board.entries)
        after(board)
    board = _board(plan, runs, ledger, failures, tried, known)
    after(board)
    return board


def code_digest() -> str:
    """sha256 over the code that decides what a run gives: runs of one table should agree on it."""
    package = Path(__file__).parent.parent
    files = [
        *(file for folder in OF_RUNS for file in (package / folder).rglob("*.py")),
        *package.glob("*.py"),
    ]
    about = [(file.relative_to(package).as_posix(), sha256_of(file)) for file in sorted(files)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _try(run: Run, plan: Plan, ledger: Ledger, work: Path) -> str | None:
    """Do a run and put it on record; gives the reason if it failed."""
    record: dict[str, Any] = {
        "key": run.key(plan.learner, plan.rates),
        "set": run.frames.name,
        "model": run.model,
        "fold": run.fold,
        "folds": run.folds,
        "seed": run.seed,
        "budget": " ".join(plan.learner.budget.words),
        "options": list(plan.learner.options),
        "learned_from": len(run.division.learn),
        "tested_good": sum(not row.is_defect for row in run.division.test),
        "tested_defect": sum(row.is_defect for row in run.division.test),
        "edge_version": __version__,
        "code": plan.code,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        judged = perform(run, plan.learner, plan.rates, work)
    except TryAgainError as error:
        raise TryAgainError(f"{run}: {error.message}", hint="the same command goes on from there") from None
    except (LeakageError, CannotWriteError):
        raise
    except Exception as error:  # one run that fails must not cost the others
        reason = error.message if isinstance(error, EdgeError) else f"{type(error).__name__}: {error}"
        ledger.add({**record, "status": "failed", "reason": " ".join(reason.split())})
        return " ".join(reason.split())
    found = plain(figures([judged.evidence], plan.rates))
    ledger.add({**record, "status": "done", **judged.facts, "figures": found}, judged.evidence)
    return None


def _outcome(run: Run, plan: Plan, ledger: Ledger) -> str:
    record = ledger.find(run.key(plan.learner, plan.rates)) or {}
    found: Mapping[str, Any] = record.get("figures", {})
    said = [
        f"{name} {found[key]['mean']:.3f}"
        for name, key in (("image AUROC", "image_auroc"), ("pixel AUROC", "pixel_auroc"), ("AP", "pixel_ap"))
        if key in found
    ]
    learned = f"{record.get('learned_model')} learned {record.get('minutes', 0):.1f} min"
    return ", ".join([learned, *said])


def _board(
    plan: Plan,
    runs: Sequence[Run | Impossible],
    ledger: Ledger,
    failures: Mapping[int, Failure],
    tried: set[int],
    known: Sequence[Entry],
) -> Board:
    entries = [
        _entry(plan, frames, model, runs, ledger, known) for frames in plan.sets for model in plan.models
    ]
    done = [record for entry in entries for record in entry.records]
    return Board(
        plan=plan,
        entries=tuple(entries),
        failures=tuple(failures.values()),
        open=len(runs) - len(tried),
        other_code=sum(record.get("code") != plan.code for record in done),
    )


def _entry(
    plan: Plan,
    frames: FrameSet,
    model: Model,
    runs: Sequence[Run | Impossible],
    ledger: Ledger,
    known: Sequence[Entry],
) -> Entry:
    """A row; one of the `known`, unless a run came since."""
    done = [
        run
        for run in runs
        if isinstance(run, Run)
        and run.frames is frames
        and run.model == model.name
        and plan.on_record(run, ledger)
    ]
    keys = [run.key(plan.learner, plan.rates) for run in done]
    records = tuple(record for key in keys if (record := ledger.find(key)) is not None)
    for entry in known:
        if entry.frames is frames and entry.model == model.name and entry.records == records:
            return entry
    seeds: dict[int, list[Evidence]] = {}
    for run, key in zip(done, keys, strict=True):
        seeds.setdefault(run.seed, []).append(ledger.evidence(key))
    folds = plan.folds_of(frames, model)
    # seeds that miss a fold would be of other frames: they count only while there is no whole one
    whole = [parts for parts in seeds.values() if len(parts) == folds] or list(seeds.values())
    return Entry(
        frames=frames,
        model=model.name,
        learned=tuple(sorted({str(r["learned_model"]) for r in records})),
        why=str(records[0]["why"]) if records else "",
        folds=folds,
        wanted=len(plan.seeds) * folds,
        records=records,
        figures=figures([pooled(parts) for parts in whole], plan.rates) if whole else None,
    )
