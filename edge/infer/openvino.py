"""The CPU runtime: OpenVINO."""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.properties as properties
import openvino.properties.hint as hint
from openvino.preprocess import PrePostProcessor

from edge.errors import BundleError, UnavailableError
from edge.infer.cache import CompiledCache
from edge.types import FloatImage, TileArray

# Tiles of one call: enough to amortise the call, little enough to stay in the cache. Measured on 2 cores.
PIXELS_PER_CALL = 1 << 17
MOST_NETWORKS = 4  # compiled and in memory: of so many sizes and types of tiles at a time

_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "int8": ov.Type.f32}
_INPUTS = {"float32": ov.Type.f32, "uint16": ov.Type.u16, "uint8": ov.Type.u8}


@dataclass(frozen=True, slots=True)
class Plan:
    """How OpenVINO shall use the cores; 0 leaves it to OpenVINO."""

    streams: int = 0  # calls that are computed at the same time
    threads: int = 0  # of all of them


@dataclass(slots=True)
class _Network:
    """Compiled for one size and type of tiles, with as many requests as it has streams."""

    requests: list[ov.InferRequest]
    free: deque[int]


class OpenVinoRuntime:
    """A network on this CPU, compiled for each size and type of tiles when the first of them come.

    The network comes as the bytes of its ONNX file, which the caller has checked; `origin` names them in
    errors. ONNX in memory cannot refer to other files. An int8 network has explicit quantisation in it.
    """

    name = "openvino"

    def __init__(
        self,
        onnx: bytes,
        *,
        origin: Path,
        precision: str = "fp32",
        plan: Plan = Plan(),
        cache: CompiledCache | None = None,
    ) -> None:
        if precision not in _TYPES:
            raise UnavailableError(
                f"precision {precision} is not available on the CPU",
                hint='use "fp32", "bf16", "int8" or "auto"',
            )
        if precision == "bf16" and not has_fast_bf16():
            raise UnavailableError(
                "this CPU has no bf16 instructions", hint='set precision = "fp32" or "auto" under [runtime]'
            )
        self.precision, self.plan = precision, plan
        self._onnx, self._origin, self._cache = onnx, origin, cache
        self._networks: OrderedDict[tuple[int, int, str], _Network] = OrderedDict()
        self._from_cache: list[Mapping[str, str]] = []
        self._made_for = {
            "network": hashlib.sha256(onnx).hexdigest(),
            "precision": precision,
            "plan": f"{plan.streams} streams, {plan.threads} threads",
            "runtime": self.name,
            "version": ov.get_version(),
            "device": cpu_identity(),
        }

    def batch_of(self, height_px: int, width_px: int) -> int:
        """See `Runtime.batch_of`."""
        return max(1, PIXELS_PER_CALL // (height_px * width_px))

    def made_for(self, height_px: int, width_px: int, kind: str = "float32") -> dict[str, str]:
        """What the network for such tiles is kept under."""
        batch = self.batch_of(height_px, width_px)
        return {**self._made_for, "shape": f"1..{batch}x1x{height_px}x{width_px}", "input": kind}

    @property
    def from_cache(self) -> bool:
        """Whether anything was compiled by an earlier process."""
        return bool(self._from_cache)

    def distrust(self, why: str) -> None:
        """Forget all that was compiled, and discard what was kept of it on disk; it is compiled again."""
        for made_for in self._from_cache:
            assert self._cache is not None, "it came from there"
            self._cache.discard(made_for, why)
        self._networks.clear()
        self._from_cache.clear()

    def warm(self, height_px: int, width_px: int, kind: str = "float32") -> None:
        """Compile for tiles of that size and type now, so that no frame waits for it.

        Raises:
            BundleError: OpenVINO cannot compile the network.
        """
        self._network(height_px, width_px, kind)

    def infer(self, batches: Iterable[TileArray]) -> Iterator[FloatImage]:
        """See `Runtime.infer`; as many batches are in flight as the CPU has streams."""
        # with the tiles, which must stay where they are
        flying: deque[tuple[_Network, int, TileArray]] = deque()
        try:
            for tiles in batches:
                network = self._network(tiles.shape[2], tiles.shape[3], tiles.dtype.name)
                while not network.free:
                    yield self._collect(flying)
                # OpenVINO shares no memory that it could not write to, such as planes from a decode worker
                tiles = np.require(tiles, requirements=("C", "W"))
                request = network.requests[network.free[0]]
                request.set_input_tensor(ov.Tensor(tiles, shared_memory=True))
                request.start_async()
                flying.append((network, network.free.popleft(), tiles))  # only now: a fault costs no request
            while flying:
                yield self._collect(flying)
        finally:
            for network, slot, _ in flying:  # given up half-way: the next call must find no request busy
                with contextlib.suppress(RuntimeError):
                    network.requests[slot].wait()
                network.free.append(slot)

    @staticmethod
    def _collect(flying: deque[tuple[_Network, int, TileArray]]) -> FloatImage:
        network, slot, _ = flying[0]
        request = network.requests[slot]
        request.wait()
        flying.popleft()
        answers: FloatImage = np.array(request.get_output_tensor(0).data, np.float32)
        network.free.append(slot)
        return answers

    def _network(self, height: int, width: int, kind: str) -> _Network:
        key = (height, width, kind)
        if key not in self._networks:
            while len(self._networks) >= MOST_NETWORKS:  # what of it is in flight is kept by those who wait
                self._networks.popitem(last=False)
            self._networks[key] = self._compiled(height, width, kind)
        self._networks.move_to_end(key)
        return self._networks[key]

    def _compiled(self, height: int, width: int, kind: str) -> _Network:
        batch, made_for = self.batch_of(height, width), self.made_for(height, width, kind)
        options = {
            hint.performance_mode(): hint.PerformanceMode.THROUGHPUT,
            hint.inference_precision(): _TYPES[self.precision],
        }
        if self.plan.threads:
            options[properties.inference_num_threads()] = self.plan.threads
        if self.plan.streams:
            options[properties.streams.num()] = self.plan.streams
        core = the_core()
        compiled = self._compiled_before(core, options, made_for)
        try:
            if compiled is None:
                model = core.read_model(self._onnx)
                model.reshape([ov.Dimension(1, batch) if batch > 1 else 1, 1, height, width])
                compiled = core.compile_model(_scaled(model, kind), "CPU", options)
                if self._cache is not None:
                    self._cache.store(made_for, compiled.export_model().getvalue())
            # one more than are computed at a time: while Python looks at an answer, the next waits in line
            count = 1 + compiled.get_property(properties.optimal_number_of_infer_requests())
            return _Network([compiled.create_infer_request() for _ in range(count)], deque(range(count)))
        except RuntimeError as error:
            raise BundleError(
                f"{self._origin}: OpenVINO cannot compile it: {str(error).splitlines()[-1]}",
                hint="learn the recipe again, or update openvino",
            ) from None

    def _compiled_before(
        self, core: Any, options: Mapping[Any, Any], made_for: Mapping[str, str]
    ) -> ov.CompiledModel | None:
        """What an earlier start compiled for the same network, version, CPU and settings."""
        data = None if self._cache is None else self._cache.load(made_for)
        if self._cache is None or data is None:
            return None
        try:
            compiled = core.import_model(data, "CPU", dict(options))
        except RuntimeError as error:
            self._cache.discard(made_for, f"OpenVINO cannot read it: {str(error).splitlines()[-1]}")
            return None
        self._from_cache.append(made_for)
        return compiled


def _scaled(model: ov.Model, kind: str) -> ov.Model:
    """The network for tiles of that type: integers become shares of their greatest value, in the graph."""
    if kind == "float32":
        return model
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(_INPUTS[kind])
    steps.input().preprocess().convert_element_type(ov.Type.f32).scale(float(np.iinfo(kind).max))
    return steps.build()


def open_explainer(
    onnx: bytes, *, origin: Path, tile_px: int
) -> Callable[[FloatImage], tuple[FloatImage, FloatImage]]:
    """A bundle's explain.onnx, ready: tiles (n, 1, size, size) → activations and gradients, (n, k, h, w).

    Raises:
        BundleError: it cannot be compiled, or has not those two outputs.
    """
    core = the_core()
    try:
        model = core.read_model(onnx)
        model.reshape([-1, 1, tile_px, tile_px])
        compiled = core.compile_model(model, "CPU", {hint.inference_precision(): ov.Type.f32})
        outputs = compiled.output("activations"), compiled.output("gradients")
    except RuntimeError as error:
        raise BundleError(
            f"{origin}: OpenVINO cannot compile it: {str(error).splitlines()[-1]}",
            hint="learn the recipe again, or update openvino",
        ) from None

    def explain(tiles: FloatImage) -> tuple[FloatImage, FloatImage]:
        found = compiled([np.ascontiguousarray(tiles, np.float32)])
        first, second = (np.array(found[output], np.float32) for output in outputs)
        return first, second

    return explain


@cache
def the_core() -> Any:
    """OpenVINO, loaded once and kept until the process ends.

    Its CPU plugin gives the thread that loads it a stack for signal handlers, and unmaps that when it is
    unloaded, by whatever thread. With a core for each runtime, a runtime that the inspecting thread drops
    would leave the main thread without, and the next SIGTERM or SIGHUP would be a segmentation fault.
    """
    return ov.Core()


def can_compute(precision: str) -> bool:
    """Whether this CPU gains anything by that precision: bf16 needs its instructions."""
    return precision != "bf16" or has_fast_bf16()


def measured_for() -> dict[str, str]:
    """What a measurement of speed on this machine holds for."""
    return {"runtime": "openvino: fastest", "version": ov.get_version(), "device": cpu_identity()}


def has_fast_bf16() -> bool:
    """Whether OpenVINO would run bf16 natively on this CPU."""
    capabilities: list[str] = the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def cpu_identity() -> str:
    """What a compiled network depends on: the CPU's name, what it can do, and its instruction sets.

    The name alone does not do: virtual machines of one name move between hosts.
    """
    core = the_core()
    can: list[str] = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    flags = ""
    with contextlib.suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    known = hashlib.sha256(flags.encode()).hexdigest()[:16]
    return f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} {' '.join(sorted(can))} {known}"
