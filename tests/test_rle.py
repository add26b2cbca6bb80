"""Run lengths: there and back without loss, and everything that is wrong is said."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge.errors import CannotWriteError, DataError, MissingInputError
from edge.rle import RleRow, decode, encode, parse, read_rle, runs_of, write_rle
from edge.types import Mask

DATA = Path(os.environ.get("EDGE_DATA") or Path(__file__).parents[2] / "shared/data") / "steel_rle"
HEIGHT, WIDTH = 256, 1600

MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(MASKS)
def test_a_mask_comes_back_from_its_text(mask: Mask) -> None:
    assert np.array_equal(decode(encode(mask), *mask.shape), mask)


@given(MASKS)
def test_runs_are_maximal_ordered_and_cover_the_area(mask: Mask) -> None:
    runs = runs_of(mask)
    assert runs[:, 1].sum() == mask.sum()
    assert (runs[1:, 0] > runs[:-1].sum(axis=1)).all()  # a pixel between two runs, or they were one


@given(st.data())
def test_a_text_of_separate_runs_comes_back_from_its_mask(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=8))
    position, words = data.draw(st.integers(1, 4)), []
    for length, gap in lengths:
        words += [position, length]
        position += length + gap
    text = " ".join(map(str, words))
    height = data.draw(st.integers(1, 7))
    assert encode(decode(text, height, -(-position // height))) == text


def test_pixels_count_from_one_downwards_then_to_the_right() -> None:
    mask = decode("1 2 6 1", 3, 2)
    assert mask.tolist() == [[True, False], [True, False], [False, True]]


def test_a_run_goes_on_in_the_next_column() -> None:
    assert encode(np.array([[False, True], [True, True]])) == "2 3"


def test_a_good_frame_is_no_text() -> None:
    assert encode(np.zeros((4, 5), bool)) == ""
    assert not decode("  ", 4, 5).any()


def test_a_full_frame_is_one_run() -> None:
    assert encode(np.ones((4, 5), bool)) == "1 20"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2 3", "3 numbers, an odd count"),
        ("1 2 x 1", "run 2: 'x' is not a whole number"),
        ("1.5 2", "run 1: '1.5' is not a whole number"),
        ("1 2 5 ²", "run 2: '²' is not a whole number"),
        ("1 2 ٣ 1", "run 2: '٣' is not a whole number"),
        ("0 2", "run 1 of 1 (0 2) starts below 1"),
        ("-3 2", "run 1 of 1 (-3 2) starts below 1"),
        ("3 0", "run 1 of 1 (3 0) has no pixels"),
        ("3 -1", "run 1 of 1 (3 -1) has no pixels"),
        ("1 1 12 2", "run 2 of 2 (12 2) ends beyond the frame's 12 pixels"),
        ("13 1", "run 1 of 1 (13 1) ends beyond the frame's 12 pixels"),
        ("1 999999999999999999", "ends beyond the frame's 12 pixels"),
        ("1 9999999999999999999999", "run 1: 99999999999999999999… is beyond any frame"),
        ("5 2 1 2", "run 2 of 2 (1 2) starts before the one ahead of it"),
        ("1 4 4 2", "run 2 of 2 (4 2) overlaps the one ahead of it"),
        ("1 4 1 2", "run 2 of 2 (1 2) overlaps the one ahead of it"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_with_its_run(text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        decode(text, 4, 3)
    assert said in caught.value.message
    assert caught.value.hint
    assert caught.value.reason == "bad_run_lengths"


def test_the_last_pixel_is_within_the_frame() -> None:
    assert decode("12 1", 4, 3)[3, 2]


def test_runs_that_touch_are_read_and_written_as_one() -> None:
    assert len(parse("1 2 3 2", 12)) == 2
    assert encode(decode("1 2 3 2", 4, 3)) == "1 4"


def test_rows_are_read_in_both_headers(tmp_path: Path) -> None:
    joint, split = tmp_path / "joint.csv", tmp_path / "split.csv"
    joint.write_text("ImageId_ClassId,EncodedPixels\na_b.jpg_1,1 2\na_b.jpg_2,\n")
    split.write_text("﻿ImageId,ClassId,EncodedPixels\r\na_b.jpg,1,1 2\r\na_b.jpg,2,\r\n", encoding="utf-8")
    expected = [RleRow("a_b.jpg", "1", "1 2", 2), RleRow("a_b.jpg", "2", "", 3)]
    assert list(read_rle(joint)) == list(read_rle(split)) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "1: the header is empty"),
        ("image,pixels\na,1 2\n", "1: the header is image,pixels"),
        ("ImageId_ClassId,EncodedPixels\na.jpg,1 2\n", "2: 'a.jpg' names no image and class"),
        ("ImageId_ClassId,EncodedPixels\na.jpg_,1 2\n", "2: 'a.jpg_' names no image and class"),
        ("ImageId_ClassId,EncodedPixels\na.jpg_1,1 2\nb.jpg_1\n", "3: 1 values for 2 columns"),
        ("ImageId_ClassId,EncodedPixels\na.jpg_1,\xff\n", "cannot be read"),
        ('ImageId_ClassId,EncodedPixels\n"a.jpg_1,1 2\n', "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "runs.csv"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        list(read_rle(file))
    assert said in caught.value.message


def test_a_file_that_is_not_there_is_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        list(read_rle(tmp_path / "none.csv"))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    rows = [RleRow("a_b.jpg", "1", "1 2"), RleRow("a_b.jpg", "2"), RleRow('"c, d".png', "crack", "3 1")]
    file = tmp_path / "new/runs.csv"
    assert write_rle(file, iter(rows)) == 3
    assert [(row.image, row.class_name, row.text) for row in read_rle(file)] == [
        (row.image, row.class_name, row.text) for row in rows
    ]
    assert [path.name for path in file.parent.iterdir()] == ["runs.csv"]


def test_a_class_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    with pytest.raises(DataError, match="hair_crack"):
        write_rle(file, [RleRow("a.jpg", "hair_crack", "1 2")])
    assert list(tmp_path.iterdir()) == []


def test_three_columns_carry_any_class(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    write_rle(file, [RleRow("a.jpg", "hair_crack", "1 2")], joint=False)
    assert list(read_rle(file)) == [RleRow("a.jpg", "hair_crack", "1 2", 2)]


def test_rows_that_fail_midway_leave_the_former_file(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("former")

    def rows() -> list[RleRow]:
        return [RleRow("a.jpg", "1", "1 2"), RleRow("a.jpg", "a_b")]

    with pytest.raises(DataError):
        write_rle(file, rows())
    assert file.read_text() == "former"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError):
        write_rle(tmp_path / "file/runs.csv", [])


@pytest.mark.skipif(not DATA.is_dir(), reason=f"data absent: {DATA} (set EDGE_DATA)")
def test_all_rows_of_the_steel_strips_come_back_exactly() -> None:
    rows = list(read_rle(DATA / "run_lengths.csv"))
    masks = [decode(row.text, HEIGHT, WIDTH) for row in rows]
    assert len(rows) == 1200
    assert [encode(mask) for mask in masks] == [row.text for row in rows]
