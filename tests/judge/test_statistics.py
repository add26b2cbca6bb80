import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.judge.statistics import dissimilarity, gradient_dissimilarity, peak, score_map, summarise, top


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


def test_identical_planes_have_no_gradient_dissimilarity_and_it_stays_in_0_to_1(plane: np.ndarray) -> None:
    assert gradient_dissimilarity(plane, plane).max() == 0.0
    other = gradient_dissimilarity(plane, 1 - plane)  # the same gradients, turned round: GMS is blind to it
    assert other.max() == pytest.approx(0, abs=1e-4)
    assert 0.0 <= gradient_dissimilarity(plane, plane * 0.1).max() <= 1.0


def test_gradient_dissimilarity_agrees_with_the_formula_at_a_pixel() -> None:
    x = np.zeros((16, 16), np.float32)
    x[:, 8:] = 0.6  # an edge that the answer lacks
    values = gradient_dissimilarity(x, np.zeros_like(x))
    expected = 0.0
    for scale in (1, 2, 4, 8):
        coarse = x.reshape(16 // scale, scale, 16 // scale, scale).mean((1, 3))
        padded = np.pad(coarse, 1, mode="edge")
        gradient = (
            padded[1:-1, 2:] - padded[1:-1, :-2]
        )  # no change from row to row: Prewitt's mean is the row
        one = 1 - 0.0026 / (gradient**2 + 0.0026)
        centres = (np.arange(one.shape[1]) + 0.5) * scale
        expected += np.interp(8.5, centres, one[0]) / 4
    assert values[7, 8] == pytest.approx(expected, abs=1e-5)


SIDE = 24


def tray(parts: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(plane, answer, foreground) of equal parts in a row of six places, on clutter nobody learned."""
    rng = np.random.default_rng(seed)
    plane, answer = rng.random((2, 3 * SIDE, 12 * SIDE), np.float32)
    part = np.random.default_rng(1).random((2, SIDE, SIDE), np.float32) * 0.2 + 0.4
    foreground = np.zeros(plane.shape, bool)
    for place in range(parts):
        at = slice(SIDE, 2 * SIDE), slice(place * 2 * SIDE + SIDE // 2, place * 2 * SIDE + SIDE // 2 + SIDE)
        plane[at], answer[at] = part
        foreground[at] = True
    return plane, answer, foreground


@pytest.mark.parametrize("statistic", ["mean", "std", "rmse", "max", "peak"])
@pytest.mark.parametrize(("kind", "smooth_px"), [("l2", 0.0), ("l1", 3.0), ("ssim", 5.0)])
def test_six_equal_parts_in_sight_score_as_four_do(statistic: str, kind: str, smooth_px: float) -> None:
    def raw(parts: int, masked: bool = True) -> float:
        plane, answer, foreground = tray(parts, seed=parts)
        seen = foreground if masked else None
        values = score_map(plane, answer, kind, smooth_px, seen)
        return summarise(plane, values, statistic, 8, seen).raw

    assert raw(6) == pytest.approx(raw(4), rel=1e-4)
    assert raw(6, masked=False) != pytest.approx(raw(4, masked=False), rel=1e-4)


def test_the_sum_grows_with_the_parts_and_is_the_mean_times_the_foreground() -> None:
    def score(parts: int) -> dict[str, float]:
        plane, answer, foreground = tray(parts)
        one = summarise(plane, score_map(plane, answer, "l2", 0, foreground), "mean", 8, foreground)
        assert one.foreground_px == foreground.sum() == parts * SIDE**2
        assert one.statistics["sum"] == pytest.approx(one.raw * one.foreground_px)
        return dict(one.statistics)

    assert score(6)["sum"] == pytest.approx(1.5 * score(4)["sum"], rel=1e-5)


@pytest.mark.parametrize("kind", ["l2", "l1", "ssim", "msgms", "probability"])
def test_nothing_outside_the_foreground_is_seen(kind: str) -> None:
    plane, answer, foreground = tray(4)
    others = (np.where(foreground, values, np.float32(0.123)) for values in (plane, answer))
    values = score_map(plane, answer, kind, 5.0, foreground)
    assert (values[~foreground] == 0).all()
    assert values[foreground].max() > 0
    np.testing.assert_array_equal(values, score_map(*others, kind, 5.0, foreground))


@pytest.mark.parametrize("kind", ["l2", "ssim", "msgms", "probability"])
def test_a_foreground_that_is_everywhere_changes_nothing(plane: np.ndarray, kind: str) -> None:
    other = np.random.default_rng(1).random(plane.shape, np.float32)
    everywhere = np.ones(plane.shape, bool)
    without, within = (
        summarise(plane, score_map(plane, other, kind, 2.0, mask), "peak", 7, mask)
        for mask in (None, everywhere)
    )
    np.testing.assert_allclose(within.map, without.map, atol=1e-6)
    assert within.statistics == pytest.approx(dict(without.statistics), rel=1e-5)
    assert (within.peak_box, within.foreground_px) == (without.peak_box, without.foreground_px)


def test_a_parts_edge_counts_as_its_middle_and_a_lone_pixel_does_not_count_as_a_window() -> None:
    foreground = np.zeros((40, 40), bool)
    foreground[:, :20] = True
    foreground[30, 35] = True  # a speck of the mask
    values = np.where(foreground, np.float32(0.3), np.float32(0))
    assert peak(values, 8, foreground)[0] == pytest.approx(0.3, rel=1e-5)  # half of a window is enough …
    values[30, 35] = 1.0
    assert peak(values, 8, foreground)[0] == pytest.approx(0.3, rel=1e-5)  # … a 64th is not
    assert peak(np.where(foreground & (values == 1), values, 0), 8, foreground)[0] == pytest.approx(2 / 64)


@given(st.integers(2, 20), st.integers(2, 20), st.integers(1, 12), st.floats(0.05, 0.95))
def test_peak_over_a_foreground_is_the_formula(height: int, width: int, side: int, share: float) -> None:
    rng = np.random.default_rng(height * 31 + width)
    foreground = rng.random((height, width)) < share
    values = rng.random((height, width), np.float32)
    inside = values * foreground
    h, w = min(side, height), min(side, width)
    means = [
        inside[y : y + h, x : x + w].sum() / max(foreground[y : y + h, x : x + w].sum(), h * w / 2)
        for y in range(height - h + 1)
        for x in range(width - w + 1)
    ]
    assert peak(values, side, foreground)[0] == pytest.approx(max(means), abs=1e-5)


def test_an_empty_foreground_has_no_score(plane: np.ndarray) -> None:
    nothing = np.zeros(plane.shape, bool)
    score = summarise(plane, score_map(plane, plane, "l2", 3.0, nothing), "peak", 8, nothing)
    assert np.isnan(score.raw)
    assert score.foreground_px == 0
    assert all(np.isnan(value) for value in score.statistics.values())


def test_area_is_the_share_of_probable_pixels(plane: np.ndarray) -> None:
    foreground = np.zeros((10, 10), bool)
    foreground[:, :4] = True
    answer = np.zeros((10, 10), np.float32)
    answer[:3, :] = 0.5
    answer[3, :] = 0.49
    values = score_map(answer, answer, "probability", 0.0, foreground)
    assert summarise(answer, values, "area", 4, foreground).raw == pytest.approx(0.3)


def test_smoothing_does_not_dilute_a_parts_edge() -> None:
    foreground = np.zeros((60, 60), bool)
    foreground[:, :30] = True
    plane = np.full(foreground.shape, 0.5, np.float32)
    values = score_map(plane, plane + np.float32(0.25), "l1", 6.0, foreground)
    np.testing.assert_allclose(values[foreground], 0.25, rtol=1e-4)


@given(st.integers(1, 15), st.integers(1, 15), st.floats(1e-6, 1))
def test_top_is_the_mean_of_the_highest_share_of_at_least_one_pixel(
    height: int, width: int, ratio: float
) -> None:
    values = np.random.default_rng(height * 31 + width).random((height, width), np.float32)
    count = max(1, round(ratio * values.size))
    assert top(values, ratio) == pytest.approx(np.sort(values.ravel())[-count:].mean(), rel=1e-5)
    assert values.mean() <= top(values, ratio) + 1e-6
    assert top(values, ratio) <= values.max() + 1e-6


def test_top_of_ever_fewer_pixels_is_the_maximum_and_of_all_the_mean(plane: np.ndarray) -> None:
    shares = [top(plane, ratio) for ratio in (1e-6, 0.01, 0.1, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == plane.max()
    assert shares[-1] == pytest.approx(plane.mean(), rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_top_of_a_map_that_is_not_finite_is_no_score(plane: np.ndarray, bad: float) -> None:
    values = plane.copy()
    values[3, 4] = bad
    assert np.isnan(top(values, 0.01))
    assert np.isnan(summarise(plane, values, "top", 4).raw)


def test_top_is_over_the_foreground_and_as_its_share_says(plane: np.ndarray) -> None:
    foreground = np.zeros(plane.shape, bool)
    foreground[:, :10] = True
    values = np.where(foreground, plane, np.float32(9))
    score = summarise(plane, values, "top", 4, foreground, top_ratio=0.05)
    assert score.raw == pytest.approx(np.sort(plane[:, :10].ravel())[-20:].mean(), rel=1e-5)
    assert summarise(plane, plane, "peak", 4, top_ratio=0.05).statistics["top"] == pytest.approx(
        np.sort(plane.ravel())[-100:].mean(), rel=1e-5
    )


def test_scattered_faults_raise_the_top_and_not_the_peak() -> None:
    """What it is for: many small places, none of which fills a window."""
    one, many = np.zeros((100, 100), np.float32), np.zeros((100, 100), np.float32)
    one[50, 50] = 1
    many[5::10, 5::10] = 1
    first, second = (summarise(v, v, "top", 8) for v in (one, many))
    assert second.raw == pytest.approx(100 * first.raw)
    assert second.statistics["peak"] == pytest.approx(first.statistics["peak"])


def test_six_equal_parts_have_the_top_of_four() -> None:
    def raw(parts: int) -> float:
        plane, answer, foreground = tray(parts, seed=parts)
        values = score_map(plane, answer, "l1", 3.0, foreground)
        return summarise(plane, values, "top", 8, foreground, top_ratio=1 / 8).raw  # a whole number of pixels

    assert raw(6) == pytest.approx(raw(4), rel=1e-4)
