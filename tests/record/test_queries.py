"""What the page asks of a real database, while a store writes it."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.errors import MissingInputError, UnavailableError
from edge.record import queries as module
from edge.record.queries import Queries
from edge.record.store import MIGRATIONS, Store
from edge.types import Identity, Verdict, VerdictFilter

START_UNIX_S = 1_790_000_000.0


def frame(number: int, *, evaluation: str = "OK", view: str = "01", batch: str | None = "B1",
          reasons: list[str] | None = None, score: float | None = 0.5, part: str | None = None,
          recipe: str = "bracket") -> Verdict:  # fmt: skip
    who = Identity(part or f"P{number:04d}", view, batch)
    payload = {
        "resultId": f"R{number:06d}", "resultType": "frame", "recipeId": recipe, "partId": who.part,
        "batchId": who.batch, "view": who.view, "resultEvaluation": evaluation, "reasons": reasons or [],
        "score": score, "scoreRaw": None if score is None else score / 10,
        "processingTimes": {"total_s": number / 1000}, "model": {"sha256": "bundle"},
        "image": {"path": f"{batch}/{number}.png", "sha256": ""},
    }  # fmt: skip
    return Verdict(payload["resultId"], "frame", recipe, evaluation, who, START_UNIX_S + number, payload)  # type: ignore[arg-type]


def add(store: Store, *verdicts: Verdict) -> None:
    with store.transaction():
        for one in verdicts:
            store.add_verdict(one, json.dumps(one.payload).encode(), "ct")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "edge.sqlite3")
    yield store
    store.close()


@pytest.fixture
def queries(tmp_path: Path) -> Iterator[Queries]:
    queries = Queries(tmp_path / "edge.sqlite3")
    yield queries
    queries.close()


def ids(found: list[dict[str, Any]]) -> list[int]:
    return [int(one["resultId"][1:]) for one in found]


def asked(queries: Queries, limit: int = 100, **wanted: Any) -> list[int]:
    return ids(queries.verdicts(VerdictFilter(**wanted), limit))


def test_all_filters_combine(store: Store, queries: Queries) -> None:
    add(
        store,
        frame(0, view="02"),
        frame(1, evaluation="NotOK", reasons=["score_above_threshold"]),
        frame(2, evaluation="NotOK", batch="B2", reasons=["score_above_threshold", "x"]),
        frame(3, evaluation="NotDecidable", reasons=["x"], score=None),
        frame(4, recipe="plate", batch=None),
    )
    assert asked(queries) == [4, 3, 2, 1, 0]
    assert asked(queries, limit=2) == [4, 3]
    assert asked(queries, view="02") == [0]
    assert asked(queries, recipe="plate") == [4]
    assert asked(queries, evaluation="NotOK") == [2, 1]
    assert asked(queries, evaluation="NotOK", batch="B2") == [2]
    assert asked(queries, batch="B2", evaluation="OK") == []
    assert asked(queries, reason="x") == [3, 2]
    assert asked(queries, reason="score") == []
    assert asked(queries, part="P0003", reason="x", recipe="bracket", view="01", batch="B1") == [3]
    assert asked(queries, since_unix_s=START_UNIX_S + 1, until_unix_s=START_UNIX_S + 3) == [2, 1]
    assert asked(queries, text="p0004") == [4]
    assert asked(queries, text="B2/2.PNG") == [2]
    assert asked(queries, result_type="part") == []


def test_reviews_are_joined_and_filtered_by_the_one_that_stands(store: Store, queries: Queries) -> None:
    add(store, *(frame(number, evaluation="NotOK") for number in range(4)))
    store.add_review("R000001", "OK", "only dust", "kim", START_UNIX_S)
    store.add_review("R000002", "OK", "only dust", "kim", START_UNIX_S)
    store.add_review("R000002", "NotOK", "", "lee", START_UNIX_S + 1)
    assert asked(queries, reviewed="yes") == [2, 1]
    assert asked(queries, reviewed="no") == [3, 0]
    assert asked(queries, reviewed="overruled") == [1]
    assert asked(queries, reviewed="overruled", recipe="bracket", view="01", evaluation="NotOK") == [1]
    latest = {one["resultId"]: one["review"] for one in queries.verdicts(VerdictFilter(), 10)}
    assert latest["R000000"] is None
    assert (latest["R000002"]["evaluation"], latest["R000002"]["reviewer"]) == ("NotOK", "lee")
    assert [one["reviewer"] for one in queries.reviews("R000002")] == ["kim", "lee"]
    explored = queries.raw_scores("bracket", "01", "bundle", 10)
    assert [one["truth"] for one in explored] == [None, "OK", "NotOK", None]
    assert queries.raw_scores("bracket", "01", "another", 10) == []


@pytest.mark.parametrize(
    "also", ["", "part", "batch", "recipe", "recipe view", "evaluation", "result_type", "reason"]
)
def test_every_question_finds_its_index(store: Store, queries: Queries, also: str) -> None:
    add(store, frame(1, reasons=["x"], evaluation="NotOK"))
    all_of = {
        "part": "P0001", "batch": "B1", "recipe": "bracket", "view": "01", "evaluation": "NotOK",
        "result_type": "frame", "reason": "x",
    }  # fmt: skip
    wanted: dict[str, Any] = {name: all_of[name] for name in also.split()}
    rest: dict[str, Any] = {"since_unix_s": 0.0, "until_unix_s": 2e9, "reviewed": "no", "text": "p0"}
    for one in (wanted, wanted | rest, all_of | rest, wanted | {"reviewed": "no"}):
        assert asked(queries, **one) == [1]
    assert asked(queries, **wanted | {"result_type": "part"}) == []


def test_pages_follow_each_other_without_gap_or_repeat(store: Store, queries: Queries) -> None:
    add(store, *(frame(number) for number in range(25)))
    seen, before = [], None
    while page := asked(queries, limit=10, before=before):
        seen += page
        before = f"R{page[-1]:06d}"
    assert seen == list(range(24, -1, -1))
    assert asked(queries, after="R000022") == [24, 23]
    with pytest.raises(MissingInputError):
        asked(queries, before="R999999")


@pytest.mark.parametrize("text", ["'; DROP TABLE verdicts; --", "%", "_", '"', "\\", "*", "[a]", "ß", "‮"])
def test_a_hostile_value_is_only_a_value(store: Store, queries: Queries, text: str) -> None:
    add(store, frame(1), frame(2, part=f"a{text}b", batch=text, view=text, recipe=text, reasons=[text]))
    for name in ("recipe", "view", "batch", "reason", "text"):
        assert ids(queries.verdicts(VerdictFilter(**{name: text}), 10)) == [2], name  # type: ignore[arg-type]
    assert asked(queries) == [2, 1]


def test_a_page_reads_while_the_store_is_in_a_transaction(store: Store, queries: Queries) -> None:
    add(store, frame(1))
    with store.transaction():
        store.add_verdict(frame(2), json.dumps(frame(2).payload).encode(), "ct")
        found: list[list[int]] = []
        reader = threading.Thread(target=lambda: found.append(asked(queries)))
        reader.start()
        reader.join(5)
        assert found == [[1]]  # neither waits for the other, nor sees what is not committed
    assert store.depth("none") == 0
    add(store, frame(3))
    assert asked(queries)[0] == 3


def test_nothing_can_be_written_through_it(store: Store, queries: Queries) -> None:
    with queries._connection() as db, pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM verdicts")


def test_a_question_that_takes_too_long_is_given_up(
    store: Store, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, *(frame(number) for number in range(50)))
    monkeypatch.setattr(module, "QUERY_S", 0.0)
    monkeypatch.setattr(module, "STEPS_BETWEEN_LOOKS", 1)
    for _ in range(module.CONNECTIONS + 1):  # and its connection is there for the next one
        with pytest.raises(UnavailableError, match="longer"):
            asked(queries, text="nowhere")
    monkeypatch.undo()
    assert len(asked(queries)) == 50


def test_facets_are_what_there_is(store: Store, queries: Queries) -> None:
    assert queries.facets() == {"recipes": [], "views": {}, "batches": [], "reasons": []}
    add(
        store,
        frame(1, batch="B2", view="02"),
        frame(2, batch="B1", reasons=["x"], evaluation="NotOK"),
        frame(3, batch=None, recipe="plate", view=""),
    )
    assert queries.facets() == {
        "recipes": ["bracket", "plate"],
        "views": {"bracket": ["01", "02"], "plate": []},
        "batches": ["B1", "B2"],  # the latest first
        "reasons": ["x"],
    }


def test_scores_are_in_order_of_time_and_only_those_there_are(store: Store, queries: Queries) -> None:
    add(store, frame(1, score=0.25), frame(2, score=None), frame(3, view="02", score=2.0, evaluation="NotOK"))
    points = queries.scores(VerdictFilter(), 10)
    assert [(p["resultId"], p["score"], p["evaluation"]) for p in points] == [
        ("R000001", 0.25, "OK"), ("R000003", 2.0, "NotOK"),
    ]  # fmt: skip
    assert points[0]["time"] == "2026-09-21T14:13:21.000000Z"
    assert [p["resultId"] for p in queries.scores(VerdictFilter(view="02"), 10)] == ["R000003"]
    assert [p["resultId"] for p in queries.scores(VerdictFilter(), 1)] == ["R000003"]


def test_facts_of_older_databases_are_made_and_pruned_verdicts_lose_theirs(tmp_path: Path) -> None:
    file = tmp_path / "edge.sqlite3"
    db = sqlite3.connect(file)
    for number, step in enumerate(MIGRATIONS[:3], 1):
        db.executescript(f"BEGIN; {step} PRAGMA user_version={number}; COMMIT;")
    for number, body in enumerate([json.dumps(frame(0, score=0.5).payload), "{torn"]):
        db.execute(
            "INSERT INTO verdicts VALUES (?, 'frame', 'r', 'P', NULL, NULL, 'OK', ?, 's', 'a', 's', ?)",
            (f"R{number:06d}", 1000.0 + number, body),
        )
    db.commit()
    db.close()
    store, queries = Store(file), Queries(file)
    assert [p["resultId"] for p in queries.scores(VerdictFilter(), 10)] == ["R000000"]
    assert store.prune(2000.0, 10) == 2
    assert queries.scores(VerdictFilter(), 10) == []
    assert queries.facets()["recipes"] == []
    queries.close()
    store.close()
