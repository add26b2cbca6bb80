"""Real defects are learned from only where held-out ones show that it helps; wrong labels are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.learn import defects as module
from edge.learn.defects import (
    Figures,
    Known,
    Scorer,
    Shown,
    Verdict,
    deal,
    judge_defects,
    pilot_share,
    remembered,
)
from edge.learn.labels import LabelledPlane

SIDE = 48


def frame(seed: int, group: str, *, spot: bool, marked: bool = True, wrong: bool = False) -> Known:
    """Noise, with a bright spot in defect frames; a wrong mask marks good noise elsewhere."""
    rng = np.random.default_rng(seed)
    plane, truth = rng.random((SIDE, SIDE)) * 0.5, np.zeros((SIDE, SIDE), np.uint8)
    y, x = (int(v) for v in rng.integers(4, SIDE - 12, 2))
    if spot:
        plane[y : y + 8, x : x + 8] += 0.3
    if marked and (spot or wrong):
        truth[y : y + 8, x : x + 8] = 1
    return Known(group, LabelledPlane(plane.astype(np.float16), truth, int(spot or wrong)), spot or wrong)


GOODS = [frame(k, f"g{k}", spot=False) for k in range(6)]
DEFECTS = [frame(100 + k, f"d{k}", spot=True) for k in range(6)]


class FakePilot:
    """Sees spots dimly; the better, the more of the frames that it is taught have one where the mask says.

    A frame's `skill` is how brightly its pixels stand out; noise depends on what was learned, as seeds' does.
    """

    def __init__(self, harm: float = 0.0) -> None:
        self.taught: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.harm = harm

    def __call__(self, goods: Sequence[LabelledPlane], defects: Sequence[LabelledPlane]) -> Scorer:
        self.taught.append((tuple(map(id, goods)), tuple(map(id, defects))))
        contrast = [float(d.plane[d.truth > 0].mean() - d.plane[d.truth == 0].mean()) for d in defects]
        skill = 0.5 + (2.0 * max(0.0, float(np.mean(contrast))) if contrast else 0.0)
        rng = np.random.default_rng(len(defects))

        def scorer(labelled: LabelledPlane) -> Shown:
            noise = rng.random(labelled.plane.shape) * (0.8 + (self.harm if defects else 0))
            values = (np.maximum(labelled.plane.astype(np.float32), 0) * skill + noise).astype(np.float32)
            return Shown(float(np.sort(values.ravel())[-40:].mean()), values)

        return scorer


def test_defects_that_help_on_held_out_ones_are_learned_from() -> None:
    verdict = judge_defects(GOODS, DEFECTS, FakePilot(), seed=0)
    assert verdict.use == "windows"
    assert verdict.figures is not None
    assert verdict.figures.with_ap - verdict.figures.without_ap >= verdict.figures.margin
    assert f"{verdict.figures.with_ap:.3f} with them" in verdict.sentence


@pytest.mark.parametrize("seed", range(8))
def test_random_good_windows_labelled_as_defects_are_left_out(seed: int) -> None:
    wrong = [frame(200 + 10 * seed + k, f"w{k}", spot=False, wrong=True) for k in range(6)]
    verdict = judge_defects(GOODS, wrong, FakePilot(), seed=seed)
    assert verdict.use == "nothing"
    assert "left out" in verdict.sentence
    assert verdict.figures is not None


def test_defects_that_make_it_worse_are_left_out() -> None:
    verdict = judge_defects(GOODS, DEFECTS, FakePilot(harm=3.0), seed=0)
    assert verdict.use == "nothing"
    assert "no improvement" in verdict.sentence


def test_no_pilot_is_judged_on_what_it_learned_from() -> None:
    """Every fold's frames are withheld from its pilot, with all frames of their groups; so are a third of the
    good groups, from every pilot."""
    twins = [frame(300 + k, f"d{k}", spot=True) for k in range(6)]  # of the same parts
    pilot = FakePilot()
    judge_defects(GOODS, [*DEFECTS, *twins], pilot, seed=3)
    goods = {learned for learned, _ in pilot.taught}
    assert len(goods) == 1
    assert len(goods.pop()) == 4
    (nothing, *folds) = [set(defects) for _, defects in pilot.taught]
    assert nothing == set()
    assert [len(taught) for taught in folds] == [8, 8, 8]
    held = [{id(f.labelled) for f in [*DEFECTS, *twins]} - taught for taught in folds]
    assert len(set.union(*held)) == 12
    for known, twin in zip(DEFECTS, twins, strict=True):
        assert all((id(known.labelled) in h) == (id(twin.labelled) in h) for h in held)


def test_a_single_group_gives_crops_only_and_no_pilot_learns() -> None:
    pilot = FakePilot()
    verdict = judge_defects(GOODS, DEFECTS[:1], pilot, seed=0)
    assert verdict.use == "crops"
    assert "untested" in verdict.sentence
    assert pilot.taught == []


def test_frames_without_masks_are_not_learned_from() -> None:
    pilot = FakePilot()
    unmarked = [frame(100 + k, f"d{k}", spot=True, marked=False) for k in range(4)]
    assert judge_defects(GOODS, unmarked, pilot, seed=0).use == "nothing"
    assert pilot.taught == []
    judge_defects(GOODS, [*DEFECTS, *unmarked], pilot, seed=0)
    assert not {id(f.labelled) for f in unmarked} & {d for _, taught in pilot.taught for d in taught}


def test_nothing_is_said_of_nothing() -> None:
    assert judge_defects(GOODS, [], FakePilot(), seed=0) == module.NONE_GIVEN


def test_one_good_frame_is_learned_from_and_frames_are_not_compared() -> None:
    pilot = FakePilot()
    verdict = judge_defects(GOODS[:1], DEFECTS, pilot, seed=0)
    assert all(len(goods) == 1 for goods, _ in pilot.taught)
    assert verdict.figures is not None
    assert verdict.figures.with_auroc is None
    assert "AUROC" not in verdict.sentence


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"with_ap": 0.61}, "chance"),
        ({"with_ap": 0.59}, "no improvement"),
        ({"worst_fold": -0.02}, "fell by 0.020"),
        ({"with_auroc": 0.9}, "told apart worse"),
    ],
)
def test_each_rule_alone_leaves_them_out(changed: dict[str, float], said: str) -> None:
    sound = dict(
        without_ap=0.6, with_ap=0.7, least=0.01, margin=0.03, without_auroc=0.95, with_auroc=0.95, frames=6,
        folds=3, worst_fold=0.05, pair=1 / 60,
    )  # fmt: skip
    assert module._decided(Figures(**sound)).use == "windows"  # type: ignore[arg-type]
    verdict = module._decided(Figures(**(sound | changed)))  # type: ignore[arg-type]
    assert verdict.use == "nothing"
    assert said in verdict.sentence


def test_one_pair_of_held_out_frames_that_changes_places_is_no_veto() -> None:
    """Six defect frames and one good one: AUROC can only fall by a sixth or not at all."""
    fell = Figures(0.35, 0.69, 0.01, 0.03, 1.0, 5 / 6, 6, 3, 0.1, 1 / 6)
    assert module._decided(fell).use == "windows"
    assert module._decided(replace(fell, with_auroc=4 / 6)).use == "nothing"


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=20))
def test_rises_that_their_opposites_also_pass_are_chance(rises: list[float]) -> None:
    """A mean above its margin is above 0 by more than the differences scatter: never both ways."""
    margin = max(module.LEAST_RISE, module._by_chance(rises))
    mean = float(np.mean(rises))
    assert not (mean >= margin and -mean >= margin)
    if mean >= margin and len(set(rises)) > 1:
        assert sum(rise > 0 for rise in rises) >= 1


def test_where_defects_change_nothing_they_pass_once_in_ten_times_at_most() -> None:
    rng = np.random.default_rng(0)
    passed = [
        float(np.mean(rises)) > module._by_chance(rises.tolist())
        for n in (2, 3, 6, 12, 20)
        for rises in rng.normal(0, 0.1, (2000, n))
    ]
    assert np.mean(passed) < 0.115


@given(
    st.sets(st.text("abc", min_size=1, max_size=5), min_size=2, max_size=20),
    st.integers(2, 3),
    st.integers(0, 9),
)
def test_dealt_groups_are_in_one_fold_each(groups: set[str], folds: int, seed: int) -> None:
    dealt = deal(sorted(groups), min(folds, len(groups)), seed)
    assert sorted(group for fold in dealt for group in fold) == sorted(groups)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert dealt == deal(sorted(groups, reverse=True), min(folds, len(groups)), seed)


@pytest.mark.parametrize("groups", [0, 1, 2, 3, 20])
def test_all_pilots_together_take_no_more_than_their_share(groups: int) -> None:
    pilot = FakePilot()
    judge_defects(GOODS, [frame(400 + k, f"d{k}", spot=True) for k in range(groups)], pilot, seed=0)
    assert len(pilot.taught) * pilot_share(groups, 0.4) <= 0.4 + 1e-12


def test_a_continued_run_asks_no_pilot_again_unless_something_changed(tmp_path: Path) -> None:
    file, asked = tmp_path / "resume" / "defects.json", []

    def judge() -> Verdict:
        asked.append(1)
        return Verdict("windows", "why", Figures(0.1, 0.2, 0.01, 0.02, None, None, 3, 3, 0.0, 0.0))

    first = remembered(file, "a", judge)
    assert remembered(file, "a", judge) == first
    assert len(asked) == 1
    remembered(file, "b", judge)
    file.write_text("{")
    assert remembered(file, "b", judge) == first
    assert len(asked) == 3


def test_defects_that_are_found_already_need_not_be_learned() -> None:
    """A pilot that marks them perfectly without having seen any leaves nothing to gain: nothing is risked."""

    def perfect(goods: Sequence[LabelledPlane], defects: Sequence[LabelledPlane]) -> Scorer:
        return lambda labelled: Shown(float(labelled.truth.max()), labelled.truth.astype(np.float32))

    verdict = judge_defects(GOODS, DEFECTS, perfect, seed=0)
    assert verdict.use == "nothing"
    assert verdict.figures is not None
    assert verdict.figures.without_ap == 1.0
