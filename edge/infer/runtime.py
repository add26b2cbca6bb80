"""The seam between the pipeline and whatever runs the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from edge.types import FloatImage


class Runtime(Protocol):
    """A network loaded on a device."""

    @property
    def name(self) -> str:
        """openvino, tensorrt, torch-cuda, …"""

    @property
    def precision(self) -> str:
        """fp32, bf16, fp16 or int8: what it really runs in."""

    @property
    def batch(self) -> int:
        """How many tiles one call takes."""

    def infer(self, batches: Iterable[FloatImage]) -> Iterator[FloatImage]:
        """Batches of (n, 1, size, size) float32 with n ≤ batch → answers of the same shape, in order.

        Batches are taken from the iterable while earlier ones are being computed.
        """
