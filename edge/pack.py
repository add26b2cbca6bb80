"""Frames of any format → one HDF5 store (see hdf5.py for what it looks like, and how it survives a kill)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.crops import Cropper, Rectangle, WholeFrames
from edge.dataset import Sample, Unreadable
from edge.decode import Limits, decode, read_stable, refuse_large
from edge.errors import CannotWriteError, DataError, EdgeError, MissingInputError, TryAgainError, UsageError
from edge.hdf5 import ABOUT, FORMAT, VERSION, h5py_library, open_store
from edge.truth import read_mask
from edge.types import Mask, Picture

CHUNK_PX = 256
STRIP_ROWS = 256  # mapped at a time: float64 of a whole film would be four times the film

Bits = Literal[8, 16]
OnFrame = Callable[[str, float], None]  # what is being done, and which share of all is done


@dataclass(frozen=True, slots=True)
class Packed:
    """What became of the frames."""

    store: Path
    frames: int  # in the store
    crops: int
    written: int  # of the frames, by this run; the others were there from an earlier one
    left_out: tuple[str, ...]  # frames without a rectangle
    unreadable: tuple[Unreadable, ...]


def pack(
    samples: Sequence[Sample],
    out: Path,
    limits: Limits,
    *,
    bits: Bits = 16,
    crops: Cropper | None = None,
    on_frame: OnFrame = lambda text, share: None,
) -> Packed:
    """Write the samples' frames into a store; what an earlier run wrote of them is kept.

    Files that cannot be read, and frames with masks of several classes, are left out and listed.

    Raises:
        UsageError: the store there has other bits, or frames that are not among the samples.
        DataError: no frame can be read, or the file there is no store.
        CannotWriteError: no space or permission.
        TryAgainError: another `edge pack` writes this store.
    """
    run = _Run(h5py_library(), out, limits, bits, crops or WholeFrames(), on_frame)
    try:
        with _only_one(run.parts):
            have = _keys_of(out, samples, bits) if out.exists() else {}
            run.gather(samples, have)
            if not run.keys:
                why = f": {run.unreadable[0]}" if run.unreadable else ""
                raise DataError(f"none of {len(samples)} frames could be packed{why}", hint="see the files")
            if run.keys != list(have):
                run.assemble(have)
    except (OSError, RuntimeError) as error:  # HDF5 has either for a full disk
        raise CannotWriteError(f"{out}: {error}", hint="check space and permissions") from None
    with open_store(out) as store:
        count = sum(1 for _ in store)
    return Packed(out, len(run.keys), count, run.written, tuple(run.left_out), tuple(run.unreadable))


def to_stored(pixels: NDArray[Any], low: float, high: float, bits: Bits) -> tuple[NDArray[Any], int]:
    """Stored values low…high → 0…2^bits − 1, rounded, and how many pixels were outside; low > high turns.

    Raises:
        DataError: a pixel is not a finite number.
    """
    top = 2**bits - 1
    out = np.zeros(pixels.shape, np.uint8 if bits == 8 else np.uint16)
    if low == high:
        return out, 0
    clipped = 0
    for start in range(0, len(pixels), STRIP_ROWS):
        strip = (pixels[start : start + STRIP_ROWS].astype(np.float64) - low) * (top / (high - low))
        if not np.isfinite(strip).all():
            raise DataError("the frame has pixels that are not finite numbers", reason="pixels_not_finite")
        np.rint(strip, out=strip)
        clipped += int(((strip < 0) | (strip > top)).sum())
        out[start : start + STRIP_ROWS] = np.clip(strip, 0, top, out=strip)
    return out, clipped


def _key(sample: Sample, bits: Bits, crops: Cropper) -> str:
    """Names what is written for a sample: another file, mask, truth, depth or crop is another key."""
    try:
        stamps = [
            (status.st_size, status.st_mtime_ns)
            for status in (
                os.stat(file) for file in (sample.file, sample.mask, *sample.masks.values()) if file
            )
        ]
    except OSError as error:
        raise MissingInputError(f"{sample.path}: {error.strerror}", hint="check the path") from None
    facts = [sample.path, stamps, bits, crops.key(sample), *(getattr(sample, name) for name in ABOUT)]
    return hashlib.sha256(json.dumps([VERSION, *facts]).encode()).hexdigest()[:32]


@dataclass(slots=True)
class _Run:
    """One run of `pack`."""

    h5py: Any
    out: Path
    limits: Limits
    bits: Bits
    crops: Cropper
    on_frame: OnFrame
    keys: list[str] = field(default_factory=list)  # of the frames the store shall have, in order
    written: int = 0
    left_out: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    @property
    def parts(self) -> Path:
        return self.out.with_name(f".{self.out.name}.parts")

    def gather(self, samples: Sequence[Sample], have: Mapping[str, str]) -> None:
        """See that every sample is in the old store or in a part."""
        for done, sample in enumerate(samples):
            self.on_frame(sample.path, done / len(samples))
            try:
                _refuse_several_classes(sample)
                key = _key(sample, self.bits, self.crops)
                if key not in have and not self._part(key).is_file():
                    if not self._write(key, sample):
                        self.left_out.append(sample.path)
                        continue
                    self.written += 1
            except EdgeError as error:
                self.unreadable.append(Unreadable(sample.path, error.reason, error.message))
            else:
                self.keys.append(key)

    def assemble(self, have: Mapping[str, str]) -> None:
        """Copy parts, and what the old store has, into a new one that takes its place."""
        temporary = self.parts / "store.tmp"
        old: Any = self.h5py.File(self.out, "r") if have else nullcontext()
        with old, self.h5py.File(temporary, "w") as new:
            frames = new.create_group("frames")
            for number, key in enumerate(self.keys):
                self.on_frame(f"assembling {self.out.name}", number / len(self.keys))
                name = f"{number:06d}"
                if key in have:
                    old.copy(old["frames"][have[key]], frames, name)
                    continue
                with self.h5py.File(self._part(key), "r") as part:
                    part.copy(part["/"], frames, name)
            facts = {"format": FORMAT, "version": VERSION, "bits": self.bits, "frames": len(self.keys)}
            new.attrs.update(facts)
        _publish(temporary, self.out)

    def _part(self, key: str) -> Path:
        return self.parts / f"{key}.h5"

    def _write(self, key: str, sample: Sample) -> bool:
        """Write a file's crops into a part of its own; False, and no part, if it has none."""
        data = read_stable(sample.file, None, lambda head: refuse_large(head, sample.file.name, self.limits))
        digest = hashlib.sha256(data).hexdigest()
        pictures = decode(data, sample.file.name, self.limits)
        del data
        temporary = self.parts / f"{key}.tmp"
        count = 0
        with self.h5py.File(temporary, "w") as handle:
            about = {name: getattr(sample, name) or "" for name in ABOUT}
            handle.attrs.update(about | {"key": key, "path": sample.path, "sha256": digest})
            handle["tags"] = json.dumps(dict(pictures[0].tags))
            for picture in pictures:
                truth = _truth(sample, picture)
                for number, box in enumerate(self.crops(sample, picture)):
                    group = handle.create_group(f"{picture.page:02d}_{number:04d}")
                    _write_crop(group, picture, truth, box, self.bits)
                    count += 1
        if count:
            _publish(temporary, self._part(key))
        return count > 0


def _refuse_several_classes(sample: Sample) -> None:
    if len(sample.masks) > 1:
        raise DataError(
            f"{sample.path}: has masks of several classes: {', '.join(sorted(sample.masks))}",
            hint="a store has one class a frame: pack one class, or learn from the manifest itself",
            reason="several_classes",
        )


def _truth(sample: Sample, picture: Picture) -> Mask | None:
    """(h, w) where the sample's mask says defect; None where it has none."""
    if not sample.masks and sample.mask is None:
        return None
    return read_mask(sample, *picture.pixels.shape[:2])


def _write_crop(group: Any, picture: Picture, truth: Mask | None, box: Rectangle, bits: Bits) -> None:
    area = np.s_[box.y : box.y + box.h, box.x : box.x + box.w]
    stored, clipped = to_stored(picture.pixels[area], picture.low, picture.high, bits)
    chunk = (min(CHUNK_PX, box.h), min(CHUNK_PX, box.w))
    group.create_dataset("pixels", data=stored, chunks=chunk + stored.shape[2:])
    if truth is not None:
        group.create_dataset("truth", data=truth[area].astype(np.uint8), chunks=chunk, compression="gzip")
    height, width = picture.pixels.shape[:2]
    group.attrs.update({
        "page": picture.page, "pages": picture.pages,
        "x": box.x, "y": box.y, "w": box.w, "h": box.h, "name": box.name,
        "width": width, "height": height, "source_bits": picture.bits,
        "low": picture.low, "high": picture.high,
        "photometric": picture.tags.get("PhotometricInterpretation", ""), "clipped": clipped,
    })  # fmt: skip


def _publish(temporary: Path, final: Path) -> None:
    """fsync → rename → fsync the folder."""
    for file, rename in ((temporary, True), (final.parent, False)):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if rename:
            os.replace(temporary, final)


def _keys_of(out: Path, samples: Sequence[Sample], bits: Bits) -> dict[str, str]:
    """Key → group of the frames in a store, once it is clear that this command may replace it."""
    names = {sample.path for sample in samples}
    found: dict[str, str] = {}
    try:
        with open_store(out):
            pass
    except DataError as error:
        raise DataError(error.message, hint="delete it, or name another --out", reason=error.reason) from None
    with h5py_library().File(out, "r") as handle:
        if handle.attrs["bits"] != bits:
            raise UsageError(
                f"{out}: was packed with --bits {handle.attrs['bits']}", hint="name another --out"
            )
        foreign = [g.attrs["path"] for g in handle["frames"].values() if g.attrs["path"] not in names]
        if foreign:
            raise UsageError(
                f"{out}: has {len(foreign)} frames that are not among these, such as {foreign[0]}",
                hint="name another --out, or delete it",
            )
        for name, group in handle["frames"].items():
            found[str(group.attrs["key"])] = name
    return found


@contextmanager
def _only_one(parts: Path) -> Iterator[None]:
    """Makes the folder of parts, for one process at a time; it goes when the store is whole."""
    parts.mkdir(parents=True, exist_ok=True)
    with (parts / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TryAgainError(
                f"{parts}: another `edge pack` writes there", hint="wait for it, or name another --out"
            ) from None
        for torn in parts.glob("*.tmp"):  # of a run that was killed
            torn.unlink()
        try:
            yield
        except BaseException:  # interrupted too: nothing of ours is left lying about
            if not any(parts.glob("*.h5")):  # nothing to continue from
                shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts, ignore_errors=True)
