"""`edge doctor --gpu`: proves, on the machine that has it, that a GPU answers as the CPU does, and how fast.

For every engine of the site (or the demo's), every NVIDIA runtime in every precision: the golden pair,
agreement with the CPU on stored 16-bit tiles, and tiles a second of both. No figure that was not measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from edge.config import Settings
from edge.errors import BundleError, EdgeError, UnavailableError
from edge.infer.bundle import Bundle, load_bundle
from edge.infer.cache import CompiledCache, Note, no_note
from edge.infer.compile import open_runtime, prove
from edge.infer.runtime import Runtime
from edge.types import TileArray

Outcome: TypeAlias = Literal["good", "wrong", "unavailable"]
Opener: TypeAlias = Callable[[Bundle, str], Runtime]  # bundle, precision → runtime

PRECISIONS = {"tensorrt": ("fp32", "fp16"), "torch-cuda": ("fp32", "fp16", "bf16")}
MEASURED_S = 3.0  # of each runtime
WARM_UP_BATCHES = 4
COMPARED_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one engine on one runtime in one precision."""

    engine: str
    runtime: str
    precision: str
    outcome: Outcome
    why: str = ""
    golden_difference: float | None = None  # largest, grey levels in 0..1
    cpu_difference: float | None = None  # the same, to the CPU's answers on stored tiles
    tolerance: float | None = None
    tiles_per_s: float | None = None
    cpu_tiles_per_s: float | None = None  # fp32

    @property
    def gain(self) -> float | None:
        """How many times the CPU's tiles a second."""
        if self.tiles_per_s is None or not self.cpu_tiles_per_s:
            return None
        return self.tiles_per_s / self.cpu_tiles_per_s

    def line(self) -> str:
        """For people."""
        head = f"{self.engine:<16} {self.runtime:<11} {self.precision:<5}"
        if self.outcome != "good":
            return f"{head} {self.outcome.upper()}: {self.why}"
        return (
            f"{head} good: golden pair within {self.golden_difference:.2g}, CPU within "
            f"{self.cpu_difference:.2g} (allowed {self.tolerance:.2g}); {self.tiles_per_s:.0f} tiles/s, "
            f"{self.gain:.1f} times the CPU's {self.cpu_tiles_per_s:.0f}"
        )


@dataclass(frozen=True, slots=True)
class GpuProof:
    """All trials, and what they come to."""

    trials: tuple[Trial, ...]

    def _any(self, outcome: Outcome) -> list[Trial]:
        return [trial for trial in self.trials if trial.outcome == outcome]

    @property
    def verdict(self) -> str:
        """One sentence."""
        good, wrong = self._any("good"), self._any("wrong")
        if wrong:
            named = ", ".join(sorted({f"{t.runtime} {t.precision}" for t in wrong}))
            return f"do not use it: {named} answered wrongly"
        if not good:
            return "no GPU can be used here: the CPU judges"
        best = max(good, key=lambda trial: trial.gain or 0.0)
        return (
            f'it works: device = "{best.runtime}", precision = "{best.precision}" was the fastest, '
            f"{best.gain:.1f} times the CPU"
        )

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from (trial.line() for trial in self.trials)
        yield f"GPU: {self.verdict}"

    def document(self) -> dict[str, Any]:
        """For programs."""
        trials = [{**asdict(trial), "gain": trial.gain} for trial in self.trials]
        return {"verdict": self.verdict, "usable": bool(self._any("good")), "trials": trials}

    def raise_if_bad(self) -> None:
        """The verdict as an exit code.

        Raises:
            BundleError: an answer was wrong.
            UnavailableError: nothing could be tried.
        """
        if wrong := self._any("wrong"):
            raise BundleError(
                f"a GPU answers wrongly: {wrong[0].engine}, {wrong[0].runtime} {wrong[0].precision}: "
                f"{wrong[0].why}",
                hint='keep device = "cpu" under [runtime], and report this with what it says',
            )
        if not self._any("good"):
            reasons = dict.fromkeys(trial.why for trial in self.trials)
            raise UnavailableError(
                f"no GPU can be used here: {'; '.join(reasons)}",
                hint='see `nvidia-smi`; then pip install "edge-inspect[tensorrt]" or "edge-inspect[cuda]"',
                retryable=False,
            )


def prove_gpus(settings: Settings | None, progress: Note = no_note) -> GpuProof:
    """Try every NVIDIA runtime on every engine of the site.

    Raises:
        BundleError, ConfigError: an engine of the site cannot be loaded.
    """
    openers: dict[str, Opener] = {
        "tensorrt": partial(_tensorrt, settings, progress),
        "torch-cuda": _torch_cuda,
    }
    trials: list[Trial] = []
    for bundle in bundles(settings):
        trials += try_all(bundle, openers, measured_s=MEASURED_S, progress=progress)
    return GpuProof(tuple(trials))


def bundles(settings: Settings | None) -> Sequence[Bundle]:
    """The engines of the site's recipes, or the demo's where there is no site."""
    if settings is None or not settings.recipe:
        from edge.simulate.site import shipped_site

        return [load_bundle(shipped_site() / "engines" / "demo")]
    from edge.recipes import load_engine

    found = {bundle.digest: bundle for bundle in (load_engine(settings, name) for name in settings.recipe)}
    return list(found.values())


def _tensorrt(settings: Settings | None, progress: Note, bundle: Bundle, precision: str) -> Runtime:
    from edge.infer.tensorrt import open_on_tensorrt
    from edge.recipes import COMPILED

    # what is built here is what the daemon then loads, if this user may write there
    state = None if settings is None else settings.paths.state
    may_keep = state is not None and state.is_dir() and os.access(state, os.W_OK)
    cache = CompiledCache(Path(state) / COMPILED) if state is not None and may_keep else None
    return open_on_tensorrt(bundle, precision=precision, cache=cache, progress=progress)


def _torch_cuda(bundle: Bundle, precision: str) -> Runtime:
    try:
        from edge.infer.torch_cuda import open_on_torch_cuda
    except ImportError as error:
        raise UnavailableError(f"torch cannot be used: {error}", retryable=False) from None
    return open_on_torch_cuda(bundle, precision=precision)


def try_all(
    bundle: Bundle,
    openers: dict[str, Opener],
    *,
    measured_s: float,
    progress: Note = no_note,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Trial]:
    """Each runtime in each precision against the CPU in fp32; a runtime that is not there is tried once."""
    cpu: tuple[Runtime, float] | None = None
    name = bundle.manifest.name
    for runtime_name, opener in openers.items():
        for precision in PRECISIONS[runtime_name]:
            progress(f"edge doctor: {name} on {runtime_name} in {precision}")
            try:
                runtime = opener(bundle, precision)
            except UnavailableError as error:
                yield Trial(name, runtime_name, precision, "unavailable", error.message)
                break
            except EdgeError as error:
                yield Trial(name, runtime_name, precision, "wrong", error.message)
                continue
            if cpu is None:
                there = open_runtime(bundle, precision="fp32")
                cpu = there, tiles_per_s(there, stored_tiles(bundle, there), measured_s, clock)
            yield _compared(bundle, runtime, *cpu, measured_s, clock)


def _compared(
    bundle: Bundle,
    runtime: Runtime,
    cpu: Runtime,
    cpu_tiles_per_s: float,
    measured_s: float,
    clock: Callable[[], float],
) -> Trial:
    trial = partial(Trial, bundle.manifest.name, runtime.name, runtime.precision)
    tolerance = bundle.tolerance_of(runtime.precision)
    try:
        golden = prove(bundle, runtime)
        tiles = stored_tiles(bundle, runtime)
        difference = largest_difference(runtime, cpu, tiles)
        if not difference <= tolerance:  # NaN too
            why = f"differs from the CPU by {difference:.2g} on 16-bit tiles, more than {tolerance:.2g}"
            return trial("wrong", why)
        rate = tiles_per_s(runtime, tiles, measured_s, clock)
    except EdgeError as error:
        return trial("wrong", error.message)
    except Exception as error:  # whatever drivers raise while they work
        return trial("wrong", f"{type(error).__name__}: {error}")
    return trial("good", "", golden, difference, tolerance, rate, cpu_tiles_per_s)


def stored_tiles(bundle: Bundle, runtime: Runtime) -> TileArray:
    """A full batch of 16-bit tiles as frames bring them: the golden ones, turned and lit otherwise."""
    golden = bundle.golden()[0]
    count = runtime.batch_of(*golden.shape[2:])
    rng = np.random.default_rng(0)
    tiles = np.stack([np.rot90(golden[i % len(golden)], i // len(golden), (1, 2)) for i in range(count)])
    lit = np.clip(tiles * rng.uniform(0.8, 1.2, (count, 1, 1, 1)), 0, 1)
    return np.rint(lit * 65535).astype(np.uint16)


def largest_difference(runtime: Runtime, cpu: Runtime, tiles: TileArray) -> float:
    """Between the answers of two runtimes to several batches, full and not (grey levels in 0..1)."""
    batches = [tiles[: max(1, len(tiles) - i)] for i in range(COMPARED_BATCHES)]
    most = cpu.batch_of(*tiles.shape[2:])
    worst = 0.0
    for batch, found in zip(batches, runtime.infer(batches), strict=True):
        pieces = [batch[i : i + most] for i in range(0, len(batch), most)]
        expected = np.concatenate(list(cpu.infer(pieces)))
        if found.shape != expected.shape:
            return float("inf")
        worst = float(np.maximum(worst, np.abs(found - expected).max()))  # NaN stays
    return worst


def tiles_per_s(
    runtime: Runtime, tiles: TileArray, measured_s: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Throughput of full batches, from stored tiles in memory to answers in memory."""
    for _ in runtime.infer([tiles] * WARM_UP_BATCHES):
        pass
    began_s = clock()

    def until_over() -> Iterator[TileArray]:
        while True:  # once at least
            yield tiles
            if clock() - began_s >= measured_s:
                return

    count = sum(len(answers) for answers in runtime.infer(until_over()))
    return count / (clock() - began_s)
