"""Which frames are learned from and which are kept: parts stay whole, views are served."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DataError
from edge.judge.thresholds import ThresholdRule
from edge.learn.split import Labelled, all_to_learn, split, split_labelled

RULE = ThresholdRule()

groups_of_parts = st.dictionaries(
    st.integers(0, 999).map(lambda n: f"p{n}"),
    st.lists(st.sampled_from(["1", "2", "3"]), min_size=1, max_size=4),
    min_size=2,
    max_size=60,
)


@given(groups=groups_of_parts, seed=st.integers(0, 5))
def test_every_part_is_on_exactly_one_side(groups: dict[str, list[str]], seed: int) -> None:
    got = split(groups, seed=seed, rule=RULE, too_few="pool")
    assert sorted((*got.train, *got.validation, *got.calibration)) == sorted(groups)
    assert got.train
    assert got.calibration


@given(groups=groups_of_parts)
def test_every_view_can_be_calibrated(groups: dict[str, list[str]]) -> None:
    got = split(groups, seed=0, rule=RULE, too_few="pool")
    seen = {view for name in got.calibration for view in groups[name]}
    missing = {view for views in groups.values() for view in views} - seen
    assert not missing or len(got.train) == 1  # the last part is never taken from learning


def test_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    groups = {f"p{n}": ["1"] for n in range(40)}
    first = split(groups, seed=1, rule=RULE, too_few="pool")
    assert split(dict(reversed(groups.items())), seed=1, rule=RULE, too_few="pool") == first
    assert split(groups, seed=2, rule=RULE, too_few="pool") != first


def test_calibration_takes_its_share_or_what_a_threshold_needs() -> None:
    def calibration(frames: int, views: tuple[str, ...] = ("1",)) -> int:
        groups = {f"p{n}": list(views) for n in range(frames)}
        return len(split(groups, seed=0, rule=RULE, too_few="pool").calibration)

    assert calibration(3) == 1
    assert calibration(10) == 2
    assert calibration(40) == 19, "19 frames make a threshold of 5 %; 40 can spare them"
    assert calibration(40, ("1", "2")) == 10, "views may be pooled, and the network needs its frames"
    assert calibration(200) == 50


def test_too_few_frames_are_refused_before_learning_with_how_many_are_needed() -> None:
    groups = {f"p{n}": ["1", "2"] for n in range(6)}
    with pytest.raises(DataError, match="needs 19 good calibration frames per view; there are view 1: 2"):
        split(groups, seed=0, rule=RULE, too_few="refuse")


def test_a_single_part_is_always_refused() -> None:
    with pytest.raises(DataError, match="at least 2 are needed") as caught:
        split({"p1": ["1", "2"]}, seed=0, rule=RULE, too_few="bound")
    assert caught.value.reason == "too_few_frames"


def test_training_alone_keeps_nothing_for_thresholds() -> None:
    assert all_to_learn({"p1": ["1"]}, seed=0).train == ("p1",)
    got = all_to_learn({f"p{n}": ["1"] for n in range(20)}, seed=0)
    assert (len(got.train), len(got.validation), got.calibration) == (18, 2, ())


def labelled(defects: int, goods: int, split: str = "") -> list[Labelled]:
    return [Labelled(f"{'d' if k < defects else 'g'}{k}", k < defects, split) for k in range(defects + goods)]


@given(defects=st.integers(2, 40), goods=st.integers(0, 40), seed=st.integers(0, 5))
def test_supervised_learning_and_its_thresholds_have_both_kinds_and_no_group_in_common(
    defects: int, goods: int, seed: int
) -> None:
    got = split_labelled(labelled(defects, goods), seed=seed)
    assert not set(got.train) & set(got.validation)
    assert sorted((*got.train, *got.validation)) == sorted(f.group for f in labelled(defects, goods))
    for side in (got.train, got.validation):
        assert any(group.startswith("d") for group in side)
        assert goods < 2 or any(group.startswith("g") for group in side)
    assert got.calibration == got.validation


def test_the_manifests_own_validation_rows_are_taken_as_whole_parts() -> None:
    frames = [*labelled(4, 4), Labelled("d0", True, "validation"), Labelled("g9", False, "val")]
    assert split_labelled(frames, seed=0).validation == ("d0", "g9")


def test_defects_of_a_single_part_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2 are needed"):
        split_labelled([Labelled("d0", True, "validation"), *labelled(0, 5)], seed=0)
