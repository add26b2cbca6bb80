"""Planted defects judged as the recipe judges frames: all of the frame, or, where that is the same, a part of
it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edge.judge.judgement import judge
from edge.judge.statistics import score_map, summarise, top
from edge.pipeline import Inspector, Planes
from edge.planted import Planted, with_defect
from edge.preprocess.tiles import Tiling
from edge.types import Box, Defect, FloatImage, Frame, TileArray

COARSEST_PX = 8  # msgms halves three times: a crop that begins elsewhere would be halved otherwise
REACH_PX = {"ssim": 6, "msgms": 32}  # of a map's pixel: what around it has a part in it
LOCAL = ("peak", "max", "top")
SIGMAS = 4  # as far as OpenCV carries a Gaussian of float32

Judged = tuple[bool, Sequence[Box]]
"""Whether the frame is NotOK, and boxes in the plane around what was found."""


def judge_of(inspector: Inspector, frame: Frame) -> Callable[[Planted], Judged]:
    """What judges defects planted in a frame: the quick way where it gives the same answer, else whole
    frames."""
    manifest = inspector.bundle.manifest
    is_local = manifest.score.of == "frame" and manifest.score.statistic in LOCAL and not manifest.classes
    is_local &= not manifest.preprocess.tiles.whole  # every window sees most of the frame
    return Around(inspector, frame) if is_local else Whole(inspector, frame)


class Whole:
    """Judges all of the frame with the defect in it."""

    def __init__(self, inspector: Inspector, frame: Frame) -> None:
        self._inspector, self._frame = inspector, frame

    def __call__(self, planted: Planted) -> Judged:
        """Whether it is rejected, and boxes around what was found."""
        manifest, calibration = self._inspector.bundle.manifest, self._inspector.calibration
        assert calibration is not None
        planes = Planes(with_defect(self._frame.plane, planted), self._frame.foreground)
        (score,) = self._inspector.score([planes])
        judgement = judge(
            score, self._frame.identity.view, calibration, None, manifest.classes, manifest.score.min_area_px
        )
        return judgement.evaluation == "NotOK", _boxes(judgement.defects)


class Around:
    """Judges only what a defect can change of a frame that is OK: the tiles that see it, and the map around
    them.

    The score is the highest of many places. A place far from the defect scores as it did, which was below the
    threshold; so the frame is rejected where a place near it is above. Of the highest pixels (`top`) some may
    lie elsewhere: what is new near the defect is put into the map of the frame as it is.
    """

    def __init__(self, inspector: Inspector, frame: Frame) -> None:
        self._inspector, self._frame = inspector, frame
        spec = inspector.bundle.manifest.preprocess.tiles
        self._tiling = Tiling(frame.plane.shape[0], frame.plane.shape[1], spec)
        self._good_tiles = self._tiling.pad(frame.plane)
        self._good: dict[
            int, FloatImage
        ] = {}  # answers to the frame as it is, (channels, keep, keep), when needed
        self._good_map: FloatImage | None = None  # of the frame as it is, when needed

    def __call__(self, planted: Planted) -> Judged:
        """Whether it is rejected, and boxes around what was found."""
        manifest, calibration = self._inspector.bundle.manifest, self._inspector.calibration
        assert calibration is not None
        spec = manifest.score
        plane, foreground = with_defect(self._frame.plane, planted), self._frame.foreground
        seeing = self._seeing(planted.touched)
        answers = self._answers(self._tiling.pad(plane), seeing)
        changed = _hull([planted.touched, *(self._tiling.box(i) for i in seeing)])
        reach = REACH_PX.get(spec.map, 0) + math.ceil(SIGMAS * spec.smooth_px) + 1
        height, width = plane.shape
        scored = _grown(changed, reach + spec.peak_px, height, width)
        mapped = _aligned(_grown(scored, reach, height, width))
        stitched = self._stitched(mapped, answers)
        inside = None if foreground is None else foreground[_slices(mapped)]
        values = score_map(plane[_slices(mapped)], stitched, spec.map, spec.smooth_px, inside)
        x, y, w, h = scored
        within = np.s_[y - mapped[1] : y - mapped[1] + h, x - mapped[0] : x - mapped[0] + w]
        score = summarise(
            plane[_slices(scored)], values[within], spec.statistic, spec.peak_px,
            None if inside is None else inside[within], spec.top_ratio,
        )  # fmt: skip
        if spec.statistic == "top":
            score = replace(score, raw=self._top(scored, values[within], spec.top_ratio))
        judgement = judge(score, self._frame.identity.view, calibration)
        boxes = [(bx + x, by + y, bw, bh) for bx, by, bw, bh in _boxes(judgement.defects)]
        return judgement.evaluation == "NotOK", boxes

    def _top(self, scored: Box, values: FloatImage, ratio: float) -> float:
        """Of the whole frame, with what is new in a part of it."""
        foreground = self._frame.foreground
        if self._good_map is None:
            (score,) = self._inspector.score([Planes(self._frame.plane, foreground)])
            self._good_map = score.map
        whole = self._good_map.copy()
        whole[_slices(scored)] = values
        return top(whole if foreground is None else whole[foreground], ratio)

    def _seeing(self, touched: Box) -> list[int]:
        """The tiles whose windows have changed pixels, or their mirror images beyond the border, in them."""
        margin, (tall, wide) = self._tiling.margin, self._tiling.window
        x, y, w, h = touched
        rows = _in_padded(y, h, margin, self._tiling.height)
        columns = _in_padded(x, w, margin, self._tiling.width)
        origins = (self._tiling.origin(i) for i in range(len(self._tiling)))
        return [
            i
            for i, (top, left) in enumerate(origins)
            if top < rows[1] and rows[0] < top + tall and left < columns[1] and columns[0] < left + wide
        ]

    def _answers(self, padded: TileArray, wanted: Sequence[int]) -> dict[int, FloatImage]:
        """Tile → the kept centre of its answer, (channels, keep, keep)."""
        runtime, (tall, wide) = self._inspector.runtime, self._tiling.keep
        most = runtime.batch_of(*self._tiling.window)
        batches = [np.array(wanted[at : at + most], np.intp) for at in range(0, len(wanted), most)]
        cut = (self._tiling.cut_these(padded, batch) for batch in batches)
        found: dict[int, FloatImage] = {}
        for batch, answer in zip(batches, runtime.infer(cut), strict=True):
            margin = self._tiling.margin if answer.shape[-1] > wide else 0
            kept = answer[:, :, margin : margin + tall, margin : margin + wide]
            found.update(zip(map(int, batch), kept.copy(), strict=True))
        return found

    def _stitched(self, region: Box, answers: Mapping[int, FloatImage]) -> FloatImage:
        """(h, w) of the plane's stitched answer inside a region: new where there are answers, else as it
        was."""
        x, y, w, h = region
        there = [i for i in range(len(self._tiling)) if overlap(region, self._tiling.box(i))]
        missing = [i for i in there if i not in answers and i not in self._good]
        self._good.update(self._answers(self._good_tiles, missing))
        total, count = np.zeros((h, w), np.float32), np.zeros((h, w), np.float32)
        for i in there:
            left, top, wide, tall = self._tiling.box(i)
            x0, y0 = max(x, left), max(y, top)
            x1, y1 = min(x + w, left + wide), min(y + h, top + tall)
            answer = (answers[i] if i in answers else self._good[i])[0]
            total[y0 - y : y1 - y, x0 - x : x1 - x] += answer[y0 - top : y1 - top, x0 - left : x1 - left]
            count[y0 - y : y1 - y, x0 - x : x1 - x] += 1
        return total / count


def overlap(one: Box, other: Box) -> bool:
    return (
        one[0] < other[0] + other[2] and other[0] < one[0] + one[2]
        and one[1] < other[1] + other[3] and other[1] < one[1] + one[3]
    )  # fmt: skip


def _in_padded(start: int, length: int, margin: int, whole: int) -> tuple[int, int]:
    """First and last row (or column) + 1 of the padded plane that a stretch of the plane has a part in."""
    first = 0 if start <= margin else start + margin
    last = whole + 2 * margin if start + length >= whole - margin - 1 else start + length + margin
    return first, last


def _boxes(defects: Sequence[Defect]) -> list[Box]:
    return [defect.bbox for defect in defects]


def _hull(boxes: Sequence[Box]) -> Box:
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    return left, top, max(b[0] + b[2] for b in boxes) - left, max(b[1] + b[3] for b in boxes) - top


def _grown(box: Box, by: int, height: int, width: int) -> Box:
    left, top = max(0, box[0] - by), max(0, box[1] - by)
    return left, top, min(width, box[0] + box[2] + by) - left, min(height, box[1] + box[3] + by) - top


def _aligned(box: Box) -> Box:
    """The box, begun at a multiple of COARSEST_PX."""
    left, top = box[0] % COARSEST_PX, box[1] % COARSEST_PX
    return box[0] - left, box[1] - top, box[2] + left, box[3] + top


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box[1], box[1] + box[3]), slice(box[0], box[0] + box[2])
