"""Sparkplug B payloads: what of a verdict becomes which metric, and the bytes of it.

The messages are those of the Sparkplug specification 3.0, section 6, as protobuf: only the fields that edge
writes or reads are declared, by their numbers, so that there is no generated code to keep in step with the
protobuf that is installed. Fields that are not declared are passed over, as protobuf promises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import cache
from typing import Any

REBIRTH = "Node Control/Rebirth"
BD_SEQ = "bdSeq"
SEQ_VALUES = 256  # of seq and bdSeq, which go back to 0


class Type(IntEnum):
    """Datatypes of section 6.4.16, as far as they are used here."""

    INT32 = 3
    INT64 = 4
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATETIME = 13


_FIELD_OF = {
    Type.INT32: "int_value",
    Type.INT64: "long_value",
    Type.DOUBLE: "double_value",
    Type.BOOLEAN: "boolean_value",
    Type.STRING: "string_value",
    Type.DATETIME: "long_value",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One value; None is sent as null. `unix_ms` is when it was so."""

    name: str
    type: Type
    value: bool | int | float | str | None
    unix_ms: int
    historical: bool = False


_IDENTITY = {"partId": Type.STRING, "batchId": Type.STRING}
_RESULT = {
    "resultId": Type.STRING,
    "resultEvaluation": Type.STRING,
    "resultState": Type.INT32,
    "creationTime": Type.DATETIME,
    **_IDENTITY,
    "reasons": Type.STRING,
    "isPartial": Type.BOOLEAN,
    "isSimulated": Type.BOOLEAN,
}
JSON = "json"  # the whole verdict, for what has no metric of its own
METRICS: Mapping[str, Mapping[str, Type]] = {
    "frame": {
        **_RESULT,
        "view": Type.STRING,
        "score": Type.DOUBLE,
        "threshold": Type.DOUBLE,
        "scoreRaw": Type.DOUBLE,
        "thresholdRaw": Type.DOUBLE,
        "defects": Type.INT32,  # how many
        JSON: Type.STRING,
    },
    "part": {**_RESULT, "missingViews": Type.STRING, JSON: Type.STRING},
    "review": {
        "reviewId": Type.STRING,
        "resultId": Type.STRING,
        "resultType": Type.STRING,
        "evaluation": Type.STRING,
        "agrees": Type.BOOLEAN,
        "reason": Type.STRING,
        "reviewer": Type.STRING,
        "createdAt": Type.DATETIME,
        "resultEvaluation": Type.STRING,
        **_IDENTITY,
        "view": Type.STRING,
        JSON: Type.STRING,
    },
}


def created_unix_ms(body: Mapping[str, Any], default_ms: int) -> int:
    """When a verdict or review was made."""
    said = body.get("creationTime") or body.get("createdAt")
    return default_ms if said is None else _unix_ms(said)


def verdict_metrics(kind: str, body: bytes, unix_ms: int, *, historical: bool = False) -> tuple[Metric, ...]:
    """All metrics of a kind, named KIND/FIELD; what the JSON `body` does not have is null.

    Raises:
        ValueError: it is no JSON object, or has a value that is not of its metric's type.
    """
    fields: dict[str, Any] = json.loads(body)
    fields[JSON] = body.decode()
    try:
        return tuple(
            Metric(f"{kind}/{name}", type_, _value(type_, fields.get(name)), unix_ms, historical)
            for name, type_ in METRICS[kind].items()
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a {kind} as metrics: {error}") from None


def no_verdict_yet(kind: str, unix_ms: int) -> tuple[Metric, ...]:
    """The same metrics before there is one: a birth declares what may come."""
    return tuple(Metric(f"{kind}/{name}", type_, None, unix_ms) for name, type_ in METRICS[kind].items())


def encode(metrics: Iterable[Metric], unix_ms: int, seq: int | None, *, birth: bool = False) -> bytes:
    """A payload. Types go into births only (tck-id-payloads-metric-datatype-not-req)."""
    payload = _payload_class()()
    payload.timestamp = unix_ms
    if seq is not None:
        payload.seq = seq
    for metric in metrics:
        one = payload.metrics.add()
        one.name, one.timestamp = metric.name, metric.unix_ms
        if birth:
            one.datatype = int(metric.type)
        if metric.historical:
            one.is_historical = True
        if metric.value is None:
            one.is_null = True
        else:
            setattr(one, _FIELD_OF[metric.type], metric.value)
    return bytes(payload.SerializeToString())


def wants_rebirth(body: bytes) -> bool:
    """Whether a command asks for births; what cannot be read asks for nothing."""
    from google.protobuf.message import DecodeError

    payload = _payload_class()()
    try:
        payload.ParseFromString(body)
    except DecodeError:
        return False
    return any(metric.name == REBIRTH and metric.boolean_value for metric in payload.metrics)


def _value(type_: Type, value: Any) -> bool | int | float | str | None:
    if value is None:
        return None
    if type_ is Type.DATETIME:
        return _unix_ms(value)
    if isinstance(value, list) and type_ is Type.INT32:
        return len(value)
    if isinstance(value, list) and type_ is Type.STRING:
        return ", ".join(value)
    made: bool | int | float | str = {
        Type.INT32: int, Type.INT64: int, Type.DOUBLE: float, Type.BOOLEAN: bool, Type.STRING: str,
    }[type_](value)  # fmt: skip
    return made


def _unix_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@cache
def _payload_class() -> Any:
    """The message class, in a pool of its own: another Sparkplug library may be loaded beside."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug.proto", package="sparkplug", syntax="proto2")
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")

    def declare(message: Any, name: str, number: int, type_: Any, **more: Any) -> None:
        message.field.add(name=name, number=number, type=type_, **({"label": kinds.LABEL_OPTIONAL} | more))

    declare(payload, "timestamp", 1, kinds.TYPE_UINT64)
    declare(
        payload, "metrics", 2, kinds.TYPE_MESSAGE,
        label=kinds.LABEL_REPEATED, type_name=".sparkplug.Payload.Metric",
    )  # fmt: skip
    declare(payload, "seq", 3, kinds.TYPE_UINT64)
    declare(metric, "name", 1, kinds.TYPE_STRING)
    declare(metric, "timestamp", 3, kinds.TYPE_UINT64)
    declare(metric, "datatype", 4, kinds.TYPE_UINT32)
    declare(metric, "is_historical", 5, kinds.TYPE_BOOL)
    declare(metric, "is_null", 7, kinds.TYPE_BOOL)
    for name, number, type_ in (
        ("int_value", 10, kinds.TYPE_UINT32),
        ("long_value", 11, kinds.TYPE_UINT64),
        ("double_value", 13, kinds.TYPE_DOUBLE),
        ("boolean_value", 14, kinds.TYPE_BOOL),
        ("string_value", 15, kinds.TYPE_STRING),
    ):
        declare(metric, name, number, type_, oneof_index=0)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sparkplug.Payload"))
