"""Labelled frames of a manifest, and which of them may never be parted: those of a part, and copies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.artifacts import sha256_of
from edge.dataset import MANIFEST_NAME, Sample, read_manifest
from edge.errors import DataError, MissingInputError


@dataclass(frozen=True, slots=True)
class Row:
    """A frame of known truth."""

    sample: Sample
    group: str  # what is learned from, or tested, as a whole
    sha256: str  # of its file

    @property
    def is_defect(self) -> bool:
        return self.sample.label == "defect"


@dataclass(frozen=True, slots=True)
class FrameSet:
    """The labelled frames of a manifest."""

    name: str
    manifest: Path
    rows: tuple[Row, ...]
    sha256: str  # over all that is known of the rows, and the bytes of frames and masks


def read_sets(manifests: Sequence[Path]) -> list[FrameSet]:
    """The sets of these manifests, named by their files, or by the folder of a `manifest.csv`.

    Raises:
        MissingInputError: a manifest is not there.
        DataError: one is bad, or has no good frame to learn from.
    """
    sets: list[FrameSet] = []
    for manifest in manifests:
        plain = manifest.resolve()
        name = plain.parent.name if plain.name == MANIFEST_NAME else plain.stem
        taken = {known.name for known in sets}
        others = (f"{name}-{k}" for k in range(2, len(manifests) + 1))
        sets.append(_read_set(next(n for n in (name, *others) if n not in taken), manifest))
    return sets


def _read_set(name: str, manifest: Path) -> FrameSet:
    if manifest.is_dir():
        raise MissingInputError(
            f"{manifest}: a folder", hint=f"name its manifest: {manifest / MANIFEST_NAME}"
        )
    samples = [s for s in read_manifest(manifest) if s.label in ("good", "defect")]
    if not any(s.label == "good" for s in samples):
        raise DataError(
            f"{manifest}: no good frame to learn from",
            hint="rows need label = good",
            reason="too_few_frames",
        )
    if not any(s.label == "defect" for s in samples):
        raise DataError(
            f"{manifest}: no defect frame to test with",
            hint="rows need label = defect; without any nothing can be said about finding defects",
            reason="too_few_frames",
        )
    digests = [sha256_of(sample.file) for sample in samples]
    groups = grouped(samples, digests)
    rows = tuple(Row(*row) for row in zip(samples, groups, digests, strict=True))
    return FrameSet(name, manifest, rows, _digest(rows))


def own_group(sample: Sample) -> str:
    """The group of a sample that no other has a copy of."""
    return f"part {sample.part}" if sample.part else f"file {sample.path}"


def grouped(samples: Sequence[Sample], digests: Sequence[str]) -> list[str]:
    """The group of each sample: its part, or its file where it names none.

    Groups that share a file's bytes are one, so that no copy of a frame that was learned from is tested.
    """
    own = [own_group(sample) for sample in samples]
    leader: dict[str, str] = {name: name for name in own}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    first: dict[str, str] = {}
    for name, digest in zip(own, digests, strict=True):
        one, other = sorted((find(name), find(first.setdefault(digest, name))))
        leader[other] = one
    return [find(name) for name in own]


def _digest(rows: Iterable[Row]) -> str:
    masks: dict[Path, str] = {}
    listed = []
    for row in rows:
        s = row.sample
        for mask in s.masks.values():
            masks.setdefault(mask, sha256_of(mask))
        of_masks = sorted((name, masks[mask]) for name, mask in s.masks.items())
        listed.append([s.path, row.sha256, s.label, s.view, s.part, s.split, of_masks])
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
