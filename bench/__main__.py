"""`python -m bench`: run benches, show and write what they found."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.context import Context, FailedError, SkippedError
from bench.section import Section, render, write

ORDER = (
    "nanofibre",
    "patch_dense",
    "nanofibre_patches",
    "magnetic_tile",
    "turntable",
    "commutator",
    "steel_rle",
    "solder",
    "weld_xray",
    "weld_fragments",
    "burst",
    "throughput",
    "large",
    "decoders",
    "install",
    "bitdepth",
)
RESULTS = machine.ROOT / "docs/results.md"
FACTS = machine.ROOT / "results"  # ignored by git

EXIT_FAILED = 1
EXIT_USAGE = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 0 if nothing failed."""
    asked = _parser().parse_args(arguments)
    if asked.list:
        for name in ORDER:
            print(f"{name:<14} {_module(name).__doc__.splitlines()[0]}")
        return 0
    unknown = [name for name in asked.names if name not in ORDER]
    if unknown:
        print(f"no bench {unknown[0]!r}; there are {', '.join(ORDER)}", file=sys.stderr)
        return EXIT_USAGE
    outcomes = [run_one(name, asked) for name in ORDER if name in asked.names or not asked.names]
    return 0 if all(outcomes) else EXIT_FAILED


def run_one(name: str, asked: argparse.Namespace) -> bool:
    """Run one bench and keep its section; says whether it succeeded (or was rightly skipped)."""
    folder = Path(tempfile.mkdtemp(prefix=f"edge-bench-{name}-"))
    context = Context(folder, quick=asked.quick)
    load, began_s = machine.OtherLoad(), time.monotonic()
    print(f"== {name} in {folder}", file=sys.stderr)
    try:
        section: Section = _module(name).run(context)
    except SkippedError as reason:
        must = os.environ.get("EDGE_REQUIRE_ALL") == "1"
        print(f"== {name} {'FAILED' if must else 'skipped'}: {reason}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return not must
    except FailedError as error:
        print(f"== {name} FAILED (kept: {folder}): {error}", file=sys.stderr)
        return False
    text = render(name, section, _circumstances(name, asked, load, began_s), context.commands)
    print(text)
    if not asked.quick:
        write(asked.results, name, text, ORDER)
        _keep_facts(name, section)
    if asked.keep:
        print(f"== kept: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def _circumstances(
    name: str, asked: argparse.Namespace, load: machine.OtherLoad, began_s: float
) -> list[str]:
    command = shlex.join(["python", "-m", "bench", name, *(["--quick"] if asked.quick else [])])
    return [
        f"*{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {machine.describe()} · commit {machine.commit()} · "
        f"`{command}` · {(time.monotonic() - began_s) / 60:.1f} minutes in all · "
        f"other processes kept {load.cores():.2f} cores busy meanwhile*"
    ]


def _keep_facts(name: str, section: Section) -> None:
    FACTS.mkdir(exist_ok=True)
    (FACTS / f"{name}.json").write_text(json.dumps(section.facts, indent=1, default=str) + "\n")


def _module(name: str) -> Any:
    return importlib.import_module(f"bench.{name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benches to run [default: all]")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--quick", action="store_true", help="tiny settings, to try the benches; not written")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folders")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write [docs/results.md]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
