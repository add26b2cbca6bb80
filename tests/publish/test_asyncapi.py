"""The AsyncAPI document: well formed, complete, and about schemas that are shipped.

What the specification (3.0.0, "Fixed Fields") requires of each object is held here, without a validator.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import yaml

from edge.publish.schema import asyncapi, names

DOCUMENT: dict[str, Any] = yaml.safe_load(asyncapi())


def refs(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [one for value in node.values() for one in refs(value)]
    return [one for item in node for one in refs(item)] if isinstance(node, list) else []


def test_what_the_specification_requires_is_there() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    allowed = {
        "asyncapi",
        "id",
        "info",
        "servers",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    }
    assert set(DOCUMENT) <= allowed
    for server in DOCUMENT["servers"].values():
        assert {"host", "protocol"} <= set(server)
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"]["$ref"].startswith("#/channels/")
        assert operation["bindings"]["mqtt"]["qos"] == 1


def test_every_reference_leads_somewhere() -> None:
    found = refs(DOCUMENT)
    assert len(found) > 20
    for ref in found:
        if ref.startswith("./"):
            assert ref.removeprefix("./").removesuffix(".json") in names()
            continue
        node: Any = DOCUMENT
        for step in ref.removeprefix("#/").split("/"):
            node = node[step]


def test_every_schema_is_used_and_every_channel_has_an_operation_and_its_parameters() -> None:
    used = {ref.removeprefix("./").removesuffix(".json") for ref in refs(DOCUMENT) if ref.startswith("./")}
    assert used == set(names())
    operations = DOCUMENT["operations"].values()
    channels = {ref.split("/")[2] for operation in operations for ref in refs(operation)}
    assert channels == set(DOCUMENT["channels"])
    for channel in DOCUMENT["channels"].values():
        assert channel["messages"]
        for name in channel["parameters"]:
            assert f"{{{name}}}" in channel["address"]
        assert channel["address"].count("{") == len(channel["parameters"])


def test_the_command_prints_it() -> None:
    for name, begins in (("asyncapi", "asyncapi: 3.0.0"), ("verdict-1", "{")):
        done = subprocess.run(
            [sys.executable, "-m", "edge", "schema", name],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.startswith(begins)
    wrong = subprocess.run(
        [sys.executable, "-m", "edge", "schema", "nonsense"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert wrong.returncode == 64
    assert "asyncapi, info-1" in wrong.stderr
