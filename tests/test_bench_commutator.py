"""How the commutators are divided, and how the folds' figures come together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bench.commutator import folds, pooled
from bench.manifests import Row


def rows(*parts: tuple[str, int, int]) -> list[Row]:
    """(part, good frames, defect frames)"""
    return [
        Row(f"{part}/{label}{k}.png", label, part=part)
        for part, good, defect in parts
        for label, count in (("good", good), ("defect", defect))
        for k in range(count)
    ]


def test_parts_stay_whole_and_defects_are_spread_evenly() -> None:
    listed = rows(("a", 7, 1), ("b", 6, 2), ("c", 8, 0), ("d", 0, 1), ("e", 5, 1), ("f", 4, 1), ("g", 3, 0))
    fold_of = folds(listed, 3)
    assert set(fold_of) == set("abcdefg")
    defects = Counter(fold_of[row.part] for row in listed if row.label == "defect")
    assert [defects[k] for k in range(3)] == [2, 2, 2]
    assert {fold_of[row.part] for row in listed if row.label == "good"} == {0, 1, 2}
    assert fold_of == folds(list(reversed(listed)), 3)


def document(common: int, area: int, found: int, frames: int, mean: float, confusion: Any) -> dict[str, Any]:
    figures = {
        "area_px": area, "found_px": found, "dice": 2 * common / (area + found), "defect_frames": frames,
        "dice_per_defect_frame": mean,
    }  # fmt: skip
    return {"classes": {"defect": figures}, "confusion": confusion}


def test_folds_come_together_as_if_they_were_one() -> None:
    total = pooled(
        [
            document(30, 50, 40, 2, 0.7, [[10, 1], [0, 2]]),
            document(80, 100, 90, 1, 0.9, [[7, 0], [1, 0]]),
        ]
    )
    assert total["dice_pooled"] == pytest.approx(2 * 110 / 280)
    assert total["dice_per_defect_frame"] == pytest.approx((0.7 * 2 + 0.9) / 3)
    assert (total["false_alarms"], total["good_frames"]) == (1, 18)
    assert (total["found"], total["defect_frames"]) == (2, 3)
