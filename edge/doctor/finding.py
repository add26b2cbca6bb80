"""What a check says, and what checks share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "note", "warning", "fault"]
"""note: worth knowing; warning: it runs, and worse than it could; fault: it does not run, or not for long."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How one thing stands; `fix` says what to do, and is empty where there is nothing to do."""

    topic: str
    level: Level
    says: str
    fix: str = ""


def count(number: int, what: str) -> str:
    """ "1 fault", "2 faults"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def size_text(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.1f} GB"


def read(file: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
