"""What `edge review` does: list, show, record, export."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge import app
from edge import config as configuration
from edge.config import Settings
from edge.errors import MissingInputError, UsageError
from edge.record.reviews import document
from edge.record.reviews_reader import Queued, ReviewReader
from edge.replay.stored import parse_time
from edge.review.sets import ReviewedSet, reviewed_set, suggested, write_manifest
from edge.review.writing import write_review

LISTED, SUGGESTED = 20, 200
PIPED_CHARACTERS = 200  # a line a verdict, for grep
BRIEF = ("resultId", "creationTime", "recipeId", "view", "partId", "batchId", "resultEvaluation", "score",
         "reasons")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says."""

    result: str | None = None
    evaluation: str | None = None
    reason: str = ""
    reviewer: str | None = None
    list_: bool = False
    history: str | None = None
    recipe: str | None = None
    view: str | None = None
    batch: str | None = None
    since: str | None = None
    limit: int | None = None
    export: Path | None = None
    suggest: Path | None = None
    json: bool = False


def run_review(asked: Asked, config: Path | None) -> None:
    """One thing a call.

    Raises:
        UsageError: options that do not go together.
        MissingInputError: no database, no such verdict, or nothing to write.
    """
    _check(asked)
    settings = configuration.load(configuration.find(config))
    if asked.evaluation is not None:
        _record(settings, asked)
        return
    reader = ReviewReader(settings.paths.state / app.DATABASE)
    try:
        if name := asked.history or asked.result:
            _show(reader, name, asked)
        elif target := asked.export or asked.suggest:
            _write(settings, reader, target, asked)
        else:
            _list(reader, asked)
    finally:
        reader.close()


def _check(asked: Asked) -> None:
    does = {
        "--result": asked.result, "--list": asked.list_ or None, "--history": asked.history,
        "--export": asked.export, "--suggest-learning": asked.suggest,
    }  # fmt: skip
    given = [option for option, value in does.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)}: one at a time", hint="leave all but one out")
    if asked.result is None and (asked.evaluation or asked.reason or asked.reviewer):
        raise UsageError("a review of which verdict?", hint="add --result ID, from edge review --list")
    if asked.evaluation is None and (asked.reason or asked.reviewer):
        raise UsageError("what is it?", hint="add --evaluation OK, NotOK or NotDecidable")


def _record(settings: Settings, asked: Asked) -> None:
    said = {
        "resultId": asked.result or "",
        "evaluation": asked.evaluation or "",
        "reason": asked.reason,
        "reviewer": asked.reviewer or _login(),
    }
    found = write_review(settings, said)
    if asked.json:
        _print(found)
        return
    word = "confirmed" if found["agrees"] else "overruled"
    print(f"{found['resultId']}: {word}, {found['evaluation']} ({found['reviewer']})")
    if why := found.get("frameWhy"):
        print(f"  its frame is not kept to learn from: {why}")
    elif found["frameKept"]:
        print("  its frame is kept to learn from")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        raise UsageError("your name is not known here", hint="add --reviewer NAME") from None


def _list(reader: ReviewReader, asked: Asked) -> None:
    found = reader.waiting(_queued(asked), asked.limit or LISTED)
    if asked.json:
        _print({"verdicts": [{key: one.get(key) for key in BRIEF} for one in found]})
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("result", "time", "recipe", "view", "part", "evaluation", "score", "why"):
        table.add_column(column, overflow="fold", no_wrap=column == "result")
    for one in found:
        part = "/".join(name for name in (one["batchId"], one["partId"]) if name)
        cells = (one["resultId"], one["creationTime"][:19], one["recipeId"], one["view"] or "", part,
                 one["resultEvaluation"], _number(one.get("score")), " ".join(one["reasons"]))  # fmt: skip
        table.add_row(*map(Text, cells))
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_CHARACTERS
    if found:
        console.print(table)
        print("say what is true: edge review --result ID --evaluation OK|NotOK --reason WHY")
    else:
        print("nothing waits for a review")


def _show(reader: ReviewReader, name: str, asked: Asked) -> None:
    verdict = reader.verdict(name)
    if verdict is None:
        raise MissingInputError(f"no verdict {name!r}", hint="see edge review --list")
    said = [document(one) for one in reader.reviews_of(name)]
    if asked.json:
        _print({"verdict": verdict, "reviews": said})
        return
    if asked.history is None:
        for line in _explained(verdict):
            print(line)
    if not said:
        print("nobody has reviewed it")
    for one in said:
        word = "confirms" if one["agrees"] else "overrules"
        reason = f": {one['reason']}" if one["reason"] else ""
        print(f"{one['createdAt'][:19]}Z {one['reviewer']} {word}, {one['evaluation']}{reason}")


def _explained(said: Mapping[str, Any]) -> list[str]:
    """A verdict for a person: what, why, where."""
    names = [f"{word} {said[key]}" for word, key in
             (("batch", "batchId"), ("part", "partId"), ("view", "view")) if said.get(key)]  # fmt: skip
    image, model = said.get("image") or {}, said.get("model") or {}
    lines = [
        f"{said['resultId']}: {said['resultEvaluation']}, {' '.join(said['reasons']) or 'nothing found'}",
        f"  {said['recipeId']}, {', '.join(names) or 'nothing named'}, {said['creationTime'][:19]}Z",
    ]
    if said.get("scoreRaw") is not None:
        limit = said.get("thresholdRaw")
        against = "no threshold" if limit is None else f"threshold {limit:.4g}"
        lines.append(f"  score {_number(said.get('score'))} ({said['scoreRaw']:.4g} raw, {against})")
    for defect in said.get("defects") or ():
        x, y, w, h = defect["bbox"]
        lines.append(
            f"  {defect['class']} at {x},{y}, {w}×{h} px, {defect['area_px']} px, "
            f"peak {_number(defect['score'])}"
        )
    if image:
        lines.append(f"  {image['path']} (sha256 {(image.get('sha256') or 'not known')[:12]})")
    if model:
        lines.append(
            f"  by {model['bundle']} {model['sha256'][:12]}, {model['runtime']} {model['precision']}"
        )
    if said.get("evidence"):
        lines.append(f"  pictures below STATE/evidence/{said['evidence']}")
    return lines


def _write(settings: Settings, reader: ReviewReader, target: Path, asked: Asked) -> None:
    found = reviewed_set(settings, reader.reviewed(_queued(asked)))
    is_choice = asked.suggest is not None
    rows = suggested(found.rows, asked.limit or SUGGESTED) if is_choice else found.rows
    if not is_choice and asked.limit is not None:
        rows = rows[-asked.limit :]
    if not rows:
        left = _left_out(found)
        raise MissingInputError(
            f"no reviewed frame to write into {target}{': ' + left if left else ''}",
            hint="review some (edge review), or widen --since, --recipe, --view and --batch",
        )
    write_manifest(target, rows, notes=is_choice)
    labels = [row.label for row in rows]
    counts = {label: labels.count(label) for label in ("good", "defect", "review")}
    if asked.json:
        _print({"file": str(target), "frames": len(rows), **counts, "leftOut": dict(found.left_out)})
        return
    print(f"{target}: {len(rows)} frames ({', '.join(f'{n} {label}' for label, n in counts.items() if n)})")
    if left := _left_out(found):
        print(f"left out: {left}")


def _left_out(found: ReviewedSet) -> str:
    return ", ".join(f"{count} ({why})" for why, count in found.left_out.items())


def _queued(asked: Asked) -> Queued:
    return Queued(asked.recipe, asked.view, asked.batch, parse_time("--since", asked.since))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _print(found: Mapping[str, Any] | Sequence[Any]) -> None:
    print(json.dumps(found, allow_nan=False))
