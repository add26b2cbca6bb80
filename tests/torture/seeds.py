"""Whole files to damage: every variant that the tests build, what pydicom ships, and real frames if there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.data import get_testdata_file

from tests.decode.variants import all_variants

MOST_BYTES = 400_000  # of one seed: speed is what fuzzing lives on
A_FOLDER = 3  # real files of each suffix of each folder
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")
SHIPPED = (
    "CT_small.dcm", "MR_small_implicit.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm",
    "JPEG2000.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb_rle.dcm", "examples_palette.dcm", "JPEG-LL.dcm",
    "JPGExtended.dcm", "image_dfl.dcm", "examples_overlay.dcm", "MR_small_bigendian.dcm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seed:
    name: str
    data: bytes

    @property
    def file_name(self) -> str:
        """What the decoder is told: DICOM without its preamble is known by the suffix only."""
        return "frame.dcm" if self.name.startswith("dicom") else "frame.png"


def built() -> list[Seed]:
    """One of every format and variant."""
    return [Seed(variant.name, variant.build()) for variant in all_variants()]


def shipped() -> Iterator[Seed]:
    """Files of scanners that pydicom brings along; those it does not bring are left out, never downloaded."""
    for name in SHIPPED:
        file = get_testdata_file(name, download=False)
        if file is not None and (data := Path(str(file)).read_bytes()) and len(data) <= MOST_BYTES:
            yield Seed(f"dicom-{name}", data)


def real() -> Iterator[Seed]:
    """A few small frames of each research folder; nothing where the images are missing."""
    root = Path(os.environ.get("EDGE_DATA") or Path(__file__).parents[2].parent / "shared/data")
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        taken: dict[str, int] = {}
        for file in sorted(folder.rglob("*")):
            suffix = file.suffix.lower()
            if suffix not in SUFFIXES or taken.get(suffix, 0) >= A_FOLDER or file.stat().st_size > MOST_BYTES:
                continue
            taken[suffix] = taken.get(suffix, 0) + 1
            kind = {".dcm": "dicom", ".jpg": "jpeg", ".tif": "tiff"}.get(suffix, suffix[1:])
            yield Seed(f"{kind}-{folder.name}-{file.name}", file.read_bytes())


def all_seeds() -> list[Seed]:
    return [*built(), *shipped(), *real()]
