from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from edge.decode import Limits, decode
from edge.errors import DataError, IncompleteError
from edge.types import Picture
from tests.decode import builders as make

LIMITS = Limits(max_pixels=10_000_000, max_pages=64)


def read(data: bytes, name: str = "frame") -> Picture:
    return decode(data, name, LIMITS)[0]


def item(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("elements", "low", "high"),
    [
        ({}, 0, 4095),
        ({"WindowCenter": 2048, "WindowWidth": 4096}, 0, 4095),
        ({"WindowCenter": 100, "WindowWidth": 50}, 75, 124),
        ({"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "LINEAR_EXACT"}, 75, 125),
        ({"WindowCenter": [100, 900], "WindowWidth": [50, 10]}, 75, 124),
        ({"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "SIGMOID"}, 0, 4095),
        ({"WindowCenter": 100, "WindowWidth": 1}, 0, 4095),
        ({"WindowCenter": 100, "WindowWidth": 50, "PhotometricInterpretation": "MONOCHROME1"}, 124, 75),
        (
            {"WindowCenter": 0, "WindowWidth": 101, "RescaleSlope": 2, "RescaleIntercept": -1000},
            474.75,
            524.75,
        ),
        ({"WindowCenter": 0.5, "WindowWidth": 101, "RescaleSlope": -1, "RescaleIntercept": 100}, 150, 50),
        ({"RescaleSlope": -2, "RescaleIntercept": 10}, 4095, 0),
        ({"RescaleSlope": -2, "RescaleIntercept": 10, "PhotometricInterpretation": "MONOCHROME1"}, 0, 4095),
    ],
)
def test_declared_range_is_in_stored_values(elements: dict[str, Any], low: float, high: float) -> None:
    pixels = make.grey(12)
    picture = read(make.dicom(pixels, bits=12, **elements))
    assert (picture.low, picture.high) == (low, high)
    assert np.array_equal(picture.pixels, pixels)


def test_slope_of_zero_is_refused() -> None:
    with pytest.raises(DataError, match="RescaleSlope is 0"):
        read(make.dicom(make.grey(), RescaleSlope=0, RescaleIntercept=0))


def test_frames_of_an_enhanced_image_have_their_own_windows() -> None:
    def group(center: float) -> Dataset:
        window = item(WindowCenter=center, WindowWidth=11)
        return item(FrameVOILUTSequence=Sequence([window]))

    shared = item(
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=2, RescaleIntercept=0)]),
        FrameVOILUTSequence=Sequence([item(WindowCenter=1, WindowWidth=2)]),
    )
    frames = [make.grey(12), make.grey(12, seed=1)]
    pictures = decode(
        make.dicom(
            frames,
            bits=12,
            SharedFunctionalGroupsSequence=Sequence([shared]),
            PerFrameFunctionalGroupsSequence=Sequence([group(100.5), group(200.5)]),
        ),
        "frame",
        LIMITS,
    )
    assert [(picture.low, picture.high) for picture in pictures] == [(47.5, 52.5), (97.5, 102.5)]


def test_modality_table_is_applied() -> None:
    table = np.linspace(0, 1023, 256).astype(np.uint16)[::-1]
    lut = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US", LUTData=table.tolist())
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    pixels = make.grey()
    picture = read(
        make.dicom(pixels, ModalityLUTSequence=Sequence([lut]), WindowCenter=512, WindowWidth=1024)
    )
    assert np.array_equal(picture.pixels, table[pixels])
    assert (picture.bits, picture.low, picture.high) == (16, 0, 1023)


def test_palette_is_applied() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    elements: dict[str, Any] = {}
    for name, values in zip(("Red", "Green", "Blue"), colours, strict=True):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"{name}PaletteColorLookupTableData"] = values.astype("<u2").tobytes()
    indices = make.grey()
    data = make.dicom(indices, uid.ImplicitVRLittleEndian, photometric="PALETTE COLOR", **elements)
    picture = read(data)
    assert np.array_equal(picture.pixels, np.moveaxis(colours[:, indices], 0, -1))
    assert (picture.bits, picture.low, picture.high) == (16, 0, 65535)


def test_ybr_becomes_rgb() -> None:
    ybr = np.full((8, 8, 3), (128, 128, 128), np.uint8)
    ybr[0, 0] = (76, 85, 255)  # red
    picture = read(make.dicom(ybr, photometric="YBR_FULL"))
    assert np.abs(picture.pixels[0, 0].astype(int) - (254, 0, 0)).max() <= 2
    assert (picture.pixels[4, 4] == 128).all()


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless])
@pytest.mark.parametrize("signed", [False, True])
def test_overlay_in_unused_bits_does_not_reach_the_pixels(syntax: uid.UID, signed: bool) -> None:
    pixels = make.grey(12, signed=signed)
    overlaid = (pixels.view(np.uint16) & 0x0FFF) | (make.grey(4, seed=3).astype(np.uint16) << 12)
    dataset_pixels = overlaid.view(pixels.dtype)
    # written as 16 bits, declared as 12
    data = make.dicom(dataset_pixels, syntax, bits=16, BitsStored=12, HighBit=11)
    picture = read(data)
    assert np.array_equal(picture.pixels, pixels)
    assert (picture.bits, picture.low) == (12, -2048 if signed else 0)


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
def test_data_set_without_preamble_is_told_by_its_suffix(syntax: uid.UID) -> None:
    pixels = make.grey(16)
    data = make.dicom(pixels, syntax, bits=16, preamble=False)
    assert np.array_equal(read(data, "frame.DCM").pixels, pixels)
    with pytest.raises(DataError) as caught:
        read(data, "frame.png")
    assert caught.value.reason == "unsupported_format"


def test_tiff_header_in_the_preamble_does_not_mislead() -> None:
    data = make.dicom(make.grey())
    assert np.array_equal(read(b"II*\0" + data[4:]).pixels, make.grey())


def test_file_meta_may_lack_the_transfer_syntax() -> None:
    data = make.dicom(make.grey(), uid.ExplicitVRLittleEndian)
    at = data.index(b"\x02\0\x10\0UI")
    length = 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    assert np.array_equal(read(data[:at] + data[at + length :]).pixels, make.grey())


def test_unsupported_transfer_syntax_is_named() -> None:
    dataset = make.image_dataset([make.grey()], bits=8)
    dataset.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    dataset.PixelData = encapsulate([b"\0\0\1\xb3" + bytes(100)])
    dataset["PixelData"].VR = "OB"
    with pytest.raises(DataError, match=r"1\.2\.840\.10008\.1\.2\.4\.100") as caught:
        read(make.written(dataset))
    assert caught.value.reason == "unsupported_transfer_syntax"


@pytest.mark.parametrize("pixel_data", [None, b""])
def test_object_without_pixels_is_refused(pixel_data: bytes | None) -> None:
    dataset = make.image_dataset([make.grey()], bits=8)
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    if pixel_data is not None:
        dataset.PixelData = pixel_data
        dataset["PixelData"].VR = "OB"
    with pytest.raises(DataError) as caught:
        read(make.written(dataset))
    assert caught.value.reason == "no_pixels"


@pytest.mark.parametrize("cut_before", [b"\x28\0\x10\0", b"\xe0\x7f\x10\0"])  # Rows, PixelData
def test_image_cut_between_elements_is_worth_another_try(cut_before: bytes) -> None:
    data = make.dicom(make.grey())
    with pytest.raises(DataError) as caught:
        read(data[: data.index(cut_before)])
    assert caught.value.reason == "no_pixels"
    assert caught.value.retryable == (cut_before == b"\xe0\x7f\x10\0")  # without Rows nobody can know


def test_less_pixel_data_than_the_header_says_is_refused() -> None:
    with pytest.raises(DataError, match="1924 bytes of pixel data, where 2964 are needed") as caught:
        read(make.dicom(make.grey(), Rows=57))
    assert caught.value.reason == "corrupt"


def test_fewer_coded_frames_than_the_header_says_are_refused() -> None:
    with pytest.raises(DataError):
        read(make.dicom([make.grey(), make.grey()], uid.RLELossless, NumberOfFrames=3))


@pytest.mark.parametrize(
    "syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGBaseline8Bit]
)
def test_coded_frame_of_another_size_is_refused_before_it_is_decoded(syntax: uid.UID) -> None:
    with pytest.raises(DataError, match="the coded frame has 52×37 pixels, the header says 52×36"):
        read(make.dicom(make.grey(), syntax, Rows=36))


def test_pixel_data_stored_otherwise_than_the_syntax_says_is_refused() -> None:
    data = make.dicom(make.grey(), uid.RLELossless)
    lying = data.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0")
    with pytest.raises(DataError, match="not stored as the transfer syntax says"):
        read(lying)


@pytest.mark.parametrize(
    ("bits", "elements"), [(8, {"HighBit": 6}), (8, {"BitsAllocated": 1, "BitsStored": 1})]
)
def test_odd_layouts_are_refused(bits: int, elements: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        read(make.dicom(make.grey(), bits=bits, **elements))
    assert caught.value.reason == "unsupported_format"


def test_tags_are_text_by_keyword() -> None:
    picture = read(
        make.dicom(
            make.grey(),
            PatientName="Bracket^17",
            InstanceNumber=5,
            ImageType=["DERIVED", "SECONDARY"],
            KVP="120.5",
            ImageComments="x" * 257,
            StudyDescription="",
            RequestAttributesSequence=Sequence([item(ScheduledProcedureStepID="1")]),
        )
    )
    expected = {
        "PatientID": "P000123",
        "ViewPosition": "07",
        "SeriesNumber": "3",
        "InstanceNumber": "5",
        "PatientName": "Bracket^17",
        "ImageType": "DERIVED\\SECONDARY",
        "KVP": "120.5",
        "Rows": "37",
    }
    assert {keyword: picture.tags.get(keyword) for keyword in expected} == expected
    assert not {"ImageComments", "StudyDescription", "PixelData", "RequestAttributesSequence"} & {
        *picture.tags
    }


def test_one_unreadable_tag_does_not_cost_the_frame() -> None:
    data = make.dicom(make.grey(), SeriesNumber=31, ReferencePixelX0=42)
    broken = data.replace(b"SL\x04\x00", b"FD\x04\x00")  # doubles have 8 bytes
    assert broken != data
    picture = read(broken)
    assert picture.tags["SeriesNumber"] == "31"
    assert "ReferencePixelX0" not in picture.tags


def test_bytes_after_the_pixel_data_do_not_matter() -> None:
    assert np.array_equal(read(make.dicom(make.grey()) + bytes(7)).pixels, make.grey())


@pytest.mark.parametrize(
    ("name", "shape", "bits"),
    [
        ("CT_small.dcm", (128, 128), 16),
        ("MR_small_padded.dcm", (64, 64), 16),
        ("MR_small_implicit.dcm", (64, 64), 16),
        ("SC_rgb_dcmtk_+eb+cy+s4.dcm", (100, 100, 3), 8),
        ("JPGExtended.dcm", (1024, 256), 12),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64), 16),
        ("examples_jpeg2k.dcm", (480, 640, 3), 8),
        ("image_dfl.dcm", (512, 512), 8),
        ("examples_overlay.dcm", (300, 484), 12),
    ],
)
def test_files_of_real_scanners_are_read(name: str, shape: tuple[int, ...], bits: int) -> None:
    file = get_testdata_file(name, download=False)
    with open(str(file), "rb") as stream:
        picture = read(stream.read())
    assert (picture.pixels.shape, picture.bits) == (shape, bits)
    assert len(np.unique(picture.pixels)) > 20


def test_real_file_that_was_cut_off_is_worth_another_try() -> None:
    with (
        open(str(get_testdata_file("MR_truncated.dcm", download=False)), "rb") as stream,
        pytest.raises(IncompleteError, match=r"\(7FE0,0010\) ends at byte"),
    ):
        read(stream.read())


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (16, True)])
def test_uncompressed_samples_are_not_copied(bits: int, signed: bool) -> None:
    frames = [make.grey(bits, signed=signed, seed=seed) for seed in range(2)]
    data = make.dicom(frames, bits=bits)
    for picture, frame in zip(decode(data, "frame", LIMITS), frames, strict=True):
        assert np.array_equal(picture.pixels, frame)
        assert np.shares_memory(picture.pixels, np.frombuffer(data, np.uint8))


def test_samples_of_unknown_sign_are_refused() -> None:
    data = make.dicom(make.grey(16), bits=16, PixelRepresentation=None)
    with pytest.raises(DataError) as caught:
        read(data)
    assert caught.value.reason == "unreadable"
