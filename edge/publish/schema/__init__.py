"""The shape of what goes on the wire, for consumers and for our own tests."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

ASYNCAPI = "asyncapi"


def asyncapi() -> str:
    """The AsyncAPI 3.0 document of all topics, YAML; it refers to the schemas beside it."""
    return resources.files(__package__).joinpath(f"{ASYNCAPI}.yaml").read_text(encoding="utf-8")


def names() -> tuple[str, ...]:
    """Of the documents that `document` gives, such as verdict-1."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json")))


def document(name: str) -> dict[str, Any]:
    """A JSON Schema (2020-12) by its name.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    text = resources.files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def verdict_schema() -> dict[str, Any]:
    """JSON Schema of the verdict payload, schema name `edge/verdict/1`."""
    return document("verdict-1")


def review_schema() -> dict[str, Any]:
    """JSON Schema of what a person said of a verdict, schema name `edge/review/1`."""
    return document("review-1")
