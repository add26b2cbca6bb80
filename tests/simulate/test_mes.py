"""What a simulated MES finds wrong with what arrives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge.publish.fields import ALWAYS
from edge.publish.schema import document, names
from edge.simulate.mes import RETAINED, Ledger, line_of, validator
from edge.types import Identity, ImageInfo, Judgement


def frame(result_id: str, created_unix_s: float = 1.0, evaluation: Any = "OK") -> bytes:
    from edge.publish.payload import encode, frame_payload

    return encode(
        frame_payload(
            result_id=result_id, created_unix_s=created_unix_s, station="st", recipe="r",
            identity=Identity("P1", "01"), image=ImageInfo("a.png", "0" * 64, 4, 4, 8),
            judgement=Judgement(evaluation, ("truncated",) if evaluation != "OK" else ()),
        )
    )  # fmt: skip


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(lambda schema, said: "")


def test_a_repeat_is_counted_and_nothing_is_wrong(ledger: Ledger) -> None:
    assert ledger.take("result/frame", frame("A")) is not None
    assert ledger.take("result/frame", frame("A")) is None
    assert ledger.repeats == 1
    assert ledger.problems == []


def test_a_repeat_that_says_something_else_is_wrong(ledger: Ledger) -> None:
    ledger.take("result/frame", frame("A"))
    ledger.take("result/frame", frame("A", evaluation="NotOK"))
    assert "says something else" in ledger.problems[0]


def test_a_verdict_that_is_older_than_one_before_is_wrong(ledger: Ledger) -> None:
    ledger.take("result/frame", frame("A", 2.0))
    ledger.take("result/frame", frame("B", 1.0))
    assert "after one of" in ledger.problems[0]


@pytest.mark.parametrize(
    ("view", "part", "wrong"),
    [("NotOK", "OK", True), ("OK", "OK", False), ("NotOK", "NotOK", False)],
)
def test_a_part_is_held_against_its_frames(ledger: Ledger, view: str, part: str, wrong: bool) -> None:
    ledger.take("result/frame", frame("A", evaluation=view))
    said = {
        "resultId": "P", "resultType": "part", "creationTime": "2", "resultEvaluation": part,
        "views": [{"view": "01", "resultId": "A", "resultEvaluation": view}], "missingViews": [],
    }  # fmt: skip
    ledger.take("result/part", json.dumps(said).encode())
    assert bool(ledger.problems) == wrong


def test_a_view_that_says_otherwise_than_its_part_is_wrong(ledger: Ledger) -> None:
    ledger.take("result/frame", frame("A", evaluation="NotOK"))
    said = {
        "resultId": "P", "resultType": "part", "creationTime": "2", "resultEvaluation": "OK",
        "views": [{"view": "01", "resultId": "A", "resultEvaluation": "OK"}],
    }  # fmt: skip
    ledger.take("result/part", json.dumps(said).encode())
    assert "the part says otherwise" in ledger.problems[0]


def test_what_is_no_json_or_not_retained_is_told(ledger: Ledger) -> None:
    ledger.take("result/frame", b"{")
    ledger.take("available", b"perhaps")
    assert len(ledger.problems) == 2
    assert len(ledger.ended()) == 2 + len(RETAINED) - 1


def test_schemas_are_what_payloads_are_held_to() -> None:
    valid = validator()
    assert valid("verdict-1", json.loads(frame("A", evaluation="NotDecidable"))) == ""
    assert "resultEvaluation" in valid(
        "verdict-1", json.loads(frame("A", evaluation="NotDecidable")) | {"resultEvaluation": "Maybe"}
    )


@pytest.mark.parametrize("name", names())
def test_every_schema_is_one(name: str) -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(document(name))
    assert document(name)["description"]


@pytest.mark.parametrize("body", [b"[]", b"5", b"null"])
def test_json_that_is_no_object_is_told(ledger: Ledger, body: bytes) -> None:
    assert ledger.take("result/frame", body) is None
    assert "no JSON object" in ledger.problems[0]


def test_verdicts_that_are_sent_with_few_fields_are_held_to_what_is_left() -> None:
    said = json.loads(frame("A", evaluation="NotDecidable"))
    few = {name: said[name] for name in (*ALWAYS, "view")}
    assert "required" in validator()("verdict-1", few)
    valid = validator(["view"])
    assert valid("verdict-1", few) == ""
    assert "resultEvaluation" in valid("verdict-1", few | {"resultEvaluation": "Maybe"})
    del few["resultId"]
    assert "resultId must always be sent" in valid("verdict-1", few)
    assert line_of(said | {"reasons": None}).startswith("00:00:01")
