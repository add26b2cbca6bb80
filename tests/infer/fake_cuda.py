"""Doubles of NVIDIA's two Python packages, as `edge.infer.tensorrt_native` calls them.

"Device" memory is the host's; what is put on a stream runs when the stream is waited for; a copy must lie
within what was allocated, and on the sides that its kind says. So wrong addresses, sizes, orders and missing
waits show. What NVIDIA's code really does, only a GPU can show.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch

from edge.infer.onnx_torch import OnnxNetwork

Work = Callable[[], None]


class Error(Enum):
    cudaSuccess = 0  # noqa: N815  # CUDA's own names
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815


class Stream:
    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None

    def __int__(self) -> int:
        return self.handle

    def put(self, work: Work) -> None:
        (self.queue if self.recording is None else self.recording).append(work)


class FakeCuda(ModuleType):
    """`cuda.bindings.runtime`: every call gives a tuple, the error first."""

    cudaError_t = Error  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to", cudaMemcpyDeviceToHost="from")  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.memory: dict[int, tuple[str, Any]] = {}  # address → side, buffer
        self.streams: dict[int, Stream] = {}
        self.graphs = 0  # instantiated and not destroyed
        self.devices = 1
        self.lost = False
        self.replays = 0

    def _allocate(self, side: str, size: int) -> tuple[Error, int]:
        buffer = (ctypes.c_uint8 * size)()
        ctypes.memset(buffer, 0xAA, size)  # nothing is zero by chance
        address = ctypes.addressof(buffer)
        self.memory[address] = side, buffer
        return Error.cudaSuccess, address

    def within(self, address: int, size: int, side: str) -> None:
        found = [
            address + size <= start + len(buffer)
            for start, (where, buffer) in self.memory.items()
            if where == side and start <= address < start + len(buffer)
        ]
        assert found == [True], f"{size} bytes at {address:#x} are not within the {side}'s"

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:  # noqa: N802
        return Error.cudaSuccess, error.name.encode()

    def cudaGetDeviceCount(self) -> tuple[Error, int | None]:  # noqa: N802
        return (Error.cudaSuccess, self.devices) if self.devices else (Error.cudaErrorNoDevice, None)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Error, Any]:  # noqa: N802
        assert device == 0
        return Error.cudaSuccess, SimpleNamespace(name=b"Fake 1\0\0\0", major=8, minor=9)

    def cudaDriverGetVersion(self) -> tuple[Error, int]:  # noqa: N802
        return Error.cudaSuccess, 13000

    def cudaMallocHost(self, size: int) -> tuple[Error, int]:  # noqa: N802
        return self._allocate("host", size)

    def cudaMalloc(self, size: int) -> tuple[Error, int]:  # noqa: N802
        return self._allocate("device", size)

    def cudaFreeHost(self, address: int) -> tuple[Error]:  # noqa: N802
        assert self.memory.pop(address)[0] == "host"
        return (Error.cudaSuccess,)

    def cudaFree(self, address: int) -> tuple[Error]:  # noqa: N802
        assert self.memory.pop(address)[0] == "device"
        return (Error.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, Stream]:  # noqa: N802
        assert flags == self.cudaStreamNonBlocking
        stream = Stream(1000 + len(self.streams))
        self.streams[int(stream)] = stream
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: Stream) -> tuple[Error]:  # noqa: N802
        assert self.lost or not stream.queue
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: Stream) -> tuple[Error]:  # noqa: N802
        self.within(to, size, "device" if kind == "to" else "host")
        self.within(source, size, "host" if kind == "to" else "device")
        stream.put(lambda: ctypes.memmove(to, source, size) and None)
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[Error]:  # noqa: N802
        assert stream.recording is None, "waiting ends a recording"
        if self.lost:
            return (Error.cudaErrorIllegalAddress,)
        while stream.queue:
            stream.queue.pop(0)()
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: Stream, mode: int) -> tuple[Error]:  # noqa: N802
        assert not stream.queue, "what is under way would be part of it"
        stream.recording = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[Error, list[Work]]:  # noqa: N802
        assert stream.recording is not None
        graph, stream.recording = stream.recording, None
        return Error.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[Error, list[Work]]:  # noqa: N802
        self.graphs += 1
        return Error.cudaSuccess, list(graph)

    def cudaGraphDestroy(self, graph: list[Work]) -> tuple[Error]:  # noqa: N802
        graph.clear()
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: list[Work]) -> tuple[Error]:  # noqa: N802
        self.graphs -= 1
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, graph: list[Work], stream: Stream) -> tuple[Error]:  # noqa: N802
        self.replays += 1
        stream.queue.extend(graph)
        return (Error.cudaSuccess,)


class Dims:
    """Has a length and items, and nothing else that may be relied on."""

    def __init__(self, *sides: int) -> None:
        self._sides = sides

    def __len__(self) -> int:
        return len(self._sides)

    def __getitem__(self, axis: int) -> int:
        return self._sides[axis]


def fake_tensorrt(cuda: FakeCuda, version: str) -> ModuleType:
    """`tensorrt`, of version 10 or 11; an engine is the ONNX that it was built from."""
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version
    trt.asked = []  # what builds were asked for
    trt.learned = []  # timing caches they were given
    flags = {"STRONGLY_TYPED": 1} if version.startswith("10.") else {}
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(**flags)
    trt.BuilderFlag = SimpleNamespace(TF32="TF32")
    trt.TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")

    class ILogger:
        Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

        def log(self, severity: Any, msg: str) -> None: ...

    class IProgressMonitor: ...

    class Builder:
        def __init__(self, log: Any) -> None:
            self._log = log

        def create_network(self, flags: int = 0) -> SimpleNamespace:
            assert flags == (1 << 1 if version.startswith("10.") else 0)
            return SimpleNamespace(onnx=b"")

        def create_builder_config(self) -> Any:
            return Config()

        def build_serialized_network(self, network: Any, config: Any) -> memoryview | None:
            trt.asked.append(config.cleared)
            monitor = config.progress_monitor
            monitor.phase_start("Building", "", 2)
            assert monitor.step_complete("Building", 0) is True
            monitor.phase_finish("Building")
            if b"Selu" in network.onnx:
                self._log.log(ILogger.Severity["INFO"], "nothing to see")
                self._log.log(ILogger.Severity["ERROR"], "no tactic for Selu")
                return None
            config.timing.data += b"+"
            return memoryview(b"plan " + network.onnx)

    class Timing:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> memoryview:
            return memoryview(self.data)

    class Config:
        def __init__(self) -> None:
            self.cleared: list[str] = []
            self.progress_monitor: Any = None
            self.timing: Any = None

        def clear_flag(self, flag: str) -> None:
            self.cleared.append(flag)

        def create_timing_cache(self, data: bytes) -> Timing:
            return Timing(data)

        def set_timing_cache(self, cache: Timing, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            trt.learned.append(cache.data)
            if cache.data.startswith(b"foreign"):
                return False
            self.timing = cache
            return True

        def get_timing_cache(self) -> Timing:
            return self.timing  # type: ignore[no-any-return]

    class OnnxParser:
        def __init__(self, network: Any, log: Any) -> None:
            self._network, self.num_errors = network, 0

        def parse(self, model: bytes) -> bool:
            try:
                onnx.load_from_string(model)
            except Exception:
                self.num_errors = 1
                return False
            self._network.onnx = model
            return True

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: "cannot parse")

    class Runtime:
        def __init__(self, log: Any) -> None:
            self._log = log

        def deserialize_cuda_engine(self, engine: bytes) -> Any:
            if not engine.startswith(b"plan "):
                self._log.log(ILogger.Severity["ERROR"], "magic tag does not match")
                return None
            return Engine(engine.removeprefix(b"plan "))

    class Engine:
        def __init__(self, model: bytes) -> None:
            self.network = OnnxNetwork(model)
            graph = onnx.load_from_string(model).graph
            dims = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
            self.kind = {1: np.float32, 2: np.uint8}[graph.input[0].type.tensor_type.elem_type]
            with torch.no_grad():
                out = self.network(
                    torch.zeros(dims, dtype=torch.from_numpy(np.zeros(1, self.kind)).dtype)
                ).shape
            # outputs may come first: their order is not promised
            self.ends = {
                graph.output[0].name: ("output", tuple(out)),
                graph.input[0].name: ("input", tuple(dims)),
            }
            self.num_io_tensors = len(self.ends)

        def get_tensor_name(self, index: int) -> str:
            return list(self.ends)[index]

        def get_tensor_mode(self, name: str) -> str:
            return self.ends[name][0]

        def get_tensor_shape(self, name: str) -> Dims:
            return Dims(*self.ends[name][1])

        def create_execution_context(self) -> Any:
            return Context(self)

    class Context:
        def __init__(self, engine: Engine) -> None:
            self._engine = engine
            self._addresses: dict[str, int] = {}
            self._warm = False

        def set_tensor_address(self, name: str, address: int) -> bool:
            shape = self._engine.ends[name][1]
            kind = self._engine.kind if self._engine.ends[name][0] == "input" else np.float32
            cuda.within(address, int(np.prod(shape)) * np.dtype(kind).itemsize, "device")
            self._addresses[name] = address
            return True

        def execute_async_v3(self, handle: int) -> bool:
            assert isinstance(handle, int)
            stream = cuda.streams[handle]
            assert self._warm or stream.recording is None, "the first run cannot be recorded"
            self._warm = True
            stream.put(self._run)
            return True

        def _run(self) -> None:
            sides = {
                mode: (self._addresses[name], shape) for name, (mode, shape) in self._engine.ends.items()
            }
            tiles = _at(*sides["input"], self._engine.kind)
            with torch.no_grad():
                answers = self._engine.network(torch.from_numpy(np.array(tiles))).numpy()
            _at(*sides["output"], np.float32)[...] = answers

    for kind in (ILogger, IProgressMonitor, Builder, OnnxParser, Runtime):
        setattr(trt, kind.__name__, kind)
    trt.ICudaEngine, trt.IExecutionContext = Engine, Context
    return trt  # type: ignore[no-any-return]


def _at(address: int, shape: tuple[int, ...], kind: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(kind).reshape(shape)
