"""Frames that can be learned from: read, preprocessed, and with the truth of their pixels if there is one."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.calibrate import NOTHING_FOUND, learned_id
from edge.dataset import ANY_DEFECT, Sample, Unreadable, frames, none_readable
from edge.decode import Limits
from edge.errors import DataError
from edge.learn.datasets import PlaneStore
from edge.learn.labels import MOST_CLASSES, LabelledPlane
from edge.learn.models import Truth
from edge.learn.progress import Event, Listener
from edge.preprocess import PreprocessSpec
from edge.truth import on_plane, read_mask, read_truth
from edge.types import DEFAULT_VIEW, Frame, ImageInfo


@dataclass(frozen=True, slots=True)
class Specimen:
    """A frame that can be learned from."""

    sample: Sample
    view: str
    group: str  # part, or the file where it names none
    digest: str
    labelled: LabelledPlane
    image: ImageInfo = field(default_factory=lambda: ImageInfo("", ""))

    @property
    def is_defect(self) -> bool:
        return self.sample.label == "defect"

    @property
    def fingerprint(self) -> tuple[str, int, int]:
        """Changes with the frame's bytes and with its truth."""
        return self.digest, self.labelled.label, zlib.crc32(self.labelled.truth.tobytes())


@dataclass(frozen=True, slots=True)
class Reading:
    """How frames are read for learning."""

    preprocess: PreprocessSpec
    limits: Limits
    truth: Truth
    classes: tuple[str, ...]  # of the truth's bits
    assets: Path | None = None  # where the masks' files are


def read_specimens(
    wanted: Sequence[Sample],
    how: Reading,
    store: PlaneStore,
    unreadable: list[Unreadable],
    listen: Listener,
) -> list[Specimen]:
    """Every frame that can be read; those that cannot are added to `unreadable`.

    Raises:
        DataError: none can be read, or a mask is missing, unreadable or of another size.
    """
    found: list[Specimen] = []
    images: list[ImageInfo] = []
    seen = set()
    for sample, frame in frames(wanted, how.preprocess, how.limits, unreadable=unreadable, assets=how.assets):
        seen.add(sample.path)
        listen(Event("prepare", sample.path, len(seen) / len(wanted)))
        if frame.foreground is not None and not frame.foreground.any():
            unreadable.append(Unreadable(sample.path, "no_foreground", NOTHING_FOUND))
            continue
        images.append(frame.image)
        label = 0 if sample.label == "good" else 1 + _class_of(sample, how.classes)
        found.append(
            Specimen(
                sample=sample,
                view=frame.identity.view or DEFAULT_VIEW,
                group=sample.part or f"file {sample.path}",
                digest=learned_id(frame.image.sha256),
                labelled=LabelledPlane(store.keep(frame.plane), truth_of(sample, frame, how), label),
                image=frame.image,
            )
        )
    if how.truth == "foreground":
        _check_foreground(found, listen)
    if not found:
        raise none_readable(unreadable)
    for sentence in unlike_each_other(images):
        listen(Event("prepare", sentence))
    return found


def classes_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The classes of defects that masks are given for, sorted.

    Raises:
        DataError: more than a truth plane can hold.
    """
    names = sorted({name for sample in samples for name in sample.masks})
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{len(names)} classes of defects: {', '.join(names)}; at most {MOST_CLASSES}",
            hint="give kinds that need not be told apart the same name in the column defect",
        )
    return tuple(names)


def truth_of(sample: Sample, frame: Frame, how: Reading) -> NDArray[np.uint8]:
    """(h, w) class bits on the frame's plane; no bit where the network is told nothing of pixels.

    Raises:
        DataError: a mask is missing, cannot be read, or is of another size than its frame.
    """
    nothing: NDArray[np.uint8] = np.broadcast_to(np.uint8(0), frame.plane.shape[:2])
    if how.truth == "foreground":
        if sample.mask is None:
            raise DataError(
                f"{sample.path}: no mask of its foreground",
                hint="give each frame a mask (PNG, above 127 is the part), by --masks DIR or a manifest",
            )
        foreground = read_mask(sample, frame.image.height, frame.image.width)
        return on_plane(foreground, frame).astype(np.uint8)
    if how.truth in ("none", "frames"):
        return nothing
    if sample.label == "good":
        _refuse_marked(sample, frame)
        return nothing
    found = read_truth(sample, frame.image.height, frame.image.width)
    if found is None:
        raise DataError(
            f"{sample.path}: a defect frame without a mask",
            hint="give it a mask (PNG, above 127 is defect), or label it review to leave it out",
        )
    if how.truth == "good regions":
        return found.on_plane(frame).astype(np.uint8)
    truth = nothing.copy()
    for name in sample.masks:
        of_class = on_plane(found.of_class(name), frame)
        truth |= of_class.astype(np.uint8) << np.uint8(how.classes.index(name))
    return truth


def _refuse_marked(sample: Sample, frame: Frame) -> None:
    """A good frame may have a mask, as long as nothing is marked in it."""
    if sample.mask is None:
        return
    marked = int(read_mask(sample, frame.image.height, frame.image.width).sum())
    if marked:
        raise DataError(
            f"{sample.path}: labelled good, but {sample.mask.name} marks {marked} pixels as defect",
            hint="mend the label, or leave the mask out",
        )


def _check_foreground(found: Sequence[Specimen], listen: Listener) -> None:
    """Masks of nothing, or of everything, teach nothing.

    Raises:
        DataError: all of them are that.
    """
    poor = [s.sample.path for s in found if not 0 < int(s.labelled.truth.sum()) < s.labelled.truth.size]
    if found and len(poor) == len(found):
        raise DataError(
            f"all {len(found)} masks are empty, or full",
            hint="a mask is above 127 where the part is, and only there",
        )
    for path in poor:
        listen(Event("prepare", f"WARNING the mask of {path} is empty, or full"))


def _class_of(sample: Sample, classes: Sequence[str]) -> int:
    name = next(iter(sample.masks), sample.defect or ANY_DEFECT)
    return classes.index(name) if name in classes else 0


def unlike_each_other(images: Sequence[ImageInfo]) -> list[str]:
    """What a person should know before learning from a folder into which other files have strayed."""
    said = []
    sizes = Counter((image.width, image.height) for image in images)
    (width, height), usual = sizes.most_common(1)[0]
    if len(sizes) > 1:
        rest = f"the rest of other sizes ({len(sizes) - 1})"
        said.append(f"{usual} of {len(images)} frames are {width}×{height}, {rest}")
    depths = Counter(image.bits for image in images)
    if len(depths) > 1:
        listed = ", ".join(f"{count} of {bits} bits" for bits, count in depths.most_common())
        said.append(f"frames differ in bit depth: {listed}")
    return said
