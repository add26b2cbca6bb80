"""What has to be looked at now and then: sources, workers, disk space, and what is old enough to go."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from typing import Any

from edge import app
from edge.errors import EdgeError
from edge.observe.health import Health
from edge.observe.metrics import Metrics
from edge.quality import control_charts
from edge.record import evidence
from edge.record.store import Store

STEP_S = 0.5
PRUNE_S = 600.0
QUALITY_S = 5.0
PRUNE_ROWS = 2000  # verdicts a transaction
MOST_PRUNE_ROUNDS = 100  # 200,000 verdicts every ten minutes, far more than can be made
DAY_S = 86400.0


class Housekeeping:
    """Small duties of a running line."""

    def __init__(
        self,
        line: app.Line,
        store: Store,
        health: Health,
        metrics: Metrics,
        *,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._line, self._store, self._health, self._metrics = line, store, health, metrics
        self._log, self._clock, self._unix_clock = log, clock, unix_clock
        self._next_prune_s = self._next_quality_s = float("-inf")
        self._quality_known = False

    def step(self) -> None:
        """One round; what fails is logged and tried again next time."""
        for intake in self._line.intakes:
            trouble = intake.trouble(self._clock())
            self._health.set(f"source:{intake.name}", not trouble, trouble)
        self._metrics.workers_restarted(self._line.workers.take_restarts())
        state = self._line.settings.paths.state
        with contextlib.suppress(OSError):  # the alert on a stale value says it better than a crash
            self._metrics.disk_free_bytes.labels(str(state)).set(shutil.disk_usage(state).free)
        if self._clock() >= self._next_quality_s:
            self._next_quality_s = self._clock() + QUALITY_S
            try:
                self._quality()
            except EdgeError as error:
                self._quality_known = False
                self._log.error("quality.failed", error=error)
        if self._clock() >= self._next_prune_s:
            self._next_prune_s = self._clock() + PRUNE_S
            try:
                self._prune()
            except (EdgeError, OSError, ValueError) as error:
                self._log.error("prune.failed", error=error)

    def _quality(self) -> None:
        """Control charts that have moved, as metrics; at first those of all recipes in use."""
        moved = self._store.take_moved_charts()
        if self._quality_known:
            charts = [of for who in sorted(moved) for of in control_charts(self._store, *who, last=1)]
        else:
            self._metrics.forget_quality()
            charts = control_charts(self._store, last=1)
        for of in charts:
            row, point = of.row, of.points[-1]
            inspector = self._line.inspectors.get(row.recipe)
            if inspector and inspector.calibration and inspector.calibration.digest == row.calibration:
                out = None if of.in_control is None else not of.in_control
                self._metrics.quality(row.recipe, row.view, nqi=point.nqi, ewma=point.ewma, out=out)
        self._quality_known = True

    def _prune(self) -> None:
        settings, now = self._line.settings, self._unix_clock()
        rule = settings.evidence
        root = settings.paths.state / app.EVIDENCE
        pictures = evidence.prune(
            root, max_age_days=rule.max_age_days, max_bytes=rule.max_bytes, now_unix_s=now
        )
        verdicts, before = 0, now - settings.record.max_age_days * DAY_S
        for _ in range(MOST_PRUNE_ROUNDS):  # small transactions: verdicts are recorded in between
            pruned = self._store.prune(before, PRUNE_ROWS)
            verdicts += pruned
            if pruned < PRUNE_ROWS:
                break
        self._store.prune_batches(before)
        if pictures or verdicts:
            self._log.info("pruned", evidence=pictures, verdicts=verdicts)
