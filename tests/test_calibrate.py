"""Good frames and a bundle → thresholds, without torch: the runtime here is a blur."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.artifacts import sha256_of
from edge.calibrate import Calibrated, Fold, calibrate_crossed, calibrate_recipe, check_rule, learned_id
from edge.dataset import read_folder
from edge.decode import Limits
from edge.errors import DataError, UsageError
from edge.infer.bundle import Bundle, ScoreSpec, write_bundle
from edge.intake.naming import compile_naming
from edge.judge.calibration import TooFew, load_calibration
from edge.preprocess import MaskSpec, PreprocessSpec, TileSpec
from edge.types import FloatImage, TileArray, as_float

TILES = TileSpec(size_px=32, keep_px=32, step_px=16)


class Blur:
    """A runtime whose answer is the blurred tile: the residual is the texture."""

    name, precision = "blur", "fp32"

    def batch_of(self, height_px: int, width_px: int) -> int:
        return 4

    def infer(self, batches: Iterable[TileArray]) -> Iterator[FloatImage]:
        for tiles in map(as_float, batches):
            yield np.stack([cv2.GaussianBlur(tile[0], (0, 0), 2)[None] for tile in tiles])


def textures(folder: Path, count: int, view: str = "1", first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + count):
        rng = np.random.default_rng((k, int(view)))
        pixels = np.clip(rng.normal(120, 10 * int(view), (40, 56)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"p{k}_{view}.png"), pixels)


def bundle(folder: Path, learned_from: tuple[str, ...] = ()) -> Bundle:
    tiles = np.zeros((1, 1, 32, 32), np.float32)
    return write_bundle(
        folder / "engine",
        name="r",
        model="blur",
        preprocess=PreprocessSpec(tiles=TILES),
        score=ScoreSpec(map="l2", peak_px=8),
        output="reconstruction",
        onnx=b"none",
        golden=(tiles, tiles),
        training={"learned_from": learned_from},
    )


def run(
    folder: Path,
    engine: Bundle,
    *,
    false_reject: float = 0.1,
    too_few: TooFew = "pool",
    template: str = "{part}_{view}",
    **how: Any,
) -> Calibrated:
    found = read_folder(folder / "frames", compile_naming(template))
    return calibrate_recipe(
        found.samples, engine, Blur(), folder / "r.json",
        recipe="r", false_reject=false_reject, too_few=too_few, limits=Limits(10_000_000, 8), **how,
    )  # fmt: skip


def test_each_view_gets_its_own_threshold_bound_to_the_bundle(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 9, "1")
    textures(tmp_path / "frames", 9, "3")
    engine = bundle(tmp_path)
    result = run(tmp_path, engine)
    views = load_calibration(tmp_path / "r.json", engine.digest).views
    assert views["3"].threshold > 2 * views["1"].threshold
    assert {view.basis for view in views.values()} == {"view"}
    assert result.shortfalls() == []
    assert [entry.sample.path for entry in result.frames][:2] == ["p0_1.png", "p0_3.png"]


def test_too_few_frames_are_refused_with_how_many_are_needed(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 4)
    with pytest.raises(DataError, match="needs 9 good calibration frames per view; there are view 1: 4"):
        run(tmp_path, bundle(tmp_path), too_few="refuse")


def test_a_weaker_promise_is_said_aloud(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 4)
    (sentence,) = run(tmp_path, bundle(tmp_path), too_few="bound").shortfalls()
    assert "view 1: 4 calibration frames" in sentence
    assert "20.0%" in sentence


def test_frames_that_were_learned_from_are_left_out(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 3)
    seen = learned_id(sha256_of(tmp_path / "frames" / "p1_1.png"))
    result = run(tmp_path, bundle(tmp_path, (seen,)))
    assert result.learned == ("p1_1.png",)
    assert len(result.frames) == 2


def test_nothing_usable_is_refused_and_unreadable_files_are_listed(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 1)
    (tmp_path / "frames" / "p8_1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = run(tmp_path, bundle(tmp_path))
    assert [bad.path for bad in result.unreadable] == ["p8_1.png"]
    seen = learned_id(sha256_of(tmp_path / "frames" / "p0_1.png"))
    with pytest.raises(DataError, match="1 were learned from, 1 cannot be read"):
        run(tmp_path, bundle(tmp_path, (seen,)))


def test_a_method_is_said_with_what_it_estimates_and_on_what_condition(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 12)
    result = run(tmp_path, bundle(tmp_path), threshold="mad", k=3.0)
    (sentence,) = result.shortfalls()
    assert "bound false rejects to 53.8%" in sentence  # six of twelve scores are surely below it
    assert "mad estimates 0.13%, as far as scores are normal" in sentence


def test_median_of_maxima_groups_by_batch_where_names_have_one(tmp_path: Path) -> None:
    for batch in range(4):
        textures(tmp_path / "frames" / f"B{batch}", 3, first=10 * batch)
    result = run(
        tmp_path, bundle(tmp_path), false_reject=0.3, threshold="median-max", template="{batch}/{part}_{view}"
    )
    assert {entry.good.group for entry in result.frames} == {"B0", "B1", "B2", "B3"}
    maxima = [
        max(entry.good.raw for entry in result.frames if entry.good.group == f"B{batch}")
        for batch in range(4)
    ]
    assert result.calibration.views["1"].threshold == pytest.approx(float(np.median(maxima)))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"threshold": "max", "k": 3.0}, "--k 3: only with --threshold mad"),
        ({"threshold": "mad", "quantile": 0.9}, "--quantile 0.9: only with --threshold quantile"),
        ({"threshold": "max", "view_cycle": 24.0}, "--view-cycle 24: only with --unseen-views adaptive"),
        ({"threshold": "max", "view_cycle": -1.0, "unseen_views": "adaptive"}, "not above 0"),
        (
            {"threshold": "max", "false_reject": 0.05, "review_band": 0.05},
            "--review-band 0.05: not above --false-reject 0.05",
        ),
    ],
)
def test_options_that_would_say_nothing_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_rule(**given)


def test_a_good_frame_in_which_nothing_is_found_is_left_out_by_name(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 12)
    cv2.imwrite(str(tmp_path / "frames/flat_1.png"), np.zeros((40, 56), np.uint8))
    masked = PreprocessSpec(tiles=TILES, mask=MaskSpec(method="otsu", close_px=0))
    engine = bundle(tmp_path)
    manifest = engine.manifest.model_copy(update={"preprocess": masked})
    result = run(tmp_path, engine.model_copy(update={"manifest": manifest}))
    assert [(bad.path, bad.reason) for bad in result.unreadable] == [("flat_1.png", "score_not_finite")]
    assert len(result.frames) == 12


def test_a_rate_per_part_is_kept_with_the_parts_of_the_names(tmp_path: Path) -> None:
    for view in ("1", "3"):
        textures(tmp_path / "frames", 12, view)
    textures(tmp_path / "frames", 1, "3", first=50)  # a part with one view only
    engine = bundle(tmp_path)
    result = run(tmp_path, engine, false_reject=0.1, false_reject_part=0.1, review_band=0.3)
    part = load_calibration(tmp_path / "r.json", engine.digest).part
    assert part is not None
    assert (part.parts, part.incomplete, part.bound) == (12, 1, pytest.approx(1 - 12 / 13))
    assert result.shortfalls() == []
    assert all(limits.review_threshold is not None for limits in result.calibration.views.values())


def test_a_new_calibration_says_what_it_changes(tmp_path: Path) -> None:
    engine = bundle(tmp_path)
    textures(tmp_path / "frames", 9, "1")
    assert run(tmp_path, engine).changes() == []
    textures(tmp_path / "frames", 12, "1", first=100)
    textures(tmp_path / "frames", 12, "3", first=100)
    one, three = run(tmp_path, engine).changes()
    assert one.startswith("view 1: threshold ")
    assert " → " in one
    assert "from 9 → 21 calibration frames, bound 10.0% → 9.1%" in one
    assert three.startswith("view 3: threshold ")
    assert three.endswith("it had none")


def test_an_engine_that_was_learned_anew_is_compared_with_nothing(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 9, "1")
    run(tmp_path, bundle(tmp_path))
    assert run(tmp_path, bundle(tmp_path, ("0" * 16,))).changes() == []


def folds_of(folder: Path, count: int, engine: Bundle) -> list[Fold]:
    samples = read_folder(folder / "frames", compile_naming("{part}_{view}")).samples
    parts = sorted({str(sample.part) for sample in samples})
    return [
        Fold([s for s in samples if parts.index(str(s.part)) % count == fold], engine, Blur())
        for fold in range(count)
    ]


def crossed(folder: Path, folds: list[Fold], engine: Bundle, **how: Any) -> Calibrated:
    return calibrate_crossed(
        folds, engine, folder / "r.json",
        recipe="r", false_reject=0.1, too_few="pool", limits=Limits(10_000_000, 8), **how,
    )  # fmt: skip


def test_each_fold_is_scored_by_its_own_network_and_nothing_is_said_to_be_proved(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 12)
    engine, at = bundle(tmp_path), []
    result = crossed(
        tmp_path, folds_of(tmp_path, 3, engine), engine, on_frame=lambda n, of: at.append((n, of))
    )
    assert [entry.good.fold for entry in result.frames] == [0] * 4 + [1] * 4 + [2] * 4
    assert at == [(n, 12) for n in range(12)]
    assert load_calibration(tmp_path / "r.json", engine.digest).procedure == "cross"
    (sentence,) = result.shortfalls()
    assert "12 calibration frames, each scored by a network that had not learned from it" in sentence
    assert "nothing is proved (were the 3 networks to judge together: " in sentence


def test_a_part_in_two_folds_is_refused(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 4)
    engine = bundle(tmp_path)
    first, second = folds_of(tmp_path, 2, engine)
    torn = Fold([*second.samples, first.samples[0]], engine, Blur())
    with pytest.raises(UsageError, match="part p0 is in folds 0 and 1"):
        crossed(tmp_path, [first, torn], engine)
    with pytest.raises(UsageError, match="a single fold"):
        crossed(tmp_path, [first], engine)


def test_a_fold_that_scores_otherwise_is_refused(tmp_path: Path) -> None:
    textures(tmp_path / "frames", 4)
    engine = bundle(tmp_path)
    first, second = folds_of(tmp_path, 2, engine)
    other = engine.manifest.model_copy(update={"score": ScoreSpec(map="l2", peak_px=16)})
    odd = Fold(second.samples, engine.model_copy(update={"manifest": other}), Blur())
    with pytest.raises(DataError, match="fold 1 preprocesses or scores otherwise"):
        crossed(tmp_path, [first, odd], engine)
