"""Planes of good frames, and random windows cut from them: fragments are never all in memory, or on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.errors import CannotWriteError
from edge.preprocess import TileSpec
from edge.types import FloatImage

Plane16 = NDArray[np.float16]  # (h, w) in 0..1, with 11 bits of grey
Augmentation = Literal["none", "flips", "dihedral"]

MEMORY_LIMIT_BYTES = 1_000_000_000


@dataclass(slots=True)
class PlaneStore:
    """Preprocessed planes at half precision: in memory up to a limit, the rest mapped from one file."""

    spill_file: Path
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    _in_memory_bytes: int = 0
    _spilled_bytes: int = 0

    def keep(self, plane: FloatImage) -> Plane16:
        """What stands for a (h, w) plane from now on.

        Raises:
            CannotWriteError: the memory limit is reached and the file cannot be written.
        """
        half: Plane16 = plane.astype(np.float16)
        if self._in_memory_bytes + half.nbytes <= self.memory_limit_bytes:
            self._in_memory_bytes += half.nbytes
            return half
        try:
            self.spill_file.parent.mkdir(parents=True, exist_ok=True)
            with self.spill_file.open("ab" if self._spilled_bytes else "wb") as stream:
                half.tofile(stream)
        except OSError as error:
            raise CannotWriteError(f"{self.spill_file}: {error}", hint="free some space there") from None
        offset, self._spilled_bytes = self._spilled_bytes, self._spilled_bytes + half.nbytes
        return np.memmap(self.spill_file, np.float16, "r", offset, half.shape)

    def close(self) -> None:
        """Delete the file."""
        self.spill_file.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Windows:
    """Random windows of planes; which ones depends on nothing but the seed and the step.

    A window may lie wherever a tile may in inspection, so it has the same mirrored borders.
    """

    planes: Sequence[Plane16]
    tiles: TileSpec
    size_px: int  # at most the tiles' own size
    batch: int
    augmentation: Augmentation
    seed: int

    def at(self, step: int) -> Tensor:
        """The step's windows, (batch, 1, size, size) float32 in 0..1. Every place is as likely."""
        rng = np.random.default_rng((self.seed, step))
        windows = np.empty((self.batch, 1, self.size_px, self.size_px), np.float32)
        for k, plane in enumerate(drawn(self.planes, self.batch, rng)):
            rows, columns = (span(length, self.tiles, self.size_px, rng) for length in plane.shape)
            windows[k, 0] = _turned(plane[np.ix_(rows, columns)], rng, self.augmentation)
        return torch.from_numpy(windows)


def drawn(planes: Sequence[Plane16], count: int, rng: np.random.Generator) -> Iterator[Plane16]:
    """`count` planes, each as often as its area says, so that every place is as likely."""
    areas = np.array([plane.size for plane in planes], np.float64)
    for index in rng.choice(len(planes), count, p=areas / areas.sum()):
        yield planes[index]


def span(
    length: int, tiles: TileSpec, size_px: int, rng: np.random.Generator, around_px: int = 0
) -> NDArray[np.int64]:
    """`size_px` indices of a row of a plane, `around_px` more at either end; mirrored beyond the row itself
    as `Tiling.pad` mirrors them."""
    margin = tiles.margin_px
    padded = max(length, tiles.keep_px) + 2 * margin
    start = int(rng.integers(padded - size_px + 1)) - margin
    return mirrored(np.arange(start - around_px, start + size_px + around_px), length)


def mirrored(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Indices beyond either end, folded back without repeating the end itself (OpenCV's REFLECT_101)."""
    period = max(1, 2 * (length - 1))
    folded = np.abs(index) % period
    return np.where(folded >= length, period - folded, folded)


def _turned(window: Plane16, rng: np.random.Generator, augmentation: Augmentation) -> Plane16:
    if augmentation == "none":
        return window
    if rng.random() < 0.5:
        window = window[::-1]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    if augmentation == "dihedral" and rng.random() < 0.5:
        window = window.T
    return window
