"""`edge simulate`: frames into a folder as a scanner would write them, and the truth about them elsewhere."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edge.errors import CannotWriteError, UsageError

if TYPE_CHECKING:  # the command line starts without numpy and OpenCV
    from edge.simulate.formats import Encoding, Format, Photometric
    from edge.simulate.shots import Capture, Shot
    from edge.simulate.truth import Truth

DEFAULT_RATE = 5.0  # frames per second
DEFAULT_PARTS = 10
DEFAULT_DEFECT_SHARE = 0.2
PROGRESS_EVERY_S = 2.0


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write frames into: a source's directory.")],
    frames: Annotated[int | None, typer.Option(min=1, help="Frames to write.")] = None,
    parts: Annotated[int | None, typer.Option(min=1, help="Parts to write, each in all its views.")] = None,
    views: Annotated[str | None, typer.Option(help="Only these views, such as 01,02,05.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Real images: a folder or a manifest. Default: simulated.")
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="png, tiff, jpg, bmp or dicom. Default: png; real ones as is."),
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bit depth. Default: 8; 16 in DICOM.")] = None,
    photometric: Annotated[str | None, typer.Option(help="DICOM: MONOCHROME1 or MONOCHROME2.")] = None,
    full_scale: Annotated[float | None, typer.Option(help="Share of the scale that white uses.")] = None,
    window: Annotated[bool, typer.Option("--window", help="DICOM: write a window in any case.")] = False,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Frames per second. Default: 5.")] = None,
    burst: Annotated[bool, typer.Option("--burst", help="Write without waiting.")] = False,
    slow_share: Annotated[float, typer.Option(help="Share of frames written slowly, in bursts.")] = 0.0,
    truncated_share: Annotated[float, typer.Option(help="Share of frames that stop early.")] = 0.0,
    defect_share: Annotated[
        float | None, typer.Option(help="Share of defective parts. Default: 0.2.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Real images: only these labels, such as good.")] = None,
    split: Annotated[str | None, typer.Option(help="Real images: only this split, such as test.")] = None,
    template: Annotated[str | None, typer.Option(help="Names, such as {batch}/{part}_{view}.")] = None,
    batch: Annotated[str, typer.Option(help="Batch of all frames.")] = "B01",
    size: Annotated[
        str | None, typer.Option(help="Simulated frames: WIDTHxHEIGHT. Default: 256x192.")
    ] = None,
    settle_s: Annotated[float, typer.Option(min=0, help="Settle time that slow frames outlast.")] = 1.0,
    truth: Annotated[Path | None, typer.Option(help="Write a manifest with masks into this folder.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same frames.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write simulated (or real) frames into a folder, with the manners and faults of a scanner."""
    if burst and rate is not None:
        raise UsageError("--burst and --rate contradict each other", hint="leave one out")
    encoding = _encoding(format_, bits, photometric, full_scale, window, as_is=source is not None)
    if source is None:
        _refuse("only for real images (--from)", label=label, split=split)
        share = DEFAULT_DEFECT_SHARE if defect_share is None else defect_share
        shots = _simulated(
            encoding, frames, parts, views, (share, slow_share, truncated_share), template, batch, size, seed
        )
    else:
        _refuse("only for simulated frames", defect_share=defect_share, size=size)
        shots = _replayed(source, encoding, views, label, split, template, batch)
        shots = _styled(_limited(shots, frames, parts), slow_share, truncated_share, seed)
    _refuse_to_overwrite(out, shots)
    record = _open_truth(truth, out)
    pace = None if burst else rate or DEFAULT_RATE
    tally = _write(out, shots, pace, settle_s, record)
    _report(tally.summary(out, encoding, record), as_json=as_json)


@dataclass(slots=True)
class Tally:
    """What has been written so far."""

    total: int
    started_s: float
    by_style: Counter[str] = field(default_factory=Counter)
    by_label: Counter[str] = field(default_factory=Counter)
    parts: set[tuple[str, str]] = field(default_factory=set)
    ended_s: float = 0.0

    def add(self, shot: Shot) -> None:
        self.by_style[shot.style] += 1
        self.by_label[shot.label] += 1
        self.parts.add((shot.batch, shot.part))

    def summary(self, out: Path, encoding: Encoding | None, record: Truth | None) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "folder": str(out),
            "frames": self.by_style.total(),
            "planned": self.total,
            "parts": len(self.parts),
            "by_style": dict(sorted(self.by_style.items())),
            "by_label": dict(sorted(self.by_label.items())),
            "seconds": round(self.ended_s - self.started_s, 3),
            "value_range": [0, encoding.white] if encoding else None,
            "truth": str(record.manifest) if record else None,
        }


def _encoding(
    format_: str | None,
    bits: int | None,
    photometric: str | None,
    full_scale: float | None,
    window: bool,
    *,
    as_is: bool,
) -> Encoding | None:
    """How to store frames; None: real images as they are."""
    from edge.simulate.formats import Encoding

    if format_ is None and as_is:
        _refuse(
            "needs --format", bits=bits, photometric=photometric, full_scale=full_scale, window=window or None
        )
        return None
    chosen = cast("Format", format_ or "png")
    return Encoding(
        format=chosen,
        bits=bits or (16 if chosen == "dicom" else 8),
        photometric=cast("Photometric", photometric or "MONOCHROME2"),
        full_scale=1.0 if full_scale is None else full_scale,
        window=window,
    )


def _refuse(why: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name.replace('_', '-')}: {why}", hint="leave it out")


def _simulated(
    encoding: Encoding | None,
    frames: int | None,
    parts: int | None,
    views: str | None,
    shares: tuple[float, float, float],
    template: str | None,
    batch: str,
    size: str | None,
    seed: int,
) -> list[Shot]:
    from edge.simulate.formats import Encoding
    from edge.simulate.shots import ALL_VIEWS, DEFAULT_SIZE, DEFAULT_TEMPLATE, Mix, plan

    if frames is not None and parts is not None:
        raise UsageError("--frames and --parts contradict each other", hint="leave one out")
    try:
        chosen = tuple(int(view) for view in views.split(",")) if views else ALL_VIEWS
    except ValueError:
        raise UsageError(f"--views {views}: not a list of numbers", hint="write --views 01,02") from None
    return plan(
        frames or (parts or DEFAULT_PARTS) * len(chosen),
        seed=seed,
        views=chosen,
        mix=Mix(*shares),
        encoding=encoding or Encoding(),
        template=template or DEFAULT_TEMPLATE,
        batch=batch,
        size=_size(size) if size else DEFAULT_SIZE,
    )


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not match:
        raise UsageError(f"--size {text}: not a size", hint="write --size 256x192")
    return int(match[1]), int(match[2])


def _replayed(
    source: Path,
    encoding: Encoding | None,
    views: str | None,
    label: str | None,
    split: str | None,
    template: str | None,
    batch: str,
) -> list[Shot]:
    from edge.simulate.replay import originals, replay

    images = originals(source)
    filters = {"view": views, "label": label, "split": split}
    for name, wanted in filters.items():
        if wanted is not None:
            known = sorted({getattr(image, name) or "(none)" for image in images})
            images = [image for image in images if getattr(image, name) in wanted.split(",")]
            if not images:
                raise UsageError(f"no image has the {name} {wanted}", hint=f"there are {', '.join(known)}")
    return replay(images, template=template, batch=batch, encoding=encoding)


def _limited(shots: list[Shot], frames: int | None, parts: int | None) -> list[Shot]:
    if parts is not None:
        kept = set(list(dict.fromkeys(shot.part for shot in shots))[:parts])
        shots = [shot for shot in shots if shot.part in kept]
    return shots[:frames]


def _styled(shots: list[Shot], slow: float, truncated: float, seed: int) -> list[Shot]:
    from edge.simulate.shots import Mix, with_styles

    return with_styles(shots, seed, Mix(0, slow, truncated))


def _refuse_to_overwrite(out: Path, shots: list[Shot]) -> None:
    there = [shot.path for shot in shots if (out / shot.path).exists()]
    if there:
        raise CannotWriteError(
            f"{out / there[0]} exists, and {len(there) - 1} more",
            hint="choose another folder or another --batch",
            retryable=False,
        )


def _open_truth(folder: Path | None, out: Path) -> Truth | None:
    from edge.simulate.truth import Truth

    return Truth(folder, out) if folder else None


def _write(out: Path, shots: list[Shot], pace: float | None, settle_s: float, record: Truth | None) -> Tally:
    """Run the scanner to its end or to Ctrl-C; the truth is written in either case."""
    from edge.simulate.scanner import Scanner
    from edge.simulate.signals import stop_on_signals

    tally = Tally(len(shots), time.monotonic())
    last_said_s = tally.started_s

    def on_written(shot: Shot, capture: Capture) -> None:
        nonlocal last_said_s
        tally.add(shot)
        if record:
            record.add(shot, capture)
        if (now_s := time.monotonic()) - last_said_s >= PROGRESS_EVERY_S:
            last_said_s = now_s
            print(f"written {tally.by_style.total()} of {tally.total} frames", file=sys.stderr)

    stop = threading.Event()
    try:
        with stop_on_signals(stop):
            Scanner(out, shots, frames_per_s=pace, settle_s=settle_s).run(stop, on_written)
    finally:
        tally.ended_s = time.monotonic()
        if record:
            record.close()
    return tally


def _report(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    counts = [
        ", ".join(f"{n} {name}" for name, n in summary[key].items()) for key in ("by_label", "by_style")
    ]
    print(
        f"{summary['frames']} frames of {summary['parts']} parts in {summary['folder']}: "
        f"{counts[0]}; written {counts[1]}; {summary['seconds']:.1f} s"
    )
    if summary["frames"] < summary["planned"]:
        print(f"stopped before {summary['planned'] - summary['frames']} more were complete")
    if summary["truth"]:
        print(f"truth: {summary['truth']}")
