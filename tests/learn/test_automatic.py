"""What is chosen from facts of good frames, and that what was asked for wins."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import UsageError
from edge.learn.automatic import (
    ALWAYS,
    EXPOSURE_DIFFERS,
    LEAST_ALIGNED_FRAMES,
    MARGIN_PX,
    MODEL,
    MOST_TILE_PX,
    OF_ALIGNED,
    OVERLAP_PX,
    SMALL_SIDE_PX,
    TILE_MULTIPLE_PX,
    Choices,
    choose,
    tiles_for,
)
from edge.learn.survey import Seen, Survey, survey
from edge.preprocess.tiles import Tiling
from edge.types import FloatImage


def surface(seed: int, sigma_px: float = 2.0, contrast: float = 0.08) -> FloatImage:
    noise = np.random.default_rng(seed).standard_normal((144, 192)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma_px)
    return np.clip(0.4 + contrast * smooth / smooth.std(), 0, 1).astype(np.float32)


def of(*planes: FloatImage) -> Survey:
    return survey([Seen(plane, "v") for plane in planes])


@pytest.fixture(scope="module")
def plain() -> Survey:
    """Six frames of one even texture."""
    return of(*(surface(k) for k in range(6)))


def sized(seen: Survey, height: int, width: int, finest_px: float) -> Survey:
    return replace(
        seen,
        sizes=replace(seen.sizes, height=height, width=width, examples=((height, width),)),
        texture=replace(seen.texture, finest_px=finest_px),
    )


def test_an_exposure_spread_switches_illumination_and_other_contents_do_not(plain: Survey) -> None:
    assert choose(plain).illumination.value == "none"
    gains = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
    exposed = of(*(surface(k) * np.float32(gain) for k, gain in enumerate(gains)))
    assert choose(exposed).illumination.value == "median"
    contents = [np.where(surface(k) > 0.3 + 0.04 * k, 0.7, 0.2).astype(np.float32) for k in range(6)]
    found = choose(of(*contents)).illumination
    assert found.value == "none"
    assert "different things" in found.why


def test_light_is_not_taken_from_the_median_of_a_background(plain: Survey) -> None:
    exposed = replace(plain.light, exposure_within=0.5, gain_like=1.0)
    assert choose(replace(plain, light=exposed)).illumination.value == "median"
    dark = replace(plain, light=replace(exposed, dark_median=0.5))
    assert choose(dark).illumination.value == "none"


@given(within=st.floats(0, 1), between=st.floats(0, 1))
def test_illumination_follows_the_whole_spread(plain: Survey, within: float, between: float) -> None:
    light = replace(
        plain.light, exposure_within=within, exposure_between=between, gain_like=1.0, clipped_by_median=0.0
    )
    spread = (1 + within) * (1 + between) - 1
    expected = "median" if spread > EXPOSURE_DIFFERS else "none"
    assert choose(replace(plain, light=light)).illumination.value == expected


def test_large_frames_are_made_smaller_only_where_no_detail_is_lost(plain: Survey) -> None:
    blurred, sharp = sized(plain, 2000, 2500, 11.0), sized(plain, 2000, 2500, 2.2)
    assert choose(blurred).scale.value == 0.5
    assert choose(sharp).scale.value == 1.0
    assert "would lose" in choose(sharp).scale.why
    assert choose(sized(plain, 600, 800, 11.0)).scale.value == 1.0


def test_very_large_frames_are_made_smaller_even_so_and_the_way_out_is_named(plain: Survey) -> None:
    sharp = choose(sized(plain, 3000, 4000, 2.2)).scale
    assert sharp.value == 0.5
    assert "--scale 1" in sharp.why
    assert choose(sized(plain, 6000, 8000, 2.2)).scale.value == 0.25


def test_small_frames_are_magnified(plain: Survey) -> None:
    assert choose(sized(plain, 100, 100, 3.0)).scale.value == 2.0
    assert choose(sized(plain, 30, 30, 3.0)).scale.value == 4.0


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(8, 2500), st.integers(8, 2500)), min_size=1, max_size=4),
    margin_px=st.sampled_from([0, 16, 32]),
)
def test_tiles_are_the_cheapest_and_cover_every_size(sizes: list[tuple[int, int]], margin_px: int) -> None:
    tiles, cost = tiles_for(sizes, margin_px)
    assert tiles.size_px % TILE_MULTIPLE_PX == 0
    assert tiles.size_px <= MOST_TILE_PX
    assert tiles.margin_px == margin_px
    computed = [len(Tiling(*size, tiles)) * tiles.size_px**2 / (size[0] * size[1]) for size in sizes]
    assert cost == pytest.approx(sum(computed) / len(computed))
    assert all(share >= 1 for share in computed)
    for other_px in (256, 512):
        keep = other_px - 2 * margin_px
        step = keep if margin_px else other_px - 32
        other = tiles.model_copy(update={"size_px": other_px, "keep_px": keep, "step_px": step})
        costs = [len(Tiling(*size, other)) * other_px**2 / (size[0] * size[1]) for size in sizes]
        assert cost <= 1.05 * sum(costs) / len(costs)


def test_a_frame_that_fits_is_one_tile() -> None:
    tiles, cost = tiles_for([(400, 300)], 16)
    assert len(Tiling(400, 300, tiles)) == 1
    assert cost < 2


def test_noise_makes_the_label_blind_to_what_nobody_could_see(plain: Survey) -> None:
    quiet = replace(plain, texture=replace(plain.texture, noise=0.001))
    loud = replace(plain, texture=replace(plain.texture, noise=0.01))
    assert choose(quiet).mix.value.visible < choose(loud).mix.value.visible


def test_a_part_with_edges_is_learned_at_its_border(plain: Survey) -> None:
    assert choose(plain).at_border.value == 0
    planes = [surface(k) for k in range(6)]
    for plane in planes:
        plane[:, :6] *= 0.3
    found = choose(of(*planes)).at_border
    assert found.value > 0
    assert "left" in found.why


def test_lines_along_one_axis_are_not_transposed_and_may_have_streaks(plain: Survey) -> None:
    lines = of(*(np.repeat(surface(k)[:1], 144, axis=0) for k in range(8)))
    found = choose(lines)
    assert not found.transpose.value
    assert found.lighting.value.stripes > 0
    assert choose(plain).transpose.value
    assert choose(plain).lighting.value.stripes == 0


def test_a_pinned_value_wins_whatever_it_is_and_says_so(plain: Survey) -> None:
    own = choose(plain)
    other = choose(of(*(surface(k, 3.0) * np.float32(0.5 + 0.2 * k) for k in range(6))))
    for f in fields(Choices):
        value = getattr(other, f.name).value
        pinned = choose(plain, {f.name: value})
        assert getattr(pinned, f.name).value == value
        assert getattr(pinned, f.name).why == "as asked for"
        rest = {g.name for g in fields(Choices)} - {f.name, "tiles", "score", "lighting"}
        assert all(getattr(pinned, name) == getattr(own, name) for name in rest)


def test_what_follows_from_a_pinned_value_follows_it(plain: Survey) -> None:
    sizes = [choose(plain, {"scale": scale}).tiles.value.size_px for scale in (1.0, 2.0)]
    assert sizes[1] > sizes[0]


def test_an_unknown_choice_is_refused_with_the_nearest_name(plain: Survey) -> None:
    with pytest.raises(UsageError, match="illuminaton") as refused:
        choose(plain, {"illuminaton": "median"})
    assert "illumination" in (refused.value.hint or "")


def test_every_choice_says_why_and_can_be_recorded(plain: Survey) -> None:
    found = choose(plain)
    record = json.loads(json.dumps(found.record()))
    assert set(record) == {f.name for f in fields(Choices)}
    assert all(entry["why"] for entry in record.values())
    assert len(found.sentences()) == len(record)


def with_border(seen: Survey) -> Survey:
    """As if frames showed a part, whose edge is at the left."""
    borders = tuple(replace(border, unlike=float(border.side == "left")) for border in seen.borders)
    return replace(seen, borders=borders)


def finely(seen: Survey, lost_at_half: float) -> Survey:
    return replace(seen, texture=replace(seen.texture, lost_at_half=lost_at_half))


@pytest.mark.parametrize(
    ("size", "lost_at_half", "scale"),
    [
        ((600, 800), 0.005, 0.5),  # half the size loses nothing
        ((600, 800), 0.05, 1.0),  # it does
        ((300, 800), 0.05, 0.5),  # it does, but most of the part is seen at once
        ((150, 800), 0.005, 1.0),  # too small already
        ((100, 800), 0.005, 2.0),
    ],
)
def test_a_part_is_seen_at_half_the_size_by_the_rule_and_texture_is_not(
    plain: Survey, size: tuple[int, int], lost_at_half: float, scale: float
) -> None:
    seen = finely(sized(plain, *size, 5.0), lost_at_half)
    assert choose(with_border(seen)).scale.value == scale
    assert choose(seen).scale.value == (1.0 if size[0] >= SMALL_SIDE_PX else 2.0)


@pytest.mark.parametrize("size", [(600, 800), (2000, 2500), (160, 170)])
def test_tiles_reach_beyond_a_part_and_overlap_inside_endless_texture(
    plain: Survey, size: tuple[int, int]
) -> None:
    seen = finely(sized(plain, *size, 5.0), 0.05)
    part = choose(with_border(seen)).tiles.value
    assert part.margin_px == MARGIN_PX
    assert part.step_px == part.keep_px
    endless = choose(seen).tiles.value
    assert endless.margin_px == 0
    tiling = Tiling(*size, endless)
    for starts, length in ((tiling.ys, size[0]), (tiling.xs, size[1])):
        if length >= endless.size_px:
            assert int(starts[-1]) + endless.size_px == length, "none reaches beyond the frame"
        assert all(step <= endless.size_px - OVERLAP_PX for step in np.diff(starts))


def aligned(seen: Survey, frames: int) -> Survey:
    layout = replace(seen.layout, correlation=0.95, moved_px=0.0)
    found = replace(seen, frames=frames, layout=layout)
    assert found.layout.kind == "aligned"
    return found


def test_enough_aligned_frames_are_held_to_each_place_and_only_what_matters_is_said(plain: Survey) -> None:
    found = choose(aligned(plain, LEAST_ALIGNED_FRAMES))
    assert found.model.value == OF_ALIGNED
    assert set(found.record()) == {f.name for f in fields(Choices)} - {"scale", "tiles"}
    assert not any("tiles" in sentence for sentence in found.sentences())
    features = choose(aligned(plain, LEAST_ALIGNED_FRAMES), {"model": "features-aligned"})
    assert set(features.record()) == set(ALWAYS)
    assert len(features.sentences()) == len(ALWAYS)
    few = choose(aligned(plain, LEAST_ALIGNED_FRAMES - 1))
    assert few.model.value == MODEL
    assert set(few.record()) == {f.name for f in fields(Choices)}
    assert choose(aligned(plain, 50), {"model": MODEL}).record().keys() == few.record().keys()


def test_aligned_frames_whose_size_is_given_are_not_brought_to_another(plain: Survey) -> None:
    found = choose(aligned(plain, 50), keeps_size=True).model
    assert found.value == MODEL
    assert "size" in found.why


def test_large_aligned_frames_are_looked_at_in_their_own_size(plain: Survey) -> None:
    small, large = (aligned(sized(plain, side, side, 3.0), 50) for side in (900, 2000))
    assert choose(small).model.value == OF_ALIGNED
    assert choose(large).model.value == MODEL
    assert "vanish" in choose(large).model.why


def test_pieces_of_a_scene_are_wrong_all_over_and_pieces_of_a_surface_at_their_seams(plain: Survey) -> None:
    surface = finely(plain, 0.05)
    assert choose(surface).mix.value.region_fills["splice"] > 0
    scene = choose(aligned(surface, 50)).mix.value
    assert "splice" not in {*scene.fills, *scene.region_fills}
    assert sum(scene.region_fills.values()) == pytest.approx(1.0)


def test_a_score_counts_a_hundred_pixels_in_any_shape_or_of_small_frames_a_share(plain: Survey) -> None:
    large = choose(sized(plain, 1000, 2000, 3.0)).score.value
    assert (large.statistic, round(large.top_ratio * 2_000_000)) == ("top", 100)
    assert choose(sized(plain, 150, 150, 3.0), {"scale": 1.0}).score.value.top_ratio == 0.003
    over_parts = choose(sized(plain, 1000, 2000, 3.0), masked=True).score.value
    assert (over_parts.statistic, over_parts.peak_px) == ("peak", 8)  # of parts it knows no size


@pytest.mark.parametrize("given_away", [(), ("left-right",), ("top-bottom",), ("left-right", "top-bottom")])
def test_windows_are_mirrored_by_each_axis_on_its_own(plain: Survey, given_away: tuple[str, ...]) -> None:
    symmetry = tuple(
        replace(s, allowed=s.mirror not in given_away, feature="gradient") for s in plain.symmetry
    )
    found = choose(replace(plain, symmetry=symmetry))
    assert found.plan.flip_across == ("left-right" not in given_away)
    assert found.plan.flip_down == ("top-bottom" not in given_away)
    assert all(name in found.flips.why for name in given_away)


@settings(max_examples=40)
@given(angle=st.floats(0, np.pi))
def test_streaks_run_as_the_lines_of_the_texture_do(plain: Survey, angle: float) -> None:
    texture = replace(plain.texture, direction_rad=angle, coherence=0.6)
    found = choose(replace(plain, texture=texture)).lighting
    degrees = np.rad2deg(angle) % 180
    along_rows, along_columns = min(degrees, 180 - degrees), abs(degrees - 90)
    if min(along_rows, along_columns) < 5.5:
        assert found.value.stripes > 0
        assert found.value.stripes_run == ("across" if along_rows < along_columns else "down")
        assert "streaks" in found.why
    if min(along_rows, along_columns) > 6:
        assert found.value.stripes == 0


def test_a_plan_is_what_was_chosen(plain: Survey) -> None:
    found = choose(with_border(plain), {"transpose": False})
    assert found.plan.mix == found.mix.value
    assert found.plan.lighting == found.lighting.value
    assert found.plan.at_border == found.at_border.value > 0
    assert found.plan.zoom == found.movement.value.zoom > 0
    assert found.plan.trim == found.movement.value.trim > 0
    assert not found.plan.transpose


@pytest.mark.parametrize("many", [False, True])
def test_every_reason_is_a_sentence_whatever_the_facts(plain: Survey, many: bool) -> None:
    for seen in (plain, with_border(plain), aligned(plain, 5), sized(plain, 40, 3000, 9.0)):
        seen = replace(seen, light=replace(seen.light, exposure_within=0.6, gain_like=1.0)) if many else seen
        for entry in choose(seen).record().values():
            assert len(entry["why"].split()) > 2
            assert "nan" not in entry["why"]
