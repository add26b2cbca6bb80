"""System A's patch-wise confusion: which patches count, what they are, and what they are called."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge.judge.patchwise import PatchTruth, patch_confusion
from edge.types import FloatImage, Mask

PATCH = 4


def halves() -> tuple[FloatImage, Mask]:
    """Four patches in a row: all good, a corner of defect, three quarters of defect, all defect."""
    truth = np.zeros((PATCH, 4 * PATCH), bool)
    truth[0, PATCH] = True
    truth[:3, 2 * PATCH : 3 * PATCH] = True
    truth[:, 3 * PATCH :] = True
    return np.zeros(truth.shape, np.float32), truth


@pytest.mark.parametrize(("rule", "good", "defect"), [("any", 1, 3), ("majority", 2, 2), ("pure", 1, 1)])
def test_the_rule_says_which_patches_are_defects_and_which_count(
    rule: PatchTruth, good: int, defect: int
) -> None:
    probability, truth = halves()
    assert patch_confusion(probability, truth, PATCH, 0.5, rule=rule) == ((good, 0), (defect, 0))
    assert patch_confusion(probability + 1, truth, PATCH, 0.5, rule=rule) == ((0, good), (0, defect))


def test_a_patch_is_called_by_its_centre_alone() -> None:
    probability, truth = halves()
    probability[PATCH // 2, 3 * PATCH + PATCH // 2] = 0.9
    assert patch_confusion(probability, truth, PATCH, 0.5, rule="pure") == ((1, 0), (0, 1))
    probability[:] = 0.9
    probability[PATCH // 2, 3 * PATCH + PATCH // 2] = 0.5  # not above
    assert patch_confusion(probability, truth, PATCH, 0.5, rule="pure") == ((0, 1), (1, 0))


def test_an_origin_frame_has_the_patches_of_its_29_px_grid() -> None:
    truth = np.zeros((696, 1024), bool)
    truth[:, 35 * 29 :] = True  # less than a patch at the right border
    assert patch_confusion(truth.astype(np.float32), truth, 29, 0.5) == ((24 * 35, 0), (0, 0))


@given(
    truth=arrays.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30))),
    patch_px=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_counts_are_of_all_whole_patches_and_turn_with_threshold(
    truth: Mask, patch_px: int, seed: int
) -> None:
    probability = np.random.default_rng(seed).random(truth.shape, np.float32)
    whole = (truth.shape[0] // patch_px) * (truth.shape[1] // patch_px)
    for rule in ("any", "majority"):
        (tn, fp), (fn, tp) = patch_confusion(probability, truth, patch_px, 0.5, rule=rule)
        assert tn + fp + fn + tp == whole
        assert patch_confusion(probability, truth, patch_px, -1, rule=rule) == ((0, tn + fp), (0, fn + tp))
    (tn, fp), (fn, tp) = patch_confusion(probability, truth, patch_px, 0.5, rule="pure")
    assert tn + fp + fn + tp <= whole
    if patch_px == 1:
        assert (fn + tp, tn + fp) == (truth.sum(), (~truth).sum())


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        patch_confusion(np.zeros((4, 4), np.float32), np.zeros((4, 5), bool), 2, 0.5)
