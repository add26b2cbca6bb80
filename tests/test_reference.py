"""docs/reference.md is what the code says, and says something of everything."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from edge import config

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date(reference: ModuleType) -> None:
    kept = (ROOT / "docs/reference.md").read_text()
    assert kept == reference.document(), "run python docs/make_reference.py"


def test_every_key_of_the_configuration_is_explained(reference: ModuleType) -> None:
    seen = 0
    for table, model in reference._tables(config.Settings, ""):
        comments = reference.comments_of(model)
        for name, field in model.model_fields.items():
            if name not in reference.HIDDEN and not reference._is_table(field.annotation):
                seen += 1
                assert comments.get(name), f"{table} {name}: put a comment beside it in edge/config.py"
    assert seen > 60


def test_every_option_of_every_command_is_explained(reference: ModuleType) -> None:
    empty = [line for line in reference.commands() if line.startswith("| `") and line.endswith("|  |")]
    assert empty == []
