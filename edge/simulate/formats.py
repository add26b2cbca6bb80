"""Pixels → the bytes of a file, as scanners store them: format, bit depth, polarity, share of the scale."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import UsageError
from edge.types import Identity

Format = Literal["png", "tiff", "jpg", "bmp", "dicom"]
Photometric = Literal["MONOCHROME1", "MONOCHROME2"]
Pixels = NDArray[np.uint8 | np.uint16]  # (h, w) or (h, w, 3) RGB

SUFFIXES: dict[Format, str] = {
    "png": ".png",
    "tiff": ".tif",
    "jpg": ".jpg",
    "bmp": ".bmp",
    "dicom": ".dcm",
}
BITS: dict[Format, tuple[int, ...]] = {
    "png": (8, 16),
    "tiff": (8, 16),
    "jpg": (8,),
    "bmp": (8,),
    "dicom": (8, 10, 12, 14, 16),
}
JPEG_QUALITY = 95
MIN_LEVELS = 32  # fewer grey levels than this are no picture any more


@dataclass(frozen=True, slots=True)
class Encoding:
    """How frames are stored.

    `full_scale` is the share of the stored range that white uses: 0.01 in 16 bits puts white at 655. Where it
    is below 1 the file declares its range if the format can (TIFF MaxSampleValue, DICOM window); in PNG it
    cannot, so the source needs `value_range = [0, white]`.

    Raises:
        UsageError: a combination that no file can hold.
    """

    format: Format = "png"
    bits: int = 8
    photometric: Photometric = "MONOCHROME2"
    full_scale: float = 1.0
    window: bool = False  # DICOM: write a window although the whole scale is used

    def __post_init__(self) -> None:
        if self.format not in SUFFIXES:
            raise UsageError(f"no format {self.format!r}", hint=f"choose one of {', '.join(SUFFIXES)}")
        if self.bits not in BITS[self.format]:
            depths = ", ".join(map(str, BITS[self.format]))
            raise UsageError(f"{self.format} does not hold {self.bits} bits", hint=f"choose from: {depths}")
        if self.photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise UsageError(
                f"no photometric interpretation {self.photometric!r}",
                hint="choose MONOCHROME1 or MONOCHROME2",
            )
        if self.photometric == "MONOCHROME1" and self.format != "dicom":
            raise UsageError(f"MONOCHROME1 is not for {self.format}", hint="add --format dicom")
        if not 0 < self.full_scale <= 1:
            raise UsageError(f"a full scale of {self.full_scale} is not a share", hint="more than 0, up to 1")
        if self.white < MIN_LEVELS:
            raise UsageError(
                f"{self.full_scale:g} of {self.bits} bits leaves {self.white + 1} grey levels",
                hint="use more bits or more of the scale",
            )

    @property
    def suffix(self) -> str:
        return SUFFIXES[self.format]

    @property
    def white(self) -> int:
        """The stored value of white (of black, in MONOCHROME1 with a window)."""
        return round(((1 << self.bits) - 1) * self.full_scale)


def encode(pixels: Pixels, encoding: Encoding, identity: Identity) -> bytes:
    """The bytes of one frame.

    Args:
        pixels: (h, w) or (h, w, 3) RGB; uint8 or uint16 that use their whole scale.
        encoding: how to store them; DICOM turns colour to grey (Rec. 601).
        identity: goes into the DICOM tags; other formats carry it in their name only.

    Raises:
        UsageError: the identity does not fit the DICOM tags.
    """
    if encoding.format == "dicom":
        return _dicom(scaled(_grey(pixels), encoding), encoding, identity)
    stored = scaled(pixels, encoding)
    if encoding.format == "tiff":
        return _tiff(stored, encoding)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if encoding.format == "jpg" else []
    done, data = cv2.imencode(encoding.suffix, _bgr(stored), parameters)
    if not done:
        raise UsageError(f"OpenCV cannot write {stored.dtype} {stored.shape} as {encoding.format}")
    return data.tobytes()


def scaled(pixels: Pixels, encoding: Encoding) -> Pixels:
    """Stored values: 0..white, from the declared scale of the pixels (never from their own extremes)."""
    factor = encoding.white / np.iinfo(pixels.dtype).max
    values = np.rint(pixels.astype(np.float64) * factor)
    return values.astype(np.uint8) if encoding.bits == 8 else values.astype(np.uint16)


def _grey(pixels: Pixels) -> Pixels:
    return pixels if pixels.ndim == 2 else cast("Pixels", cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def _bgr(pixels: Pixels) -> Pixels:
    return pixels if pixels.ndim == 2 else cast("Pixels", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def _tiff(stored: Pixels, encoding: Encoding) -> bytes:
    import tifffile

    limits: list[tuple[int, str, int, int, bool]] = []
    if encoding.full_scale < 1:  # MinSampleValue, MaxSampleValue; TIFF 6.0, section 8
        limits = [(280, "H", 1, 0, True), (281, "H", 1, encoding.white, True)]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        stored,
        photometric="minisblack" if stored.ndim == 2 else "rgb",
        compression="adobe_deflate",
        metadata=None,
        extratags=limits,
    )
    return buffer.getvalue()


def _dicom(stored: Pixels, encoding: Encoding, identity: Identity) -> bytes:
    """A Secondary Capture object, explicit little endian, uncompressed (PS3.3, A.8)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    windowed = encoding.window or encoding.full_scale < 1
    if encoding.photometric == "MONOCHROME1":
        # without a window a reader takes the top of the bit depth for black
        black = encoding.white if windowed else 2**encoding.bits - 1
        stored = (black - stored.astype(np.int32)).astype(np.uint8 if encoding.bits == 8 else np.uint16)
    names = [identity.batch or "", identity.part or "", identity.view or ""]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.StudyInstanceUID = generate_uid(entropy_srcs=["study", names[0]])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=["series", *names[:2]])
    data.SOPInstanceUID = generate_uid(entropy_srcs=["frame", *names])
    data.Modality = "OT"
    data.ConversionType = "DI"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # pydicom warns of values that a tag cannot hold
        try:
            _name(data, identity)
        except (UserWarning, ValueError) as error:
            raise UsageError(
                f"DICOM tags cannot hold part {names[1]!r}, view {names[2]!r}, batch {names[0]!r}: {error}",
                hint="parts and batches of up to 64 characters, views of up to 16 of A-Z, 0-9, blank and _",
            ) from None
    _describe(data, stored, encoding)
    if windowed:
        # PS3.3 C.11.2.1.2: the lowest value shown is centre - 0.5 - (width - 1) / 2
        data.WindowCenter, data.WindowWidth = encoding.white / 2 + 0.5, encoding.white + 1
    buffer = io.BytesIO()
    dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _name(data: Any, identity: Identity) -> None:
    data.PatientID = identity.part or ""
    data.PatientName = ""
    data.SeriesDescription = identity.batch or ""
    if identity.batch and len(identity.batch) <= 16:  # a short string; the description has it all
        data.StudyID = identity.batch
    data.ViewPosition = (identity.view or "").upper()  # a code string knows no small letters


def _describe(data: Any, stored: Pixels, encoding: Encoding) -> None:
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = encoding.photometric
    data.BitsAllocated = 8 if encoding.bits == 8 else 16
    data.BitsStored, data.HighBit = encoding.bits, encoding.bits - 1
    data.PixelRepresentation = 0
    data.set_pixel_data(stored, encoding.photometric, encoding.bits, generate_instance_uid=False)
