"""What has to be looked at now and then: sources, workers, disk space, and what is old enough to go."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from typing import Any

from edge import app
from edge.config import Settings
from edge.errors import DataError, EdgeError
from edge.observe.health import Health
from edge.observe.metrics import Metrics
from edge.quality import control_charts
from edge.record import evidence
from edge.record.recovery import set_aside
from edge.record.store import DAMAGED, Store

STEP_S = 0.5
PRUNE_S = 600.0
QUALITY_S = 5.0
ROOM_S = 2.0  # between two looks at free space: some file systems free it later
SPARE = 1.1  # of the space wanted is made, so that what comes next fits
PRUNE_ROWS = 2000  # verdicts a transaction
MOST_PRUNE_ROUNDS = 100  # 200,000 verdicts every ten minutes, far more than can be made
DAY_S = 86400.0


def make_room(settings: Settings, log: Any, *, refused: bool = False) -> str:
    """Remove the oldest evidence where less is free than is to be kept free; says so where none is left.

    `refused`: the database found no space, whatever the disk says of what is free (a quota).

    Raises:
        OSError: the disk cannot be looked at.
    """
    state, root = settings.paths.state, settings.paths.state / app.EVIDENCE
    free, wanted = evidence.free_bytes(root), evidence.wanted_free(root, settings.evidence.min_free_bytes)
    lacking = SPARE * wanted - free if free < wanted else 0.0
    if refused:
        lacking = max(lacking, wanted / 10)
    gone = evidence.make_room(root, int(lacking)) if lacking > 0 else 0
    if gone:
        log.warning("evidence.pruned_for_room", results=gone, free_bytes=free, wanted_bytes=wanted)
    if gone or free >= wanted:
        return ""
    short = f"{free / 1e6:.0f} MB free at {state}, {wanted / 1e6:.0f} MB are to be kept free"
    return f"{short}; there is no evidence left to remove"


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
        self._next_prune_s = self._next_quality_s = self._next_room_s = float("-inf")
        self._quality_known = False

    def step(self) -> None:
        """One round; what fails is logged and tried again next time."""
        for intake in self._line.intakes:
            trouble = intake.trouble(self._clock())
            self._health.set(f"source:{intake.name}", not trouble, trouble)
        self._metrics.workers_restarted(self._line.workers.take_restarts())
        if self._store.damaged:  # whichever loop met it: only a start can set the database aside
            raise DataError(
                f"the database is damaged: {self._store.damaged}",
                hint="start again: it is checked, and set aside if it is",
                reason=DAMAGED,
            )
        with contextlib.suppress(OSError):  # the alert on a stale value says it better than a crash
            self._look_at_disk()
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

    def _look_at_disk(self) -> None:
        """Free space, with the oldest evidence removed where it is short; damaged databases beside ours."""
        settings = self._line.settings
        state = settings.paths.state
        self._metrics.disk_free_bytes.labels(str(state)).set(shutil.disk_usage(state).free)
        damaged = set_aside(state / app.DATABASE)
        self._metrics.database_set_aside.set(len(damaged))
        self._health.set(DAMAGED, not damaged, "; ".join(map(str, damaged)))
        if self._clock() < self._next_room_s:
            return
        self._next_room_s = self._clock() + ROOM_S
        short = make_room(settings, self._log, refused=self._store.disk_full)
        self._health.set("disk", not short, short)

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
        verdicts, before = 0, self._store.prunable_before(now, settings.record.max_age_days * DAY_S)
        for _ in range(MOST_PRUNE_ROUNDS):  # small transactions: verdicts are recorded in between
            pruned = self._store.prune(before, PRUNE_ROWS)
            verdicts += pruned
            if pruned < PRUNE_ROWS:
                break
        self._store.prune_batches(before)
        if pictures or verdicts:
            self._log.info("pruned", evidence=pictures, verdicts=verdicts)
