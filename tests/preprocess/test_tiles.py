import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.preprocess import TileSpec, Tiling
from edge.preprocess.tiles import Stitcher

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
