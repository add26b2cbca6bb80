"""What of a verdict a sink sends: some fields of it. What is stored stays whole."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from edge.publish import Message
from edge.publish.payload import encode
from edge.publish.schema import verdict_schema

# without these a consumer can neither tell what it has nor drop a repeat
ALWAYS = ("schema", "resultId", "resultType", "creationTime", "station", "resultEvaluation")


@dataclass(frozen=True, slots=True)
class Selection:
    """Fields to keep, or (with a minus before each) to leave out; dotted for those inside others."""

    keep: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()

    @classmethod
    def of(cls, fields: Sequence[str]) -> Selection:
        """From `fields` of a configuration.

        Raises:
            ValueError: some with and some without a minus, or a field that no verdict has.
        """
        minus = [field.removeprefix("-") for field in fields if field.startswith("-")]
        plus = [field for field in fields if not field.startswith("-")]
        if minus and plus:
            raise ValueError("give fields to keep, or fields to leave out with a minus each, not both")
        known = known_fields()
        for field in (*minus, *plus):
            if field not in known and not field.startswith("statistics."):
                raise ValueError(f"{field!r} is no field of a verdict; known: {', '.join(sorted(known))}")
        if wrong := [field for field in minus if field in ALWAYS]:
            raise ValueError(f"{wrong[0]!r} is always sent: without it repeats cannot be told")
        return cls(frozenset(plus), frozenset(minus))

    def apply(self, message: Message) -> Message:
        """The message with what is left of its body; reviews are always whole."""
        if message.kind == "review" or not (self.keep or self.drop):
            return message
        body = json.loads(message.body)
        if self.keep:
            chosen = _kept(body, self.keep)
            body = {name: body[name] if name in ALWAYS else chosen[name] for name in body
                    if name in ALWAYS or name in chosen}  # fmt: skip
        for field in self.drop:
            _remove(body, field.split("."))
        return Message(message.row_id, message.kind, message.result_id, encode(body))


def known_fields() -> frozenset[str]:
    """Fields of a verdict, and of the objects in it."""
    schema = verdict_schema()
    found = set()
    for name, value in schema["properties"].items():
        found.add(name)
        while "$ref" in value:
            value = schema["$defs"][value["$ref"].rpartition("/")[2]]
        options = [value, *value.get("anyOf", ()), *value.get("oneOf", ())]
        for option in options:
            while "$ref" in option:
                option = schema["$defs"][option["$ref"].rpartition("/")[2]]
            found |= {f"{name}.{inner}" for inner in option.get("properties", {})}
    return frozenset(found)


def _kept(body: dict[str, Any], keep: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in body.items():
        inner = {field.partition(".")[2] for field in keep if field.startswith(f"{name}.")}
        if name in keep:
            found[name] = value
        elif inner and isinstance(value, dict):
            found[name] = {key: one for key, one in value.items() if key in inner}
    return found


def _remove(body: Any, path: Sequence[str]) -> None:
    for name in path[:-1]:
        body = body.get(name) if isinstance(body, dict) else None
    if isinstance(body, dict):
        body.pop(path[-1], None)
