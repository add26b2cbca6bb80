from __future__ import annotations

import numpy as np
import pytest

from edge.decode import Limits, decode
from edge.errors import DataError, IncompleteError
from tests.decode import builders as make

LIMITS = Limits(max_pixels=1_000_000, max_pages=1)


def test_wrong_checksum_is_damage_not_a_file_in_the_making() -> None:
    data = bytearray(make.png(make.grey()))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(DataError, match="wrong checksum in chunk IDAT") as caught:
        decode(bytes(data), "frame", LIMITS)
    assert caught.value.reason == "corrupt"
    assert not caught.value.retryable


def test_file_without_its_last_chunk_is_cut_off() -> None:
    data = make.png(make.grey())
    with pytest.raises(IncompleteError, match="no IEND chunk; the last one was IDAT"):
        decode(data[: data.index(b"IEND") - 4], "frame", LIMITS)


@pytest.mark.parametrize("written", [0.3, 0.6, 0.9])
def test_reserved_space_that_is_not_yet_filled_is_a_file_in_the_making(written: float) -> None:
    data = make.png(make.grey())
    there = int(len(data) * written)
    with pytest.raises(IncompleteError) as caught:
        decode(data[:there] + bytes(len(data) - there), "frame", LIMITS)
    assert caught.value.retryable


def test_bytes_after_the_end_do_not_matter() -> None:
    pixels = make.grey()
    assert np.array_equal(decode(make.png(pixels) + b"trailer", "frame", LIMITS)[0].pixels, pixels)
