"""The other NVIDIA runtime: torch on CUDA, for machines without TensorRT.

The bundle's ONNX becomes a torch network (`onnx_torch`), which torch.export turns into a flat program, which
a CUDA graph replays without Python in between. Stored 8- and 16-bit tiles are scaled on the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from edge.errors import BundleError, EdgeError, UnavailableError
from edge.infer.bundle import MODEL, Bundle
from edge.infer.cache import Note, no_note
from edge.infer.onnx_graphs import Half, to_half
from edge.infer.onnx_torch import OnnxNetwork
from edge.infer.streams import STREAMS, Slot, StreamedRuntime, prove_stored_tiles
from edge.types import FloatImage, TileArray

PRECISIONS = ("fp32", "bf16", "fp16")
Program = Callable[[Tensor], Tensor]


def open_on_torch_cuda(
    bundle: Bundle,
    *,
    precision: str,
    note: Note = no_note,
    windows_px: Sequence[tuple[int, int]] = (),
    device: str = "cuda",
) -> StreamedRuntime:
    """A bundle's network on the first GPU that torch sees. The caller holds it to the golden pair (`prove`).

    `windows_px` are sizes of tiles (height, width), beside the bundle's own, that are made ready at once.
    `device` is for tests: "cpu" does the same, without streams and graphs.

    Raises:
        UnavailableError: torch sees no GPU that works, or the precision cannot be had.
        BundleError: the network cannot be run by torch, or stored tiles are scaled wrongly.
    """
    chosen = "fp16" if precision == "auto" else precision
    if chosen not in PRECISIONS:
        raise UnavailableError(
            f"{bundle.folder}: precision {precision} cannot be had with torch: there are fp32, bf16 and fp16",
            hint='set precision = "auto" under [runtime], or device = "tensorrt"',
            retryable=False,
        )
    where = _device(device, note)
    onnx = bundle.read(MODEL)
    network = OnnxNetwork(onnx if chosen == "fp32" else to_half(onnx, cast(Half, chosen))).to(where).eval()
    runtime = StreamedRuntime("torch-cuda", chosen, partial(_open, network, where, bundle))
    size_px = bundle.manifest.preprocess.tiles.size_px
    try:
        for window in dict.fromkeys([(size_px, size_px), *windows_px]):
            runtime.warm(*window)
        prove_stored_tiles(runtime, bundle.golden()[0], bundle.tolerance_of(chosen), bundle.folder)
    except EdgeError:
        raise
    except RuntimeError as error:  # all of CUDA's and torch's
        raise UnavailableError(
            f"torch cannot use the GPU: {_first_line(error)}",
            hint="see `nvidia-smi`, and whether torch was built for this driver",
            retryable=False,
        ) from None
    return runtime


def _device(device: str, note: Note) -> torch.device:
    if device == "cuda":
        if not torch.cuda.is_available():
            built = torch.version.cuda
            why = f"built for CUDA {built}, sees no GPU" if built else "the installed one is for CPUs only"
            raise UnavailableError(
                f"torch {torch.__version__}: {why}",
                hint="see `nvidia-smi`, and install torch (extra `cuda`) built for its CUDA version, or set "
                'device = "cpu" under [runtime]',
                retryable=False,
            )
        note(f"torch {torch.__version__} on {torch.cuda.get_device_name(0)}")
        torch.backends.cudnn.benchmark = True  # shapes are fixed: the fastest kernel is looked for once
        torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
        torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(device)


def _open(
    network: OnnxNetwork, device: torch.device, bundle: Bundle, batch: int, height: int, width: int
) -> list[Slot]:
    example = torch.zeros(batch, 1, height, width, device=device)
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,)).module()
    except Exception as error:  # torch.export raises what it likes; here it means: not for this size
        raise BundleError(
            f"{bundle.folder}: the network does not take tiles of {height}×{width}: {_first_line(error)}",
            hint="see the preprocessing's tiles in bundle.json",
        ) from None
    if device.type == "cpu":
        return [_HostSlot(program, example)]
    return [_CudaSlot(program, example) for _ in range(STREAMS)]


def scaled(tiles: Tensor) -> Tensor:
    """Stored tiles on the device → float32 shares of their type's greatest value; 16 bits come as int16."""
    if tiles.dtype == torch.uint8:
        return tiles.to(torch.float32) / 255
    if tiles.dtype == torch.int16:
        # torch computes little with uint16, so the bits travel as int16: above 32767 they come out negative
        return (tiles.to(torch.int32) & 0xFFFF).to(torch.float32) / 65535
    return tiles


def _as_torch(tiles: TileArray) -> Tensor:
    ours = np.require(tiles, requirements=("C", "W"))  # torch warns of what it may not write to
    return torch.from_numpy(ours.view(np.int16) if ours.dtype == np.uint16 else ours)


class _HostSlot:
    """The program on the CPU: what a CUDA slot does, without CUDA."""

    def __init__(self, program: Program, example: Tensor) -> None:
        self._program, self._tiles = program, example
        self._answers: FloatImage = np.empty(0, np.float32)

    def start(self, tiles: TileArray) -> None:
        """See `Slot.start`."""
        self._tiles[: len(tiles)] = scaled(_as_torch(np.array(tiles)))
        with torch.no_grad():
            self._answers = self._program(self._tiles).numpy()

    def finish(self) -> FloatImage:
        """See `Slot.finish`."""
        return self._answers

    def close(self) -> None:
        """See `Slot.close`."""


class _CudaSlot:
    """A stream with pinned buffers, and a recorded graph for each type of tiles. Never run yet: no GPU."""

    def __init__(self, program: Program, example: Tensor) -> None:
        self._program, self._shape = program, tuple(example.shape)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own gap
        self._staged: dict[torch.dtype, Tensor] = {}  # pinned, by type
        self._stored: dict[torch.dtype, Tensor] = {}  # the same on the device
        self._graphs: dict[torch.dtype, torch.cuda.CUDAGraph] = {}
        self._answers: dict[torch.dtype, Tensor] = {}  # pinned
        self._last = torch.float32

    def start(self, tiles: TileArray) -> None:
        """See `Slot.start`."""
        given = _as_torch(tiles)
        kind = self._last = given.dtype
        if kind not in self._staged:
            self._staged[kind] = torch.zeros(self._shape, dtype=kind, pin_memory=True)
            self._stored[kind] = torch.zeros(self._shape, dtype=kind, device="cuda")
        self._staged[kind][: len(given)] = given
        if kind not in self._graphs:
            self._record(kind)
        with torch.cuda.stream(self._stream):
            self._stored[kind].copy_(self._staged[kind], non_blocking=True)
            self._graphs[kind].replay()

    def _record(self, kind: torch.dtype) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(self._stream):
            for _ in range(3):  # cuDNN looks for kernels and allocates, which a graph cannot hold
                warm = self._program(scaled(self._stored[kind]))
            self._answers[kind] = torch.empty(warm.shape, dtype=torch.float32, pin_memory=True)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            answers = self._program(scaled(self._stored[kind]))
            self._answers[kind].copy_(answers, non_blocking=True)
        self._graphs[kind] = graph

    def finish(self) -> FloatImage:
        """See `Slot.finish`."""
        self._stream.synchronize()
        return cast(FloatImage, self._answers[self._last].numpy())

    def close(self) -> None:
        """See `Slot.close`."""
        with contextlib.suppress(RuntimeError):  # a lost device has nothing to give back
            self._stream.synchronize()
        for held in (self._graphs, self._stored, self._staged, self._answers):
            held.clear()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
