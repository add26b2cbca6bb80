"""What is learned from and what is tested, so that no part is ever on both sides.

Folds hold whole groups (`frame_sets`). Networks that learn from good frames have the good frames of the other
folds, and are tested on all frames of their own; supervised networks have the defect frames of the other
folds, too. Defect frames of parts without a good frame are never learned from by the former: where no part
has both kinds, all of them are tested in every fold; otherwise they are dealt out like the rest, so that each
frame counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edge.accuracy.frame_sets import Row
from edge.errors import DataError

LEAST_GOOD_PER_FOLD = 2  # frames: of fewer, a threshold that they were held to says nothing


@dataclass(frozen=True, slots=True)
class Fold:
    """One run's frames."""

    learn: tuple[Row, ...]
    test: tuple[Row, ...]


def possible_folds(rows: Sequence[Row], wanted: int, *, supervised: bool = False) -> int:
    """At most `wanted`, so that every fold has a part with good frames, and two of those frames on average.

    Supervised: and a part with defects, of which others are left to learn from.
    """
    good = [row for row in rows if not row.is_defect]
    most = min(wanted, len({row.group for row in good}), len(good) // LEAST_GOOD_PER_FOLD)
    if supervised:
        most = min(most, len({row.group for row in rows if row.is_defect}))
    return max(1, most)


def deal(rows: Sequence[Row], folds: int, seed: int, *, supervised: bool = False) -> tuple[Fold, ...]:
    """Folds of about as many good frames each; the seed deals them otherwise.

    With one fold all good frames are learned from, and the defect frames of other parts tested.

    Raises:
        DataError: nothing is left to test.
    """
    kinds: dict[str, set[bool]] = {}
    for row in rows:
        kinds.setdefault(row.group, set()).add(row.is_defect)
    only_defects = {group for group, kind in kinds.items() if kind == {True}}
    if folds == 1:
        return (_all_good(rows, only_defects, supervised=supervised),)
    torn = any(len(kind) == 2 for kind in kinds.values())
    everywhere = frozenset[str]() if torn or supervised else frozenset(only_defects)
    at = _dealt(rows, kinds, folds, seed)
    return tuple(
        Fold(
            learn=tuple(r for r in rows if at[r.group] != fold and (supervised or not r.is_defect)),
            test=tuple(r for r in rows if at[r.group] == fold or r.group in everywhere),
        )
        for fold in range(folds)
    )


def _dealt(rows: Sequence[Row], kinds: dict[str, set[bool]], folds: int, seed: int) -> dict[str, int]:
    """group → fold: parts with both kinds first, then good ones, then defect ones; the largest first, each to
    the fold that has least."""
    order = [str(g) for g in np.random.default_rng(seed).permutation(sorted(kinds))]
    sizes = {kind: _count(row.group for row in rows if row.is_defect == kind) for kind in (False, True)}
    at: dict[str, int] = {}
    load = {False: [0] * folds, True: [0] * folds}
    for kind in ({False, True}, {False}, {True}):
        by = kind == {True}
        for group in sorted((g for g in order if kinds[g] == kind), key=lambda g: -sizes[by][g]):
            fold = min(range(folds), key=lambda k: (load[by][k], load[not by][k]))
            at[group] = fold
            for counted in (False, True):
                load[counted][fold] += sizes[counted].get(group, 0)
    return at


def _all_good(rows: Sequence[Row], only_defects: set[str], *, supervised: bool) -> Fold:
    if supervised:
        raise DataError(
            "too few parts to learn from some and test others",
            hint="a supervised model needs good and defect frames of at least two parts each",
            reason="too_few_frames",
        )
    test = tuple(row for row in rows if row.group in only_defects)
    if not test:
        raise DataError(
            "every part with a defect has good frames, too, which are learned from: nothing is left to test",
            hint="name parts in the manifest that are parts, or ask for more folds",
            reason="too_few_frames",
        )
    return Fold(learn=tuple(row for row in rows if not row.is_defect), test=test)


def by_split(rows: Sequence[Row], *, supervised: bool = False) -> tuple[Fold]:
    """As the manifest has it: rows of split test are tested, of the others is learned.

    Raises:
        DataError: a part, or copies of a frame, are on both sides; or one side is empty.
    """
    test = tuple(row for row in rows if row.sample.split == "test")
    learn = tuple(row for row in rows if row.sample.split != "test" and (supervised or not row.is_defect))
    both = {row.group for row in test} & {row.group for row in learn}
    if both:
        raise DataError(
            f"{len(both)} parts, as {min(both)}, have frames (or copies of them) in split test and out of it",
            hint="the rows of a part belong together; without --respect-split the folds keep them so",
            reason="leakage",
        )
    if not test or not learn:
        raise DataError(
            f"the split leaves {len(learn)} frames to learn from and {len(test)} to test",
            hint="leave out --respect-split",
            reason="too_few_frames",
        )
    return (Fold(learn, test),)


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
