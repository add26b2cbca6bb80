"""Windows of real defects among those with synthetic anomalies: where masks say, and the rest as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edge.learn.anomalies.batches import AnomalyBatches, AnomalyPlan
from edge.learn.anomalies.lighting import Lighting
from edge.learn.anomalies.mix import AnomalyMix
from edge.learn.labels import LabelledPlane

STILL = Lighting(gain=0, offset=0, blur_px=0, noise=0)
GOOD = [np.full((90, 120), 0.3, np.float16), np.full((70, 80), 0.3, np.float16)]


def defect(bit: int = 0) -> LabelledPlane:
    """Grey 0.3, with a square of 0.9."""
    plane, truth = np.full((100, 100), 0.3, np.float16), np.zeros((100, 100), np.uint8)
    plane[40:60, 30:50], truth[40:60, 30:50] = 0.9, 1 << bit
    return LabelledPlane(plane, truth, 1)


def batches(defects: list[LabelledPlane], **plan: object) -> AnomalyBatches:
    still = AnomalyPlan(lighting=STILL, mix=AnomalyMix(share=0.0))
    return AnomalyBatches(GOOD, 48, 16, replace(still, **plan), 5, defects=defects)  # type: ignore[arg-type]


@pytest.mark.parametrize(("frames", "around"), [(1, 2), (2, 4), (9, 4)])
def test_a_few_frames_have_few_windows_around_their_defects(frames: int, around: int) -> None:
    """At least these, which are the last of a batch; others may see a defect by chance."""
    made = batches([defect()] * frames)
    for step in range(6):
        _, labels = made.at(step)
        assert bool((labels[-around:].amax(dim=(1, 2, 3)) == 1).all())


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"flip_across": False, "flip_down": False, "transpose": False},
        {"zoom": 0.2, "turn_deg": 20.0, "trim": 0.1, "at_border": 0.4},
    ],
    ids=["dihedral", "straight", "moved"],
)
def test_labels_lie_where_the_defect_does(plan: dict[str, object]) -> None:
    """The grey tells it: away from its edge, every window of a defect frame and its label agree."""
    made, seen = batches([defect(bit=2)] * 4, **plan), 0
    for step in range(8):
        windows, labels = made.at(step)
        grey, label = windows.numpy(), labels.numpy()
        assert set(np.unique(label)) <= {0.0, 1.0}
        assert not label[grey < 0.4].any()
        assert label[grey > 0.8].all()
        seen += int(label[:-4].any(axis=(1, 2, 3)).sum())
    assert seen > 0  # in windows that lie anywhere, too


def test_anomalies_are_painted_on_what_is_good_of_defect_frames() -> None:
    only = AnomalyBatches(
        GOOD[:1], 48, 16, AnomalyPlan(lighting=STILL, mix=AnomalyMix(share=1.0)), 0, defects=[defect()] * 30
    )
    _, labels = only.at(0)
    assert float((labels.amax(dim=(1, 2, 3)) > 0).float().mean()) > 0.8


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    first, again = (
        AnomalyBatches(GOOD, 48, 8, AnomalyPlan(zoom=0.1), 5, defects=[defect(), defect()]) for _ in range(2)
    )
    again.at(9)
    for a, b in zip(first.at(3), again.at(3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.at(3)[0], first.at(4)[0])


def test_a_batch_of_one_window_is_not_one_around_a_defect() -> None:
    made = replace(batches([defect()] * 9), batch=1)
    assert any(not made.at(step)[1].any() for step in range(20))


def test_frames_without_a_marked_pixel_have_no_windows_around_anything() -> None:
    empty = LabelledPlane(GOOD[0], np.zeros(GOOD[0].shape, np.uint8), 1)
    _, labels = batches([empty]).at(0)
    assert not labels.any()


def test_without_defects_a_batch_is_what_it_was() -> None:
    """Every window is drawn, lit and painted in the order of the generator's own numbers."""
    plan = AnomalyPlan(zoom=0.1, turn_deg=5, trim=0.05, at_border=0.3)
    one = AnomalyBatches(GOOD, 48, 8, plan, 5).at(2)
    other = AnomalyBatches(GOOD, 48, 8, replace(plan, around_defects=0.9), 5, crops=(), defects=()).at(2)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
