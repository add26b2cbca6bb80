"""Batches with anomalies: a function of seed and step, of any planes, moved only as allowed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.learn.anomalies.batches import AnomalyBatches, AnomalyPlan
from edge.learn.anomalies.fills import FILLS
from edge.learn.anomalies.lighting import Lighting
from edge.learn.anomalies.mix import AnomalyMix
from edge.learn.anomalies.shapes import SHAPES
from edge.learn.datasets import Plane16
from edge.learn.labels import LabelledPlane

WINDOW = 32
STILL = Lighting(gain=0, offset=0, blur_px=0, noise=0)
STRONG = Lighting(gain=0.3, offset=0.2, field=0.25, stripes=0.2, blur_px=2.0, noise=0.1, gamma=0.5)
CLEAN = AnomalyPlan(
    lighting=STILL, mix=AnomalyMix(share=0.0), flip_across=False, flip_down=False, transpose=False
)


def noise(height: int, width: int, seed: int = 0) -> Plane16:
    return np.random.default_rng(seed).random((height, width)).astype(np.float16)


def ramp(height: int, width: int) -> Plane16:
    """Every pixel is told by its value, and values fit float16."""
    assert height * width <= 2048
    return (np.arange(height * width).reshape(height, width) / 2048).astype(np.float16)


def places(window: torch.Tensor, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the ramp that a window's first column and first row show."""
    index = np.rint(window[0].numpy() * 2048).astype(int)
    return index[:, 0] // width, index[0] % width


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), step=st.integers(0, 2**31), zoom=st.sampled_from([0.0, 0.2]))
def test_a_batch_is_a_function_of_seed_and_step(seed: int, step: int, zoom: float) -> None:
    planes, plan = [noise(50, 60), noise(40, 90, 1)], AnomalyPlan(zoom=zoom, turn_deg=10 * zoom)
    one, other = (AnomalyBatches(planes, WINDOW, 4, plan, seed) for _ in range(2))
    first = one.at(step)
    other.at(step + 1)
    for a, b in zip(first, other.at(step), strict=True):
        assert a.shape == (4, 1, WINDOW, WINDOW)
        assert torch.equal(a, b)
    assert not torch.equal(first[0], one.at(step + 1)[0])
    assert not torch.equal(first[0], replace(one, seed=seed + 1).at(step)[0])


@settings(max_examples=30)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=3),
    kind=st.sampled_from(["black", "white", "grey", "noise"]),
    seed=st.integers(0, 2**31),
    plan=st.sampled_from(
        [
            AnomalyPlan(),
            AnomalyPlan(zoom=0.3, turn_deg=20, trim=0.2, at_border=0.5, lighting=STRONG),
            AnomalyPlan(
                mix=AnomalyMix(
                    share=1.0, second=1.0, poisson=0.5,
                    shapes=dict.fromkeys(SHAPES, 1.0), fills=dict.fromkeys(FILLS, 1.0),
                )
            ),
        ]
    ),
)  # fmt: skip
def test_planes_of_any_size_and_grey_give_windows_and_labels(
    sizes: list[tuple[int, int]], kind: str, seed: int, plan: AnomalyPlan
) -> None:
    """Smaller than the window, of one pixel, all black or white."""
    flat = {"black": 0.0, "white": 1.0, "grey": 0.4}
    planes = [np.full(s, flat[kind], np.float16) if kind in flat else noise(*s) for s in sizes]
    windows, labels = AnomalyBatches(planes, WINDOW, 4, plan, seed).at(0)
    assert windows.dtype == labels.dtype == torch.float32
    assert 0 <= float(windows.min()) <= float(windows.max()) <= 1
    assert set(np.unique(labels.numpy()).tolist()) <= {0.0, 1.0}


def test_other_light_alone_is_no_anomaly() -> None:
    plan = AnomalyPlan(lighting=STRONG, mix=AnomalyMix(share=0.0))
    batches = AnomalyBatches([noise(60, 60)], WINDOW, 8, plan, 0)
    still = replace(batches, plan=replace(plan, lighting=STILL))
    for step in range(4):
        windows, labels = batches.at(step)
        assert not labels.any()
        assert float((windows - still.at(step)[0]).abs().max()) > 0.1


@pytest.mark.parametrize(("share", "most"), [(0.0, 0), (0.25, 4), (1.0, 16)])
def test_as_many_windows_have_an_anomaly_as_asked(share: float, most: int) -> None:
    flat = {"flat": 1.0}
    plan = AnomalyPlan(mix=AnomalyMix(share=share, fills=flat, thin_fills=flat), lighting=STILL)
    batches = AnomalyBatches([np.full((60, 60), 0.5, np.float16)], WINDOW, 16, plan, 0)
    found = [int(batches.at(step)[1].amax((1, 2, 3)).sum()) for step in range(5)]
    assert max(found) <= most
    assert sum(found) >= 0.8 * 5 * most  # of some, nothing could be seen


def test_windows_lie_anywhere_up_to_the_margin_beyond_the_plane() -> None:
    batches = AnomalyBatches([ramp(40, 50)], 24, 32, CLEAN, 0, margin_px=4)
    rows, columns = set(), set()
    for step in range(20):
        for window in batches.at(step)[0]:
            ys, xs = places(window, 50)
            top, left = int(ys[12]) - 12, int(xs[12]) - 12
            assert np.array_equal(ys, np.abs(_folded(np.arange(top, top + 24), 40)))
            assert np.array_equal(xs, np.abs(_folded(np.arange(left, left + 24), 50)))
            rows.add(top)
            columns.add(left)
    assert (min(rows), max(rows)) == (-4, 40 + 4 - 24)
    assert (min(columns), max(columns)) == (-4, 50 + 4 - 24)
    assert len(rows) > 15


def _folded(index: np.ndarray, length: int) -> np.ndarray:
    """Mirrored beyond the ends, which are not repeated."""
    index = np.abs(index)
    return np.where(index >= length, 2 * (length - 1) - index, index)


@pytest.mark.parametrize("margin_px", [0, 4])
def test_windows_at_the_border_begin_or_end_there(margin_px: int) -> None:
    batches = AnomalyBatches([ramp(40, 50)], 24, 16, replace(CLEAN, at_border=1.0), 0, margin_px=margin_px)
    starts = set()
    for step in range(5):
        for window in batches.at(step)[0]:
            ys, xs = places(window, 50)
            starts.add((int(ys[12]) - 12, int(xs[12]) - 12))
    first, below, right = -margin_px, 40 + margin_px - 24, 50 + margin_px - 24
    assert starts == {(y, x) for y in (first, below) for x in (first, right)}


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_windows_are_mirrored_along_the_allowed_axes_only(across: bool, down: bool, transpose: bool) -> None:
    plan = replace(CLEAN, flip_across=across, flip_down=down, transpose=transpose)
    batches = AnomalyBatches([ramp(40, 50)], 24, 32, plan, 0, margin_px=0)
    seen = set()
    for window in batches.at(0)[0]:
        plain = window[0]
        turned = bool((plain[0, 1] - plain[0, 0]).abs() > (plain[1, 0] - plain[0, 0]).abs())
        plain = plain.T if turned else plain
        seen.add((bool(plain[0, 1] < plain[0, 0]), bool(plain[1, 0] < plain[0, 0]), turned))
    one, two, three = ((False, True) if allowed else (False,) for allowed in (across, down, transpose))
    assert seen == {(x, y, t) for x in one for y in two for t in three}


@pytest.mark.parametrize(("across", "down"), [(True, False), (False, True), (False, False)])
def test_windows_around_defects_are_mirrored_along_the_allowed_axes_only(across: bool, down: bool) -> None:
    """A square, bright at its left and above: turned and bent a little, still told from its mirror image."""
    plane, truth = np.full((100, 100), 0.2, np.float16), np.zeros((100, 100), np.uint8)
    truth[40:56, 40:56] = 1
    plane[40:56, 40:56] = 0.4
    plane[40:56, 40:48] += 0.2
    plane[40:48, 40:56] += 0.1
    plan = replace(CLEAN, flip_across=across, flip_down=down, around_defects=1.0)
    good = [np.full((80, 80), 0.2, np.float16)]
    batches = AnomalyBatches(good, 64, 4, plan, 0, defects=[LabelledPlane(plane, truth, 1)] * 2)
    seen, whole = set(), 0
    for step in range(25):
        for window, label in zip(*batches.at(step), strict=True):
            ys, xs = np.nonzero(label[0].numpy())
            if len(ys) < 150 or min(ys.min(), xs.min()) < 2 or max(ys.max(), xs.max()) > 61:
                continue  # not all of it in sight
            inside = window[0].numpy()[ys, xs]
            seen.add((bool(np.cov(xs, inside)[0, 1] > 0), bool(np.cov(ys, inside)[0, 1] > 0)))
            whole += 1
    assert whole > 20
    assert seen == {(x, y) for x in {False, across} for y in {False, down}}


def test_small_planes_are_learned_from_too() -> None:
    """As often as the root of their area says, not the area."""
    planes = [np.full((200, 200), 0.2, np.float16), np.full((20, 20), 0.8, np.float16)]
    windows = torch.cat([AnomalyBatches(planes, WINDOW, 32, CLEAN, 0).at(step)[0] for step in range(20)])
    small = float((windows.mean((1, 2, 3)) > 0.5).float().mean())
    assert small == pytest.approx(20 / 220, abs=0.04)


def test_zoom_and_trim_show_more_and_less_of_the_plane() -> None:
    plane = (np.indices((120, 120)).sum(0) % 20 / 40).astype(np.float16)  # diagonal waves of 20 px

    def energies(plan: AnomalyPlan) -> list[float]:
        windows = AnomalyBatches([plane], 64, 24, plan, 0).at(0)[0][:, 0].numpy()
        return [float(np.abs(np.diff(window, axis=1)).mean()) for window in windows]

    still, zoomed = energies(CLEAN), energies(replace(CLEAN, zoom=0.3))
    assert np.std(zoomed) > 3 * np.std(still)
    dark_edge = np.full((100, 100), 0.8, np.float16)
    dark_edge[:5] = 0.0
    tops = [
        AnomalyBatches([dark_edge], 48, 64, replace(CLEAN, trim=trim, at_border=1.0), 0, margin_px=0).at(0)[0]
        for trim in (0.0, 0.2)
    ]
    depths = [{int((window[0, :, 24] < 0.4).sum()) for window in windows} for windows in tops]
    assert depths[0] == {0, 5}
    assert len(depths[1]) > 3, "borders vary"
