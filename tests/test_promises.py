"""docs/promises.md names only tests that exist, and none is left to be filled in."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/promises.md").read_text()


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 60
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file() or (name and name not in functions(ROOT / file))
    ]
    assert missing == []


def test_every_row_says_promise_fault_test_and_result() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "`tests/" in line]
    assert rows
    assert all(len(re.split(r"(?<!\\)\|", row)) == 6 and "| |" not in row for row in rows)
    assert "@" not in TEXT
