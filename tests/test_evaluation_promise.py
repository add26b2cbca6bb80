"""What evaluate says of the promise, on frames drawn as calibration's were and on others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edge.dataset import Sample
from edge.evaluation_figures import Outcome
from edge.evaluation_promise import exchangeability, promises
from edge.judge.calibration import Calibration, GoodFrame, calibrate

VIEWS = ("1", "2")


def calibration(part: float | None = None, parts: int = 60) -> Calibration:
    rng = np.random.default_rng(0)
    good = [
        GoodFrame(view, raw := float(rng.lognormal(0, 0.2)), raw, 0.5, 0.1, 48, 64, part=f"C{n}")
        for n in range(parts)
        for view in VIEWS
    ]
    return calibrate(
        good, recipe="r", bundle_sha256="b" * 64, statistic="peak", false_reject=0.05, too_few="refuse",
        false_reject_part=part,
    )  # fmt: skip


def outcomes(made: Calibration, parts: int = 100, level: float = 1.0) -> list[Outcome]:
    rng = np.random.default_rng(1)
    found = []
    for n in range(parts):
        for view in VIEWS:
            raw = float(level * rng.lognormal(0, 0.2))
            score = raw / made.views[view].threshold
            sample = Sample(Path(f"{n}_{view}.png"), f"{n}_{view}.png", "good", part=f"P{n}")
            found.append(Outcome(sample, view, False, "NotOK" if score > 1 else "OK", score, raw))
    return found


def test_frames_like_those_of_calibration_keep_the_promise() -> None:
    made = calibration(part=0.1)
    alike, held = exchangeability(outcomes(made), made), promises(outcomes(made), made)
    assert alike is not None
    assert alike["exchangeable"]
    assert "warning" not in alike
    assert (alike["frames"], alike["calibration_frames"]) == (200, 120)
    assert held is not None
    assert held["frame"]["kept"]
    assert held["part"]["kept"]
    assert (held["frame"]["count"], held["part"]["count"]) == (200, 100)


def test_frames_of_another_process_break_it_and_a_warning_says_so() -> None:
    made = calibration(part=0.1)
    alike, held = exchangeability(outcomes(made, level=1.3), made), promises(outcomes(made, level=1.3), made)
    assert alike is not None
    assert not alike["exchangeable"]
    assert "do not score as those of calibration did (p = " in alike["warning"]
    assert held is not None
    assert not held["frame"]["kept"]
    assert not held["part"]["kept"]


def test_only_good_frames_that_were_not_learned_from_count_and_one_a_part_and_view() -> None:
    made = calibration()
    few = outcomes(made, parts=10)
    others = [
        *(replace(o, is_defect=True, raw=99.0) for o in few),
        *(replace(o, was_learned_from=True, raw=99.0) for o in few),
        *(replace(o, page=1) for o in few),
    ]
    alike = exchangeability([*few, *others], made)
    assert alike is not None
    assert alike["frames"] == 20
    assert exchangeability(others[:40], made) is None
    assert promises(others[:40], made) is None


def test_without_a_proof_the_estimate_is_what_is_held_against() -> None:
    made = calibration()
    unproved = {
        view: limits.model_copy(update={"false_reject_bound": 1.0, "false_reject_estimate": 0.05})
        for view, limits in made.views.items()
    }
    held = promises(outcomes(made), made.model_copy(update={"views": unproved}))
    assert held is not None
    assert abs(held["frame"]["promised"] - 0.05) < 1e-12
