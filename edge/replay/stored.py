"""Frames that were judged before, with what was said of them, and where they lie now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from json import loads
from pathlib import Path
from typing import Any, NamedTuple

from edge.config import Settings
from edge.errors import MissingInputError, UsageError
from edge.intake.naming import Naming, unnamed
from edge.places import Places
from edge.record.reader import BatchReader
from edge.timestamps import unix_s_of
from edge.types import Evaluation, Identity

ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Selection:
    """Which stored verdicts are wanted; everything given must hold."""

    recipe: str
    since_unix_s: float | None = None
    until_unix_s: float | None = None  # before then
    batch: str | None = None
    last: int | None = None  # the newest so many

    def where(self) -> tuple[str, list[Any]]:
        """As SQL, with its values."""
        clauses, values = ["type = 'frame'", "recipe = ?"], [self.recipe]
        for clause, value in (
            ("created_unix_s >= ?", self.since_unix_s),
            ("created_unix_s < ?", self.until_unix_s),
            ("batch = ?", self.batch),
        ):
            if value is not None:
                clauses.append(clause)
                values.append(value)  # type: ignore[arg-type]  # SQLite takes texts and numbers
        return " AND ".join(clauses), values


@dataclass(frozen=True, slots=True)
class AsStored:
    """A naming rule: each page is what its verdict said it is, whatever the rules are by now."""

    pages: Mapping[int, Identity]

    def __call__(self, path: str, tags: Mapping[str, str], page: int, pages: int) -> Identity:
        return self.pages.get(page, Identity())


@dataclass(frozen=True, slots=True)
class Held:
    """A file to be judged again."""

    name: str  # as verdicts give it
    file: Path | None  # None: gone
    naming: Naming = unnamed
    named: str = ""  # what the naming rule reads
    value_range: tuple[float, float] | None = None
    was: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # page → its stored verdict
    reviews: Mapping[int, Evaluation] = field(default_factory=dict)  # page → what a person said last
    sha256: str = ""  # of the file that was judged
    why_gone: str = ""


class _Row(NamedTuple):
    created_unix_s: float
    result_id: str
    source: str | None
    path: str | None
    sha256: str | None
    payload: str


class StoredVerdicts(BatchReader):
    """The verdicts on frames of a site whose daemon may be running: reads, changes nothing."""

    def count(self, wanted: Selection) -> int:
        """How many there are."""
        where, values = wanted.where()
        ((found,),) = self._rows(f"SELECT count(*) FROM verdicts WHERE {where}", values)
        return int(found) if wanted.last is None else min(int(found), wanted.last)

    def recipes(self) -> list[str]:
        """Whose verdicts there are."""
        return [name for (name,) in self._rows("SELECT DISTINCT recipe FROM verdicts ORDER BY recipe", ())]

    def rows(self, wanted: Selection) -> Iterator[_Row]:
        """Newest first, a few hundred in memory; what is written meanwhile is not among them."""
        where, values = wanted.where()
        left = wanted.last
        after: list[Any] = []
        while left is None or left > 0:
            beyond = " AND (created_unix_s, result_id) < (?, ?)" if after else ""
            some = ROWS_AT_ONCE if left is None else min(left, ROWS_AT_ONCE)
            found = self._rows(
                "SELECT created_unix_s, result_id, source, path, sha256, payload FROM verdicts"
                f" WHERE {where}{beyond} ORDER BY created_unix_s DESC, result_id DESC LIMIT ?",
                [*values, *after, some],
            )
            yield from (_Row(*row) for row in found)
            if len(found) < some:
                return
            after = list(found[-1][:2])
            left = None if left is None else left - len(found)

    def reviews(self, result_ids: Sequence[str]) -> dict[str, Evaluation]:
        """What a person said last of these results; empty where nobody has reviewed any."""
        if not self._rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'reviews'", ()):
            return {}
        marks = ", ".join("?" * len(result_ids))
        return dict(
            self._rows(
                f"SELECT result_id, evaluation FROM reviews WHERE result_id IN ({marks}) ORDER BY review_id",
                list(result_ids),
            )
        )


def stored(reader: StoredVerdicts, settings: Settings, wanted: Selection) -> Iterator[Held]:
    """The files of stored verdicts, newest first; those that are gone too, with the reason.

    The verdicts on the pages of one file are written together, so they are neighbours.
    """
    places = Places(settings)
    for key, rows in groupby(reader.rows(wanted), lambda row: (row.source, row.path, row.sha256)):
        source, path, sha256 = key
        payloads = [(row.result_id, loads(row.payload)) for row in rows]
        payloads = [(name, said) for name, said in payloads if not said.get("isHistorical")]
        if not payloads:
            continue
        said_by_id = reader.reviews([name for name, _ in payloads])
        was: dict[int, Mapping[str, Any]] = {}
        reviews: dict[int, Evaluation] = {}
        for result_id, said in payloads:
            page = said["image"].get("page", 0)
            if page not in was:  # the newest verdict is the one that stands
                was[page] = said
                if result_id in said_by_id:
                    reviews[page] = said_by_id[result_id]
        file, why_gone = places.find(payloads[0][1], source, path or "")
        yield Held(
            name=path or "",
            file=file,
            naming=AsStored({page: _identity(said) for page, said in was.items()}),
            named=path or "",
            value_range=places.value_range(source),
            was=was,
            reviews=reviews,
            sha256=sha256 or "",
            why_gone=why_gone,
        )


def no_verdicts(reader: StoredVerdicts, wanted: Selection) -> MissingInputError:
    """What to say where the selection is empty."""
    others = [name for name in reader.recipes() if name != wanted.recipe]
    hint = "widen --since, --until or --batch"
    if others and not reader.count(Selection(wanted.recipe)):
        hint = (
            f"there are verdicts of {', '.join(others)}: name that recipe, and the new engine with --engine"
        )
    return MissingInputError(f"no stored verdict on a frame of recipe {wanted.recipe!r}", hint=hint)


def parse_time(option: str, text: str | None) -> float | None:
    """ISO 8601 → Unix seconds; UTC where it names no zone.

    Raises:
        UsageError: it is no time.
    """
    if text is None:
        return None
    try:
        return unix_s_of(text)
    except ValueError:
        raise UsageError(
            f"{option} {text[:40]!r}: not a time", hint="such as 2026-11-20 or 2026-11-20T10:15:00Z"
        ) from None


def _identity(said: Mapping[str, Any]) -> Identity:
    return Identity(part=said["partId"], view=said["view"], batch=said["batchId"])
