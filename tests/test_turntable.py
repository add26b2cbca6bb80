"""The composites that masks are measured on: their truth is exact, and nothing tested was learned from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.composite import SIZE_PX, CutOut, Object, composites, cut_out, textures
from bench.manifests import Row, write
from bench.turntable import counted
from edge.preprocess.foreground import close


def thing() -> Object:
    """A bright block with a black stripe through it, before black."""
    grey = np.zeros((128, 128), np.uint8)
    grey[30:100, 20:110] = 200
    grey[60:64] = 0
    return Object("thing", "00", grey.astype(np.float32) / 255, cut_out(grey, CutOut(14, 7)))


def scene(folder: Path, grey: int = 20, name: str = "flat") -> dict[str, list[Path]]:
    file = folder / name / "a.png"
    file.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(file), np.full((300, 280), grey, np.uint8))
    return {name: [file]}


def test_dark_parts_within_an_object_belong_to_it_and_specks_beside_it_do_not() -> None:
    grey = np.random.default_rng(0).integers(0, 6, (128, 128)).astype(np.uint8)
    grey[30:100, 20:110] = 200
    grey[60:64, 30:100] = 0
    grey[120, 30:60] = 90  # the turntable's edge
    mask = cut_out(grey, CutOut(14, 7))
    assert mask[31:99, 21:109].mean() > 0.999  # but for corners, which are rounded
    assert not mask[:29].any()
    assert not mask[102:].any()


def test_objects_are_cut_up_to_the_frames_border() -> None:
    grey = np.zeros((128, 128), np.uint8)
    grey[40:, 20:90] = 200
    assert cut_out(grey, CutOut(14, 25))[126, 30:80].all()


def test_the_mask_is_where_the_object_was_put(tmp_path: Path) -> None:
    for one in composites([thing()], scene(tmp_path, grey=0), 6, seed=4):
        assert one.frame.shape == one.mask.shape == (SIZE_PX, SIZE_PX)
        bright = close(one.frame > 45, side_px=25, times=1)
        inside = one.mask > 127
        assert 0.05 < inside.mean() < 0.9
        assert np.count_nonzero(bright ^ inside) < 0.05 * np.count_nonzero(inside)


def test_one_seed_gives_one_set_of_frames(tmp_path: Path) -> None:
    behind = scene(tmp_path)
    first, again, other = (list(composites([thing()], behind, 3, seed)) for seed in (1, 1, 2))
    assert all(
        (a.frame == b.frame).all() and (a.mask == b.mask).all() for a, b in zip(first, again, strict=True)
    )
    assert any((a.frame != b.frame).any() for a, b in zip(first, other, strict=True))


def test_every_texture_set_stands_behind_as_many_frames(tmp_path: Path) -> None:
    behind = scene(tmp_path, 20, "one") | scene(tmp_path, 90, "two")
    names = [one.texture for one in composites([thing()], behind, 8, 0)]
    assert names.count("one") == names.count("two") == 4


def test_no_part_lends_its_texture_to_both_learning_and_testing(tmp_path: Path) -> None:
    rows = [Row(f"{part}_{view}.png", "good", part=part) for part in "abcdefg" for view in "12"]
    rows += [Row("x.png", "defect", part="a")]
    write(tmp_path / "manifest.csv", rows)
    (learned,), (tested,) = (textures([tmp_path], test=test).values() for test in (False, True))
    parts = [{path.name[0] for path in paths} for paths in (learned, tested)]
    assert parts[0] | parts[1] == set("abcdefg")
    assert not parts[0] & parts[1]
    assert len(learned) + len(tested) == 14  # the defect frame lends nothing


def test_pixels_of_all_frames_count_together() -> None:
    truth = np.zeros((2, 10), bool)
    truth[0] = True
    found = truth.copy()
    found[0, :5], found[1, :3] = False, True
    precision, recall, f1 = counted([found, truth], [truth, truth])
    assert precision == pytest.approx(15 / 18)
    assert recall == pytest.approx(15 / 20)
    assert f1 == pytest.approx(30 / 38)
    assert counted([~truth & truth], [~truth & truth]) == (0.0, 0.0, 0.0)


def test_painted_objects_have_exact_masks_too(tmp_path: Path) -> None:
    behind = scene(tmp_path, grey=0)
    plain, painted = (
        list(composites([thing()], behind, 12, seed=4, varied=varied)) for varied in (False, True)
    )
    changed = [b for a, b in zip(plain, painted, strict=True) if not np.array_equal(a.mask, b.mask)]
    assert len(changed) >= 3
    for one in changed:
        lit = one.frame > 45  # painted dark they need not be, but nothing outside is lit
        assert np.count_nonzero(lit & ~(one.mask > 127)) < 0.05 * np.count_nonzero(one.mask)
