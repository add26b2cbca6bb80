"""Which number judges a frame: what finds painted anomalies; the model's own where none is better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edge.infer.bundle import ScoreSpec
from edge.learn.anomalies.batches import AnomalyPlan
from edge.learn.anomalies.mix import AnomalyMix
from edge.learn.datasets import Plane16
from edge.learn.score_choice import (
    FALSE_ALARMS,
    LEAST_PLANES,
    MOST_PLANES,
    PAINTED,
    ScoreChoice,
    _shares,
    candidates,
    choose_score,
    name_of,
    whole_map,
)
from edge.preprocess import TileSpec

OWN = ScoreSpec(map="probability", smooth_px=4.0, statistic="peak", peak_px=8)
TILES = TileSpec(size_px=64, keep_px=64, step_px=56)
PLAN = AnomalyPlan(
    mix=AnomalyMix(shapes={"polygon": 1.0}, fills={"flat": 1.0}, second=0.0, poisson=0.0, visible=0.1)
)


class Away(nn.Module):
    """How far a pixel is from the usual grey."""

    def forward(self, tiles: Tensor) -> Tensor:
        return (2 * (tiles - 0.5).abs()).clamp(0, 1)


class Blind(nn.Module):
    def forward(self, tiles: Tensor) -> Tensor:
        return torch.zeros_like(tiles)


def planes(count: int, blemish: bool = True) -> list[Plane16]:
    """Grey; each with a good spot that is farther from grey than any anomaly, but small, and some noise."""
    found = []
    for k in range(count):
        rng = np.random.default_rng(k)
        plane = 0.5 + rng.normal(0, 0.01, (100, 90))
        if blemish:
            y, x = rng.integers(10, 70, 2)
            plane[y : y + 3, x : x + 3] = 1.0 if k % 2 else 0.0
        found.append(plane.clip(0, 1).astype(np.float16))
    return found


def choice(
    network: nn.Module, count: int = 10, blemish: bool = True, own: ScoreSpec = OWN, seed: int = 0
) -> ScoreChoice:
    return choose_score(network, planes(count, blemish), own, PLAN, TILES, 64, seed)


def test_a_score_that_is_clearly_better_is_chosen() -> None:
    """The highest pixel is always the good spot's: who looks at more of them knows that there is more."""
    highest = ScoreSpec(map="probability", smooth_px=0.0, statistic="max")
    found = choice(Away(), own=highest)
    assert found.score != highest
    assert (
        found.found[name_of(found.score)] == max(found.found.values()) > found.found[name_of(highest)] + 0.2
    )
    assert name_of(highest) in found.why
    assert set(found.found) == {name_of(spec) for spec in candidates(highest)}


@pytest.mark.parametrize("count", [0, 1, LEAST_PLANES - 1])
def test_with_too_few_planes_it_stays_the_models_own(count: int) -> None:
    found = choice(Away(), count)
    assert (found.score, found.found) == (OWN, {})
    assert str(count) in found.why


def test_where_none_is_better_it_stays_the_models_own() -> None:
    blind = choice(Blind())
    assert blind.score == OWN
    assert set(blind.found.values()) == {0.5}
    mix = replace(
        PLAN.mix, shapes={"band": 1.0}, region_fills={"noise": 1.0}, visible=0.05, opacity=(1.0, 1.0)
    )
    large = replace(PLAN, mix=mix)
    perfect = choose_score(Away(), planes(8, blemish=False), OWN, large, TILES, 64, 0)
    assert perfect.found[name_of(OWN)] > 0.95
    assert perfect.score == OWN


def test_what_chance_could_give_is_not_clearly_better() -> None:
    """A network of noise: some candidate is always the best of them, but not again and again."""

    class Noise(nn.Module):
        def forward(self, tiles: Tensor) -> Tensor:
            seed = int(tiles.double().sum() * 1e6) % 2**31
            return torch.rand(tiles.shape, generator=torch.Generator().manual_seed(seed))

    kept = [choice(Noise(), LEAST_PLANES, seed=seed).score == OWN for seed in range(5)]
    assert sum(kept) >= 3


def test_it_depends_on_nothing_but_the_seed() -> None:
    one, again, other = choice(Away(), seed=1), choice(Away(), seed=1), choice(Away(), seed=2)
    assert one == again
    assert one.found != other.found


def test_planes_are_looked_at_once_each_and_left_as_they_are() -> None:
    given_planes = [plane[:40, :40] for plane in planes(MOST_PLANES + 3)]
    before = [plane.copy() for plane in given_planes]
    said: list[tuple[int, int]] = []
    choose_score(Blind(), given_planes, OWN, PLAN, TILES, 64, 0, lambda done, of: said.append((done, of)))
    assert said == [(k, MOST_PLANES) for k in range(MOST_PLANES)]
    assert all(np.array_equal(a, b) for a, b in zip(given_planes, before, strict=True))


def test_planes_smaller_than_the_window_and_the_tile_are_taken() -> None:
    small = [plane[:20, :31] for plane in planes(LEAST_PLANES)]
    found = choose_score(Away(), small, OWN, PLAN, TILES, 64, 0)
    assert all(0 <= area <= 1 for area in found.found.values())


def test_candidates_are_the_own_one_first_and_each_once() -> None:
    for own in (OWN, OWN.model_copy(update={"smooth_px": 3.0})):
        found = candidates(own)
        assert found[0] == own
        assert len({name_of(spec) for spec in found}) == len(found)
        assert {spec.map for spec in found} == {"probability"}


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6), levels=st.integers(1, 8))
def test_shares_are_the_share_of_pairs_in_the_right_order(seed: int, count: int, levels: int) -> None:
    """Ties, which few levels have many of, count half."""
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, levels, (count, 3)).astype(float)
    painted = rng.integers(0, levels, (count, PAINTED, 3)).astype(float)
    for k, area in enumerate(_shares(clean, painted)):
        highest = sorted(clean[:, k])[-max(1, round(FALSE_ALARMS * count)) :]
        pairs = [(good, bad) for good in highest for bad in painted[..., k].ravel()]
        expected = np.mean([1.0 if bad > good else 0.5 if bad == good else 0.0 for good, bad in pairs])
        assert area == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(100, 90), (64, 64), (30, 150), (5, 7)])
@pytest.mark.parametrize("margin_px", [0, 8])
def test_the_map_of_a_plane_is_that_of_its_tiles(shape: tuple[int, int], margin_px: int) -> None:
    plane = np.random.default_rng(0).random(shape, dtype=np.float32)
    keep = 64 - 2 * margin_px
    tiles = TileSpec(size_px=64, keep_px=keep, step_px=keep)
    np.testing.assert_allclose(whole_map(nn.Identity(), plane, tiles), plane, atol=1e-6)


def test_a_plan_that_paints_nothing_changes_no_score() -> None:
    unseen = replace(PLAN, mix=replace(PLAN.mix, visible=2.0))
    found = choose_score(Away(), planes(LEAST_PLANES), OWN, unseen, TILES, 64, 0)
    assert found.score == OWN
    assert len(set(found.found.values())) == 1
