import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.judge.statistics import dissimilarity, peak, score_map, summarise


@pytest.fixture
def plane() -> np.ndarray:
    return np.random.default_rng(0).random((40, 50), np.float32)


def test_identical_planes_have_no_dissimilarity(plane: np.ndarray) -> None:
    assert dissimilarity(plane, plane).max() < 1e-5


def test_dissimilarity_agrees_with_the_formula_at_a_pixel(plane: np.ndarray) -> None:
    other = np.random.default_rng(1).random(plane.shape, np.float32)
    x = np.arange(11) - 5.0
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    a, b = plane[15:26, 20:31].astype(float), other[15:26, 20:31].astype(float)
    ma, mb = (window * a).sum(), (window * b).sum()
    va, vb = (window * a * a).sum() - ma**2, (window * b * b).sum() - mb**2
    cov = (window * a * b).sum() - ma * mb
    ssim = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    assert dissimilarity(plane, other)[20, 25] == pytest.approx((1 - ssim) / 2, abs=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("l1", 0.25), ("l2", 0.0625), ("probability", 0.75)])
def test_each_map_is_what_its_name_says(kind: str, expected: float) -> None:
    values = score_map(np.full((9, 9), 0.5, np.float32), np.full((9, 9), 0.75, np.float32), kind)
    np.testing.assert_allclose(values, expected)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12))
def test_peak_is_the_largest_mean_over_windows_inside_the_map(height: int, width: int, side: int) -> None:
    values = np.random.default_rng(height * 31 + width).random((height, width), np.float32)
    h, w = min(side, height), min(side, width)
    means = [values[y : y + h, x : x + w].mean() for y in range(height - h + 1) for x in range(width - w + 1)]
    highest, (x, y, wide, tall) = peak(values, side)
    assert highest == pytest.approx(max(means), abs=1e-5)
    assert (wide, tall) == (w, h)
    assert values[y : y + h, x : x + w].mean() == pytest.approx(highest, abs=1e-5)


def test_one_hot_pixel_moves_the_maximum_more_than_the_peak(plane: np.ndarray) -> None:
    values = np.zeros_like(plane)
    values[7, 7] = 1.0
    score = summarise(plane, values, "peak", 4)
    assert score.statistics["max"] == 1.0
    assert score.raw == pytest.approx(1 / 16)
