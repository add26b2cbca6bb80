from __future__ import annotations

import struct

import numpy as np
import pytest

from edge.decode import Limits, decode
from edge.errors import DataError, IncompleteError
from tests.decode import builders as make

LIMITS = Limits(max_pixels=1_000_000, max_pages=8)


def with_field(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF whose field of one SHORT or LONG has another value, wherever it comes."""
    for kind, layout in ((3, "<H"), (4, "<I")):
        data_before, found, after = data.partition(struct.pack("<HHI", tag, kind, 1))
        if found:
            size = struct.calcsize(layout)
            return data_before + found + struct.pack(layout, value) + after[size:]
    raise AssertionError(f"no field {tag}")


def test_loop_of_directories_is_refused() -> None:
    data = make.tiff(make.grey())
    first = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, first)[0]
    at_next = first + 2 + 12 * entries
    looped = data[:at_next] + struct.pack("<I", first) + data[at_next + 4 :]
    with pytest.raises(DataError, match="comes twice") as caught:
        decode(looped, "frame", LIMITS)
    assert caught.value.reason == "corrupt"


def test_file_whose_directory_is_not_yet_written_is_cut_off() -> None:
    data = make.tiff(make.grey())
    with pytest.raises(IncompleteError, match="no directory yet"):
        decode(data[:4] + bytes(4) + data[8:], "frame", LIMITS)


@pytest.mark.parametrize("tag", [273, 279])
def test_strip_that_is_not_yet_written_is_cut_off(tag: int) -> None:
    with pytest.raises(IncompleteError, match="strip or tile 0 has not been written"):
        decode(with_field(make.tiff(make.grey()), tag, 0), "frame", LIMITS)


def test_fewer_bytes_than_the_page_needs_are_refused() -> None:
    with pytest.raises(DataError, match="1923 bytes of pixels, where 1924 are needed"):
        decode(with_field(make.tiff(make.grey()), 279, 37 * 52 - 1), "frame", LIMITS)


def test_fewer_strips_than_the_page_needs_are_refused() -> None:
    data = make.tiff(make.grey(), compression="deflate", rowsperstrip=37)
    with pytest.raises(DataError, match="1 strips or tiles with 1 sizes, where 4 are needed"):
        decode(with_field(data, 278, 10), "frame", LIMITS)


def test_compressed_strip_that_holds_too_little_is_refused() -> None:
    data = make.tiff(make.grey(height=20), compression="deflate")
    with pytest.raises(DataError) as caught:
        decode(with_field(with_field(data, 257, 37), 278, 37), "frame", LIMITS)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("rows_a_strip", [37, 5])
def test_uncompressed_samples_are_not_copied(rows_a_strip: int) -> None:
    pixels = make.grey(16)
    data = make.tiff(pixels, rowsperstrip=rows_a_strip)
    found = decode(data, "frame", LIMITS)[0].pixels
    assert np.array_equal(found, pixels)
    assert np.shares_memory(found, np.frombuffer(data, np.uint8))
    assert not found.flags.writeable


def test_samples_at_an_odd_byte_are_copied_to_where_they_can_be_read_fast() -> None:
    pixels = make.grey(16)
    data = make.tiff(pixels)
    odd = len(data) + 1 - len(data) % 2
    moved = data + bytes(odd - len(data)) + pixels.tobytes()
    found = decode(with_field(moved, 273, odd), "frame", LIMITS)[0].pixels
    assert np.array_equal(found, pixels)
    assert found.flags.aligned


def test_strips_that_do_not_follow_each_other_are_put_in_order() -> None:
    pixels = make.grey(16, height=40)
    data = make.tiff(pixels, rowsperstrip=20)
    first = data.index(pixels.tobytes())
    offsets = first, first + 20 * 52 * 2
    swapped = data.replace(struct.pack("<2I", *offsets), struct.pack("<2I", *offsets[::-1]))
    assert swapped != data
    found = decode(swapped, "frame", LIMITS)[0].pixels
    assert np.array_equal(found, np.concatenate([pixels[20:], pixels[:20]]))


def test_thumbnails_are_no_pages() -> None:
    big, small = make.grey(), make.grey(height=8, width=8)
    import io

    import tifffile

    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(small, subfiletype=1, metadata=None, photometric="minisblack")
        writer.write(big, metadata=None, photometric="minisblack")
    pictures = decode(stream.getvalue(), "frame", LIMITS)
    assert [(picture.page, picture.pages) for picture in pictures] == [(0, 1)]
    assert np.array_equal(pictures[0].pixels, big)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(wrong: float) -> None:
    real = np.zeros((20, 20), np.float32)
    real[3, 4] = wrong
    with pytest.raises(DataError, match="NaN or infinite") as caught:
        decode(make.tiff(real), "frame", LIMITS)
    assert caught.value.reason == "not_finite"


def test_white_is_zero_turns_a_declared_range_around() -> None:
    declared = [(280, 3, 1, 10, True), (281, 3, 1, 200, True)]
    picture = decode(make.tiff(make.grey(), photometric="miniswhite", extratags=declared), "frame", LIMITS)[0]
    assert (picture.low, picture.high) == (200, 10)


def test_range_of_no_extent_is_not_believed() -> None:
    declared = [(280, 3, 1, 0, True), (281, 3, 1, 0, True)]
    picture = decode(make.tiff(make.grey(), extratags=declared), "frame", LIMITS)[0]
    assert (picture.low, picture.high) == (0, 255)


def test_palette_becomes_rgb() -> None:
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
    indices = make.grey()
    picture = decode(make.tiff(indices, photometric="palette", colormap=colours), "frame", LIMITS)[0]
    assert np.array_equal(picture.pixels, np.moveaxis(colours[:, indices], 0, -1))
    assert (picture.bits, picture.high) == (16, 65535)


def test_alpha_is_dropped() -> None:
    rgba = np.concatenate([make.colour(), make.grey(seed=7)[..., None]], axis=2)
    data = make.tiff(rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(decode(data, "frame", LIMITS)[0].pixels, rgba[..., :3])


def test_bilevel_and_doubles_are_read() -> None:
    bilevel = make.grey(1).astype(bool)
    picture = decode(make.tiff(bilevel), "frame", LIMITS)[0]
    assert np.array_equal(picture.pixels, bilevel)
    assert (picture.bits, picture.high) == (1, 1)
    doubles = np.linspace(0, 1, 400).reshape(20, 20)
    picture = decode(make.tiff(doubles), "frame", LIMITS)[0]
    assert picture.pixels.dtype == np.float32
    assert np.allclose(picture.pixels, doubles)


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.int64), np.zeros((8, 8), np.complex64)])
def test_types_that_no_picture_holds_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(DataError) as caught:
        decode(make.tiff(pixels), "frame", LIMITS)
    assert caught.value.reason == "unsupported_format"


def test_cut_jpeg_strip_is_refused() -> None:
    data = make.tiff(make.smooth(), compression="jpeg", rowsperstrip=64)
    end = data.rindex(b"\xff\xd9")
    with pytest.raises(DataError, match="JPEG cut off"):
        decode(data[:end] + b"\0\0" + data[end + 2 :], "frame", LIMITS)
