"""Where the pictures of a verdict come from: its evidence, or its frame's own file, decoded once more.

Evidence is ours, and read here. A frame's file is anybody's: it goes to the decode workers, one at a time, so
that the line hardly notices, and counts only if its SHA-256 still is the verdict's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.config import Settings
from edge.decode import Limits
from edge.errors import DataError, MissingInputError, UnavailableError
from edge.pipeline import Inspector, PrepareJob
from edge.places import Places
from edge.preprocess import PreprocessSpec
from edge.preprocess.plane import new_size
from edge.record import evidence
from edge.record.queries import StoredVerdict
from edge.types import Frame, Placement, as_bytes

Picture = NDArray[np.uint8]  # (h, w), or (h, w, 3) BGR

FILES = {
    "preprocessed": evidence.PREPROCESSED, "reconstruction": evidence.RECONSTRUCTION,
    "map": evidence.HEATMAP, "classes": evidence.CLASSES,
}  # fmt: skip
LAYERS = ("original", *FILES)
MOST_PIXELS = 64e6  # of an original that is shown; larger ones are reduced
TURN_S = 10.0  # to wait for another original to be decoded
GONE = "the frame's file is no longer there, and no copy of it was kept"
CHANGED = "the frame's file has changed since it was judged"
NOT_KEPT = "kept only of frames that are not OK, and of a share of the others"


class Workers(Protocol):
    """Where files are decoded."""

    def submit(self, job: PrepareJob) -> Future[list[Frame]]: ...


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a plane lies in its frame, and how large its pictures are, by file name."""

    plane_to_frame: Sequence[Sequence[float]] | None
    is_scaled: bool
    plane: tuple[int, int] | None = None  # width, height
    pictures: Mapping[str, tuple[int, int]] | None = None


class Pictures:
    """Pictures of stored verdicts; safe from any thread."""

    def __init__(
        self, settings: Settings, inspectors: Mapping[str, Inspector], workers: Workers, root: Path
    ) -> None:
        """`root` is the folder of all evidence."""
        self._root = root
        self._settings, self._inspectors, self._workers = settings, inspectors, workers
        self._places = Places(settings)
        self._turn = threading.Lock()

    def picture(self, stored: StoredVerdict, layer: str) -> Picture:
        """The pixels of a layer.

        Raises:
            MissingInputError: it cannot be had; the message says why.
            UnavailableError: not now.
        """
        if (folder := self._evidence(stored)) and layer in FILES and (folder / FILES[layer]).is_file():
            picture = cv2.imread(str(folder / FILES[layer]), cv2.IMREAD_UNCHANGED)
            if picture is not None:
                return picture  # type: ignore[return-value]  # we wrote 8 bits
        if why := self._why_not(stored, layer):
            raise MissingInputError(why)
        return self._original(stored) if layer == "original" else self._preprocessed(stored)

    def geometry(self, stored: StoredVerdict) -> Geometry:
        """As written beside the evidence; else as the recipe's preprocessing says."""
        if folder := self._evidence(stored):
            try:
                said = json.loads((folder / evidence.GEOMETRY).read_text())
                return Geometry(said["planeToFrame"], said["isScaled"], said["plane"], said["pictures"])
            except (OSError, ValueError, KeyError):  # evidence of older versions has none
                pass
        inspector, image = self._judged_by(stored.payload), stored.payload.get("image") or {}
        if inspector is None or not image.get("width"):
            return Geometry(None, False)
        spec, width, height = inspector.bundle.manifest.preprocess, image["width"], image["height"]
        if spec.rectify is not None or spec.fit == "pad":
            return Geometry(None, False)
        plane = new_size(height, width, spec)
        return Geometry(Placement.scaled(plane[::-1], width, height).matrix.tolist(), True, plane)

    def layers(self, stored: StoredVerdict, geometry: Geometry) -> dict[str, dict[str, Any]]:
        """What can be shown, how large it is, and why what cannot be shown cannot."""
        return {layer: self._layer(stored, geometry, layer) for layer in LAYERS}

    def _layer(self, stored: StoredVerdict, geometry: Geometry, layer: str) -> dict[str, Any]:
        size: Sequence[int] | None = None
        why: str | None = None
        folder = self._evidence(stored)
        if folder and layer in FILES and (folder / FILES[layer]).is_file():
            size = (geometry.pictures or {}).get(FILES[layer])
            if size is None:
                size = self.picture(stored, layer).shape[1::-1]
        elif not (why := self._why_not(stored, layer)):
            image = stored.payload["image"]
            factor = _factor(image)
            size = geometry.plane
            if layer == "original":
                size = [max(1, round(image[side] * factor)) for side in ("width", "height")]
        width, height = size or (None, None)
        return {
            "width": width,
            "height": height,
            "aligned": "frame" if layer == "original" else "plane",
            "why": why or None,
        }

    def _why_not(self, stored: StoredVerdict, layer: str) -> str:
        """Why a layer that is no evidence cannot be had; '' if it can be tried."""
        payload = stored.payload
        if payload["resultType"] != "frame":
            return "a part has no picture of its own: look at its views"
        judged_by = self._judged_by(payload)
        manifest = judged_by.bundle.manifest if judged_by else None
        if layer == "reconstruction" and manifest and manifest.output != "reconstruction":
            return "this model does not reconstruct"
        if layer == "classes" and manifest and not manifest.classes:
            return "this model knows no classes"
        if layer not in ("original", "preprocessed"):
            return NOT_KEPT
        if not payload["image"].get("sha256") or not payload["image"].get("width"):
            return "the frame could not be read"
        if layer == "preprocessed" and judged_by is None:
            return "judged by a model that is no longer in use, and no picture was kept"
        return "" if any(file.is_file() for file in self._copies(stored)) else GONE

    def _judged_by(self, payload: Mapping[str, Any]) -> Inspector | None:
        """The recipe's inspector, if it still has the model that judged."""
        inspector = self._inspectors.get(payload.get("recipeId") or "")
        model = payload.get("model") or {}
        return inspector if inspector and inspector.bundle.digest == model.get("sha256") else None

    def _evidence(self, stored: StoredVerdict) -> Path | None:
        """The verdict's folder of evidence, if it is there."""
        return evidence.folder_of(self._root, stored.payload.get("evidence"))

    def _copies(self, stored: StoredVerdict) -> Iterator[Path]:
        """Files that may hold the frame."""
        return self._places.candidates(stored.payload, stored.source, stored.path)

    def _original(self, stored: StoredVerdict) -> Picture:
        scale = _factor(stored.payload["image"])

        def channel(name: str) -> Frame:
            return self._frame(stored, PreprocessSpec.model_validate({"gray": name, "scale": scale}))

        first = channel("red")
        if (first.image.channels or 1) == 1:
            return as_bytes(first.grey)
        # of a frame in colour each channel is asked for: workers answer in planes
        return np.dstack([as_bytes(one.grey) for one in (channel("blue"), channel("green"), first)])

    def _preprocessed(self, stored: StoredVerdict) -> Picture:
        inspector = self._judged_by(stored.payload)
        assert inspector is not None, "_why_not says so"
        bundle = inspector.bundle
        return as_bytes(self._frame(stored, bundle.manifest.preprocess, bundle.folder).grey)

    def _frame(self, stored: StoredVerdict, spec: PreprocessSpec, assets: Path | None = None) -> Frame:
        why = GONE
        image = stored.payload["image"]
        for file in self._copies(stored):
            if not file.is_file():
                continue
            try:
                frames = self._decoded(self._job(stored, file, spec, assets))
            except DataError as error:
                why = error.message
                continue
            page = next((one for one in frames if one.image.page == image.get("page", 0)), None)
            if page is not None and page.image.sha256 == image["sha256"]:
                return page
            why = CHANGED
        raise MissingInputError(why)

    def _job(
        self, stored: StoredVerdict, file: Path, spec: PreprocessSpec, assets: Path | None
    ) -> PrepareJob:
        runtime = self._settings.runtime
        return PrepareJob(
            file=file,
            path=stored.payload["image"]["path"],
            stamp=None,
            spec=spec,
            limits=Limits(runtime.max_pixels, runtime.max_pages),
            value_range=self._places.value_range(stored.source),
            assets=assets,
            view=stored.payload.get("view"),
        )

    def _decoded(self, job: PrepareJob) -> list[Frame]:
        busy = UnavailableError("the decoders are busy", hint="ask again in a moment")
        if not self._turn.acquire(timeout=TURN_S):
            raise busy
        try:
            future = self._workers.submit(job)
            try:
                return future.result(2 * self._settings.runtime.decode_timeout_s + TURN_S)
            except FutureTimeoutError:
                future.cancel()
                raise busy from None
            except CancelledError:
                raise busy from None
        finally:
            self._turn.release()


def _factor(image: Mapping[str, Any]) -> float:
    return float(min(1.0, (MOST_PIXELS / max(1, image["width"] * image["height"])) ** 0.5))
