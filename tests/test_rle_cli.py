"""`edge rle` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edge.dataset import read_manifest
from edge.errors import EdgeError
from edge.rle_cli import app

HEADER = "ImageId_ClassId,EncodedPixels\n"
ROWS = HEADER + "a.jpg_1,1 2 9 1\na.jpg_2,2 3\na.jpg_3,\nb.jpg_1,\nb.jpg_2,\nb.jpg_3,\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 3), np.uint8))
    file = tmp_path / "runs.csv"
    file.write_text(ROWS)
    return file


def rle(*arguments: object) -> tuple[str, EdgeError | None]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, EdgeError):
        raise done.exception
    return done.output, done.exception


def answer(*arguments: object) -> dict[str, Any]:
    output, error = rle(*arguments, "--json")
    assert error is None
    document: dict[str, Any] = json.loads(output)
    return document


def test_masks_come_back_through_the_folder(table: Path, tmp_path: Path) -> None:
    assert answer("decode", table, "--size", "3x4", "--out", tmp_path / "masks")["masks"] == 2
    answer("encode", tmp_path / "masks", "--out", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == HEADER + "a.jpg_1,1 2 9 1\na.jpg_2,2 3\n"


def test_masks_and_good_frames_come_back_through_the_manifest(table: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "frames.csv"
    answer("decode", table, "--size", "3x4", "--out", tmp_path / "masks", "--manifest", manifest)
    answer("encode", manifest, "--out", tmp_path / "again.csv", "--classes", "1,2,3")
    assert (tmp_path / "again.csv").read_text() == ROWS


def test_the_manifest_is_one_that_edge_reads(table: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "below/frames.csv"
    answer("decode", table, "--size", "3x4", "--out", tmp_path / "masks", "--manifest", manifest)
    defect, good = read_manifest(manifest)
    assert (defect.label, good.label) == ("defect", "good")
    assert set(defect.masks) == {"1", "2"}
    mask = cv2.imread(str(defect.masks["2"]), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[1, 0], [2, 0], [3, 0]]


def test_check_counts_rows_and_areas(table: Path) -> None:
    report = answer("check", table, "--size", "3x4")
    assert (report["rows"], report["exact"], report["frames"], report["bad"]) == (6, 6, 2, [])
    assert report["classes"]["1"] == {
        "frames": 1, "total_px": 3, "least_px": 3, "median_px": 3, "mean_px": 3.0, "most_px": 3,
        "mean_ratio": 0.25,
    }  # fmt: skip
    assert report["classes"]["3"] == {"frames": 0, "total_px": 0}


def test_check_names_every_bad_row_and_fails(table: Path) -> None:
    table.write_text(HEADER + "a.jpg_1,1 2 2 1\nb.jpg_1,1 2\nc.jpg_1,12 2\nd.jpg_1,1 2 3 1\n")
    output, error = rle("check", table, "--size", "3x4")
    assert error is not None
    assert error.exit_code == 65
    assert "3 of 4 rows" in error.message
    assert "line 2: a.jpg class 1: run 2 of 2 (2 1) overlaps" in output
    assert "line 4: c.jpg class 1: run 1 of 1 (12 2) ends beyond" in output
    assert "line 5: d.jpg class 1: comes back as another text" in output
    assert "1 of 4 rows come back exactly" in output


def test_decode_stops_at_a_bad_row_and_names_it(table: Path, tmp_path: Path) -> None:
    table.write_text(HEADER + "a.jpg_1,1 2 2 1\n")
    _, error = rle("decode", table, "--size", "3x4", "--out", tmp_path / "masks")
    assert error is not None
    assert "runs.csv:2: a.jpg class 1: run 2" in error.message


@pytest.mark.parametrize("name", ["../a.jpg_1", "/etc/a.jpg_1", "a.jpg_..", ".a_1", "a\\b_1"])
def test_names_cannot_lead_out_of_the_folder(table: Path, tmp_path: Path, name: str) -> None:
    table.write_text(f"{HEADER}{name},1 2\n")
    _, error = rle("decode", table, "--size", "3x4", "--out", tmp_path / "deep/masks")
    assert error is not None
    assert error.exit_code == 65
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("size", ["0x4", "3", "3x-4", "99999x1"])
def test_a_size_that_is_none_is_a_usage_error(table: Path, size: str) -> None:
    _, error = rle("check", table, "--size", size)
    assert error is not None
    assert error.exit_code == 64


def test_a_class_that_was_not_asked_for_is_not_lost_silently(table: Path, tmp_path: Path) -> None:
    answer("decode", table, "--size", "3x4", "--out", tmp_path / "masks")
    _, error = rle("encode", tmp_path / "masks", "--out", tmp_path / "again.csv", "--classes", "1")
    assert error is not None
    assert "also has 2" in error.message
    assert error.hint == "--classes 1,2, or leave it out"


def test_a_mask_that_is_no_picture_is_bad_data(table: Path, tmp_path: Path) -> None:
    (tmp_path / "masks/1").mkdir(parents=True)
    for content in (b"", b"no picture"):
        (tmp_path / "masks/1/a.jpg.png").write_bytes(content)
        _, error = rle("encode", tmp_path / "masks", "--out", tmp_path / "again.csv")
        assert error is not None
        assert error.exit_code == 65
    assert not (tmp_path / "again.csv").exists()


def test_an_empty_folder_is_a_missing_input(tmp_path: Path) -> None:
    _, error = rle("encode", tmp_path, "--out", tmp_path / "again.csv")
    assert error is not None
    assert error.exit_code == 66


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a.jpg_1,1 2\na.jpg_1,5 2\n", "line 3: a.jpg class 1: is there twice"),
        ("../a.jpg_1,1 2\n", "line 2: ../a.jpg class 1: '../a.jpg' cannot be a file's name"),
        ("", "no rows"),
    ],
)
def test_check_refuses_what_decode_refuses(table: Path, tmp_path: Path, rows: str, said: str) -> None:
    table.write_text(HEADER + rows)
    output, error = rle("check", table, "--size", "3x4")
    assert error is not None
    assert error.exit_code == 65
    assert said in output + error.message
    _, error = rle("decode", table, "--size", "3x4", "--out", tmp_path / "masks")
    assert error is not None
    assert error.exit_code == 65


def test_check_counts_where_classes_overlap_and_says_the_size(table: Path) -> None:
    table.write_text(HEADER + "a.jpg_1,1 4\nb.jpg_1,1 2\na.jpg_2,3 4\na.jpg_3,4 1\nb.jpg_2,3 1\n")
    report = answer("check", table, "--size", "3x4")
    assert (report["size_px"], report["overlap"]) == ([3, 4], {"frames": 1, "area_px": 2})
    output, error = rle("check", table, "--size", "3x4")
    assert error is None
    assert "2 frames of 3x4 pixels" in output
    assert "classes overlap in 1 frames, on 2 pixels" in output


@pytest.mark.parametrize("levels", [(0, 7, 255), (0, 1)])
def test_a_folder_of_photographs_is_not_taken_for_masks(tmp_path: Path, levels: tuple[int, ...]) -> None:
    (tmp_path / "in/1").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in/1/photo.png"), np.resize(np.array(levels, np.uint8), (4, 3)))
    _, error = rle("encode", tmp_path / "in", "--out", tmp_path / "again.csv")
    assert error is not None
    assert error.exit_code == 65
    assert "1/photo.png: is no mask" in error.message
    assert not (tmp_path / "again.csv").exists()


def test_frames_that_are_not_there_are_said_and_not_needed_for_run_lengths(
    table: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.jpg").unlink()
    manifest = tmp_path / "below/frames.csv"
    arguments = ("decode", table, "--size", "3x4", "--out", tmp_path / "masks", "--manifest", manifest)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0
    assert "1 of 2 frames are not in" in done.stderr
    assert "fix: --images" in done.stderr
    answer("encode", manifest, "--out", tmp_path / "again.csv", "--classes", "1,2,3")
    assert (tmp_path / "again.csv").read_text() == ROWS


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("x,label\na.jpg,good\n", "no manifest"),
        ("path,label\n", "no manifest"),
        ("path,label\na.jpg,defct\n", "label 'defct'"),
        ("path,label\na.jpg\n", "1 values for 2"),
        ("path,label\na/x.jpg,good\nb/x.jpg,good\n", "two frames are called x.jpg"),
        ("path,label,mask,defect\na.jpg,defect,m.png,1\na.jpg,defect,n.png,1\n", "is there twice"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, rows: str, said: str) -> None:
    (tmp_path / "m.csv").write_text(rows)
    _, error = rle("encode", tmp_path / "m.csv", "--out", tmp_path / "again.csv")
    assert error is not None
    assert error.exit_code == 65
    assert said in error.message
