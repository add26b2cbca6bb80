"""What `edge inspect --out` leaves: frames sorted by copy or link, and pictures of why."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.decode import Limits
from edge.errors import UsageError
from edge.infer.bundle import Bundle, ScoreSpec
from edge.inspect import Keeper, distinct, frame_files
from edge.judge.calibration import Calibration
from edge.pipeline import Inspection, Inspector, PrepareJob, prepare_file
from edge.testing import FakeRuntime, fake_bundle, fake_calibration, write_frame


def inspector(folder: Path, **manifest: object) -> Inspector:
    bundle: Bundle = fake_bundle(folder / "bundle")
    changed = bundle.manifest.model_copy(update=manifest)
    calibration: Calibration = fake_calibration(bundle)
    return Inspector(bundle.model_copy(update={"manifest": changed}), FakeRuntime(), calibration)


def inspected(ready: Inspector, file: Path) -> Inspection:
    job = PrepareJob(file, file.name, None, ready.bundle.manifest.preprocess, Limits(10**6, 1))
    (inspection,) = ready.inspect(prepare_file(job))
    return inspection


def payload(evaluation: str) -> dict[str, object]:
    return {"resultEvaluation": evaluation, "image": {}}


@pytest.mark.parametrize("sort", ["copy", "link"])
def test_a_frame_lies_where_its_latest_verdict_puts_it_and_the_original_stays(
    tmp_path: Path, sort: str
) -> None:
    ready, file = inspector(tmp_path), write_frame(tmp_path / "in/a.png", defect=True)
    before = file.read_bytes()
    for verdict, folder in (("OK", "io"), ("NotOK", "nio"), ("NotOK", "nio")):
        Keeper(tmp_path / "out", ready, sort).keep(  # type: ignore[arg-type]
            file, "in/a.png", payload(verdict), inspected(ready, file)
        )
        kept = tmp_path / "out" / folder / "in/a.png"
        assert kept.is_symlink() == (sort == "link")
        assert kept.read_bytes() == before
    assert not (tmp_path / "out/io/in/a.png").exists()
    assert file.read_bytes() == before
    assert (tmp_path / "out/overlay/in/a.png.jpg").is_file()


def test_classes_and_fragments_have_a_picture_and_a_table(tmp_path: Path) -> None:
    ready = inspector(tmp_path, classes=("crack",), score=ScoreSpec(map="l2", statistic="std", of="fragment"))
    file = write_frame(tmp_path / "a.png", defect=True)
    Keeper(tmp_path / "out", ready).keep(file, "a.png", payload("NotOK"), inspected(ready, file))
    assert cv2.imread(str(tmp_path / "out/classes/a.png.png")) is not None
    header, *rows = (tmp_path / "out/fragments/a.png.csv").read_text().splitlines()
    assert header.startswith("x,y,w,h,")
    boxes = np.array([row.split(",")[:4] for row in rows], int)
    assert (boxes[:, 0] + boxes[:, 2]).max() == 64
    assert (boxes[:, 1] + boxes[:, 3]).max() == 48


def test_frames_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for folder in ("A", "B"):
        write_frame(tmp_path / folder / "x.png")
    found = list(frame_files([tmp_path / "A", tmp_path / "B", tmp_path / "A/x.png"]))
    names = [name for _, name in distinct(found, None)]
    assert names == [(tmp_path / "A/x.png").as_posix(), (tmp_path / "B/x.png").as_posix()]
    assert [name for _, name in distinct(list(frame_files([tmp_path / "A"])), None)] == ["x.png"]


def test_an_out_folder_around_all_frames_is_refused(tmp_path: Path) -> None:
    write_frame(tmp_path / "A/x.png")
    with pytest.raises(UsageError, match="holds all these frames"):
        distinct(list(frame_files([tmp_path / "A"])), tmp_path)
