"""Scores in fewer bits held to those of fp32: each limit refuses by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.infer.precisions import AgreementLimits
from edge.learn.agreement import LEAST_FRAMES, Reference, spearman
from edge.pipeline import Inspector
from edge.preprocess import PreprocessSpec, TileSpec
from edge.testing import FakeRuntime, fake_bundle, fake_calibration
from edge.types import FloatImage, Frame, ImageInfo

SPEC = PreprocessSpec(tiles=TileSpec(size_px=64, keep_px=64, step_px=64))
FRAMES = 20


def frames(count: int = FRAMES) -> list[Frame]:
    """Grey planes, each with a little more noise than the one before."""
    rng = np.random.default_rng(0)
    noise = np.linspace(0.005, 0.03, count)
    planes = [(0.5 + rng.normal(0, sigma, (64, 64))).astype(np.float32) for sigma in noise]
    return [Frame(ImageInfo(f"{k}.png", "", 64, 64, 8), plane) for k, plane in enumerate(planes)]


def reference(tmp_path: Path, count: int = FRAMES, **how: bool) -> Reference:
    bundle = fake_bundle(tmp_path / "fake", SPEC)
    inspector = Inspector(bundle, FakeRuntime(), fake_calibration(bundle))
    return Reference(
        inspector, lambda: frames(count), count=count, pixels=64 * 64, plants=how.get("plants", True), seed=1
    )


def answering(change: Callable[[FloatImage], FloatImage]) -> FakeRuntime:
    """What fp32 says (flat grey), changed."""
    return FakeRuntime(lambda tiles: change(np.full_like(tiles, 0.5)))


def test_the_same_answers_are_accepted_and_counted(tmp_path: Path) -> None:
    found = reference(tmp_path).agreement_of(answering(lambda same: same))
    assert found.accepted
    assert (found.frames, found.flips, found.spearman, found.auroc_change) == (FRAMES, 0, 1.0, 0.0)
    assert found.planted > 100
    assert found.golden_difference == 0.0


def test_frames_that_change_places_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    noisy = answering(lambda same: (same + rng.normal(0, 0.02, same.shape)).astype(np.float32))
    found = reference(tmp_path).agreement_of(noisy)
    assert not found.accepted
    assert "rank correlation" in found.why
    assert found.spearman is not None
    assert found.spearman < AgreementLimits().spearman


def test_other_verdicts_are_refused(tmp_path: Path) -> None:
    """Every score is higher by the same: ranks agree, and what was OK is not any more."""
    found = reference(tmp_path, plants=False).agreement_of(answering(lambda same: same - np.float32(0.3)))
    assert not found.accepted
    assert f"{FRAMES} of {FRAMES} frames get another verdict" in found.why


def test_defects_that_are_told_less_well_from_good_frames_are_refused(tmp_path: Path) -> None:
    """What reconstructs strong defects, as a range that was cut off may do, leaves no residual of them."""
    blind = FakeRuntime(lambda tiles: np.where(np.abs(tiles - 0.5) > 0.15, tiles, np.float32(0.5)))
    found = reference(tmp_path).agreement_of(blind)
    assert not found.accepted
    assert found.auroc_change is not None
    assert found.auroc_change > AgreementLimits().auroc_change
    assert "AUROC changes by" in found.why


def test_a_network_that_was_broken_on_the_way_is_refused(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path / "fake", SPEC)
    ours = Inspector(bundle, FakeRuntime(), fake_calibration(bundle))
    held = Reference(ours, frames, count=FRAMES, pixels=4096, plants=False, seed=1)
    # it gives the frames' answers, but not those to the golden tiles, which are flat
    broken = FakeRuntime(lambda tiles: np.full_like(tiles, 0.5 if tiles.std() > 1e-3 else 9.0))
    found = held.agreement_of(broken)
    assert not found.accepted
    assert "golden answers differ by 8.5" in found.why


def test_few_frames_say_nothing(tmp_path: Path) -> None:
    found = reference(tmp_path, LEAST_FRAMES - 1).agreement_of(answering(lambda same: same))
    assert not found.accepted
    assert "too few" in found.why


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], 1.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -1.0),
        ([1.0, 2.0, 2.0, 4.0], [1.0, 3.0, 2.0, 4.0], 0.9486832980505138),  # by scipy.stats.spearmanr
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], None),
        ([1.0, np.nan], [1.0, 2.0], None),
        ([1.0], [1.0], None),
    ],
)
def test_rank_correlation(one: list[float], other: list[float], expected: float | None) -> None:
    found = spearman(one, other)
    assert found == (None if expected is None else pytest.approx(expected))
