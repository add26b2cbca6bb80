"""A run: the product's own path with real inference, and nothing tested that was learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge.accuracy.figures import figures
from edge.accuracy.folds import Fold, deal
from edge.accuracy.frame_sets import FrameSet, read_sets
from edge.accuracy.learning import Budget, Learner, options_from, write_manifest, write_site
from edge.accuracy.runs import LeakageError, Run, at_rate, check_apart, check_unseen, perform, promised
from edge.calibrate import calibrate_recipe, learned_id
from edge.dataset import read_manifest
from edge.decode import Limits
from edge.errors import DataError, TryAgainError, UsageError
from edge.infer.bundle import load_bundle
from edge.infer.compile import open_runtime
from edge.judge.calibration import load_calibration
from edge.judge.thresholds import ThresholdRule
from tests.accuracy.blurring import Blurring
from tests.accuracy.frames import RATES, row, write_set

LEARNER = Learner(Budget(steps=2), false_reject=0.05)


@pytest.fixture
def blurring(monkeypatch: pytest.MonkeyPatch) -> Blurring:
    fake = Blurring()
    monkeypatch.setattr(Learner, "learn", lambda *words: fake(*words))
    return fake


@pytest.fixture
def frames(tmp_path: Path) -> FrameSet:
    (found,) = read_sets([write_set(tmp_path / "set")])
    return found


def first(frames: FrameSet) -> Run:
    return Run(frames, "cae", 0, 2, 0, deal(frames.rows, 2, 0)[0])


def test_a_run_judges_the_held_out_frames_and_leaves_no_engine(
    frames: FrameSet, blurring: Blurring, tmp_path: Path
) -> None:
    run = first(frames)
    judged = perform(run, LEARNER, RATES, tmp_path / "work")
    ((_, _, learned),) = blurring.calls
    assert sorted(learned) == sorted(r.sample.path for r in run.division.learn)
    assert not set(learned) & {r.sample.path for r in run.division.test}
    assert list(judged.evidence.groups) == [r.group for r in run.division.test]
    found = figures([judged.evidence], RATES)
    assert found.image_auroc is not None
    assert found.image_auroc.mean == 1.0, "bright squares do not come back from a blur"
    assert found.pixel_auroc is not None
    assert [p.wanted for p in found.promises] == list(RATES)
    assert judged.facts["minutes"] == 1.0
    # a 9×9 blur, each pixel by four windows, of frames judged at their own size
    assert judged.facts["gflop_per_mpx"] == pytest.approx(4 * 2 * 81 / 1000)
    assert not [file for file in (tmp_path / "work").rglob("*") if file.is_file()]


def test_other_rates_are_judged_by_thresholds_of_their_own(
    frames: FrameSet, blurring: Blurring, tmp_path: Path
) -> None:
    strict = replace(LEARNER, false_reject=0.5)
    judged = perform(first(frames), strict, (0.05, 0.5), tmp_path / "work")
    assert judged.evidence.evaluations.shape == (2, len(judged.evidence.groups))
    good = ~judged.evidence.is_defect
    rejected = (judged.evidence.evaluations[:, good] == "NotOK").sum(axis=1)
    assert rejected[0] <= rejected[1]
    assert (judged.evidence.bounds[0] <= judged.evidence.bounds[1]).all()


def test_thresholds_at_another_rate_are_those_that_calibrating_gives(
    frames: FrameSet, blurring: Blurring, tmp_path: Path
) -> None:
    rows = [r for r in frames.rows if not r.is_defect]
    write_manifest(tmp_path / "learn.csv", rows)
    blurring(LEARNER, tmp_path / "learn.csv", "x", "cae", 0, write_site(tmp_path))
    bundle = load_bundle(tmp_path / "engines" / "x")
    known = load_calibration(tmp_path / "calibration" / "x.json", bundle.digest)
    for rate in (0.01, 0.3, 0.5):
        expected = calibrate_recipe(
            [r.sample for r in rows], bundle, open_runtime(bundle), tmp_path / "other.json", recipe="x",
            false_reject=rate, too_few="pool", limits=Limits(10**8, 8),
        ).calibration  # fmt: skip
        found = at_rate(known, ThresholdRule("conformal", rate), "pool")
        for view, limits in expected.views.items():
            assert found.views[view].threshold == pytest.approx(limits.threshold, rel=1e-6)
            assert found.views[view].false_reject_bound == limits.false_reject_bound
            assert found.views[view].plane_mean == pytest.approx(limits.plane_mean)
    crossed = at_rate(
        known.model_copy(update={"procedure": "cross"}), ThresholdRule("conformal", 0.5), "pool"
    )
    (limits,) = crossed.views.values()
    assert limits.false_reject_bound == 1.0
    assert promised(limits) == limits.false_reject_estimate != 1.0


def test_an_engine_that_saw_a_tested_frame_stops_everything(
    frames: FrameSet, blurring: Blurring, tmp_path: Path
) -> None:
    run = first(frames)
    blurring.also_learned = [run.division.test[0].sample.file]
    with pytest.raises(LeakageError, match="1 are tested"):
        perform(run, LEARNER, RATES, tmp_path / "work")
    blurring.also_learned, blurring.forgets = [], True
    with pytest.raises(LeakageError, match="learned from 0 frames"):
        perform(run, LEARNER, RATES, tmp_path / "work")


def test_a_fold_that_tests_what_it_learns_is_refused_before_learning(
    frames: FrameSet, blurring: Blurring, tmp_path: Path
) -> None:
    run = first(frames)
    same = run.division.learn[0]
    for leaked in (same, replace(same, group="part other"), replace(run.division.test[0], group=same.group)):
        torn = replace(run, division=Fold(run.division.learn, (leaked, *run.division.test[1:])))
        with pytest.raises(LeakageError):
            perform(torn, LEARNER, RATES, tmp_path / "work")
    assert not blurring.calls
    check_apart(run.division)


def test_the_bundles_own_list_is_held_against_the_fold() -> None:
    fold = Fold((row("a", "a"), row("b", "b")), (row("c", "c"),))
    a, c = learned_id(fold.learn[0].sha256), learned_id(fold.test[0].sha256)
    check_unseen([a], fold)
    for wrong in ([], [a, c], ["0" * 16]):
        with pytest.raises(LeakageError):
            check_unseen(wrong, fold)


def test_an_interrupted_run_keeps_what_it_goes_on_from_and_a_failed_one_nothing(
    frames: FrameSet, blurring: Blurring, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    blurring.fails = {"cae": TryAgainError("stopped")}
    with pytest.raises(TryAgainError):
        perform(first(frames), LEARNER, RATES, work)
    assert list(work.glob("*/learn.csv"))
    blurring.fails = {"cae": DataError("no")}
    with pytest.raises(DataError):
        perform(first(frames), LEARNER, RATES, work)
    assert not list(work.iterdir())


def test_the_key_is_of_everything_that_decides_what_comes_out(frames: FrameSet) -> None:
    run = first(frames)
    keys = {
        run.key(LEARNER, RATES),
        run.key(LEARNER, (0.05,)),
        run.key(replace(LEARNER, budget=Budget(3.0)), RATES),
        run.key(replace(LEARNER, options=("--clahe",)), RATES),
        *(replace(run, **change).key(LEARNER, RATES) for change in (
            {"seed": 1}, {"model": "auto"}, {"fold": 1}, {"division": deal(frames.rows, 2, 0)[1]},
            {"frames": replace(frames, sha256="other")},
        )),
    }  # fmt: skip
    assert len(keys) == 9
    assert run.key(LEARNER, RATES) == first(frames).key(LEARNER, RATES)


def test_the_manifest_for_learning_names_parts_masks_and_no_split(tmp_path: Path) -> None:
    source = write_set(tmp_path / "set", split=True)
    with source.open("a") as stream:
        stream.write("copy.png,good,,,,,test\n")
    (tmp_path / "set" / "copy.png").write_bytes((tmp_path / "set" / "g0.png").read_bytes())
    (frames,) = read_sets([source])
    write_manifest(tmp_path / "learn.csv", frames.rows)
    learned = read_manifest(tmp_path / "learn.csv")
    assert {s.split for s in learned} == {""}
    by_name = {s.file.name: s for s in learned}
    assert by_name["copy.png"].part == by_name["g0.png"].part == by_name["g1.png"].part
    assert by_name["g2.png"].part == "p1"
    assert by_name["d0.png"].mask == (tmp_path / "set" / "m0.png").resolve()
    assert by_name["copy.png"].label == "good"


def test_options_of_learn_are_checked_before_anything_runs() -> None:
    def parsed(*texts: str) -> object:
        return replace(LEARNER, options=options_from(texts)).parsed()

    assert parsed("--scale 0.5 --illumination median", "--too-few bound")["scale"] == 0.5  # type: ignore[index]
    with pytest.raises(UsageError, match="--learn-option"):
        parsed("--no-such-option 3")
    with pytest.raises(UsageError, match="--seed is not for single runs"):
        parsed("--seed 3")
    with pytest.raises(UsageError, match="--recipe"):
        parsed("--recipe mine")
    with pytest.raises(UsageError, match="quotation"):
        parsed("--template 'x")
