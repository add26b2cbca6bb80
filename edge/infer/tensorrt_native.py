"""TensorRT and the CUDA runtime as they are: `edge.infer.tensorrt.TrtApi` over NVIDIA's own Python packages.

Nothing here was run by those who wrote it: there was no NVIDIA GPU. It is type-checked against the package
`tensorrt-stubs` (tests/infer/test_tensorrt_types.py), keeps to what both TensorRT 10 and 11 have, and is
proved on a machine that has a GPU by `edge doctor --gpu` and `pytest -m tensorrt`. So it decides as little as
it can.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as cudart
from numpy.typing import NDArray

from edge.errors import BundleError, UnavailableError
from edge.infer.cache import Note
from edge.infer.streams import Slot
from edge.types import FloatImage, TileArray

HOST_TO_DEVICE = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
DEVICE_TO_HOST = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
# other threads (a torch beside us, a decoder) may call CUDA while a graph is recorded
CAPTURE = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal


class NativeTrt:
    """TensorRT on the first visible GPU.

    Raises:
        UnavailableError: there is none, or it does not answer.
    """

    def __init__(self, note: Note) -> None:
        self.version = str(trt.__version__)
        self.device = _identity()
        self._log = _Log(note)
        self._runtime = trt.Runtime(self._log)

    def build(self, onnx: bytes, timing: bytes, progress: Note) -> tuple[bytes, bytes]:
        """See `TrtApi.build`."""
        builder = trt.Builder(self._log)
        network = builder.create_network(_strongly_typed())
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(onnx):
            why = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise _cannot_build(why or self._log.last)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # what is float32 in the file is computed so
        monitor = _Monitor(progress)
        config.progress_monitor = monitor
        cache = config.create_timing_cache(timing)
        if not config.set_timing_cache(cache, ignore_mismatch=False):  # not of this GPU and version after all
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise _cannot_build(self._log.last)
        return bytes(memoryview(engine)), bytes(memoryview(config.get_timing_cache().serialize()))

    def load(self, engine: bytes) -> trt.ICudaEngine:
        """See `TrtApi.load`."""
        loaded: trt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise ValueError(self._log.last or "no reason given")
        return loaded

    def slot(self, network: trt.ICudaEngine, scalings: Mapping[str, trt.ICudaEngine]) -> Slot:
        """See `TrtApi.slot`."""
        return _NativeSlot(network, scalings)


class _NativeSlot:
    """A stream, its pinned and device buffers, and one recorded graph for each type of tiles."""

    def __init__(self, network: trt.ICudaEngine, scalings: Mapping[str, trt.ICudaEngine]) -> None:
        self._allocated: list[tuple[str, Any]] = []
        self._graphs: dict[str, Any] = {}
        (tiles_name, tiles_shape), (answers_name, answers_shape) = _ends(network)
        pixels, answers = int(np.prod(tiles_shape)), int(np.prod(answers_shape))
        self._stream = _cuda("cudaStreamCreateWithFlags", cudart.cudaStreamNonBlocking)
        self._allocated.append(("cudaStreamDestroy", self._stream))
        staged = self._pinned(4 * pixels)
        self._staged: dict[str, NDArray[Any]] = {
            name: staged[: pixels * np.dtype(name).itemsize].view(name).reshape(tiles_shape)
            for name in ("float32", *scalings)
        }
        self._answers = self._pinned(4 * answers).view(np.float32).reshape(answers_shape)
        self._on_device = {"stored": self._device(2 * pixels), "tiles": self._device(4 * pixels)}
        self._on_device["answers"] = self._device(4 * answers)
        self._network = _context(network, {tiles_name: "tiles", answers_name: "answers"}, self._on_device)
        self._scalings = {}
        for dtype, engine in scalings.items():
            (stored, _), (scaled, _) = _ends(engine)
            self._scalings[dtype] = _context(engine, {stored: "stored", scaled: "tiles"}, self._on_device)

    def start(self, tiles: TileArray) -> None:
        """See `Slot.start`. What the rest of the batch holds is computed too, and nobody reads it."""
        dtype = tiles.dtype.name
        self._staged[dtype][: len(tiles)] = tiles
        if dtype not in self._graphs:
            self._enqueue(dtype)  # without a graph: the first run allocates, which none can hold
            _cuda("cudaStreamSynchronize", self._stream)
            self._graphs[dtype] = self._recorded(dtype)
        _cuda("cudaGraphLaunch", self._graphs[dtype], self._stream)

    def finish(self) -> FloatImage:
        """See `Slot.finish`."""
        _cuda("cudaStreamSynchronize", self._stream)
        return self._answers

    def close(self) -> None:
        """See `Slot.close`."""
        for graph in self._graphs.values():
            with contextlib.suppress(UnavailableError):  # a lost device has nothing to give back
                _cuda("cudaGraphExecDestroy", graph)
        self._graphs.clear()
        del self._network, self._scalings
        while self._allocated:
            how, what = self._allocated.pop()
            with contextlib.suppress(UnavailableError):
                _cuda(how, what)

    def _enqueue(self, dtype: str) -> None:
        staged = self._staged[dtype]
        target = self._on_device["tiles" if dtype == "float32" else "stored"]
        _cuda("cudaMemcpyAsync", target, staged.ctypes.data, staged.nbytes, HOST_TO_DEVICE, self._stream)
        for context in (*([] if dtype == "float32" else [self._scalings[dtype]]), self._network):
            if not context.execute_async_v3(int(self._stream)):
                raise UnavailableError(
                    "TensorRT did not run", hint="see what is wrong with the GPU", retryable=False
                )
        source, size = self._on_device["answers"], self._answers.nbytes
        _cuda("cudaMemcpyAsync", self._answers.ctypes.data, source, size, DEVICE_TO_HOST, self._stream)

    def _recorded(self, dtype: str) -> Any:
        _cuda("cudaStreamBeginCapture", self._stream, CAPTURE)
        try:
            self._enqueue(dtype)
        finally:  # a stream that goes on recording would be lost
            graph = _cuda("cudaStreamEndCapture", self._stream)
        try:
            return _cuda("cudaGraphInstantiate", graph, 0)
        finally:
            _cuda("cudaGraphDestroy", graph)

    def _pinned(self, size: int) -> NDArray[np.uint8]:
        """Memory of the host that the device reads and writes by itself."""
        address = _cuda("cudaMallocHost", size)
        self._allocated.append(("cudaFreeHost", address))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))

    def _device(self, size: int) -> int:
        address = _cuda("cudaMalloc", size)
        self._allocated.append(("cudaFree", address))
        return int(address)


class _Log(trt.ILogger):
    """TensorRT's own log: its errors are ours to tell, the rest is not."""

    def __init__(self, note: Note) -> None:
        trt.ILogger.__init__(self)
        self._note, self.last = note, ""

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.last = msg
            self._note(f"TensorRT: {msg}")


class _Monitor(trt.IProgressMonitor):
    """Which step of which phase a build has come to."""

    def __init__(self, progress: Note) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        self._steps[phase_name] = num_steps

    def step_complete(self, phase_name: str, step: int) -> bool:
        self._progress(f"{phase_name}, step {step + 1} of {self._steps.get(phase_name, 0)}")
        return True  # go on

    def phase_finish(self, phase_name: str) -> None:
        self._steps.pop(phase_name, None)


def _cuda(name: str, *arguments: Any) -> Any:
    """Call the CUDA runtime; its one result, None where it has none."""
    error, *results = getattr(cudart, name)(*arguments)
    if error != cudart.cudaError_t.cudaSuccess:
        _, text = cudart.cudaGetErrorString(error)
        raise UnavailableError(
            f"CUDA: {name}: {text.decode() if isinstance(text, bytes) else error}",
            hint="see `nvidia-smi` and the kernel's log (dmesg) for what is wrong with the GPU or its driver",
            retryable=False,
        )
    return results[0] if results else None


def _identity() -> str:
    """Name, compute capability and driver of the GPU in use: what an engine is good for."""
    if not _cuda("cudaGetDeviceCount"):
        raise UnavailableError(
            "no GPU is visible", hint="see CUDA_VISIBLE_DEVICES and `nvidia-smi`", retryable=False
        )
    properties = _cuda("cudaGetDeviceProperties", 0)
    name = properties.name.split(b"\0")[0].decode(errors="replace")
    driver = str(_cuda("cudaDriverGetVersion"))
    with contextlib.suppress(OSError, IndexError):  # the driver's own number, where Linux tells it
        driver += " " + Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    return f"{name}, compute capability {properties.major}.{properties.minor}, driver {driver}"


def _strongly_typed() -> int:
    """The flag that TensorRT 10 needs for what 11 does always."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _cannot_build(why: str) -> BundleError:
    return BundleError(
        f"TensorRT cannot build the network: {why or 'no reason given'}",
        hint='set device = "cpu" under [runtime]; `edge doctor --gpu` says more',
    )


def _ends(engine: trt.ICudaEngine) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of the input and the (first) output."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for mode in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT):
        name = next(name for name in names if engine.get_tensor_mode(name) == mode)
        shape = engine.get_tensor_shape(name)
        yield name, tuple(int(shape[axis]) for axis in range(len(shape)))


def _context(
    engine: trt.ICudaEngine, bound: Mapping[str, str], addresses: Mapping[str, int]
) -> trt.IExecutionContext:
    context = engine.create_execution_context()
    if context is None:
        raise UnavailableError("the GPU has no memory left for the network", hint="see `nvidia-smi`")
    for tensor, buffer in bound.items():
        context.set_tensor_address(tensor, addresses[buffer])
    return context
