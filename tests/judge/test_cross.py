"""Fold networks on one scale, and what is claimed of them."""

from __future__ import annotations

import numpy as np
import pytest

from edge.judge.cross import align, cv_plus_bound


def dealt(parts: int, folds: int, scale: tuple[float, ...] = (), spread: float = 0.3):  # type: ignore[no-untyped-def]
    """Scores of two views of each part, folds dealt in turn, each network with its own scale."""
    rng = np.random.default_rng(0)
    scale = scale or (1.0,) * folds
    scores, views, owners, names = [], [], [], []
    for part in range(parts):
        for view, level in (("a", 1.0), ("b", 7.0)):
            scores.append(float(level * scale[part % folds] * rng.lognormal(0, spread)))
            views.append(view)
            owners.append(part % folds)
            names.append(f"P{part}")
    return scores, views, owners, names


def test_networks_of_another_scale_are_brought_to_the_usual_one() -> None:
    found = align(*dealt(40, 4, (1.0, 1.0, 3.0, 1.0), 0.2))
    assert found.changed
    assert found.factors[2] == pytest.approx(1 / 3, rel=0.2)
    assert all(found.factors[fold] == pytest.approx(1.0, rel=0.15) for fold in (0, 1, 3))


def test_networks_that_differ_by_chance_are_left_alone() -> None:
    """Aligning them would take away what parts differ by, and lower the thresholds."""
    changed = 0
    for seed in range(60):
        scores, views, folds, parts = dealt(30, 5)
        shuffled = np.random.default_rng(seed).permutation(scores[::2])
        scores[::2] = shuffled.tolist()
        scores[1::2] = (7 * shuffled).tolist()
        changed += align(scores, views, folds, parts).changed
    assert changed <= 3


def test_too_few_parts_in_a_fold_give_no_scale() -> None:
    found = align(*dealt(16, 4, (1.0, 1.0, 30.0, 1.0)))
    assert (found.changed, found.p) == (False, None)


def test_many_frames_of_one_part_are_no_evidence_of_a_scale() -> None:
    """Twenty frames of each of two parts a fold, alike within the part: two values, not forty."""
    rng = np.random.default_rng(0)
    scores, folds, parts = [], [], []
    for part in range(4):
        level = rng.lognormal(0, 1)
        scores += (level * rng.lognormal(0, 0.01, 20)).tolist()
        folds += [part % 2] * 20
        parts += [f"P{part}"] * 20
    assert not align(scores, ["a"] * 80, folds, parts).changed


def test_cv_plus_bounds_about_twice_the_rate() -> None:
    assert cv_plus_bound(0.05, 40, 40) == pytest.approx(0.10)  # jackknife+
    assert cv_plus_bound(0.05, 100, 10) == pytest.approx(0.10 + 0.9 / 11)
    assert cv_plus_bound(0.6, 10, 2) == 1.0
