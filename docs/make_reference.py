"""`python docs/make_reference.py`: writes docs/reference.md from the code.

What is said of a configuration key is the comment beside it in edge/config.py, and in config.toml.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import tokenize
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import typer
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edge import config
from edge.cli import app
from edge.observe.metrics import Metrics

FILE = Path(__file__).parent / "reference.md"
SCHEMAS = Path(inspect.getfile(config)).parent / "publish/schema"
ABOUT_COMMANDS = (
    "Every command takes `--config PATH` (default: `EDGE_CONFIG`, else `./config.toml`, else "
    "`/etc/edge/config.toml`) where it needs a site, and `--json` where it answers."
)
ABOUT_KEYS = (
    "Keys of `config.toml`; paths are relative to it. `edge check` names file, line, key and fix of what is "
    "wrong."
)
ABOUT_METRICS = "At `/metrics`. Alerts and dashboards over them: [monitoring.md](monitoring.md)."
ABOUT_PAYLOADS = "JSON Schemas, shipped with edge; which topic carries which: [mes.md](mes.md)."
HIDDEN = {"file", "digest"}  # of Settings: not in the file


def commands() -> Iterator[str]:
    """Every command with its options, as `--help` has them."""
    root: Any = typer.main.get_command(app)
    yield from _command(root, "edge")


def _command(command: Any, name: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if name != "edge":
        yield f"### `{name}`\n"
        yield _cell(command.help or "").replace("\n\n", " ") + "\n"
        yield from _parameters(command)
    for child in sorted(children):
        if not children[child].hidden:
            yield from _command(children[child], f"{name} {child}")


def _parameters(command: Any) -> Iterator[str]:
    shown = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    if not shown:
        return
    yield "| option | what it does |\n|---|---|"
    for one in shown:
        if one.param_type_name == "argument":
            name = (
                f"`{one.make_metavar() if not one.metavar else one.metavar}`"
                if one.metavar
                else f"`{one.name.upper()}`"
            )
        else:
            name = ", ".join(f"`{opt}`" for opt in (*one.opts, *one.secondary_opts))
        default = _default(one)
        yield f"| {name} | {_cell(getattr(one, 'help', '') or '')}{default} |"
    yield ""


def _default(parameter: Any) -> str:
    value = parameter.default
    if (
        value is None
        or value is False
        or callable(value)
        or value == ()
        or "default:" in (parameter.help or "")
    ):
        return " (required)" if parameter.required else ""
    return f" \\[default: {_cell(str(getattr(value, 'value', value)))}]"


def configuration() -> Iterator[str]:
    """Every key of config.toml with its type, default, and the comment beside it."""
    for table, model in _tables(config.Settings, ""):
        comments = comments_of(model)
        yield f"### {table}\n" if table else "### at the top\n"
        if said := _cell((model.__doc__ or "").split("\n\n")[0]):
            yield said + "\n" if table else ""
        yield "| key | type | default | |\n|---|---|---|---|"
        for name, field in model.model_fields.items():
            if name in HIDDEN or _is_table(field.annotation):
                continue
            yield (f"| `{name}` | {_type(field)} | {_value(field)} | {_cell(comments.get(name, ''))} |")
        yield ""


def _tables(model: type[BaseModel], name: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield (f"`{name}`" if name else ""), model
    for key, field in model.model_fields.items():
        if inner := _is_table(field.annotation):
            path = f"{name.strip('[]')}.{key}" if name else key
            kind = get_origin(field.annotation)
            if kind is tuple:
                path = f"[[{path}]]"
            elif kind is dict:
                path = f"[{path}.NAME]"
            else:
                path = f"[{path}]"
            yield from _tables(inner, path)


def _is_table(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _is_table(one))), None)


def comments_of(model: type[BaseModel]) -> dict[str, str]:
    """Field → the comment behind it, or on the lines right above it."""
    source = inspect.getsource(model)
    own = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            behind = [own[line] for line in lines if line in own]
            above, line = [], node.lineno - 1
            while line in own and source.splitlines()[line - 1].lstrip().startswith("#"):
                above.insert(0, own[line])
                line -= 1
            if text := " ".join(behind or above):
                found[node.target.id] = text
    for base in model.__mro__[1:]:
        if issubclass(base, BaseModel) and base.__module__ == config.__name__ and base.model_fields:
            found = comments_of(base) | found
    return found


def _type(field: FieldInfo) -> str:
    return _named(field.annotation)


def _named(annotation: Any) -> str:
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{json.dumps(value)}`" for value in of)
    if origin in (UnionType, typing.Union):
        return " or ".join(_named(one) for one in of if one is not NoneType)
    if origin is tuple:
        if of[-1] is Ellipsis:
            return f"list of {_named(of[0])}"
        return f"[{', '.join(_named(one) for one in of)}]"
    if origin is typing.Annotated:
        return _named(of[0])
    names = {str: "text", int: "whole number", float: "number", bool: "true, false", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _value(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == ():
        return ""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    return f"`{json.dumps(value)}`"


def metrics() -> Iterator[str]:
    """Every metric with its labels and its own help text."""
    own = Metrics(CollectorRegistry())
    yield "| metric | labels | |\n|---|---|---|"
    for metric in sorted(_families(own), key=lambda one: str(one._name)):
        name = metric._name + ("_total" if metric._type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        kind = {"histogram": " (histogram)"}.get(metric._type, "")
        yield f"| `{name}`{kind} | {labels} | {_cell(metric._documentation)} |"
    yield "\nand those of the process (`process_resident_memory_bytes`, `process_cpu_seconds_total`, …).\n"


def _families(metrics: Metrics) -> list[Any]:
    return [one for one in vars(metrics).values() if hasattr(one, "_documentation")]


def payloads() -> Iterator[str]:
    """Every field of every document that goes on the wire."""
    for file in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(file.read_text())
        yield f"### {schema.get('title', file.stem)}\n"
        yield f"`edge/publish/schema/{file.name}`. {_cell(schema.get('description', ''))}\n"
        yield "| field | type | |\n|---|---|---|"
        yield from _fields(schema, schema, "")
        yield ""


def _fields(schema: dict[str, Any], root: dict[str, Any], prefix: str) -> Iterator[str]:
    merged = dict(schema.get("properties", {}))
    for key in ("allOf", "oneOf", "anyOf"):
        for part in schema.get(key, ()):
            for name, value in {
                **_resolved(part, root).get("properties", {}),
                **part.get("then", {}).get("properties", {}),
            }.items():
                merged.setdefault(name, value)
    for name, value in merged.items():
        one = _resolved(value, root) if isinstance(value, dict) else {}
        items = _resolved(one["items"], root) if isinstance(one.get("items"), dict) else {}
        yield f"| `{prefix}{name}` | {_json_type(one, items)} | {_cell(one.get('description', ''))} |"
        if one.get("properties"):
            yield from _fields(one, root, f"{prefix}{name}.")
        elif items.get("properties"):
            yield from _fields(items, root, f"{prefix}{name}[].")


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if ref := schema.get("$ref", ""):
        found: Any = root
        for step in ref.removeprefix("#/").split("/"):
            found = found.get(step, {})
        return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _json_type(schema: dict[str, Any], items: dict[str, Any]) -> str:
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " \\| ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = schema.get("type", "")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return f"list of {items['type']}" if text == "array" and isinstance(items.get("type"), str) else text


def _cell(text: str) -> str:
    """Plain text for a cell of a table."""
    return re.sub(r"\s+", " ", text).strip().replace("\\[", "[").replace("|", "\\|")


def document() -> str:
    """The whole page."""
    parts = {
        "Commands": (ABOUT_COMMANDS, commands()),
        "Configuration": (ABOUT_KEYS, configuration()),
        "Metrics": (ABOUT_METRICS, metrics()),
        "Payloads": (ABOUT_PAYLOADS, payloads()),
    }
    contents = " · ".join(f"[{title}](#{title.lower()})" for title in parts)
    text = (
        f"# Reference\n\nMade from the code by `python docs/make_reference.py`; do not edit.\n\n{contents}\n"
    )
    for title, (says, lines) in parts.items():
        text += f"\n## {title}\n{says}\n\n" + "\n".join(lines)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


if __name__ == "__main__":
    FILE.write_text(document())
