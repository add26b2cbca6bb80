from __future__ import annotations

import struct

import numpy as np
import pytest

from edge.decode import Limits, decode
from edge.errors import DataError
from tests.decode import builders as make

LIMITS = Limits(max_pixels=1_000_000, max_pages=1)


def test_alpha_is_dropped() -> None:
    rgba = np.concatenate([make.colour(), make.grey(seed=7)[..., None]], axis=2)
    rows = rgba[::-1, :, [2, 1, 0, 3]].tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, 52, 37, 1, 32, 0, len(rows), 0, 0, 0, 0)
    data = struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54) + info + rows
    assert np.array_equal(decode(data, "frame", LIMITS)[0].pixels, rgba[..., :3])


def test_run_length_coding_is_refused() -> None:
    data = bytearray(make.bmp(make.grey()))
    data[30:34] = struct.pack("<I", 1)
    with pytest.raises(DataError, match="BMP compression 1 is not read") as caught:
        decode(bytes(data), "frame", LIMITS)
    assert caught.value.reason == "unsupported_format"
