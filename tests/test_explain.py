"""Which statistic made a frame's score, and where; real defects by size and contrast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.dataset import Sample
from edge.decode import Limits
from edge.evaluate import evaluate, summary
from edge.evaluation_report import write_report
from edge.explain import fired
from edge.infer.bundle import ScoreSpec
from edge.judge.classes import largest_level
from edge.judge.statistics import summarise
from edge.pipeline import Inspection, Inspector
from edge.real_defects import RealDefects, regions
from edge.testing import FakeRuntime, fake_bundle, fake_calibration, write_frame
from edge.truth import Truth
from edge.types import (
    FRAGMENT_STATISTICS,
    Box,
    Defect,
    FloatImage,
    Fragments,
    Frame,
    ImageInfo,
    Judgement,
    ObjectScore,
    Placement,
    Score,
)

PLANE = np.full((60, 80), 0.5, np.float32)


def values(at: Box = (50, 20, 6, 6)) -> FloatImage:
    x, y, w, h = at
    found = np.full((60, 80), 0.1, np.float32)
    found[y : y + h, x : x + w] = 0.9
    return found


def score(statistic: str = "peak", **changes: object) -> Score:
    return replace(summarise(PLANE, values(), statistic, 4), **changes)  # type: ignore[arg-type]


def test_the_peak_fires_where_its_window_is() -> None:
    one = fired(score(), ScoreSpec(map="l1", statistic="peak", peak_px=4), 0.3)
    x, y, w, h = one.box
    assert 50 <= x <= 52
    assert 20 <= y <= 22
    assert (w, h) == (4, 4)
    text = one.text(Placement.scaled((60, 80), 160, 120))  # a frame twice the plane
    assert text.startswith("peak 0.9 (threshold 0.3) at 10")
    assert text.endswith("8×8")


def test_a_figure_of_the_whole_frame_claims_no_place() -> None:
    one = fired(score("mean"), ScoreSpec(map="l1", statistic="mean"), 0.05)
    assert "of the whole frame; the map is highest at" in one.text(Placement.scaled((60, 80), 80, 60))


def test_the_highest_pixel_is_where_max_fires() -> None:
    found = values()
    found[33, 7] = 2.0
    one = fired(summarise(PLANE, found, "max", 4), ScoreSpec(map="l1", statistic="max"), None)
    assert one.box == (7, 33, 1, 1)
    assert "threshold" not in one.text(Placement.scaled((60, 80), 80, 60))


def test_a_level_fires_on_the_region_that_reaches_it() -> None:
    found = values()
    found[5, 5] = 1.0  # a speck, smaller than what counts
    level = largest_level(found, 20)
    spec = ScoreSpec(map="probability", statistic="level", min_area_px=20)
    assert fired(score(raw=level, map=found), spec, 0.5).box == (50, 20, 6, 6)


def test_the_worst_object_and_the_worst_fragment_are_named() -> None:
    objects = (ObjectScore((0, 0, 10, 10), 100, 0.2), ObjectScore((40, 10, 20, 20), 400, 0.8))
    one = fired(score(objects=objects), ScoreSpec(map="l1", of="object"), 0.5)
    assert one.box == (40, 10, 20, 20)
    assert "of the worst object" in one.text(Placement.scaled((60, 80), 80, 60))
    boxes = np.array([[0, 0, 32, 32], [32, 16, 32, 32]], np.int32)
    measured = {name: np.array([0.1, 0.7], np.float32) for name in FRAGMENT_STATISTICS}
    spec = ScoreSpec(map="l1", of="fragment", statistic="std")
    assert fired(score(fragments=Fragments(boxes, measured)), spec, 0.5).box == (32, 16, 32, 32)


def test_a_regions_contrast_is_against_what_lies_around_it() -> None:
    plane = np.tile(np.linspace(0.2, 0.8, 80, dtype=np.float32), (60, 1))
    truth = np.zeros((60, 80), np.bool_)
    truth[20:30, 30:40] = truth[20:30, 44:54] = True  # neighbours, not each other's surroundings
    plane[truth] += 0.1
    found = regions(plane, truth)
    assert [(box, area) for box, area, _ in found] == [((30, 20, 10, 10), 100), ((44, 20, 10, 10), 100)]
    assert [contrast for *_, contrast in found] == pytest.approx([0.1, 0.1], abs=0.03)


def test_real_defects_are_counted_by_size_and_contrast() -> None:
    section = RealDefects()
    assert section.document() is None
    plane = PLANE.copy()
    truth = np.zeros((60, 80), np.bool_)
    truth[10:14, 10:14] = truth[40:50, 60:70] = True
    plane[10:14, 10:14] += 0.05
    plane[40:50, 60:70] -= 0.3
    frame = Frame(ImageInfo("a.png", "", 80, 60), plane)
    boxes = (Defect("anomaly", 100, 0.02, (58, 38, 14, 14), 2.0),)
    sample = Sample(Path("a.png"), "a.png", "defect")
    for evaluation, defects in (("NotOK", boxes), ("OK", ())):
        judged = Judgement(evaluation, (), defects=defects)  # type: ignore[arg-type]
        section.add(Inspection(frame, score(), judged, 0.0, 0.0), Truth(sample, truth), 0.5)
    document = section.document()
    assert document is not None
    assert (document["regions"], document["found"], document["in_rejected_frames"]) == (4, 1, 2)
    small, large = document["cells"]
    assert (small["size_from"], small["contrast_from"], small["regions"], small["found"]) == (4, 0.04, 2, 0)
    assert (large["size_from"], large["contrast_from"], large["regions"], large["found"]) == (8, 0.16, 2, 1)
    assert large["contrast_to"] is None


def test_evaluate_counts_and_reports_them(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path / "bundle")
    ready = Inspector(bundle, FakeRuntime(), fake_calibration(bundle))
    file = write_frame(tmp_path / "bad.png", defect=True)
    mask = np.zeros((48, 64), np.uint8)
    mask[10:22, 20:32] = mask[40:44, 50:54] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    rows = [
        Sample(file, "bad.png", "defect", mask=tmp_path / "mask.png", masks={"x": tmp_path / "mask.png"}),
        Sample(write_frame(tmp_path / "ok.png", seed=1), "ok.png", "good"),
    ]
    gathered = evaluate(ready, rows, Limits(10**6, 1))
    document = summary("grey", ready, gathered)
    assert (document["defects_by_size"]["regions"], document["defects_by_size"]["found"]) == (2, 1)
    report = tmp_path / "report.html"
    write_report(report, document, gathered.outcomes, gathered.unreadable, ready, Limits(10**6, 1), None)
    text = report.read_text()
    assert "1 of 2 connected regions" in text
    assert '<td class="n">1/1</td>' in text
    assert "peak 0.4" in text
    assert "(threshold 0.2) at 2" in text
