"""Large 16-bit frames made from small real ones: what a 12-megapixel scanner would see, as far as grey
values, texture and noise go. Mirrored copies side by side have no seams; every frame has its own crop, flips,
gain and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

WIDTH, HEIGHT = 4248, 2832  # 12 megapixels
NOISE = 150.0  # standard deviation, of 65,535: about 8.5 bits of it
MAGNIFIED = 1.4  # so that the noise is finer than the texture, as it is in large frames


def frame_of(
    small: NDArray[np.uint8], seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> NDArray[np.uint16]:
    """(height, width) uint16 of the wanted (width, height)."""
    rng = np.random.default_rng((seed, 0x12))
    width, height = size
    source = small[:, :: rng.choice((-1, 1))][:: rng.choice((-1, 1))]
    large = cv2.resize(
        source.astype(np.float32), None, fx=MAGNIFIED, fy=MAGNIFIED, interpolation=cv2.INTER_CUBIC
    )
    left, top = (int(rng.integers(0, side)) for side in large.shape[::-1])
    below, right = top + height, left + width
    whole = cv2.copyMakeBorder(
        large, 0, max(0, below - large.shape[0]), 0, max(0, right - large.shape[1]), cv2.BORDER_REFLECT
    )[top:below, left:right]
    grey = whole * (257 * rng.uniform(0.85, 0.95)) + rng.normal(0, NOISE, (height, width))
    return np.clip(np.rint(grey), 0, 65535).astype(np.uint16)


def write_frames(
    sources: Sequence[Path],
    folder: Path,
    count: int,
    *,
    kind: str = "tif",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    first_seed: int = 0,
) -> list[Path]:
    """Frames named part-0000_a.tif …, made from small ones in turn; those that are there already are left."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        file = folder / f"part-{first_seed + number:04d}_a.{kind}"
        files.append(file)
        if file.exists():
            continue
        small = cv2.imread(str(sources[number % len(sources)]), cv2.IMREAD_GRAYSCALE)
        if small is None:
            raise FileNotFoundError(sources[number % len(sources)])
        pixels = frame_of(small, first_seed + number, size)
        if kind == "tif":
            tifffile.imwrite(file, pixels)
        else:
            file.write_bytes(imagecodecs.png_encode(pixels, level=1))
    return files
