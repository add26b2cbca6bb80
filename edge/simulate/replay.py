"""Shots from real images: a folder or a manifest, as they are or in another format and bit depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError, MissingInputError, UsageError
from edge.simulate.formats import Encoding, Pixels, encode
from edge.simulate.shots import Capture, Label, Shot, frame_path
from edge.types import Identity

MANIFEST = "manifest.csv"
AS_IT_IS = "replay it without --format, as it is"


@dataclass(frozen=True, slots=True)
class Original:
    """A real image and what is known about it; empty strings where nothing is."""

    file: Path
    label: Label = "review"
    mask: Path | None = None
    view: str = ""
    part: str = ""
    defect: str = ""
    split: str = ""


def originals(source: Path) -> list[Original]:
    """The images of a manifest, of the manifest in a folder, or all images below a folder (labelled review).

    Raises:
        MissingInputError: the source is not there, or holds no images.
        DataError: the manifest is not one.
    """
    from edge.config import FRAME_PATTERNS
    from edge.dataset import frames_below

    if source.is_dir() and (source / MANIFEST).is_file():
        source = source / MANIFEST
    if source.is_dir():
        found = [Original(file) for file in frames_below(source)]
    elif source.is_file():
        found = _from_manifest(source)
    else:
        raise MissingInputError(f"{source}: no such folder or manifest", hint="check the path after --from")
    if not found:
        raise MissingInputError(f"{source}: holds no images", hint=f"known are {', '.join(FRAME_PATTERNS)}")
    return found


def replay(
    chosen: Sequence[Original], *, template: str | None, batch: str, encoding: Encoding | None
) -> list[Shot]:
    """Shots that write real images, all in the style "direct".

    Args:
        chosen: the images; one without a part is named by its file.
        template: of the names; None: `{batch}/{part}_{view}`, without the view where an image has none.
        batch: of all of them.
        encoding: None copies the files byte by byte.

    Raises:
        UsageError: two images get the same name, or one lacks a field of the template.
    """
    if template is None:
        template = "{batch}/{part}_{view}" if all(image.view for image in chosen) else "{batch}/{part}"
    shots = [_shot(image, template, batch, encoding) for image in chosen]
    path, count = Counter(shot.path for shot in shots).most_common(1)[0] if shots else ("", 0)
    if count > 1:
        raise UsageError(f"{count} images would be called {path}", hint="add {stem} or {view} to --template")
    return shots


def read_pixels(file: Path) -> Pixels:
    """An image as stored: (h, w), or (h, w, 3) RGB; uint8 or uint16. Transparency is left out.

    Raises:
        DataError: it cannot be read, or is neither 8 nor 16 bits nor a single page.
    """
    try:
        pixels = _read(file)
    except (OSError, ValueError, cv2.error) as error:
        raise DataError(
            f"{file}: cannot be read: {error}", hint="replay it without --format, as it is"
        ) from None
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = pixels[:, :, :3]
    if (
        pixels.dtype not in (np.uint8, np.uint16)
        or pixels.ndim not in (2, 3)
        or pixels.shape[2:] not in ((), (3,))
    ):
        raise DataError(
            f"{file}: {pixels.dtype} {pixels.shape} is not one page of 8 or 16 bits",
            hint=AS_IT_IS,
        )
    return cast("Pixels", pixels)


def _read(file: Path) -> NDArray[np.generic]:
    if file.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        return np.asarray(tifffile.imread(file))
    pixels = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("OpenCV does not know this format")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels[:, :, :3], cv2.COLOR_BGR2RGB)
    return np.asarray(pixels)


def _from_manifest(manifest: Path) -> list[Original]:
    from edge.dataset import read_manifest

    return [
        Original(
            file=manifest.parent / row.path,  # not resolved: a link's own name becomes the frame's
            label=row.label or "review",
            mask=row.mask,
            view=row.view or "",
            part=row.part or "",
            defect=row.defect,
            split=row.split,
        )
        for row in read_manifest(manifest)
    ]


def _shot(image: Original, template: str, batch: str, encoding: Encoding | None) -> Shot:
    part = image.part or image.file.stem
    fields = {"batch": batch, "part": part, "view": image.view, "stem": image.file.stem}
    identity = Identity(part=part, view=image.view, batch=batch)
    suffix = encoding.suffix if encoding else image.file.suffix
    return Shot(
        path=frame_path(template, fields, suffix),
        take=_taker(image, encoding, identity),
        label=image.label,
        part=part,
        view=image.view,
        batch=batch,
        style="direct",
        defect=image.defect,
        split=image.split,
    )


def _taker(image: Original, encoding: Encoding | None, identity: Identity) -> Callable[[], Capture]:
    def take() -> Capture:
        if not image.file.is_file():
            raise MissingInputError(f"{image.file}: no such image", hint="check the manifest's paths")
        if encoding is None:
            data = image.file.read_bytes()
        else:
            data = encode(read_pixels(image.file), encoding, identity)
        return Capture(data, read_mask(image.mask))

    return take


def read_mask(file: Path | None) -> NDArray[np.uint8] | None:
    """A mask as (h, w), 255 where it is more than 127, otherwise 0; None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    if file is None:
        return None
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) if file.is_file() else None
    if pixels is None:
        raise DataError(f"{file}: the mask cannot be read", hint="masks are PNG, more than 127 is defect")
    return (np.asarray(pixels) > 127).astype(np.uint8) * 255
