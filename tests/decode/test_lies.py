"""Headers that lie, copies that are not whole, and how much of that each format lets us know."""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from edge.decode import Limits, decode, dicom_stream
from edge.errors import DataError, EdgeError, IncompleteError
from edge.pipeline import PrepareJob, prepare_file
from edge.preprocess import PreprocessSpec
from tests.decode import builders as make
from tests.decode.test_tiff import with_field
from tests.decode.variants import Variant, all_variants

LIMITS = Limits(max_pixels=10_000_000, max_pages=64)
SOON_S = 5.0  # on a busy machine; what it guards against takes minutes
VARIANTS = {variant.name: variant for variant in all_variants()}
PIXEL_DATA = b"\xe0\x7f\x10\0"


def refused(data: bytes, name: str = "frame.dcm") -> DataError:
    started_s = time.monotonic()
    with pytest.raises(DataError) as caught:
        decode(data, name, LIMITS)
    assert time.monotonic() - started_s < SOON_S
    return caught.value


def with_element(data: bytes, element: bytes, before: bytes = PIXEL_DATA) -> bytes:
    at = data.index(before)
    return data[:at] + element + data[at:]


# copies


def cannot_tell(variant: Variant) -> bool:
    """Formats that store pixels plainly, so that zeros are pixels like any other."""
    kind, _, how = variant.name.partition("-")
    coded = ("lzw", "deflate", "zstd", "packbits", "jpeg", "pages")
    plain_tiff = kind == "tiff" and not how.startswith(coded)
    native = any(syntax.keyword in variant.name for syntax in make.NATIVE)  # noise is not deflated but stored
    return variant.name.startswith("bmp") or plain_tiff or native


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_copy_whose_second_half_is_zeros_is_a_picture_only_where_nobody_can_tell(variant: Variant) -> None:
    whole = variant.build()
    half = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    try:
        pictures = decode(half, "frame.dcm", LIMITS)
    except EdgeError:
        if "Deflated" not in variant.name:  # of these some can be told
            assert not cannot_tell(variant)
    else:
        assert cannot_tell(variant)
        assert len(pictures) == variant.pages


def holes_are_told(folder: Path) -> bool:
    probe = folder / "probe"
    probe.write_bytes(b"x")
    os.truncate(probe, 2**20)
    with probe.open("rb") as stream:
        return os.lseek(stream.fileno(), 0, os.SEEK_HOLE) < 2**20


@pytest.mark.parametrize("build", [make.tiff, make.bmp, make.dicom], ids=["tiff", "bmp", "dicom"])
def test_a_copy_whose_space_was_reserved_first_waits_until_it_is_filled(tmp_path: Path, build: Any) -> None:
    if not holes_are_told(tmp_path):
        assert os.environ.get("EDGE_REQUIRE_ALL") != "1", "needs a file system that tells of holes"
        pytest.skip("this file system does not tell of holes")
    whole = build(make.grey(height=700, width=900))
    file = tmp_path / "frame.dcm"
    file.write_bytes(whole[: len(whole) // 2])
    os.truncate(file, len(whole))
    job = PrepareJob(file, file.name, None, PreprocessSpec(), LIMITS, holes="refuse")
    with pytest.raises(IncompleteError) as caught:
        prepare_file(job)
    assert (caught.value.reason, caught.value.retryable) == ("has_holes", True)
    with file.open("r+b") as stream:
        stream.seek(len(whole) // 2)
        stream.write(whole[len(whole) // 2 :])
    (frame,) = prepare_file(job)
    assert np.array_equal(np.rint(frame.plane * 255), make.grey(height=700, width=900))


@pytest.mark.parametrize(
    ("holes", "where", "complete"),
    [
        ("auto", "end", False),
        ("auto", "middle", True),
        ("refuse", "middle", False),
        ("accept", "end", True),
    ],
)
def test_by_default_only_an_end_that_was_never_written_counts(
    tmp_path: Path, holes: Any, where: str, complete: bool
) -> None:
    if not holes_are_told(tmp_path):
        assert os.environ.get("EDGE_REQUIRE_ALL") != "1", "needs a file system that tells of holes"
        pytest.skip("this file system does not tell of holes")
    whole = make.tiff(make.grey(height=700, width=900))
    file, block = tmp_path / "frame.tif", 2**16
    file.write_bytes(whole[:block])
    os.truncate(file, len(whole))
    if where == "middle":  # as `cp --sparse` leaves a black stripe
        with file.open("r+b") as stream:
            stream.seek(2 * block)
            stream.write(whole[2 * block :])
    job = PrepareJob(file, file.name, None, PreprocessSpec(), LIMITS, holes=holes)
    if complete:
        assert len(prepare_file(job)) == 1
    else:
        with pytest.raises(IncompleteError, match="never written"):
            prepare_file(job)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["png-grey8", "jpeg-grey8", "bmp-grey8", "tiff-grey8", "tiff-deflate", "dicom-RLELossless_u8_MONOCHROME2",
     "dicom-ExplicitVRLittleEndian_u8_MONOCHROME2"],
)  # fmt: skip
def test_a_file_cut_at_any_byte_is_never_a_picture(name: str) -> None:
    whole = VARIANTS[name].build()
    for cut in range(len(whole)):
        with pytest.raises(DataError) as caught:
            decode(whole[:cut], "frame.dcm", LIMITS)
        assert caught.value.reason in ("truncated", "no_pixels"), cut


# DICOM


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_fewer_rows_than_are_stored_are_refused(syntax: uid.UID) -> None:
    error = refused(make.dicom(make.grey(), syntax, Rows=20))
    assert error.reason in ("corrupt", "unreadable")


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLosslessSV1])
def test_frames_that_the_header_does_not_count_are_refused(syntax: uid.UID) -> None:
    data = make.dicom([make.grey(seed=1), make.grey(seed=2)], syntax, NumberOfFrames=1)
    error = refused(data)
    assert error.reason == "corrupt"
    assert "3848 bytes of pixel data" in error.message or "2 frames are stored" in error.message


def test_padding_behind_the_pixels_is_none_of_them() -> None:
    dataset = make.image_dataset([make.grey()], bits=8)
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.PixelData = make.grey().tobytes() + bytes(512)
    dataset["PixelData"].VR = "OB"
    assert np.array_equal(decode(make.written(dataset), "frame", LIMITS)[0].pixels, make.grey())


@pytest.mark.parametrize("length", [0, 1, 3, 255, 4097, 65535])
@pytest.mark.parametrize("wide", [False, True])
def test_no_wrong_length_of_any_element_makes_another_picture(length: int, wide: bool) -> None:
    pixels = make.grey()
    data = make.dicom(pixels, PatientName="Bracket", InstanceNumber=5)
    stream = dicom_stream.open_stream(data, len(data))
    elements = [one for one in stream.elements() if (one.vr in dicom_stream._LONG_VRS) == wide]
    assert elements
    for element in elements:
        layout = "<I" if wide else "<H"
        at = element.start - struct.calcsize(layout)
        lying = data[:at] + struct.pack(layout, length) + data[element.start :]
        try:
            (picture,) = decode(lying, "frame.dcm", LIMITS)
        except EdgeError:
            continue
        assert np.array_equal(picture.pixels, pixels)


@pytest.mark.parametrize("vr", [b"ZZ", b"\0\0", b"SQ", b"UN", b"FD", b"??", b"ox"])
def test_no_odd_vr_of_any_element_makes_another_picture(vr: bytes) -> None:
    pixels = make.grey()
    data = make.dicom(pixels, PatientName="Bracket", InstanceNumber=5)
    stream = dicom_stream.open_stream(data, len(data))
    for element in stream.elements():
        at = element.start - (12 if element.vr in dicom_stream._LONG_VRS else 8) + 4
        try:
            (picture,) = decode(data[:at] + vr + data[at + 2 :], "frame.dcm", LIMITS)
        except EdgeError:
            continue
        assert np.array_equal(picture.pixels, pixels)


OPENED = b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
CLOSED = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.mark.parametrize(
    "inner", [OPENED * 10_000, OPENED * 10_000 + CLOSED * 10_000], ids=["open", "closed"]
)
def test_sequences_nested_ten_thousand_deep_are_refused(inner: bytes) -> None:
    error = refused(with_element(make.dicom(make.grey()), inner))
    assert error.reason == "corrupt"
    assert "nested deeper" in error.message


@pytest.mark.parametrize("tag", [b"\x40\0\x75\x02", b"\0\x52\x29\x92"], ids=["unused", "functional groups"])
@pytest.mark.parametrize("defined", [False, True])
def test_sequences_nested_within_a_length_cost_the_frame_at_most(tag: bytes, defined: bool) -> None:
    """Their depth is not walked; what reads them may give up, but must come back."""
    nested = b""
    if defined:
        for _ in range(5_000):
            inside = b"\x40\0\x75\x02SQ\0\0" + struct.pack("<I", len(nested)) + nested if nested else b""
            nested = b"\xfe\xff\0\xe0" + struct.pack("<I", len(inside)) + inside
    else:
        inside = OPENED * 5_000 + CLOSED * 5_000
        nested = b"\xfe\xff\0\xe0" + struct.pack("<I", len(inside)) + inside
    element = tag + b"SQ\0\0" + struct.pack("<I", len(nested)) + nested
    started_s = time.monotonic()
    said = ""
    try:
        (picture,) = decode(with_element(make.dicom(make.grey()), element), "frame", LIMITS)
    except DataError as error:
        said = error.reason
    assert said == "unreadable" or np.array_equal(picture.pixels, make.grey())
    assert time.monotonic() - started_s < SOON_S


def test_a_sequence_of_undefined_length_is_walked_to_its_end() -> None:
    data = with_element(make.dicom(make.grey()), OPENED + CLOSED)
    assert np.array_equal(decode(data, "frame", LIMITS)[0].pixels, make.grey())


def test_millions_of_elements_are_not_all_read() -> None:
    data = with_element(make.dicom(make.grey()), b"\x09\0\x10\0LO\0\0" * 1_000_000, b"\x28\0\x02\0")
    assert "more than 100000 elements" in refused(data).message


def test_floating_point_pixel_data_is_no_picture() -> None:
    dataset = make.image_dataset([make.grey()], bits=8)
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.BitsAllocated = 32
    dataset.FloatPixelData = np.full((37, 52), np.nan, np.float32).tobytes()
    assert refused(make.written(dataset)).reason == "no_pixels"


def test_an_unknown_transfer_syntax_is_named() -> None:
    data = make.dicom(make.grey(), uid.RLELossless)
    lying = data.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.99999.1.2.5\0")
    assert refused(lying).reason == "unsupported_transfer_syntax"


def test_a_window_that_no_pixel_can_be_scaled_by_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "frame.dcm"
    file.write_bytes(make.dicom(make.grey(), WindowCenter="7", WindowWidth="1e300"))
    with pytest.raises(DataError) as caught:
        prepare_file(PrepareJob(file, file.name, None, PreprocessSpec(), LIMITS))
    assert caught.value.reason == "range_unusable"


def test_sequences_nested_as_deep_as_scanners_do_are_read() -> None:
    dataset = Dataset()
    dataset.ScheduledProcedureStepID = "1"
    for _ in range(20):
        outer = Dataset()
        outer.RequestAttributesSequence = Sequence([dataset])
        dataset = outer
    data = make.dicom(make.grey(), RequestAttributesSequence=Sequence([dataset]))
    assert len(decode(data, "frame", LIMITS)) == 1


# TIFF


def test_a_tiff_with_fewer_rows_than_are_stored_is_refused() -> None:
    data = with_field(make.tiff(make.grey()), 257, 20)
    assert "1924 bytes of pixels, where 1040 are needed" in refused(data).message


def test_strips_that_lie_over_each_other_are_refused() -> None:
    """Else a small file would have the same bytes searched and decoded again and again."""
    data = make.tiff(make.grey(height=1000, width=8), compression="jpeg", rowsperstrip=8)
    (at,) = struct.unpack_from("<I", data, 4)
    lying = bytearray(data + bytes(2000))
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
        tag, kind, count, values = struct.unpack_from("<HHII", data, entry)
        if tag in (273, 279):  # 125 strips, each of them the whole file
            value = 8 if tag == 273 else len(data)
            layout = f"<{count}{'H' if kind == 3 else 'I'}"
            struct.pack_into(layout, lying, values, *[value] * count)
    assert "lie over each other" in refused(bytes(lying)).message


def test_a_loop_over_several_directories_is_refused() -> None:
    data = bytearray(make.tiff(*[make.grey(seed=n) for n in range(3)]))
    at = first = struct.unpack_from("<I", data, 4)[0]
    while at:
        last = at + 2 + 12 * struct.unpack_from("<H", data, at)[0]
        (at,) = struct.unpack_from("<I", data, last)
    data[last : last + 4] = struct.pack("<I", first)
    assert "comes twice" in refused(bytes(data)).message


def test_ten_thousand_pages_are_refused() -> None:
    error = refused(make.tiff(*[make.grey(height=8, width=8)] * 10_000))
    assert error.reason == "too_large"


def test_a_directory_of_sixty_thousand_entries_is_refused() -> None:
    data = make.tiff(make.grey())
    (at,) = struct.unpack_from("<I", data, 4)
    lying = data[:at] + struct.pack("<H", 60_000) + data[at + 2 :] + bytes(720_000)
    assert refused(lying).reason == "corrupt"


def test_a_strip_that_inflates_to_far_more_than_the_page_is_refused() -> None:
    deflated = zlib.compress(bytes(500_000_000))
    data = make.tiff(make.grey(), compression="deflate", rowsperstrip=37)
    bomb = with_field(with_field(data + deflated, 273, len(data)), 279, len(deflated))
    assert refused(bomb).reason == "unreadable"


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [(np.full((8, 8), 1e300), "pixels_not_finite"), (np.full((8, 8), np.nan), "not_finite")],
)
def test_numbers_that_float32_cannot_hold_are_refused(
    tmp_path: Path, pixels: np.ndarray, reason: str
) -> None:
    file = tmp_path / "frame.tif"
    file.write_bytes(make.tiff(pixels))
    with pytest.raises(DataError) as caught:
        prepare_file(PrepareJob(file, file.name, None, PreprocessSpec(), LIMITS))
    assert caught.value.reason == reason


@pytest.mark.parametrize("value_range", [(0.0, 1e300), (-1e300, 1e300), (0.0, 1e-300)])
def test_a_configured_range_that_no_pixel_can_be_scaled_by_is_refused(
    tmp_path: Path, value_range: tuple[float, float]
) -> None:
    file = tmp_path / "frame.tif"
    file.write_bytes(make.tiff(make.grey()))
    with pytest.raises(DataError) as caught:
        prepare_file(PrepareJob(file, file.name, None, PreprocessSpec(), LIMITS, value_range))
    assert caught.value.reason == "range_unusable"


# JPEG, BMP, PNG


@pytest.mark.parametrize("height", [8, 40, 72, 640])
def test_a_jpeg_with_other_rows_than_are_coded_is_refused(height: int) -> None:
    data = bytearray(make.jpeg(make.grey(height=64, width=80)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 2] = struct.pack(">H", height)
    assert refused(bytes(data)).reason == "corrupt"


@pytest.mark.parametrize("end", [b"", b"\0", b"\xff\xd9"])
def test_a_scan_of_nothing_but_fill_bytes_is_walked_once(end: bytes) -> None:
    data = make.jpeg(make.smooth())
    scan = data.index(b"\xff\xda") + 20
    assert refused(data[:scan] + b"\xff" * 4_000_000 + end).reason in ("truncated", "corrupt")


def test_a_jpeg_of_a_million_segments_is_not_walked_to_its_end() -> None:
    data = make.jpeg(make.smooth())
    error = refused(data[:2] + b"\xff\xe0\0\x02" * 1_000_000 + data[2:])
    assert "more than 100000 segments" in error.message


@pytest.mark.parametrize("height", [38, -38, 2**31 - 1, -(2**31)])
def test_a_bmp_with_more_rows_than_are_stored_is_no_picture(height: int) -> None:
    data = bytearray(make.bmp(make.grey()))
    data[22:26] = struct.pack("<i", height)
    assert refused(bytes(data)).reason in ("truncated", "too_large")


@pytest.mark.parametrize(("depth", "colour"), [(3, 0), (16, 3), (1, 2), (8, 5), (0, 0)])
def test_a_png_of_no_valid_depth_never_reaches_libpng(
    depth: int, colour: int, capfd: pytest.CaptureFixture[str]
) -> None:
    header = struct.pack(">IIBBBBB", 52, 37, depth, colour, 0, 0, 0)
    data = make.png(make.grey())
    lying = data[:8] + make.png_chunk(b"IHDR", header) + data[33:]
    assert refused(lying).reason == "corrupt"
    assert capfd.readouterr() == ("", "")


def test_no_ancillary_chunk_reaches_libpng(monkeypatch: pytest.MonkeyPatch) -> None:
    import imagecodecs

    really, given = imagecodecs.png_decode, []
    monkeypatch.setattr(
        imagecodecs, "png_decode", lambda data, out: given.append(data) or really(data, out=out)
    )
    extra = make.png_chunk(b"gAMA", b"") + make.png_chunk(b"iCCP", b"x\0\0" + bytes(40))
    extra += make.png_chunk(b"tIME", bytes(7)) + make.png_chunk(b"bKGD", b"\xff" * 6)
    pixels = make.grey(4)  # of a depth that libpng reads
    picture = decode(make.png(pixels, bits=4, extra=extra), "frame", LIMITS)[0]
    assert np.array_equal(picture.pixels, pixels)
    assert given == [make.png(pixels, bits=4)]


def test_a_png_with_fewer_rows_than_are_stored_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    lying = make.png(make.grey())[:33] + make.png(make.grey(height=40))[33:]
    error = refused(lying)
    assert (error.reason, "Too much image data" in error.message) == ("corrupt", True)
    assert caplog.records == []  # what libraries log about a file stays among them


def test_a_png_whose_rows_do_not_have_their_own_checksum_is_refused() -> None:
    whole = make.png(make.grey())
    at = whole.index(b"IDAT")
    (length,) = struct.unpack_from(">I", whole, at - 4)
    content = bytearray(whole[at + 4 : at + 4 + length])
    content[-1] ^= 1  # of the Adler-32 at the end of the zlib stream; the chunk's own checksum is right
    lying = whole[: at - 4] + make.png_chunk(b"IDAT", bytes(content)) + whole[at + 8 + length :]
    assert refused(lying).reason in ("corrupt", "unreadable")


def test_a_png_that_libpng_gives_up_on_leaves_nothing_in_memory() -> None:
    pixels = make.grey(height=2000, width=2000)
    whole = make.png(pixels)
    too_few = make.png_chunk(b"IDAT", zlib.compress(bytes(2001 * 1000)))
    lying = whole[: whole.index(b"IDAT") - 4] + too_few + make.png_chunk(b"IEND", b"")
    refused(lying)
    before_bytes = resident_bytes()
    for _ in range(50):
        refused(lying)
    assert resident_bytes() - before_bytes < 10 * pixels.nbytes


def resident_bytes() -> int:
    """Of this process, as the kernel counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_decoding_a_png_leaves_the_logger_as_it_was() -> None:
    import logging

    logger = logging.getLogger("imagecodecs")
    before = logger.disabled, logger.propagate, logger.level, list(logger.handlers)
    decode(make.png(make.grey()), "frame", LIMITS)
    assert (logger.disabled, logger.propagate, logger.level, list(logger.handlers)) == before


def test_the_picture_that_is_lied_about_is_read_where_the_header_is_true() -> None:
    for data in (
        make.tiff(make.grey()),
        make.dicom(make.grey()),
        make.bmp(make.grey()),
        make.png(make.grey()),
    ):
        assert np.array_equal(decode(data, "frame", LIMITS)[0].pixels, make.grey())
