"""Stored values, polarity and declared ranges of every format."""

import io

import cv2
import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels import apply_voi_lut

from edge.errors import UsageError
from edge.simulate.formats import BITS, Encoding, encode, scaled
from edge.types import Identity

WHO = Identity(part="P7", view="03", batch="B17")
RAMP8 = np.arange(256, dtype=np.uint8).reshape(8, 32)
RAMP16 = (np.arange(512, dtype=np.uint16) * 128).reshape(16, 32)


def decoded(data: bytes, encoding: Encoding) -> np.ndarray:
    if encoding.format == "tiff":
        return np.asarray(tifffile.imread(io.BytesIO(data)))
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize(
    ("kind", "bits"), [(kind, bits) for kind in ("png", "tiff", "bmp") for bits in BITS[kind]]
)
def test_lossless_formats_keep_every_stored_value(kind: str, bits: int) -> None:
    encoding = Encoding(kind, bits)  # type: ignore[arg-type]
    for pixels in (RAMP8, RAMP16):
        assert np.array_equal(decoded(encode(pixels, encoding, WHO), encoding), scaled(pixels, encoding))


def test_jpeg_is_close() -> None:
    encoding = Encoding("jpg")
    smooth = np.tile(np.arange(0, 256, 4, np.uint8), (64, 1))
    assert np.abs(decoded(encode(smooth, encoding, WHO), encoding) - smooth.astype(int)).max() <= 4


def test_colour_keeps_its_channels_in_order() -> None:
    colour = np.zeros((4, 6, 3), np.uint8)
    colour[...] = (200, 100, 50)  # RGB
    assert tuple(decoded(encode(colour, Encoding("png"), WHO), Encoding("png"))[0, 0]) == (
        50,
        100,
        200,
    )  # BGR
    assert tuple(decoded(encode(colour, Encoding("tiff"), WHO), Encoding("tiff"))[0, 0]) == (200, 100, 50)


def test_a_small_share_of_the_scale_keeps_8_bit_levels_apart() -> None:
    stored = scaled(RAMP8, Encoding("png", 16, full_scale=0.01))
    assert stored.max() == 655
    assert len(np.unique(stored)) == 256


@given(
    bits=st.sampled_from(BITS["dicom"]),
    dark=st.booleans(),
    full_scale=st.sampled_from([1.0, 0.25]),
    window=st.booleans(),
)
def test_dicom_shows_the_same_grey_whatever_the_polarity(
    bits: int, dark: bool, full_scale: float, window: bool
) -> None:
    """Displayed as PS3.3 says (window, then MONOCHROME1 inverted), white is white and black is black."""
    photometric = "MONOCHROME1" if dark else "MONOCHROME2"
    encoding = Encoding("dicom", bits, photometric, full_scale, window)  # type: ignore[arg-type]
    data = pydicom.dcmread(io.BytesIO(encode(RAMP16, encoding, WHO)))
    shown = data.pixel_array.astype(np.float64)
    if "WindowCenter" in data:
        shown = apply_voi_lut(data.pixel_array, data).astype(np.float64)
    shown /= 2**bits - 1
    if dark:
        shown = 1 - shown
    assert data.PhotometricInterpretation == photometric
    assert ("WindowCenter" in data) == (window or full_scale < 1)
    assert np.abs(shown - RAMP16 / 65535).max() <= 1.1 / encoding.white


def test_dicom_tags_carry_part_view_and_batch() -> None:
    data = pydicom.dcmread(io.BytesIO(encode(RAMP8, Encoding("dicom", 12), WHO)))
    assert (data.PatientID, data.ViewPosition, data.SeriesDescription, data.StudyID) == (
        "P7",
        "03",
        "B17",
        "B17",
    )
    assert (data.BitsAllocated, data.BitsStored, data.HighBit) == (16, 12, 11)


def test_the_same_frame_has_the_same_bytes() -> None:
    assert encode(RAMP16, Encoding("dicom", 16), WHO) == encode(RAMP16, Encoding("dicom", 16), WHO)


def test_tiff_declares_the_range_it_uses() -> None:
    data = encode(RAMP16, Encoding("tiff", 16, full_scale=0.01), WHO)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].tags["MaxSampleValue"].value == 655


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "gif"},
        {"format": "jpg", "bits": 16},
        {"format": "png", "bits": 12},
        {"photometric": "MONOCHROME1"},
        {"photometric": "RGB", "format": "dicom"},
        {"full_scale": 0.0},
        {"full_scale": 1.5},
        {"full_scale": 0.01, "bits": 8},
    ],
)
def test_what_no_file_can_hold_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Encoding(**wrong)  # type: ignore[arg-type]


def test_a_view_that_dicom_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="DICOM tags cannot hold"):
        encode(RAMP8, Encoding("dicom", 8), Identity(part="P", view="über-links", batch="B"))
