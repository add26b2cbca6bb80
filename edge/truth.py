"""The truth of a frame's pixels, read and brought to its plane; maps of the plane brought to the frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.dataset import Sample, is_store
from edge.errors import DataError
from edge.preprocess.rectify import rectify
from edge.types import FloatImage, Frame, Mask

MASK_ABOVE = 127  # of a mask's grey levels: defect, or foreground


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of a frame's pixels."""

    sample: Sample
    defect: Mask  # (h, w) in the frame's own pixels

    def of_class(self, name: str) -> Mask:
        """Where one class is; nowhere, where the sample has no mask of it."""
        file = self.sample.masks.get(name)
        return _read(file, self.sample, *self.defect.shape) if file else np.zeros_like(self.defect)

    def on_plane(self, frame: Frame, least_share: float = 0.0) -> Mask:
        """Where more than a share of what a plane's pixel shows is a defect, (h, w) of the plane.

        The frame's pixels outside a rectified plane are lost.
        """
        return on_plane(self.defect, frame, least_share)


def on_plane(mask: Mask, frame: Frame, least_share: float = 0.5) -> Mask:
    """A mask of a frame's own pixels, (h, w), on its plane: where more than a share of a pixel is meant."""
    height, width = frame.plane.shape
    values = mask.astype(np.float32)
    if frame.to_frame is not None:
        # what lies around a padded frame is no defect
        values = rectify(values, np.linalg.inv(_between_centres(frame)), (width, height), least_seen=0.0)
    elif values.shape != (height, width):
        values = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]  # float32
    return np.asarray(values > least_share)


def read_truth(sample: Sample, height: int, width: int) -> Truth | None:
    """What a sample says of its pixels: a good frame without mask is all good; None where nothing is known.

    Raises:
        DataError: a mask cannot be read, or has another size than its frame.
    """
    if sample.label != "good" and sample.mask is None and not sample.masks:
        return None
    return Truth(sample, read_mask(sample, height, width))


def read_mask(sample: Sample, height: int, width: int) -> Mask:
    """(height, width): where any of the sample's masks says defect."""
    defect = np.zeros((height, width), bool)
    for file in {*sample.masks.values(), *([sample.mask] if sample.mask else [])}:
        defect |= _read(file, sample, height, width)
    return defect


def _read(file: Path, sample: Sample, height: int, width: int) -> Mask:
    if is_store(file):
        from edge.hdf5 import load_crop

        return load_crop(file, sample.path).mask()
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise DataError(f"{file}: no readable mask", hint="masks are PNG, above 127 is meant")
    if mask.shape != (height, width):
        raise DataError(
            f"{file}: is {mask.shape[1]}×{mask.shape[0]}, its frame {width}×{height}",
            hint="a mask has the size of its frame",
        )
    return np.asarray(mask > MASK_ABOVE)


def to_frame(values: FloatImage, frame: Frame) -> FloatImage:
    """A map of the plane, (h, w) float32 ≥ 0, in the frame's own pixels; 0 where the plane shows nothing."""
    size = frame.image.width, frame.image.height
    if frame.to_frame is not None:
        warped = cv2.warpPerspective(values, _between_centres(frame), size, flags=cv2.INTER_LINEAR)
        return np.maximum(warped, 0).astype(np.float32)
    if values.shape == size[::-1]:
        return values
    return np.maximum(cv2.resize(values, size, interpolation=cv2.INTER_LINEAR), 0).astype(np.float32)


def _between_centres(frame: Frame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The placement for OpenCV, which counts from the middle of the first pixel, not from its corner."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    matrix: np.ndarray[Any, np.dtype[np.float64]] = np.linalg.inv(half) @ frame.placement.matrix @ half
    return matrix
