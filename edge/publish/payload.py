"""The verdict payload, as `schema/verdict-1.json` describes it; pure functions from what the stages found."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from edge.timestamps import utc_text
from edge.types import Defect, Evaluation, Identity, ImageInfo, Judgement, ModelInfo, Score

SCHEMA = "edge/verdict/1"
THRESHOLD = 1.0  # by definition of the normalised score
SIGNIFICANT_DIGITS = 7  # what a float32 carries

# resultState of OPC UA 40100-1
COMPLETED = 1
FAILED = 4

Payload = dict[str, Any]


class ViewOutcome(Protocol):
    """What a part payload says of each of its views; `edge.judge.parts.ViewResult` is one."""

    @property
    def view(self) -> str | None: ...

    @property
    def result_id(self) -> str: ...

    @property
    def evaluation(self) -> Evaluation: ...

    @property
    def score(self) -> float | None: ...


def frame_payload(
    *,
    result_id: str,
    created_unix_s: float,
    station: str,
    recipe: str,
    identity: Identity,
    image: ImageInfo,
    judgement: Judgement,
    score: Score | None = None,
    model: ModelInfo | None = None,
    times_s: Mapping[str, float] | None = None,
    evidence: str | None = None,
    is_simulated: bool = False,
    is_historical: bool = False,
) -> Payload:
    """The verdict on one frame.

    `score` and `model` are None where there was nothing to judge; `times_s` has keys such as `decode_s`, in
    seconds; numbers that are not finite become null, since JSON has no word for them.
    """
    head = _head("frame", result_id, created_unix_s, station, recipe, identity)
    return head | {
        "view": identity.view,
        "resultState": FAILED if score is None else COMPLETED,
        "resultEvaluation": judgement.evaluation,
        "isPartial": False,
        "isSimulated": is_simulated,
        "isHistorical": is_historical,
        "reasons": list(judgement.reasons),
        "score": _number(judgement.score),
        "threshold": None if judgement.threshold_raw is None else THRESHOLD,
        "scoreRaw": None if score is None else _number(score.raw),
        "thresholdRaw": _number(judgement.threshold_raw),
        "statistics": {} if score is None else _numbers(score.statistics),
        "defects": [_defect(defect) for defect in judgement.defects],
        **_more(judgement),
        "image": _image(image),
        "model": None if model is None else _model(model),
        "processingTimes": _numbers(times_s or {}),
        "evidence": evidence,
    }


def part_payload(
    *,
    result_id: str,
    created_unix_s: float,
    station: str,
    recipe: str,
    identity: Identity,
    evaluation: Evaluation,
    reasons: Sequence[str],
    views: Iterable[ViewOutcome],
    missing_views: Sequence[str] = (),
    is_partial: bool = False,
    is_simulated: bool = False,
    is_historical: bool = False,
) -> Payload:
    """The verdict on a part, from the verdicts on its views."""
    head = _head("part", result_id, created_unix_s, station, recipe, identity)
    return head | {
        "resultState": COMPLETED,
        "resultEvaluation": evaluation,
        "isPartial": is_partial,
        "isSimulated": is_simulated,
        "isHistorical": is_historical,
        "reasons": list(reasons),
        "views": [
            {
                "view": view.view,
                "resultId": view.result_id,
                "resultEvaluation": view.evaluation,
                "score": _number(view.score),
            }
            for view in views
        ],
        "missingViews": list(missing_views),
    }


def encode(payload: Mapping[str, Any]) -> bytes:
    """The bytes that go on the wire: compact JSON in UTF-8; file names that are not text lose that part."""
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


def _head(
    kind: str, result_id: str, created_unix_s: float, station: str, recipe: str, identity: Identity
) -> Payload:
    return {
        "schema": SCHEMA,
        "resultId": result_id,
        "resultType": kind,
        "creationTime": utc_text(created_unix_s),
        "station": station,
        "partId": identity.part,
        "batchId": identity.batch,
        "productId": recipe,
        "recipeId": recipe,
    }


def _number(value: float | None) -> float | None:
    """To what float32 means; None for what JSON cannot say. numpy scalars become Python's."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.{SIGNIFICANT_DIGITS}g}")


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: _number(value) for key, value in values.items()}


def _defect(defect: Defect) -> Payload:
    return {
        "class": defect.kind,
        "area_px": int(defect.area_px),
        "area_ratio": _number(defect.area_ratio),
        "bbox": [int(edge_px) for edge_px in defect.bbox],
        "score": _number(defect.score),
    }


def _more(judgement: Judgement) -> Payload:
    """What only some recipes have: areas of classes, and objects with an evaluation each."""
    more: Payload = {}
    if judgement.class_areas:
        more["classAreas"] = {name: int(area_px) for name, area_px in judgement.class_areas.items()}
    if judgement.objects:
        more["objects"] = [
            {
                "bbox": [int(edge_px) for edge_px in one.bbox],
                "area_px": int(one.area_px),
                "score": _number(one.score),
                "resultEvaluation": one.evaluation,
            }
            for one in judgement.objects
        ]
    return more


def _image(image: ImageInfo) -> Payload:
    payload: Payload = {
        "path": image.path,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "bits": image.bits,
    }
    if image.pages > 1:
        payload["page"] = image.page
    return payload


def _model(model: ModelInfo) -> Payload:
    return {
        "bundle": model.bundle,
        "sha256": model.sha256,
        "runtime": model.runtime,
        "precision": model.precision,
        "calibration_sha256": model.calibration_sha256,
    }
