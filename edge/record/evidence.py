"""Pictures that show what a verdict was made of: the preprocessed frame with its heatmap, and the map."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import CannotWriteError
from edge.types import Defect, FloatImage, Frame, Judgement, Score

OVERLAY = "overlay.jpg"
HEATMAP = "heatmap.png"
LONGEST_SIDE_PX = 4096  # pictures of larger planes are reduced
JPEG_QUALITY = 88


def overlay(
    plane: FloatImage, values: FloatImage, pixel_threshold: float, defects: Sequence[Defect],
    scale: tuple[float, float] = (1.0, 1.0),
) -> NDArray[np.uint8]:  # fmt: skip
    """The plane in grey, the map above half its threshold in colour, boxes around defects; (h, w, 3) BGR.

    `scale` is frame pixels per plane pixel: defects are in frame pixels.
    """
    gray = cv2.cvtColor((np.clip(plane, 0, 1) * 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    heat = np.clip(values / (2 * pixel_threshold), 0.0, 1.0)
    colour = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    alpha = (np.clip(heat * 2 - 0.5, 0.0, 1.0) * 0.55)[..., None]
    picture: NDArray[np.uint8] = (gray * (1 - alpha) + colour * alpha).astype(np.uint8)
    width = max(1, round(max(plane.shape) / 700))
    for defect in defects:
        x, y, w, h = defect.bbox
        corner = int(x / scale[0]) - 2, int(y / scale[1]) - 2
        opposite = int((x + w) / scale[0]) + 2, int((y + h) / scale[1]) + 2
        cv2.rectangle(picture, corner, opposite, (60, 60, 255), width)
    return picture


def heatmap(values: FloatImage, pixel_threshold: float) -> NDArray[np.uint8]:
    """The map as (h, w) uint8: 128 is the pixel threshold."""
    relative: FloatImage = values * np.float32(128.0 / pixel_threshold)
    return np.clip(relative, 0, 255).astype(np.uint8)


def pictures(
    frame: Frame, score: Score, judgement: Judgement, pixel_threshold: float | None
) -> dict[str, NDArray[np.uint8]]:
    """Overlay and heatmap of a judged frame, by file name; without a threshold relative to the map's peak."""
    threshold = pixel_threshold or max(float(score.map.max()), 1e-12)
    return {
        OVERLAY: overlay(frame.plane, score.map, threshold, judgement.defects, frame.scale),
        HEATMAP: heatmap(score.map, threshold),
    }


def save(root: Path, result_id: str, created_unix_s: float, pictures: dict[str, NDArray[np.uint8]]) -> str:
    """Write pictures below root/DAY/RESULT_ID; gives that folder relative to root.

    Raises:
        CannotWriteError: no space or no permission.
    """
    day = datetime.fromtimestamp(created_unix_s, UTC).strftime("%Y-%m-%d")
    folder = root / day / result_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (folder / name).write_bytes(_encode(name, _reduced(picture)))
    except OSError as error:
        raise CannotWriteError(
            f"{folder}: evidence cannot be written: {error}", hint="check space and permissions"
        ) from None
    return f"{day}/{result_id}"


def prune(root: Path, *, max_age_days: float, max_bytes: int, now_unix_s: float) -> int:
    """Remove the oldest evidence beyond age and size; gives how many results' folders went."""
    if not root.is_dir():
        return 0
    oldest = datetime.fromtimestamp(now_unix_s - max_age_days * 86400, UTC).strftime("%Y-%m-%d")
    folders = sorted(folder for day in root.iterdir() if day.is_dir() for folder in day.iterdir())
    sizes = {folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in folders}
    total, removed = sum(sizes.values()), 0
    for folder in folders:  # days sort by date, results (ULIDs) by time
        if folder.parent.name >= oldest and total <= max_bytes:
            break
        shutil.rmtree(folder, ignore_errors=True)
        total -= sizes[folder]
        removed += 1
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    return removed


def _reduced(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = LONGEST_SIDE_PX / max(picture.shape[:2])
    if factor >= 1:
        return picture
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)


def _encode(name: str, picture: NDArray[np.uint8]) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if name.endswith(".jpg") else []
    done, data = cv2.imencode(Path(name).suffix, picture, options)
    if not done:
        raise CannotWriteError(f"{name}: OpenCV cannot encode it")
    return data.tobytes()
