"""The payload is what the schema says, whatever the stages found."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from edge.judge.parts import ViewResult
from edge.publish.payload import encode, frame_payload, part_payload
from edge.publish.schema import verdict_schema
from edge.types import Defect, Identity, ImageInfo, Judgement, ModelInfo, Score

VALIDATOR = Draft202012Validator(verdict_schema())
DIGEST = "0123456789abcdef" * 4
SCORE = Score(0.0231, np.zeros((4, 4), np.float32), {"mse": 0.012345678, "max": 1.0}, (0, 0, 4, 4), 0.5, 0.1)
JUDGEMENT = Judgement(
    "NotOK",
    ("score_above_threshold",),
    score=1.84,
    threshold_raw=0.0125,
    defects=(Defect("anomaly", 412, 0.0006, (1, 2, 3, 4), 2.1),),
)
MODEL = ModelInfo("bracket", DIGEST, "openvino", "int8", DIGEST)
IMAGE = ImageInfo("B17/P1_07.dcm", DIGEST, 4248, 2832, 16)
COMMON: dict[str, Any] = {
    "result_id": "01JD0000000000000000000000",
    "created_unix_s": 1795169730.123456,
    "station": "ct-1",
    "recipe": "bracket",
    "identity": Identity("P000123", "07", "B17"),
}
FRAME: dict[str, Any] = COMMON | {
    "image": IMAGE,
    "judgement": JUDGEMENT,
    "score": SCORE,
    "model": MODEL,
    "times_s": {"decode_s": 0.1, "total_s": 0.5},
    "evidence": "2026/11/x",
}
UNREADABLE: dict[str, Any] = COMMON | {
    "identity": Identity(),
    "image": ImageInfo("x.png", ""),
    "judgement": Judgement("NotDecidable", ("truncated",)),
}


def valid(payload: dict[str, Any]) -> dict[str, Any]:
    """As a consumer reads it, checked against the schema."""
    read: dict[str, Any] = json.loads(encode(payload))
    VALIDATOR.validate(read)
    return read


def test_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(verdict_schema())


def test_frame_says_what_the_contract_says() -> None:
    assert valid(frame_payload(**FRAME)) == {
        "schema": "edge/verdict/1",
        "resultId": "01JD0000000000000000000000",
        "resultType": "frame",
        "creationTime": "2026-11-20T10:15:30.123456Z",
        "station": "ct-1",
        "partId": "P000123",
        "batchId": "B17",
        "view": "07",
        "productId": "bracket",
        "recipeId": "bracket",
        "resultState": 1,
        "resultEvaluation": "NotOK",
        "isPartial": False,
        "isSimulated": False,
        "isHistorical": False,
        "reasons": ["score_above_threshold"],
        "score": 1.84,
        "threshold": 1.0,
        "scoreRaw": 0.0231,
        "thresholdRaw": 0.0125,
        "statistics": {"mse": 0.01234568, "max": 1.0},
        "defects": [
            {"class": "anomaly", "area_px": 412, "area_ratio": 0.0006, "bbox": [1, 2, 3, 4], "score": 2.1}
        ],
        "image": {"path": "B17/P1_07.dcm", "sha256": DIGEST, "width": 4248, "height": 2832, "bits": 16},
        "model": {
            "bundle": "bracket",
            "sha256": DIGEST,
            "runtime": "openvino",
            "precision": "int8",
            "calibration_sha256": DIGEST,
        },
        "processingTimes": {"decode_s": 0.1, "total_s": 0.5},
        "evidence": "2026/11/x",
    }


def test_unreadable_frame_has_nulls_and_is_a_failed_result() -> None:
    payload = valid(frame_payload(**UNREADABLE))
    assert payload["resultState"] == 4
    assert [payload[key] for key in ("score", "threshold", "scoreRaw", "thresholdRaw", "model")] == [None] * 5
    assert payload["partId"] is payload["view"] is payload["batchId"] is payload["evidence"] is None


def test_page_is_named_where_there_are_several() -> None:
    image = replace(IMAGE, page=0, pages=3)
    assert valid(frame_payload(**FRAME | {"image": image}))["image"]["page"] == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_become_null(value: float) -> None:
    score = replace(SCORE, raw=value, statistics={"mse": value})
    judgement = replace(JUDGEMENT, score=value)
    payload = valid(frame_payload(**FRAME | {"score": score, "judgement": judgement}))
    assert payload["score"] is payload["scoreRaw"] is payload["statistics"]["mse"] is None


def test_numpy_numbers_and_odd_file_names_can_be_written() -> None:
    judgement = replace(JUDGEMENT, score=np.float32(1.1))
    image = replace(IMAGE, path="Träger/\udcff.png")
    payload = valid(frame_payload(**FRAME | {"judgement": judgement, "image": image}))
    assert payload["score"] == 1.1
    assert payload["image"]["path"] == "Träger/?.png"


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 4e9, allow_nan=False))
def test_every_float_gives_a_valid_payload(value: float, created_unix_s: float) -> None:
    score = replace(SCORE, raw=value, statistics={"mse": value})
    judgement = replace(JUDGEMENT, score=value, threshold_raw=value)
    changed = {
        "score": score,
        "judgement": judgement,
        "created_unix_s": created_unix_s,
        "times_s": {"a_s": value},
    }
    payload = valid(frame_payload(**FRAME | changed))
    if math.isfinite(value):
        assert payload["scoreRaw"] == pytest.approx(value, rel=1e-6)


VIEWS = [ViewResult("01", "R1", "OK", 0.4), ViewResult("02", "R2", "NotDecidable", None)]
PART: dict[str, Any] = COMMON | {
    "evaluation": "NotDecidable",
    "reasons": ["view_not_decidable", "views_missing"],
    "views": VIEWS,
    "missing_views": ["03"],
    "is_partial": True,
}


def test_part_lists_its_views_and_those_missing() -> None:
    payload = valid(part_payload(**PART))
    assert payload["resultType"] == "part"
    assert payload["views"] == [
        {"view": "01", "resultId": "R1", "resultEvaluation": "OK", "score": 0.4},
        {"view": "02", "resultId": "R2", "resultEvaluation": "NotDecidable", "score": None},
    ]
    assert payload["missingViews"] == ["03"]
    assert payload["isPartial"] is True
    assert not {"image", "model", "score", "view"} & set(payload)


@pytest.mark.parametrize(
    "change",
    [
        {"resultEvaluation": "Good"},
        {"creationTime": "2026-11-20T10:15:30Z"},
        {"extra": 1},
        {"score": "1.0"},
        {"views": []},
        {"isPartial": True},
        {"resultEvaluation": "OK", "score": None},
        {"resultEvaluation": "OK", "model": None},
    ],
    ids=str,
)
def test_schema_refuses(change: dict[str, Any]) -> None:
    payload = frame_payload(**FRAME)
    VALIDATOR.validate(payload | {"x-plant": "additions of one's own are fine"})
    with pytest.raises(ValidationError):
        VALIDATOR.validate(payload | change)


@pytest.mark.parametrize("missing", ["image", "score", "partId", "resultId", "evidence"])
def test_schema_wants_every_field_of_a_frame(missing: str) -> None:
    payload = frame_payload(**FRAME)
    del payload[missing]
    with pytest.raises(ValidationError):
        VALIDATOR.validate(payload)


@pytest.mark.parametrize("change", [{}, {"missing_views": []}, {"missing_views": [], "is_partial": False}])
def test_schema_refuses_an_ok_part_that_is_not(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VALIDATOR.validate(part_payload(**PART | {"evaluation": "OK"} | change))


def test_part_that_is_ok_is_valid() -> None:
    complete = {
        "evaluation": "OK",
        "reasons": [],
        "views": VIEWS[:1],
        "missing_views": [],
        "is_partial": False,
    }
    valid(part_payload(**PART | complete))
