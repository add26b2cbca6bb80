"""The patch network of system A at every pixel of a frame: the dense map against patch by patch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from bench.context import Context, FailedError
from bench.section import Section, table
from edge.infer.openvino import OpenVinoRuntime
from edge.learn.export import to_onnx
from edge.learn.fit import Fit, FitSpec
from edge.learn.labels import LabelledPlane
from edge.learn.models.patch_cnn import ORIGIN, DensePatchCnn, PatchCnn
from edge.learn.patches import PatchBatches, patch_loss
from edge.preprocess import TileSpec, Tiling
from edge.preprocess.tiles import Stitcher
from edge.types import FloatImage

HEIGHT, WIDTH = 696, 1024
FRAME = "ITIA1101"
STEPS = 150  # of learning: enough for weights that tell patches apart
PATCH = ORIGIN.patch_px
TILES = TileSpec(size_px=256 + PATCH - 1, keep_px=256, step_px=256)  # as its model kind has them
TORCH_BATCH = 128
ROUNDS = 3  # of the dense map, the fastest counts
SEED = 1
LIMIT = 1e-4
LEAST_CONTRAST = 0.05  # standard deviation of the map
DEMANDED = 100

Judge = Callable[[Iterable[FloatImage]], Iterable[FloatImage]]
"""Batches of (n, 1, p, p) → probabilities, n of them."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Probabilities of so many pixels, and what they took."""

    answers: FloatImage  # flat
    wall_s: float
    cpu_s: float  # of all our threads

    def frame(self) -> tuple[float, float]:
        """(wall, CPU) seconds for every pixel of the frame, scaled where only some were judged."""
        scale = HEIGHT * WIDTH / self.answers.size
        return scale * self.wall_s, scale * self.cpu_s


def run(context: Context) -> Section:
    """Learn briefly, then judge one frame at stride 1 densely and in four naive ways, in the same run."""
    plane, network = _learned(context)
    dense = _dense(context.folder / "dense.onnx", network, plane)
    naive = _naive(context, network, Cutter(plane))
    order = Cutter(plane).order
    differences = {
        name: float(np.abs(dense.answers[order[: way.answers.size]] - way.answers).max())
        for name, way in naive.items()
    }
    if max(differences.values()) > LIMIT:
        raise FailedError(f"the dense map differs from patch by patch: {differences}")
    if not context.quick and dense.answers.std() < LEAST_CONTRAST:
        raise FailedError("the network learned nothing: equal maps would not mean much")
    wall_s, cpu_s = dense.frame()
    ratios = {name: (way.frame()[0] / wall_s, way.frame()[1] / cpu_s) for name, way in naive.items()}
    patch, pixel = _multiplications(network)
    lines = [
        f"The origin's network ({PATCH}×{PATCH} patches) on {FRAME}, {WIDTH}×{HEIGHT}: a probability "
        f"for each of its {HEIGHT * WIDTH:,} pixels in fp32. Dense, in tiles of {TILES.size_px} px "
        f"through the product's own runtime, cutting and stitching included: **{wall_s:.2f} s** "
        f"({cpu_s:.2f} s of CPU; fastest of {ROUNDS}).",
        "",
        *table(
            ["patch by patch", "patches timed", "s a frame", "dense is faster", "by CPU time", "difference"],
            [
                [name, f"{way.answers.size:,}", f"{way.frame()[0]:.1f}", f"{ratios[name][0]:.0f}×",
                 f"{ratios[name][1]:.0f}×", f"{differences[name]:.1e}"]
                for name, way in naive.items()
            ],
        ),
        "",
        "Where fewer patches than pixels were timed (a random choice), seconds are scaled to the frame. "
        f"The difference is the largest of those patches; the limit is {LIMIT:g}.",
        "",
        *(f"- {'' if wall >= DEMANDED else 'NOT '}{DEMANDED}× faster than {name}: {wall:.0f}×"
          for name, (wall, _) in ratios.items()),
        f"- multiplications a pixel: {patch:,} patch by patch, {pixel:,} densely, so that "
        f"{patch / pixel:.0f}× is all there is to save in arithmetic; the rest of each ratio is calls, "
        "cutting of patches, and layers too small to keep a core busy",
    ]  # fmt: skip
    facts = {
        "dense_s": wall_s, "dense_cpu_s": cpu_s, "differences": differences, "ratios": ratios,
        "multiplications": {"patch": patch, "pixel": pixel},
    }  # fmt: skip
    return Section("Patch network at every pixel: dense against patch by patch", lines, facts)


def _learned(context: Context) -> tuple[FloatImage, PatchCnn]:
    folder = context.dataset("nanofibre_sem")
    grey = cv2.imread(str(folder / f"defect/{FRAME}.tif"), cv2.IMREAD_GRAYSCALE)
    mask = cv2.imread(str(folder / f"mask/{FRAME}.png"), cv2.IMREAD_GRAYSCALE)
    if grey is None or mask is None or grey.shape != (HEIGHT, WIDTH):
        raise FailedError(f"{FRAME}: not a frame of {WIDTH}×{HEIGHT} with a mask")
    plane = np.float32(1 / 255) * grey.astype(np.float32)
    truth = np.asarray(mask > 127, np.uint8)
    torch.manual_seed(SEED)
    network = PatchCnn(ORIGIN)
    batches = PatchBatches([LabelledPlane(plane.astype(np.float16), truth, 1)], PATCH, 128, seed=SEED)
    spec = FitSpec(loss="l2", learning_rate=2e-3, minutes=1, steps=context.size(STEPS, 15), seed=SEED)
    Fit(network, spec, batches, batches, objective=patch_loss).run()
    return plane, network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]  # torch's own gap


def _dense(file: Path, network: PatchCnn, plane: FloatImage) -> Timed:
    """The product's way: tiles through its runtime."""
    onnx = to_onnx(DensePatchCnn(network), TILES.size_px)
    file.write_bytes(onnx)
    runtime = OpenVinoRuntime(onnx, origin=file)

    def whole() -> FloatImage:
        tiling = Tiling(HEIGHT, WIDTH, TILES)
        stitcher, padded = Stitcher(tiling), tiling.pad(plane)
        most = runtime.batch_of(*tiling.window)
        starts = range(0, len(tiling), most)
        cuts = (tiling.cut(padded, start, min(start + most, len(tiling))) for start in starts)
        for start, answers in zip(starts, runtime.infer(cuts), strict=True):
            stitcher.add(start, answers)
        return stitcher.result().reshape(-1)

    whole()  # warm
    return min((_timed(whole) for _ in range(ROUNDS)), key=lambda timed: timed.wall_s)


def _naive(context: Context, network: PatchCnn, cutter: Cutter) -> Mapping[str, Timed]:
    """Patches through the same runtime as the tiles, in the batches it chooses; and through torch."""
    file = context.folder / "patches.onnx"
    onnx = to_onnx(_Probability(network), PATCH)
    file.write_bytes(onnx)
    runtime = OpenVinoRuntime(onnx, origin=file)
    every, some = context.size(HEIGHT * WIDTH, 20_000), context.size(30_000, 1_000)
    few, most = some // 10, runtime.batch_of(PATCH, PATCH)

    def one_call_each(patches: Iterable[FloatImage]) -> Iterable[FloatImage]:
        return (next(iter(runtime.infer([patch]))) for patch in patches)

    def by_torch(patches: Iterable[FloatImage]) -> Iterable[FloatImage]:
        return (torch.sigmoid(network(torch.from_numpy(batch))).numpy() for batch in patches)

    with torch.inference_mode():
        return {
            f"OpenVINO, {most} patches a call": cutter.timed(runtime.infer, every, most),
            f"torch, {TORCH_BATCH} patches a call": cutter.timed(by_torch, some, TORCH_BATCH),
            "OpenVINO, one patch a call": cutter.timed(one_call_each, few, 1),
            "torch, one patch a call": cutter.timed(by_torch, few, 1),
        }


class Cutter:
    """Patches of a frame with mirrored borders, in a random order of its pixels."""

    def __init__(self, plane: FloatImage) -> None:
        margin = PATCH // 2
        padded = cv2.copyMakeBorder(plane, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
        self.windows = np.lib.stride_tricks.sliding_window_view(
            padded, (PATCH, PATCH)
        )  # (h, w, p, p), no copy
        self.order = np.random.default_rng(SEED).permutation(plane.size)

    def timed(self, judge: Judge, patches: int, batch: int) -> Timed:
        """The first so many patches of the order, in batches."""
        list(judge([self._cut(0, batch)] * 2))  # warm
        starts = range(0, patches, batch)
        cuts = (self._cut(start, min(start + batch, patches)) for start in starts)
        return _timed(lambda: np.concatenate([np.ravel(answers) for answers in judge(cuts)]))

    def _cut(self, start: int, stop: int) -> FloatImage:
        """(n, 1, p, p) float32."""
        y, x = np.divmod(self.order[start:stop], WIDTH)
        return np.ascontiguousarray(self.windows[y, x][:, None], np.float32)


class _Probability(nn.Module):
    """(n, 1, p, p) → (n, 1)."""

    def __init__(self, network: PatchCnn) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.network(patches))[:, None]


def _timed(work: Callable[[], FloatImage]) -> Timed:
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    answers = work()
    return Timed(answers, time.monotonic() - began_s, time.process_time() - began_cpu_s)


def _multiplications(network: PatchCnn) -> tuple[int, int]:
    """(for one patch, for one pixel of an endless dense map)."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    places: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: places.append(output.shape[-1] * output.shape[-2]))
        for module in convolutions
    ]
    with torch.no_grad():
        network(torch.zeros(1, 1, PATCH, PATCH))
    for hook in hooks:
        hook.remove()
    weights = [module.weight.numel() for module in convolutions]
    return sum(n * at for n, at in zip(weights, places, strict=True)), sum(weights)
