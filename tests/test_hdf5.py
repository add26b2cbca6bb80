"""Stores: nothing of a frame is lost, a kill costs one frame, and bad input is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from edge.artifacts import write_signed_json
from edge.crops import MaskedCrops, Rectangle, objects, read_crops
from edge.dataset import Sample, samples
from edge.decode import Limits, decode
from edge.errors import DataError, MissingInputError, TryAgainError, UsageError
from edge.hdf5 import StoredCrop, load_crop, open_store, stored_samples
from edge.pack import _only_one, pack, to_stored
from edge.pack_cli import pack as pack_command
from edge.preprocess import PreprocessSpec, to_plane
from edge.types import Picture
from tests.decode.builders import dicom, grey
from tests.sites import blurring_bundle

LIMITS = Limits(10_000_000, 8)


def films(folder: Path, count: int = 3, bits: int = 12, photometric: str = "MONOCHROME1") -> list[Sample]:
    """DICOM films of a folder, none like the other."""
    folder.mkdir(exist_ok=True)
    for k in range(count):
        pixels = grey(bits, height=300 + k, width=400, seed=k)
        (folder / f"P{k}_01.dcm").write_bytes(dicom(pixels, bits=bits, photometric=photometric))
    return list(samples(folder, template="{part}_{view}").samples)


def stored(store: Path) -> list[tuple[StoredCrop, Picture]]:
    """Every crop of a store with its pixels."""
    with open_store(store) as crops:
        return [(crop, crop.picture()) for crop in crops]


def source_values(values: np.ndarray, source: dict[str, float], bits: int) -> np.ndarray:  # type: ignore[type-arg]
    """What hdf5.py's docstring promises."""
    low, high = source["low"], source["high"]
    return np.rint(low + values * ((high - low) / (2**bits - 1)))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_sixteen_bits_give_every_stored_value_back(tmp_path: Path, bits: int, photometric: str) -> None:
    wanted = films(tmp_path / "in", 2, bits, photometric)
    packed = pack(wanted, tmp_path / "s.h5", LIMITS)
    assert (packed.frames, packed.crops, packed.written) == (2, 2, 2)
    for (crop, picture), sample in zip(stored(packed.store), wanted, strict=True):
        (original,) = decode(sample.file.read_bytes(), sample.path, LIMITS)
        assert (source_values(picture.pixels, crop.source, 16) == original.pixels).all()  # type: ignore[arg-type]
        assert (crop.source["photometric"], crop.source["source_bits"]) == (photometric, bits)
        assert crop.source["clipped"] == 0
        assert (crop.name, crop.sample.part, crop.sample.view) == (sample.path, sample.part, "01")
        assert crop.tags["PatientID"] == "P000123"
        same = to_plane(original, PreprocessSpec())
        assert np.abs(to_plane(picture, PreprocessSpec()) - same).max() < 1 / 65535


def test_polarity_is_turned_so_that_bright_is_bright() -> None:
    dark_is_large = np.array([[0, 4095]], np.uint16)
    assert to_stored(dark_is_large, 4095, 0, 8)[0].tolist() == [[255, 0]]
    assert to_stored(dark_is_large, 0, 4095, 16)[0].tolist() == [[0, 65535]]


@given(
    st.lists(st.integers(-40_000, 70_000), min_size=1, max_size=50),
    st.integers(-40_000, 70_000),
    st.integers(-40_000, 70_000),
    st.sampled_from([8, 16]),
)
def test_mapping_is_linear_clips_and_counts(values: list[int], low: int, high: int, bits: int) -> None:
    pixels = np.array([values], np.int32)
    stored, clipped = to_stored(pixels, low, high, bits)  # type: ignore[arg-type]
    top = 2**bits - 1
    if low == high:
        assert not stored.any()
        return
    exact = (pixels - low) / (high - low) * top
    assert (np.abs(stored - np.clip(exact, 0, top)) <= 0.5 + 1e-6).all()
    assert clipped == (np.rint(exact) != np.clip(np.rint(exact), 0, top)).sum()


def test_pixels_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        to_stored(np.array([[np.nan]], np.float32), 0, 1, 16)


def test_a_value_range_of_the_source_means_the_same_in_the_store(tmp_path: Path) -> None:
    wanted = films(tmp_path / "in", 1, 12, "MONOCHROME1")
    pack(wanted, tmp_path / "s.h5", LIMITS)
    (original,) = decode(wanted[0].file.read_bytes(), "x", LIMITS)
    ((crop, picture),) = stored(tmp_path / "s.h5")
    plane = to_plane(picture, PreprocessSpec(), crop.value_range((3000.0, 500.0)))
    assert np.abs(plane - to_plane(original, PreprocessSpec(), (3000.0, 500.0))).max() < 1e-4
    assert crop.truth is None


def test_the_same_command_again_writes_nothing_and_new_frames_are_added(tmp_path: Path) -> None:
    wanted = films(tmp_path / "in", 3)
    store = tmp_path / "s.h5"
    pack(wanted[:2], store, LIMITS)
    before = store.stat()
    assert pack(wanted[:2], store, LIMITS).written == 0
    assert store.stat().st_ino == before.st_ino
    assert pack(wanted, store, LIMITS).written == 1
    assert [crop.name for crop, _ in stored(store)] == [s.path for s in wanted]
    assert not list(tmp_path.glob(".s.h5*"))


def test_a_file_that_changed_is_packed_again(tmp_path: Path) -> None:
    wanted = films(tmp_path / "in", 2)
    pack(wanted, tmp_path / "s.h5", LIMITS)
    wanted[0].file.write_bytes(dicom(grey(12, height=20, width=30), bits=12))
    assert pack(wanted, tmp_path / "s.h5", LIMITS).written == 1
    assert stored(tmp_path / "s.h5")[0][1].pixels.shape == (20, 30)


def test_other_bits_or_other_frames_do_not_replace_a_store(tmp_path: Path) -> None:
    wanted = films(tmp_path / "in", 2)
    pack(wanted, tmp_path / "s.h5", LIMITS)
    with pytest.raises(UsageError, match="--bits 16"):
        pack(wanted, tmp_path / "s.h5", LIMITS, bits=8)
    with pytest.raises(UsageError, match="P1_01"):
        pack(wanted[:1], tmp_path / "s.h5", LIMITS)
    (tmp_path / "other.h5").write_bytes(b"not HDF5")
    with pytest.raises(DataError, match=r"other\.h5"):
        pack(wanted, tmp_path / "other.h5", LIMITS)
    assert (tmp_path / "other.h5").read_bytes() == b"not HDF5"


def test_crops_come_from_a_table(tmp_path: Path) -> None:
    wanted = films(tmp_path / "in", 3)
    table = tmp_path / "in" / "crops.csv"
    table.write_text(
        "path,x,y,w,h,name\nP0_01.dcm,10,20,64,50,seam\nP0_01.dcm,0,0,5,6,\nP2_01.dcm,300,200,100,102,\n"
    )
    packed = pack(wanted, tmp_path / "s.h5", LIMITS, crops=read_crops(table, wanted))
    assert (packed.frames, packed.crops, packed.left_out) == (2, 3, ("P1_01.dcm",))
    with open_store(tmp_path / "s.h5") as crops:
        first, second, third = crops
        assert first.box == Rectangle(10, 20, 64, 50, "seam")
        assert (first.name, second.name, third.name) == (
            "P0_01.dcm#00_0000",
            "P0_01.dcm#00_0001",
            "P2_01.dcm",
        )
        (whole,) = decode(wanted[0].file.read_bytes(), "x", LIMITS)
        window = source_values(first.pixels[5:9, 3:60], first.source, 16)  # type: ignore[arg-type]
        assert (window == whole.pixels[25:29, 13:70]).all()
    samples_ = stored_samples(tmp_path / "s.h5")
    assert [s.path for s in samples_] == ["P0_01.dcm#00_0000", "P0_01.dcm#00_0001", "P2_01.dcm"]
    for sample, (_, picture) in zip(samples_, stored(tmp_path / "s.h5"), strict=True):
        loaded = load_crop(sample.file, sample.path)
        assert (loaded.picture().pixels == picture.pixels).all()
        assert (loaded.sample, loaded.truth) == (sample, None)
    with pytest.raises(DataError, match="no crop P1_01"):
        load_crop(tmp_path / "s.h5", "P1_01.dcm")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("P9_01.dcm,0,0,5,5", r"crops\.csv:2: P9_01\.dcm: not among"),
        ("P0_01.dcm,0,0,5,", r"crops\.csv:2: x, y, w, h are not"),
        ("P0_01.dcm,0,0", r"crops\.csv:2: x, y, w, h are not"),
        ("P0_01.dcm,-1,0,5,5", r"crops\.csv:2: -1,0,5,5 is no rectangle"),
    ],
)
def test_a_bad_row_of_crops_is_named(tmp_path: Path, row: str, said: str) -> None:
    wanted = films(tmp_path / "in", 1)
    table = tmp_path / "in" / "crops.csv"
    table.write_text(f"path,x,y,w,h\n{row}\n")
    with pytest.raises(DataError, match=said):
        read_crops(table, wanted)


def test_a_crop_beyond_its_frame_is_listed_with_its_reason(tmp_path: Path) -> None:
    wanted = films(tmp_path / "in", 2)
    table = tmp_path / "in" / "crops.csv"
    table.write_text("path,x,y,w,h\nP0_01.dcm,0,0,401,5\nP1_01.dcm,0,0,5,5\n")
    packed = pack(wanted, tmp_path / "s.h5", LIMITS, crops=read_crops(table, wanted))
    assert [(bad.path, bad.reason) for bad in packed.unreadable] == [("P0_01.dcm", "crop_outside")]
    assert packed.frames == 1


def test_objects_of_a_mask_are_cut_out_with_a_margin(tmp_path: Path) -> None:
    pixels = np.zeros((200, 300), np.uint8)
    pixels[20:120, 30:90] = pixels[100:190, 200:295] = 200
    pixels[5:8, 5:8] = 200  # a speck
    cv2.imwrite(str(tmp_path / "a.png"), pixels)

    def mask_of(plane: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.asarray(plane[::2, ::2] > 0.5)  # of half the size, as a network's

    cropper = MaskedCrops(mask_of, "bright", margin_px=8, least_px=100)
    pack([Sample(tmp_path / "a.png", "a.png", "good")], tmp_path / "s.h5", LIMITS, crops=cropper)
    with open_store(tmp_path / "s.h5") as crops:
        assert [c.box for c in crops] == [Rectangle(22, 12, 76, 116), Rectangle(192, 92, 108, 106)]


@given(st.integers(1, 5), st.integers(0, 20))
def test_crops_of_objects_lie_inside_and_hold_them(scale: int, margin: int) -> None:
    mask = np.zeros((30, 40), bool)
    mask[0:10, 0:12] = mask[20:30, 25:40] = True
    big = np.kron(mask, np.ones((scale, scale), bool))
    held = np.zeros_like(big)
    for box in objects(mask, big.shape, margin, 1):  # type: ignore[arg-type]
        assert min(box.x, box.y) >= 0
        assert box.x + box.w <= big.shape[1]
        assert box.y + box.h <= big.shape[0]
        held[box.y : box.y + box.h, box.x : box.x + box.w] = True
    assert held[big].all()


def test_truth_travels_with_its_crop(tmp_path: Path) -> None:
    (sample,) = films(tmp_path / "in", 1)
    mask = np.zeros((300, 400), np.uint8)
    mask[40:50, 60:80] = 255
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    marked = Sample(sample.file, sample.path, "defect", tmp_path / "m.png", part="P0", split="train")
    table = tmp_path / "in" / "crops.csv"
    table.write_text("path,x,y,w,h\nP0_01.dcm,50,30,100,40\n")
    pack([marked], tmp_path / "s.h5", LIMITS, crops=read_crops(table, [marked]))
    (got,) = stored_samples(tmp_path / "s.h5")
    assert (got.label, got.part, got.split) == ("defect", "P0", "train")
    crop = load_crop(tmp_path / "s.h5", got.path)
    assert (crop.mask() == (mask[30:70, 50:150] > 0)).all()
    assert crop.picture().pixels.shape == crop.mask().shape
    cv2.imwrite(str(tmp_path / "m.png"), mask[:-1])
    with pytest.raises(DataError, match="its frame 400×300"):
        pack([marked], tmp_path / "t.h5", LIMITS)


def test_a_frame_with_masks_of_several_classes_is_refused_by_name(tmp_path: Path) -> None:
    crack, other = films(tmp_path / "in", 2)
    masks = {name: tmp_path / f"{name}.png" for name in ("crack", "pore")}
    for file in masks.values():
        cv2.imwrite(str(file), np.full((300, 400), 255, np.uint8))
    both = replace(crack, label="defect", mask=masks["crack"], masks=masks, defect="crack,pore")
    packed = pack([both, other], tmp_path / "s.h5", LIMITS)
    assert [(bad.path, bad.reason) for bad in packed.unreadable] == [("P0_01.dcm", "several_classes")]
    assert "crack, pore" in packed.unreadable[0].message
    assert [sample.path for sample in stored_samples(tmp_path / "s.h5")] == ["P1_01.dcm"]
    one = replace(both, masks={"crack": masks["crack"]}, defect="crack")
    assert not pack([one, other], tmp_path / "s.h5", LIMITS).unreadable


def test_unreadable_frames_are_listed_and_the_rest_is_packed(tmp_path: Path) -> None:
    wanted = films(tmp_path / "in", 2)
    wanted[0].file.write_bytes(wanted[0].file.read_bytes()[:-1000])
    packed = pack(wanted, tmp_path / "s.h5", LIMITS)
    assert [(bad.path, bad.reason) for bad in packed.unreadable] == [("P0_01.dcm", "truncated")]
    assert packed.frames == 1
    wanted[1].file.unlink()
    with pytest.raises(DataError, match="none of 2"):
        pack(wanted, tmp_path / "t.h5", LIMITS)
    assert not list(tmp_path.glob(".t.h5*"))


def test_a_store_that_is_cut_short_or_missing_is_named(tmp_path: Path) -> None:
    pack(films(tmp_path / "in", 2), tmp_path / "s.h5", LIMITS)
    data = (tmp_path / "s.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.h5: no HDF5 file, or cut short"):
        stored(tmp_path / "cut.h5")
    with pytest.raises(DataError, match="fix: delete it, or name another --out"):
        pack(films(tmp_path / "in", 2), tmp_path / "cut.h5", LIMITS)
    with pytest.raises(MissingInputError, match="edge pack"):
        stored(tmp_path / "none.h5")
    with h5py.File(tmp_path / "alien.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="not a store"):
        stored(tmp_path / "alien.h5")


def test_one_process_at_a_time_writes_a_store(tmp_path: Path) -> None:
    with _only_one(tmp_path / ".s.h5.parts"), pytest.raises(TryAgainError, match="another"):
        pack(films(tmp_path / "in", 1), tmp_path / "s.h5", LIMITS)


KILLED = """
import os, signal, sys
from pathlib import Path
from edge.artifacts import write_signed_json
from edge.crops import Rectangle
from edge.dataset import samples
from edge.decode import Limits
from edge.pack import pack

class Dies:
    "Gives the fatal frame half of its crops, flushed to disk by HDF5 or not, and is killed."
    def key(self, sample): return "whole"
    def __call__(self, sample, picture):
        h, w = picture.pixels.shape
        yield Rectangle(0, 0, w, h)
        if sample.path == sys.argv[3]: os.kill(os.getpid(), signal.SIGKILL)

def at(text, share):
    if text.startswith("assembling") and sys.argv[3] == "assembling" and share > 0.4:
        os.kill(os.getpid(), signal.SIGKILL)

pack(samples(Path(sys.argv[1])).samples, Path(sys.argv[2]), Limits(10_000_000, 8), crops=Dies(), on_frame=at)
"""


@pytest.mark.parametrize(
    ("fatal", "times", "kept"), [("P0_01.dcm", 1, 0), ("P2_01.dcm", 2, 2), ("assembling", 1, 4)]
)
def test_a_kill_costs_at_most_the_frame_being_written(
    tmp_path: Path, fatal: str, times: int, kept: int
) -> None:
    """However often it is killed at the same place, the store is still what an undisturbed run gives."""
    films(tmp_path / "in", 4)
    wanted = samples(tmp_path / "in").samples
    store = tmp_path / "s.h5"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    for _ in range(times):
        command = [sys.executable, "-c", KILLED, tmp_path / "in", store, fatal]
        done = subprocess.run(command, env=environment, check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
        assert not store.exists()

    class Whole:
        def key(self, sample: Sample) -> str:
            return "whole"

        def __call__(self, sample: Sample, picture: Picture) -> Iterable[Rectangle]:
            height, width = picture.pixels.shape[:2]
            return [Rectangle(0, 0, width, height)]

    packed = pack(wanted, store, LIMITS, crops=Whole())
    assert (packed.frames, packed.written) == (4, 4 - kept)
    for (crop, picture), sample in zip(stored(store), wanted, strict=True):
        (original,) = decode(sample.file.read_bytes(), "x", LIMITS)
        assert (source_values(picture.pixels, crop.source, 16) == original.pixels).all()  # type: ignore[arg-type]
    assert not list(tmp_path.glob(".s.h5*"))


def test_the_command_answers_in_json_and_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    films(tmp_path / "in", 2)
    pack_command(Path("in"), Path("s.h5"), bits="8", as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["frames"], facts["crops"], facts["unreadable"]) == (2, 2, [])
    assert stored(Path("s.h5"))[0][1].pixels.dtype == np.uint8
    (tmp_path / "in" / "P1_01.dcm").write_bytes(b"no film at all")
    with pytest.raises(typer.Exit) as ended:
        pack_command(Path("in"), Path("s.h5"), bits="8")
    assert ended.value.exit_code == 65
    assert "P1_01.dcm: only 14 bytes" in capsys.readouterr().err


def test_crops_are_the_boxes_around_what_a_mask_recipe_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network here blurs, so that what is bright is the foreground."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    engine = blurring_bundle(tmp_path / "engines/finder")
    for truth in ("none", "foreground"):
        manifest = engine.manifest.model_copy(update={"training": {"truth": truth}})
        write_signed_json(engine.folder / "bundle.json", manifest)
        picture = np.zeros((320, 320), np.uint8)
        picture[60:200, 100:260] = 255
        (tmp_path / "frames").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "frames/a.png"), picture)
        if truth == "none":
            with pytest.raises(UsageError, match="finds no foreground"):
                pack_command(Path("frames"), Path("a.h5"), crop_recipe="finder", as_json=True)
            continue
        pack_command(Path("frames"), Path("a.h5"), crop_recipe="finder", as_json=True)
    assert json.loads(capsys.readouterr().out)["crops"] == 1
    ((crop, kept),) = stored(tmp_path / "a.h5")
    x, y, w, h = crop.box.x, crop.box.y, crop.box.w, crop.box.h
    assert (x <= 100, y <= 60, x + w >= 260, y + h >= 200) == (True, True, True, True)
    assert w * h < 0.6 * picture.size
    assert kept.pixels.shape == (h, w)
