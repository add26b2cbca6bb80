import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import CannotWriteError
from edge.judge.statistics import summarise
from edge.record import evidence
from edge.types import Defect, Fragments, Frame, ImageInfo, Judgement, ObjectJudgement

DAY_S = 86400.0


def test_the_overlay_is_coloured_where_the_map_is_high_and_grey_elsewhere() -> None:
    plane = np.full((60, 80), 0.5, np.float32)
    values = np.zeros_like(plane)
    values[20:30, 30:40] = 1.0
    picture = evidence.overlay(plane, values, 0.5, [(30, 20, 10, 10)])
    assert np.ptp(picture[5, 5]) == 0
    assert np.ptp(picture[25, 35].astype(int)) > 30
    assert tuple(picture[18, 35]) == (60, 60, 255)  # the box, two pixels outside the region


def test_pictures_are_saved_by_day_and_result_and_read_back(tmp_path: Path) -> None:
    where = evidence.save(tmp_path, "01ABC", 0.0, {"overlay.jpg": np.zeros((10, 20, 3), np.uint8)})
    assert where == "1970-01-01/01ABC"
    assert cv2.imread(str(tmp_path / where / "overlay.jpg")).shape == (10, 20, 3)


@pytest.mark.parametrize("shape", [(100, 8192), (3, 40000)])
def test_pictures_of_huge_planes_are_reduced(shape: tuple[int, int]) -> None:
    plane = np.zeros(shape, np.float32)
    frame = Frame(ImageInfo("a", "s", shape[1], shape[0], 8), plane)
    score = summarise(plane, plane, "peak", 4)
    made = evidence.pictures(frame, score, Judgement("NotOK", (), pixel_threshold=1.0))
    assert made["heatmap.png"].shape == (max(1, round(shape[0] * 6144 / shape[1])), 6144)
    assert made["overlay.jpg"].shape[:2] == (max(1, round(shape[0] * 4096 / shape[1])), 4096)
    assert evidence.layers(frame, None)["preprocessed.jpg"].shape == made["heatmap.png"].shape


def test_layers_have_the_planes_own_pixels_and_say_where_they_lie() -> None:
    plane = np.linspace(-0.5, 1.5, 20 * 30, dtype=np.float32).reshape(20, 30)
    frame = Frame(ImageInfo("a", "s", 60, 40, 8), plane)
    made = evidence.layers(frame, np.full((20, 30), 7, np.uint8))
    assert {name: one.shape for name, one in made.items()} == {
        "preprocessed.jpg": (20, 30), "reconstruction.jpg": (20, 30),
    }  # fmt: skip
    assert (made["preprocessed.jpg"][0, 0], made["preprocessed.jpg"][-1, -1]) == (0, 255)  # not wrapped round
    geometry = json.loads(evidence.geometry(frame, made))
    assert geometry["plane"] == [30, 20] == geometry["pictures"]["preprocessed.jpg"]
    assert geometry["planeToFrame"] == [[2, 0, 0], [0, 2, 0], [0, 0, 1]]
    assert geometry["isScaled"] is True


def test_a_frame_that_was_not_scored_still_shows_itself() -> None:
    frame = Frame(ImageInfo("a", "s", 30, 20, 8), np.full((20, 30), 0.5, np.float32))
    assert set(evidence.pictures(frame, None, Judgement("NotDecidable", ()))) == {"overlay.jpg"}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "1970-01-01").write_bytes(b"in the way")
    with pytest.raises(CannotWriteError, match="evidence"):
        evidence.save(tmp_path, "x", 0.0, {})


def test_pruning_goes_by_age_then_by_size_oldest_first(tmp_path: Path) -> None:
    picture = {"heatmap.png": np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)}
    for day in range(5):
        evidence.save(tmp_path, f"id{day}", day * DAY_S, picture)
    size = (tmp_path / "1970-01-01" / "id0" / "heatmap.png").stat().st_size
    assert evidence.prune(tmp_path, max_age_days=3, max_bytes=10**9, now_unix_s=4 * DAY_S) == 1
    assert not (tmp_path / "1970-01-01").exists()
    assert evidence.prune(tmp_path, max_age_days=99, max_bytes=2 * size, now_unix_s=4 * DAY_S) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1970-01-04", "1970-01-05"]


def test_pruning_passes_over_what_is_not_ours(tmp_path: Path) -> None:
    evidence.save(tmp_path, "id0", 0.0, {"heatmap.png": np.zeros((9, 9), np.uint8)})
    (tmp_path / "notes.txt").write_text("kept")
    (tmp_path / "1970-01-01" / ".DS_Store").write_text("kept")
    assert evidence.prune(tmp_path, max_age_days=36500, max_bytes=0, now_unix_s=DAY_S) == 1
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "1970-01-01" / ".DS_Store").exists()


def test_boxes_of_defects_and_objects_lie_on_the_plane_where_the_frame_was_larger() -> None:
    plane = np.full((60, 80), 0.5, np.float32)
    frame = Frame(ImageInfo("a", "s", 160, 120, 8), plane)
    score = summarise(plane, np.zeros_like(plane), "peak", 4)
    judgement = Judgement(
        "NotOK",
        (),
        pixel_threshold=0.5,
        defects=(Defect("anomaly", 100, 0.02, (60, 40, 20, 20), 2.0),),
        objects=(ObjectJudgement((100, 60, 20, 20), 400, 0.5, "OK"),),
    )
    picture = evidence.pictures(frame, score, judgement)["overlay.jpg"]
    assert tuple(picture[18, 35]) == evidence.DEFECT
    assert tuple(picture[26, 55]) == evidence.OBJECT["OK"]


def test_classes_have_a_picture_of_their_own() -> None:
    plane = np.full((60, 80), 0.5, np.float32)
    layers = np.zeros((2, 60, 80), np.float32)
    layers[1, 20:30, 30:40] = 0.9
    frame = Frame(ImageInfo("a", "s", 80, 60, 8), plane)
    score = replace(summarise(plane, layers.max(axis=0), "peak", 4), layers=layers)
    judgement = Judgement("NotOK", (), pixel_threshold=0.5, class_areas={"crack": 0, "pit": 100})
    picture = evidence.pictures(frame, score, judgement, ("crack", "pit"))["classes.png"]
    assert np.ptp(picture[25, 35].astype(int)) > 30
    assert np.ptp(picture[5, 5].astype(int)) == 0


def test_the_table_of_fragments_has_a_line_each() -> None:
    boxes = np.array([[0, 0, 64, 64], [32, 0, 64, 64]], np.int32)
    fragments = Fragments(boxes, {"mse": np.array([0.5, 0.25], np.float32)})
    plane = np.zeros((64, 96), np.float32)
    text = evidence.fragments_csv(replace(summarise(plane, plane, "peak", 4), fragments=fragments))
    assert text.splitlines() == ["x,y,w,h,mse", "0,0,64,64,0.5", "32,0,64,64,0.25"]


PICTURE = {"heatmap.png": np.zeros((9, 9), np.uint8)}


def test_evidence_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full(file: Path, content: bytes) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write_bytes(content)
        written.append(file)

    monkeypatch.setattr(evidence, "_write", full)
    with pytest.raises(CannotWriteError) as raised:
        evidence.save(tmp_path, "id0", 0.0, PICTURE, {"fragments.csv": "x"})
    assert raised.value.reason == "disk_full"
    assert written
    assert [file for file in tmp_path.rglob("*") if file.name != "1970-01-01"] == []


def test_evidence_leaves_the_last_space_to_verdicts(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(CannotWriteError) as raised:
        evidence.save(tmp_path / "evidence", "id0", 0.0, PICTURE, min_free_bytes=free * 2)
    assert raised.value.reason == "disk_full"
    assert not (tmp_path / "evidence").exists()
    evidence.save(tmp_path / "evidence", "id0", 0.0, PICTURE, min_free_bytes=0)


def test_what_is_kept_free_is_a_gigabyte_or_a_tenth_of_a_smaller_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for total, wanted in ((4e9, 4e8), (4e12, 1e9)):
        usage = shutil._ntuple_diskusage(int(total), 0, int(total))  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, usage=usage: usage)
        assert evidence.wanted_free(tmp_path, None) == wanted
        assert evidence.wanted_free(tmp_path, 5) == 5


def test_room_is_made_by_the_oldest_and_no_more_than_is_needed(tmp_path: Path) -> None:
    for day in range(5):
        evidence.save(tmp_path, f"id{day}", day * DAY_S, PICTURE)
    size = (tmp_path / "1970-01-01" / "id0" / "heatmap.png").stat().st_size
    assert evidence.make_room(tmp_path, 2 * size) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1970-01-03", "1970-01-04", "1970-01-05"]
    assert evidence.make_room(tmp_path, 10**9) == 3
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_half_written_goes_later_and_is_not_taken_for_a_result(tmp_path: Path) -> None:
    evidence.save(tmp_path, "id1", 0.0, PICTURE)
    half = tmp_path / "1970-01-01" / f".id0{evidence.UNFINISHED}"
    half.mkdir()
    written_s = half.stat().st_mtime
    keep = {"max_age_days": 36500, "max_bytes": 10**9}
    assert evidence.make_room(tmp_path, 1) == 1
    assert half.exists()
    evidence.prune(tmp_path, **keep, now_unix_s=written_s + 60)
    assert half.exists()  # it may be being written
    evidence.prune(tmp_path, **keep, now_unix_s=written_s + 2 * evidence.UNFINISHED_S)
    assert not half.exists()


def test_evidence_without_a_verdict_ages_like_any_other(tmp_path: Path) -> None:
    """A crash between pictures and transaction leaves it: nothing refers to it, and nothing need do so."""
    for day in range(3):
        evidence.save(tmp_path, f"id{day}", day * DAY_S, PICTURE)
    assert evidence.prune(tmp_path, max_age_days=1, max_bytes=10**9, now_unix_s=2 * DAY_S) == 1


@pytest.mark.parametrize("ahead_days", [31, 3650])
def test_a_clock_that_jumped_ahead_lets_no_evidence_age(tmp_path: Path, ahead_days: int) -> None:
    for day in range(5):
        evidence.save(tmp_path, f"id{day}", day * DAY_S, PICTURE)
    keep = {"max_age_days": 20, "max_bytes": 10**9}
    now = (4 + ahead_days) * DAY_S
    assert evidence.prune(tmp_path, **keep, now_unix_s=now) == 0
    evidence.save(tmp_path, "id9", now, PICTURE)  # results of the wrong time do not hide the gap
    assert evidence.prune(tmp_path, **keep, now_unix_s=now) == 0
    evidence.prune(tmp_path, max_age_days=20, max_bytes=0, now_unix_s=now)  # size still counts
    assert list(tmp_path.iterdir()) == []
