"""What is usual at a place is taken off there, and nothing is made louder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edge.learn.labels import LabelledPlane
from edge.learn.models import of_name
from edge.learn.models.fusion import MemberMap, SegmenterWithFeatures, fit
from edge.learn.models.placed import UsualMap
from edge.types import FloatImage

SIDE = 64
LOUD = np.s_[4:28, 4:28]  # where good frames always look odd
QUIET = np.s_[40:56, 40:56]


def frame(seed: int, sort: int = 0) -> FloatImage:
    """A map as it is of a good frame; of another sort it stands on its head, and is brighter to one side."""
    rng = np.random.default_rng(seed)
    made = rng.normal(0.3, 0.02, (SIDE, SIDE))
    made[LOUD] += 0.4
    made[QUIET] -= 0.2
    if sort:
        made = made[::-1] + np.linspace(0, 0.2, SIDE)
    return made.astype(np.float32)


def planes(count: int, sort: int = 0) -> list[LabelledPlane]:
    nothing = np.zeros((1, 1), np.uint8)
    return [LabelledPlane(frame(seed, sort).astype(np.float16), nothing) for seed in range(count)]


def same(tiles: Tensor) -> Tensor:
    return tiles


def fitted(members: list[LabelledPlane], most_sorts: int = 1) -> UsualMap:
    usual = UsualMap(SIDE)
    usual.fit(same, members, most_sorts, seed=0)
    return usual


def above(usual: UsualMap, values: FloatImage) -> FloatImage:
    found: FloatImage = usual(torch.from_numpy(values)[None, None])[0, 0].numpy()
    return found


def test_before_anything_is_known_of_places_a_map_stays_as_it_is() -> None:
    assert np.array_equal(above(UsualMap(SIDE), frame(0)), frame(0))


def test_what_is_odd_in_every_good_frame_is_not_odd() -> None:
    values = above(fitted(planes(12)), frame(99))
    assert (
        values[14:18, 14:18].mean() < values[32:36, 14:18].mean() + 3
    )  # of 20 before; outlines are smoothed


def test_what_is_odd_once_stays_odd_also_at_a_place_that_usually_is() -> None:
    usual, odd = fitted(planes(12)), frame(99)
    odd[14:18, 14:18] += 0.4
    odd[48:52, 8:12] += 0.4
    values = above(usual, odd)
    assert values[14:18, 14:18].mean() > 4
    assert values[48:52, 8:12].mean() > 4


def test_places_that_are_usually_quiet_are_not_made_louder() -> None:
    values = above(fitted(planes(12)), frame(99))
    assert values[46:50, 46:50].mean() < values[32:36, 14:18].mean()


def test_each_sort_of_frames_has_a_usual_map() -> None:
    usual = fitted([*planes(6), *planes(6, sort=1)], most_sorts=4)
    assert usual.mean.shape == (2, SIDE, SIDE)
    for sort in (0, 1):
        assert above(usual, frame(99, sort)).max() < above(fitted(planes(12)), frame(99, 1)).max()


def test_maps_that_never_vary_are_no_reason_to_divide_by_nothing() -> None:
    still = [LabelledPlane(np.full((SIDE, SIDE), 0.5, np.float16), np.zeros((1, 1), np.uint8))] * 4
    assert np.isfinite(above(fitted(still), frame(1))).all()


@pytest.mark.parametrize("count", [3, 6])
def test_an_aligned_fusion_learns_what_its_segmenter_usually_says(count: int) -> None:
    kind = of_name("fusion-aligned")
    torch.manual_seed(0)
    network = kind.build(1)
    assert isinstance(network, SegmenterWithFeatures)
    side = kind.tiles.size_px
    large = [
        LabelledPlane(np.kron(one.plane, np.ones((side // SIDE,) * 2)).astype(np.float16), one.truth)
        for one in planes(count)
    ]
    fit(network, large, 0, kind.tiles)
    segmenter = network.fused.maps[0]
    assert isinstance(segmenter, MemberMap)
    assert isinstance(segmenter.usual, UsualMap)
    assert float(segmenter.usual.mean.std()) > 0
    with torch.no_grad():
        answer = kind.finish(network)(torch.from_numpy(large[0].plane.astype(np.float32))[None, None])
    assert answer.shape == (1, 1, side, side)
