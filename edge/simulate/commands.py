"""`edge simulate` and what is below it: `scan` (also without its name), `render`, `defects`."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from typer.core import TyperGroup

from edge.errors import UsageError
from edge.options import parse_range, parse_size
from edge.simulate.cli import PROGRESS_EVERY_S, simulate

if TYPE_CHECKING:  # the command line starts without numpy and OpenCV
    from edge.dataset import Sample
    from edge.simulate.anomalies import Kind

SCAN = "scan"
HELP = ("-h", "--help")


class ScanByDefault(TyperGroup):
    """A group whose first word may be left out: `edge simulate DIR …` is `edge simulate scan DIR …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in HELP):
            args = [SCAN, *args]
        return super().parse_args(ctx, args)


simulate_app = typer.Typer(
    cls=ScanByDefault,
    help="""Frames without a scanner: simulated, replayed, rendered from CAD, or given synthetic defects.

    `edge simulate DIR …` is short for `edge simulate scan DIR …`; its options: `edge simulate scan --help`.
    """,
)
simulate_app.command(SCAN)(simulate)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed writes the same files.")]


@simulate_app.command()
def render(
    mesh: Annotated[Path, typer.Option(help="The part: STL, OBJ, PLY, OFF or GLB, z up.")],
    out: Annotated[Path, typer.Option(help="Folder for frames, foreground masks and manifests.")],
    views: Annotated[int, typer.Option(min=1, max=360, help="Angles around the part.")] = 24,
    cameras: Annotated[
        int, typer.Option(min=1, max=2, help="1, or a pair 5 cm apart (views 01a, 01b, …).")
    ] = 2,
    parts: Annotated[
        int, typer.Option(min=1, help="How often: each part has its own material and light.")
    ] = 1,
    unit: Annotated[str, typer.Option(help="Of the mesh: mm, cm, m or inch.")] = "mm",
    elevation: Annotated[
        str, typer.Option(help="Degrees above the table; 15:60 climbs along the path.")
    ] = "30",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT.")] = "1024x768",
    bits: Annotated[int, typer.Option(help="8 or 16.")] = 8,
    spp: Annotated[int, typer.Option(help="Light paths a pixel: 4, 16, 64, 256 or 1024.")] = 16,
    material: Annotated[
        Literal["any", "plastic", "metal", "paint"], typer.Option(help="What the part is made of.")
    ] = "any",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    r"""Render good frames of a part from its CAD mesh, with exact foreground masks.

    Each view is a path-traced grey picture of the part on a table under a spot light, seen from at least
    0.5 m, with small errors of pose and light and a sensor's noise. manifest.csv lists the frames (good,
    no mask); foreground.csv lists them with their foreground masks, for learning masks; poses.jsonl says
    where each camera and lamp stood. Ctrl-C ends it early and keeps what is written.

    Needs the extra: pip install "edge-inspect\[render]".
    """
    from edge.simulate.cad import RenderSpec, render_set
    from edge.simulate.mesh import load_shape
    from edge.simulate.rig import Path3D
    from edge.simulate.signals import stop_on_signals

    if bits not in (8, 16):
        raise UsageError(f"--bits {bits}: not a depth of PNG", hint="8 or 16")
    spec = RenderSpec(
        path=Path3D(views, _elevation(elevation), cameras),
        parts=parts,
        size=parse_size(size) or (0, 0),
        samples=spp,
        bits=cast(Literal[8, 16], bits),
        material=None if material == "any" else material,
        seed=seed,
    )
    shape = load_shape(mesh, unit)
    progress = _Progress("rendered", spec.frames)
    stop = threading.Event()

    def on_frame(done: int) -> bool:
        progress(done)
        return not stop.is_set()

    with stop_on_signals(stop):
        made = render_set(shape, out, spec, on_frame)
    summary = {
        "folder": str(out),
        "frames": made.frames,
        "planned": spec.frames,
        "parts": parts,
        "manifest": str(made.manifest),
        "foreground": str(made.foreground),
        "mesh": {"faces": len(shape.faces), "radius_m": round(shape.radius_m, 6)},
        "seconds": round(made.seconds, 3),
    }
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    extent = f"{len(shape.faces)} faces, {2000 * shape.radius_m:.4g} mm across"
    print(f"{made.frames} of {spec.frames} frames in {out} ({extent}); {made.seconds:.1f} s")
    print(f"frames: {made.manifest}; with foreground masks: {made.foreground}")


@simulate_app.command()
def defects(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of good frames, or a manifest.")],
    out: Annotated[Path, typer.Option(help="Folder for frames, masks and the manifest.")],
    kinds: Annotated[
        str, typer.Option(help="Which: scratch, pit, stain, blend, by commas.")
    ] = "scratch,pit,stain,blend",
    per_frame: Annotated[int, typer.Option(min=1, help="Defects in each of these frames.")] = 1,
    share: Annotated[float, typer.Option(help="Share of the good frames that get a defective copy.")] = 1.0,
    foreground: Annotated[
        Path | None, typer.Option(help="Manifest whose masks are the part: defects lie on it only.")
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option("--value-range", help="Stored values that are black and white, LOW:HIGH."),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Paint scratches, pits, stains and blended patches into good frames, with exact masks.

    The copies keep the original's bit depth and format: PNG where that was JPEG or BMP, 16-bit PNG for DICOM
    and for what declares a range of its own. manifest.csv lists good originals and defective copies.
    """
    from edge.dataset import samples
    from edge.simulate.injection import Injection, inject

    what = Injection(
        kinds=cast("tuple[Kind, ...]", tuple(kind.strip() for kind in kinds.split(","))),
        per_frame=per_frame,
        share=share,
        seed=seed,
        value_range=parse_range(value_range),
    )
    dataset = samples(images)
    _refuse_inside(out, images, dataset.source)
    masks = None if foreground is None else _masks(foreground)
    started_s = time.monotonic()
    done = inject(dataset.samples, out, what, masks, _Progress("looked at", 0))
    for line in done.skipped:
        print(f"edge: no defect in {line}", file=sys.stderr)
    seconds = time.monotonic() - started_s
    summary = {
        "folder": str(out),
        "good": done.good,
        "defect": done.defect,
        "by_kind": dict(sorted(done.by_kind.items())),
        "skipped": done.skipped,
        "manifest": str(done.manifest),
        "seconds": round(seconds, 3),
    }
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(done.by_kind.items()))
    print(f"{done.defect} defective copies of {done.good} good frames: {counts}; {seconds:.1f} s")
    print(f"manifest: {done.manifest}")


class _Progress:
    """A line on stderr now and then."""

    def __init__(self, verb: str, total: int) -> None:
        self._verb, self._total = verb, total
        self._started_s = self._said_s = time.monotonic()

    def __call__(self, done: int, total: int | None = None) -> None:
        now_s, total = time.monotonic(), total or self._total
        if now_s - self._said_s < PROGRESS_EVERY_S:
            return
        self._said_s = now_s
        left_s = (now_s - self._started_s) / done * (total - done)
        print(f"{self._verb} {done} of {total} frames, about {left_s:.0f} s left", file=sys.stderr)


def _elevation(text: str) -> tuple[float, float]:
    first, _, last = text.partition(":")
    try:
        return float(first), float(last or first)
    except ValueError:
        raise UsageError(f"--elevation {text}: not degrees", hint="such as 30, or 15:60") from None


def _masks(manifest: Path) -> dict[Path, Path]:
    """Frame → foreground mask, both absolute."""
    from edge.dataset import read_manifest

    rows: list[Sample] = read_manifest(manifest)
    return {row.file: row.mask for row in rows if row.mask is not None}


def _refuse_inside(out: Path, images: Path, source: Path) -> None:
    """A plain folder of frames would hold defective ones from now on."""
    if source.is_dir() and out.resolve().is_relative_to(images.resolve()):
        raise UsageError(f"{out} is inside {images}", hint="keep --out outside the folder of good frames")


@simulate_app.command()
def mes(
    config: Annotated[Path | None, typer.Option("--config", help="Configuration file.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Listen for so long [default: until Ctrl-C]")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=0, help="End after results of so many frames.")] = None,
    session: Annotated[
        str | None,
        typer.Option(help="Keep a session of this name: what comes while it is away waits at the broker."),
    ] = None,
    json_: Json = False,
) -> None:
    """Print what arrives at an MES, and check it: schema, order, repeats, parts against their frames.

    Exit 1 if anything is wrong. It reads the broker's address from config.toml, as the daemon does.
    """
    import os

    from edge.simulate.mes import run_mes

    raise typer.Exit(
        run_mes(
            config=config, seconds=seconds, frames=frames, session=session, json=json_, environ=os.environ
        )
    )
