"""Checksum files beside frames: what changed on its way is never a picture."""

from __future__ import annotations

import os
import typing
import zlib
from dataclasses import replace
from hashlib import md5, sha1, sha256, sha512
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.config import Source
from edge.decode import Limits
from edge.decode.checksum import ALGORITHMS, digest, parse
from edge.errors import DataError, IncompleteError
from edge.pipeline import PrepareJob, prepare_file
from edge.preprocess import PreprocessSpec
from tests.decode import builders as make

LIMITS = Limits(1_000_000, 1)
DATA = make.tiff(make.grey())
BY_HAND = {
    ".sha256": sha256(DATA).hexdigest(),
    ".sha512": sha512(DATA).hexdigest(),
    ".sha1": sha1(DATA).hexdigest(),
    ".md5": md5(DATA).hexdigest(),
    ".crc32": f"{zlib.crc32(DATA):08X}",
}


def prepare(folder: Path, text: bytes | None, suffix: str = ".sha256", data: bytes = DATA) -> int:
    """How many frames come of a file with that text in its checksum file."""
    file = folder / "a.tif"
    file.write_bytes(data)
    if text is not None:
        (folder / f"a.tif{suffix}").write_bytes(text)
    return len(prepare_file(PrepareJob(file, "a.tif", None, PreprocessSpec(), LIMITS, checksum=suffix)))


def test_every_algorithm_of_the_configuration_is_known() -> None:
    configured = typing.get_args(typing.get_args(Source.model_fields["checksum"].annotation)[0])
    assert set(configured) == set(ALGORITHMS) == set(BY_HAND)


@pytest.mark.parametrize("suffix", ALGORITHMS)
def test_a_frame_with_the_right_checksum_is_decoded_and_a_changed_one_is_not(
    tmp_path: Path, suffix: str
) -> None:
    text = BY_HAND[suffix].encode()
    assert prepare(tmp_path, text, suffix) == 1
    changed = bytearray(DATA)
    changed[1000] ^= 1  # a pixel: without its checksum nobody could know
    with pytest.raises(IncompleteError) as caught:
        prepare(tmp_path, text, suffix, bytes(changed))
    assert (caught.value.reason, caught.value.retryable) == ("checksum_mismatch", True)


def test_flipped_bits_of_a_jpeg_that_still_decodes_are_caught_by_its_checksum(tmp_path: Path) -> None:
    """Of the flips in entropy-coded data the format itself shows only some: docs/fuzzing.md has the share."""
    whole = make.jpeg(make.grey(height=200, width=300))
    file, scan = tmp_path / "a.jpg", whole.index(b"\xff\xda") + 14
    (tmp_path / "a.jpg.sha256").write_text(sha256(whole).hexdigest())
    job = PrepareJob(file, "a.jpg", None, PreprocessSpec(), LIMITS)
    silent = 0
    for place in range(scan, len(whole) - 2, 401):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        file.write_bytes(changed)
        try:
            silent += len(prepare_file(job))
        except DataError:
            continue
        with pytest.raises(IncompleteError) as caught:
            prepare_file(replace(job, checksum=".sha256"))
        assert caught.value.reason == "checksum_mismatch"
    assert silent > 10


@pytest.mark.parametrize(
    "form",
    [
        "{0}\n", "{0}  a.tif\n", "{0} *a.tif\r\n", "\\{0}  a\\nb.tif\n", "SHA256 (a.tif) = {0}\n", "\n{0}",
        "SHA256 hash of a.tif:\r\n{0}\r\nCertUtil: -hashfile command completed.\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_forms_that_programs_write_are_read(tmp_path: Path, form: str, coding: str) -> None:
    for found in (BY_HAND[".sha256"], BY_HAND[".sha256"].upper()):
        assert prepare(tmp_path, form.format(found).encode(coding)) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "checksum_missing"),
        (b"", "checksum_missing"),
        (b"\0" * 64, "checksum_unreadable"),
        (BY_HAND[".sha256"][:-1].encode(), "checksum_unreadable"),
        (BY_HAND[".sha1"].encode(), "checksum_unreadable"),
        (b"0" * 64, "checksum_mismatch"),
        (b"0" * 70_000, "checksum_unreadable"),
    ],
)
def test_a_frame_without_its_checksum_is_worth_another_try_and_no_picture(
    tmp_path: Path, text: bytes | None, reason: str
) -> None:
    with pytest.raises(IncompleteError) as caught:
        prepare(tmp_path, text)
    assert caught.value.reason == reason


def test_a_name_too_long_for_a_checksum_file_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / f"{'a' * 251}.tif"
    file.write_bytes(DATA)
    with pytest.raises(DataError) as caught:
        prepare_file(PrepareJob(file, file.name, None, PreprocessSpec(), LIMITS, checksum=".sha256"))
    assert (caught.value.reason, caught.value.retryable) == ("name_too_long", False)


def test_a_checksum_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.tif.sha256").mkdir()
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, None)
    assert caught.value.reason == "not_a_file"


def test_a_checksum_file_on_a_mount_that_hangs_is_no_fault_of_the_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading has a time limit of its own: it must not be over before the checksum file is read."""
    order: list[str] = []
    really_open = os.open

    def opened(file: Path, *arguments: int) -> int:
        order.append(os.fspath(file).rpartition("/")[2])
        return really_open(file, *arguments)

    (tmp_path / "a.tif").write_bytes(DATA)
    (tmp_path / "a.tif.sha256").write_text(BY_HAND[".sha256"])
    job = PrepareJob(tmp_path / "a.tif", "a.tif", None, PreprocessSpec(), LIMITS, checksum=".sha256")
    monkeypatch.setattr(os, "open", opened)
    prepare_file(job, lambda: order.append("read"))
    assert order == ["a.tif", "a.tif.sha256", "read"]


@pytest.mark.parametrize("suffix", ALGORITHMS)
@given(text=st.binary(max_size=300))
def test_no_text_makes_a_wrong_checksum(suffix: str, text: bytes) -> None:
    found = parse(text, suffix)
    assert found is None or len(found) == len(digest(b"", suffix))


def test_the_name_in_the_file_is_no_checksum() -> None:
    assert parse(b"CRC32 (deadbeef.png) = 0badcafe", ".crc32") == "0badcafe"
    assert parse(b"not12345 deadbeef", ".crc32") is None
