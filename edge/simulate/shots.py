"""What a scanner is going to write: a plan of shots, each with its truth and the way it reaches the disk."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.errors import UsageError
from edge.simulate.defects import DEFECTS
from edge.simulate.formats import Encoding, encode
from edge.simulate.part import VIEWS, render
from edge.types import Identity

Style = Literal["atomic", "direct", "slow", "truncated"]
Label = Literal["good", "defect", "review"]

DEFAULT_TEMPLATE = "{batch}/{part}_{view}"
DEFAULT_SIZE = (256, 192)
ALL_VIEWS = tuple(range(1, len(VIEWS) + 1))
FIELDS = ("batch", "part", "view", "stem")


@dataclass(frozen=True, slots=True)
class Capture:
    """A frame at the moment it is taken: the bytes of its file, and its truth where that is known."""

    data: bytes
    mask: NDArray[np.uint8] | None = None  # (h, w), 255 where the defect is


@dataclass(frozen=True, slots=True)
class Shot:
    """One frame that the scanner will write."""

    path: str  # relative to the scanned folder, with forward slashes
    take: Callable[[], Capture]  # renders or reads the frame; the same every time
    label: Label
    part: str
    view: str
    batch: str
    style: Style
    defect: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares, 0..1, of what a run contains; they hold as exactly as the number of frames allows.

    Raises:
        UsageError: not shares, or more than everything.
    """

    defect: float = 0.2  # of the parts
    slow: float = 0.0  # of the frames
    truncated: float = 0.0  # of the frames

    def __post_init__(self) -> None:
        for name in ("defect", "slow", "truncated"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise UsageError(
                    f"a {name} share of {share} is not a share", hint="give a number from 0 to 1"
                )
        if self.slow + self.truncated > 1:
            raise UsageError(
                "slow and truncated frames together are more than all frames", hint="lower a share"
            )


def plan(
    frames: int,
    *,
    seed: int,
    views: Sequence[int] = ALL_VIEWS,
    mix: Mix = Mix(),
    encoding: Encoding = Encoding(),
    template: str = DEFAULT_TEMPLATE,
    batch: str = "B01",
    size: tuple[int, int] = DEFAULT_SIZE,
) -> list[Shot]:
    """The first `frames` shots of simulated brackets, part after part, view after view; see `stream`."""
    endless = stream(
        seed=seed, views=views, mix=mix, encoding=encoding, template=template, batch=batch, size=size
    )
    return list(itertools.islice(endless, frames))


def stream(
    *,
    seed: int,
    views: Sequence[int] = ALL_VIEWS,
    mix: Mix = Mix(),
    encoding: Encoding = Encoding(),
    template: str = DEFAULT_TEMPLATE,
    batch: str = "B01",
    size: tuple[int, int] = DEFAULT_SIZE,
) -> Iterator[Shot]:
    """Simulated brackets without end. A defective part shows its defect in one to half of its views.

    Raises:
        UsageError: a view that does not exist, a negative seed, or a bad template.
    """
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", hint="give 0 or more")
    if not views or len(set(views)) < len(views) or not set(views) <= set(ALL_VIEWS):
        raise UsageError(f"no such views: {list(views)}", hint=f"choose from 1 to {len(VIEWS)}, each once")
    styles = _styles(seed, mix)
    phase = _rng(seed).random()
    for number in itertools.count():
        rng = _rng(seed, number + 1)
        kind = str(rng.choice(sorted(DEFECTS)))
        shown = rng.choice(views, int(rng.integers(1, max(2, len(views) // 2 + 1))), replace=False)
        if not _due(number, mix.defect, phase):
            shown = shown[:0]
        for view in views:
            defect = kind if view in shown else None
            fields = {"batch": batch, "part": f"P{number + 1:06d}", "view": f"{view:02d}"}
            take = _taker((seed, number + 1, view), defect, size, encoding, Identity(**fields))
            yield Shot(
                path=frame_path(template, fields, encoding.suffix),
                take=take,
                label="defect" if defect else "good",
                style=next(styles),
                defect=defect or "",
                **fields,
            )


def with_styles(shots: Sequence[Shot], seed: int, mix: Mix) -> list[Shot]:
    """The same shots with write styles drawn by the shares of `mix`."""
    return [replace(shot, style=style) for shot, style in zip(shots, _styles(seed, mix), strict=False)]


def frame_path(template: str, fields: Mapping[str, str], suffix: str) -> str:
    """`{batch}/{part}_{view}` → `B01/P000001_03.png`.

    Raises:
        UsageError: an unknown or empty field, or a path that leaves the folder.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in FIELDS:
            names = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise UsageError(f"unknown field {{{name}}} in template {template!r}", hint=f"fields are {names}")
        if not fields.get(name):
            raise UsageError(f"a frame without {name} in template {template!r}", hint=f"leave {{{name}}} out")
        return fields[name]

    path = PurePosixPath(re.sub(r"\{([^{}]*)\}", value, template.removesuffix(suffix)) + suffix)
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(f"{path} is outside the folder", hint="mend the template, or part, view and batch")
    return str(path)


def _taker(
    seed: tuple[int, int, int],
    defect: str | None,
    size: tuple[int, int],
    encoding: Encoding,
    identity: Identity,
) -> Callable[[], Capture]:
    def take() -> Capture:
        frame = render(_rng(*seed), seed[2], defect, size, 8 if encoding.bits == 8 else 16)
        return Capture(encode(frame.pixels, encoding, identity), frame.mask)

    return take


def _rng(seed: int, part: int = 0, view: int = 0) -> np.random.Generator:
    """Always three numbers: numpy pads seeds with zeros, so [7] and [7, 0] would be the same."""
    return np.random.default_rng([seed, part, view])


def _styles(seed: int, mix: Mix) -> Iterator[Style]:
    rng = np.random.default_rng([seed, 0, 1])
    slow_phase, cut_phase = rng.random(2)
    for number in itertools.count():
        quick: Style = "atomic" if rng.random() < 0.5 else "direct"
        if _due(number, mix.truncated, cut_phase):
            yield "truncated"
        elif _due(number, mix.slow, slow_phase):
            yield "slow"
        else:
            yield quick


def _due(number: int, share: float, phase: float) -> bool:
    """Whether item `number` belongs to an evenly spread share of all items."""
    return math.floor((number + 1) * share + phase) > math.floor(number * share + phase)
