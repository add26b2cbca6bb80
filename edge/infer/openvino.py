"""The CPU runtime: OpenVINO."""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.properties as properties
import openvino.properties.hint as hint

from edge.errors import BundleError, UnavailableError
from edge.infer.cache import CompiledCache
from edge.types import FloatImage

# Tiles of one call: enough to amortise the call, little enough to stay in the cache. Measured on 2 cores.
PIXELS_PER_CALL = 1 << 17

_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}


class OpenVinoRuntime:
    """A network compiled for this CPU, with as many requests in flight as it has streams.

    The network comes as the bytes of its ONNX file, which the caller has checked; `origin` names them in
    errors. ONNX in memory cannot refer to other files. `from_cache`: it was compiled before.
    """

    name = "openvino"

    def __init__(
        self,
        onnx: bytes,
        *,
        origin: Path,
        tile_px: int,
        precision: str = "fp32",
        threads: int = 0,
        cache: CompiledCache | None = None,
    ) -> None:
        if precision not in _TYPES:
            raise UnavailableError(
                f"precision {precision} is not available on the CPU", hint='use "fp32", "bf16" or "auto"'
            )
        if precision == "bf16" and not has_fast_bf16():
            raise UnavailableError(
                "this CPU has no bf16 instructions", hint='set precision = "fp32" or "auto" under [runtime]'
            )
        self.precision = precision
        self.batch = max(1, PIXELS_PER_CALL // tile_px**2)
        self.from_cache = False
        core = the_core()
        options = {
            hint.performance_mode(): hint.PerformanceMode.THROUGHPUT,
            hint.inference_precision(): _TYPES[precision],
        }
        if threads:
            options[properties.inference_num_threads()] = threads
        self.made_for = {
            "network": hashlib.sha256(onnx).hexdigest(),
            "shape": f"1..{self.batch}x1x{tile_px}x{tile_px}",
            "precision": precision,
            "threads": str(threads),
            "runtime": self.name,
            "version": ov.get_version(),
            "device": cpu_identity(),
        }
        compiled = self._compiled_before(core, options, cache)
        try:
            if compiled is None:
                model = core.read_model(onnx)
                model.reshape([ov.Dimension(1, self.batch), 1, tile_px, tile_px])
                compiled = core.compile_model(model, "CPU", options)
                if cache is not None:
                    cache.store(self.made_for, compiled.export_model().getvalue())
            count = compiled.get_property(properties.optimal_number_of_infer_requests())
            self._requests = [compiled.create_infer_request() for _ in range(count)]
        except RuntimeError as error:
            raise BundleError(
                f"{origin}: OpenVINO cannot compile it: {str(error).splitlines()[-1]}",
                hint="learn the recipe again, or update openvino",
            ) from None
        self._input = np.zeros((count, self.batch, 1, tile_px, tile_px), np.float32)

    def _compiled_before(
        self, core: Any, options: Mapping[Any, Any], cache: CompiledCache | None
    ) -> ov.CompiledModel | None:
        """What an earlier start compiled for the same network, version, CPU and settings."""
        data = None if cache is None else cache.load(self.made_for)
        if cache is None or data is None:
            return None
        try:
            compiled = core.import_model(data, "CPU", dict(options))
        except RuntimeError as error:
            cache.discard(self.made_for, f"OpenVINO cannot read it: {str(error).splitlines()[-1]}")
            return None
        self.from_cache = True
        return compiled

    def infer(self, batches: Iterable[FloatImage]) -> Iterator[FloatImage]:
        """See `Runtime.infer`; as many batches are in flight as the CPU has streams."""
        free = deque(range(len(self._requests)))
        flying: deque[int] = deque()
        try:
            for tiles in batches:
                if not free:
                    yield self._collect(flying, free)
                slot = free.popleft()
                self._input[slot, : len(tiles)] = tiles
                request = self._requests[slot]
                request.set_input_tensor(ov.Tensor(self._input[slot, : len(tiles)], shared_memory=True))
                request.start_async()
                flying.append(slot)
            while flying:
                yield self._collect(flying, free)
        finally:
            for slot in flying:  # given up half-way: the next call must find no request busy
                with contextlib.suppress(RuntimeError):
                    self._requests[slot].wait()

    def _collect(self, flying: deque[int], free: deque[int]) -> FloatImage:
        slot = flying.popleft()
        request = self._requests[slot]
        request.wait()
        answers: FloatImage = np.array(request.get_output_tensor(0).data, np.float32)
        free.append(slot)
        return answers


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
