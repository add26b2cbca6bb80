"""`report.html` of a replay: counts, scores, and the flips with their pictures, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge import app
from edge.errors import EdgeError
from edge.pipeline import Inspector
from edge.recipes import open_recipe
from edge.record import evidence
from edge.replay.counts import EVALUATIONS, Shown
from edge.replay.judging import Replay, drawn
from edge.replay.table import counts, median_change, reviews_line, verdict_line
from edge.report import data_url, environment_of_this_machine, render
from edge.report.charts import old_and_new

WORDS: Mapping[tuple[str, str], str] = {
    ("NotOK", "OK"): "Would pass now",
    ("OK", "NotOK"): "Would be rejected now",
}


def write_report(file: Path, replay: Replay, document: Mapping[str, Any]) -> None:
    """Render the report of a replay that is over."""
    tally = replay.tally
    old_pictures = _OldPictures(replay)
    kinds: list[dict[str, Any]] = []
    for (old, new), shown in tally.shown().items():
        title = WORDS.get((old, new), f"{old} → {new}")
        flips = [_flip(one, old_pictures) for one in shown]
        frames = tally.matrix()[old][new]
        kinds.append({"title": title, "kind": (old, new), "flips": flips, "frames": frames})
    known = list(WORDS)  # escapes first
    kinds.sort(key=lambda kind: known.index(kind["kind"]) if kind["kind"] in known else len(known))
    text = render(
        "replayed.html",
        document=document,
        sentence=verdict_line(document),
        reviews=document["reviews"] and reviews_line(document["reviews"]),
        totals=counts(document["evaluations"]),
        views=[_view(name, view) for name, view in document["perView"].items()],
        evaluations=EVALUATIONS,
        chart=old_and_new(tally.same.kept, tally.changed.kept),
        is_sampled=tally.same.is_full or tally.changed.is_full,
        kinds=kinds,
        environment=environment_of_this_machine(),
    )
    file.write_text(text)


def _view(name: str, view: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "frames": view["frames"],
        "counts": counts(view["evaluations"]),
        "medians": median_change(view),
    }


def _flip(shown: Shown, old_pictures: _OldPictures) -> dict[str, Any]:
    old, why = (shown.old_picture, "") if shown.old_picture else old_pictures.of(shown)
    return {"it": shown.compared, "old": old, "why_not": why, "new": shown.new_picture}


class _OldPictures:
    """What a stored verdict looked like: from its evidence, else made again by the recipe that gave it, where
    that is still the site's."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._root = replay.settings.paths.state / app.EVIDENCE

    def of(self, shown: Shown) -> tuple[str, str]:
        """(data: URL, why there is none)."""
        said = shown.item.was.get(shown.compared.page)
        if said is None:
            return "", "it could not be decoded"
        if picture := self._kept(said.get("evidence")):
            return picture, ""
        model = said["model"] or {}
        current = self._current()
        if current is None or (model.get("sha256"), model.get("calibration_sha256")) != (
            current.model.sha256,
            current.model.calibration_sha256,
        ):
            return "", "no picture was kept, and the recipe that judged it is not there any more"
        found = drawn(self._replay.again(shown.item, shown.compared.page, current), current)
        return found, "" if found else "its frame could not be judged"

    def _kept(self, folder: str | None) -> str:
        """The overlay among the evidence of a verdict, confined to the evidence's own folder."""
        if not folder:
            return ""
        file = (self._root / folder / evidence.OVERLAY).resolve()
        if not file.is_relative_to(self._root.resolve()) or not file.is_file():
            return ""
        picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
        return "" if picture is None else data_url(np.asarray(picture, np.uint8))

    @cache  # noqa: B019  # lives as long as the report is written
    def _current(self) -> Inspector | None:
        with suppress(EdgeError):  # a recipe that cannot be opened any more shows nothing
            return open_recipe(self._replay.settings, self._replay.recipe)
        return None
