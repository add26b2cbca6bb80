"""Good crops that explain a suspicious place: found, chosen, kept."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.infer.bundle import load_bundle, write_bundle
from edge.neighbours import (
    FILE,
    SIDE_PX,
    GoodPlane,
    Neighbours,
    around,
    farthest,
    gather,
    nearest,
    open_neighbours,
    pack,
    strip,
)
from edge.testing import fake_bundle
from edge.types import FloatImage


def stripes(turn_deg: float, seed: int = 0, shape: tuple[int, int] = (160, 200)) -> FloatImage:
    """A texture with a direction."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    turn = np.deg2rad(turn_deg)
    wave = np.sin((x * np.cos(turn) + y * np.sin(turn)) / 2.0 + rng.uniform(0, 6))
    plane = 0.5 + 0.2 * wave + 0.02 * rng.standard_normal(shape)
    return np.clip(plane, 0, 1).astype(np.float32)


@cache
def pool(count: int = 3, most: int = 40) -> tuple[Neighbours, dict[str, FloatImage]]:
    planes = {f"good{k}.png": stripes(60.0 * k, k) for k in range(count)}
    good = [GoodPlane(name, f"v{k}", plane) for k, (name, plane) in enumerate(planes.items())]
    return gather(good, count, most=most), planes


def test_a_crop_finds_itself_first() -> None:
    found, planes = pool()
    for i in range(len(found.crops)):
        x, y = (int(v) for v in found.corner[i])
        name = found.sources[found.source[i]]
        first = nearest(found, planes[name], (x, y, SIDE_PX, SIDE_PX))[0]
        assert (first.source, first.box) == (name, (x, y, SIDE_PX, SIDE_PX))
        assert first.distance < 0.02  # of 8 bits


def test_the_nearest_are_of_the_same_texture_and_in_order() -> None:
    found, _ = pool()
    near = nearest(found, stripes(60.0, seed=9), (100, 80, 4, 4))
    assert [n.source for n in near] == ["good1.png"] * 3
    assert [n.distance for n in near] == sorted(n.distance for n in near)
    assert near[0].distance > 0.02


def test_only_crops_of_the_frames_view_are_shown_where_there_are_any() -> None:
    found, planes = pool()
    near = nearest(found, planes["good1.png"], (100, 80, 4, 4), view="v2")
    assert {n.source for n in near} == {"good2.png"}
    assert nearest(found, planes["good1.png"], (100, 80, 4, 4), view="other")[0].source == "good1.png"


def test_every_kind_of_texture_is_among_few_crops() -> None:
    common = [GoodPlane(f"{k}.png", "v", stripes(0, k)) for k in range(15)]
    found = gather([*common, GoodPlane("rare.png", "v", stripes(90, 1))], 16, most=8)
    assert len(found.crops) == 8
    assert "rare.png" in {found.sources[i] for i in found.source}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 1000))
def test_no_candidate_is_farther_from_the_chosen_than_the_last_chosen_was(
    count: int, most: int, seed: int
) -> None:
    features = np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)
    chosen = farthest(features, most)
    assert len(set(chosen.tolist())) == len(chosen) == min(most, count)
    if 1 < len(chosen) < count:
        gaps = np.linalg.norm(features[:, None] - features[chosen], axis=2)
        spread = np.linalg.norm(features[chosen[-1]] - features[chosen[:-1]], axis=1).min()
        assert gaps.min(axis=1).max() <= spread + 1e-3


def test_equal_crops_are_kept_once() -> None:
    flat = GoodPlane("flat.png", "v", np.full((100, 100), 0.5, np.float32))
    assert len(gather([flat], 1).crops) == 1


def test_it_travels_in_a_bundle_without_pickle_and_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [GoodPlane(f"{k}.png", "v", rng.random((300, 300), np.float32)) for k in range(8)]
    found = gather(noise, 8)
    assert len(found.crops) == 512
    data = pack(found)
    assert len(data) < 3_000_000
    plain = fake_bundle(tmp_path / "a")
    assert open_neighbours(plain) is None
    manifest = plain.manifest
    tiles = np.full((1, 1, 32, 32), 0.5, np.float32)
    write_bundle(
        tmp_path / "b", name="b", model="fake", preprocess=manifest.preprocess, score=manifest.score,
        output="reconstruction", onnx=b"none", golden=(tiles, tiles), training={}, extra={FILE: data},
    )  # fmt: skip
    again = open_neighbours(load_bundle(tmp_path / "b"))
    assert again is not None
    np.testing.assert_array_equal(again.crops, found.crops)
    assert again.sources == found.sources
    assert len(nearest(again, noise[0].plane, (10, 10, 5, 5))) == 3


def test_crops_are_of_the_foreground() -> None:
    foreground = np.zeros((160, 200), np.bool_)
    foreground[:, :100] = True
    found = gather([GoodPlane("a.png", "v", stripes(0), foreground)], 1)
    assert len(found.crops)
    assert (found.corner[:, 0] <= 100 - SIDE_PX // 4).all()


def test_planes_smaller_than_a_crop_have_no_neighbours() -> None:
    tiny = np.zeros((40, 200), np.float32)
    found = gather([GoodPlane("a.png", "v", tiny)], 1)
    assert not len(found.crops)
    assert nearest(found, tiny, (0, 0, 5, 5)) == []
    assert around(tiny, (0, 0, 5, 5)) is None
    assert strip(tiny, (0, 0, 5, 5), []) is None


def test_the_strip_shows_the_place_and_then_its_neighbours() -> None:
    found, planes = pool()
    plane = planes["good0.png"].copy()
    cv2.circle(plane, (100, 80), 8, 1.0, -1)
    near = nearest(found, plane, (92, 72, 16, 16), count=2)
    picture = strip(plane, (92, 72, 16, 16), near, enlarged=1)
    assert picture is not None
    assert picture.shape[0] == SIDE_PX
    np.testing.assert_array_equal(picture[:, :SIDE_PX], (plane[48:112, 68:132] * 255).astype(np.uint8))
    assert (picture[32, 28:36] == 255).all()
