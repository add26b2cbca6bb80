"""Fragments for learning: each once an epoch, as inspection cuts them, in memory that does not grow."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DataError
from edge.learn.fragments import FragmentBatches, in_unit_range, permuted
from edge.preprocess import TileSpec, Tiling

TILES = TileSpec(size_px=16, keep_px=16, step_px=8)


class Endless:
    """A plane that has a size but no pixels: what it is asked for is made up."""

    dtype = np.dtype(np.float16)

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:  # type: ignore[type-arg]
        return np.zeros([part.stop - part.start for part in key], np.float16)


def plane(height: int, width: int, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).random((height, width), dtype=np.float32).astype(np.float16)


def epoch(batches: FragmentBatches, number: int = 0) -> list[tuple[int, int, int]]:
    """The places of an epoch's fragments, in order."""
    first = number * len(batches)
    steps = range(first // batches.batch, -(-(first + len(batches)) // batches.batch))
    places = (place for step in steps for place in batches.places(step))
    skipped = first % batches.batch
    return list(islice(places, skipped, skipped + len(batches)))


@given(count=st.integers(1, 3000), key=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_a_permutation_hits_every_index_once(count: int, key: tuple[int, int]) -> None:
    assert sorted(permuted(np.arange(count), count, key)) == list(range(count))


def test_a_permutation_looks_random() -> None:
    """Neighbours do not stay neighbours, and halves are mixed evenly."""
    order = permuted(np.arange(100_000), 100_000, (1, 0))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs((order[:50_000] < 50_000).mean() - 0.5) < 0.01
    assert (order != permuted(np.arange(100_000), 100_000, (1, 1))).mean() > 0.99


@given(
    sizes=st.lists(st.tuples(st.integers(5, 70), st.integers(5, 70)), min_size=1, max_size=4),
    batch=st.integers(1, 40),
    number=st.integers(0, 2),
)
def test_every_fragment_comes_exactly_once_an_epoch(
    sizes: list[tuple[int, int]], batch: int, number: int
) -> None:
    batches = FragmentBatches([plane(*size) for size in sizes], TILES, batch, "none", seed=3)
    expected = [
        (k, *tiling.origin(i))
        for k, tiling in enumerate(Tiling(*size, TILES) for size in sizes)
        for i in range(len(tiling))
    ]
    assert len(batches) == len(expected)
    assert Counter(epoch(batches, number)) == Counter(expected)


@pytest.mark.parametrize("tiles", [TILES, TileSpec(size_px=24, keep_px=16, step_px=16)])
def test_fragments_are_the_tiles_of_inspection(tiles: TileSpec) -> None:
    planes = [plane(40, 61), plane(11, 13)]
    batches = FragmentBatches(planes, tiles, 5, "none", seed=0)
    tilings = [Tiling(*p.shape, tiles) for p in planes]
    padded = [t.pad(p.astype(np.float32)) for t, p in zip(tilings, planes, strict=True)]
    for step in range(4):
        for window, (k, y, x) in zip(batches.at(step).numpy()[:, 0], batches.places(step), strict=True):
            assert (window == padded[k][y : y + tiles.size_px, x : x + tiles.size_px]).all()


@given(seed=st.integers(0, 99), share=st.sampled_from([0.001, 0.01, 0.2]))
def test_fragments_that_see_a_defect_are_left_out(seed: int, share: float) -> None:
    planes = [plane(50, 90), plane(30, 30)]
    truth = np.random.default_rng(seed).random((50, 90)) < share
    expected = {
        (0, y, x)
        for tiling in [Tiling(50, 90, TILES)]
        for y, x in (tiling.origin(i) for i in range(len(tiling)))
        if not truth[y : y + 16, x : x + 16].any()
    }
    got = epoch(FragmentBatches(planes, TILES, 7, "none", 0, truths=[truth, None]))
    assert {place for place in got if place[0] == 0} == expected
    assert sum(place[0] == 1 for place in got) == len(Tiling(30, 30, TILES))


def test_frames_that_are_all_defect_are_refused() -> None:
    with pytest.raises(DataError, match="no fragment"):
        FragmentBatches([plane(40, 40)], TILES, 4, "none", 0, truths=[np.ones((40, 40), np.uint8)])


def test_a_step_depends_on_seed_and_number_only() -> None:
    planes = [plane(200, 300)]
    one, other = (FragmentBatches(planes, TILES, 32, "dihedral", seed) for seed in (1, 2))
    again = FragmentBatches(planes, TILES, 32, "dihedral", 1)
    again.at(0)
    assert (one.at(5) == again.at(5)).all()
    assert (one.at(5) != one.at(6)).any()
    assert (one.at(5) != other.at(5)).any()


def test_augmentation_turns_fragments_only_when_asked() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float16), (64, 1))

    def directions(augmentation: str) -> set[tuple[bool, bool]]:
        windows = FragmentBatches([ramp], TILES, 64, augmentation, 0).at(0).numpy()[:, 0]  # type: ignore[arg-type]
        return {(bool(w[0, -1] > w[0, 0]), bool(w[-1, 0] > w[0, 0])) for w in windows}

    assert directions("none") == {(True, False)}
    assert directions("flips") == {(True, False), (False, False)}
    assert directions("dihedral") >= {(True, False), (False, True)}


def test_stored_grey_levels_are_scaled_by_their_range() -> None:
    assert in_unit_range(np.array([0, 65535], np.uint16)).tolist() == [0.0, 1.0]
    assert in_unit_range(np.array([0, 51, 255], np.uint8)) == pytest.approx([0, 0.2, 1])
    assert in_unit_range(np.array([0.25], np.float16)).dtype == np.float32


def test_five_million_fragments_need_no_memory() -> None:
    planes = [Endless(1000, 5000) for _ in range(2)]
    tracemalloc.start()
    batches = FragmentBatches(planes, TileSpec(size_px=64, keep_px=64, step_px=1), 64, "none", 0)
    for step in (0, 1, 70_000, 10**9):
        assert batches.at(step).shape == (64, 1, 64, 64)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(batches) == 2 * 937 * 4937  # 9.3 million
    assert peak_bytes < 8_000_000
