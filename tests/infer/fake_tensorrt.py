"""A double of TensorRT and the driver: engines are the ONNX they were built from, run by torch on the CPU.

So everything but NVIDIA's own code is the real thing: graphs, keys, the cache, batches, streams, scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from edge.errors import UnavailableError
from edge.infer.cache import Note
from edge.infer.onnx_torch import OnnxNetwork
from edge.types import FloatImage, TileArray

MAGIC = b"engine "


class FakeTrt:
    """See `edge.infer.tensorrt.TrtApi`."""

    def __init__(
        self, version: str = "10.15.1", device: str = "Fake 1, compute capability 8.9, driver 1"
    ) -> None:
        self.version, self.device = version, device
        self.built: list[bytes] = []  # the ONNX of each build
        self.timings: list[bytes] = []  # the timing cache each was given
        self.loads = 0
        self.refuses_to_load = False
        self.slots: list[FakeSlot] = []
        self.lost = False  # the device: every call fails
        self.in_flight = self.most_in_flight = 0

    def build(self, onnx: bytes, timing: bytes, progress: Note) -> tuple[bytes, bytes]:
        progress("Building engine, step 1 of 2")
        self.built.append(onnx)
        self.timings.append(timing)
        return MAGIC + onnx, b"timing of %d" % len(self.built)

    def load(self, engine: bytes) -> OnnxNetwork:
        self.loads += 1
        if self.refuses_to_load or not engine.startswith(MAGIC):
            raise ValueError("magic tag does not match")
        return OnnxNetwork(engine.removeprefix(MAGIC))

    def slot(self, network: Any, scalings: Mapping[str, Any]) -> FakeSlot:
        self.check()
        self.slots.append(FakeSlot(self, network, scalings))
        return self.slots[-1]

    def check(self) -> None:
        if self.lost:
            raise UnavailableError("CUDA: cudaStreamSynchronize: an illegal memory access", retryable=False)


class FakeSlot:
    """Computes when it is waited for, from buffers that it keeps as a device does."""

    def __init__(self, api: FakeTrt, network: Any, scalings: Mapping[str, Any]) -> None:
        self._api, self._network, self._scalings = api, network, scalings
        self._buffers: dict[str, Any] = {}
        self._kind = ""
        self._busy = self.closed = False

    def start(self, tiles: TileArray) -> None:
        self._api.check()
        assert not self._busy, "its buffers are in use"
        assert not self.closed
        self._busy, self._kind = True, tiles.dtype.name
        batch = _batch(self._network, tiles)
        buffer = self._buffers.setdefault(self._kind, np.zeros((batch, *tiles.shape[1:]), tiles.dtype))
        buffer[: len(tiles)] = tiles  # the rest is what was there before
        self._api.in_flight += 1
        self._api.most_in_flight = max(self._api.most_in_flight, self._api.in_flight)

    def finish(self) -> FloatImage:
        self._busy = False
        self._api.in_flight -= 1
        self._api.check()
        stored = self._buffers[self._kind]
        if self._kind == "uint16":
            stored = stored.view(np.uint8).reshape(*stored.shape, 2)
        tiles = torch.from_numpy(stored)
        with torch.no_grad():
            if self._kind in self._scalings:
                tiles = self._scalings[self._kind](tiles)
            return np.asarray(self._network(tiles).numpy(), np.float32)

    def close(self) -> None:
        assert not self._busy
        self.closed = True


def _batch(network: Any, tiles: TileArray) -> int:
    from edge.infer.streams import StreamedRuntime

    return StreamedRuntime("", "", lambda *_: ()).batch_of(*tiles.shape[2:])
