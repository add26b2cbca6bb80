"""What a recipe was learned from, file by file."""

import csv
import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge.dataset import Dataset, Label, Sample, Unreadable
from edge.learn.data_record import counted, record_of
from edge.learn.labels import LabelledPlane
from edge.learn.specimens import Specimen
from edge.testing import write_frame
from edge.types import ImageInfo


def samples(folder: Path) -> tuple[Sample, ...]:
    labels: dict[str, Label] = {
        "a": "good",
        "b": "good",
        "c": "good",
        "d": "defect",
        "e": "good",
        "f": "review",
    }
    found = []
    for name, label in labels.items():
        file = write_frame(folder / f"{name}.png", seed=ord(name))
        found.append(Sample(file, file.name, label, view="01", part=name))
    return tuple(found)


def specimen(sample: Sample) -> Specimen:
    sha256 = hashlib.sha256(sample.file.read_bytes()).hexdigest()
    nothing = np.zeros((2, 2), np.float16)
    labelled = LabelledPlane(nothing, np.zeros((2, 2), np.uint8), 0)
    image = ImageInfo(sample.path, sha256, 64, 48, 8)
    return Specimen(sample, "01", sample.part or "", sha256[:16], labelled, image)


def uses(found: Sequence[Sample]) -> dict[str, list[Specimen]]:
    return {"train": [specimen(found[0])], "validation": [specimen(found[1])],
            "calibration": [specimen(found[2])]}  # fmt: skip


def test_every_file_has_its_role_and_what_was_left_out_its_reason(tmp_path: Path) -> None:
    found = samples(tmp_path)
    found = (*found[:4], replace(found[4], split="test"), found[5])
    broken = replace(found[0], path="z.png", file=tmp_path / "gone.png")
    record = record_of(
        Dataset(tmp_path, (*found, broken), unmatched=("odd.png",)), uses(found),
        [Unreadable("z.png", "truncated", "z.png: ends early")],
    )  # fmt: skip
    roles = {row.path: (row.role, row.reason) for row in record.rows}
    assert roles == {
        "a.png": ("learn", ""),
        "b.png": ("held out", "stops the learning"),
        "c.png": ("calibrate", ""),
        "d.png": ("left out", "a defect; this model learns from good frames"),
        "e.png": ("left out", "set aside for testing"),
        "f.png": ("left out", "labelled review"),
        "z.png": ("left out", "truncated: z.png: ends early"),
        "odd.png": ("left out", "its name does not match the rule"),
    }
    of_test = next(row for row in record.rows if row.path == "e.png")
    assert of_test.sha256 == hashlib.sha256(found[4].file.read_bytes()).hexdigest()
    assert counted(record.used) == [
        {"view": "01", "learn": 1, "held_out": 1, "calibrate": 1, "left_out": 0, "parts": 3}
    ]


def test_the_digest_is_what_a_shell_makes_of_the_table(tmp_path: Path) -> None:
    found = samples(tmp_path)
    record = record_of(Dataset(tmp_path, found), uses(found), [])
    (tmp_path / "data.csv").write_text(record.csv())
    command = """awk -F, 'NR > 1 && $2 != "left out" {print $1}' data.csv | LC_ALL=C sort -u | sha256sum"""
    said = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == record.digest
    fewer = record_of(Dataset(tmp_path, found[:2]), {"train": [specimen(found[0])]}, [])
    assert fewer.digest != record.digest


def test_a_name_that_is_a_formula_is_none_in_a_spreadsheet(tmp_path: Path) -> None:
    evil = Sample(write_frame(tmp_path / "=1.png"), "=1+cmd|'/C calc'!A0.png", "good")
    record = record_of(Dataset(tmp_path, (evil,)), {}, [])
    (row,) = list(csv.DictReader(record.csv().splitlines()))
    assert row["path"].startswith("'=")


def test_frames_that_are_calibrated_by_folds_say_so(tmp_path: Path) -> None:
    found = samples(tmp_path)
    record = record_of(Dataset(tmp_path, found[:1]), {"train": [specimen(found[0])]}, [], crossed=True)
    assert record.rows[0].reason == "calibrated by folds"
