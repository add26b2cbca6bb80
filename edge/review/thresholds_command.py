"""`edge calibrate --with-reviews`: shows what reviews would change in thresholds, and accepts it if asked."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from edge import config as configuration
from edge.artifacts import sync_folder
from edge.config import Settings
from edge.dataset import Sample, Unreadable, frames
from edge.decode import Limits
from edge.errors import CannotWriteError, DataError, TryAgainError
from edge.infer.bundle import Bundle
from edge.infer.precisions import FILE as PRECISIONS
from edge.judge.calibration import load_calibration, save_calibration
from edge.pipeline import Inspector, planes_of
from edge.places import Places
from edge.recipes import COMPILED, find_recipe, load_engine
from edge.record.reviews_reader import Reviewed
from edge.review.thresholds import DAYS, Proposal, Rescore, propose


@dataclass(frozen=True, slots=True)
class WithReviews:
    """What the command line says."""

    recipe: str
    days: float = DAYS
    accept: bool = False
    allow_escapes: bool = False
    json: bool = False


def run_with_reviews(
    asked: WithReviews,
    config: Path | None,
    confirm: Callable[[], bool] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Propose, show, and write the new calibration if that is accepted; the old file is kept beside it.

    `confirm` asks a person; None: nobody is there to be asked.

    Raises:
        MissingInputError: there is no calibration or review. DataError: a supervised recipe, or a reviewed
            defect would pass, and that is not allowed. TryAgainError: it was calibrated meanwhile.
    """
    settings = configuration.site(config)
    made = propose(settings, asked.recipe, days=asked.days, rescore=rescoring(settings))
    if not asked.json:
        show(made, Console())
    refused = bool(made.escapes) and not asked.allow_escapes
    wanted = asked.accept or (made.changes and not refused and confirm is not None and confirm())
    done: dict[str, Any] = {"accepted": False}
    if wanted and made.changes and not refused:
        done = {"accepted": True, **_accept(settings, asked.recipe, made, now())}
    if asked.json:
        print(json.dumps({**made.document, **done}, allow_nan=False))
    else:
        for line in _outcome(settings, asked.recipe, made, done):
            print(line)
    if asked.accept and refused:
        raise DataError(
            f"{len(made.escapes)} defects that people confirmed would pass: nothing was changed",
            hint="look at them, and at the frames that were called good; or add --allow-escapes",
            reason="reviewed_defects_escape",
        )


def ask() -> Callable[[], bool] | None:
    """A question on the terminal; None where there is none."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda: typer.confirm("Accept these thresholds?", default=False, err=True)


def rescoring(settings: Settings) -> Rescore:
    """Scores frames of earlier engines by the one that is asked about, from their files where they are."""

    def scores(bundle: Bundle, items: Sequence[Reviewed]) -> Mapping[str, float]:
        from edge.infer.compile import open_runtime

        found: dict[str, float] = {}
        if not items:
            return found
        places, limits = Places(settings), Limits(settings.runtime.max_pixels, settings.runtime.max_pages)
        cache = settings.paths.state / COMPILED
        inspector = Inspector(bundle, open_runtime(bundle, precision="fp32", cache=cache))
        for item in items:
            image = item.payload["image"]
            file, _ = places.find(item.payload, item.source)
            if file is None:
                continue
            sample = Sample(file, image["path"], "", view=item.payload["view"])
            unreadable: list[Unreadable] = []
            for _, frame in frames(
                [sample], bundle.manifest.preprocess, limits, places.value_range(item.source),
                unreadable, bundle.folder,
            ):  # fmt: skip
                if frame.image.page == image.get("page", 0):
                    (score,) = inspector.score([planes_of(frame)])
                    found[item.review.result_id] = score.raw
        return found

    return scores


def _accept(settings: Settings, recipe: str, made: Proposal, now: datetime) -> dict[str, str]:
    """Write it, with the old one kept as NAME.json.before-TIME."""
    file = settings.paths.calibration / f"{find_recipe(settings, recipe).calibration}.json"
    bundle = load_engine(settings, recipe)
    if load_calibration(file, bundle.digest).digest != made.before.digest:
        raise TryAgainError(f"{file}: was calibrated anew meanwhile", hint="run it again, and look again")
    kept = file.with_name(f"{file.name}.before-{now.strftime('%Y%m%dT%H%M%S%fZ')}")
    try:
        shutil.copyfile(file, kept)
        with kept.open("rb") as stream:
            os.fsync(stream.fileno())
        sync_folder(file.parent)
    except OSError as error:
        raise CannotWriteError(f"{kept}: {error}", hint="check space and permissions") from None
    created = now.isoformat(timespec="seconds")
    saved = save_calibration(file, made.after.model_copy(update={"created": created}))
    return {"calibration": str(file), "calibrationSha256After": saved.digest, "kept": str(kept)}


def _outcome(settings: Settings, recipe: str, made: Proposal, done: Mapping[str, Any]) -> list[str]:
    if not made.changes:
        rate = f"{made.before.false_reject:.1%}"
        return [
            "no threshold would change: what was reviewed is in it already, or no more good frames were "
            f"rejected than the {rate} asked for; for a lower rate give good frames and --false-reject"
        ]
    if not done["accepted"]:
        return ["nothing was accepted" + ("" if made.escapes else "; add --accept to take it over")]
    lines = [f"{done['calibration']}: accepted; the one before is {done['kept']}"]
    if settings.security.trusted_keys is not None:
        lines.append(f"sign it: edge sign --recipe {recipe} --key PRIVATE_KEY")
    if (load_engine(settings, recipe).folder / PRECISIONS).exists():
        lines.append(
            "fp32 judges until other precisions are held to the new thresholds: "
            f"edge compile --recipe {recipe} --frames GOOD_FRAMES"
        )
    return [*lines, "a running daemon takes it over at its next reload (systemctl reload edge)"]


def show(made: Proposal, console: Console) -> None:
    """A proposal for a person."""
    said = made.document
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("view", "threshold", "bound", "good / defects", "NotOK", "false rejects gone", "unseen"):
        table.add_column(column, no_wrap=column == "threshold")
    for view in said["views"]:
        table.add_row(
            view["view"],
            f"{view['thresholdBefore']:.4g} → {view['thresholdAfter']:.4g}",
            f"{view['falseRejectBound']:.1%}",
            f"{view['reviewedGood']} / {view['reviewedDefects']}",
            f"{view['notOkBefore']} → {view['notOkAfter']} of {view['frames']}",
            str(view["falseRejectsGone"]),
            str(view["unreviewedChanged"]),
        )
    console.print(table)
    print(f"NotOK: stored verdicts of the last {said['days']:g} days; unseen: of those freed, not reviewed")
    print(said["statement"])
    for key, text in (
        ("escapes", "WARNING a defect that people confirmed would pass"),
        ("alreadyPassing", "a defect that people confirmed passes already"),
    ):
        for one in said[key]:
            print(f"{text}: {one['resultId']} {one['path']} (view {one['view']})")
    missing = said["notScored"]
    if missing["defects"]:
        print(
            f"WARNING {missing['defects']} reviewed defects cannot be scored: whether they pass is not known"
        )
    if missing["good"]:
        print(f"{missing['good']} frames called good are left out: gone, learned from, or of another view")
