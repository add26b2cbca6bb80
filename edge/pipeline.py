"""The one path from a frame to a verdict: used by run, inspect, evaluate, calibrate and learn.

`prepare_file` (decode → preprocess) runs in worker processes or in place; `Inspector` (infer → judge) runs in
the core. Neither knows about folders, databases or brokers.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.decode import Limits, decode, read_stable
from edge.infer.bundle import Bundle, ScoreSpec
from edge.infer.runtime import Runtime
from edge.judge.calibration import Calibration, GoodFrame
from edge.judge.judgement import judge
from edge.judge.statistics import score_map, summarise
from edge.preprocess import PreprocessSpec, Tiling, to_plane
from edge.preprocess.tiles import Stitcher
from edge.types import (
    DEFAULT_VIEW,
    FileStamp,
    FloatImage,
    Frame,
    ImageInfo,
    Judgement,
    ModelInfo,
    Score,
)


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """What a decode worker needs to know about one file."""

    file: Path
    path: str  # as the verdict shall name it
    stamp: FileStamp | None
    spec: PreprocessSpec
    limits: Limits
    value_range: tuple[float, float] | None = None


def prepare_file(job: PrepareJob) -> list[Frame]:
    """Read, decode and preprocess a file: one frame a page.

    Raises:
        DataError: why this file gives no frame; `IncompleteError` if it may yet become whole.
    """
    started = time.monotonic()
    data = read_stable(job.file, job.stamp)
    digest = hashlib.sha256(data).hexdigest()
    pictures = decode(data, job.file.name, job.limits)
    decode_s = (time.monotonic() - started) / len(pictures)
    frames = []
    for picture in pictures:
        began = time.monotonic()
        plane = to_plane(picture, job.spec, job.value_range)
        height, width = picture.pixels.shape[:2]
        info = ImageInfo(job.path, digest, width, height, picture.bits, picture.page, picture.pages)
        times = {"decode_s": decode_s, "preprocess_s": time.monotonic() - began}
        frames.append(Frame(info, plane, tags=picture.tags, times_s=times))
    return frames


@dataclass(frozen=True, slots=True)
class Inspection:
    """A frame with what the engine and the judge said of it."""

    frame: Frame
    score: Score
    judgement: Judgement
    infer_s: float
    judge_s: float


@dataclass(slots=True)
class _Pending:
    """A plane whose tiles are on their way through the engine."""

    plane: FloatImage
    stitcher: Stitcher
    missing: int  # tiles without an answer so far


def answers(
    planes: Iterable[FloatImage],
    preprocess: PreprocessSpec,
    runtime: Runtime,
    on_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[FloatImage, FloatImage]]:
    """Each plane with the network's stitched answer, in order; a batch may hold tiles of several planes.

    `on_batch` is called for every batch that comes back: a large frame takes many.
    """
    pending: deque[_Pending] = deque()
    layout: deque[list[tuple[_Pending, int, int]]] = (
        deque()
    )  # of each batch in flight: plane, first, last + 1

    def batches() -> Iterator[FloatImage]:
        tiles: list[FloatImage] = []
        segments: list[tuple[_Pending, int, int]] = []
        room = runtime.batch
        for plane in planes:
            tiling = Tiling(plane.shape[0], plane.shape[1], preprocess.tiles)
            padded = tiling.pad(plane)
            entry = _Pending(plane, Stitcher(tiling), len(tiling))
            pending.append(entry)
            start = 0
            while start < len(tiling):
                stop = min(len(tiling), start + room)
                tiles.append(tiling.cut(padded, start, stop))
                segments.append((entry, start, stop))
                room -= stop - start
                start = stop
                if room == 0:
                    layout.append(segments)
                    yield np.concatenate(tiles) if len(tiles) > 1 else tiles[0]
                    tiles, segments, room = [], [], runtime.batch
        if tiles:
            layout.append(segments)
            yield np.concatenate(tiles)

    for answer in runtime.infer(batches()):
        on_batch()
        taken = 0
        for entry, start, stop in layout.popleft():
            entry.stitcher.add(start, answer[taken : taken + stop - start])
            taken += stop - start
            entry.missing -= stop - start
        while pending and pending[0].missing == 0:
            done = pending.popleft()
            yield done.plane, done.stitcher.result()


class Inspector:
    """A recipe that is ready to judge: bundle, runtime and (unless only scoring) calibration."""

    def __init__(self, bundle: Bundle, runtime: Runtime, calibration: Calibration | None = None) -> None:
        self.bundle, self.runtime, self.calibration = bundle, runtime, calibration

    @property
    def model(self) -> ModelInfo:
        """What the verdict says of the engine."""
        return ModelInfo(
            bundle=self.bundle.manifest.name,
            sha256=self.bundle.digest,
            runtime=self.runtime.name,
            precision=self.runtime.precision,
            calibration_sha256=self.calibration.digest if self.calibration else "",
        )

    def score(
        self, planes: Iterable[FloatImage], on_batch: Callable[[], None] = lambda: None
    ) -> Iterator[Score]:
        """Scores of preprocessed planes, in order."""
        spec: ScoreSpec = self.bundle.manifest.score
        for plane, answer in answers(planes, self.bundle.manifest.preprocess, self.runtime, on_batch):
            values = score_map(plane, answer, spec.map, spec.smooth_px)
            yield summarise(plane, values, spec.statistic, spec.peak_px)

    def inspect(
        self, frames: Sequence[Frame], on_batch: Callable[[], None] = lambda: None
    ) -> Iterator[Inspection]:
        """Judge frames, in order. Inference time is shared out by the wait for each frame's answer."""
        assert self.calibration is not None, "inspect needs a calibration; score does not"
        scores = self.score((frame.plane for frame in frames), on_batch)
        for frame in frames:
            started = time.monotonic()
            score = next(scores)
            inferred = time.monotonic()
            judgement = judge(score, frame.identity.view, self.calibration, frame.scale)
            yield Inspection(frame, score, judgement, inferred - started, time.monotonic() - inferred)

    def good_frames(self, frames: Iterable[Frame]) -> Iterator[GoodFrame]:
        """What calibration keeps of frames that are known to be good; one frame in memory at a time."""
        for frame in frames:
            (score,) = self.score([frame.plane])
            yield GoodFrame(
                view=frame.identity.view or DEFAULT_VIEW,
                raw=score.raw,
                map_max=score.statistics["max"],
                plane_mean=score.plane_mean,
                plane_std=score.plane_std,
                height_px=frame.plane.shape[0],
                width_px=frame.plane.shape[1],
            )
