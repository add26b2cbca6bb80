"""Which share of single flipped bits each format lets us notice: `python -m bench.bit_flips` prints a table.

One bit of the pixel data of a real frame is flipped and the file decoded: refused, the same picture, or
another one. What comes out as another picture only a checksum file beside the frame would have told.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from bench import machine
from bench.section import table
from edge.decode import Limits, decode
from edge.errors import EdgeError
from tests.decode import builders as make
from tests.torture.seeds import real

FLIPS = 2000
SIDE_PX = 400
LIMITS = Limits(10_000_000, 1)
HEADER_SHARE = 0.2  # of a file, at its beginning, is left alone; directories at the end are hit as they come


def files(grey: NDArray[np.uint8]) -> Mapping[str, bytes]:
    """The same (h, w) frame in every way to store it."""
    deep = grey.astype(np.uint16) << 4
    progressive = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    colour = np.stack([grey, grey, grey], axis=-1)
    coded: Mapping[str, Callable[[], bytes]] = {
        "PNG": lambda: cv2.imencode(".png", grey)[1].tobytes(),
        "TIFF, deflate": lambda: make.tiff(grey, compression="deflate"),
        "TIFF, zstd": lambda: make.tiff(grey, compression="zstd"),
        "TIFF, LZW": lambda: make.tiff(grey, compression="lzw"),
        "TIFF, PackBits": lambda: make.tiff(grey, compression="packbits"),
        "TIFF, uncompressed": lambda: make.tiff(grey),
        "BMP": lambda: make.bmp(grey),
        "JPEG, grey": lambda: make.jpeg(grey, level=90),
        "JPEG, colour": lambda: make.jpeg(colour, level=90),
        "JPEG, progressive": lambda: progressive,
        "JPEG, 12 bits": lambda: make.jpeg(deep, level=90, bitspersample=12),
        "JPEG, lossless": lambda: make.jpeg(deep, lossless=True, bitspersample=16),
        "DICOM, native": lambda: make.dicom(deep, bits=12),
        "DICOM, RLE": lambda: make.dicom(deep, uid.RLELossless, bits=12),
        "DICOM, JPEG-LS": lambda: make.dicom(deep, uid.JPEGLSLossless, bits=12),
        "DICOM, JPEG 2000": lambda: make.dicom(deep, uid.JPEG2000Lossless, bits=12),
    }
    return {name: build() for name, build in coded.items()}


def outcomes(data: bytes) -> Counter[str]:
    """What becomes of single flipped bits."""
    rng, found = random.Random(1), Counter[str]()
    (whole,) = decode(data, "frame", LIMITS)
    for _ in range(FLIPS):
        changed = bytearray(data)
        changed[rng.randrange(int(HEADER_SHARE * len(data)), len(data))] ^= 1 << rng.randrange(8)
        try:
            (picture,) = decode(bytes(changed), "frame", LIMITS)
        except EdgeError:
            found["refused"] += 1
        else:
            found["same" if np.array_equal(picture.pixels, whole.pixels) else "other"] += 1
    return found


def main() -> int:
    """0, or 1 where there is no frame."""
    frame = next(
        (seed for seed in real() if "magnetic_tile" in seed.name and seed.name.startswith("jpeg")), None
    )
    if frame is None:
        print("needs the research images (EDGE_DATA or ../shared/data)", file=sys.stderr)
        return 1
    grey = decode(frame.data, "frame", LIMITS)[0].pixels[:SIDE_PX, :SIDE_PX]
    rows = []
    for name, data in files(np.ascontiguousarray(grey)).items():
        found = outcomes(data)
        rows.append([name, *(f"{found[key] / FLIPS:.1%}" for key in ("refused", "same", "other"))])
    print(*table(["one bit flipped in", "refused", "same picture", "another picture"], rows), sep="\n")
    print(f"\n*{FLIPS} flips each · {frame.name} · {machine.describe()} · commit {machine.commit()}*")
    return 0


if __name__ == "__main__":
    sys.exit(main())
