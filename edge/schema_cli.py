"""`edge schema`: the documents that describe what goes on the wire."""

from __future__ import annotations

from typing import Annotated

import typer

from edge.errors import UsageError


def schema(
    name: Annotated[str | None, typer.Argument(help="Which; left out: their names.")] = None,
) -> None:
    """Print the JSON Schema of what edge publishes, or asyncapi: the AsyncAPI 3.0 document of all topics."""
    import json

    from edge.publish.schema import ASYNCAPI, asyncapi, document, names

    if name is None:
        print("\n".join((ASYNCAPI, *names())))
        return
    if name == ASYNCAPI:
        print(asyncapi(), end="")
        return
    if name not in names():
        raise UsageError(f"{name!r} is no schema", hint=f"there are {', '.join((ASYNCAPI, *names()))}")
    print(json.dumps(document(name), indent=2, ensure_ascii=False))
