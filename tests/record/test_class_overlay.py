"""The class picture: what is where can be told from its colours, and the frame is not hidden."""

from __future__ import annotations

import numpy as np
import pytest

from edge.record.class_overlay import PALETTE, Picture, class_overlay, colour_of

NAMES = ["crack", "scale"]
GREY = np.full((80, 300), 0.5, np.float32)


def masks(*regions: tuple[int, slice, slice]) -> np.ndarray:
    planes = np.zeros((2, 80, 300), bool)
    for k, rows, columns in regions:
        planes[k, rows, columns] = True
    return planes


def has(picture: Picture, colour: tuple[int, int, int]) -> bool:
    return bool((picture == np.array(colour)).all(axis=-1).any())


def test_a_good_frame_is_left_as_it_is_above_the_legend() -> None:
    picture = class_overlay(GREY, masks(), NAMES)
    assert picture.shape[1:] == (300, 3)
    assert picture.shape[0] > 80
    assert (picture[:80] == 127).all()
    assert all(has(picture[80:], colour_of(k)) for k in range(2))


def test_each_class_is_filled_and_outlined_in_its_own_colour() -> None:
    picture = class_overlay(GREY, masks((0, slice(20, 40), slice(20, 60))), NAMES)
    assert has(picture[:80], colour_of(0))
    assert not has(picture[:80], colour_of(1))
    inside = picture[30, 40].astype(int)
    assert (np.abs(inside - (127 * 0.7 + np.array(colour_of(0)) * 0.3)) <= 1).all()
    assert (picture[70, 200] == 127).all()


def test_outlines_of_classes_in_the_same_place_are_both_seen() -> None:
    same = slice(20, 40), slice(20, 60)
    picture = class_overlay(GREY, masks((0, *same), (1, *same)), NAMES)
    assert has(picture[:80], colour_of(0))
    assert has(picture[:80], colour_of(1))


def test_a_thin_defect_is_outlined_and_not_covered() -> None:
    picture = class_overlay(GREY, masks((1, slice(30, 31), slice(50, 250))), NAMES)
    assert has(picture[:80], colour_of(1))
    assert not has(picture[30:31, 60:240], colour_of(1))


def test_a_hair_crack_survives_a_reduced_plane() -> None:
    crack = masks((0, slice(41, 42), slice(50, 250)))
    picture = class_overlay(np.full((20, 75), 0.5, np.float32), crack, NAMES)
    assert has(picture[:20], colour_of(0))


def test_the_legend_grows_and_hides_nothing_where_there_are_many_classes() -> None:
    names = [f"a long name of class {k}" for k in range(8)]
    picture = class_overlay(GREY, np.zeros((8, 80, 300), bool), names, dict.fromkeys(names, 123456))
    assert picture.shape[0] > 80 + 8 * 10
    assert all(has(picture[80:], colour_of(k)) for k in range(8))


def test_letters_that_opencv_cannot_draw_are_question_marks() -> None:
    picture = class_overlay(GREY, masks(), ["Riß", "裂纹"], {"Riß": 12})
    assert np.array_equal(picture, class_overlay(GREY, masks(), ["Ri?", "??"], {"Ri?": 12}))
    assert not np.array_equal(picture, class_overlay(GREY, masks(), ["Ri", ""], {"Ri": 12}))


@pytest.mark.parametrize("deficiency", ["none", "protan", "deutan", "tritan"])
def test_colours_stay_apart_for_colour_blind_eyes(deficiency: str) -> None:
    """Machado, Oliveira and Fernandes (2009), severity 1.0: matrices on linear RGB."""
    matrices = {
        "none": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                   [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
    }  # fmt: skip
    linear = (np.array(PALETTE)[:, ::-1] / 255) ** 2.2
    seen = np.clip(linear @ np.array(matrices[deficiency]).T, 0, 1) ** (1 / 2.2)
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert distance[~np.eye(len(PALETTE), dtype=bool)].min() > 0.1
