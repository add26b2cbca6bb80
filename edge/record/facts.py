"""A narrow copy of what verdicts are looked for by, so that a page's question reads no payloads.

A verdict's payload is some kilobytes; a row here is about a hundred bytes, and lies in the order of time. It
is written by triggers, in the transaction of its verdict: whoever inserts or deletes verdicts need not know.
"""

from __future__ import annotations

import re
from typing import Any

from edge.types import VerdictFilter

_VALUES = """
  {row}.created_unix_s, {row}.result_id, {row}.type, {row}.recipe, coalesce({row}.view, ''),
  coalesce({row}.batch, ''), coalesce({row}.part, ''), {row}.evaluation,
  CASE WHEN json_valid({row}.payload) THEN coalesce(json_extract({row}.payload, '$.reasons'), '[]')
    ELSE '[]' END,
  CASE WHEN json_valid({row}.payload) THEN json_extract({row}.payload, '$.score') END,
  CASE WHEN json_valid({row}.payload) THEN json_extract({row}.payload, '$.scoreRaw') END,
  CASE WHEN json_valid({row}.payload) THEN json_extract({row}.payload, '$.processingTimes.total_s') END,
  coalesce({row}.path, '')
"""

# a migration of `edge.record.store`: never changed once released
SCHEMA = f"""
    CREATE TABLE verdict_facts (
      created_unix_s REAL NOT NULL, result_id TEXT NOT NULL, type TEXT NOT NULL, recipe TEXT NOT NULL,
      view TEXT NOT NULL, batch TEXT NOT NULL, part TEXT NOT NULL, evaluation TEXT NOT NULL,
      reasons TEXT NOT NULL, score REAL, score_raw REAL, total_s REAL, path TEXT NOT NULL,
      PRIMARY KEY (created_unix_s, result_id)
    ) WITHOUT ROWID;
    INSERT OR IGNORE INTO verdict_facts SELECT {_VALUES.format(row="verdicts")} FROM verdicts;
    CREATE UNIQUE INDEX facts_by_id ON verdict_facts (result_id);
    CREATE INDEX facts_by_part ON verdict_facts (part, created_unix_s) WHERE part <> '';
    CREATE INDEX facts_by_batch ON verdict_facts (batch, created_unix_s) WHERE batch <> '';
    CREATE INDEX facts_by_view ON verdict_facts (recipe, view, created_unix_s, evaluation, type);
    CREATE INDEX facts_by_recipe ON verdict_facts (recipe, created_unix_s);
    CREATE INDEX facts_by_reason ON verdict_facts (created_unix_s) WHERE reasons <> '[]';
    CREATE INDEX facts_of_parts ON verdict_facts (created_unix_s) WHERE type = 'part';
    CREATE INDEX facts_by_outcome ON verdict_facts (evaluation, created_unix_s);
    CREATE TRIGGER facts_come AFTER INSERT ON verdicts BEGIN
      INSERT OR REPLACE INTO verdict_facts VALUES ({_VALUES.format(row="new")});
    END;
    CREATE TRIGGER facts_go AFTER DELETE ON verdicts BEGIN
      DELETE FROM verdict_facts WHERE result_id = old.result_id;
    END;
"""

_EQUAL = {
    "result_type": "type", "recipe": "recipe", "view": "view", "batch": "batch", "part": "part",
    "evaluation": "evaluation",
}  # fmt: skip


_TEXTS = ("path", "part", "batch")
_SPECIAL = re.compile(r"[%_!]")


def table(wanted: VerdictFilter) -> str:
    """`verdict_facts AS f` by the index that serves a question best.

    Told, since without statistics SQLite takes a range of time for narrower than a part's name.
    """
    if wanted.reviewed in ("yes", "overruled"):  # from the few reviews to their verdicts
        return "verdict_facts AS f"
    best = (
        (wanted.part, "facts_by_part"),
        (wanted.batch, "facts_by_batch"),
        (wanted.reason, "facts_by_reason"),
        (wanted.recipe and wanted.view, "facts_by_view"),
        (wanted.recipe if wanted.evaluation in (None, "OK") else None, "facts_by_recipe"),
        (wanted.evaluation, "facts_by_outcome"),
        (True if wanted.result_type == "part" else None, "facts_of_parts"),
    )
    index = next((index for given, index in best if given is not None), None)
    return f"verdict_facts AS f INDEXED BY {index}" if index else "verdict_facts AS f"


def where(wanted: VerdictFilter) -> tuple[list[str], list[Any]]:
    """Conditions on `verdict_facts AS f` and their values; cursors are the caller's."""
    conditions: list[str] = []
    values: list[Any] = []

    def add(condition: str, *more: Any) -> None:
        conditions.append(condition)
        values.extend(more)

    for name, column in _EQUAL.items():
        value = getattr(wanted, name)
        if value is not None:
            # partial indexes are used where the condition says what they say
            add(f"f.{column} = ?" + (f" AND f.{column} <> ''" if column in ("batch", "part") else ""), value)
    if wanted.result_type == "part":
        add("f.type = 'part'")  # as the partial index has it
    if wanted.since_unix_s is not None:
        add("f.created_unix_s >= ?", wanted.since_unix_s)
    if wanted.until_unix_s is not None:
        add("f.created_unix_s < ?", wanted.until_unix_s)
    if wanted.reason is not None:
        held = "EXISTS (SELECT 1 FROM json_each(f.reasons) WHERE value = ?)"
        add(f"f.reasons <> '[]' AND {held}", wanted.reason)
    if wanted.text is not None:
        # LIKE is blind to the case of ASCII, and faster than instr(lower(…))
        pattern = "%" + _SPECIAL.sub(r"!\g<0>", wanted.text) + "%"
        held = " OR ".join(f"f.{column} LIKE ? ESCAPE '!'" for column in _TEXTS)
        add(f"(f.result_id = ? OR {held})", wanted.text, *[pattern] * len(_TEXTS))
    return conditions, values
