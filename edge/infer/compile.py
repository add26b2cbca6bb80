"""From a checked bundle to a running network: device and precision, compiled, held to the golden pair."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import BundleError, UnavailableError
from edge.infer.bundle import MASK_GOLDEN, MASK_MODEL, MODEL, Bundle, read_pair
from edge.infer.cache import CompiledCache, Note, no_note
from edge.infer.precisions import INT8_MODEL, Precisions, tolerant
from edge.infer.runtime import Runtime
from edge.preprocess import Tiling
from edge.types import FloatImage, TileArray

if TYPE_CHECKING:
    from edge.infer.openvino import OpenVinoRuntime, Plan

CPU_RUNTIME = "openvino"  # what device = "cpu" gives
GPU_RUNTIMES = {"tensorrt": "tensorrt", "torch-cuda": "torch"}  # device → package; the better one first
GPU_DEVICE = Path("/dev/nvidiactl")  # there where NVIDIA's driver is loaded
MEASURE_S = 0.3  # of each precision and plan, when the fastest is looked for
WORTH = 1.03  # by so much another must be faster than the simpler one to be taken


def open_runtime(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = "auto",
    precisions: Precisions | None = None,
    threads: int = 0,
    cache: Path | None = None,
    note: Note = no_note,
    progress: Note = no_note,
) -> Runtime:
    """Compile a bundle's network and prove it against the golden pair.

    `precisions` says which precisions beside fp32 may judge: "auto" takes the fastest, measured once a
    machine. It also says what size planes have, for which the network is compiled now: no frame waits.
    `cache` is a folder of networks compiled before; `note` is told what could not be used or kept there, and
    which precision was taken; `progress` hears now and then from a build that takes minutes.

    Raises:
        UnavailableError: the device or precision cannot be had on this machine.
        BundleError: the network cannot be compiled, or does not give the golden answers.
    """
    kept = None if cache is None else CompiledCache(cache, note)
    on_cpu = _OnCpu(bundle, precisions, threads, kept, note)
    if device in GPU_RUNTIMES:
        runtime = _on_gpu(device, bundle, precision, precisions, kept, note, progress)
    elif device == "auto" and GPU_DEVICE.exists():
        runtime = _on_any(bundle, precision, precisions, kept, note, progress) or on_cpu.open(precision)
    else:
        runtime = on_cpu.open(precision)
    mask = bundle.manifest.preprocess.mask
    if mask is not None and mask.method == "unet":
        network = open_mask_network(bundle.read(MASK_MODEL), bundle.folder)
        prove_pair(bundle, network, read_pair(bundle.folder / MASK_GOLDEN, bundle.read(MASK_GOLDEN)))
    return runtime


def window_of(bundle: Bundle, precisions: Precisions | None) -> tuple[int, int]:
    """(height, width) of the tiles that most frames will be cut into."""
    tiles = bundle.manifest.preprocess.tiles
    if precisions is None or precisions.plane_px is None:
        return tiles.size_px, tiles.size_px
    return Tiling(*precisions.plane_px, tiles).window


def _on_any(
    bundle: Bundle,
    precision: str,
    precisions: Precisions | None,
    cache: CompiledCache | None,
    note: Note,
    progress: Note,
) -> Runtime | None:
    """The best of what this machine's GPU can be used by; None, and a note, where nothing can use it."""
    for device, package in GPU_RUNTIMES.items():
        if find_spec(package) is None:
            continue
        try:
            return _on_gpu(device, bundle, precision, precisions, cache, note, progress)
        except (UnavailableError, BundleError) as error:  # nobody insisted on it
            note(f"{device} is not used: {error.message}")
    note("there is an NVIDIA GPU, and nothing that can use it: the CPU judges (see `edge doctor --gpu`)")
    return None


def _on_gpu(
    device: str,
    bundle: Bundle,
    precision: str,
    precisions: Precisions | None,
    cache: CompiledCache | None,
    note: Note,
    progress: Note,
) -> Runtime:
    """Proved. What was built before and fails the golden pair is built again."""
    windows = [window_of(bundle, precisions)]
    held = tolerant(bundle, precisions)
    if device == "torch-cuda":
        try:
            from edge.infer.torch_cuda import open_on_torch_cuda
        except ImportError as error:
            raise UnavailableError(
                f"torch-cuda cannot be had: {error}", hint='pip install "edge-inspect[cuda]"', retryable=False
            ) from None
        runtime: Runtime = open_on_torch_cuda(held, precision=precision, note=note, windows_px=windows)
        prove(held, runtime)
        return runtime
    from edge.infer.tensorrt import open_on_tensorrt

    int8 = None
    if precisions is not None and "int8" in precisions.accepted:
        int8 = precisions.read_int8(bundle.folder)
        precision = "int8" if precision == "auto" else precision
    engine = open_on_tensorrt(
        held, precision=precision, cache=cache, note=note, progress=progress, int8=int8, windows_px=windows
    )
    try:
        prove(held, engine)
    except BundleError as error:
        if not engine.from_cache:
            raise
        engine.distrust(error.message)
        prove(held, engine)
    return engine


class _OnCpu:
    """Opens a bundle's network on the CPU: in the precision asked for, or the fastest that may judge."""

    def __init__(
        self,
        bundle: Bundle,
        precisions: Precisions | None,
        threads: int,
        cache: CompiledCache | None,
        note: Note,
    ) -> None:
        self._bundle, self._precisions = tolerant(bundle, precisions), precisions
        self._cache, self._note = cache, note
        self._threads, self._window = threads, window_of(bundle, precisions)

    def open(self, precision: str) -> Runtime:
        from edge.infer.openvino import Plan

        whole = self._bundle.manifest.preprocess.tiles.whole
        usual = Plan(streams=1 if whole else 0, threads=self._threads)
        if precision != "auto":
            return self._proved(precision, usual)
        chosen, plan = self._fastest()
        if chosen == "fp32":
            return self._proved(chosen, plan)
        try:
            return self._proved(chosen, plan)
        except (BundleError, UnavailableError) as error:
            self._note(f"{self._bundle.folder}: {chosen} is not used, fp32 judges: {error.message}")
            return self._proved("fp32", usual)

    def _proved(self, precision: str, plan: Plan) -> OpenVinoRuntime:
        """Compiled and proved; what was compiled before and fails is compiled again."""
        runtime = self._compiled(precision, plan, self._cache)
        try:
            prove(self._bundle, runtime)
        except BundleError as error:
            if not runtime.from_cache:
                raise
            runtime.distrust(error.message)
            prove(self._bundle, runtime)
        kind = self._precisions.plane_kind if self._precisions is not None else "float32"
        if self._bundle.manifest.preprocess.tiles.whole or kind != "float32":  # others: by the proof
            runtime.warm(*self._window, kind)
        return runtime

    def _compiled(self, precision: str, plan: Plan, cache: CompiledCache | None) -> OpenVinoRuntime:
        from edge.infer.openvino import OpenVinoRuntime

        if precision == "int8":
            onnx, origin = self._int8()
        else:
            onnx, origin = self._bundle.read(MODEL), self._bundle.model_file
        return OpenVinoRuntime(onnx, origin=origin, precision=precision, plan=plan, cache=cache)

    def _int8(self) -> tuple[bytes, Path]:
        found, name = self._precisions, self._bundle.manifest.name
        if found is None or "int8" not in found.agreements:
            raise UnavailableError(
                f"{self._bundle.folder}: has no int8 network that was held to its calibration",
                hint=f'edge compile --recipe {name} --frames GOOD_FRAMES, or precision = "auto"',
                retryable=False,
            )
        if not found.agreements["int8"].accepted:
            raise UnavailableError(
                f"{self._bundle.folder}: int8 may not judge: {found.agreements['int8'].why}",
                hint='set precision = "auto" under [runtime]',
                retryable=False,
            )
        return found.read_int8(self._bundle.folder), self._bundle.folder / INT8_MODEL

    def _fastest(self) -> tuple[str, Plan]:
        """Precision and plan by measurement; what was measured before on such a machine is kept."""
        from edge.infer.openvino import Plan, can_compute, measured_for

        allowed = [
            "fp32",
            *(p for p in (self._precisions.accepted if self._precisions else ()) if can_compute(p)),
        ]
        plans = [Plan(threads=self._threads), Plan(streams=1, threads=self._threads)]
        whole = self._bundle.manifest.preprocess.tiles.whole
        if whole:  # all cores at one window: a frame is judged sooner, and half the memory is in use
            plans.reverse()
        if len(allowed) == 1 and not (whole and self._cache):
            return "fp32", plans[0]
        made_for = {
            **measured_for(),
            "network": self._bundle.digest,
            "among": " ".join(allowed),
            "precisions": self._precisions.digest if self._precisions else "",
            "threads": str(self._threads),
            "window": "x".join(map(str, self._window)),
        }
        known = None if self._cache is None else self._cache.load(made_for)
        if known is not None:
            said = json.loads(known)
            return said["precision"], Plan(said["streams"], self._threads)
        best, rate = ("fp32", plans[0]), 0.0
        rates = {}
        for precision in allowed:
            for plan in plans:
                try:
                    one = pixels_per_s(self._compiled(precision, plan, None), self._window, MEASURE_S)
                except (BundleError, UnavailableError) as error:
                    self._note(f"{self._bundle.folder}: {precision} cannot be had: {error.message}")
                    break
                rates[f"{precision}, {plan.streams or 'usual'} streams"] = f"{one / 1e6:.1f} Mpx/s"
                if one > WORTH * rate:
                    best, rate = (precision, plan), one
        if len(allowed) > 1:
            self._note(f"{self._bundle.folder}: {best[0]} is the fastest that may judge: {rates}")
        if self._cache is not None:
            kept = {"precision": best[0], "streams": best[1].streams, "rates": rates}
            self._cache.store(made_for, json.dumps(kept).encode())
        return best


def pixels_per_s(
    runtime: Runtime, window_px: tuple[int, int], seconds: float, kind: str = "float32"
) -> float:
    """Pixels a second of the network alone, (height, width) a tile, as fast as it takes them."""
    batch = np.zeros((runtime.batch_of(*window_px), 1, *window_px), kind)
    for _ in runtime.infer([batch] * 2):  # compiled, and its memory touched
        pass
    count, began = 0, time.monotonic()

    def stream() -> Iterator[TileArray]:
        while time.monotonic() - began < seconds:
            yield batch

    for answer in runtime.infer(stream()):
        count += len(answer)
    return count * window_px[0] * window_px[1] / (time.monotonic() - began)


def open_mask_network(onnx: bytes, folder: Path) -> Runtime:
    """The network of a bundle that finds the foreground, on one thread: each decode worker has one."""
    from edge.infer.openvino import OpenVinoRuntime, Plan

    return OpenVinoRuntime(onnx, origin=folder / MASK_MODEL, plan=Plan(threads=1))


def prove(bundle: Bundle, runtime: Runtime) -> float:
    """Run the golden tiles; gives the largest difference to the golden answers (grey levels in 0..1).

    Raises:
        BundleError: it is above the bundle's tolerance for the runtime's precision.
    """
    return prove_pair(bundle, runtime, bundle.golden())


def prove_pair(bundle: Bundle, runtime: Runtime, pair: tuple[FloatImage, FloatImage]) -> float:
    """As `prove`, for any golden pair of the bundle."""
    difference = golden_difference(runtime, pair)
    tolerance = bundle.tolerance_of(runtime.precision)
    if not difference <= tolerance:  # NaN too
        raise BundleError(
            f"{bundle.folder}: {runtime.name} {runtime.precision} differs from the learned network by "
            f"{difference:.2g}, more than the bundle's {tolerance:.2g}",
            hint='set precision = "fp32" under [runtime], or learn the recipe again',
        )
    return difference


def golden_difference(runtime: Runtime, pair: tuple[FloatImage, FloatImage]) -> float:
    """The largest difference to the answers of a golden pair; infinite where they have another shape."""
    tiles, expected = pair
    most = runtime.batch_of(tiles.shape[2], tiles.shape[3])
    batches = (tiles[i : i + most] for i in range(0, len(tiles), most))
    answers = np.concatenate(list(runtime.infer(batches)))
    return float(np.abs(answers - expected).max()) if answers.shape == expected.shape else np.inf
