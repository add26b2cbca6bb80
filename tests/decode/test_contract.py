"""What every format promises: the stored pixels, or an EdgeError; never part of a picture, never a crash."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.decode import Limits, decode
from edge.errors import DataError, EdgeError, IncompleteError
from tests.decode.variants import Variant, all_variants

LIMITS = Limits(max_pixels=1_000_000, max_pages=8)
VARIANTS = {variant.name: variant for variant in all_variants()}
# one of each way to store pixels, for the tests that decode many times
SAMPLES = [
    "png-grey16", "png-palette4", "jpeg-rgb8", "jpeg-lossless16", "bmp-grey8", "bmp-rgb24",
    "tiff-grey16", "tiff-tiles", "tiff-lzw", "tiff-deflate_predicted", "tiff-zstd", "tiff-packbits",
    "tiff-jpeg", "tiff-pages", "tiff-grey16_bigtiff", "tiff-grey12", "tiff-float32",
    *(f"dicom-{syntax}_s12_MONOCHROME2" for syntax in (
        "ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "ExplicitVRBigEndian",
        "DeflatedExplicitVRLittleEndian", "RLELossless", "JPEGLossless", "JPEGLosslessSV1", "JPEGLSLossless",
        "JPEG2000Lossless",
    )),
    "dicom-jpeg_baseline", "dicom-jpeg_extended12", "dicom-JPEGLosslessSV1_frames",
]  # fmt: skip

every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
every_sample = pytest.mark.parametrize("name", SAMPLES)


@functools.cache
def file_of(name: str) -> bytes:
    return VARIANTS[name].build()


@every_variant
def test_pixels_and_their_declared_meaning_come_back(variant: Variant) -> None:
    pictures = decode(variant.build(), variant.name, LIMITS)
    first = pictures[0]
    assert first.pixels.shape == variant.pixels.shape
    difference = np.abs(first.pixels.astype(np.float64) - variant.pixels)
    assert difference.max() <= variant.tolerance
    assert (first.bits, first.low, first.high) == (variant.bits, variant.low, variant.high)
    assert [(picture.page, picture.pages) for picture in pictures] == [
        (page, variant.pages) for page in range(variant.pages)
    ]


@every_variant
def test_pixels_are_contiguous_and_native(variant: Variant) -> None:
    for picture in decode(variant.build(), variant.name, LIMITS):
        assert picture.pixels.flags.c_contiguous
        assert picture.pixels.dtype.isnative
        assert picture.pixels.dtype in (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32)


@every_variant
def test_half_written_file_is_never_a_picture(variant: Variant) -> None:
    whole = variant.build()
    cuts = {
        *range(1, 12),
        *range(len(whole) - 12, len(whole)),
        *range(0, len(whole), max(1, len(whole) // 40)),
    }
    for cut in sorted(cuts - {0}):
        if "Deflated" in variant.name and whole[cut:] == b"\0":
            continue  # the null that pads deflated data to even length (PS3.5 A.5) is no part of it
        with pytest.raises(EdgeError) as caught:
            decode(whole[:cut], f"{variant.name}.dcm" if "dicom" in variant.name else variant.name, LIMITS)
        assert caught.value.reason in ("truncated", "no_pixels"), (cut, len(whole), caught.value)


@every_sample
def test_cut_within_the_last_half_is_worth_another_try(name: str) -> None:
    whole = file_of(name)
    for cut in range(len(whole) // 2, len(whole), max(1, len(whole) // 30)):
        with pytest.raises(IncompleteError) as caught:
            decode(whole[:cut], name, LIMITS)
        assert caught.value.retryable
        assert name in caught.value.message


@every_sample
@settings(max_examples=100, deadline=None)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6)
)
def test_damaged_bytes_give_pictures_or_an_edge_error(name: str, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(file_of(name))
    for place, change in flips:
        damaged[int(place * len(damaged))] ^= change
    decodes_or_refuses(bytes(damaged), name)


@every_sample
@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 1200), content=st.binary(min_size=1, max_size=8))
def test_damaged_headers_give_pictures_or_an_edge_error(name: str, place: int, content: bytes) -> None:
    whole = file_of(name)
    place %= len(whole)
    decodes_or_refuses(whole[:place] + content + whole[place + len(content) :], name)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600), st.sampled_from(["frame.dcm", "frame.png"]))
def test_arbitrary_bytes_are_refused(data: bytes, name: str) -> None:
    with pytest.raises(DataError):
        decode(data, name, LIMITS)


def test_other_content_is_refused_whatever_its_suffix() -> None:
    with pytest.raises(DataError, match="not a picture in a known format") as caught:
        decode(b"GIF89a" + bytes(500), "frame.png", LIMITS)
    assert caught.value.reason == "unsupported_format"
    assert not caught.value.retryable
    assert "DICOM" in caught.value.hint


def test_content_counts_and_the_suffix_does_not() -> None:
    assert len(decode(file_of("png-grey16"), "frame.dcm", LIMITS)) == 1


def decodes_or_refuses(data: bytes, name: str) -> None:
    try:
        pictures = decode(data, name, LIMITS)
    except EdgeError:
        pass
    else:
        assert (
            sum(picture.pixels.shape[0] * picture.pixels.shape[1] for picture in pictures)
            <= LIMITS.max_pixels
        )
