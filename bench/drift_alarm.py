"""Does the drift alarm come in time, and only then: `python -m bench.drift_alarm`.

The daemon's own watch (`edge.drift_watch`) is fed four frames a second. Without drift: how much of the time
it is in alarm. With a slow drift: at which true share of false rejects the alarm comes. Scores are
log-normal, and, where EDGE_DATA is there, those of real solder joints whose lamp fades while the gain
makes up for it, so that noise grows; their score is the highest 9×9 mean of what a blur of σ 3 takes away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.picture_gates import groups, stored
from edge.drift_watch import DriftWatch
from edge.judge.calibration import Calibration, GoodFrame, calibrate
from edge.judge.drift import DriftRule
from edge.types import FloatImage, Identity, Verdict

CALIBRATED = (19, 50, 100, 200, 500)  # good frames
PROMISED = 0.05
STABLE, DRIFTING = 1500, 10_000  # frames before and while the drift grows
QUIET = 20_000  # frames without any
RUNS = 10
LOOK_FRAMES = 20  # a look every 5 s at 4 frames a second
SPREAD = 0.3  # of the logarithm
GAINS = np.linspace(0, 6, 13) / 255  # noise that the gain adds, standard deviation
Draw = Callable[[float, np.random.Generator], float]  # (drift 0..1) → raw score


class _Silent:
    """A meter and a log that keep what is asked of them: whether there is an alarm."""

    def drifted(self, recipe: str, view: str, ratio: float, martingale: float) -> None: ...

    def window_compared(self, recipe: str, view: str, **figures: float | None) -> None: ...

    def picture_margin(self, recipe: str, view: str, reason: str, ratio: float) -> None: ...

    def warning(self, event: str, **said: object) -> None: ...

    info = warning


@dataclass(slots=True)
class Line:
    """A view whose frames come at a steady pace."""

    made: Calibration
    now_s: float = 1.8e9
    watch: DriftWatch = field(init=False)

    def __post_init__(self) -> None:
        silent = _Silent()
        self.watch = DriftWatch(
            DriftRule(), 86400, meter=silent, log=silent, clock=self._clock, unix_clock=self._clock
        )

    def _clock(self) -> float:
        return self.now_s

    def see(self, raw: float) -> None:
        self.now_s += 0.25
        payload = {"score": raw / self.made.views["1"].threshold, "isHistorical": False}
        verdict = Verdict("", "frame", "r", "OK", Identity(view="1"), self.now_s, payload)
        self.watch.recorded(verdict, self.made, None)

    @property
    def state(self) -> str:
        said: str = self.watch.report()["r"]["1"]["state"]
        return said


def calibrated(raw: NDArray[np.float64]) -> Calibration:
    good = [GoodFrame("1", float(one), float(one), 0.5, 0.1, 8, 8) for one in raw]
    return calibrate(
        good, recipe="r", bundle_sha256="", statistic="peak", false_reject=PROMISED, too_few="refuse"
    )


def quiet(draw: Draw, made: Calibration, rng: np.random.Generator) -> tuple[float, int]:
    """Share of looks in alarm, and alarms, in a run without drift."""
    line, states = Line(made), []
    for frame in range(QUIET):
        line.see(draw(0.0, rng))
        if frame % LOOK_FRAMES == 0:
            states.append(line.state)
    alarms = [now == "alarm" for now in states]
    begun = sum(now and not before for before, now in zip([False, *alarms], alarms, strict=False))
    return float(np.mean(alarms)), begun


def drifting(draw: Draw, made: Calibration, rng: np.random.Generator) -> tuple[float, float]:
    """How far the drift was, 0..1, at the first watch and at the first alarm; 1 where it never came."""
    line, watch = Line(made), 1.0
    for frame in range(STABLE + DRIFTING):
        drift = max(0.0, (frame - STABLE) / DRIFTING)
        line.see(draw(drift, rng))
        if frame % LOOK_FRAMES == 0 and frame >= STABLE:
            if line.state == "alarm":
                return min(watch, drift), drift
            if line.state == "watch":
                watch = min(watch, drift)
    return watch, 1.0


def main() -> int:
    """Print the tables in Markdown."""
    _table("log-normal", _log_normal)
    _table("solder joints", _solder_joints())
    return 0


Rejected = Callable[[float, float], float]  # (drift, threshold) → true share above it
World = Callable[[int, np.random.Generator], tuple[NDArray[np.float64], Draw, Rejected]]


def _table(name: str, world: World) -> None:
    """`world` gives, for a number of frames, calibration's scores, a source of new ones, and the true share
    above a threshold at a drift."""
    columns = (
        f"{name}: calibration frames", "time in alarm without drift", f"alarms in {QUIET} frames",
        "false rejects at the watch", "at the alarm: mean, 90 %", "alarms below twice the promise",
        "below twice this threshold's own rate",
    )  # fmt: skip
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for count in CALIBRATED:
        shares, begun, at_watch, at_alarm, own = [], [], [], [], []
        for run in range(RUNS):
            rng = np.random.default_rng(1000 * count + run)
            raw, draw, rejected = world(count, rng)
            made = calibrated(raw)
            threshold = made.views["1"].threshold
            share, alarms = quiet(draw, made, rng)
            watch, alarm = drifting(draw, made, rng)
            shares.append(share)
            begun.append(alarms)
            at_watch.append(rejected(watch, threshold))
            at_alarm.append(rejected(alarm, threshold))
            own.append(rejected(0.0, threshold))
        cells = (
            f"{count}", f"{np.mean(shares):.3%}", f"{np.mean(begun):.2f}", f"{np.mean(at_watch):.1%}",
            f"{np.mean(at_alarm):.1%}, {np.quantile(at_alarm, 0.9):.1%}",
            f"{np.mean(np.array(at_alarm) < 2 * PROMISED):.0%}",
            f"{np.mean(np.array(at_alarm) < 2 * np.array(own)):.0%}",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


def _log_normal(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], Draw, Rejected]:
    """Scores that rise by 1.5 standard deviations."""

    def draw(drift: float, rng: np.random.Generator) -> float:
        return 0.02 * math.exp(SPREAD * (rng.standard_normal() + 1.5 * drift))

    def rejected(drift: float, threshold: float) -> float:
        return 1 - NormalDist(1.5 * drift).cdf(math.log(threshold / 0.02) / SPREAD)

    return 0.02 * np.exp(SPREAD * rng.standard_normal(count)), draw, rejected


def _solder_joints() -> World:
    """Each frame's score at each gain, once; then frames are drawn."""
    planes = [plane for group in groups("solder_joint", most=1400) for _, plane in group]
    scores = np.array([[peak(stored(plane, noise)) for noise in GAINS] for plane in planes])
    steps = np.linspace(0, 1, len(GAINS))

    def world(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], Draw, Rejected]:
        order = rng.permutation(len(scores))
        mine, rest = scores[order[:count], 0], scores[order[count:]]

        def draw(drift: float, rng: np.random.Generator) -> float:
            return float(np.interp(drift, steps, rest[rng.integers(len(rest))]))

        def rejected(drift: float, threshold: float) -> float:
            at = [np.interp(drift, steps, one) for one in rest]
            return float(np.mean(np.array(at) > threshold))

        return mine, draw, rejected

    return world


def peak(plane: FloatImage) -> float:
    """A score that needs no learning, as of docs/calibration.md."""
    fine = np.abs(plane - cv2.GaussianBlur(plane, (0, 0), 3))
    return float(cv2.blur(np.asarray(fine, np.float32), (9, 9)).max())


if __name__ == "__main__":
    raise SystemExit(main())
