"""Synthetic anomalies: where they are, what they are made of, and that labels say what can be seen."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.learn.anomalies.fills import FILLS, DefectCrop, Ground
from edge.learn.anomalies.lighting import Lighting
from edge.learn.anomalies.mix import AnomalyMix, Painted, _poisson, paint
from edge.learn.anomalies.objective import (
    DICE_WEIGHT,
    FOCAL_WEIGHT,
    MOST_WEIGHT,
    SMALL_AREA,
    anomaly_loss,
)
from edge.learn.anomalies.shapes import MOST_PATCH, SHAPES, clouds, crack, texture_direction
from edge.learn.automatic import SURFACE
from edge.types import FloatImage, Mask

SIDE = 96
STILL = Lighting(gain=0, offset=0, blur_px=0, noise=0)
EVERYTHING = AnomalyMix(  # every shape and fill as often, and every blend
    shapes=dict.fromkeys(SHAPES, 1.0), fills=dict.fromkeys(FILLS, 1.0), thin_fills=dict.fromkeys(FILLS, 1.0),
    region_fills=dict.fromkeys(FILLS, 1.0), poisson=0.5, seam_px=SIDE,
)  # fmt: skip
SEEDS = st.integers(0, 2**32)
SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def texture(
    seed: int, shape: tuple[int, int] = (SIDE, SIDE), sigma: tuple[float, float] = (2, 2)
) -> FloatImage:
    """Smooth noise around 0.5; sigmas along x and y."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma[0], sigmaY=sigma[1])
    return np.asarray(np.clip(0.5 + 0.1 * smooth / max(1e-9, float(smooth.std())), 0, 1), np.float32)


def plane(kind: str, shape: tuple[int, int], seed: int = 0) -> FloatImage:
    values = {"black": 0.0, "white": 1.0, "grey": 0.37}
    return np.full(shape, values[kind], np.float32) if kind in values else texture(seed, shape)


def centre(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return rng.uniform(0, 1, 2) * shape[::-1]


def covers(name: str, count: int, side: int = SIDE) -> list[FloatImage]:
    """Around the middle, so that nothing is cut off by the window unless it is as large."""
    middle = np.array([side / 2, side / 2])
    return [SHAPES[name](np.random.default_rng(k), (side, side), middle) for k in range(count)]


def extent(cover: FloatImage) -> int:
    ys, xs = np.nonzero(cover)
    return int(max(np.ptp(ys), np.ptp(xs))) + 1 if ys.size else 0


def half_width(cover: FloatImage) -> float:
    """Of its widest place, in pixels: 1 where it is a line of single pixels."""
    return float(cv2.distanceTransform((cover > 0).astype(np.uint8), cv2.DIST_L2, 5).max())


def lie(cover: FloatImage | Mask) -> float:
    """The angle [rad] of the longer axis of what is covered."""
    ys, xs = np.nonzero(cover)
    xx, yy, xy = np.var(xs), np.var(ys), np.cov(xs, ys)[0, 1]
    return 0.5 * math.atan2(2 * xy, xx - yy)


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=25)
@given(shape=SIZES, seed=SEEDS)
def test_covers_lie_within_0_and_1_of_any_window(name: str, shape: tuple[int, int], seed: int) -> None:
    cover, again = (
        SHAPES[name](rng, shape, centre(rng, shape)) for rng in map(np.random.default_rng, (seed, seed))
    )
    assert cover.shape == shape
    assert cover.dtype == np.float32
    assert 0 <= cover.min() <= cover.max() <= 1
    assert np.array_equal(cover, again)


def test_patches_are_from_a_few_pixels_to_a_region_of_the_window() -> None:
    sizes = {name: [extent(c) for c in covers(name, 80)] for name in ("polygon", "blob")}
    for found in sizes.values():
        assert 1 <= min(size for size in found if size) <= 4
        assert max(found) > 0.3 * SIDE
    assert max(sizes["polygon"]) <= 2 * MOST_PATCH * SIDE + 2


def test_specks_are_spots_of_a_few_pixels() -> None:
    found = covers("specks", 60)
    assert min(extent(cover) for cover in found if cover.any()) <= 4
    assert max(half_width(cover) for cover in found) < 7  # two may touch
    assert min(half_width(cover) for cover in found if cover.any()) <= 2


def test_cracks_are_thin_however_long_and_some_a_hair() -> None:
    found = [cover for cover in covers("crack", 80) if cover.any()]
    widths, lengths = [half_width(c) for c in found], [extent(c) for c in found]
    assert max(widths) <= 4  # where branches leave
    assert sum(width < 1.6 for width in widths) > 10
    assert min(lengths) < 15
    assert max(lengths) > SIDE / 2
    assert any(0 < float(cover.max()) < 1 for cover in found), "thinner than a pixel, it is fainter"


def test_a_band_is_one_side_of_the_window() -> None:
    shares = [float(cover.mean()) for cover in covers("band", 20)]
    assert all(0.3 < share < 0.7 for share in shares)


@pytest.mark.parametrize("along_deg", [0, 30, 90, 135])
def test_half_of_the_cracks_follow_the_direction_they_are_told(along_deg: int) -> None:
    along, middle = math.radians(along_deg), np.array([SIDE / 2, SIDE / 2])

    def agreement(told: float | None) -> float:
        made = (crack(np.random.default_rng(k), (SIDE, SIDE), middle, told) for k in range(80))
        return float(np.mean([math.cos(2 * (lie(cover) - along)) for cover in made]))

    assert agreement(along) > 0.3
    assert abs(agreement(None)) < 0.25


@pytest.mark.parametrize(("sigma", "along_deg"), [((8.0, 0.7), 0), ((0.7, 8.0), 90)])
def test_painted_cracks_follow_a_texture_that_has_a_direction(
    sigma: tuple[float, float], along_deg: int
) -> None:
    window = texture(1, (64, 64), sigma)
    only = AnomalyMix(shapes={"crack": 1.0}, thin_fills={"flat": 1.0}, second=0.0, poisson=0.0, visible=0.02)
    made = (paint(window, np.random.default_rng(k), only, [window]) for k in range(150))
    lies = [lie(p.label) for p in made if np.count_nonzero(p.label) > 20]
    assert len(lies) > 80
    assert np.mean([math.cos(2 * (angle - math.radians(along_deg))) for angle in lies]) > 0.2


@settings(max_examples=30)
@given(angle=st.floats(0, math.pi))
def test_direction_of_lines_is_that_along_which_grey_does_not_change(angle: float) -> None:
    y, x = np.mgrid[:64, :64]
    across = y * math.cos(angle) - x * math.sin(angle)
    found, coherence = texture_direction((0.5 + 0.3 * np.sin(across / 2)).astype(np.float32))
    assert coherence > 0.9
    assert math.cos(2 * (found - angle)) > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (30, 30)])
def test_a_flat_or_tiny_plane_has_no_direction(shape: tuple[int, int]) -> None:
    assert texture_direction(np.full(shape, 0.4, np.float32))[1] == 0


@settings(max_examples=30)
@given(shape=SIZES, exponent=st.floats(0, 2), seed=SEEDS)
def test_clouds_have_mean_0_and_deviation_1(shape: tuple[int, int], exponent: float, seed: int) -> None:
    found = clouds(np.random.default_rng(seed), shape, exponent)
    assert found.shape == shape
    assert float(found.mean()) == pytest.approx(0, abs=1e-4)
    if min(shape) > 2:
        assert float(found.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", FILLS)
@settings(max_examples=20)
@given(
    kind=st.sampled_from(["black", "white", "grey", "texture"]),
    shape=SIZES,
    donor=SIZES,
    covered=st.sampled_from(["nothing", "all", "some"]),
    crop=st.one_of(st.none(), SIZES),
    seed=SEEDS,
)
def test_fills_are_finite_and_as_large_as_the_window(
    name: str, kind: str, shape: tuple[int, int], donor: tuple[int, int], covered: str,
    crop: tuple[int, int] | None, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    cover = {"nothing": np.zeros, "all": np.ones}.get(covered, rng.random)(shape).astype(np.float32)
    crops = () if crop is None else (DefectCrop(texture(1, crop), np.ones(crop, np.float32)),)
    ground = Ground(plane(kind, shape), cover, [plane(kind, donor, 3), texture(4, donor)], crops)
    fill = FILLS[name](rng, ground)
    assert fill.shape == shape
    assert fill.dtype == np.float32
    assert np.isfinite(fill).all()


def painted(window: FloatImage, seed: int, mix: AnomalyMix, **given_too: object) -> Painted:
    donors = [texture(seed % 7, window.shape), window]
    return paint(window, np.random.default_rng(seed), mix, donors, **given_too)  # type: ignore[arg-type]


@settings(max_examples=40)
@given(seed=SEEDS, visible=st.floats(0.01, 0.2))
def test_the_label_is_exactly_where_the_picture_changed_visibly(seed: int, visible: float) -> None:
    """Of two anomalies, too: where the second undoes the first, there is nothing to find."""
    window = texture(0, (64, 48))
    made = painted(window, seed, replace(EVERYTHING, second=1.0, close_px=1, visible=visible))
    assert np.array_equal(made.label, np.abs(made.window - window) > visible)
    assert len(made.kinds) <= 2
    assert bool(made.kinds) == bool(made.label.any())
    if not made.kinds:
        assert np.array_equal(made.window, window)


@settings(max_examples=30)
@given(seed=SEEDS)
def test_gaps_of_the_label_are_closed_and_nothing_else_is_added(seed: int) -> None:
    window = texture(0, (48, 64))
    made = painted(window, seed, replace(EVERYTHING, close_px=7))
    changed = np.abs(made.window - window) > EVERYTHING.visible
    assert not (changed & ~made.label).any()
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    near = cv2.dilate(changed.astype(np.uint8), ellipse) > 0
    assert not (made.label & ~near).any()


@pytest.mark.parametrize("seed", range(12))
def test_of_spliced_texture_only_the_seam_is_wrong(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = np.zeros((SIDE, SIDE), np.float32)
    left[:, : SIDE // 2] = 1
    monkeypatch.setattr("edge.learn.anomalies.mix._cover", lambda *_: ("band", left))
    mix = AnomalyMix(  # Poisson's equation would take the seam away
        region_fills={"splice": 1.0}, second=0.0, poisson=1.0, seam_px=4, edge_px=(0.6, 1.0)
    )
    made = painted(texture(0), seed, mix)
    columns = np.flatnonzero(made.label.any(0))
    assert columns.min() >= SIDE // 2 - 4
    assert columns.max() < SIDE // 2 + 8  # the soft edge, and gaps that are closed
    assert (made.window != texture(0))[:, : SIDE // 4].any(), "inside it is other texture, which is good"
    assert made.kinds == (("band", "splice"),)


def test_a_second_anomaly_that_undoes_the_first_leaves_no_label_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    window = np.full((20, 20), 0.5, np.float32)
    first, second = window.copy(), window.copy()
    first[:10] = 0.9
    second[12:] = 0.1
    changes = iter([first, second])
    nowhere = np.zeros_like(window)
    monkeypatch.setattr(
        "edge.learn.anomalies.mix._one", lambda *_: (next(changes), ("band", "flat"), nowhere)
    )
    made = painted(window, 0, AnomalyMix(second=1.0, close_px=1))
    assert np.array_equal(made.label, second < 0.5)


@pytest.mark.parametrize("mix", [AnomalyMix(), SURFACE], ids=["usual", "surface"])
def test_most_of_what_is_drawn_can_be_seen(mix: AnomalyMix) -> None:
    labels = [painted(texture(k), k, mix).label for k in range(40)]
    assert sum(bool(label.any()) for label in labels) > 34
    areas = [int(label.sum()) for label in labels if label.any()]
    assert min(areas) < 60  # down to specks and hairs
    assert max(areas) > 500


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["black", "white", "grey", "texture"]), shape=SIZES, seed=SEEDS,
    crop=st.one_of(st.none(), SIZES),
)  # fmt: skip
def test_painting_never_raises_and_stays_within_0_and_1(
    kind: str, shape: tuple[int, int], seed: int, crop: tuple[int, int] | None
) -> None:
    crops = () if crop is None else (DefectCrop(texture(1, crop), np.ones(crop, np.float32)),)
    made = painted(plane(kind, shape), seed, EVERYTHING, crops=crops)
    assert made.window.shape == made.label.shape == shape
    assert made.window.dtype == np.float32
    assert 0 <= made.window.min() <= made.window.max() <= 1  # no NaN is


@settings(max_examples=25)
@given(seed=SEEDS, poisson=st.sampled_from([0.0, 1.0]), planted=st.sampled_from([0.0, 1.0]))
def test_nothing_beyond_the_foreground_is_painted_or_labelled(
    seed: int, poisson: float, planted: float
) -> None:
    """Not by a soft edge either, nor by a gap that is closed."""
    window = texture(0, (64, 64))
    foreground = np.zeros(window.shape, np.bool_)
    cv2.circle(foreground.view(np.uint8), (34, 30), 22, 1, -1)
    foreground[:, 32:34] = False
    crop = DefectCrop(texture(5, (30, 20)), np.ones((30, 20), np.float32))
    mix = replace(EVERYTHING, poisson=poisson, planted=planted, second=1.0, visible=0.02)
    made = painted(window, seed, mix, crops=[crop], foreground=foreground)
    assert np.array_equal(made.window[~foreground], window[~foreground])
    assert not made.label[~foreground].any()


def fine(seed: int = 0) -> FloatImage:
    """A texture of 16 bits, most of which 8 bits cannot say."""
    return np.asarray(np.rint(texture(seed) * 65535) / 65535, np.float32)


def disc(radius: int, at: tuple[int, int] = (50, 40)) -> FloatImage:
    cover = np.zeros((SIDE, SIDE), np.float32)
    cv2.circle(cover, at, radius, 1.0, -1)
    return cover


def test_poisson_keeps_what_is_outside_and_every_bit_of_the_detail() -> None:
    window, cover = fine(), disc(18)
    joined = _poisson(window, texture(9), cover)
    assert joined is not None
    inside = cover > 0
    assert np.array_equal(joined[~inside], window[~inside])
    assert float(np.abs(joined - window)[inside].mean()) > 0.02
    nothing = _poisson(window, window, cover)
    assert nothing is not None
    np.testing.assert_allclose(nothing, window, atol=2 / 255 * float(np.ptp(window)))
    assert len(np.unique(nothing[inside])) > 300, "not the levels of 8 bits"


def test_poisson_brings_the_fills_gradients_to_their_own_place() -> None:
    """Its brightness does not matter: a spot of the fill is one at the same pixels, on the window's grey."""
    window = np.full((SIDE, SIDE), 0.3, np.float32)
    fill = np.full((SIDE, SIDE), 0.7, np.float32)
    fill[36:44, 52:60] = 0.9
    joined = _poisson(window, fill, disc(20))
    assert joined is not None
    ys, xs = np.nonzero(joined > 0.4)
    assert abs(ys.mean() - 39.5) < 1
    assert abs(xs.mean() - 55.5) < 1
    assert abs(float(np.median(joined[disc(20) > 0])) - 0.3) < 0.06


@settings(max_examples=40)
@given(
    shape=SIZES,
    seed=SEEDS,
    kind=st.sampled_from(["black", "white", "grey", "texture"]),
    share=st.floats(0, 1),
)
def test_poisson_blends_or_declines_any_cover(
    shape: tuple[int, int], seed: int, kind: str, share: float
) -> None:
    rng = np.random.default_rng(seed)
    cover = (rng.random(shape) < share).astype(np.float32)
    window, fill = plane(kind, shape), rng.normal(0.5, 1.0, shape).astype(np.float32)
    joined = _poisson(window, fill, cover)
    if joined is not None:
        assert 0 <= joined.min() <= joined.max() <= 1
        assert np.array_equal(joined[cover == 0], window[cover == 0])


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["black", "white", "grey", "texture"]), shape=SIZES, seed=SEEDS,
    lighting=st.builds(
        Lighting, gain=st.floats(0, 0.5), offset=st.floats(0, 0.3), field=st.floats(0, 0.3),
        stripes=st.floats(0, 0.3), stripes_run=st.sampled_from(["down", "across"]), blur_px=st.floats(0, 3),
        noise=st.floats(0, 0.1), gamma=st.floats(0, 1),
    ),
)  # fmt: skip
def test_other_light_stays_within_0_and_1(
    kind: str, shape: tuple[int, int], seed: int, lighting: Lighting
) -> None:
    window = plane(kind, shape)
    before = window.copy()
    lit, again = (lighting.vary(window, np.random.default_rng(seed)) for _ in range(2))
    assert lit.shape == shape
    assert lit.dtype == np.float32
    assert 0 <= lit.min() <= lit.max() <= 1
    assert np.array_equal(lit, again)
    assert np.array_equal(window, before)


def test_without_any_variation_light_is_left_alone() -> None:
    window = texture(0)
    for seed in range(20):
        assert np.array_equal(STILL.vary(window, np.random.default_rng(seed)), window)


@pytest.mark.parametrize(("run", "axis"), [("down", 0), ("across", 1)])
def test_stripes_run_as_they_are_told_and_are_no_stronger(run: str, axis: int) -> None:
    lighting = replace(STILL, stripes=0.12, stripes_run=run)  # type: ignore[arg-type]
    flat, seen = np.full((40, 50), 0.5, np.float32), 0
    for seed in range(30):
        lit = lighting.vary(flat, np.random.default_rng(seed))
        assert float(np.ptp(lit, axis=axis).max()) == 0
        assert np.abs(np.log(lit / 0.5)).max() <= 0.12 + 1e-5
        seen += bool(np.ptp(lit))
    assert 3 <= seen <= 20


def test_uneven_light_is_smooth_and_no_stronger_than_told() -> None:
    flat = np.full((64, 64), 0.5, np.float32)
    logs = [np.log(replace(STILL, field=0.2).vary(flat, np.random.default_rng(k)) / 0.5) for k in range(60)]
    assert max(float(np.abs(log).max()) for log in logs) == pytest.approx(0.2, abs=1e-3)
    assert max(float(np.abs(np.diff(log, axis=1)).max()) for log in logs) < 0.05


def loss(logits: torch.Tensor, labels: torch.Tensor, balance_areas: bool = False) -> float:
    return float(anomaly_loss(balance_areas)(logits, (torch.zeros_like(labels), labels)))


@settings(max_examples=30)
@given(seed=SEEDS, balance_areas=st.booleans())
def test_the_loss_is_its_formula_over_shares_of_the_label(seed: int, balance_areas: bool) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 2, (2, 1, 3, 3)), (rng.random((2, 1, 6, 6)) < 0.4).astype(float)
    shares = labels.reshape(2, 1, 3, 2, 3, 2).mean((3, 5))
    p = 1 / (1 + np.exp(-logits))
    entropy = -(shares * np.log(p) + (1 - shares) * np.log(1 - p))
    along = (1, 2, 3) if balance_areas else (0, 1, 2, 3)
    area = shares.sum((1, 2, 3), keepdims=True)
    weight = np.clip(SMALL_AREA * 9 / (area + 1), 1, MOST_WEIGHT) if balance_areas else 1
    focal = float((np.abs(p - shares) * entropy * (1 + (weight - 1) * shares)).mean())
    common, total = (p * shares).sum(along), (p**2).sum(along) + (shares**2).sum(along)
    of_windows = np.atleast_1d(1 - (2 * common + 1) / (total + 1))
    marked = area.ravel() > 0 if balance_areas else np.array([True])
    dice = of_windows[marked].mean() if marked.any() else 0.0
    expected = FOCAL_WEIGHT * focal + DICE_WEIGHT * dice
    found = loss(torch.from_numpy(logits), torch.from_numpy(labels), balance_areas)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_missed_crack_costs_more_than_its_pixels_in_a_stain() -> None:
    """Counted by pixels a crack of 60 px beside a stain of 2,000 would hardly be learned."""
    labels = torch.zeros(2, 1, 64, 64)
    labels[0, 0, 30:31, 2:62] = 1
    labels[1, 0, 10:50, 5:55] = 1
    found = 8 * (2 * labels - 1)
    no_crack, less_stain = found.clone(), found.clone()
    no_crack[0] = -8
    less_stain[1, 0, 10:11, 5:55] = -8
    less_stain[1, 0, 11, 5:15] = -8

    def ratio(balance_areas: bool) -> float:
        cost = loss(found, labels, balance_areas)
        more = loss(no_crack, labels, balance_areas) - cost
        return more / (loss(less_stain, labels, balance_areas) - cost)

    assert ratio(balance_areas=True) > 4
    assert ratio(balance_areas=False) < 1.5


@pytest.mark.parametrize("balance_areas", [False, True])
def test_a_right_answer_costs_nothing_and_no_answer_is_beyond_counting(balance_areas: bool) -> None:
    cost = partial(loss, balance_areas=balance_areas)
    labels = torch.zeros(2, 1, 8, 8)
    labels[0, 0, 2:6, 2:6] = 1
    coarse = labels[:, :, ::2, ::2]
    right = 40 * (2 * coarse - 1)
    assert cost(right, labels) == pytest.approx(0, abs=1e-4)
    assert cost(-right, labels) > 1
    assert cost(right, torch.zeros_like(labels)) > cost(
        -40 * torch.ones_like(right), torch.zeros_like(labels)
    )
    assert math.isfinite(cost(1e4 * right, 1 - labels))
