from __future__ import annotations

import struct

import cv2
import imagecodecs
import numpy as np
import pytest

from edge.decode import Limits, decode
from edge.errors import DataError, IncompleteError
from tests.decode import builders as make

LIMITS = Limits(max_pixels=1_000_000, max_pages=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_does_not_rotate(orientation: int) -> None:
    ramp = make.smooth(height=40, width=90)
    plain = decode(make.jpeg(ramp), "frame", LIMITS)[0].pixels
    turned = decode(make.jpeg(ramp, exif_orientation=orientation), "frame", LIMITS)[0].pixels
    assert np.array_equal(plain, turned)


def test_pixels_equal_those_of_opencv() -> None:
    data = make.jpeg(np.stack([make.smooth(), make.smooth()[::-1], 255 - make.smooth()], axis=-1))
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.array_equal(decode(data, "frame", LIMITS)[0].pixels, expected)


def test_end_of_an_embedded_thumbnail_is_not_the_end_of_the_picture() -> None:
    thumbnail = make.jpeg(make.smooth(height=8, width=8))
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = make.jpeg(make.smooth())
    data = whole[:2] + segment + whole[2:]
    assert len(decode(data, "frame", LIMITS)) == 1
    with pytest.raises(IncompleteError, match="JPEG cut off"):
        decode(data[: len(segment) + 100], "frame", LIMITS)


def test_stuffed_bytes_and_restart_markers_do_not_end_a_scan() -> None:
    done, encoded = cv2.imencode(".jpg", make.grey(), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])
    data = encoded.tobytes()
    assert done
    assert b"\xff\xd0" in data
    assert b"\xff\x00" in data
    assert len(decode(data, "frame", LIMITS)) == 1
    for cut in range(data.index(b"\xff\xda"), len(data)):
        with pytest.raises(IncompleteError):
            decode(data[:cut], "frame", LIMITS)


def test_progressive_file_needs_all_its_scans() -> None:
    done, encoded = cv2.imencode(".jpg", make.smooth(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    data = encoded.tobytes()
    assert done
    assert data.count(b"\xff\xda") > 2
    assert np.abs(decode(data, "frame", LIMITS)[0].pixels.astype(int) - make.smooth()).max() < 8
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    with pytest.raises(IncompleteError):
        decode(data[:second], "frame", LIMITS)


def test_cmyk_is_refused() -> None:
    data = bytes(
        imagecodecs.jpeg8_encode(np.zeros((8, 8, 4), np.uint8), colorspace="CMYK", outcolorspace="CMYK")
    )
    with pytest.raises(DataError, match="4 colour components") as caught:
        decode(data, "frame", LIMITS)
    assert caught.value.reason == "unsupported_format"
