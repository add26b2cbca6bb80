"""Reviewed frames as manifests: to learn from, to calibrate and to evaluate with."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.artifacts import write_atomic
from edge.config import Settings
from edge.dataset import COLUMNS, NOTE, Label
from edge.places import Places
from edge.record.reviews_reader import Reviewed

LABEL_OF: Mapping[str, Label] = {"OK": "good", "NotOK": "defect", "NotDecidable": "review"}
OF_PAGES = "it is a page of a file with several, and a manifest names files"


@dataclass(frozen=True, slots=True)
class Row:
    """A reviewed frame whose file is there."""

    file: Path
    item: Reviewed
    note: str = ""

    @property
    def label(self) -> Label:
        return LABEL_OF[self.item.review.evaluation]


@dataclass(frozen=True, slots=True)
class ReviewedSet:
    """Rows of a manifest, and how many reviewed frames are not among them, by reason."""

    rows: tuple[Row, ...]
    left_out: Mapping[str, int]


def reviewed_set(settings: Settings, items: Sequence[Reviewed]) -> ReviewedSet:
    """All reviewed frames whose bytes are still there; of frames with the same bytes, the latest review."""
    places, rows, left_out = Places(settings), {}, Counter[str]()
    for item in sorted(items, key=lambda one: one.review.review_id):
        image = item.payload.get("image") or {}
        if "page" in image:
            left_out[OF_PAGES] += 1
            continue
        sha256 = image.get("sha256") or ""
        file, why = places.find(item.payload, item.source)
        if file is None:
            left_out[why] += 1
        else:
            rows[sha256] = Row(file, item)
    return ReviewedSet(tuple(rows.values()), dict(left_out))


def suggested(rows: Sequence[Row], most: int) -> tuple[Row, ...]:
    """What the engine got wrong and what it rightly found, as different as `most` frames can be.

    Turns go round over label, view and batch, so that no view or day crowds the others out; within each the
    frame whose score is farthest from those already taken comes next (farthest-first traversal, Gonzalez
    1985), beginning with the highest.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        said, review = row.item.payload, row.item.review
        if (review.evaluation == "OK" and not review.agrees) or review.evaluation == "NotOK":
            key = row.label, str(said.get("view") or ""), str(said.get("batchId") or "")
            groups.setdefault(key, []).append(row)
    queues = [_spread(group, most) for _, group in sorted(groups.items())]
    taken: list[Row] = []
    for turn in range(max(map(len, queues), default=0)):
        taken += [queue[turn] for queue in queues if turn < len(queue)]
    return tuple(Row(row.file, row.item, _why(row)) for row in taken[:most])


def _spread(group: Sequence[Row], most: int) -> list[Row]:
    left = sorted(group, key=_score, reverse=True)
    order = [left.pop(0)]
    distances = [abs(_score(row) - _score(order[0])) for row in left]
    while left and len(order) < most:
        at = max(range(len(left)), key=distances.__getitem__)
        order.append(left.pop(at))
        distances.pop(at)
        distances = [
            min(d, abs(_score(row) - _score(order[-1]))) for d, row in zip(distances, left, strict=True)
        ]
    return order


def _score(row: Row) -> float:
    return float(row.item.payload.get("score") or 0.0)


def _why(row: Row) -> str:
    said, review = row.item.payload, row.item.review
    score = said.get("score")
    shown = "no score" if score is None else f"score {score:.2f}"
    words = {
        "OK": f"good, but {said['resultEvaluation']}",
        "NotOK": "defect, found" if review.agrees else f"defect, but {said['resultEvaluation']}",
    }
    reason = f": {review.reason}" if review.reason else ""
    return " ".join(f"{words[review.evaluation]} ({shown}), says {review.reviewer}{reason}".split())


def write_manifest(target: Path, rows: Sequence[Row], *, notes: bool = False) -> None:
    """A manifest CSV with absolute paths.

    Raises:
        CannotWriteError: it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, NOTE] if notes else COLUMNS)
    for row in rows:
        said = row.item.payload
        part, batch = said.get("partId") or "", said.get("batchId") or ""
        name = f"{batch}/{part}" if batch and part else part
        cells = [str(row.file.resolve()), row.label, "", said.get("view") or "", name, "", ""]
        table.writerow([*cells, row.note] if notes else cells)
    write_atomic(target, text.getvalue().encode("utf-8", "backslashreplace"))
