"""Batches through a device that works beside the CPU: several in flight, answers in order.

What TensorRT and torch on CUDA have in common. A slot is one stream with its buffers, made for one shape of
tiles; while one computes, the next is being filled and the last one's answers are being read.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from edge.errors import BundleError
from edge.infer.runtime import Runtime
from edge.types import FloatImage, TileArray

# Tiles of one call: enough that a large GPU is busy, little enough that three in flight fit a small one
PIXELS_PER_CALL = 1 << 22
LARGEST_BATCH = 64
STREAMS = 3  # one is filled, one computes, one is read
SHAPES_KEPT = 4  # of tiles; the longest unused one's memory is given back


class Slot(Protocol):
    """A stream of the device, its buffers, and a network for batches of one shape."""

    def start(self, tiles: TileArray) -> None:
        """Begin with (n, 1, h, w) tiles, n up to the batch it was made for; they may change afterwards."""

    def finish(self) -> FloatImage:
        """Wait; (batch, channels, h', w'): the first n are answers, and last until the next start."""

    def close(self) -> None:
        """Give the device's memory back."""


OpenSlots = Callable[[int, int, int], Sequence[Slot]]
"""batch, height, width → slots for tiles of that shape."""


class StreamedRuntime:
    """A `Runtime` over slots; `open_slots` makes those of a shape the first time it comes."""

    def __init__(self, name: str, precision: str, open_slots: OpenSlots) -> None:
        self.name, self.precision = name, precision
        self._open_slots = open_slots
        self._free: OrderedDict[tuple[int, int], deque[Slot]] = OrderedDict()

    def batch_of(self, height_px: int, width_px: int) -> int:
        """See `Runtime.batch_of`."""
        return min(LARGEST_BATCH, max(1, PIXELS_PER_CALL // (height_px * width_px)))

    def warm(self, height_px: int, width_px: int) -> None:
        """Make the slots for tiles of that size now, so that no frame waits for it."""
        self._slots(height_px, width_px)

    def close(self) -> None:
        """Give the device's memory back; what is needed again is made again."""
        while self._free:
            for slot in self._free.popitem()[1]:
                slot.close()

    def infer(self, batches: Iterable[TileArray]) -> Iterator[FloatImage]:
        """See `Runtime.infer`; as many batches are in flight as there are streams."""
        flying: deque[tuple[Slot, int, deque[Slot]]] = deque()
        try:
            for tiles in batches:
                height, width = tiles.shape[2:]
                if len(tiles) > self.batch_of(height, width):
                    raise ValueError(f"{len(tiles)} tiles of {height}×{width} in one batch")
                if (height, width) not in self._free:  # making slots may close others: none may be in flight
                    while flying:
                        yield self._answers(flying)
                free = self._slots(height, width)
                while not free:
                    yield self._answers(flying)
                slot = free.popleft()
                flying.append((slot, len(tiles), free))
                slot.start(tiles)
            while flying:
                yield self._answers(flying)
        finally:
            for slot, _, free in flying:  # given up half-way: the next call must find every stream at rest
                with contextlib.suppress(Exception):  # a device that is lost; why is on its way already
                    slot.finish()
                free.append(slot)

    def _answers(self, flying: deque[tuple[Slot, int, deque[Slot]]]) -> FloatImage:
        slot, count, free = flying[0]
        answers = np.array(slot.finish()[:count], np.float32)
        flying.popleft()
        free.append(slot)
        return answers

    def _slots(self, height: int, width: int) -> deque[Slot]:
        shape = height, width
        if shape not in self._free:
            while len(self._free) >= SHAPES_KEPT:
                for slot in self._free.popitem(last=False)[1]:
                    slot.close()
            self._free[shape] = deque(self._open_slots(self.batch_of(*shape), *shape))
        self._free.move_to_end(shape)
        return self._free[shape]


def prove_stored_tiles(runtime: Runtime, tiles: FloatImage, tolerance: float, origin: object) -> None:
    """Hold the device's own scaling of 8- and 16-bit tiles to ours, through the whole network.

    A golden pair has float32 tiles only, so it does not notice a scaling that is wrong.

    Raises:
        BundleError: answers to the same tiles, stored and scaled here, differ by more than the tolerance.
    """
    count = runtime.batch_of(*tiles.shape[2:])
    levels = np.clip(tiles[:count], 0, 1)
    for stored in (np.rint(levels * 255).astype(np.uint8), np.rint(levels * 65535).astype(np.uint16)):
        scaled = stored.astype(np.float32) * np.float32(1 / np.iinfo(stored.dtype).max)
        there, here = runtime.infer([stored, scaled])
        difference = float(np.abs(there - here).max())
        if not difference <= tolerance:  # NaN too
            raise BundleError(
                f"{origin}: {runtime.name} {runtime.precision} scales {8 * stored.itemsize}-bit tiles "
                f"wrongly: answers differ by {difference:.2g}, more than {tolerance:.2g}",
                hint='set device = "cpu" under [runtime], and report this with what `edge doctor --gpu` says',
            )
