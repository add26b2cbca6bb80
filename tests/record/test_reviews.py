"""What people say of verdicts is written once, goes to every sink, and is neither changed nor lost."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from jsonschema import Draft202012Validator

from edge.errors import DataError, MissingInputError
from edge.publish.schema import review_schema
from edge.record.recovery import open_store
from edge.record.store import MIGRATIONS, Store, suspect_mark
from edge.types import KINDS, Identity, Verdict
from tests.record.test_recovery import pages_of, spoil

NOW = 1_790_000_000.0
NAME = "01J{:023d}"


def add_verdict(store: Store, number: int = 0, evaluation: str = "NotOK", filling: int = 0) -> str:
    payload = {
        "resultId": NAME.format(number), "resultType": "frame", "resultEvaluation": evaluation,
        "recipeId": "r", "creationTime": "2026-11-20T10:15:30.123456Z", "station": "st",
        "partId": "P", "batchId": None, "view": "01",
        "image": {"path": "a.png", "sha256": f"{number:064d}"}, "filling": "x" * filling,
    }  # fmt: skip
    verdict = Verdict(
        NAME.format(number), "frame", "r", evaluation, Identity("P", "01"), NOW + number, payload  # type: ignore[arg-type]
    )  # fmt: skip
    with store.transaction():
        store.add_verdict(verdict, json.dumps(payload).encode(), "s")
    return verdict.result_id


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "edge.sqlite3", {"mqtt": KINDS, "file": KINDS})
    yield store
    store.close()


def test_a_review_is_kept_and_goes_to_every_sink_as_the_schema_says(store: Store) -> None:
    one = add_verdict(store)
    review = store.add_review(one, "OK", "  dust on the lens ", " Ada ", NOW + 5)
    assert (review.agrees, review.reason, review.reviewer) == (False, "dust on the lens", "Ada")
    assert store.reviews_of([one, "other"]) == {one: [review]}
    for sink in ("mqtt", "file"):
        first, second = store.pending(sink, 0, 10)
        assert (first.kind, second.kind, second.result_id) == ("frame", "review", one)
        body = json.loads(second.body)
        Draft202012Validator(review_schema()).validate(body)
        assert (body["reviewId"], body["resultEvaluation"]) == (review.review_id, "NotOK")


def test_the_schema_is_one_and_wants_a_reason_to_overrule(store: Store) -> None:
    Draft202012Validator.check_schema(review_schema())
    store.add_review(add_verdict(store), "OK", "dust", "Ada", NOW)
    body = json.loads(store.pending("mqtt", 0, 10)[1].body)
    assert not Draft202012Validator(review_schema()).is_valid({**body, "reason": ""})


def test_a_later_review_supersedes_even_if_the_clock_was_set_back(store: Store) -> None:
    one = add_verdict(store)
    first = store.add_review(one, "OK", "dust", "Ada", NOW + 500)
    second = store.add_review(one, "NotOK", "", "Bob", NOW + 100)
    assert store.reviews_of([one])[one] == [first, second]
    assert second.agrees
    assert store.latest_reviews(10) == [first, second]
    assert store.latest_reviews(10, NOW + 200) == [first]


@pytest.mark.parametrize(
    ("evaluation", "reason", "reviewer", "field"),
    [
        ("ok", "r", "Ada", "evaluation"), ("OK", "", "Ada", "reason"), ("OK", "r", " ", "reviewer"),
        ("OK", "x" * 2001, "Ada", "reason"), ("OK", "r", "x" * 101, "reviewer"),
        ("OK", "r", "A\x07", "reviewer"), ("OK", "a\x00b", "Ada", "reason"),
        ("OK", "\u202ekcab", "Ada", "reason"), ("OK", "\ud800", "Ada", "reason"),
    ],
)  # fmt: skip
def test_what_is_no_review_is_refused_by_field_and_leaves_nothing(
    store: Store, evaluation: str, reason: str, reviewer: str, field: str
) -> None:
    one = add_verdict(store)
    with pytest.raises(DataError, match=f"^{field}:"):
        store.add_review(one, evaluation, reason, reviewer, NOW)
    assert store.reviews_of([one]) == {}
    assert store.depth("mqtt") == 1


def test_a_review_of_nothing_is_refused(store: Store) -> None:
    with pytest.raises(MissingInputError, match="no verdict"):
        store.add_review("none", "OK", "r", "Ada", NOW)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE reviews SET reason = 'x'",
        "DELETE FROM reviews",
        "INSERT OR REPLACE INTO reviews SELECT review_id, result_id, 'NotOK', 1, '', 'Eve', 0 FROM reviews",
    ],
)
def test_the_database_itself_lets_nobody_change_a_review(
    store: Store, tmp_path: Path, statement: str
) -> None:
    one = add_verdict(store)
    review = store.add_review(one, "OK", "dust", "Ada", NOW)
    db = sqlite3.connect(tmp_path / "edge.sqlite3")
    if statement.startswith("INSERT"):
        db.execute(statement)
        db.commit()
    else:
        with pytest.raises(sqlite3.IntegrityError, match="a review"):
            db.execute(statement)
    db.close()
    assert store.reviews_of([one]) == {one: [review]}


def test_a_reviewed_verdict_is_kept_until_its_review_is_old_then_both_go(store: Store) -> None:
    old, reviewed = add_verdict(store, 0), add_verdict(store, 1)
    store.add_review(reviewed, "OK", "dust", "Ada", NOW + 1000)
    for sink in ("mqtt", "file"):
        store.delete(sink, [row.row_id for row in store.pending(sink, 0, 10)])
    assert store.prune(NOW + 500, 10) == 1
    assert (store.verdict(old), len(store.reviews_of([reviewed]))) == (None, 1)
    assert store.prune(NOW + 2000, 10) == 1
    assert store.reviews_of([reviewed]) == {}


def test_an_undelivered_review_keeps_its_verdict(store: Store) -> None:
    one = add_verdict(store)
    store.add_review(one, "OK", "dust", "Ada", NOW + 1)
    store.delete("mqtt", [row.row_id for row in store.pending("mqtt", 0, 10)])
    store.delete("file", [store.pending("file", 0, 1)[0].row_id])
    assert store.prune(NOW + 500, 10) == 0


def test_a_database_of_the_version_before_gains_reviews(tmp_path: Path) -> None:
    file = tmp_path / "edge.sqlite3"
    db = sqlite3.connect(file)
    db.executescript("".join(MIGRATIONS[:4]) + "PRAGMA user_version=4;")
    payload = {"resultId": "R1", "resultType": "frame", "resultEvaluation": "NotOK", "recipeId": "r"}
    db.execute(
        "INSERT INTO verdicts (result_id, type, recipe, evaluation, created_unix_s, payload)"
        " VALUES ('R1', 'frame', 'r', 'NotOK', ?, ?)",
        (NOW, json.dumps(payload)),
    )
    db.commit()
    db.close()
    after = Store(file, {"mqtt": KINDS})
    assert after.add_review("R1", "NotOK", "", "Ada", NOW).agrees
    after.close()


@pytest.mark.parametrize("table", ["outbox", "verdicts_by_time", "reviews"])
def test_a_damaged_database_keeps_reviews(tmp_path: Path, table: str) -> None:
    file = tmp_path / "edge.sqlite3"
    store = Store(file, {"mqtt": KINDS})
    ids = [add_verdict(store, number, filling=300) for number in range(300)]
    said = {one: [store.add_review(one, "OK", "dust " * 30, "Ada", NOW + 1000)] for one in ids}
    if table != "reviews":  # what waits carries itself
        store.delete("mqtt", [row.row_id for row in store.pending("mqtt", 0, 450)])
    store.close()
    spoil(file, pages_of(file, table)[1:3])
    suspect_mark(file).touch()
    saved = open_store(file, {"mqtt": KINDS}, log=structlog.get_logger())
    assert saved.reviews_of(ids) == said
    waiting = saved.pending("mqtt", 0, 1000)
    reviews = [row for row in waiting if row.kind == "review"]
    if table == "outbox":
        assert len(reviews) == len(ids)  # nobody knows which were sent
    assert reviews
    for row in reviews:
        Draft202012Validator(review_schema()).validate(json.loads(row.body))
    saved.close()
