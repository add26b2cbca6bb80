"""The shape of what goes on the wire, for consumers and for our own tests."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def verdict_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the verdict payload, schema name `edge/verdict/1`."""
    return _schema("verdict-1.json")


def review_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of what a person said of a verdict, schema name `edge/review/1`."""
    return _schema("review-1.json")


def _schema(name: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
