"""The seam between the pipeline and whatever runs the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from edge.types import FloatImage, TileArray


class Runtime(Protocol):
    """A network loaded on a device."""

    @property
    def name(self) -> str:
        """openvino, tensorrt, torch-cuda, …"""

    @property
    def precision(self) -> str:
        """fp32, bf16, fp16 or int8: what it really runs in."""

    def batch_of(self, height_px: int, width_px: int) -> int:
        """How many tiles of that size one call takes."""

    def infer(self, batches: Iterable[TileArray]) -> Iterator[FloatImage]:
        """Batches of (n, 1, h, w) tiles, n ≤ batch_of(h, w) → (n, channels, h', w') float32, in order.

        Tiles are float32 in 0..1, or uint16 or uint8 as shares of their type's greatest value: the runtime
        scales them. All of a batch have one size and type; the next batch may have others, at the cost of a
        compilation the first time. Batches are taken from the iterable while earlier ones are being computed.
        """
