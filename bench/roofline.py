"""The roofline: this CPU's measured peak in fp32, bf16 and int8, and what share of it each network reaches.

`python -m bench.roofline [NAME…] [--seconds S] [--out FILE]` prints a section, in about five minutes.

The peaks are the best of several convolutions and matrix products, run by the product's own runtime. Networks
have random weights (speed does not depend on them); int8 is made by NNCF on real windows, without the
acceptance that `edge compile` demands: what is measured here is what the arithmetic gives.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino as ov
import openvino.opset13 as ops
import openvino.properties as properties
import openvino.properties.hint as hint

from bench import machine
from bench.alone import circumstances, fibre_planes
from bench.context import SkippedError
from bench.section import table
from edge.types import FloatImage

PRECISIONS = ("fp32", "bf16", "int8")
TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "int8": ov.Type.f32}  # int8 is in the graph itself
PIXELS_PER_CALL = 1 << 17  # as the product's runtime takes tiles
PEAK_S = 0.4  # for each shape, precision and number of threads
COPY_BYTES = 1 << 28  # of each of the two arrays: far more than any cache
COPIES = 8
PTQ_WINDOWS = 24
WHOLE_PX = 1024  # side of a window of networks that see whole frames
PLANES = 8
CHAIN = 4  # layers one after the other, so that getting in and out of the graph is little of it


@dataclass(frozen=True, slots=True)
class Shape:
    """A layer that is nothing but multiplications: its input and its weights."""

    name: str
    input: tuple[int, ...]
    weights: tuple[int, ...]

    @property
    def flop(self) -> float:
        """Of one layer; a multiplication and an addition count as two."""
        per_output = float(np.prod(self.weights[1:]))
        return 2.0 * float(np.prod(self.input)) / self.input[1] * self.weights[0] * per_output


def convolution(channels: int, side_px: int, kernel: int, batch: int = 1) -> Shape:
    """As many channels out as in."""
    shape = (batch, channels, side_px, side_px)
    return Shape(f"conv {kernel}×{kernel}, {channels} channels, {side_px} px", shape,
                 (channels, channels, kernel, kernel))  # fmt: skip


def product(rows: int) -> Shape:
    """A square matrix product."""
    return Shape(f"matmul {rows}", (rows, rows), (rows, rows))


SHAPES = (
    convolution(128, 64, 3), convolution(256, 64, 3), convolution(512, 32, 3), convolution(256, 64, 1),
    product(1024), product(2048),
)  # fmt: skip


def layers(shape: Shape, *, quantised: bool) -> ov.Model:
    """A chain of `CHAIN` equal layers; quantised: with int8 on both sides, as NNCF leaves a network."""
    rng = np.random.default_rng(0)
    start = ops.parameter(list(shape.input), ov.Type.f32, name="x")
    x: Any = start
    scale = 1.0 / float(np.sqrt(np.prod(shape.weights[1:])))
    for _ in range(CHAIN):
        weights: Any = ops.constant(rng.uniform(-scale, scale, shape.weights).astype(np.float32))
        if quantised:
            x = ops.fake_quantize(x, *_range(0.0, 4.0), 256)
            weights = ops.fake_quantize(weights, *_range(-scale, scale), 255)
        if len(shape.input) == 4:
            pad = [shape.weights[2] // 2] * 2
            x = ops.convolution(x, weights, [1, 1], pad, pad, [1, 1])
        else:
            x = ops.matmul(x, weights, False, False)
        x = ops.relu(x)
    return ov.Model([x], [start], "peak")


def _range(low: float, high: float) -> tuple[Any, Any, Any, Any]:
    return tuple(np.array(value, np.float32) for value in (low, high, low, high))


def calls_per_s(
    model: ov.Model, precision: str, inputs: Sequence[Any], seconds: float, threads: int = 0
) -> float:
    """Whole calls a second with as many requests in flight as the CPU has streams; inputs as the model's."""
    options: dict[Any, Any] = {
        hint.performance_mode(): hint.PerformanceMode.THROUGHPUT,
        hint.inference_precision(): TYPES[precision],
    }
    if threads:
        options[properties.inference_num_threads()] = threads
    queue = ov.AsyncInferQueue(ov.Core().compile_model(model, "CPU", options))
    tensors = [ov.Tensor(np.ascontiguousarray(one), shared_memory=True) for one in inputs]
    for number in range(2 * len(queue)):  # warm
        queue.start_async({0: tensors[number % len(tensors)]})
    queue.wait_all()
    count, began_s = 0, time.monotonic()
    while time.monotonic() - began_s < seconds:
        for tensor in tensors:
            queue.start_async({0: tensor})
        count += len(tensors)
    queue.wait_all()
    return count / (time.monotonic() - began_s)


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that was seen, 10⁹ operations a second, and of which layer."""

    gflops: float
    shape: str


def peaks(seconds: float, threads: int, say: Callable[[str], None]) -> dict[str, Peak]:
    """Of each precision that this CPU has instructions for, over all shapes."""
    found: dict[str, Peak] = {}
    for precision in available():
        tried = []
        for shape in SHAPES:
            model = layers(shape, quantised=precision == "int8")
            data = np.random.default_rng(1).random(shape.input, np.float32)
            rate = calls_per_s(model, precision, [data], seconds, threads)
            tried.append(Peak(rate * CHAIN * shape.flop / 1e9, shape.name))
            say(f"{threads or 'all'} threads, {precision}, {shape.name}: {tried[-1].gflops:.0f} GFLOP/s")
        found[precision] = max(tried, key=lambda peak: peak.gflops)
    return found


def higher(one: Mapping[str, Peak], other: Mapping[str, Peak]) -> dict[str, Peak]:
    """Of each precision the higher peak: others on the machine only ever take from it."""
    return {p: max(one[p], other[p], key=lambda peak: peak.gflops) for p in one}


def available() -> tuple[str, ...]:
    """What this CPU has instructions for; OpenVINO runs bf16 only natively."""
    can: list[str] = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(p for p, name in zip(PRECISIONS, ("FP32", "BF16", "INT8"), strict=True) if name in can)


def bandwidth_gb_per_s(threads: int) -> float:
    """10⁹ bytes a second read and written by copying, each thread its share; the best of several (STREAM's
    rule; what a write first reads into the cache is not counted)."""
    source, target = (np.ones(COPY_BYTES // 8) for _ in range(2))
    parts = np.array_split(np.arange(len(source)), threads)
    spans = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
    best_s = np.inf
    for _ in range(COPIES):
        workers = [threading.Thread(target=np.copyto, args=(target[s], source[s])) for s in spans]
        began_s = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * source.nbytes / best_s / 1e9


@dataclass(frozen=True, slots=True)
class Reached:
    """What one network does."""

    name: str
    tile_px: int
    gflop_per_mpx: float  # of a tile: what overlapping windows add is not in it
    mpx_per_s: dict[str, float]  # by precision; tiles a second times their pixels


def reached(
    name: str, seconds: float, planes: Sequence[FloatImage], say: Callable[[str], None]
) -> list[Reached]:
    """Throughput of a shipped network at each precision that it can be had in: on batches of the product's
    size, and where it may see whole frames also on large windows."""
    from bench import networks
    from edge.errors import UnavailableError
    from edge.learn.export import to_onnx
    from edge.learn.flops import tile_flop
    from edge.learn.models import MODELS
    from edge.learn.quantise import RECIPES, quantise

    kind = MODELS[name]
    own = networks.labelled([_fitted(plane, kind.size_px) for plane in planes])
    size_px = kind.tiles.size_px
    data = to_onnx(networks.warmed(kind, own), size_px)
    made = networks.windows([one.plane for one in own], kind.tiles, size_px)
    windows = np.concatenate([batches.numpy() for batches in made])
    graphs = dict.fromkeys(available(), data)
    if "int8" in graphs:
        try:
            graphs["int8"] = quantise(data, [window[None] for window in windows[:PTQ_WINDOWS]], RECIPES[0])
        except UnavailableError as error:
            say(f"{name}: {error.message}")
            del graphs["int8"]
    per_mpx = tile_flop(data, size_px) / size_px**2 * 1e6 / 1e9
    found = []
    for side_px in (size_px, WHOLE_PX) if kind.whole_px else (size_px,):
        batch = max(1, PIXELS_PER_CALL // side_px**2)
        large = np.tile(windows[:batch], (1, 1, -(-side_px // size_px), -(-side_px // size_px)))
        inputs = [large[:, :, :side_px, :side_px]]
        rates = {}
        for precision, graph in graphs.items():
            model = ov.Core().read_model(graph)
            model.reshape([batch, 1, side_px, side_px])
            calls = calls_per_s(model, precision, inputs, seconds)
            rates[precision] = calls * batch * side_px**2 / 1e6
            say(f"{name}, {side_px} px, {precision}: {rates[precision]:.1f} Mpx/s")
        found.append(Reached(name, side_px, per_mpx, rates))
    return found


def _fitted(plane: FloatImage, size_px: tuple[int, int] | None) -> FloatImage:
    if size_px is None:
        return plane
    return cv2.resize(plane, size_px, interpolation=cv2.INTER_AREA)  # float32 as it is


def section(one: dict[str, Peak], every: dict[str, Peak], copied: tuple[float, float],
            networks: Sequence[Reached]) -> list[str]:  # fmt: skip
    """The tables."""
    precisions = list(every)
    rows = [
        [p, f"{one[p].gflops:.0f} ({one[p].shape})", f"{every[p].gflops:.0f} ({every[p].shape})",
         f"{every[p].gflops / every['fp32'].gflops:.1f}×"]
        for p in precisions
    ]  # fmt: skip
    rows.append(["copy, GB/s", f"{copied[0]:.1f}", f"{copied[1]:.1f}", ""])
    shares = []
    for network in networks:
        cells = []
        for p in precisions:
            rate = network.mpx_per_s.get(p)
            share = 0.0 if rate is None else rate * network.gflop_per_mpx / every[p].gflops
            cells.append("–" if rate is None else f"{rate:.1f} ({share:.0%})")
        int8 = network.mpx_per_s.get("int8")
        gain = "–" if int8 is None else f"{int8 / network.mpx_per_s['fp32']:.1f}×"
        shares.append([network.name, network.tile_px, f"{network.gflop_per_mpx:.1f}", *cells, gain])
    return [
        "Highest rate of several large layers, 10⁹ operations a second (a multiplication and an addition are "
        "two), and of copying memory, tried before and after the networks:",
        "",
        *table(["peak", "one core", "all cores", "of fp32"], rows),
        "",
        "Each network alone on batches of its own windows: megapixels a second, and in brackets which share "
        "of the peak of that precision its convolutions and matrix products are. What is not counted as "
        "operations (pooling, interpolation, activations, moving tensors) is what keeps small networks far "
        "from it. Windows that overlap are not in GFLOP a megapixel here; they are in `edge bench accuracy`.",
        "",
        *table(["network", "window px", "GFLOP/Mpx", *(f"{p} Mpx/s" for p in precisions), "int8 to fp32"],
               shares),
    ]  # fmt: skip


def main() -> int:
    """0, or 1 where there are no frames."""
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks [default: all that are shipped]")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each network and precision")
    parser.add_argument("--out", type=Path, help="write the section there, too")
    asked = parser.parse_args()

    from edge.learn.models import MODELS

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        planes = fibre_planes(PLANES)
    except SkippedError as reason:
        print(reason, file=sys.stderr)
        return 1
    load, began_s = machine.OtherLoad(), time.monotonic()
    cores = len(os.sched_getaffinity(0))
    before = [peaks(PEAK_S, threads, say) for threads in (1, cores)]
    found = [one for name in asked.names or MODELS for one in reached(name, asked.seconds, planes, say)]
    after = [peaks(PEAK_S, threads, say) for threads in (1, cores)]
    one, every = (higher(a, b) for a, b in zip(before, after, strict=True))
    copied = bandwidth_gb_per_s(1), bandwidth_gb_per_s(cores)
    text = "\n".join([
        "## The roofline of this CPU", "", *section(one, every, copied, found), "",
        circumstances("python -m bench.roofline", load, began_s),
    ])  # fmt: skip
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
