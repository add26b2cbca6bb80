"""Labelled frames → thresholds, without torch: parts count, not frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.calibrate import Calibrated
from edge.calibrate_labelled import calibrate_labelled
from edge.dataset import read_manifest
from edge.decode import Limits
from edge.infer.bundle import Bundle, ScoreSpec
from edge.judge.exchangeability import one_a_part
from edge.judge.thresholds import ThresholdMethod, ThresholdRule
from edge.testing import FakeRuntime, fake_bundle
from edge.types import FloatImage

FRAMES_OF_A_PART = 6
VIEWS = ("1", "2")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Good parts of several frames in two views, each part a little brighter than the last; two defects."""
    rows = ["path,label,mask,view,part,defect,split"]

    def frame(name: str, brightness: float, row: str) -> None:
        pixels = np.full((32, 32), 100, np.uint8)
        pixels[10:20, 10:20] += np.uint8(brightness)
        cv2.imwrite(str(tmp_path / name), pixels)
        rows.append(f"{name},{row}")

    for part in range(5):
        for number in range(FRAMES_OF_A_PART):
            view = VIEWS[number % 2]
            frame(f"g{part}_{number}.png", 10 * part + number, f"good,,{view},P{part},,")
    for number in range(2):
        frame(f"d{number}.png", 120 + number, f"defect,,1,D{number},hole,")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def engine(folder: Path) -> Bundle:
    return fake_bundle(folder / "engine")


def flat(tiles: FloatImage) -> FloatImage:
    return np.full_like(tiles, 100 / 255)  # all but the patch


def run(
    site: Path,
    rate: float,
    *,
    defects: bool = True,
    method: ThresholdMethod = "conformal",
    bound: bool = False,
) -> Calibrated:
    rows = [s for s in read_manifest(site / "manifest.csv") if defects or s.label == "good"]
    bundle = engine(site)
    if bound:
        score = ScoreSpec(map="probability", peak_px=4)
        changed = bundle.manifest.model_copy(update={"score": score, "output": "probability"})
        bundle = bundle.model_copy(update={"manifest": changed})
    answer = (lambda tiles: np.abs(tiles - 100 / 255) * 1.8) if bound else flat
    return calibrate_labelled(
        rows, bundle, FakeRuntime(answer), site / "c.json", recipe="b", rule=ThresholdRule(method, rate),
        limits=Limits(10**7, 8),
    )  # fmt: skip


def test_frames_of_one_part_are_not_evidence_of_as_many(site: Path) -> None:
    """Thirty frames of five parts: as frames they would do for one in twenty, as parts for one in six."""
    enough, few = run(site, 1 / 6), run(site, 0.05)
    for limits in enough.calibration.views.values():
        assert limits.basis == "view"
        assert limits.false_reject_bound == pytest.approx(1 / 6)
    for limits in few.calibration.views.values():
        assert limits.basis == "f1"
        # no part of five is rejected: at 95 % at most 1 − 0.05^(1/5) are; of thirty frames it would be 9.5 %
        assert limits.false_reject_bound == pytest.approx(1 - 0.05 ** (1 / 5))


def test_scores_and_parts_of_a_view_go_together(site: Path) -> None:
    made = run(site, 1 / 6)
    for view, limits in made.calibration.views.items():
        assert limits.parts is not None
        assert len(limits.parts) == len(limits.scores) == sum(f.good.view == view for f in made.frames)
        assert limits.parts_count == len(one_a_part(limits.scores, limits.parts)) == 5
    assert [f.good.part for f in made.frames[:7]] == ["part P0"] * 6 + ["part P1"]


def test_a_view_of_defects_alone_is_held_to_the_good_frames_of_the_others(site: Path) -> None:
    text = (site / "manifest.csv").read_text().replace("defect,,1,", "defect,,3,")
    (site / "manifest.csv").write_text(text)
    limits = run(site, 1 / 6).calibration.views["3"]
    assert len(limits.scores) == 5 * FRAMES_OF_A_PART
    assert limits.parts_count == len(one_a_part(limits.scores, limits.parts)) == 5


def test_parts_of_one_frame_each_need_no_list_of_parts(site: Path) -> None:
    lines = (site / "manifest.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("g") or "_0.png" in line]
    (site / "manifest.csv").write_text("\n".join(kept) + "\n")
    limits = run(site, 1 / 6).calibration.views["1"]
    assert limits.parts is None
    assert len(limits.scores) == limits.parts_count == 5


@pytest.mark.parametrize("bound", [False, True])
def test_without_a_defect_too_few_good_parts_give_the_highest_score_and_some(site: Path, bound: bool) -> None:
    made = run(site, 0.05, defects=False, bound=bound)
    for limits in made.calibration.views.values():
        assert limits.basis == "maximum"
        assert limits.false_reject_bound == pytest.approx(1 / 6)
        assert max(frame.good.raw for frame in made.frames) < limits.threshold
        assert limits.threshold < 1 or not bound
    assert "5 parts bound false rejects to 16.7%" in made.shortfalls()[0]


def test_rules_shaped_by_frames_need_frames(site: Path) -> None:
    limits = run(site, 0.05, method="mad").calibration.views["1"]
    assert (limits.basis, limits.method) == ("view", "mad")
    assert limits.false_reject_bound > 1 / 6
