from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import time

import pytest
from pydicom import uid

from edge.decode import Limits, decode
from edge.errors import DataError, EdgeError, IncompleteError
from tests.decode import builders as make

LIMITS = Limits(max_pixels=1_000_000, max_pages=2)
HUGE = 60_000


def huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", HUGE, HUGE, 16, 0, 0, 0, 0)
    chunks = make.png_chunk(b"IHDR", header), make.png_chunk(b"IDAT", b""), make.png_chunk(b"IEND", b"")
    return make.PNG_SIGNATURE + b"".join(chunks)


def huge_jpeg() -> bytes:
    data = bytearray(make.jpeg(make.smooth()))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", HUGE, HUGE)
    return bytes(data)


def huge_bmp() -> bytes:
    data = bytearray(make.bmp(make.grey()))
    data[18:26] = struct.pack("<ii", HUGE, HUGE)
    return bytes(data)


def huge_tiff() -> bytes:
    data = bytearray(make.tiff(make.grey()))
    for tag in (256, 257):
        at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
        data[at : at + 2] = struct.pack("<H", HUGE)
    return bytes(data)


def huge_dicom() -> bytes:
    return make.dicom(make.grey(), Rows=HUGE, Columns=HUGE)


@pytest.mark.parametrize("build", [huge_png, huge_jpeg, huge_bmp, huge_tiff, huge_dicom])
def test_header_over_budget_is_refused_at_once(build: object) -> None:
    data = build()  # type: ignore[operator]
    decode_small = make.png(make.grey())
    decode(decode_small, "warm", LIMITS)
    started = time.perf_counter()
    with pytest.raises(DataError, match=r"60000×60000 = 3600000000 pixels.*1000000 allowed") as caught:
        decode(data, "frame", LIMITS)
    assert time.perf_counter() - started < 0.5
    assert caught.value.reason == "too_large"
    assert not caught.value.retryable
    assert "runtime.max_pixels" in caught.value.hint


def test_pages_together_count_against_the_budget() -> None:
    pages = [make.grey(height=30, width=30)] * 2
    with pytest.raises(DataError, match="30×30 on 2 pages = 1800 pixels"):
        decode(make.tiff(*pages), "frame", Limits(max_pixels=1799, max_pages=2))
    assert len(decode(make.tiff(*pages), "frame", Limits(max_pixels=1800, max_pages=2))) == 2


@pytest.mark.parametrize("build", [lambda pages: make.tiff(*pages), make.dicom])
def test_too_many_pages_are_refused(build: object) -> None:
    data = build([make.grey()] * 3)  # type: ignore[operator]
    with pytest.raises(DataError, match="3 pages are more than the 2 allowed") as caught:
        decode(data, "frame", LIMITS)
    assert caught.value.reason == "too_large"


def test_deflated_bomb_is_refused() -> None:
    bomb = make.dicom(make.grey(), uid.DeflatedExplicitVRLittleEndian, EncapsulatedDocument=bytes(80 * 2**20))
    assert len(bomb) < 200_000
    with pytest.raises(DataError, match="inflates to more than") as caught:
        decode(bomb, "frame", Limits(max_pixels=10_000, max_pages=1))
    assert caught.value.reason == "too_large"


def test_errors_name_the_file_and_survive_pickling() -> None:
    with pytest.raises(IncompleteError) as caught:
        decode(make.png(make.grey())[:-5], "B17/P1_07.png", LIMITS)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.message.startswith("B17/P1_07.png: PNG cut off after")
    assert (type(copy), copy.reason, copy.retryable) == (IncompleteError, "truncated", True)


def test_library_error_becomes_unreadable_with_its_cause() -> None:
    data = make.png(make.grey())
    short = make.png(make.grey(height=10))
    idat = short[short.index(b"IDAT") - 4 : short.index(b"IEND") - 4]
    damaged = data[: data.index(b"IDAT") - 4] + idat + data[data.index(b"IEND") - 4 :]
    with pytest.raises(DataError, match=r"frame: cannot be decoded: .*Not enough image data") as caught:
        decode(damaged, "frame", LIMITS)
    assert caught.value.reason == "unreadable"
    assert caught.value.__cause__ is not None


def test_running_out_of_memory_is_tried_again_in_a_fresh_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    import edge.decode.png

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(edge.decode.png.png_rows, "decode_rows", fail)
    with pytest.raises(DataError, match="does not fit") as caught:
        decode(make.png(make.grey()), "frame", LIMITS)
    assert (caught.value.reason, caught.value.retryable) == ("out_of_memory", True)


@pytest.mark.parametrize("build", [make.png, make.jpeg, make.bmp, make.tiff, make.dicom])
def test_damaged_file_prints_nothing(build: object, capfd: pytest.CaptureFixture[str]) -> None:
    data = build(make.grey())  # type: ignore[operator]
    for place in range(0, len(data), 7):
        try:
            decode(data[:place] + b"\xff\0" + data[place + 2 :], "frame", LIMITS)
        except EdgeError:
            continue
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_loads_no_image_library() -> None:
    loaded = (
        "import sys, edge.decode; print(*({'cv2', 'tifffile', 'pydicom', 'imagecodecs'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_decoding_leaves_warnings_and_loggers_as_they_were() -> None:
    import logging
    import warnings

    filters = list(warnings.filters)
    decode(make.tiff(make.grey()), "frame", LIMITS)
    assert warnings.filters == filters
    assert not logging.getLogger("tifffile").disabled
