"""What evaluate counts, says of its own certainty, and warns of."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from edge.calibrate import learned_id
from edge.dataset import Sample
from edge.decode import Limits
from edge.errors import DataError
from edge.evaluate import evaluate, leakage, summary
from edge.evaluation_counts import (
    Classes,
    FragmentStatistics,
    Patches,
    sections,
)
from edge.evaluation_figures import (
    Outcome,
    area_correlation,
    bootstrap,
    image_metrics,
    intervals,
    pixel_metrics,
    tally,
)
from edge.evaluation_report import COLOURS, _bgr, drawn, excerpt, write_report
from edge.evaluation_table import show, with_interval
from edge.judge.ranking import PixelCounts
from edge.pipeline import Inspection, Inspector
from edge.testing import FakeRuntime, fake_bundle, fake_calibration, write_frame
from edge.truth import Truth, read_mask, read_truth, to_frame
from edge.types import Defect, Fragments, Frame, ImageInfo, Judgement, Score


def outcome(number: int, score: float, is_defect: bool, **fields: object) -> Outcome:
    sample = Sample(
        Path(f"{number}.png"), f"{number}.png", "defect" if is_defect else "good", part=f"P{number}"
    )
    made = Outcome(sample, "default", is_defect, "NotOK" if score > 1 else "OK", score, score)
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.fixture
def outcomes() -> list[Outcome]:
    rng = np.random.default_rng(0)
    return [outcome(i, float(rng.normal(1.3 if i < 25 else 0.7, 0.3)), i < 25) for i in range(100)]


def test_every_interval_holds_its_figure(outcomes: list[Outcome]) -> None:
    found = intervals(outcomes, bootstrap(outcomes))
    figures = image_metrics(outcomes)
    for name in ("auroc", "auprc", "precision", "recall", "f1", "f2"):
        low, high = found[f"image.{name}"]
        assert 0 <= low < figures[name] < high <= 1, name
    assert {"rates.false_reject", "rates.escape", "rates.not_decidable"} <= set(found)
    assert found["global_threshold.auroc_gain"] == [0, 0]  # one view: nothing to gain


def test_what_normalising_by_view_gains_is_known_better_than_either_figure() -> None:
    """Frames are the same for both, so their difference varies less from resample to resample."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(200):
        high_view, is_defect = i % 2 == 1, i % 5 == 0
        score = float(rng.normal(1.2 if is_defect else 0.8, 0.2))
        made.append(outcome(i, score, is_defect, raw=score * (3 if high_view else 1), view=str(high_view)))
    found = intervals(made, bootstrap(made))
    width = {name: found[name][1] - found[name][0] for name in found}
    assert found["global_threshold.auroc_gain"][0] > 0
    assert width["global_threshold.auroc_gain"] < width["image.auroc"] + width["global_threshold.auroc"]


def test_frames_of_a_part_and_pages_of_a_file_are_drawn_together() -> None:
    of_part = [outcome(0, 1.0, False), outcome(0, 1.0, True)]
    unnamed = replace(of_part[0].sample, part=None)
    pages = [outcome(1, 1.0, False, sample=unnamed), outcome(1, 1.0, False, sample=unnamed, page=1)]
    assert bootstrap([*of_part, *pages]).groups == 2


def test_pixel_intervals_hold_the_exact_figures() -> None:
    rng = np.random.default_rng(0)
    pixels, made = PixelCounts(), []
    for i in range(20):
        truth = np.zeros((40, 50), bool)
        truth[10:20, 10 : 12 + i] = True
        values = (rng.lognormal(-0.7, 0.6, truth.shape) * np.where(truth, rng.uniform(1.5, 4), 1)).astype(
            np.float32
        )
        pixels.add(values, truth)
        made.append(outcome(i, 2.0, True, pixels=tally(values, truth)))
    figures = pixel_metrics(pixels, made)
    assert figures is not None
    found = intervals(made, bootstrap(made), figures)
    for name in ("auroc", "auprc", "dice", "iou"):
        low, high = found[f"pixel.{name}"]
        assert low < figures[name] < high, name
    assert figures["dice"] == pytest.approx(2 * figures["iou"] / (1 + figures["iou"]))


def test_a_pixel_interval_lies_about_the_exact_figure_where_coarse_bins_see_no_difference() -> None:
    pixels, made = PixelCounts(), []
    for i in range(10):
        truth = np.arange(400).reshape(20, 20) < 40
        values = np.where(truth, np.float32(1.05), np.float32(1.01))  # within an eighth of a doubling
        pixels.add(values, truth)
        made.append(outcome(i, 2.0, True, pixels=tally(values, truth)))
    figures = pixel_metrics(pixels, made)
    assert figures is not None
    assert figures["auroc"] == 1.0
    assert intervals(made, bootstrap(made), figures)["pixel.auroc"] == [1.0, 1.0]


def test_area_correlation_shows_a_score_that_grows_with_what_is_in_sight() -> None:
    shares = np.linspace(0.2, 0.6, 20)
    noise = np.random.default_rng(0).normal(0, 0.02, 20)
    of = [outcome(i, 0.0, False, foreground_ratio=float(share)) for i, share in enumerate(shares)]
    grows = [replace(o, score=o.foreground_ratio + e) for o, e in zip(of, noise, strict=True)]
    level = [replace(o, score=0.5 + e) for o, e in zip(of, noise, strict=True)]
    assert (area_correlation(grows) or 0) > 0.9
    assert abs(area_correlation(level) or 1) < 0.5
    assert area_correlation([outcome(i, 0.5 + i, False) for i in range(20)]) is None


def test_frames_that_were_learned_from_are_counted_and_said(tmp_path: Path) -> None:
    """By the file itself, and by another file of the same part that the manifest lists."""
    learned_file = write_frame(tmp_path / "other_view.png", seed=1)
    known = frozenset({learned_id(hashlib.sha256(learned_file.read_bytes()).hexdigest())})
    other = Sample(learned_file, "other_view.png", "good", part="P1", split="train")
    rows = [outcome(0, 0.5, False, was_learned_from=True), outcome(1, 0.5, False), outcome(2, 0.5, False)]
    assert leakage(rows[2:], [other], known) == {
        "learned_from_overlap": None, "parts_in_two_splits": None, "warnings": None,
    }  # fmt: skip
    found = leakage(rows, [other], known)
    assert found["learned_from_overlap"] == 2
    assert "2 of 3 frames" in found["warnings"][0]
    assert "(1 are the very files)" in found["warnings"][0]
    assert leakage(rows[1:], [other], frozenset({"0" * 16}))["learned_from_overlap"] is None


def test_a_part_on_both_sides_of_the_split_is_said() -> None:
    rows = [Sample(Path(f"{i}"), f"{i}", "good", part="P0", split=s) for i, s in enumerate(("train", "test"))]
    found = leakage([], rows, frozenset())
    assert found["parts_in_two_splits"] == 1
    assert "P0" in found["warnings"][0]
    assert leakage([], rows[:1], frozenset())["warnings"] is None


def inspector(tmp_path: Path) -> Inspector:
    bundle = fake_bundle(tmp_path / "b")
    return Inspector(bundle, FakeRuntime(), fake_calibration(bundle))


def test_a_bundle_that_knows_a_file_says_so_in_the_document(tmp_path: Path) -> None:
    file = write_frame(tmp_path / "a.png")
    one = inspector(tmp_path)
    one.bundle.manifest.training["learned_from"] = [learned_id(hashlib.sha256(file.read_bytes()).hexdigest())]
    rows = [Sample(file, "a.png", "good"), Sample(write_frame(tmp_path / "b.png", seed=5), "b.png", "good")]
    document = summary("r", one, evaluate(one, rows, Limits(10**8, 8)), (), rows)
    assert document["learned_from_overlap"] == 1
    assert len(document["warnings"]) == 1


def test_masks_of_several_classes_are_one_truth(tmp_path: Path) -> None:
    files = {}
    for k, name in enumerate(("scratch", "pit")):
        pixels = np.zeros((20, 30), np.uint8)
        pixels[k * 5 : k * 5 + 6, :10] = 255  # they overlap in one row
        files[name] = tmp_path / f"{name}.png"
        cv2.imwrite(str(files[name]), pixels)
    sample = Sample(Path("f.png"), "f.png", "defect", masks=files)
    assert read_mask(sample, 20, 30).sum() == 11 * 10
    truth = read_truth(sample, 20, 30)
    assert truth is not None
    assert [int(truth.of_class(n).sum()) for n in ("scratch", "pit", "stain")] == [60, 60, 0]
    with pytest.raises(DataError, match="its frame 31×20"):
        read_mask(sample, 20, 31)


def test_a_defect_frame_without_mask_has_no_truth_and_a_good_one_is_all_good() -> None:
    assert read_truth(Sample(Path("f"), "f", "defect"), 4, 5) is None
    good = read_truth(Sample(Path("f"), "f", "good"), 4, 5)
    assert good is not None
    assert not good.defect.any()


def frame_of(plane: np.ndarray, width: int, height: int, matrix: np.ndarray | None = None) -> Frame:
    return Frame(ImageInfo("f", "", width, height), plane, to_frame=matrix)


def test_a_rectified_map_comes_back_to_where_it_was_seen() -> None:
    """The plane shows the frame's right half upside down, at half the size."""
    matrix = np.array([[2.0, 0, 40], [0, -2.0, 60], [0, 0, 1]])
    plane = np.zeros((30, 20), np.float32)
    plane[5:10, 2:6] = 1.0
    frame = frame_of(plane, 80, 60, matrix)
    back = to_frame(plane, frame)
    expected = np.zeros((60, 80), bool)
    expected[40:50, 44:52] = True
    assert back.shape == (60, 80)
    np.testing.assert_array_equal(back > 0.5, expected)
    assert (back[:, :40] == 0).all()  # never seen
    truth = Truth(Sample(Path("f"), "f", "defect"), expected)
    np.testing.assert_array_equal(truth.on_plane(frame, 0.5), plane > 0)


def test_a_truth_smaller_than_a_plane_pixel_is_not_lost() -> None:
    truth = Truth(Sample(Path("f"), "f", "defect"), np.zeros((40, 40), bool))
    truth.defect[13, 22] = True
    on_plane = truth.on_plane(frame_of(np.zeros((10, 10), np.float32), 40, 40))
    assert on_plane.sum() == 1
    assert on_plane[3, 5]


def inspection(score: Score, width: int, height: int) -> Inspection:
    return Inspection(frame_of(score.map, width, height), score, Judgement("NotOK", ()), 0.0, 0.0)


def test_classes_are_counted_each_against_its_own_mask(tmp_path: Path) -> None:
    layers = np.zeros((2, 10, 10), np.float32)
    layers[0, :, :4] = 0.9
    layers[1, :, 6:] = 0.9
    score = Score(0.9, layers.max(axis=0), {}, (0, 0, 1, 1), 0.5, 0.1, 100, layers=layers)
    mask = np.zeros((20, 20), np.uint8)
    mask[:, :8] = 255
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    sample = Sample(Path("f"), "f", "defect", masks={"a": tmp_path / "m.png"})
    counted = Classes(["a", "b"])
    truth = read_truth(sample, 20, 20)
    assert truth is not None
    counted.add(inspection(score, 20, 20), truth, 0.5)
    found = counted.document()
    assert found is not None
    assert found["a"]["dice"] == pytest.approx(1.0, abs=0.02)
    assert found["b"]["dice"] == 0.0
    assert "dice_per_defect_frame" not in found["b"]  # no frame has it: nothing that could go into JSON
    stray = Classes(["b"])
    stray.add(inspection(score, 20, 20), truth, 0.5)
    assert stray.document() is None  # a class the bundle does not know says nothing of those it does


def test_fragment_statistics_are_compared_by_what_they_separate() -> None:
    boxes = np.array([[x, 0, 8, 8] for x in range(0, 64, 8)], np.int32)
    truth = np.zeros((8, 64), bool)
    truth[:, 16:24] = True
    hit = np.arange(8) == 2
    rng = np.random.default_rng(0)
    statistics = {"mse": hit + 0.1 * rng.random(8), "sum": rng.permutation(8) + 0.0}
    found = Fragments(boxes, {name: values.astype(np.float32) for name, values in statistics.items()})
    score = Score(0.9, np.zeros((8, 64), np.float32), {}, (0, 0, 1, 1), 0.5, 0.1, 512, fragments=found)
    counted = FragmentStatistics()
    assert counted.document() is None
    counted.add(inspection(score, 64, 8), Truth(Sample(Path("f"), "f", "defect"), truth), 0.5)
    document = counted.document()
    assert document is not None
    assert (document["good"], document["defect"]) == (7, 1)
    assert document["auroc"]["mse"] == 1.0
    assert document["auroc"]["sum"] < 1.0


def test_figures_are_printed_with_their_intervals(outcomes: list[Outcome]) -> None:
    document = {
        "image": {"auroc": 0.931}, "rates": {"escape": 0.0123},
        "intervals": {"image.auroc": [0.88, 0.97], "rates.escape": [0.0, 0.05]},
    }  # fmt: skip
    assert with_interval(document, "image.auroc") == "0.931 (0.880–0.970)"
    assert with_interval(document, "rates.escape", percent=True) == "1.2% (0.0–5.0)"
    assert with_interval(document, "image.auprc") == "–"


def test_the_table_shows_every_section(tmp_path: Path) -> None:
    one = inspector(tmp_path)
    rows = [Sample(write_frame(tmp_path / "a.png"), "a.png", "good")]
    document = summary("r", one, evaluate(one, rows, Limits(10**8, 8)), (), rows)
    row = {"confusion": [[9, 1], [2, 8]], "f1": 0.84}
    document["patches"] = {"patch_px": 29, **row, "at_half": row, "pure_at_half": row}
    document["classes"] = {"scratch": {"dice": 0.7, "area_px": 10.0, "found_px": 12.0}}
    document["fragments"] = {"good": 5, "defect": 2, "auroc": {"mse": 0.9}}
    console = Console(width=100, file=io.StringIO(), record=True)
    show(document, console)
    said = console.export_text()
    for word in (
        "patches of 29×29",
        "scratch",
        "fragments (5 good, 2 with a defect)",
        "escapes",
        "mse",
        "only the first row",
    ):
        assert word in said


def test_patches_are_counted_at_the_pixel_threshold_and_at_one_half() -> None:
    """Four patches of 10×10, one of them all defect, which the network sees as less than a half."""
    truth = np.zeros((40, 40), bool)  # of a frame twice as large as the plane
    truth[:20, :20] = True
    truth[20:30, 20:] = True  # half of a patch: not more defect than good, and not pure
    values = np.full((20, 20), 0.1, np.float32)
    values[:10, :10] = 0.4
    score = Score(0.4, values, {}, (0, 0, 1, 1), 0.5, 0.1, 400)
    counted = Patches(10)
    assert counted.document() is None
    counted.add(inspection(score, 40, 40), Truth(Sample(Path("f"), "f", "defect"), truth), 0.3)
    document = counted.document()
    assert document is not None
    assert (document["confusion"], document["f1"]) == ([[3, 0], [0, 1]], 1.0)
    assert (document["at_half"]["confusion"], document["at_half"]["f1"]) == ([[3, 0], [1, 0]], 0.0)
    assert document["pure_at_half"]["confusion"] == [[2, 0], [1, 0]]


def test_each_recipe_is_counted_by_what_it_is(tmp_path: Path) -> None:
    manifest = inspector(tmp_path).bundle.manifest
    assert sections(manifest) == []
    fragments = manifest.score.model_copy(update={"of": "fragment", "statistic": "mse"})
    chosen = manifest.model_copy(
        update={"training": {"patch_px": 29}, "classes": ("a", "b"), "score": fragments}
    )
    assert [section.name for section in sections(chosen)] == ["patches", "classes", "fragments"]


def test_the_report_shows_intervals_curves_areas_and_warnings(tmp_path: Path) -> None:
    one, limits = inspector(tmp_path), Limits(10**8, 8)
    rows = []
    for i in range(8):
        name = f"<{i}>.png"
        file = write_frame(tmp_path / name, defect=i < 3, seed=i)
        rows.append(Sample(file, name, "defect" if i < 3 else "good", part=f"P{i}"))
    gathered = evaluate(one, rows, limits)
    ratios = np.linspace(0.3, 0.5, 8)
    gathered.outcomes = [
        replace(o, foreground_ratio=float(r), was_learned_from=r > 0.4)
        for o, r in zip(gathered.outcomes, ratios, strict=True)
    ]
    document = summary("r", one, gathered, (), rows)
    file = tmp_path / "report.html"
    write_report(file, document, gathered.outcomes, [], one, limits, None)
    page = file.read_text()
    for heading in (
        "How sure the figures are",
        "F1 and F2 over the threshold",
        "Read these figures with care",
    ):
        assert heading in page
    assert "Score over the foreground's share" in page
    assert "correlation of good frames" in page
    assert 'class="interval"' in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<0>.png" not in page  # names are escaped
    assert "boxes around what was found" in page
    level = [replace(o, foreground_ratio=1.0) for o in gathered.outcomes]
    write_report(file, document, level, [], one, limits, None)
    assert "Score over the foreground's share" not in file.read_text()


def test_a_strip_is_shown_about_its_largest_defect_or_the_maps_peak() -> None:
    truth, values = np.zeros((10, 400), bool), np.zeros((10, 400), np.float32)
    values[3, 399] = 1.0
    assert excerpt(truth, values) == (slice(0, 10), slice(380, 400))
    truth[2:4, 20:22] = True
    truth[2:8, 100:111] = True
    assert excerpt(truth, values) == (slice(0, 10), slice(95, 115))
    assert excerpt(truth[:, :30], values[:, :30]) == (slice(0, 10), slice(0, 30))


def test_truth_and_findings_are_drawn_where_they_are_on_the_plane() -> None:
    """The plane shows the frame at half its size; the excerpt begins at column 50."""
    truth = np.zeros((20, 100), bool)
    truth[5:11, 60:71] = True
    frame = frame_of(np.zeros((20, 100), np.float32), 200, 40)
    found = Judgement("NotOK", (), defects=(Defect("anomaly", 4, 0.1, (160, 20, 20, 10), 2.0),))
    overlay = np.zeros((20, 100, 3), np.uint8)
    picture = drawn(overlay, frame, truth, found, (slice(0, 20), slice(50, 100)))
    assert picture.shape == (20, 50, 3)
    assert not overlay.any()
    green, blue = ((picture == _bgr(COLOURS[name])).all(axis=2) for name in ("truth", "found"))
    assert (green[5, 10:21].all(), green[10, 10:21].all(), green[7, 15]) == (True, True, False)
    assert (blue[10, 30:40].all(), blue[14, 30:40].all(), blue[12, 35]) == (True, True, False)
    assert green.sum() + blue.sum() == picture.any(axis=2).sum()


def test_a_score_just_above_the_threshold_does_not_look_like_it_in_the_report(tmp_path: Path) -> None:
    one, limits = inspector(tmp_path), Limits(10**8, 8)
    rows = [Sample(write_frame(tmp_path / "a.png"), "a.png", "good")]
    gathered = evaluate(one, rows, limits)
    document = summary("r", one, gathered, (), rows)
    near = [replace(o, score=1.0004) for o in gathered.outcomes]
    write_report(tmp_path / "report.html", document, near, [], one, limits, None)
    assert "<h3>1.0004 <span" in (tmp_path / "report.html").read_text()
