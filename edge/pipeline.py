"""The one path from a frame to a verdict: used by run, inspect, evaluate, calibrate and learn.

`prepare_file` (decode → preprocess) runs in worker processes or in place; `Inspector` (infer → judge) runs in
the core. Neither knows about folders, databases or brokers.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.decode import Limits, OpenFile, decode, read_stable, refuse_holes, refuse_large
from edge.decode.checksum import verify
from edge.errors import BundleError, DataError
from edge.infer.bundle import MASK_MODEL, MEAN_MASKS, Bundle, ScoreSpec, read_listed, read_mean_masks
from edge.infer.compile import open_mask_network
from edge.infer.runtime import Runtime
from edge.intake.naming import Naming
from edge.judge.calibration import Calibration, GoodFrame
from edge.judge.classes import largest_level
from edge.judge.fragments import as_scores, fragment_statistics
from edge.judge.judgement import judge
from edge.judge.statistics import score_map, summarise
from edge.mounts import keeps_zeros_as_holes
from edge.preprocess import Aids, MaskSpec, PreprocessSpec, Tiling, prepare
from edge.preprocess.foreground import to_square
from edge.preprocess.objects import split_objects
from edge.preprocess.tiles import Stitcher
from edge.types import (
    DEFAULT_VIEW,
    FRAGMENT_STATISTICS,
    FileStamp,
    FloatImage,
    Fragments,
    Frame,
    ImageInfo,
    Judgement,
    Mask,
    ModelInfo,
    ObjectScore,
    Picture,
    Score,
    TileArray,
    as_bytes,
    as_float,
)

Holes = Literal["auto", "refuse", "accept"]  # as the source's holes


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """What a decode worker needs to know about one file."""

    file: Path
    path: str  # as the verdict shall name it
    stamp: FileStamp | None
    spec: PreprocessSpec
    limits: Limits
    value_range: tuple[float, float] | None = None
    assets: Path | None = None  # the bundle's folder, where masks need files of it
    view: str | None = None  # as a manifest says; else by `naming`
    naming: Naming | None = None
    named: str = ""  # what the naming rule reads
    checksum: str | None = None  # suffix of the file beside it that says its checksum
    holes: Holes = "accept"  # what to make of bytes that were reserved and never written


def prepare_file(job: PrepareJob, has_read: Callable[[], None] = lambda: None) -> list[Frame]:
    """Read, decode and preprocess a file: one frame a page. `has_read` is called when all bytes are there.

    Raises:
        DataError: why this file gives no frame; `IncompleteError` if it may yet become whole.
    """
    started = time.monotonic()
    data = read_stable(job.file, job.stamp, partial(_look, job))
    if job.checksum is not None:
        verify(data, job.file, job.checksum)
    has_read()
    digest = hashlib.sha256(data).hexdigest()
    pictures = decode(data, job.file.name, job.limits)
    decode_s = (time.monotonic() - started) / len(pictures)
    return [prepare_picture(job, picture, digest, job.value_range, decode_s) for picture in pictures]


def _look(job: PrepareJob, source: OpenFile) -> None:
    """What can be refused before all of a file is read."""
    refuse_large(source, job.file.name, job.limits)
    if job.holes == "refuse" or (job.holes == "auto" and not keeps_zeros_as_holes(job.file)):
        refuse_holes(source, job.file.name, anywhere=job.holes == "refuse")


def prepare_picture(
    job: PrepareJob,
    picture: Picture,
    sha256: str,
    value_range: tuple[float, float] | None,
    decode_s: float = 0.0,
) -> Frame:
    """Preprocess a decoded page. `sha256` is that of the file it came from.

    Raises:
        DataError: why it gives no frame.
    """
    began = time.monotonic()
    prepared = prepare(picture, job.spec, value_range, aids_for(job, picture))
    height, width = picture.pixels.shape[:2]
    return Frame(
        ImageInfo(
            job.path,
            sha256,
            width,
            height,
            picture.bits,
            picture.page,
            picture.pages,
            channels=1 if picture.pixels.ndim == 2 else picture.pixels.shape[2],
        ),
        prepared.grey,
        tags=picture.tags,
        times_s={"decode_s": decode_s, "preprocess_s": time.monotonic() - began},
        foreground=prepared.foreground,
        to_frame=prepared.to_frame,
    )


def aids_for(job: PrepareJob, picture: Picture) -> Aids:
    """What the job's preprocessing needs besides the picture.

    Raises:
        DataError: the view matters and the name does not say it.
    """
    spec, view = job.spec, job.view
    if spec.needs_view and view is None and job.naming is not None:
        view = job.naming(job.named or job.path, picture.tags, picture.page, picture.pages).view
    if spec.mask is None or not spec.mask.needs_files:
        return Aids(view)
    assert job.assets is not None, "such recipes know their bundle's folder"
    if spec.mask.method == "mean":
        return Aids(view, mean_masks=_mean_masks(job.assets, spec.mask.file_sha256))
    return Aids(view, segment=_segmenter(job.assets, spec.mask))


def warm_up(masks: Sequence[tuple[Path, MaskSpec]]) -> None:
    """Open what the masks of recipes need (bundle's folder, spec), so that no frame waits for it."""
    for folder, spec in masks:
        with contextlib.suppress(Exception):  # the frames of that recipe will say it; a worker must start
            if spec.method == "unet":
                _segmenter(folder, spec)
            elif spec.method == "mean":
                _mean_masks(folder, spec.file_sha256)


def _unchanged(folder: Path, name: str, sha256: str) -> bytes:
    try:
        return read_listed(folder, name, sha256)
    except BundleError:
        raise DataError(  # a recipe that was just learned again: the daemon takes it over at its next reload
            f"{folder / name}: is not what this recipe was loaded with",
            hint="reload or restart the daemon",
            reason="engine_replaced",
            retryable=True,
        ) from None


@cache  # one for each recipe of a worker process
def _mean_masks(folder: Path, sha256: str) -> Mapping[str, FloatImage]:
    return read_mean_masks(_unchanged(folder, MEAN_MASKS, sha256))


@cache
def _segmenter(folder: Path, spec: MaskSpec) -> Callable[[FloatImage], FloatImage]:
    """(h, w) plane → probability of foreground at the network's own size."""
    onnx = _unchanged(folder, MASK_MODEL, spec.file_sha256)
    runtime = open_mask_network(onnx, folder)

    def segment(plane: FloatImage) -> FloatImage:
        small = to_square(plane, spec.network_px)
        (answer,) = runtime.infer([small[None, None]])
        found: FloatImage = answer[0, 0]
        return found

    return segment


@dataclass(frozen=True, slots=True)
class Inspection:
    """A frame with what the engine and the judge said of it."""

    frame: Frame
    score: Score
    judgement: Judgement
    infer_s: float
    judge_s: float
    # (h, w) uint8, what the network made of the plane; only where it was to be kept
    reconstruction: NDArray[np.uint8] | None = None


@dataclass(slots=True)
class _Pending:
    """A plane whose tiles are on their way through the engine."""

    planes: Planes
    tiling: Tiling
    stitcher: Stitcher
    windows: NDArray[np.intp]  # that are asked for: those with foreground
    missing: int  # tiles without an answer so far
    fragments: list[Mapping[str, NDArray[np.float32]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Planes:
    """What goes through the engine: a plane and its foreground."""

    plane: TileArray
    foreground: Mask | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine said of a plane."""

    planes: Planes
    stitched: FloatImage  # (h, w), or (channels, h, w) where there are several
    fragments: Fragments | None = None  # only where they were asked for


def answers(
    planes: Iterable[Planes],
    preprocess: PreprocessSpec,
    runtime: Runtime,
    on_batch: Callable[[], None] = lambda: None,
    *,
    measure_fragments: bool = False,
    fragment_smooth_px: float = 0.0,
) -> Iterator[Answer]:
    """Each plane with the network's stitched answer, in order; a batch may hold tiles of several planes.

    `on_batch` is called for every batch that comes back: a large frame takes many. With `measure_fragments`
    the residual of every window against its own answer is measured, before windows are blended; a Gaussian
    of `fragment_smooth_px` goes over it first.
    """
    pending: deque[_Pending] = deque()
    # of each batch in flight: its tiles, and of each plane which of its windows they are (from, to)
    layout: deque[tuple[TileArray, list[tuple[_Pending, int, int]]]] = deque()

    def batches() -> Iterator[TileArray]:
        tiles: list[TileArray] = []
        segments: list[tuple[_Pending, int, int]] = []
        room = 0
        for entry in map(enter, planes):
            padded = entry.tiling.pad(entry.planes.plane)
            if tiles and not _alike(tiles[0], padded, entry.tiling):
                yield packed(tiles, segments)
                tiles, segments = [], []
            if not tiles:
                room = runtime.batch_of(*entry.tiling.window)
            start = 0
            while start < len(entry.windows):
                stop = min(len(entry.windows), start + room)
                tiles.append(entry.tiling.cut_these(padded, entry.windows[start:stop]))
                segments.append((entry, start, stop))
                room -= stop - start
                start = stop
                if room == 0:
                    yield packed(tiles, segments)
                    tiles, segments, room = [], [], runtime.batch_of(*entry.tiling.window)
        if tiles:
            yield packed(tiles, segments)

    def enter(one: Planes) -> _Pending:
        tiling = Tiling(one.plane.shape[0], one.plane.shape[1], preprocess.tiles)
        windows = np.arange(len(tiling)) if one.foreground is None else tiling.seen(one.foreground)
        entry = _Pending(one, tiling, Stitcher(tiling), windows, len(windows))
        pending.append(entry)
        return entry

    def packed(tiles: list[TileArray], segments: list[tuple[_Pending, int, int]]) -> TileArray:
        batch: TileArray = np.concatenate(tiles) if len(tiles) > 1 else tiles[0]
        layout.append((batch, segments))
        return batch

    def finished() -> Iterator[Answer]:
        while pending and pending[0].missing == 0:
            done = pending.popleft()
            found = _fragments(done) if measure_fragments else None
            yield Answer(done.planes, done.stitcher.result(), found)

    for answer in runtime.infer(batches()):
        on_batch()
        taken = 0
        batch, segments = layout.popleft()
        for entry, start, stop in segments:
            one = slice(taken, taken + stop - start)
            entry.stitcher.add_these(entry.windows[start:stop], answer[one])
            if measure_fragments:
                residual = as_float(batch[one, 0]) - answer[one, 0]
                entry.fragments.append(
                    fragment_statistics(residual, fragment_smooth_px, preprocess.tiles.keep_px)
                )
            taken += stop - start
            entry.missing -= stop - start
        yield from finished()
    yield from finished()  # planes of which nothing was asked


def _alike(tiles: TileArray, padded: TileArray, tiling: Tiling) -> bool:
    """Whether windows of a plane can go with those tiles into one call."""
    return tiles.shape[2:] == tiling.window and tiles.dtype == padded.dtype


def _fragments(done: _Pending) -> Fragments:
    """All windows of a plane; where there is a foreground, those that have some of it."""
    boxes = np.array([done.tiling.box(int(i)) for i in done.windows], np.int32).reshape(-1, 4)
    names = done.fragments[0] if done.fragments else FRAGMENT_STATISTICS
    nothing = np.empty(0, np.float32)
    statistics = {name: np.concatenate([nothing, *(one[name] for one in done.fragments)]) for name in names}
    return Fragments(boxes, statistics)


class Inspector:
    """A recipe that is ready to judge: bundle, runtime and (unless only scoring) calibration."""

    def __init__(self, bundle: Bundle, runtime: Runtime, calibration: Calibration | None = None) -> None:
        self.bundle, self.runtime, self.calibration = bundle, runtime, calibration
        self.replaced_because = ""  # of the runtime that the configuration asks for

    def replace_runtime(self, runtime: Runtime, why: str) -> None:
        """Go on with another engine of the same bundle; between two calls of `inspect`, by their thread."""
        self.runtime, self.replaced_because = runtime, why

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
        self, planes: Iterable[Planes | FloatImage], on_batch: Callable[[], None] = lambda: None
    ) -> Iterator[Score]:
        """Scores of preprocessed planes, in order."""
        for _, score in self._scored(planes, on_batch):
            yield score

    def _scored(
        self, planes: Iterable[Planes | FloatImage], on_batch: Callable[[], None]
    ) -> Iterator[tuple[Answer, Score]]:
        manifest = self.bundle.manifest
        found = answers(
            (one if isinstance(one, Planes) else Planes(one) for one in planes),
            manifest.preprocess, self.runtime, on_batch, measure_fragments=manifest.score.of == "fragment",
            fragment_smooth_px=manifest.score.fragment_smooth_px,
        )  # fmt: skip
        for answer in found:
            yield answer, score_of(answer, manifest.score, manifest.preprocess.mask)

    def inspect(
        self,
        frames: Iterable[Frame],
        on_batch: Callable[[], None] = lambda: None,
        keeps: Callable[[Frame, Judgement], bool] = lambda frame, judgement: False,
    ) -> Iterator[Inspection]:
        """Judge frames, in order; some are taken ahead, so that the engine need not wait for them.

        Inference time is shared out by the wait for each frame's answer. What a network reconstructed is
        kept of frames that `keeps` names.
        """
        assert self.calibration is not None, "inspect needs a calibration; score does not"
        manifest = self.bundle.manifest
        ahead: deque[Frame] = deque()

        def planes() -> Iterator[Planes]:
            for frame in frames:
                ahead.append(frame)
                yield planes_of(frame)

        scored, started = self._scored(planes(), on_batch), time.monotonic()
        for answer, score in scored:
            frame, inferred = ahead.popleft(), time.monotonic()
            judgement = judge(
                score, frame.identity.view, self.calibration, frame.placement, manifest.classes,
                manifest.score.min_area_px, frame.image.channels,
            )  # fmt: skip
            judge_s = time.monotonic() - inferred
            kept = manifest.output == "reconstruction" and keeps(frame, judgement)
            reconstruction = as_bytes(answer.stitched) if kept else None
            del answer  # no plane stays for the sake of the one before it
            yield Inspection(frame, score, judgement, inferred - started, judge_s, reconstruction)
            started = time.monotonic()

    def good_frames(self, frames: Iterable[Frame]) -> Iterator[GoodFrame]:
        """What calibration keeps of frames that are known to be good; one frame in memory at a time."""
        for frame in frames:
            (score,) = self.score([planes_of(frame)])
            yield good_frame_of(frame, score)


def good_frame_of(frame: Frame, score: Score) -> GoodFrame:
    """What calibration keeps of a frame and its score."""
    return GoodFrame(
        view=frame.identity.view or DEFAULT_VIEW,
        raw=score.raw,
        map_max=score.statistics["max"],
        plane_mean=score.plane_mean,
        plane_std=score.plane_std,
        height_px=frame.grey.shape[0],
        width_px=frame.grey.shape[1],
        foreground_ratio=score.foreground_ratio,
        group=frame.identity.batch or frame.identity.part,
        channels=frame.image.channels,
        sharpness=score.sharpness,
    )


def planes_of(frame: Frame) -> Planes:
    """What of a frame goes through the engine."""
    return Planes(frame.grey, frame.foreground)


def score_of(answer: Answer, spec: ScoreSpec, mask: MaskSpec | None = None) -> Score:
    """The score of a plane: of all of it, the worst of its objects, or the worst of its fragments."""
    plane, foreground = answer.planes.plane, answer.planes.foreground
    layers = None
    if answer.stitched.ndim == 3:
        layers = np.stack(
            [score_map(plane, one, spec.map, spec.smooth_px, foreground) for one in answer.stitched]
        )
        values = layers.max(axis=0)
    else:
        values = score_map(plane, answer.stitched, spec.map, spec.smooth_px, foreground)
    if spec.of == "fragment":
        assert answer.fragments is not None, "fragments were measured"
        whole = summarise(plane, values, "peak", spec.peak_px, foreground)
        return of_fragments(whole, answer.fragments, spec.statistic)
    score = _summarised(plane, values, layers, foreground, spec)
    if spec.of == "object" and foreground is not None:
        assert mask is not None, "objects are pieces of a foreground"
        score = of_objects(score, plane, layers, foreground, spec, mask)
    return score if layers is None else replace(score, layers=layers)


def _summarised(
    plane: TileArray, values: FloatImage, layers: FloatImage | None, foreground: Mask | None, spec: ScoreSpec
) -> Score:
    """The score of a map by any statistic; a level is the highest of all layers, where there are several."""
    if spec.statistic != "level":
        return summarise(plane, values, spec.statistic, spec.peak_px, foreground, spec.top_ratio)
    score = summarise(plane, values, "peak", spec.peak_px, foreground, spec.top_ratio)
    if not math.isfinite(score.raw):
        return score
    raw = max(largest_level(one, spec.min_area_px) for one in (values[None] if layers is None else layers))
    return replace(score, raw=raw, statistics={**score.statistics, "level": raw})


def of_fragments(score: Score, fragments: Fragments, statistic: str) -> Score:
    """The score of the worst fragment; the extremes of every statistic go on record."""
    worst = {
        name: float(as_scores(name, values).max()) if values.size else math.nan
        for name, values in fragments.statistics.items()
    }
    statistics = {**score.statistics, **{f"fragment_{name}": value for name, value in worst.items()}}
    return replace(score, raw=worst[statistic], statistics=statistics, fragments=fragments)


def of_objects(
    score: Score,
    plane: TileArray,
    layers: FloatImage | None,
    foreground: Mask,
    spec: ScoreSpec,
    mask: MaskSpec,
) -> Score:
    """Each object's own score; the frame has the worst. Without any object the frame cannot be decided."""
    found, labels = split_objects(foreground, mask.min_area_ratio)
    objects = []
    for one in found:
        x, y, w, h = one.bbox
        inside = np.s_[y : y + h, x : x + w]
        its = labels[inside] == one.label
        own = None if layers is None else np.where(its, layers[:, *inside], np.float32(0))
        values = np.where(its, score.map[inside], np.float32(0))
        objects.append(
            ObjectScore(one.bbox, one.area_px, _summarised(plane[inside], values, own, its, spec).raw)
        )
    raw = max((o.raw for o in objects), default=math.nan)
    return replace(score, raw=raw, objects=tuple(objects))
