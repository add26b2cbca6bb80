"""How long the page's questions take over many verdicts, and the way of the database from schema 3.

    python -m bench.page [--verdicts 300000]

Not one of `python -m bench`: it needs no frames and no daemon. Verdicts are made up: three recipes, twelve
views, batches of 500 parts, one in fifty not OK, one in two thousand reviewed. Each question is asked five
times over `edge.record.queries`, as the page asks it. The first is slower: it comes from the disk.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from bench import machine
from bench.section import table
from edge.publish.payload import encode, frame_payload
from edge.record.queries import Queries
from edge.record.store import MIGRATIONS, Store
from edge.types import Defect, Identity, ImageInfo, Judgement, ModelInfo, VerdictFilter

BEGAN_UNIX_S = 1_790_000_000.0
EVERY_S = 0.5
TIMES = 5
RECIPES, VIEWS, PARTS_A_BATCH = 3, 12, 500
MODEL = ModelInfo("bracket", "ab" * 32, "openvino", "fp32", "cd" * 32)
STAGES = ("settle_s", "decode_s", "preprocess_s", "infer_s", "total_s")
ROWS = 5000  # a transaction


def rows(count: int) -> Iterator[tuple[Any, ...]]:
    """As `Store.add_verdict` writes them."""
    chance = random.Random(1)
    for number in range(count):
        part, view = divmod(number, VIEWS)
        batch, recipe = f"B{part // PARTS_A_BATCH:04d}", f"bracket-{part % RECIPES}"
        bad = chance.random() < 0.02
        score = chance.uniform(1, 3) if bad else chance.uniform(0.4, 0.99)
        who = Identity(f"P{part:07d}", f"{view:02d}", batch)
        judgement = Judgement(
            "NotOK" if bad else "OK", ("score_above_threshold",) if bad else (), score, 0.1, 0.2,
            tuple(Defect("anomaly", 400, 0.001, (10, 20, 30, 40), 2.0) for _ in range(3 * bad)),
        )  # fmt: skip
        path, sha256 = f"{batch}/{who.part}_{who.view}.png", f"{number:064x}"
        created = BEGAN_UNIX_S + number * EVERY_S
        payload = frame_payload(
            result_id=f"01{number:024d}", created_unix_s=created, station="st", recipe=recipe, identity=who,
            image=ImageInfo(path, sha256, 4248, 2832, 16), judgement=judgement, model=MODEL,
            times_s={name: 0.0123456 for name in STAGES},
        )  # fmt: skip
        payload |= {"score": score, "scoreRaw": score / 10}
        yield (
            payload["resultId"], "frame", recipe, who.part, batch, who.view, judgement.evaluation, created,
            "scanner", path, sha256, encode(payload).decode(),
        )  # fmt: skip


def made(file: Path, count: int) -> float:
    """A database of schema 3 with so many verdicts; gives the seconds that coming to today's takes."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        for step, script in enumerate(MIGRATIONS[:3], 1):
            db.executescript(f"BEGIN; {script} PRAGMA user_version={step}; COMMIT;")
        db.execute("BEGIN")
        for number, row in enumerate(rows(count)):
            db.execute("INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            if number % ROWS == 0:
                db.execute("COMMIT")
                db.execute("BEGIN")
        db.execute("COMMIT")
    began = time.monotonic()
    store = Store(file)
    took_s = time.monotonic() - began
    for number in range(0, count, 2000):
        store.add_review(f"01{number:024d}", "NotOK", "seen", "Ada", BEGAN_UNIX_S + count)
    store.close()
    return took_s


def questions(queries: Queries, count: int) -> dict[str, Callable[[], object]]:
    """What the page asks, by the words of docs/performance.md."""
    hour = BEGAN_UNIX_S + count * EVERY_S - 3600
    middle = f"01{count // 2:024d}"

    def asked(**wanted: Any) -> Callable[[], object]:
        return lambda: queries.verdicts(VerdictFilter(**wanted), 50)

    return {
        "the latest 50": asked(),
        "50 from the middle on": asked(before=middle),
        "not OK": asked(evaluation="NotOK"),
        "a recipe and view": asked(recipe="bracket-1", view="07"),
        "a batch, not OK": asked(batch="B0003", evaluation="NotOK"),
        "a part": asked(part=f"P{count // VIEWS // 2:07d}"),
        "a reason": asked(reason="score_above_threshold"),
        "the last hour, not OK": asked(evaluation="NotOK", since_unix_s=hour),
        "overruled": asked(reviewed="overruled"),
        "not reviewed": asked(reviewed="no"),
        "text, found": asked(text=f"P{count // VIEWS // 2:07d}"),
        "text, found nowhere": asked(text="nowhere"),
        "1,000 payloads": lambda: queries.verdicts(VerdictFilter(), 1000),
        "facets": queries.facets,
        "scores of a view, 2,000": lambda: queries.scores(VerdictFilter(recipe="bracket-1", view="07"), 2000),
        "threshold explorer, 2,000": lambda: queries.raw_scores("bracket-1", "07", MODEL.sha256, 2000),
        "throughput of an hour": lambda: queries.frames_since(hour),
        "throughput of a day": lambda: queries.frames_since(hour - 23 * 3600),
    }


def main() -> int:
    """Make the database, ask, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--verdicts", type=int, default=300_000)
    count = parser.parse_args().verdicts
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "edge.sqlite3"
        migrated_s = made(file, count)
        size_mb = sum(one.stat().st_size for one in Path(folder).iterdir()) / 1e6
        queries, lines = Queries(file), []
        for name, ask in questions(queries, count).items():
            times_ms = []
            for _ in range(TIMES):
                began = time.monotonic()
                ask()
                times_ms.append(1000 * (time.monotonic() - began))
            lines.append((name, f"{times_ms[0]:.0f}", f"{statistics.median(times_ms):.0f}"))
        queries.close()
    print(f"{count:,} verdicts, {size_mb:,.0f} MB; from schema 3 to today's in {migrated_s:.1f} s\n")
    print("\n".join(table(("question", "first, ms", "median of 5, ms"), lines)))
    print(f"\n*{machine.describe()} · commit {machine.commit()} · `python -m bench.page --verdicts {count}`*")
    return 0


if __name__ == "__main__":
    sys.exit(main())
