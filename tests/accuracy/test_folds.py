"""Folds: no part on two sides, every frame tested, and what is done where frames are few."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.accuracy.folds import Fold, by_split, deal, possible_folds
from edge.accuracy.frame_sets import Row
from edge.errors import DataError
from tests.accuracy.frames import row


@st.composite
def parts(draw: st.DrawFn) -> list[Row]:
    """Parts with 0 to 3 good and 0 to 3 defect frames each; at least four good and one defect frame."""
    counts = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12))
    counts += [(4, 0), (0, 1)]
    return [
        row(f"{part}-{label}-{k}", f"p{part}", defect=label == "defect")
        for part, (good, defect) in enumerate(counts)
        for label, n in (("good", good), ("defect", defect))
        for k in range(n)
    ]


@given(parts(), st.integers(2, 6), st.integers(0, 5), st.booleans())
def test_no_part_is_ever_learned_from_and_tested(
    rows: list[Row], wanted: int, seed: int, supervised: bool
) -> None:
    folds = possible_folds(rows, wanted, supervised=supervised)
    if folds == 1:
        return
    for fold in deal(rows, folds, seed, supervised=supervised):
        assert not {r.group for r in fold.learn} & {r.group for r in fold.test}
        assert any(not r.is_defect for r in fold.learn)
        assert supervised or not any(r.is_defect for r in fold.learn)


@given(parts(), st.integers(2, 6), st.integers(0, 5))
def test_every_good_frame_is_tested_once_and_defects_equally_often(
    rows: list[Row], wanted: int, seed: int
) -> None:
    folds = possible_folds(rows, wanted)
    if folds == 1:
        return
    tested = Counter(r.sample.path for fold in deal(rows, folds, seed) for r in fold.test)
    assert all(tested[r.sample.path] == 1 for r in rows if not r.is_defect)
    assert len({tested[r.sample.path] for r in rows if r.is_defect}) == 1
    assert tested.keys() == {r.sample.path for r in rows}


def test_defects_of_parts_without_good_frames_are_tested_in_every_fold() -> None:
    rows = [row(f"g{k}", f"g{k}") for k in range(4)] + [row(f"d{k}", f"d{k}", defect=True) for k in range(18)]
    assert possible_folds(rows, 5) == 2
    for fold in deal(rows, 2, seed=0):
        assert sum(r.is_defect for r in fold.test) == 18
        assert sum(not r.is_defect for r in fold.test) == 2
        assert len(fold.learn) == 2


def test_seeds_deal_differently_and_one_seed_always_alike() -> None:
    rows = [row(f"g{k}", f"g{k}") for k in range(20)] + [row("d", "d", defect=True)]
    assert deal(rows, 5, 1) == deal(rows, 5, 1)
    assert deal(rows, 5, 1) != deal(rows, 5, 2)


def test_folds_hold_about_as_many_good_frames_each() -> None:
    sizes = (9, 7, 5, 3, 3, 2, 1)
    rows = [row(f"{p}-{k}", f"p{p}") for p, n in enumerate(sizes) for k in range(n)]
    rows.append(row("d", "d", defect=True))
    counts = [sum(not r.is_defect for r in fold.test) for fold in deal(rows, 3, 0)]
    assert max(counts) - min(counts) <= 2


def test_one_fold_learns_from_all_good_frames_and_tests_defects_of_other_parts() -> None:
    rows = [row("g0", "a"), row("g1", "b"), row("d0", "b", defect=True), row("d1", "c", defect=True)]
    (fold,) = deal(rows, 1, 0)
    assert [r.sample.path for r in fold.learn] == ["g0", "g1"]
    assert [r.sample.path for r in fold.test] == ["d1"]
    with pytest.raises(DataError, match="nothing is left to test"):
        deal(rows[:3], 1, 0)


def test_supervised_models_learn_from_the_defects_of_other_folds() -> None:
    rows = [row(f"g{k}", f"g{k}") for k in range(6)] + [row(f"d{k}", f"d{k}", defect=True) for k in range(6)]
    for fold in deal(rows, 3, 0, supervised=True):
        assert Counter(r.is_defect for r in fold.learn) == {False: 4, True: 4}
        assert Counter(r.is_defect for r in fold.test) == {False: 2, True: 2}
    with pytest.raises(DataError, match="too few parts"):
        deal(rows, 1, 0, supervised=True)


def test_the_split_of_the_manifest_is_kept_and_a_torn_part_refused() -> None:
    rows = [row("g0", "a"), row("g1", "b", split="test"), row("d0", "c", defect=True, split="test")]
    assert by_split(rows) == (Fold((rows[0],), (rows[1], rows[2])),)
    with pytest.raises(DataError, match="out of it") as caught:
        by_split([*rows, row("g2", "a", split="test")])
    assert caught.value.reason == "leakage"
    with pytest.raises(DataError, match="0 to test"):
        by_split(rows[:1])
