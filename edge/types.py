"""What flows through the stages: frozen dataclasses, without behaviour beyond trivial properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Evaluation = Literal["OK", "NotOK", "NotDecidable"]
FloatImage = NDArray[np.float32]

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


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded and preprocessed frame, ready for the engine."""

    image: ImageInfo
    plane: FloatImage  # (h, w) float32 in 0..1, after the recipe's preprocessing
    identity: Identity = Identity()
    tags: Mapping[str, str] = field(default_factory=dict)
    times_s: Mapping[str, float] = field(default_factory=dict)  # decode_s, preprocess_s, …

    @property
    def scale(self) -> tuple[float, float]:
        """Frame pixels per plane pixel, (x, y)."""
        return self.image.width / self.plane.shape[1], self.image.height / self.plane.shape[0]


@dataclass(frozen=True, slots=True)
class Defect:
    """A connected region of the score map above the pixel threshold, in the frame's own pixels."""

    kind: str
    area_px: int
    area_ratio: float
    bbox: tuple[int, int, int, int]  # x, y, w, h
    score: float  # peak of the region relative to the pixel threshold


@dataclass(frozen=True, slots=True)
class Score:
    """What the engine and the statistics say of one frame, before any threshold."""

    raw: float
    map: FloatImage  # (h, w) float32 >= 0, same size as the plane
    statistics: Mapping[str, float]
    peak_box: tuple[int, int, int, int]  # x, y, w, h in the map: the window of the statistic `peak`
    plane_mean: float
    plane_std: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """A score held against the calibration of its view."""

    evaluation: Evaluation
    reasons: tuple[str, ...]
    score: float | None = None  # normalised: 1.0 is the view's threshold
    threshold_raw: float | None = None
    defects: tuple[Defect, ...] = ()


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
class Message:
    """One outbox row: `body` is the JSON that goes on the wire, the same bytes on every attempt."""

    row_id: int
    kind: Literal["frame", "part"]
    result_id: str
    body: bytes
