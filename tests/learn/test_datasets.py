"""Windows: the same as inspection's tiles at the borders, repeatable, and never all in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.learn.datasets import PlaneStore, Windows, mirrored
from edge.preprocess import TileSpec, Tiling

TILES = TileSpec(size_px=32, keep_px=24, step_px=24)


def plane(height: int, width: int, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


@given(length=st.integers(1, 40), index=st.integers(-200, 200))
def test_mirroring_is_that_of_the_tiles(length: int, index: int) -> None:
    folded = int(mirrored(np.array([index]), length)[0])
    assert 0 <= folded < length
    if 0 <= index < length:
        assert folded == index


@pytest.mark.parametrize("shape", [(50, 70), (10, 13), (24, 24)])
def test_every_window_of_tile_size_is_a_piece_of_the_padded_plane(shape: tuple[int, int]) -> None:
    image = plane(*shape).astype(np.float16)
    padded = Tiling(*shape, TILES).pad(image.astype(np.float32))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, (32, 32)).reshape(-1, 32, 32)
    for window in Windows([image], TILES, 32, 4, "none", seed=3).at(0).numpy()[:, 0]:
        assert (pieces == window).all(axis=(1, 2)).any()


def test_windows_depend_on_seed_and_step_only() -> None:
    planes = [plane(40, 60, k).astype(np.float16) for k in range(3)]
    one, other = Windows(planes, TILES, 16, 8, "dihedral", 1), Windows(planes, TILES, 16, 8, "dihedral", 2)
    assert (one.at(5) == one.at(5)).all()
    assert (one.at(5) != one.at(6)).any()
    assert (one.at(5) != other.at(5)).any()


def test_augmentation_turns_windows_only_when_asked() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float16), (64, 1))
    tiles = TileSpec(size_px=16, keep_px=16, step_px=16)

    def directions(augmentation: str) -> set[tuple[bool, bool]]:
        windows = Windows([ramp], tiles, 16, 64, augmentation, 0).at(0).numpy()[:, 0]  # type: ignore[arg-type]
        return {(bool(w[0, -1] > w[0, 0]), bool(w[-1, 0] > w[0, 0])) for w in windows}

    assert directions("none") == {(True, False)}
    assert directions("flips") == {(True, False), (False, False)}
    assert directions("dihedral") >= {(True, False), (False, True)}


def test_planes_beyond_the_memory_limit_come_from_one_file(tmp_path: Path) -> None:
    store = PlaneStore(tmp_path / "spill" / "planes.f16", memory_limit_bytes=3 * 40 * 60 * 2)
    kept = [store.keep(plane(40, 60, k)) for k in range(6)]
    assert [isinstance(half, np.memmap) for half in kept] == [False] * 3 + [True] * 3
    for k, half in enumerate(kept):
        assert (half == plane(40, 60, k).astype(np.float16)).all()
    assert store.spill_file.stat().st_size == 3 * 40 * 60 * 2
    store.close()
    assert not store.spill_file.exists()
