"""Makes schema-N.sql with the code of that time: in a checkout of the commit that had schema N last,

    PYTHONPATH=CHECKOUT python tests/record/released/make.py tests/record/released

Each is frozen: made once, by the code that was released, and never again by newer code.
"""

import json
import sqlite3
import sys
import tempfile
from pathlib import Path

from edge.record import store as module
from edge.record.store import PartKey, PartRow, Store
from edge.types import Candidate, FileStamp, Identity, Verdict

FRAMES = 12


def payload(number: int, view: str, evaluation: str) -> dict[str, object]:
    return {
        "schema": "edge/verdict/1", "resultId": f"R{number:03d}", "resultType": "frame", "station": "st",
        "creationTime": "2026-11-20T10:15:30.123456Z", "partId": f"P{number // 2}", "batchId": "B1",
        "view": view, "recipeId": "blur", "productId": "blur", "resultState": 1, "isPartial": False,
        "isSimulated": False, "isHistorical": False, "resultEvaluation": evaluation, "score": number / 10,
        "reasons": [] if evaluation == "OK" else ["score_above_threshold"],
        "image": {"path": f"B1/P{number // 2}_{view}.png", "sha256": f"{number:064x}"},
        "model": {"bundle": "blur", "calibration_sha256": "c"},
    }  # fmt: skip


def fill(store: Store) -> None:
    for number in range(FRAMES):
        view, evaluation = f"0{number % 2 + 1}", ("OK", "OK", "NotOK", "NotDecidable")[number % 4]
        said, at = payload(number, view, evaluation), 1_795_000_000.0 + number
        who = Identity(part=f"P{number // 2}", view=view, batch="B1")
        verdict = Verdict(f"R{number:03d}", "frame", "blur", evaluation, who, at, said)
        path = f"B1/P{number // 2}_{view}.png"
        candidate = Candidate("scanner", path, Path(path), FileStamp(1000 + number, 5 + number), 0, 0, 0)
        key = PartKey("blur", "B1", f"P{number // 2}")
        with store.transaction():
            store.add_file(candidate, f"{number:064x}", at)
            store.add_verdict(verdict, json.dumps(said).encode(), "scanner")
            store.save_part(PartRow(key, at, number % 2 == 1, False))
            store.save_part_view(key, view, verdict.result_id, evaluation, number / 10)
            if hasattr(store, "add_to_batch"):
                chart = module.ChartRow("blur", view, "c", 0.5, 0.1, 20, at)
                store.add_to_batch(chart, "B1", "", number / 10, at)
    store.delete("mqtt", [row.row_id for row in store.pending("mqtt", 0, FRAMES // 2)])
    if hasattr(store, "add_review"):
        store.add_review("R002", "OK", "a scratch of the carrier", "qe", 1_795_000_100.0)


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "edge.sqlite3"
        store = Store(file, {"mqtt": ("frame", "part", "review")})  # older ones take names only: its keys
        fill(store)
        store.close()
        database = sqlite3.connect(file)
        text = "\n".join(database.iterdump())
        database.close()
    version = module.SCHEMA_VERSION
    (folder / f"schema-{version}.sql").write_text(f"{text}\nPRAGMA user_version={version};\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
