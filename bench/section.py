"""A bench's result as text, and docs/results.md as a list of sections that can be replaced one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEAD = """# Results

Written by `python -m bench` (all of it) or `python -m bench NAME…` (those sections); do not edit by hand.
Every figure comes from the shipped commands in a temporary site, on the machine named in its section.
Image sets are described in `../shared/data/README.md`; a bench without its images says so and is left out.
"""


@dataclass(frozen=True, slots=True)
class Section:
    """What one bench found."""

    title: str
    lines: Sequence[str]  # Markdown
    facts: Mapping[str, Any] = field(default_factory=dict)  # the same figures for programs


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table; the first column is left-aligned, the others right."""
    rule = [":--", *("--:" for _ in header[1:])]
    return [f"| {' | '.join(map(str, cells))} |" for cells in (header, rule, *rows)]


def render(name: str, section: Section, circumstances: Sequence[str], commands: Sequence[str]) -> str:
    """A section between its markers."""
    shown = ["", "<details><summary>commands</summary>", "", "```", *commands, "```", "</details>"]
    body = [f"## {section.title}", "", *section.lines, "", *circumstances, *(shown if commands else [])]
    begin, end = _markers(name)
    return "\n".join([begin, *body, end]) + "\n"


def place(document: str, name: str, rendered: str, order: Sequence[str]) -> str:
    """The document with that section replaced, or put where `order` wants it; the others stay as they are."""
    sections = {known: found for known in order if (found := _find(document, known))} | {name: rendered}
    return HEAD + "".join("\n" + sections[known] for known in order if known in sections)


def write(file: Path, name: str, rendered: str, order: Sequence[str]) -> None:
    """Place a section in the file, which need not exist."""
    document = file.read_text(encoding="utf-8") if file.exists() else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(place(document, name, rendered, order), encoding="utf-8")


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"


def _find(document: str, name: str) -> str:
    begin, end = map(re.escape, _markers(name))
    found = re.search(rf"^{begin}\n.*?^{end}\n", document, re.DOTALL | re.MULTILINE)
    return found[0] if found else ""
