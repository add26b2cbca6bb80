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
MOST_FUTILE = 3  # rounds of removing evidence without more space than before
FUTILE_REST_S = 600.0
CONFINED_BY = ("landlock", "seccomp")
DAY_S = 86400.0


def make_room(settings: Settings, log: Any, *, refused: bool = False) -> tuple[int, str]:
    """Remove the oldest evidence where less is free than is to be kept free; (results that went, why the disk
    stays short where none is left).

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
        return gone, ""
    short = f"{free / 1e6:.0f} MB free at {state}, {wanted / 1e6:.0f} MB are to be kept free"
    return 0, f"{short}; there is no evidence left to remove"


class Room:
    """Keeps space free, unless removing evidence proves to be of no use.

    Where snapshots hold what is removed, or something else takes the space at once, all pictures would go for
    nothing.
    """

    def __init__(self, settings: Settings, log: Any, clock: Callable[[], float]) -> None:
        self._settings, self._log, self._clock = settings, log, clock
        self._root = settings.paths.state / app.EVIDENCE
        self._free_before = self._futile = 0  # bytes, when evidence last went; rounds without effect in a row
        self._rest_until_s = float("-inf")

    def make(self, *, refused: bool) -> str:
        """Remove what must go; why the disk stays short, or ''.

        Raises:
            OSError: the disk cannot be looked at.
        """
        free = evidence.free_bytes(self._root)
        if self._free_before:
            self._futile = 0 if free > self._free_before else self._futile + 1
            self._free_before = 0
        if self._futile >= MOST_FUTILE:
            self._futile, self._rest_until_s = 0, self._clock() + FUTILE_REST_S
            self._log.error("evidence.pruning_is_no_use", free_bytes=free, next_try_s=FUTILE_REST_S)
        if self._clock() < self._rest_until_s:
            enough = free >= evidence.wanted_free(self._root, self._settings.evidence.min_free_bytes)
            return (
                "" if enough and not refused else f"{free / 1e6:.0f} MB free; removing evidence does not help"
            )
        gone, short = make_room(self._settings, self._log, refused=refused)
        self._free_before = free if gone else 0
        return short


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
        self._quality_known = self._was_unconfined = False
        self._trouble = ""
        self._room = Room(line.settings, log, clock)

    def step(self) -> None:
        """One round; what fails is logged and tried again next time."""
        for intake in self._line.intakes:
            trouble = intake.trouble(self._clock())
            self._health.set(f"source:{intake.name}", not trouble, trouble)
        self._look_at_workers()
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

    def _look_at_workers(self) -> None:
        workers = self._line.workers
        self._metrics.workers_restarted(workers.take_restarts())
        self._health.set("decoders", not workers.trouble, workers.trouble)
        if workers.trouble != self._trouble:
            self._trouble = workers.trouble
            if self._trouble:
                hint = "see what limits processes and memory of this service"
                self._log.error("decoders.failing", why=self._trouble, hint=hint)
            else:
                self._log.info("decoders.working")
        missing = [name for name in CONFINED_BY if name not in (workers.confined_by or CONFINED_BY)]
        if missing and not self._was_unconfined:
            self._was_unconfined = True
            hint = "use a kernel with Landlock and seccomp: a file that takes a decoder over finds more doors"
            self._log.warning("decoders.not_confined", missing=missing, hint=hint)

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
        short = self._room.make(refused=self._store.disk_full)
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
