"""The training loop: a time budget or a number of steps, early stopping, resumption after an interruption.

What a step sees depends on the seed and its number only, so with a fixed number of steps a run that was
interrupted and continued gives the same weights, bit for bit, as one that was not (same machine and threads).
With a time budget the learning rate follows the clock, and only the number of steps can be repeated.
"""

from __future__ import annotations

import io
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from edge.artifacts import write_atomic
from edge.errors import DataError, TryAgainError
from edge.learn.losses import LossName, reconstruction_loss

CHECKPOINT_EVERY_S = 20.0
CHECKS = 40  # validations in a whole run
LEAST_STEPS_BETWEEN = 10  # so that validating stays a small part of a short run
PATIENCE = 12  # validations without improvement before it stops
LEAST_IMPROVEMENT = 0.002  # relative; less is noise
WARM_UP = 0.05  # share of the run in which the learning rate rises
WEIGHT_DECAY = 1e-4
MAX_GRADIENT_NORM = 1.0
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it
RESTARTS = 2  # after a loss that is not finite, each at a third of the learning rate


Batch = Tensor | tuple[Tensor, ...]
"""Inputs alone, which are then their own targets, or inputs and their targets."""

Objective = Callable[[Any, Batch], Tensor]
"""(the network's float32 answers to the inputs: a tensor, or a tuple of them; the batch) → a scalar loss."""


class Batches(Protocol):
    """What a network learns from; which batch a step gets depends on nothing but its number."""

    def at(self, step: int) -> Batch:
        """The step's batch; inputs are (n, 1, h, w) float32 in 0..1."""
        ...


@dataclass(frozen=True, slots=True)
class FitSpec:
    """How to learn. `steps` of 0 means: as many as fit into `minutes`."""

    loss: str
    learning_rate: float
    minutes: float
    steps: int = 0
    seed: int = 0
    bf16: bool = False  # activations in bfloat16: twice as fast where the CPU has the instructions
    validation_batches: int = 2  # of each validation, always the same ones
    device: str = "cpu"  # or cuda
    patience: int = PATIENCE  # validations; 0: it never stops early


@dataclass(slots=True)
class Progress:
    """Where a run stands; everything that a continuation needs besides weights."""

    step: int = 0
    elapsed_s: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    stale_checks: int = 0
    restarts: int = 0
    curve: list[tuple[int, float, float]] = field(
        default_factory=list
    )  # step, training loss, validation loss
    stopped: str = ""  # why the run ended


Report = Callable[[float, Progress], None]  # share done in 0..1, progress


class Fit:
    """One run over a network; `step()` is one update, `run()` only repeats it and keeps the checkpoint."""

    def __init__(
        self,
        network: nn.Module,
        spec: FitSpec,
        train: Batches,
        validation: Batches,
        *,
        objective: Objective | None = None,
        checkpoint: Path | None = None,
        key: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = torch.device(spec.device)
        self.network = network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
        self.spec, self.train, self.validation = spec, train, validation
        self.objective = objective or reconstruction(cast(LossName, spec.loss))
        self.checkpoint, self.key, self.clock = checkpoint, key, clock
        self.progress = Progress()
        self.best: dict[str, Tensor] = _copied(network)
        self.optimizer = _optimizer(network, spec.learning_rate)
        self._recent: list[float] = []  # training losses since the last validation
        self._next_check = 0.0
        self._ahead: tuple[int, Future[Batch]] | None = None  # the next step's batch, made meanwhile
        self._maker: ThreadPoolExecutor | None = None

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one for the same data and arguments.

        Raises nothing: a checkpoint that cannot be read is the same as none.
        """
        if self.checkpoint is None or not self.checkpoint.is_file():
            return False
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            if state["key"] != self.key:
                return False
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = state["best"]
            self.progress = Progress(**state["progress"])
            self._recent, self._next_check = state["recent"], state["next_check"]
        except Exception:  # whatever is wrong with it (cut short, another torch or network): learn afresh
            return False
        return True

    def save(self) -> None:
        """Write the checkpoint: tensors, numbers and strings only, so that nothing in it is ever executed."""
        if self.checkpoint is None:
            return
        progress = {name: getattr(self.progress, name) for name in Progress.__slots__}
        state = {
            "key": self.key,
            # a finished network may have been completed since, and then has tensors of other shapes
            "network": self.best if self.progress.stopped else self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "progress": progress,
            "recent": self._recent,
            "next_check": self._next_check,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.checkpoint, buffer.getvalue())

    def run(self, report: Report = lambda share, progress: None) -> Progress:
        """Learn to the end; the network then has the weights that validated best, and is in eval mode.

        Raises:
            DataError: the loss is not finite however small the learning rate.
            TryAgainError: interrupted (Ctrl-C, SIGTERM) after a whole step; the checkpoint is kept.
        """
        base_s, began, saved = self.progress.elapsed_s, self.clock(), self.clock()
        with _signals_between_steps() as interrupted, ThreadPoolExecutor(1, "batches") as self._maker:
            while not self.progress.stopped:
                self.step()
                now = self.clock()
                self.progress.elapsed_s = base_s + now - began
                if now - saved > CHECKPOINT_EVERY_S or interrupted():
                    self.save()
                    saved = self.clock()
                if interrupted():
                    raise TryAgainError(
                        f"learning was interrupted after {self.progress.step} steps",
                        hint="the same command continues from there; with --fresh it starts again",
                        reason="interrupted",
                    )
                report(self.share, self.progress)
        self._maker = self._ahead = None
        self.network.load_state_dict(self.best)
        self.network.to("cpu").eval()  # where it is exported from
        return self.progress

    @property
    def share(self) -> float:
        """How much of the run is done, 0..1."""
        if self.spec.steps:
            return min(1.0, self.progress.step / self.spec.steps)
        return min(1.0, self.progress.elapsed_s / (60 * self.spec.minutes))

    def step(self) -> None:
        """One update, and a validation whenever one is due."""
        self.network.train()
        rate = self.spec.learning_rate * _rate(self.share) * 3.0**-self.progress.restarts
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(hash((self.spec.seed, self.progress.step)) & 0x7FFFFFFF)  # dropout
        loss = self._loss(self._batch())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own gap
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        value = float(loss.detach())
        if not math.isfinite(value):
            self._restart()
            return
        self.optimizer.step()
        self._recent.append(value)
        self.progress.step += 1
        due = self.share >= self._next_check and len(self._recent) >= LEAST_STEPS_BETWEEN
        if due or self.share >= 1.0:
            self._validate()

    def _batch(self) -> Batch:
        """The step's batch; `run` has the next one made by another thread meanwhile."""
        step, ahead = self.progress.step, self._ahead
        batch = ahead[1].result() if ahead and ahead[0] == step else self.train.at(step)
        if self._maker is not None:
            self._ahead = step + 1, self._maker.submit(self.train.at, step + 1)
        return batch

    def _loss(self, batch: Batch) -> Tensor:
        batch = _moved(batch, self.device)
        inputs = batch if isinstance(batch, Tensor) else batch[0]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.bf16):
            answers = self.network(inputs.contiguous(memory_format=torch.channels_last))
        return self.objective(_float32(answers), batch)

    def _validate(self) -> None:
        self.network.eval()
        with torch.no_grad():
            count = self.spec.validation_batches
            loss = sum(float(self._loss(self.validation.at(k))) for k in range(count)) / count
        progress = self.progress
        progress.curve.append((progress.step, sum(self._recent) / len(self._recent), loss))
        self._recent = []
        self._next_check = self.share + 1 / CHECKS
        if not math.isfinite(loss):
            self._restart()
            return
        progress.stale_checks += 1
        if loss < progress.best_loss * (1 - LEAST_IMPROVEMENT):
            progress.stale_checks = 0
        if loss < progress.best_loss:
            progress.best_loss, progress.best_step = loss, progress.step
            self.best = _copied(self.network)
        if self.share >= 1.0:
            progress.stopped = "budget used"
        elif 0 < self.spec.patience <= progress.stale_checks:
            progress.stopped = f"no improvement in {self.spec.patience} validations"

    def _restart(self) -> None:
        """Back to the best weights with a smaller learning rate."""
        if self.progress.restarts == RESTARTS:
            raise DataError(
                f"the loss is not finite after {self.progress.step} steps, even at "
                f"{self.spec.learning_rate * 3.0**-RESTARTS:.1g} learning rate",
                hint="look at the frames for extreme values, or choose another --loss or --seed",
                reason="learning_diverged",
            )
        self.progress.restarts += 1
        self.progress.step += 1  # other windows than those that diverged
        self.network.load_state_dict(self.best)
        self.optimizer = _optimizer(self.network, self.spec.learning_rate)


def reconstruction(loss: LossName) -> Objective:
    """The objective of autoencoders: inputs are their own targets."""

    def objective(answers: Tensor, batch: Batch) -> Tensor:
        inputs = batch if isinstance(batch, Tensor) else batch[0]
        return reconstruction_loss(loss, inputs, answers)

    return objective


def _moved(batch: Batch, device: torch.device) -> Batch:
    return batch.to(device) if isinstance(batch, Tensor) else tuple(one.to(device) for one in batch)


def _float32(answers: Any) -> Any:
    return answers.float() if isinstance(answers, Tensor) else tuple(answer.float() for answer in answers)


def _rate(share: float) -> float:
    """Learning rate over the run, relative: a linear rise, then half a cosine to nearly nothing."""
    if share < WARM_UP:
        return 0.05 + 0.95 * share / WARM_UP
    return 0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def _optimizer(network: nn.Module, rate: float) -> torch.optim.AdamW:
    """AdamW; biases and normalisation are not decayed."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}], lr=rate
    )


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


@contextmanager
def _signals_between_steps() -> Iterator[Callable[[], bool]]:
    """Whether to stop: a first Ctrl-C or SIGTERM waits for the step to end, so that what is saved is whole.

    A second one ends the process where it is; the last checkpoint and the old recipe stay whole. Outside the
    main thread, where Python allows no handlers, always False.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    stops = (signal.SIGINT, signal.SIGTERM)
    former = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in stops}
    with _second_signal_aborts(stops):
        try:
            yield lambda: bool(asked)
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


@contextmanager
def _second_signal_aborts(stops: Collection[int]) -> Iterator[None]:
    """Python's own handlers wait until torch returns, which may take minutes; this thread does not."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    former = signal.set_wakeup_fd(writer)

    def watch() -> None:
        already = False
        while number := os.read(reader, 1):
            if number[0] not in stops:
                continue
            if already:
                cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
                print(f"{cursor}aborted", file=sys.stderr, flush=True)
                os._exit(128 + number[0])
            already = True
            print("stopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    thread = threading.Thread(target=watch, name="second-signal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        os.close(writer)
        thread.join()
        os.close(reader)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch with so many threads, 0: as it is; the former number comes back."""
    former = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def learning_device() -> str:
    """The GPU that torch can use, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bf16(device: str) -> bool:
    """Whether bfloat16 is computed by instructions there, not emulated."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Whether bfloat16 is computed by instructions, not emulated; torch says so in private names only."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)
