"""Manifests and folders → samples: nothing is guessed, nothing is dropped without a word."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from edge.dataset import Unreadable, frames, read_folder, read_manifest, samples
from edge.decode import Limits
from edge.errors import DataError, MissingInputError, UsageError
from edge.intake.naming import compile_naming
from edge.preprocess import PreprocessSpec

HEADER = "path,label,mask,view,part,defect,split\n"
LIMITS = Limits(max_pixels=10_000_000, max_pages=8)


def picture(file: Path, level: int = 128) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((16, 24), level, np.uint8))
    return file


def table(folder: Path, rows: str, header: str = HEADER) -> Path:
    file = folder / "manifest.csv"
    file.write_text(header + rows)
    return file


def test_manifest_rows_keep_what_they_say(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "m.png")
    elsewhere = picture(tmp_path / "elsewhere" / "b.png")
    found = read_manifest(table(tmp_path, f"a.png,defect,m.png,3,p1,crack,test\n{elsewhere},,,,,,\n"))
    assert (found[0].label, found[0].view, found[0].part) == ("defect", "3", "p1")
    assert (found[0].mask, found[0].defect, found[0].split) == (tmp_path / "m.png", "crack", "test")
    assert (found[1].file, found[1].label, found[1].view, found[1].mask) == (elsewhere, "", None, None)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a.png,goood,,,,,\n", "manifest.csv:2: label 'goood'"),
        ("a.png,good,,,,,tset\n", "manifest.csv:2: split 'tset'"),
        ("a.png,good\n", "manifest.csv:2: 2 values for 7 columns"),
        ("a.png,good,,,,,\n\na.png,good,,,,,\n", "manifest.csv:4: a.png is already in line 2"),
        (",good,,,,,\n", "manifest.csv:2: no path"),
        ("", "no rows"),
    ],
)
def test_bad_row_is_refused_with_its_line_and_a_fix(tmp_path: Path, rows: str, says: str) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError) as caught:
        read_manifest(table(tmp_path, rows))
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("path;label\n", "commas"),
        ("path,lable\n", "did you mean 'label'?"),
        ("file,label\n", "the header is"),
    ],
)
def test_wrong_header_is_refused(tmp_path: Path, header: str, hint: str) -> None:
    with pytest.raises(DataError, match="csv:1") as caught:
        read_manifest(table(tmp_path, "a.png,good\n", header))
    assert hint in caught.value.hint


def test_missing_files_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such manifest"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(MissingInputError, match=r"manifest\.csv:2: gone\.png"):
        read_manifest(table(tmp_path, "gone.png,good,,,,,\n"))


def test_folder_gives_sorted_good_samples_and_reports_names_that_do_not_match(tmp_path: Path) -> None:
    for name in ("B2/P1_02.png", "B1/P1_01.PNG", "B1/P2_01.png", "odd.png", ".hidden/P3_01.png"):
        picture(tmp_path / name)
    (tmp_path / "B1" / "notes.txt").write_text("not an image")
    found = read_folder(tmp_path, compile_naming("{batch}/{part}_{view}"))
    assert [s.path for s in found.samples] == ["B1/P1_01.PNG", "B1/P2_01.png", "B2/P1_02.png"]
    first = found.samples[0]
    assert (first.part, first.view, first.label) == ("B1/P1", "01", "good")
    assert found.samples[0].part != found.samples[2].part, "the same number in two batches is two parts"
    assert found.unmatched == ("odd.png",)


def test_folder_without_a_matching_name_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "odd.png")
    with pytest.raises(DataError, match=r"odd\.png"):
        read_folder(tmp_path, compile_naming("{part}_{view}"))


def test_manifest_in_a_folder_is_used_unless_names_are_given_a_rule(tmp_path: Path) -> None:
    picture(tmp_path / "a_1.png")
    picture(tmp_path / "b_1.png")
    table(tmp_path, "a_1.png,good,,,,,\n")
    assert [s.path for s in samples(tmp_path).samples] == ["a_1.png"]
    assert len(samples(tmp_path, template="{part}_{view}").samples) == 2
    with pytest.raises(UsageError):
        samples(tmp_path, manifest=tmp_path / "manifest.csv", template="{part}_{view}")
    with pytest.raises(UsageError, match="--pattern"):
        samples(tmp_path, pattern="(")


def test_manifest_beside_a_folder_is_narrowed_to_it(tmp_path: Path) -> None:
    picture(tmp_path / "new" / "a.png")
    picture(tmp_path / "old" / "b.png")
    file = table(tmp_path, "new/a.png,good,,,,,\nold/b.png,good,,,,,\n")
    assert [s.path for s in samples(tmp_path / "new", manifest=file).samples] == ["new/a.png"]


def test_good_leaves_out_defects_and_test_rows(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    rows = "a.png,good,,,,,train\nb.png,good,,,,,test\nc.png,defect,,,,,\nd.png,,,,,,\n"
    assert [s.path for s in samples(table(tmp_path, rows)).good()] == ["a.png"]


def test_pages_become_views_and_unreadable_files_are_reported(tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 255, (2, 16, 24), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    bad: list[Unreadable] = []
    got = list(frames(read_folder(tmp_path, None).samples, PreprocessSpec(), LIMITS, None, bad))
    assert [frame.identity.view for _, frame in got] == ["01", "02"]
    assert [entry.path for entry in bad] == ["b.png"]
    with pytest.raises(DataError):
        list(frames(read_folder(tmp_path, None).samples, PreprocessSpec(), LIMITS))


def test_rows_of_one_frame_are_merged_where_they_name_different_classes(tmp_path: Path) -> None:
    for name in ("a.png", "crack.png", "pit.png"):
        picture(tmp_path / name)
    head = "path,label,mask,part,defect,split\n"
    (tmp_path / "m.csv").write_text(
        head + "a.png,defect,crack.png,P1,crack,test\na.png,defect,pit.png,P1,pit,test\n"
    )
    (sample,) = read_manifest(tmp_path / "m.csv")
    assert {name: mask.name for name, mask in sample.masks.items()} == {
        "crack": "crack.png",
        "pit": "pit.png",
    }
    assert sample.defect == "crack,pit"


@pytest.mark.parametrize(
    "second", ["a.png,good,,P1,,", "a.png,defect,pit.png,P2,pit,", "a.png,defect,pit.png,P1,crack,"]
)
def test_rows_of_one_frame_that_contradict_each_other_are_refused(tmp_path: Path, second: str) -> None:
    for name in ("a.png", "crack.png", "pit.png"):
        picture(tmp_path / name)
    head = "path,label,mask,part,defect,split\n"
    (tmp_path / "m.csv").write_text(head + "a.png,defect,crack.png,P1,crack,\n" + second + "\n")
    with pytest.raises(DataError, match=r"m\.csv:3: a\.png is already in line 2"):
        read_manifest(tmp_path / "m.csv")


def test_masks_in_a_folder_of_their_own_belong_to_the_frames_of_the_same_name(tmp_path: Path) -> None:
    for name in ("frames/1/a.png", "frames/1/b.png", "masks/1/a.png"):
        picture(tmp_path / name)
    a, b = samples(tmp_path / "frames", masks=tmp_path / "masks").samples
    assert (a.label, a.mask, list(a.masks)) == ("defect", (tmp_path / "masks/1/a.png").resolve(), ["defect"])
    assert (b.label, b.mask) == ("good", None)


def test_masks_that_belong_to_no_frame_are_refused_with_the_name_that_would(tmp_path: Path) -> None:
    for name in ("frames/a.png", "masks/b.png"):
        picture(tmp_path / name)
    with pytest.raises(DataError, match="no mask is named as a frame") as caught:
        samples(tmp_path / "frames", masks=tmp_path / "masks")
    assert "a.png" in caught.value.hint
