"""Real images through the simulated scanner: as they are, or converted; with their truth."""

import csv
import io
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import tifffile

from edge.errors import CannotWriteError, DataError, EdgeError, MissingInputError, UsageError
from edge.simulate.formats import Encoding
from edge.simulate.replay import originals, read_pixels, replay
from edge.simulate.shots import Capture, Mix, Shot, plan, with_styles
from edge.simulate.truth import COLUMNS, Truth

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two good tiles and a defective one, of two parts and views."""
    folder = tmp_path / "data"
    (folder / "mask").mkdir(parents=True)
    for name in ("t1_a", "t1_b", "t2_a"):
        cv2.imwrite(str(folder / f"{name}.png"), GREY)
    cv2.imwrite(str(folder / "mask/t2_a.png"), np.where(GREY > 40, 255, 100).astype(np.uint8))
    (folder / "manifest.csv").write_text(
        "path,label,mask,view,part,defect,split\n"
        "t1_a.png,good,,1,t1,,train\n"
        "t1_b.png,good,,2,t1,,train\n"
        "t2_a.png,defect,mask/t2_a.png,1,t2,blowhole,test\n"
    )
    return folder


def test_a_folder_with_a_manifest_is_read_by_its_manifest(dataset: Path) -> None:
    for source in (dataset, dataset / "manifest.csv"):
        shots = replay(originals(source), template=None, batch="B1", encoding=None)
        assert [shot.path for shot in shots] == ["B1/t1_1.png", "B1/t1_2.png", "B1/t2_1.png"]
        assert [(shot.label, shot.split, shot.defect) for shot in shots[1:]] == [
            ("good", "train", ""),
            ("defect", "test", "blowhole"),
        ]


def test_a_plain_folder_is_replayed_under_its_file_names(dataset: Path) -> None:
    (dataset / "manifest.csv").unlink()
    (dataset / "mask/t2_a.png").unlink()
    shots = replay(originals(dataset), template=None, batch="B1", encoding=None)
    assert [shot.path for shot in shots] == ["B1/t1_a.png", "B1/t1_b.png", "B1/t2_a.png"]
    assert {shot.label for shot in shots} == {"review"}


def test_without_a_format_files_are_copied_byte_by_byte(dataset: Path) -> None:
    shot = replay(originals(dataset), template=None, batch="B1", encoding=None)[0]
    assert shot.take().data == (dataset / "t1_a.png").read_bytes()


def test_8_bits_become_16_bit_dicom_with_the_same_grey(dataset: Path) -> None:
    encoding = Encoding("dicom", 16, "MONOCHROME1")
    shot = replay(originals(dataset), template="{batch}/{part}_{view}", batch="B1", encoding=encoding)[2]
    data = pydicom.dcmread(io.BytesIO(shot.take().data))
    assert shot.path == "B1/t2_1.dcm"
    assert (data.PatientID, data.ViewPosition) == ("t2", "1")
    assert np.array_equal(65535 - data.pixel_array.astype(int), GREY.astype(int) * 257)


def test_masks_are_binary_above_127(dataset: Path) -> None:
    mask = replay(originals(dataset), template=None, batch="B", encoding=None)[2].take().mask
    assert mask is not None
    assert np.array_equal(mask > 0, GREY > 40)
    assert set(np.unique(mask)) == {0, 255}


def test_colour_is_read_as_rgb_whatever_the_format(tmp_path: Path) -> None:
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[...] = (200, 100, 50)
    cv2.imwrite(str(tmp_path / "a.png"), colour[:, :, ::-1])
    tifffile.imwrite(tmp_path / "b.tif", colour, photometric="rgb")
    assert np.array_equal(read_pixels(tmp_path / "a.png"), colour)
    assert np.array_equal(read_pixels(tmp_path / "b.tif"), colour)


def test_two_images_of_one_name_are_refused(dataset: Path) -> None:
    with pytest.raises(UsageError, match="2 images would be called B/t1"):
        replay(originals(dataset), template="{batch}/{part}", batch="B", encoding=None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("label\ngood\n", DataError),
        ("path,label\na.png,broken\n", DataError),
        ("path,label\n,good\n", DataError),
        ("path,label\n", DataError),
        ("path,label\ngone.png,good\n", MissingInputError),
        ("path\n\xff", DataError),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, text: str, error: type[EdgeError]) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_bytes(text.encode("latin-1"))
    with pytest.raises(error):
        originals(manifest)


def test_what_is_not_there_or_not_an_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        originals(tmp_path / "nowhere")
    with pytest.raises(MissingInputError):
        originals(tmp_path)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"x\.png"):
        read_pixels(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((5, 8, 9), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match="one page"):
        read_pixels(tmp_path / "pages.tif")


def test_styles_are_dealt_out_by_their_shares(dataset: Path) -> None:
    shots = replay(originals(dataset), template=None, batch="B", encoding=None)
    assert {shot.style for shot in with_styles(shots, 0, Mix(0, 0, 1.0))} == {"truncated"}


def written(shots: list[Shot], truth: Truth) -> list[dict[str, str]]:
    for shot in shots:
        truth.add(shot, shot.take())
    truth.close()
    with truth.manifest.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_truth_points_back_at_the_frames_and_their_masks(tmp_path: Path) -> None:
    shots = plan(6, seed=1, mix=Mix(1.0))
    rows = written(shots[::-1], Truth(tmp_path / "truth", tmp_path / "in"))
    assert tuple(rows[0]) == COLUMNS
    assert [row["path"] for row in rows] == [f"../in/{shot.path}" for shot in shots], "parts stay together"
    for row, shot in zip(rows, shots, strict=True):
        assert (row["label"], row["part"], row["view"]) == (shot.label, shot.part, shot.view)
        assert bool(row["mask"]) == (shot.label == "defect")
        if row["mask"]:
            mask = cv2.imread(str(tmp_path / "truth" / row["mask"]), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(mask, shot.take().mask)


def test_the_truth_can_be_replayed_as_a_manifest(tmp_path: Path) -> None:
    shots = plan(6, seed=1, mix=Mix(1.0))
    for shot in shots:
        (tmp_path / "in" / shot.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / shot.path).write_bytes(shot.take().data)
    written(shots, Truth(tmp_path / "truth", tmp_path / "in"))
    again = replay(originals(tmp_path / "truth"), template=None, batch="B01", encoding=None)
    assert [(shot.path, shot.take().data) for shot in again] == [
        (shot.path, shot.take().data) for shot in shots
    ]


def test_the_truth_keeps_out_of_the_scanned_folder_and_overwrites_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="outside"):
        Truth(tmp_path / "in/truth", tmp_path / "in")
    truth = Truth(tmp_path / "truth", tmp_path / "in")
    truth.add(plan(1, seed=0)[0], Capture(b""))
    truth.close()
    with pytest.raises(CannotWriteError, match="exists"):
        Truth(tmp_path / "truth", tmp_path / "in")
