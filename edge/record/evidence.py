"""Pictures that show what a verdict was made of: the preprocessed frame with its heatmap, and the map."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.artifacts import make_folder, sync_folder
from edge.errors import CannotWriteError
from edge.record.age import clock_jumped
from edge.record.class_overlay import class_overlay
from edge.types import Box, Evaluation, FloatImage, Frame, Judgement, Score, as_bytes

Picture = NDArray[np.uint8]

OVERLAY = "overlay.jpg"
HEATMAP = "heatmap.png"
CLASSES = "classes.png"
PREPROCESSED = "preprocessed.jpg"
RECONSTRUCTION = "reconstruction.jpg"
GEOMETRY = "geometry.json"
FRAGMENTS = "fragments.csv"
LONGEST_SIDE_PX = 4096  # pictures in colour of larger planes are reduced
LONGEST_GREY_SIDE_PX = 6144  # likewise of grey ones, which are for looking at single pixels
JPEG_QUALITY = 88
DAY = "%Y-%m-%d"
DAY_S = 86400.0
UNFINISHED = ".unfinished"
UNFINISHED_S = 3600.0  # after which nobody is writing it any more
MIN_FREE_BYTES = 1_000_000_000
MOST_FOR_ROOM = 2000  # results removed at a time, so that housekeeping beats
DISK_FULL = "disk_full"

# BGR
DEFECT = (60, 60, 255)
OBJECT: dict[Evaluation, tuple[int, int, int]] = {
    "OK": (90, 200, 90),
    "NotOK": (60, 60, 255),
    "NotDecidable": (60, 200, 255),
}


def overlay(
    plane: FloatImage,
    values: FloatImage,
    pixel_threshold: float,
    boxes: Sequence[Box] = (),
    outlines: Sequence[tuple[Box, Evaluation]] = (),
) -> Picture:
    """The plane in grey, the map above half its threshold in colour, boxes around defects; (h, w, 3) BGR.

    `outlines` are objects with their evaluations; all boxes are in the plane.
    """
    gray = cv2.cvtColor((np.clip(plane, 0, 1) * 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    heat = np.clip(values / (2 * pixel_threshold), 0.0, 1.0)
    colour = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    alpha = (np.clip(heat * 2 - 0.5, 0.0, 1.0) * 0.55)[..., None]
    picture: Picture = (gray * (1 - alpha) + colour * alpha).astype(np.uint8)
    width = max(1, round(max(plane.shape) / 700))
    for x, y, w, h in boxes:
        cv2.rectangle(picture, (x - 2, y - 2), (x + w + 2, y + h + 2), DEFECT, width)
    for (x, y, w, h), evaluation in outlines:
        cv2.rectangle(picture, (x - 4, y - 4), (x + w + 4, y + h + 4), OBJECT[evaluation], width)
    return picture


def heatmap(values: FloatImage, pixel_threshold: float) -> NDArray[np.uint8]:
    """The map as (h, w) uint8: 128 is the pixel threshold."""
    relative: FloatImage = values * np.float32(128.0 / pixel_threshold)
    return np.clip(relative, 0, 255).astype(np.uint8)


def pictures(
    frame: Frame,
    score: Score | None,
    judgement: Judgement,
    classes: Sequence[str] = (),
) -> dict[str, Picture]:
    """Overlay and heatmap by file name; the frame alone where it was not scored, its classes in their colours
    where it has any.

    Planes beyond LONGEST_SIDE_PX are reduced first, so that a film costs no more memory than a photograph.
    """
    plane = _reduced(frame.plane)
    if score is None:
        return {OVERLAY: overlay(plane, np.zeros_like(plane), 1.0)}
    values = _reduced(score.map)
    threshold = judgement.pixel_threshold or max(float(values.max()), 1e-12)
    factor = plane.shape[1] / frame.plane.shape[1]

    def on_picture(box: Box) -> Box:
        x, y, w, h = (int(edge_px * factor) for edge_px in frame.placement.inverse_box(box))
        return x, y, w, h

    found = {
        OVERLAY: overlay(
            plane,
            values,
            threshold,
            [on_picture(defect.bbox) for defect in judgement.defects],
            [(on_picture(one.bbox), one.evaluation) for one in judgement.objects],
        ),
        HEATMAP: heatmap(_reduced(score.map, LONGEST_GREY_SIDE_PX), threshold),
    }
    if classes:
        layers = score.map[None] if score.layers is None else score.layers
        masks = np.stack([_reduced(layer) for layer in layers]) > threshold
        found[CLASSES] = class_overlay(plane, masks, classes, judgement.class_areas)
    return found


def layers(frame: Frame, reconstruction: Picture | None = None) -> dict[str, Picture]:
    """The plane in grey, and what the network made of it where that is known, at the plane's own pixels."""
    found = {PREPROCESSED: _reduced(as_bytes(frame.grey), LONGEST_GREY_SIDE_PX)}
    if reconstruction is not None:
        found[RECONSTRUCTION] = _reduced(reconstruction, LONGEST_GREY_SIDE_PX)
    return found


def geometry(frame: Frame, pictures: Mapping[str, Picture]) -> str:
    """JSON: where the plane lies in the frame, and how large each picture is."""
    return json.dumps(
        {
            "plane": [frame.grey.shape[1], frame.grey.shape[0]],
            "planeToFrame": frame.placement.matrix.tolist(),
            "isScaled": frame.to_frame is None,
            "pictures": {name: [one.shape[1], one.shape[0]] for name, one in pictures.items()},
        }
    )


def fragments_csv(score: Score) -> str:
    """What was measured on each fragment, a line each: x, y, w, h in the plane, and the statistics."""
    assert score.fragments is not None, "only scores of fragments have them"
    names = list(score.fragments.statistics)
    lines = [",".join(["x", "y", "w", "h", *names])]
    columns = [score.fragments.statistics[name] for name in names]
    for box, values in zip(score.fragments.boxes.tolist(), zip(*columns, strict=True), strict=True):
        lines.append(",".join([*map(str, box), *(f"{value:.6g}" for value in values)]))
    return "\n".join(lines) + "\n"


def save(
    root: Path,
    result_id: str,
    created_unix_s: float,
    pictures: Mapping[str, Picture],
    tables: Mapping[str, str] | None = None,
    *,
    min_free_bytes: int | None = 0,
) -> str:
    """Write pictures (and texts) below root/DAY/RESULT_ID; gives that folder relative to root.

    The folder gets its name when all of it is on the disk: it is whole, or not there. Nothing is written
    where less than `min_free_bytes` is free: verdicts need that space more; None: what `wanted_free` says.

    Raises:
        CannotWriteError: no space (`disk_full`) or no permission; nothing is left behind.
    """
    files = {name: _encode(name, picture) for name, picture in pictures.items()}
    files |= {name: text.encode() for name, text in (tables or {}).items()}
    day = datetime.fromtimestamp(created_unix_s, UTC).strftime(DAY)
    folder = root / day / result_id
    unfinished = folder.with_name(f".{result_id}{UNFINISHED}")
    try:
        _check_room(root, min_free_bytes)
        make_folder(unfinished)
        for name, content in files.items():
            _write(unfinished / name, content)
        sync_folder(unfinished)
        unfinished.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise CannotWriteError(
            f"{folder}: evidence cannot be written: {error}",
            hint="check space and permissions",
            reason=DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else None,
        ) from None
    return f"{day}/{result_id}"


def folder_of(root: Path, said: object) -> Path | None:
    """The folder of a verdict's evidence, by the verdict's word; None where it is not there, or not below."""
    root = root.resolve()
    if not isinstance(said, str) or not said:
        return None
    folder = (root / said).resolve()
    return folder if folder != root and folder.is_relative_to(root) and folder.is_dir() else None


def _check_room(root: Path, min_free_bytes: int | None) -> None:
    free, wanted = free_bytes(root), wanted_free(root, min_free_bytes)
    if free < wanted:
        raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB free, {wanted / 1e6:.0f} MB to be kept free")


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def free_bytes(root: Path) -> int:
    """What is free on the disk of a folder that need not be there yet."""
    return shutil.disk_usage(_there(root)).free


def wanted_free(root: Path, min_free_bytes: int | None) -> int:
    """What is to be kept free on that disk: as configured, else 1 GB, or a tenth of a smaller disk."""
    if min_free_bytes is not None:
        return min_free_bytes
    return min(MIN_FREE_BYTES, shutil.disk_usage(_there(root)).total // 10)


def _there(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if one.exists())


def prune(root: Path, *, max_age_days: float, max_bytes: int, now_unix_s: float) -> int:
    """Remove the oldest evidence beyond age and size; gives how many results' folders went.

    What cannot be looked at or removed is left; what is not ours (a file among the days) as well. What a
    verdict never came to refer to (a crash between the two) is as old as the rest, and goes with it.
    """
    if not root.is_dir():
        return 0
    _forget_unfinished(root, now_unix_s)
    oldest = _oldest_kept([day.name for day in _folders(root)], max_age_days, now_unix_s)
    folders = list(_oldest_first(root))
    sizes = {folder: _size(folder) for folder in folders}
    total, removed = sum(sizes.values()), 0
    for folder in folders:
        if folder.parent.name >= oldest and total <= max_bytes:
            break
        _remove(folder)
        total -= sizes[folder]
        removed += 1
    return removed


def make_room(root: Path, lacking_bytes: int) -> int:
    """Remove the oldest evidence until so many bytes went, or none is left; gives how many results went.

    Their sizes are counted, not what is free then: some file systems free space much later.
    """
    removed = 0
    for folder in _oldest_first(root):
        if lacking_bytes <= 0 or removed >= MOST_FOR_ROOM:
            break
        lacking_bytes -= _size(folder)
        _remove(folder)
        removed += 1
    return removed


def _oldest_kept(days: Sequence[str], max_age_days: float, now_unix_s: float) -> str:
    """The day from which on evidence is young enough; '' (all of it) where the clock seems to have jumped."""
    oldest = datetime.fromtimestamp(max(0.0, now_unix_s - max_age_days * DAY_S), UTC).strftime(DAY)
    gone = max((_unix_s(day) + DAY_S for day in days if day < oldest), default=-inf)
    kept = min((_unix_s(day) for day in days if day >= oldest), default=now_unix_s)
    return "" if clock_jumped(gone, kept, max_age_days * DAY_S) else oldest


def _unix_s(day: str) -> float:
    try:
        return datetime.strptime(day, DAY).replace(tzinfo=UTC).timestamp()
    except ValueError:  # not a day: it was not made here
        return -inf


def _oldest_first(root: Path) -> Iterator[Path]:
    """Folders of results; days sort by date, results (ULIDs) by time. One day is listed at a time."""
    for day in sorted(_folders(root)):
        for folder in sorted(_folders(day)):
            if not folder.name.endswith(UNFINISHED):
                yield folder


def _forget_unfinished(root: Path, now_unix_s: float) -> None:
    """What a crash left half written; not what is being written now."""
    for day in _folders(root):
        for folder in _folders(day):
            with contextlib.suppress(OSError):
                if folder.name.endswith(UNFINISHED) and now_unix_s - folder.stat().st_mtime > UNFINISHED_S:
                    _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty, or something was just saved there
        folder.parent.rmdir()


def _folders(parent: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [entry for entry in parent.iterdir() if entry.is_dir() and not entry.is_symlink()]
    return []


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            total += file.stat().st_size
    return total


Plane = TypeVar("Plane", FloatImage, Picture)


def _reduced(plane: Plane, longest_px: int = LONGEST_SIDE_PX) -> Plane:
    """At most so long on its longer side, at least one pixel on the other."""
    factor = longest_px / max(plane.shape)
    if factor >= 1:
        return plane
    height, width = (max(1, round(side * factor)) for side in plane.shape)
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]  # its type stays


def _encode(name: str, picture: NDArray[np.uint8]) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if name.endswith(".jpg") else []
    done, data = cv2.imencode(Path(name).suffix, picture, options)
    if not done:
        raise CannotWriteError(f"{name}: OpenCV cannot encode it")
    return data.tobytes()
