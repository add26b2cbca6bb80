"""Real defects in a run: dealt by part, tried by pilots of equal steps, joined; what is held is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge.dataset import Dataset, Sample, Unreadable
from edge.decode import Limits
from edge.learn.anomalies.batches import AnomalyBatches
from edge.learn.datasets import PlaneStore
from edge.learn.defect_crops import crops_of
from edge.learn.defects import Verdict
from edge.learn.few_defects import Found, Pilots, RealDefects, read_defects, recall_of, weigh
from edge.learn.fit import FitSpec
from edge.learn.labels import LabelledPlane
from edge.learn.models import ModelKind, Task, of_name
from edge.learn.models.anomaly_unet import AnomalyUNet, AnomalyUNetConfig
from edge.learn.progress import Event
from edge.learn.specimens import Reading, Specimen
from edge.learn.split import DefectFrame, Split, split_defects
from edge.preprocess import PreprocessSpec, TileSpec
from edge.testing import FakeRuntime, fake_bundle, fake_calibration, write_frame

SPEC = FitSpec("focal+dice", 3e-3, minutes=1.0, steps=60, validation_batches=1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)


def small() -> ModelKind:
    return replace(
        of_name("anomaly-unet"),
        build=lambda classes: AnomalyUNet(AnomalyUNetConfig(channels=(8, 16, 16))),
        tiles=TileSpec(size_px=64, keep_px=48, step_px=48),
        window_px=32,
        batch=8,
        validation_batches=1,
    )


def specimen(k: int, *, defect: bool, marked: bool = True, group: str | None = None) -> Specimen:
    """Noise; defect frames have a grid of faint dots that differs from it in texture alone."""
    rng = np.random.default_rng(k)
    plane, truth = rng.normal(0.5, 0.05, (64, 80)), np.zeros((64, 80), np.uint8)
    if defect:
        y, x = int(rng.integers(0, 40)), int(rng.integers(0, 56))
        plane[y : y + 24, x : x + 24] = 0.5 + 0.06 * np.sin(np.arange(24) * 1.6)[None]
        truth[y : y + 24, x : x + 24] = int(marked)
    sample = Sample(Path(f"{k}.png"), f"{k}.png", "defect" if defect else "good")
    labelled = LabelledPlane(plane.astype(np.float16), truth, int(defect))
    return Specimen(sample, "", group or f"file {k}.png", f"{k:016x}", labelled)


GOODS = [specimen(k, defect=False) for k in range(4)]
DEFECTS = [specimen(100 + k, defect=True) for k in range(8)]
NO_PARTS = Split((), (), ())


def weighed(found: list[Specimen], memory: Path, said: list[Event], spec: FitSpec = SPEC) -> RealDefects:
    kind = small()
    task = Task([], kind.tiles, 1, seed=0)
    preprocess = PreprocessSpec(tiles=kind.tiles)
    return weigh(
        found, GOODS, NO_PARTS, kind, task, spec, preprocess,
        recall_demanded=False, memory=memory, listen=said.append,
    )  # fmt: skip


def test_pilots_learn_for_equal_steps_and_the_verdict_is_kept(tmp_path: Path) -> None:
    said: list[Event] = []
    real = weighed(DEFECTS, tmp_path / "defects.json", said)
    last = {event.text.rpartition(":")[0]: event.text for event in said if event.stage == "learn"}
    assert list(last) == ["pilot without defects", *{f"pilot with {n} defect frames" for n in (4,)}]
    assert all(text.endswith("step 6") for text in last.values())  # 40 % of 60, for four pilots
    assert len(real.learned) == 6
    assert len(real.held) == 2
    assert real.share_used == pytest.approx(0.4)
    assert said[-1].text == real.verdict.sentence
    again: list[Event] = []
    assert weighed(DEFECTS, tmp_path / "defects.json", again).verdict == real.verdict
    assert [event.stage for event in again] == ["prepare"]


@pytest.mark.slow
def test_masks_of_defects_unlike_synthetic_ones_help_and_shifted_masks_are_left_out(tmp_path: Path) -> None:
    spec = replace(SPEC, steps=1500)
    assert weighed(DEFECTS, tmp_path / "a.json", [], spec).verdict.use == "windows"
    wrong = []
    for one in DEFECTS:
        truth = np.roll(one.labelled.truth, (32, 40), (0, 1)) * (one.labelled.truth == 0)
        wrong.append(replace(one, labelled=replace(one.labelled, plane=GOODS[0].labelled.plane, truth=truth)))
    assert weighed(wrong, tmp_path / "b.json", [], spec).verdict.use == "nothing"


def test_a_pilot_is_the_same_each_time() -> None:
    kind = small()
    pilots = Pilots(
        kind, Task([], kind.tiles, 1, seed=0), SPEC, PreprocessSpec(tiles=kind.tiles), 0.1, lambda event: None
    )
    goods, defects = [s.labelled for s in GOODS], [s.labelled for s in DEFECTS[:3]]
    one, other = pilots(goods, defects)(DEFECTS[5].labelled), pilots(goods, defects)(DEFECTS[5].labelled)
    assert one.map.shape == (64, 80)
    assert np.array_equal(one.map, other.map)
    assert not np.array_equal(one.map, pilots(goods, [])(DEFECTS[5].labelled).map)


@pytest.mark.parametrize(("use", "windows", "crops"), [("nothing", 0, 0), ("crops", 0, 8), ("windows", 8, 8)])
def test_what_joins_the_batches_is_what_the_verdict_says(use: str, windows: int, crops: int) -> None:
    kind = small()
    batches = kind.batches(kind, Task([s.labelled for s in GOODS], kind.tiles, 1, seed=0))
    cut = crops_of([s.labelled for s in DEFECTS], 24)
    real = RealDefects(Verdict(use, "why"), tuple(DEFECTS), (), cut)  # type: ignore[arg-type]
    made = real.join(batches)
    assert isinstance(made, AnomalyBatches)
    assert (len(made.defects), len(made.crops)) == (windows, crops)
    assert len(real.in_use) == (8 if crops else 0)
    assert real.facts()["crops"] == crops
    if use == "nothing":
        assert made is batches


def test_frames_without_masks_are_held_and_no_pilot_learns(tmp_path: Path) -> None:
    said: list[Event] = []
    found = [specimen(k, defect=True, marked=False) for k in range(3)]
    real = weighed(found, tmp_path / "defects.json", said)
    assert (len(real.learned), len(real.held), real.share_used) == (0, 3, 0.0)
    assert real.verdict.use == "nothing"
    assert [event.text for event in said] == ["3 defect frames are not learned from; they measure the recipe"]


def test_defect_frames_are_read_with_and_without_masks(tmp_path: Path) -> None:
    samples = []
    for k in range(3):
        file, mask = tmp_path / f"{k}.png", tmp_path / f"m{k}.png"
        cv2.imwrite(str(file), np.full((40, 50), 90 + k, np.uint8))
        marked = np.zeros((40, 50), np.uint8)
        marked[5:9, 5:9] = 255
        cv2.imwrite(str(mask), marked)
        there = mask if k != 1 else None
        samples.append(Sample(file, file.name, "defect", there, masks={"x": there} if there else {}))
    samples += [replace(samples[0], split="test"), replace(samples[0], label="good", mask=None, masks={})]
    unreadable: list[Unreadable] = []
    store = PlaneStore(tmp_path / "planes")
    how = Reading(PreprocessSpec(), Limits(10_000, 1), "none", ())
    found = read_defects(Dataset(tmp_path, tuple(samples)), how, store, unreadable, lambda event: None)
    assert [(s.sample.path, int(s.labelled.truth.sum())) for s in found] == [
        ("0.png", 16),
        ("2.png", 16),
        ("1.png", 0),
    ]


@pytest.mark.parametrize(
    ("marked", "unmarked", "demanded", "train", "held"),
    [
        (1, 0, False, 1, 0), (3, 0, False, 3, 0), (4, 0, False, 3, 1), (10, 0, False, 7, 3),
        (20, 0, False, 14, 6),
        (1, 0, True, 0, 1), (3, 0, True, 2, 1), (4, 0, True, 3, 1), (3, 5, True, 3, 5), (0, 5, False, 0, 5),
        (8, 1, False, 6, 3),
    ],
)  # fmt: skip
def test_as_many_defects_are_held_as_can_be_spared(
    marked: int, unmarked: int, demanded: bool, train: int, held: int
) -> None:
    frames = [DefectFrame(f"m{k}", True) for k in range(marked)]
    frames += [DefectFrame(f"u{k}", False) for k in range(unmarked)]
    found = split_defects(frames, NO_PARTS, seed=1, recall_demanded=demanded)
    assert (len(found.train), len(found.held)) == (train, held)
    assert all(group.startswith("m") for group in found.train)


groups = st.lists(
    st.builds(
        DefectFrame,
        st.sampled_from("abcdefghij"),
        st.booleans(),
        st.sampled_from(["", "", "train", "validation"]),
    ),
    max_size=20,
)


@given(groups, st.permutations("abcdefghij"), st.integers(0, 5), st.booleans())
def test_no_part_is_on_two_sides(
    frames: list[DefectFrame], order: list[str], seed: int, demanded: bool
) -> None:
    good = Split(tuple(order[:2]), tuple(order[2:3]), tuple(order[3:5]))
    found = split_defects(frames, good, seed=seed, recall_demanded=demanded)
    assert not set(found.train) & set(found.held)
    assert not set(found.train) & set(good.calibration)
    assert not set(found.held) & {*good.train, *good.validation}
    marked = {frame.group for frame in frames if frame.is_marked}
    assert set(found.train) <= marked
    proposed = {frame.group for frame in frames if frame.split == "validation"}
    assert not set(found.train) & proposed
    assert found == split_defects(frames[::-1], good, seed=seed, recall_demanded=demanded)


def test_recall_is_of_the_held_frames_that_can_be_read_at_the_recipes_own_thresholds(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path / "engine")
    files = [write_frame(tmp_path / f"{k}.png", defect=k < 3, seed=k) for k in range(4)]
    (tmp_path / "broken.png").write_bytes(b"")
    held = [Sample(file, file.name, "defect") for file in [*files, tmp_path / "broken.png"]]
    found = recall_of(held, bundle, FakeRuntime(), fake_calibration(bundle), Limits(10_000, 1))
    assert found is not None
    assert (found.found, found.of, found.missed) == (3, 4, ("3.png",))
    assert found.lower_bound == pytest.approx(0.2486, abs=1e-4)  # Clopper and Pearson's, of 3 in 4
    assert recall_of(held[4:], bundle, FakeRuntime(), fake_calibration(bundle), Limits(10_000, 1)) is None


def test_recall_says_what_so_few_defects_prove() -> None:
    assert Found(9, 10, 0.606, ("x.png",)).sentence() == (
        "9 of 10 defect frames that were not learned from are found (recall at least 60.6% at 95% confidence)"
    )
