import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.preprocess import TileSpec, Tiling
from edge.preprocess.tiles import MOST_WINDOW_PIXELS, Stitcher
from edge.types import as_float

sizes = st.integers(1, 120)


@st.composite
def specs(draw: st.DrawFn) -> TileSpec:
    keep = draw(st.integers(8, 40))
    margin = draw(st.integers(0, 12))
    return TileSpec(size_px=keep + 2 * margin, keep_px=keep, step_px=draw(st.integers(1, keep)))


@given(sizes, sizes, specs(), st.integers(1, 7))
def test_cutting_and_stitching_gives_the_plane_back(
    height: int, width: int, spec: TileSpec, batch: int
) -> None:
    plane = np.random.default_rng(height * 1000 + width).random((height, width), np.float32)
    tiling = Tiling(height, width, spec)
    padded, stitcher = tiling.pad(plane), Stitcher(tiling)
    for start in range(0, len(tiling), batch):
        stop = min(start + batch, len(tiling))
        stitcher.add(start, tiling.cut(padded, start, stop))
    # float32 sums of up to keep_px² overlapping windows
    np.testing.assert_allclose(stitcher.result(), plane, atol=5e-5)


@given(sizes, sizes, specs())
def test_every_pixel_is_covered_and_no_window_leaves_the_padded_plane(
    height: int, width: int, spec: TileSpec
) -> None:
    tiling = Tiling(height, width, spec)
    padded = tiling.pad(np.zeros((height, width), np.float32))
    covered = np.zeros(padded.shape, bool)
    for index in range(len(tiling)):
        y, x = tiling.origin(index)
        assert y + spec.size_px <= padded.shape[0]
        assert x + spec.size_px <= padded.shape[1]
        m = spec.margin_px
        covered[y + m : y + m + spec.keep_px, x + m : x + m + spec.keep_px] = True
    assert covered[m : m + height, m : m + width].all()


def test_a_plane_larger_than_a_tile_is_padded_by_the_margin_only() -> None:
    padded = Tiling(700, 1024, TileSpec(size_px=320, keep_px=256, step_px=256)).pad(
        np.zeros((700, 1024), np.float32)
    )
    assert padded.shape == (764, 1088)


def test_borders_are_mirrored() -> None:
    plane = np.arange(100, dtype=np.float32).reshape(10, 10)
    padded = Tiling(10, 10, TileSpec(size_px=12, keep_px=8, step_px=8)).pad(plane)
    np.testing.assert_array_equal(padded[2:-2, 2:-2], plane)
    np.testing.assert_array_equal(padded[0, 2:-2], plane[2])


@pytest.mark.parametrize(
    ("size", "keep", "step"), [(320, 321, 10), (320, 255, 10), (64, 64, 65)], ids=["wide", "odd", "gaps"]
)
def test_a_spec_that_cannot_cover_is_refused(size: int, keep: int, step: int) -> None:
    with pytest.raises(ValueError, match=r"margin|gaps"):
        TileSpec(size_px=size, keep_px=keep, step_px=step)


WHOLE = TileSpec(size_px=64, keep_px=64, step_px=32, whole_px=32)
WHOLE_OF_PART = TileSpec(size_px=128, keep_px=64, step_px=64, whole_px=32)  # mirrored margins of 32 px


@pytest.mark.parametrize("spec", [WHOLE, WHOLE_OF_PART])
@pytest.mark.parametrize("size", [(8, 8), (33, 700), (700, 1024), (1416, 2124), (2832, 4248)])
def test_whole_planes_are_few_windows_and_come_back(spec: TileSpec, size: tuple[int, int]) -> None:
    plane = np.random.default_rng(1).integers(0, 65535, size, np.uint16)
    tiling = Tiling(*size, spec)
    padded, stitcher = tiling.pad(plane), Stitcher(tiling)
    tall, wide = tiling.window
    assert tall % 32 == wide % 32 == 0
    assert tall * wide <= MOST_WINDOW_PIXELS
    for index in range(len(tiling)):
        window = tiling.cut(padded, index, index + 1)
        assert window.shape == (1, 1, tall, wide)
        stitcher.add(index, as_float(window))
    np.testing.assert_array_equal(stitcher.result(), as_float(plane))


def test_a_plane_that_fits_into_one_window_is_one() -> None:
    assert len(Tiling(1024, 1024, WHOLE)) == 1
    assert len(Tiling(1416, 2124, WHOLE)) == 2


def test_where_windows_overlap_the_one_counts_whose_border_is_farther() -> None:
    tiling = Tiling(1416, 2124, WHOLE)
    stitcher = Stitcher(tiling)
    for index in range(len(tiling)):
        stitcher.add(index, np.full((1, 1, *tiling.window), index, np.float32))
    first, second = (tiling.box(i) for i in range(2))
    found = stitcher.result()
    edge_px = (second[0] + first[0] + first[2]) // 2
    assert (found[:, :edge_px] == 0).all()
    assert (found[:, edge_px:] == 1).all()


def test_a_plane_that_needs_no_border_is_not_copied() -> None:
    plane = np.zeros((64, 96), np.float32)
    tiling = Tiling(64, 96, WHOLE)
    assert tiling.pad(plane) is plane
    assert np.shares_memory(tiling.cut(plane, 0, 1), plane)


@given(st.integers(40, 300), st.integers(40, 300), specs(), st.integers(0, 2**32))
def test_windows_without_foreground_are_not_seen_and_every_foreground_pixel_is(
    height: int, width: int, spec: TileSpec, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    foreground = np.zeros((height, width), bool)
    y, x = rng.integers(height), rng.integers(width)
    foreground[y : y + 5, x : x + 5] = True
    tiling = Tiling(height, width, spec)
    seen = set(tiling.seen(foreground).tolist())
    for index in range(len(tiling)):
        left, top, wide, tall = tiling.box(index)
        assert (index in seen) == bool(foreground[top : top + tall, left : left + wide].any())


def test_integers_are_shares_of_their_greatest_value() -> None:
    np.testing.assert_allclose(as_float(np.array([0, 255], np.uint8)), [0, 1])
    np.testing.assert_allclose(as_float(np.array([0, 65535], np.uint16)), [0, 1])
    plain = np.array([0.25], np.float32)
    assert as_float(plain) is plain
