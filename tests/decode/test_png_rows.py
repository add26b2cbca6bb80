from __future__ import annotations

import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.decode import Limits, decode, png, png_rows
from edge.errors import DataError
from tests.decode import builders as make

LIMITS = Limits(max_pixels=1_000_000, max_pages=1)
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels
EVERY_FILTER = [0, 1, 2, 3, 4] * 8


def picture(height: int, width: int, channels: int, bits: int, seed: int) -> make.Pixels:
    """(h, w, channels): half smooth, half noise, so that sums wrap and Paeth has to choose."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 2**bits, (height, width, channels))
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] * 3 + rng.integers(0, 3, noise.shape)
    chosen = np.where(np.arange(width)[:, None] < width // 2, ramp % 2**bits, noise)
    return chosen.astype(np.uint8 if bits == 8 else np.uint16)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 40))
    return {
        "bits": draw(st.sampled_from([8, 16])),
        "samples": (height, width, draw(st.integers(1, 4))),
        # of all filters, and of those alone that need no libpng
        "filters": draw(
            st.lists(
                st.sampled_from(draw(st.sampled_from([(0, 1, 2, 3, 4), (0, 1, 2)]))),
                min_size=height, max_size=height,
            )
        ),
        "band_bytes": draw(st.sampled_from([1, 100, 2**18])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(cases())
def test_every_depth_with_every_filter_on_any_row_becomes_its_samples(case: dict[str, Any]) -> None:
    bits = case["bits"]
    samples = picture(*case["samples"], bits, case["seed"])
    compressed = zlib.compress(make.png_rows(samples, case["filters"], bits=bits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png_rows, "_BAND_BYTES", case["band_bytes"])
        found = png_rows.decode_rows(compressed, samples.shape, bits)
    assert found is not None
    assert found.dtype == samples.dtype
    assert np.array_equal(found, samples)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_libpng_reads_the_same_from_the_whole_file(
    bits: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = picture(40, 33, channels, bits, seed=1)
    rows = zlib.compress(make.png_rows(samples, EVERY_FILTER, bits=bits))
    data = make.png_of_rows(rows, 40, 33, bits=bits, colour_type=COLOUR_TYPES[channels])
    by_rows = decode(data, "frame", LIMITS)[0]
    monkeypatch.setattr(imagecodecs.DEFLATE, "available", False)
    monkeypatch.setattr(png_rows, "decode_rows", None)
    by_libpng = decode(data, "frame", LIMITS)[0]
    assert np.array_equal(by_rows.pixels, by_libpng.pixels)
    assert np.array_equal(by_rows.pixels, samples[..., 0] if channels < 3 else samples[..., :3])
    assert (by_rows.bits, by_rows.high) == (by_libpng.bits, by_libpng.high) == (bits, 2**bits - 1)


def test_common_kinds_are_not_left_to_libpng(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "_by_libpng", None)
    for bits in (8, 16):
        decode(make.png(make.grey(bits), bits=bits), "frame", LIMITS)
        decode(make.png(make.colour(bits), bits=bits, colour_type=2), "frame", LIMITS)


@pytest.mark.parametrize("bits", [8, 16])
def test_interlaced_pictures_are_left_to_libpng(bits: int) -> None:
    pixels = make.grey(bits)
    found = decode(make.png_interlaced(pixels, bits=bits), "frame", LIMITS)[0]
    assert np.array_equal(found.pixels, pixels)


def test_pixel_data_in_many_chunks_with_others_between_is_one_stream() -> None:
    samples = picture(40, 33, 1, 16, seed=2)
    rows = zlib.compress(make.png_rows(samples, EVERY_FILTER, bits=16))
    whole = make.png_of_rows(rows, 40, 33, bits=16)
    pieces = [make.png_chunk(b"IDAT", rows[at : at + 100]) for at in range(0, len(rows), 100)]
    start = whole.index(b"IDAT") - 4
    data = whole[:start] + make.png_chunk(b"tEXt", b"a\0b").join(pieces) + make.png_chunk(b"IEND", b"")
    assert np.array_equal(decode(data, "frame", LIMITS)[0].pixels, samples[..., 0])


SAMPLES = picture(40, 33, 1, 16, seed=3)
ROWS = make.png_rows(SAMPLES, EVERY_FILTER, bits=16)
COMPRESSED = zlib.compress(ROWS)
DAMAGED = {
    "a byte less": zlib.compress(ROWS[:-1]),
    "a row less": zlib.compress(ROWS[: -1 - 2 * 33]),
    "a byte more": zlib.compress(ROWS + b"\0"),
    "wrong checksum": COMPRESSED[:-1] + bytes([COMPRESSED[-1] ^ 1]),
    "no checksum": COMPRESSED[:-4],
    "cut off": COMPRESSED[: len(COMPRESSED) // 2],
    "bytes behind": COMPRESSED + b"more",
    "not zlib": b"\0\0" + COMPRESSED[2:],
    "empty": b"",
    "no such filter": zlib.compress(b"\5" + ROWS[1:]),
    "no such filter in the last row": zlib.compress(ROWS[: -1 - 2 * 33] + b"\xff" + ROWS[-2 * 33 :]),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_stream_that_is_not_exactly_the_picture_is_refused(damage: str) -> None:
    assert png_rows.decode_rows(DAMAGED[damage], SAMPLES.shape, 16) is None
    with pytest.raises(DataError) as caught:
        decode(make.png_of_rows(DAMAGED[damage], 40, 33, bits=16), "frame", LIMITS)
    assert caught.value.reason in ("corrupt", "unreadable")


def test_the_stream_that_is_damaged_above_is_read_as_it_was() -> None:
    found = decode(make.png_of_rows(COMPRESSED, 40, 33, bits=16), "frame", LIMITS)[0]
    assert np.array_equal(found.pixels, SAMPLES[..., 0])
