"""An engine that no longer gives its golden answers judges nothing any more.

A dead accelerator fails on every frame, and a broken one may answer with anything: neither is any frame's
fault. So an engine is held to its golden pair when a frame fails or scores no finite number, and every
minute. If that fails, the process ends and is started again, or the recipe goes on by the CPU, as configured;
frames that had no verdict by then are found again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from edge.config import Settings
from edge.errors import EdgeError, EngineLostError
from edge.infer.bundle import Bundle
from edge.infer.compile import CPU_RUNTIME, prove
from edge.infer.runtime import Runtime
from edge.pipeline import Inspector

PROVE_EVERY_S = 60.0  # while frames come: for so long at most an engine can answer wrongly

OnLoss = Callable[[str, Inspector, str], None]
"""(recipe, inspector, why): put another engine in place, or raise EngineLostError."""


class LossMeter(Protocol):
    """What is reported of a loss."""

    def engine_lost(self, recipe: str) -> None: ...

    def set_bundle(self, recipe: str, *, sha256: str, runtime: str, precision: str) -> None: ...


def end_the_process(recipe: str, inspector: Inspector, why: str) -> NoReturn:
    """What is done where nothing is configured."""
    raise EngineLostError(
        f"recipe {recipe}: the engine ({inspector.runtime.name}) is lost: {why}",
        hint="systemd starts edge again; if that does not help, see what is wrong with the device, or set "
        'on_engine_loss = "cpu" under [runtime]',
    )


class EngineWatch:
    """Holds engines to their golden pairs, and has them replaced when they fail."""

    def __init__(
        self, on_loss: OnLoss = end_the_process, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_loss, self._clock = on_loss, clock
        self._started_s = clock()  # all were proved when they were opened
        self._proved_s: dict[str, float] = {}

    def check_now_and_then(self, recipe: str, inspector: Inspector) -> None:
        """Before frames are judged: nothing to do if the last check is recent.

        Raises:
            EngineLostError: the engine is lost and nothing takes its place.
        """
        since_s = self._clock() - self._proved_s.get(recipe, self._started_s)
        if since_s >= PROVE_EVERY_S:
            self.was_replaced(recipe, inspector, f"its last good answers are {since_s:.0f} s old")

    def was_replaced(self, recipe: str, inspector: Inspector, suspicion: str) -> bool:
        """Hold the engine to its golden pair; True if it failed and another, proved, is in its place.

        Raises:
            EngineLostError: it failed and nothing takes its place.
        """
        try:
            prove(inspector.bundle, inspector.runtime)
        except Exception as error:  # whatever drivers raise
            why = error.message if isinstance(error, EdgeError) else f"{type(error).__name__}: {error}"
            self._on_loss(recipe, inspector, f"{suspicion}; golden pair: {why}")
            replaced = True
        else:
            replaced = False
        self._proved_s[recipe] = self._clock()
        return replaced


class EngineLoss:
    """What the configuration wants when an engine is lost; called by `EngineWatch`."""

    def __init__(
        self,
        settings: Settings,
        *,
        open_on_cpu: Callable[[Settings, Bundle], Runtime],
        meter: LossMeter,
        log: Any,
    ) -> None:
        self._settings, self._open_on_cpu, self._meter, self._log = settings, open_on_cpu, meter, log

    def __call__(self, recipe: str, inspector: Inspector, why: str) -> None:
        """See `OnLoss`."""
        self._meter.engine_lost(recipe)
        lost = inspector.runtime.name
        if self._settings.runtime.on_engine_loss != "cpu" or lost == CPU_RUNTIME:
            end_the_process(recipe, inspector, why)
        try:
            runtime = self._open_on_cpu(self._settings, inspector.bundle)
        except EdgeError as error:
            end_the_process(recipe, inspector, f"{why}; the CPU cannot take over: {error.message}")
        inspector.replace_runtime(runtime, f"{lost} was lost: {why}")
        model = inspector.model
        self._meter.set_bundle(recipe, sha256=model.sha256, runtime=model.runtime, precision=model.precision)
        self._log.error("engine.lost", recipe=recipe, lost=lost, now=model.runtime, why=why)
