"""What is too large is refused by its size or header; its content is never read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.decode import Limits, decode, read_stable, refuse_large
from edge.errors import DataError, IncompleteError
from edge.pipeline import PrepareJob, prepare_file
from edge.preprocess import PreprocessSpec
from tests.decode import bombs
from tests.decode import builders as make
from tests.decode.variants import Variant, all_variants

LIMITS = Limits(200_000_000, 64)  # the daemon's defaults
FEW_BYTES = 2 * 2**20


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read gave."""
    counts: list[int] = []
    for name in ("read", "pread"):
        really = getattr(os, name)

        def counted(*arguments: int, really: object = really) -> bytes:
            data: bytes = really(*arguments)  # type: ignore[operator]
            counts.append(len(data))
            return data

        monkeypatch.setattr(os, name, counted)
    return counts


def refused(file: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        prepare_file(PrepareJob(file, file.name, None, PreprocessSpec(), LIMITS))
    return caught.value


@pytest.mark.parametrize("kind", bombs.HEADS)
@pytest.mark.parametrize("side_px", [bombs.HUGE_PX, bombs.WIDE_PX])
@pytest.mark.parametrize("file_bytes", [0, 2 * 10**9, 8 * 10**9])
def test_a_huge_picture_is_refused_and_hardly_read(
    tmp_path: Path, bytes_read: list[int], kind: str, side_px: int, file_bytes: int
) -> None:
    error = refused(bombs.sparse(tmp_path / f"a.{kind}", bombs.HEADS[kind](side_px), file_bytes))
    assert (error.reason, error.retryable) == ("too_large", False)
    assert error.message.startswith(f"a.{kind}: ")
    assert sum(bytes_read) < FEW_BYTES


def test_a_huge_tiff_whose_directory_comes_last_is_refused_and_hardly_read(
    tmp_path: Path, bytes_read: list[int]
) -> None:
    error = refused(bombs.tiff_directory_last(tmp_path / "a.tif", bombs.WIDE_PX, 1_900_000_000))
    assert error.message.startswith("a.tif: 30000×30000 = 900000000 pixels are more than")
    assert sum(bytes_read) < FEW_BYTES


def test_a_file_larger_than_its_pixels_could_need_is_refused_whatever_it_holds(
    tmp_path: Path, bytes_read: list[int]
) -> None:
    error = refused(bombs.sparse(tmp_path / "a.png", b"", 16 * LIMITS.max_pixels + 64 * 2**20 + 1))
    assert error.reason == "too_large"
    assert "runtime.max_pixels" in error.hint
    assert bytes_read == []


def test_many_pages_are_refused_after_some(tmp_path: Path, bytes_read: list[int]) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(make.tiff(*[make.grey(height=8, width=8)] * 10_000))
    assert refused(file).reason == "too_large"
    assert sum(bytes_read) < FEW_BYTES  # 256 directories, not 10,000


@pytest.mark.parametrize("variant", all_variants(), ids=lambda variant: variant.name)
def test_a_look_at_the_head_refuses_nothing_that_is_allowed(variant: Variant) -> None:
    limits = Limits(variant.pixels.shape[0] * variant.pixels.shape[1] * variant.pages, variant.pages)
    whole = variant.build() + bytes(2**20)  # behind the end, where it does not matter
    refuse_large(whole, "a.dcm", limits)


def test_a_large_file_that_is_allowed_is_decoded_after_its_head_was_looked_at(tmp_path: Path) -> None:
    pixels = make.grey(16, height=1000, width=1200)
    for name, data in (("a.tif", make.tiff(pixels)), ("a.png", make.png(pixels, bits=16))):
        file = tmp_path / name
        file.write_bytes(data)
        (frame,) = prepare_file(PrepareJob(file, name, None, PreprocessSpec(), LIMITS))
        assert frame.plane.shape == (1000, 1200)


def test_a_deflated_data_set_is_not_judged_by_its_beginning() -> None:
    from pydicom import uid

    bomb = make.dicom(make.grey(), uid.DeflatedExplicitVRLittleEndian, EncapsulatedDocument=os.urandom(2**21))
    refuse_large(bomb, "a.dcm", LIMITS)
    assert len(decode(bomb, "a.dcm", LIMITS)) == 1


def test_a_file_cut_off_under_the_look_is_still_an_error_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(make.tiff(make.grey(16, height=1000, width=1200)))

    def cut_off(source: object) -> None:
        os.truncate(file, 1000)
        refuse_large(source, file.name, LIMITS)  # type: ignore[arg-type]

    with pytest.raises(IncompleteError) as caught:
        read_stable(file, None, cut_off)
    assert caught.value.reason == "changed_while_reading"
