"""`edge keygen` and `edge sign`: whose engines and calibrations a site trusts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edge.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def keygen(
    folder: Annotated[Path, typer.Argument(help="Where the two files go.", metavar="DIR")],
    name: Annotated[str, typer.Option("--name", help="Files NAME.key and NAME.pub.")] = "edge",
    as_json: Json = False,
) -> None:
    """Make a key pair for signing. NAME.key is secret, stays where recipes are made, and is never replaced.

    NAME.pub goes to the boxes that shall trust it, below \\[security] trusted_keys.
    """
    from edge.config import label
    from edge.signing import make_keys

    try:
        label(name)
    except ValueError as error:
        raise UsageError(f"--name {name!r}: {error}") from None
    private, public, key = make_keys(folder, name)
    if as_json:
        print(json.dumps({"key": key, "private": str(private), "public": str(public)}))
    else:
        print(f"{private}: private key {key}: keep it secret, and off the boxes that inspect")
        print(f'{public}: public key: copy it to them, and set [security] trusted_keys = "FOLDER"')


def sign(
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe's name.")],
    key: Annotated[Path, typer.Option("--key", help="Private key file, as edge keygen made it.")],
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file.")] = None,
    as_json: Json = False,
) -> None:
    """Sign a recipe's engine and calibration. Needed again whenever one of them was made again.

    Only what is whole, and an engine and a calibration that belong to each other, are signed.
    """
    from edge import config as configuration
    from edge.recipes import sign_recipe
    from edge.signing import key_name, read_private

    private = read_private(key)
    files = sign_recipe(configuration.site(config), recipe, private)
    if as_json:
        named = key_name(private.public_key())
        print(json.dumps({"recipe": recipe, "key": named, "files": [str(file) for file in files]}))
    else:
        for file in files:
            print(file)
