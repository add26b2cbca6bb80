"""Patches to learn from: what they show, how they are labelled, and what they depend on."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge.errors import DataError
from edge.learn.datasets import Plane16
from edge.learn.fit import Fit, FitSpec, threads
from edge.learn.labels import LabelledPlane
from edge.learn.models.patch_cnn import PatchCnn, PatchCnnConfig
from edge.learn.patches import (
    AS_IT_IS,
    PatchAugmentation,
    PatchBatches,
    conforming,
    cut,
    patch_loss,
    warped,
)
from edge.types import Mask

SIDE = 9
VARIED = PatchAugmentation()


def coded(defect: Mask) -> LabelledPlane:
    """A frame whose grey is 0 where good and 1 where defect (of class 2): a patch shows its own truth."""
    return LabelledPlane(defect.astype(np.float16), 4 * defect.astype(np.uint8), 3)


def square(height: int, width: int, top: int, left: int, side: int) -> Mask:
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    return mask


PLANES = [coded(square(60, 80, 20, 30, 25)), coded(square(60, 50, 0, 0, 21))]


def test_half_of_a_batch_are_defects_and_shapes_are_as_told() -> None:
    patches, labels = PatchBatches(PLANES, SIDE, 64).at(0)
    assert patches.shape == (64, 1, SIDE, SIDE)
    assert patches.dtype == labels.dtype == torch.float32
    assert labels.sum() == 32


@pytest.mark.parametrize("augmentation", [AS_IT_IS, VARIED])
def test_label_by_centre_is_the_centre_pixels(augmentation: PatchAugmentation) -> None:
    batches = PatchBatches(PLANES, SIDE, 128, rule="centre", augmentation=augmentation)
    mixed = 0
    for step in range(3):
        patches, labels = batches.at(step)
        assert torch.equal(patches[:, 0, SIDE // 2, SIDE // 2].round(), labels)
        mixed += int(((patches.amax((1, 2, 3)) == 1) & (patches.amin((1, 2, 3)) == 0)).sum())
    assert mixed > 0


def test_pure_patches_show_one_class_only() -> None:
    patches, labels = PatchBatches(PLANES, SIDE, 128, rule="pure").at(0)
    assert torch.equal(patches.mean((1, 2, 3)), labels)


@given(
    defect=arrays.arrays(bool, st.tuples(st.integers(2, 12), st.integers(2, 12))),
    side=st.sampled_from([1, 3, 5]),
)
def test_conforming_positions_are_those_whose_mirrored_patch_conforms(defect: Mask, side: int) -> None:
    good, pure = conforming(defect, side, "pure")
    for y, x in np.ndindex(defect.shape):
        patch = cut(defect.astype(np.float16), y, x, side)
        assert good[y, x] == (patch.max() == 0)
        assert pure[y, x] == (patch.min() == 1)
    centre_good, centre_defect = conforming(defect, side, "centre")
    assert np.array_equal(centre_defect, defect)
    assert np.array_equal(centre_good, ~defect)


def test_defects_are_drawn_evenly_over_frames_whatever_their_area() -> None:
    large, small = square(64, 64, 8, 8, 40), square(64, 64, 20, 20, 3)
    planes = [
        LabelledPlane(np.full((64, 64), grey, np.float16), mask.astype(np.uint8), 1)
        for grey, mask in ((0.25, large), (0.75, small))
    ]
    patches, labels = PatchBatches(planes, 5, 2000).at(0)
    assert float(patches[labels == 1].mean()) == pytest.approx(0.5, abs=0.03)


def test_a_frame_without_defects_gives_good_patches_only() -> None:
    planes = [*PLANES, LabelledPlane(np.full((40, 40), 0.5, np.float16), np.zeros((40, 40), np.uint8))]
    patches, labels = PatchBatches(planes, SIDE, 256).at(0)
    grey = (patches == 0.5).all(3).all(2)[:, 0]
    assert 20 < int(grey.sum()) < 70, "a third of 128"
    assert not (labels[grey] == 1).any()


def test_a_batch_depends_on_seed_and_step_only() -> None:
    batches, again = (PatchBatches(PLANES, SIDE, 16, augmentation=VARIED, seed=3) for _ in range(2))
    first = [batches.at(step)[0] for step in (0, 1)]
    assert torch.equal(again.at(1)[0], first[1]), "out of order"
    assert torch.equal(again.at(0)[0], first[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(PatchBatches(PLANES, SIDE, 16, augmentation=VARIED, seed=4).at(0)[0], first[0])


def test_a_patch_at_the_border_is_mirrored_as_inspection_pads() -> None:
    plane = np.arange(30, dtype=np.float16).reshape(5, 6)
    padded = np.pad(plane.astype(np.float32), 2, mode="reflect")
    for y, x in np.ndindex(plane.shape):
        assert np.array_equal(cut(plane, y, x, 5), padded[y : y + 5, x : x + 5])


def test_warp_by_a_quarter_turn_is_the_turned_patch() -> None:
    plane = np.random.default_rng(0).random((40, 40)).astype(np.float16)
    turned = warped(cut(plane, 20, 20, 21), SIDE, np.array([[0.0, -1.0], [1.0, 0.0]]))
    assert np.allclose(turned, np.rot90(cut(plane, 20, 20, SIDE)), atol=1e-6)


def test_no_warp_reaches_beyond_what_it_was_cut_from() -> None:
    """Every plane value is 1, and so is every patch: nothing was invented at the corners."""
    extreme = PatchAugmentation(rotation_deg=180, zoom=0.4, shear_deg=30, warped=1)
    plane = np.ones((200, 200), np.float16)
    ramp: Plane16 = np.broadcast_to(np.linspace(0, 1, 200, dtype=np.float16), (200, 200))
    truth = square(200, 200, 90, 90, 20).astype(np.uint8)
    assert (PatchBatches([LabelledPlane(plane, truth)], 29, 64, augmentation=extreme).at(0)[0] == 1).all()
    patches, labels = PatchBatches([LabelledPlane(ramp, truth)], 29, 64, augmentation=extreme).at(0)
    patches = patches[labels == 1]  # far from the frame's own border
    second = patches[:, 0, :, 2:] - 2 * patches[:, 0, :, 1:-1] + patches[:, 0, :, :-2]
    assert second.abs().max() < 0.004, "an affine warp of a ramp is a ramp; a mirrored corner would bend it"


def test_positions_kept_do_not_grow_with_the_frame() -> None:
    side = 1200
    truth = np.zeros((side, side), np.uint8)
    truth[: side // 2] = 1
    planes = [LabelledPlane(np.zeros((side, side), np.float16), truth)] * 64
    batches = PatchBatches(planes, SIDE, 2)
    kept = sum(positions.nbytes for _, positions in (*batches._good, *batches._defect))
    assert kept <= 4 << 22


@pytest.mark.parametrize(
    ("truth", "rule", "said"),
    [
        (np.zeros((30, 30), bool), "centre", "is defect by the rule 'centre'"),
        (square(30, 30, 10, 10, 5), "pure", "is defect by the rule 'pure'"),
        (np.ones((30, 30), bool), "centre", "is good"),
    ],
)
def test_without_patches_of_both_classes_it_says_which_are_missing(truth: Mask, rule: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        PatchBatches([coded(truth)], SIDE, 4, rule=rule)  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_network_learns_from_them_to_tell_defects() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    truth = square(80, 80, 20, 20, 30)
    grey = (0.4 + 0.2 * truth + 0.1 * rng.standard_normal(truth.shape)).astype(np.float16)
    planes = [LabelledPlane(grey, truth.astype(np.uint8), 1)]
    network = PatchCnn(PatchCnnConfig(SIDE, ((8,),), ((3,),), dense=8, dropout=0.1))
    train = PatchBatches(planes, SIDE, 32, augmentation=VARIED)
    held = PatchBatches(planes, SIDE, 256, seed=1)
    spec = FitSpec(loss="l2", learning_rate=5e-3, minutes=1, steps=50)
    with threads(1):
        Fit(network, spec, train, held, objective=patch_loss).run()
    patches, labels = held.at(7)
    with torch.no_grad():
        assert float(((network(patches) > 0) == (labels > 0.5)).float().mean()) > 0.85


def test_a_batch_takes_milliseconds() -> None:
    """128 varied patches of a large frame; the limit is ten times what an idle core needs."""
    plane = np.random.default_rng(0).random((700, 1024)).astype(np.float16)
    batches = PatchBatches(
        [LabelledPlane(plane, square(700, 1024, 0, 0, 300).astype(np.uint8))], 29, 128, augmentation=VARIED
    )
    batches.at(0)
    began_s = time.process_time()
    for step in range(5):
        batches.at(step)
    assert (time.process_time() - began_s) / 5 < 0.06
