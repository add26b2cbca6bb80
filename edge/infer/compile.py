"""From a checked bundle to a running network: device and precision, compiled, held to the golden pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge.errors import BundleError, UnavailableError
from edge.infer.bundle import MASK_GOLDEN, MASK_MODEL, MODEL, Bundle, read_pair
from edge.infer.cache import CompiledCache, Note, no_note
from edge.infer.runtime import Runtime
from edge.types import FloatImage

CPU_RUNTIME = "openvino"  # what device = "cpu" gives


def open_runtime(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    cache: Path | None = None,
    note: Note = no_note,
) -> Runtime:
    """Compile a bundle's network and prove it against the golden pair.

    `cache` is a folder of networks compiled before; `note` is told what could not be used or kept there.

    Raises:
        UnavailableError: the device or precision cannot be had on this machine.
        BundleError: the network cannot be compiled, or does not give the golden answers.
    """
    if device in ("tensorrt", "torch-cuda"):
        raise UnavailableError(
            f"runtime.device = {device!r}: this version of edge has no such runtime yet",
            hint='set device = "cpu" or "auto" under [runtime]',
            retryable=False,
        )
    chosen = "fp32" if precision == "auto" else precision
    compiled = None if cache is None else CompiledCache(cache, note)
    runtime = _open_on_cpu(bundle, chosen, threads, compiled)
    mask = bundle.manifest.preprocess.mask
    if mask is not None and mask.method == "unet":
        network = open_mask_network(bundle.read(MASK_MODEL), bundle.folder, mask.network_px)
        prove_pair(bundle, network, read_pair(bundle.folder / MASK_GOLDEN, bundle.read(MASK_GOLDEN)))
    return runtime


def _open_on_cpu(bundle: Bundle, precision: str, threads: int, cache: CompiledCache | None) -> Runtime:
    """Proved; one that was compiled before and fails is compiled again."""
    from edge.infer.openvino import OpenVinoRuntime

    runtime = OpenVinoRuntime(
        bundle.read(MODEL),
        origin=bundle.model_file,
        tile_px=bundle.manifest.preprocess.tiles.size_px,
        precision=precision,
        threads=threads,
        cache=cache,
    )
    try:
        prove(bundle, runtime)
    except BundleError as error:
        if cache is None or not runtime.from_cache:
            raise
        cache.discard(runtime.made_for, error.message)
        return _open_on_cpu(bundle, precision, threads, None)
    return runtime


def open_mask_network(onnx: bytes, folder: Path, side_px: int) -> Runtime:
    """The network of a bundle that finds the foreground, on one thread: each decode worker has one."""
    from edge.infer.openvino import OpenVinoRuntime

    return OpenVinoRuntime(onnx, origin=folder / MASK_MODEL, tile_px=side_px, threads=1)


def prove(bundle: Bundle, runtime: Runtime) -> float:
    """Run the golden tiles; gives the largest difference to the golden answers (grey levels in 0..1).

    Raises:
        BundleError: it is above the bundle's tolerance for the runtime's precision.
    """
    return prove_pair(bundle, runtime, bundle.golden())


def prove_pair(bundle: Bundle, runtime: Runtime, pair: tuple[FloatImage, FloatImage]) -> float:
    """As `prove`, for any golden pair of the bundle."""
    tiles, expected = pair
    batches = (tiles[i : i + runtime.batch] for i in range(0, len(tiles), runtime.batch))
    answers = np.concatenate(list(runtime.infer(batches)))
    difference = float(np.abs(answers - expected).max()) if answers.shape == expected.shape else np.inf
    tolerance = bundle.manifest.golden_tolerance.get(runtime.precision, 0.0)
    if not difference <= tolerance:  # NaN too
        raise BundleError(
            f"{bundle.folder}: {runtime.name} {runtime.precision} differs from the learned network by "
            f"{difference:.2g}, more than the bundle's {tolerance:.2g}",
            hint='set precision = "fp32" under [runtime], or learn the recipe again',
        )
    return difference
