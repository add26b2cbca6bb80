"""Recent scores and pictures of each view against its calibration: what the daemon knows of drift.

A window of time, bounded in frames, is held against calibration's scores (`edge.judge.drift`). Calibration
may be few frames; the first scores that production made under it, found to be like them, are then held beside
them, so that a slow change is seen against hundreds of frames. Nothing of this is state: after a restart both
come back from the verdicts that are stored.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import numpy as np

from edge.judge.calibration import Calibration, ViewCalibration, drift_ratio
from edge.judge.drift import LEAST_REFERENCE, WATCH_P, Drift, DriftRule, Reference, State, measure, state_of
from edge.judge.exchangeability import log_martingale, one_a_part
from edge.judge.judgement import margins
from edge.types import Score, Verdict

RECENT_FRAMES = 200  # whose scores are bet on, see `edge.judge.exchangeability`
WINDOW_FRAMES = 500  # of a view, at most: the latest of the window
BASE_FRAMES = 500  # of a view, from the beginning of production
PICTURE_FRAMES = 50  # whose median is held against the gates
NEAR_GATE = 0.2  # of the way from the middle of a gate's range to its end is left
RESTORED_ROWS = 20_000  # of a recipe, from either end: a start must not read a million verdicts
EVERY_S = 5.0


class Scored(NamedTuple):
    """A stored score; normalised."""

    view: str | None
    part: str | None  # with its batch: numbers may begin anew in each
    unix_s: float
    score: float


class ScoreStore(Protocol):
    """Where verdicts are kept: `edge.record.store.Store`."""

    def scores(
        self, recipe: str, calibration: str, since_unix_s: float, limit: int, *, newest: bool
    ) -> list[tuple[str | None, str | None, float, float]]: ...


class DriftMeter(Protocol):
    """What is reported of a view."""

    def drifted(self, recipe: str, view: str, ratio: float, martingale: float) -> None: ...

    def window_compared(
        self, recipe: str, view: str, *, psi: float, ks_p: float, forecast: float | None, alarm: bool
    ) -> None: ...

    def picture_margin(self, recipe: str, view: str, reason: str, ratio: float) -> None: ...


@dataclass(slots=True)
class _View:
    """What is kept of a recipe's view under one calibration."""

    limits: ViewCalibration
    reference: Reference
    usual: list[float]  # calibration's scores, normalised, one a part
    digest: str
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_FRAMES))
    window: deque[Scored] = field(default_factory=lambda: deque(maxlen=WINDOW_FRAMES))
    base: list[Scored] = field(default_factory=list)
    base_holds: bool | None = None  # whether it is like calibration; None: not full
    pictures: dict[str, deque[float]] = field(default_factory=dict)  # by reason of the gate
    state: State = "too_few"
    said: dict[str, Any] = field(default_factory=dict)
    looked_s: float = -math.inf


class DriftWatch:
    """One per line; the record stage feeds it, HTTP and MQTT read it."""

    def __init__(
        self,
        rule: DriftRule,
        window_s: float,
        *,
        meter: DriftMeter,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._rule, self._window_s = rule, window_s
        self._meter, self._log = meter, log
        self._clock, self._unix_clock = clock, unix_clock
        self._views: dict[tuple[str, str], _View] = {}
        self._lock = threading.Lock()

    def restore(self, store: ScoreStore, recipe: str, calibration: Calibration) -> None:
        """Take up what is stored of a recipe under this calibration; a bounded number of rows."""
        made = _unix_s(calibration.created)
        since = max(made, self._unix_clock() - self._window_s)
        first = store.scores(recipe, calibration.digest, made, RESTORED_ROWS, newest=False)
        latest = store.scores(recipe, calibration.digest, since, RESTORED_ROWS, newest=True)
        with self._lock:
            for row in map(Scored._make, first):
                if view := self._view(recipe, row.view, calibration):
                    _add_to_base(view, row)
            for row in map(Scored._make, reversed(latest)):
                if view := self._view(recipe, row.view, calibration):
                    view.recent.append(row.score)
                    view.window.append(row)

    def recorded(self, verdict: Verdict, calibration: Calibration | None, score: Score | None) -> None:
        """A frame's verdict is stored."""
        normalised = verdict.payload["score"]
        if calibration is None or normalised is None or verdict.payload["isHistorical"]:
            return
        who = verdict.identity
        with self._lock:
            view = self._view(verdict.recipe, who.view, calibration)
            if view is None:
                return
            part = None if who.part is None else f"{who.batch or ''}\n{who.part}"
            row = Scored(who.view, part, verdict.created_unix_s, float(normalised))
            view.recent.append(row.score)
            view.window.append(row)
            _add_to_base(view, row)
            for reason, margin in margins(score, view.limits).items() if score is not None else ():
                view.pictures.setdefault(reason, deque(maxlen=PICTURE_FRAMES)).append(margin)
            if self._clock() - view.looked_s >= EVERY_S:
                self._look(verdict.recipe, who.view or "", view)

    def report(self) -> dict[str, dict[str, dict[str, Any]]]:
        """recipe → view → what `…/status` says under "drift"; never older than a few seconds."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        with self._lock:
            for (recipe, name), view in sorted(self._views.items()):
                if self._clock() - view.looked_s >= EVERY_S:
                    self._look(recipe, name, view)
                found.setdefault(recipe, {})[name] = dict(view.said)
        return found

    def _view(self, recipe: str, name: str | None, calibration: Calibration) -> _View | None:
        """What is kept of a view; None where calibration has too few scores of it to say anything."""
        key = recipe, name or ""
        if (known := self._views.get(key)) is not None and known.digest == calibration.digest:
            return known
        limits = calibration.of(name)
        if limits is None or not limits.scores:
            return None
        usual = [raw / limits.threshold for raw in one_a_part(limits.scores, limits.parts)]
        self._views[key] = _View(limits, Reference.of(calibration, limits), usual, calibration.digest)
        return self._views[key]

    def _look(self, recipe: str, name: str, view: _View) -> None:
        """Compare the window, report it, and say so where its state has changed."""
        view.looked_s = self._clock()
        if view.recent:
            self._meter.drifted(
                recipe, name, drift_ratio(view.recent, view.limits),
                log_martingale(tuple(view.recent), view.usual),
            )  # fmt: skip
        oldest = self._unix_clock() - self._window_s
        while view.window and view.window[0].unix_s < oldest:
            view.window.popleft()
        scores, before = _one_a_part(view.window), view.state
        drift: Drift | None = None
        if scores and len(view.reference.scores) >= LEAST_REFERENCE:
            drift = measure(scores, view.reference)
            view.state, why = state_of(drift, self._rule, before)
        else:
            short = f"{len(view.reference.scores)} calibration frames: nothing can be said of drift"
            view.state, why = "too_few", "no frames" if not scores else short
        left = {reason: float(np.median(values)) for reason, values in view.pictures.items()}
        near = [reason for reason, ratio in left.items() if ratio < NEAR_GATE]
        if near and view.state != "alarm":
            view.state = "watch"
            why = "; ".join([*filter(None, [why]), *map(_near_gate, near)])
        view.said = _said(drift, len(scores), self._window_s, view.state, why, left)
        if drift is not None and drift.frames >= self._rule.min_frames:
            self._meter.window_compared(
                recipe, name, psi=drift.psi, ks_p=drift.ks_p, forecast=drift.forecast,
                alarm=view.state == "alarm",
            )  # fmt: skip
        for reason, ratio in left.items():
            self._meter.picture_margin(recipe, name, reason, ratio)
        self._tell(recipe, name, before, view.state, why)

    def _tell(self, recipe: str, name: str, before: State, now: State, why: str) -> None:
        """Once an episode."""
        if now == before or "alarm" not in (before, now):
            return
        if now == "alarm":
            self._log.warning("drift.alarm", recipe=recipe, view=name, why=why)
        else:
            self._log.info("drift.over", recipe=recipe, view=name, state=now)


def _add_to_base(view: _View, row: Scored) -> None:
    """Fill the base from the beginning of production; a full one is held against calibration, once.

    Its frames may be in the window as well for a while, which makes the tests more careful, not less.
    """
    if view.base_holds is not None:
        return
    view.base.append(row)
    if len(view.base) >= BASE_FRAMES:
        scores = _one_a_part(view.base)
        enough = len(view.reference.scores) >= LEAST_REFERENCE
        view.base_holds = enough and measure(scores, view.reference).p >= WATCH_P
        if view.base_holds:
            view.reference = view.reference.beside(scores)
        view.base.clear()


def _unix_s(created: str) -> float:
    """When a calibration was made; the beginning of time where it does not say so."""
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0


def _near_gate(reason: str) -> str:
    what = reason.removesuffix("_outside_calibration")
    return f"{what} is close to where frames become NotDecidable ({reason})"


def _said(
    drift: Drift | None, frames: int, window_s: float, state: State, why: str, left: Mapping[str, float]
) -> dict[str, Any]:
    known = drift is not None and state != "too_few"
    forecast = drift.forecast if drift is not None and known else None
    return {
        "psi": round(drift.psi, 4) if drift is not None and known else None,
        "ksP": float(f"{drift.ks_p:.3g}") if drift is not None and known else None,
        "frames": frames,
        "windowS": window_s,
        "medianRatio": round(drift.median_ratio, 4) if drift is not None and known else None,
        "forecastFalseReject": None if forecast is None else float(f"{forecast:.3g}"),
        "promisedFalseReject": drift.promised if drift is not None else None,
        "pictureMargins": {reason: round(ratio, 3) for reason, ratio in sorted(left.items())},
        "state": state,
        "why": why,
    }


def _one_a_part(rows: Iterable[Scored]) -> list[float]:
    """The first score of each part; what names no part stands alone."""
    rows = list(rows)
    parts = [at if row.part is None else row.part for at, row in enumerate(rows)]
    return one_a_part([row.score for row in rows], parts)
