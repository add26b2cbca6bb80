"""What flows through the stages: frozen dataclasses, without behaviour beyond trivial properties."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Evaluation = Literal["OK", "NotOK", "NotDecidable"]
FloatImage = NDArray[np.float32]
TileArray = NDArray[np.float32 | np.uint16 | np.uint8]
"""Grey values as float32 in 0..1, or as shares of an unsigned type's greatest value."""
Mask = NDArray[np.bool_]

GREATEST = {"uint16": 65535, "uint8": 255}  # of grey values that are stored as integers


def as_float(grey: TileArray) -> FloatImage:
    """Grey values as float32 in 0..1, whatever they are stored as."""
    most = GREATEST.get(grey.dtype.name, 1)
    scaled: FloatImage = grey.astype(np.float32, copy=False)
    return scaled if most == 1 else scaled * np.float32(1 / most)


def as_bytes(grey: TileArray) -> NDArray[np.uint8]:
    """Grey values as uint8, whatever they are stored as; what is beyond 0..1 is cut off."""
    if grey.dtype == np.uint8:
        return grey  # type: ignore[return-value]  # just looked
    import cv2  # not for commands that show no picture

    scaled: Any = cv2.multiply(as_float(grey), (255.0, 0.0, 0.0, 0.0), dtype=cv2.CV_8U)  # type: ignore[call-overload]  # scalars are meant as well
    bytes_: NDArray[np.uint8] = scaled  # rounded, saturated
    return bytes_


Box = tuple[int, int, int, int]
"""x, y, width, height in pixels."""

DEFAULT_VIEW = "default"  # the calibration key of frames whose names carry no view


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What `stat` says of a file; a changed stamp is a new frame."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that intake found complete: unchanged for the settle time, its marker there if there are any."""

    source: str
    path: str  # relative to the source's directory, with forward slashes
    file: Path
    stamp: FileStamp
    first_seen_s: float  # monotonic clock, as are the next two
    unchanged_since_s: float  # when this stamp was first seen
    settled_s: float  # when intake called the file complete


@dataclass(frozen=True, slots=True)
class Identity:
    """What a frame's name or DICOM tags say of it; None where they say nothing."""

    part: str | None = None
    view: str | None = None
    batch: str | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded page, pixels as stored, with what the file declares about their meaning.

    `low` and `high` are the stored values that mean 0 and 1: from the declared bit depth, a DICOM window or
    TIFF MinSampleValue/MaxSampleValue; never from the pixels themselves. `low > high` says that large values
    are dark (MONOCHROME1, negative rescale slope, WhiteIsZero).
    """

    pixels: NDArray[Any]  # (h, w) or (h, w, 3) RGB; uint8, uint16, int16, uint32, int32 or float32
    bits: int  # declared significant bits of a sample
    low: float
    high: float
    page: int = 0
    pages: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)  # DICOM keyword -> text, for naming


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Where a frame came from and what it is, for the verdict."""

    path: str
    sha256: str
    width: int = 0  # of the frame as stored
    height: int = 0
    bits: int = 0
    page: int = 0
    pages: int = 1
    channels: int | None = None  # 1: grey, 3: colour; None: not known


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a plane lies in its frame: what is found in the one is reported in pixels of the other."""

    matrix: NDArray[np.float64]  # (3, 3) plane → frame, homogeneous
    width: int  # of the frame
    height: int

    @classmethod
    def scaled(cls, plane_shape: tuple[int, ...], width: int, height: int) -> Placement:
        """Of a plane that was only resized."""
        return cls(np.diag([width / plane_shape[1], height / plane_shape[0], 1.0]), width, height)

    def box(self, box: Box) -> Box:
        """The upright box in the frame around a box of the plane; at least one pixel, inside the frame."""
        corners = self._corners(box, self.matrix)
        left, top = np.clip(np.floor(corners.min(axis=0) + 1e-6), 0, (self.width - 1, self.height - 1))
        right, bottom = np.clip(np.ceil(corners.max(axis=0) - 1e-6), 1, (self.width, self.height))
        return int(left), int(top), max(1, int(right - left)), max(1, int(bottom - top))

    def inverse_box(self, box: Box) -> Box:
        """The upright box in the plane around a box of the frame; it may reach beyond the plane."""
        corners = self._corners(box, np.linalg.inv(self.matrix).astype(np.float64))
        left, top = np.floor(corners.min(axis=0))
        right, bottom = np.ceil(corners.max(axis=0))
        return int(left), int(top), max(1, int(right - left)), max(1, int(bottom - top))

    def area_px(self, area_px: float, box: Box) -> int:
        """An area within a box of the plane in frame pixels, by the box's own enlargement; at least 1."""
        return int(self.areas_px(np.array([area_px]), np.array([box]))[0])

    def areas_px(self, areas_px: NDArray[Any], boxes: NDArray[Any]) -> NDArray[np.int64]:
        """`area_px` of many: areas (n,) within boxes (n, 4)."""
        left, top, width, height = boxes.T.astype(np.float64)
        xs = np.stack((left, left + width, left + width, left), axis=-1)
        ys = np.stack((top, top, top + height, top + height), axis=-1)
        mapped = np.stack((xs, ys, np.ones_like(xs)), axis=-1) @ self.matrix.T  # (n, 4, 3)
        x, y = mapped[..., 0] / mapped[..., 2], mapped[..., 1] / mapped[..., 2]
        quads = 0.5 * np.abs((x * np.roll(y, -1, axis=-1) - y * np.roll(x, -1, axis=-1)).sum(axis=-1))
        found: NDArray[np.float64] = np.rint(areas_px * quads / (width * height))
        return np.maximum(1, found).astype(np.int64)

    @staticmethod
    def _corners(box: Box, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y, w, h = box
        corners = np.array([[x, y, 1], [x + w, y, 1], [x + w, y + h, 1], [x, y + h, 1]], np.float64)
        mapped = corners @ matrix.T
        at: NDArray[np.float64] = mapped[:, :2] / mapped[:, 2:]
        return at


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded and preprocessed frame, ready for the engine."""

    image: ImageInfo
    # (h, w) after the recipe's preprocessing; as it was stored, where that changed nothing
    grey: TileArray
    identity: Identity = Identity()
    tags: Mapping[str, str] = field(default_factory=dict)
    times_s: Mapping[str, float] = field(default_factory=dict)  # decode_s, preprocess_s, …
    foreground: Mask | None = None  # (h, w): where the part is; None: everywhere
    to_frame: NDArray[np.float64] | None = None  # (3, 3) plane → frame pixels, where the plane was rectified

    @property
    def plane(self) -> FloatImage:
        """(h, w) float32 in 0..1; computed each time where it is stored otherwise."""
        return as_float(self.grey)

    @property
    def placement(self) -> Placement:
        """Where the plane lies in the frame."""
        width, height = self.image.width, self.image.height
        if self.to_frame is None:
            return Placement.scaled(self.grey.shape, width, height)
        return Placement(self.to_frame, width, height)


MAX_DEFECTS = 50  # listed of a frame: one that is all defect needs no list of ten thousand boxes


@dataclass(frozen=True, slots=True)
class Defect:
    """A connected region of the score map above the pixel threshold, in the frame's own pixels."""

    kind: str
    area_px: int
    area_ratio: float
    bbox: Box
    score: float  # peak of the region relative to the pixel threshold


FRAGMENT_STATISTICS = ("sum", "mse", "std", "min", "max", "absmax", "mean")  # each can be the score


@dataclass(frozen=True, slots=True)
class Fragments:
    """The windows of a plane, and what was measured on the residual of each."""

    boxes: NDArray[np.int32]  # (n, 4): x, y, w, h in the plane
    statistics: Mapping[str, NDArray[np.float32]]  # FRAGMENT_STATISTICS, (n,) each


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """One of several objects in a frame, each with a score of its own."""

    box: Box  # in the plane
    area_px: int  # of its foreground in the plane
    raw: float


@dataclass(frozen=True, slots=True)
class Score:
    """What the engine and the statistics say of one frame, before any threshold."""

    raw: float
    map: FloatImage  # (h, w) float32 >= 0, same size as the plane
    statistics: Mapping[str, float]
    peak_box: Box  # in the map: the window of the statistic `peak`
    plane_mean: float  # over the foreground, as is the next one
    plane_std: float
    foreground_px: int = 0  # of the plane; all of it where the recipe masks nothing
    fragments: Fragments | None = None  # only where the score is a fragment's
    objects: tuple[ObjectScore, ...] = ()  # only where each object has its own score
    layers: FloatImage | None = None  # (classes, h, w) probabilities of a segmenter with several classes
    sharpness: float | None = None  # of the plane's foreground; None: too small or too flat to say

    @property
    def foreground_ratio(self) -> float:
        """The share of the plane that is foreground."""
        return self.foreground_px / self.map.size if self.map.size else 0.0


@dataclass(frozen=True, slots=True)
class ObjectJudgement:
    """The evaluation of one of several objects in a frame."""

    bbox: Box  # in the frame's own pixels
    area_px: int
    score: float | None
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Judgement:
    """A score held against the calibration of its view."""

    evaluation: Evaluation
    reasons: tuple[str, ...]
    score: float | None = None  # normalised: 1.0 is the view's threshold
    threshold_raw: float | None = None
    pixel_threshold: float | None = None  # of the score map
    defects: tuple[Defect, ...] = ()
    class_areas: Mapping[str, int] = field(default_factory=dict)  # class → area in frame pixels
    objects: tuple[ObjectJudgement, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which engine judged, for the verdict."""

    bundle: str
    sha256: str
    runtime: str
    precision: str
    calibration_sha256: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A frame's or part's result: `payload` is exactly what goes on the wire (see publish/schema)."""

    result_id: str
    result_type: Literal["frame", "part"]
    recipe: str
    evaluation: Evaluation
    identity: Identity
    created_unix_s: float
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VerdictFilter:
    """Which stored verdicts are asked for: all that is given must hold; None asks nothing."""

    result_type: str | None = None
    recipe: str | None = None
    view: str | None = None
    batch: str | None = None
    part: str | None = None
    evaluation: str | None = None
    reason: str | None = None
    since_unix_s: float | None = None
    until_unix_s: float | None = None  # exclusive
    reviewed: Literal["yes", "no", "overruled"] | None = None
    text: str | None = None  # anywhere in path, part or batch; or the id
    before: str | None = None  # a result id: only what is older
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """What a person said of a verdict; a later one supersedes it, and changes nothing of it."""

    review_id: str
    result_id: str
    evaluation: Evaluation
    agrees: bool  # with the verdict
    reason: str
    reviewer: str
    created_unix_s: float


Kind = Literal["frame", "part", "review"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Sinks = Mapping[str, Collection[Kind]]
"""Whom results wait for: by the name of each sink what it wants."""


@dataclass(frozen=True, slots=True)
class Message:
    """One outbox row: `body` is the JSON that goes on the wire, the same bytes on every attempt."""

    row_id: int
    kind: Kind
    result_id: str  # of a review: that of its verdict
    body: bytes
