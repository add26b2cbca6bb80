"""Doubles that are shipped for tests: an engine, a clock, frames. Sinks have theirs in publish/memory.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from edge.infer.bundle import Bundle, ScoreSpec, write_bundle
from edge.judge.calibration import Calibration, GoodFrame, calibrate
from edge.preprocess import PreprocessSpec, TileSpec
from edge.types import FloatImage, TileArray, as_float


class FakeRuntime:
    """An engine that answers by a function of the tiles; the default reconstructs flat grey."""

    name = "fake"
    precision = "fp32"

    def __init__(self, answer: Callable[[FloatImage], FloatImage] | None = None, batch: int = 4) -> None:
        self._batch = batch
        self.calls: list[int] = []  # how many tiles each call had
        self._answer = answer or (lambda tiles: np.full_like(tiles, 0.5))

    def batch_of(self, height_px: int, width_px: int) -> int:
        """See `edge.infer.runtime.Runtime`."""
        return self._batch

    def infer(self, batches: Iterable[TileArray]) -> Iterator[FloatImage]:
        """See `edge.infer.runtime.Runtime`."""
        for tiles in batches:
            assert len(tiles) <= self._batch
            self.calls.append(len(tiles))
            yield self._answer(as_float(tiles))


class FakeClock:
    """Time that passes when told to."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> float:
        """Let time pass; gives the new time."""
        self.now_s += seconds
        return self.now_s


SMALL = PreprocessSpec(tiles=TileSpec(size_px=32, keep_px=32, step_px=32))


def fake_bundle(folder: Path, preprocess: PreprocessSpec = SMALL) -> Bundle:
    """A valid bundle whose network is no network: for everything that does not compile it."""
    tiles = np.full((1, 1, preprocess.tiles.size_px, preprocess.tiles.size_px), 0.5, np.float32)
    return write_bundle(
        folder,
        name=folder.name,
        model="fake",
        preprocess=preprocess,
        score=ScoreSpec(map="l1", statistic="peak", peak_px=4),
        output="reconstruction",
        onnx=b"no network",
        golden=(tiles, tiles),
        training={},
    )


def fake_calibration(
    bundle: Bundle, views: Iterable[str] = ("default",), threshold: float = 0.2
) -> Calibration:
    """Every view calibrated so that a flat grey frame is OK and a patch brighter by 0.2 is not."""
    good = [
        GoodFrame(view, raw, map_max=threshold, plane_mean=0.5, plane_std=0.008, height_px=48, width_px=64)
        for view in views
        for raw in np.linspace(threshold / 2, threshold, 20)
    ]
    return calibrate(
        good,
        recipe=bundle.manifest.name,
        bundle_sha256=bundle.digest,
        statistic="peak",
        false_reject=0.05,
        too_few="refuse",
    )


def write_frame(file: Path, *, defect: bool = False, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """A grey 8-bit PNG with a little noise, and a bright patch if it is a defect; (width, height)."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(127, 2, (size[1], size[0])).clip(0, 255).astype(np.uint8)
    if defect:
        pixels[10:22, 20:32] = 250
    file.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(file), pixels):
        raise OSError(f"{file}: not written")
    return file
