"""Splits that keep parts whole, batches that depend on seed and step, augmentation that keeps the class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from edge.errors import DataError
from edge.learn.classes import (
    NO_AUGMENTATION,
    SHARES,
    ClassAugmentation,
    ClassBatches,
    EveryFrame,
    augmented,
    class_weights,
    classification,
    split_64_16_20,
)

RNG = np.random.default_rng(0)
PLANES = [RNG.random((16, 16)).astype(np.float16) for _ in range(20)]
LABELS = [2, 1] + [0] * 18


def batches(seed: int = 0, share: float | None = 0.5, batch: int = 8) -> ClassBatches:
    return ClassBatches(PLANES, LABELS, batch, ClassAugmentation(), seed, share)


def test_a_step_gives_the_same_batch_again_and_another_step_or_seed_another() -> None:
    frames, labels, _ = batches().at(5)
    again, again_labels, _ = batches().at(5)
    assert torch.equal(frames, again)
    assert torch.equal(labels, again_labels)
    assert not torch.equal(frames, batches().at(6)[0])
    assert not torch.equal(frames, batches(seed=1).at(5)[0])


def test_batches_are_float32_frames_in_range_with_a_label_each() -> None:
    frames, labels, weights = batches().at(0)
    assert frames.shape == (8, 1, 16, 16)
    assert labels.shape == weights.shape == (8,)
    assert frames.dtype == labels.dtype == weights.dtype == torch.float32
    assert 0 <= float(frames.min()) <= float(frames.max()) <= 1
    assert set(labels.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.5), (0.2, 0.2), (None, 0.1)])
def test_defects_are_as_frequent_as_asked_however_few_there_are(share: float | None, expected: float) -> None:
    made = ClassBatches(PLANES, LABELS, 500, NO_AUGMENTATION, 0, share)
    _, labels, weights = made.at(0)
    assert float(labels.mean()) == pytest.approx(expected, abs=0.07)
    assert float((weights * labels).mean()) == pytest.approx(0.5, abs=0.25)
    assert float((weights * (1 - labels)).mean()) == pytest.approx(0.5, abs=0.25)


def test_frames_keep_their_own_label() -> None:
    planes = [np.full((8, 8), value, np.float16) for value in (0.25, 0.75, 0.25, 0.75)]
    frames, labels, _ = ClassBatches(planes, [0, 3, 0, 3], 64, NO_AUGMENTATION, 0).at(0)
    assert torch.equal(frames.amax((1, 2, 3)) > 0.5, labels > 0)


@pytest.mark.parametrize("labels", [[0, 0], [1, 2], [0]])
def test_one_class_alone_is_refused(labels: list[int]) -> None:
    with pytest.raises(DataError, match="both"):
        ClassBatches(PLANES[:2], labels, 2, NO_AUGMENTATION, 0)


def test_validation_sees_every_frame_once_and_as_it_is() -> None:
    every = EveryFrame(PLANES, LABELS, batch=6)
    slices = [every.at(k) for k in range(every.batches)]
    seen = np.sort(np.concatenate([frames.numpy()[:, 0, 0, 0] for frames, *_ in slices]))
    np.testing.assert_array_equal(seen, np.sort([np.float32(plane[0, 0]) for plane in PLANES]))
    assert sum(float(labels.sum()) for _, labels, _ in slices) == 2
    assert {len(labels) for _, labels, _ in slices} == {5}
    assert sum(float((labels * weights).sum()) for _, labels, weights in slices) == pytest.approx(10)
    assert torch.equal(every.at(every.batches)[0], every.at(0)[0])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_augmented_frames_stay_in_range_and_near_what_they_were(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = np.linspace(0.2, 0.8, 32 * 32, dtype=np.float32).reshape(32, 32).astype(np.float16)
    made = augmented(plane, ClassAugmentation(), rng)
    assert made.shape == plane.shape
    assert made.dtype == np.float32
    assert 0 <= made.min() <= made.max() <= 1
    assert abs(float(made.mean()) - float(plane.mean())) < 0.15


def test_without_augmentation_a_frame_is_itself() -> None:
    np.testing.assert_array_equal(augmented(PLANES[0], NO_AUGMENTATION, RNG), PLANES[0].astype(np.float32))


@pytest.mark.parametrize("name", ["flips", "quarter_turns", "rotation_deg", "shift_ratio", "zoom_ratio"])
def test_every_geometric_augmentation_does_something(name: str) -> None:
    value = True if name in ("flips", "quarter_turns") else 10.0 if name == "rotation_deg" else 0.2
    only = ClassAugmentation(
        **{field: 0 for field in NO_AUGMENTATION.__slots__} | {name: value}  # type: ignore[arg-type]
    )
    made = [augmented(PLANES[0], only, np.random.default_rng(seed)) for seed in range(8)]
    assert any(not np.array_equal(one, PLANES[0].astype(np.float32)) for one in made)
    if name in ("flips", "quarter_turns"):
        wanted = np.sort(PLANES[0].astype(np.float32), axis=None)
        assert all(np.array_equal(np.sort(one, axis=None), wanted) for one in made)


def test_class_weights_make_both_classes_count_the_same() -> None:
    good, defect = class_weights(LABELS)
    assert good * 18 == pytest.approx(defect * 2)
    assert (good * 18 + defect * 2) / 20 == pytest.approx(1)
    with pytest.raises(DataError):
        class_weights([0, 0])


def test_objective_is_squared_residual_and_weighted_cross_entropy() -> None:
    frames, labels, _ = batches().at(0)
    drawn, logits = frames * 0.5, torch.linspace(-2, 2, 8)
    weights = torch.where(labels > 0, 4.0, 0.5)
    value = float(classification(3.0)((drawn, logits), (frames, labels, weights)))
    entropy = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    wanted = 3 * ((drawn - frames) ** 2).mean() + (entropy * weights).mean()
    assert value == pytest.approx(float(wanted), rel=1e-5)


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Frames of parts, a label a part, at least three parts of each label."""
    groups, labels = [], []
    for label in draw(st.sets(st.sampled_from(["good", "short", "shifted"]), min_size=1)):
        for k in range(draw(st.integers(3, 40))):
            frames = draw(st.integers(1, 3))
            groups += [f"{label}-{k}"] * frames
            labels += [label] * frames
    return groups, labels


@settings(max_examples=60, deadline=None)
@given(parts(), st.integers(0, 100))
def test_split_keeps_parts_whole_and_the_shares_of_every_class(
    made: tuple[list[str], list[str]], seed: int
) -> None:
    groups, labels = made
    sides = split_64_16_20(groups, labels, seed)
    names = (*sides.train, *sides.validation, *sides.test)
    assert sorted(names) == sorted(set(groups))
    for label in set(labels):
        total = labels.count(label)
        for share, side in zip(SHARES, (sides.train, sides.validation, sides.test), strict=True):
            own = sum(group in side and one == label for group, one in zip(groups, labels, strict=True))
            assert own >= 1
            assert abs(own - share * total) <= 4.5  # a part and a half of three frames


def test_split_depends_on_the_seed_and_not_on_the_order_of_the_rows() -> None:
    groups = [f"p{k:02d}" for k in range(50)]
    labels = ["defect" if k % 5 == 0 else "good" for k in range(50)]
    once = split_64_16_20(groups, labels, 7)
    assert split_64_16_20(groups[::-1], labels[::-1], 7) == once
    assert split_64_16_20(groups, labels, 8) != once
    assert [len(side) for side in (once.train, once.validation, once.test)] == [32, 8, 10]


def test_a_part_with_a_good_and_a_defective_frame_counts_as_defective() -> None:
    groups = [f"p{k}" for k in range(40)] + ["p0", "p1", "p2"]
    labels = ["good"] * 40 + ["defect"] * 3
    sides = split_64_16_20(groups, labels, 0)
    found = [len(set(side) & {"p0", "p1", "p2"}) for side in (sides.train, sides.validation, sides.test)]
    assert found == [1, 1, 1]


def test_two_defective_parts_cannot_be_divided_into_three() -> None:
    with pytest.raises(DataError, match="2 parts of class 'defect'"):
        split_64_16_20([f"p{k}" for k in range(20)], ["defect"] * 2 + ["good"] * 18, 0)


def test_shares_add_up() -> None:
    assert math.isclose(sum(SHARES), 1)
