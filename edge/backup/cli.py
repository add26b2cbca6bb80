"""`edge backup FILE` and `edge restore FILE --to FOLDER`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write, such as site.tar.", metavar="FILE")],
    with_evidence: Annotated[
        bool,
        typer.Option(
            "--with-evidence",
            help="Pictures of verdicts, frames that people reviewed, reports of replays, too.",
        ),
    ] = False,
    with_secrets: Annotated[
        bool,
        typer.Option("--with-secrets", help="Password, token and key files below the site's folder, too."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file.")] = None,
    as_json: Json = False,
) -> None:
    """Back up a site into one file, daemon running or not.

    Configuration, engines, calibrations and database (verdicts, reviews, outbox), each with its sha256.
    """
    from edge import config as configuration
    from edge.backup.make import back_up

    settings = configuration.load(configuration.find(config))
    manifest = back_up(settings, file, with_evidence=with_evidence, with_secrets=with_secrets, force=force)
    size = sum(stored.bytes_ for stored in manifest.files.values())
    if as_json:
        left_out = dict(manifest.left_out)
        print(
            json.dumps({"file": str(file), "files": len(manifest.files), "bytes": size, "leftOut": left_out})
        )
        return
    print(f"{file}: {len(manifest.files)} files, {size / 1e6:.1f} MB, of station {manifest.station}")
    for key, what in manifest.left_out.items():
        print(f"not in it: {key}: {what}")


def restore(
    file: Annotated[Path, typer.Argument(help="What edge backup wrote.", metavar="FILE")],
    to: Annotated[Path, typer.Option("--to", help="The folder of the site: empty, or not there yet.")],
    force: Annotated[bool, typer.Option("--force", help="Also over files that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Check a backup and make the site again. What was not delivered then is delivered now.

    Verdicts that went out after the backup go out again with the resultId they had: consumers drop them.
    """
    from edge.backup.restore import restore as put_back

    done = put_back(file, to, force=force)
    if as_json:
        said = {"folder": str(done.folder), "files": len(done.manifest.files), "verdicts": done.verdicts}
        print(json.dumps({**said, "waiting": done.waiting, "notes": list(done.notes)}))
        return
    print(f"{done.folder}: {len(done.manifest.files)} files, as of {done.manifest.created}")
    print(f"{done.verdicts} verdicts, {done.waiting} of them wait to be delivered")
    for note in done.notes:
        print(f"note: {note}")
    print(f"then: edge check --config {done.folder / 'config.toml'}")
