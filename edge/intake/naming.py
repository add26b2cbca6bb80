"""Names → part, view, batch: by a template, a regular expression, or DICOM tags."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePosixPath

from edge.errors import DataError
from edge.types import Identity

FIELDS = ("part", "view", "batch")

Naming = Callable[[str, Mapping[str, str], int, int], Identity]
"""(path relative to the source, DICOM tags, page, pages) → Identity; raises DataError("name_unmatched")."""


def printable(path: str) -> str:
    """A path as JSON and databases can hold it: bytes of a name that are not UTF-8 are written out."""
    return path.encode("utf-8", "backslashreplace").decode()


def compile_naming(
    template: str | None = None, pattern: str | None = None, dicom: Mapping[str, str | None] | None = None
) -> Naming:
    """The rule that turns a frame's path or tags into its identity.

    A page of a file with several pages is a view (1-based, at least two digits): "03", or "top-03" where the
    rule gives the view "top".

    Raises:
        ValueError: the template or pattern is malformed.
    """
    if dicom is not None:
        return _by_tags(dicom)
    if template is not None:
        return _by_pattern(
            template_to_pattern(template),
            f"template {template!r}",
            ignore_suffix=not PurePosixPath(template).suffix,
        )
    if pattern is not None:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if unknown := set(compiled.groupindex) - set(FIELDS):
            raise ValueError(f"unknown groups {sorted(unknown)}; named groups are part, view, batch")
        return _by_pattern(compiled, f"pattern {pattern!r}", ignore_suffix=False)
    return unnamed


def template_to_pattern(template: str) -> re.Pattern[str]:
    """`{batch}/{part}_{view}` → a regular expression over the last path components.

    A field matches one or more characters other than `/`, as many as possible from the left; `{*}` matches
    anything within one component.
    """
    parts = re.split(r"(\{[^{}]*\})", template)
    fields: list[str] = []
    regex = ""
    for part in parts:
        if part == "{*}":
            regex += "[^/]*"
        elif part.startswith("{"):
            name = part[1:-1]
            if name not in FIELDS:
                raise ValueError(f"unknown field {part}; fields are {{part}}, {{view}}, {{batch}} and {{*}}")
            regex += f"(?P={name})" if name in fields else f"(?P<{name}>[^/]+)"
            fields.append(name)
        elif "{" in part or "}" in part:
            raise ValueError(f"unbalanced brace in template {template!r}")
        else:
            regex += re.escape(part)
    if not fields:
        raise ValueError("names no field; fields are {part}, {view}, {batch}")
    return re.compile(f"(?:.*/)?{regex}", re.DOTALL)


def _by_pattern(compiled: re.Pattern[str], rule: str, *, ignore_suffix: bool) -> Naming:
    return partial(_name_by_pattern, compiled, rule, ignore_suffix)  # unlike a closure it can be pickled


def _name_by_pattern(
    compiled: re.Pattern[str], rule: str, ignore_suffix: bool,
    path: str, tags: Mapping[str, str], page: int, pages: int,
) -> Identity:  # fmt: skip
    text = path = printable(path)
    if ignore_suffix:
        stem, _, suffix = path.rpartition(".")
        text = path if "/" in suffix or not stem or stem.endswith("/") else stem
    match = compiled.fullmatch(text)
    if not match:
        raise DataError(
            f"{path}: the name does not match the {rule}",
            hint="mend the name, or the source's template or pattern in config.toml",
            reason="name_unmatched",
        )
    return _with_page(Identity(**match.groupdict()), page, pages)


def _by_tags(keywords: Mapping[str, str | None]) -> Naming:
    return partial(_name_by_tags, dict(keywords))


def _name_by_tags(
    keywords: Mapping[str, str | None], path: str, tags: Mapping[str, str], page: int, pages: int
) -> Identity:
    found = {field: tags.get(keyword, "") for field, keyword in keywords.items() if keyword}
    if missing := [keywords[field] for field, value in found.items() if not value]:
        raise DataError(
            f"{path}: no DICOM tag {', '.join(map(str, missing))}",
            hint="choose tags the scanner writes in the source's dicom = {…} in config.toml",
            reason="name_unmatched",
        )
    return _with_page(Identity(**found), page, pages)


def unnamed(path: str, tags: Mapping[str, str], page: int, pages: int) -> Identity:
    """Where no rule is given: names say nothing."""
    return _with_page(Identity(), page, pages)


def _with_page(identity: Identity, page: int, pages: int) -> Identity:
    """Each page of a file is a view: its number, behind the name's view where there is one."""
    if pages == 1:
        return identity
    number = f"{page + 1:02d}"
    view = number if identity.view is None else f"{identity.view}-{number}"
    return Identity(part=identity.part, view=view, batch=identity.batch)
