"""What became of a stream of frames: the store, and what a consumer saw, held against what was put there."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Tally:
    """Promises 1 and 2 in numbers."""

    frames: int  # put into the folder
    stored: int  # of these with a verdict
    stored_twice: int  # with more than one
    not_judged: int  # NotDecidable, though the frames are good
    delivered: int  # frames with a verdict at the consumer
    copies: int  # verdicts that the consumer got again
    other_ids: int  # frames that came with more than one resultId
    out_of_order: int  # parts whose verdicts first came in another order than they were stored
    parts: int  # that are complete and delivered
    parts_twice: int  # complete parts with more than one complete result

    def broken(self, parts: int) -> list[str]:
        """Which promises do not hold; `parts` is how many complete ones there must be."""
        wrong = {
            "frames without a stored verdict": self.frames - self.stored,
            "frames with several stored verdicts": self.stored_twice,
            "good frames that were not judged": self.not_judged,
            "verdicts that did not arrive": self.frames - self.delivered,
            "copies with another resultId": self.other_ids,
            "parts delivered out of order": self.out_of_order,
            "parts without a complete result": parts - self.parts,
            "parts with several complete results": self.parts_twice,
        }
        return [f"{count} {what}" for what, count in wrong.items() if count]


def count(database: Path, paths: Collection[str], received: Sequence[bytes]) -> Tally:
    """Count; `received` is every result body at the consumer, frames and parts, in order.

    Raises:
        AssertionError: the database is damaged.
    """
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute(
            "SELECT result_id, path, part, evaluation FROM verdicts WHERE type = 'frame' ORDER BY result_id"
        ).fetchall()
    finally:
        connection.close()
    stored = Counter(path for _, path, _, _ in rows)
    verdicts = [json.loads(body) for body in received]
    copies: dict[str, list[str]] = defaultdict(list)
    for verdict in verdicts:
        if verdict["resultType"] == "frame":
            copies[verdict["image"]["path"]].append(verdict["resultId"])
    whole = Counter(
        part for part, _ in {
            (v["partId"], v["resultId"])
            for v in verdicts if v["resultType"] == "part" and not v["isPartial"]
        }
    )  # fmt: skip
    return Tally(
        frames=len(paths),
        stored=sum(path in stored for path in paths),
        stored_twice=sum(n > 1 for n in stored.values()),
        not_judged=sum(evaluation == "NotDecidable" for *_, evaluation in rows),
        delivered=sum(path in copies for path in paths),
        copies=sum(len(ids) - 1 for ids in copies.values()),
        other_ids=sum(len(set(ids)) > 1 for ids in copies.values()),
        out_of_order=_out_of_order(verdicts),
        parts=len(whole),
        parts_twice=sum(n > 1 for n in whole.values()),
    )


def reasons(database: Path) -> Counter[str]:
    """Why frames were not OK."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT payload FROM verdicts WHERE type = 'frame' AND evaluation <> 'OK'")
        return Counter(reason for (payload,) in rows for reason in json.loads(payload)["reasons"])
    finally:
        connection.close()


def _out_of_order(verdicts: Sequence[dict[str, Any]]) -> int:
    """Parts whose first copies did not come in the order in which they were made."""
    first: dict[str, list[tuple[str, str]]] = defaultdict(list)
    seen: set[str] = set()
    for verdict in verdicts:
        if verdict["resultId"] not in seen:
            seen.add(verdict["resultId"])
            first[verdict["partId"]].append((verdict["creationTime"], verdict["resultId"]))
    return sum([made for made, _ in came] != sorted(made for made, _ in came) for came in first.values())
