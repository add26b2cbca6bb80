"""Good frames in, frames with synthetic defects out: own bit depth, exact masks, a manifest."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.dataset import Sample, about
from edge.decode import Limits, decode
from edge.errors import CannotWriteError, DataError, UsageError
from edge.simulate.anomalies import KINDS, Kind, plant_several
from edge.simulate.formats import Encoding, Pixels, encode
from edge.simulate.replay import read_mask
from edge.simulate.truth import MANIFEST, write_file, write_table
from edge.types import FloatImage, Identity, Mask, Picture

LIMITS = Limits(max_pixels=400_000_000, max_pages=64)
TIFF_SUFFIXES = (".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom")


@dataclass(frozen=True, slots=True)
class Injection:
    """What is painted into how many frames.

    Raises:
        UsageError: an unknown kind, or numbers that make no sense.
    """

    kinds: tuple[Kind, ...] = KINDS
    per_frame: int = 1  # defects in each frame that gets any
    share: float = 1.0  # of the good frames
    seed: int = 0
    value_range: tuple[float, float] | None = None  # stored values that are black and white

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise UsageError(
                f"--kinds {','.join(self.kinds)}: no such defects", hint=f"choose from {','.join(KINDS)}"
            )
        if not 0 < self.share <= 1:
            raise UsageError(f"--share {self.share:g}: not a share", hint="more than 0, up to 1")
        if self.per_frame < 1 or self.seed < 0:
            raise UsageError("--per-frame is at least 1 and --seed at least 0", hint="mend the number")


@dataclass(slots=True)
class Injected:
    """What was written."""

    manifest: Path
    good: int = 0
    defect: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)  # frames that got no defect, and why


@dataclass(frozen=True, slots=True)
class Defective:
    """One page of a frame with its defects, as the bytes of a file."""

    data: bytes
    suffix: str
    mask: Mask  # (h, w) of the frame as stored
    kinds: tuple[Kind, ...]
    page: str  # "", or "_p2" where a file has several


def inject(
    samples: Sequence[Sample],
    out: Path,
    what: Injection,
    foreground: Mapping[Path, Path] | None = None,
    on_frame: Callable[[int, int], None] = lambda done, total: None,
) -> Injected:
    """Paint defects into good frames; write `frames/`, `mask/` and `manifest.csv` into a folder.

    The manifest lists the good originals where they are, and beside each its defective copy: with the same
    view, split and part, so that no split by parts puts the two on different sides. A frame without a part is
    one of its own. Frames that cannot be read are left out, and frames where nothing painted can be seen stay
    good; both are listed in `skipped`.

    Args:
        samples: only those labelled good are used.
        out: the folder.
        what: the same settings give the same files.
        foreground: frame → its mask (more than 127 is the part); defects lie on the part only.
        on_frame: called with the number of frames done and of all of them.

    Raises:
        DataError: no good frame, none that could be given a defect, or one without a foreground mask.
        CannotWriteError: the folder has a manifest, or the disk does not take the files.
    """
    good = [sample for sample in samples if sample.label == "good"]
    if not good:
        raise DataError("none of these frames is good", hint="label them good, or give a plain folder")
    if (out / MANIFEST).exists():
        raise CannotWriteError(f"{out / MANIFEST} exists", hint="choose another folder", retryable=False)
    for sample in good if foreground is not None else ():
        if sample.file not in (foreground or {}):
            raise DataError(
                f"{sample.path}: no foreground mask for it", hint="name every good frame in --foreground"
            )
    done = Injected(out / MANIFEST)
    chosen = np.random.default_rng([what.seed, 0, 0]).permutation(len(good))[
        : math.ceil(what.share * len(good))
    ]
    rows: list[dict[str, str]] = []
    for index, sample in enumerate(good):
        part = sample.part or Path(sample.path).with_suffix("").as_posix()
        known = {"view": sample.view or "", "part": part, "split": sample.split}
        original = {"path": _relative(sample.file, out), "label": "good", **known}
        if index not in chosen:
            rows.append(original)
            continue
        try:
            pictures = _pictures(sample, what)
        except DataError as error:
            done.skipped.append(about(sample.path, error.message))
            continue
        rows.append(original)
        region = _region(sample, foreground)
        try:
            for made in _defective(pictures, sample, index, good, what, region):
                name = f"{index:05d}_{sample.file.stem}{made.page}"
                files = {"path": f"frames/{name}{made.suffix}", "mask": f"mask/{name}.png"}
                write_file(out / files["path"], made.data)
                write_file(out / files["mask"], _png(made.mask.astype(np.uint8) * 255))
                rows.append({**files, "label": "defect", "defect": "+".join(made.kinds), **known})
                for kind in made.kinds:
                    done.by_kind[kind] = done.by_kind.get(kind, 0) + 1
        except DataError as error:
            done.skipped.append(about(sample.path, error.message))
        on_frame(index + 1, len(good))
    done.good = sum(row["label"] == "good" for row in rows)
    done.defect = len(rows) - done.good
    if not done.defect:
        raise DataError(
            f"no frame could be given a defect; {done.skipped[0]}", hint="look at that frame, and at --kinds"
        )
    write_table(done.manifest, rows)
    return done


def _defective(
    pictures: Sequence[Picture],
    sample: Sample,
    index: int,
    good: Sequence[Sample],
    what: Injection,
    region: Mask | None,
) -> Iterator[Defective]:
    for picture in pictures:
        rng = np.random.default_rng([what.seed, index + 1, picture.page + 1])
        kinds = tuple(cast(Kind, str(kind)) for kind in rng.choice(what.kinds, what.per_frame))
        donor = _donor(good, index, rng, what) if "blend" in kinds else None
        plane = grey_plane(picture)
        if region is not None and region.shape != plane.shape:
            raise DataError(f"{sample.path}: its foreground mask is of another size", hint="make it again")
        painted = plant_several(plane, rng, kinds, region, donor)
        change = np.where(painted.mask, painted.plane - plane, 0)
        keep = sample.file.suffix.lower() not in DICOM_SUFFIXES and keeps_its_values(picture, what)
        pixels = changed(picture, change) if keep else normalised(picture, change)
        yield Defective(
            data=_encoded(pixels, sample.file.suffix.lower() if keep else ".png"),
            suffix=".tif" if keep and sample.file.suffix.lower() in TIFF_SUFFIXES else ".png",
            mask=painted.mask,
            kinds=kinds,
            page=f"_p{picture.page + 1}" if picture.pages > 1 else "",
        )


def grey_plane(picture: Picture) -> FloatImage:
    """(h, w) float32 in 0..1 between the picture's black and white; colour by Rec. 601."""
    unit = _unit(picture)
    if unit.ndim == 3:
        unit = np.asarray(cv2.cvtColor(unit, cv2.COLOR_RGB2GRAY))
    return np.asarray(np.clip(unit, 0, 1), np.float32)


def keeps_its_values(picture: Picture, what: Injection) -> bool:
    """Whether a copy without the file's tags means the same: integers that use the whole scale."""
    if picture.pixels.dtype not in (np.uint8, np.uint16):
        return False
    whole = (picture.low, picture.high) == (0, np.iinfo(picture.pixels.dtype).max)
    return whole or what.value_range is not None


def changed(picture: Picture, change: FloatImage) -> Pixels:
    """The stored pixels with a change (h, w) in shares of the scale; the others stay bit by bit."""
    step = np.rint(change * (picture.high - picture.low))
    spread = step if picture.pixels.ndim == 2 else step[:, :, None]
    most = np.iinfo(picture.pixels.dtype).max
    return cast(Pixels, np.clip(picture.pixels + spread, 0, most).astype(picture.pixels.dtype))


def normalised(picture: Picture, change: FloatImage) -> Pixels:
    """(h, w) or (h, w, 3) uint16 between the picture's black and white, with a change in shares of it."""
    unit = _unit(picture)
    unit = unit + (change if unit.ndim == 2 else change[:, :, None])
    return np.rint(np.clip(unit, 0, 1) * 65535).astype(np.uint16)


def _unit(picture: Picture) -> FloatImage:
    return ((picture.pixels - np.float64(picture.low)) / (picture.high - picture.low)).astype(np.float32)


def _pictures(sample: Sample, what: Injection) -> list[Picture]:
    pictures = decode(sample.file.read_bytes(), sample.file.name, LIMITS)
    if what.value_range is None:
        return pictures
    low, high = what.value_range
    return [replace(picture, low=low, high=high) for picture in pictures]


def _donor(
    good: Sequence[Sample], index: int, rng: np.random.Generator, what: Injection
) -> FloatImage | None:
    """A plane of another frame, or None where there is no other."""
    if len(good) == 1:
        return None
    other = (index + int(rng.integers(1, len(good)))) % len(good)
    try:
        return grey_plane(_pictures(good[other], what)[0])
    except DataError:  # it is reported when its own turn comes
        return None


def _region(sample: Sample, foreground: Mapping[Path, Path] | None) -> Mask | None:
    if foreground is None:
        return None
    mask = read_mask(foreground[sample.file])
    return None if mask is None else np.asarray(mask > 0)


def _encoded(pixels: Pixels, suffix: str) -> bytes:
    bits = 8 if pixels.dtype == np.uint8 else 16
    encoding = Encoding("tiff" if suffix in TIFF_SUFFIXES else "png", bits)
    return encode(pixels, encoding, Identity())


def _png(mask: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def _relative(file: Path, folder: Path) -> str:
    return os.path.relpath(file, folder.resolve()).replace(os.sep, "/")
