"""The loop: repeatable, continued as if never interrupted, and stopped when it should be."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge.errors import DataError, TryAgainError
from edge.learn.datasets import Windows
from edge.learn.fit import PATIENCE, Fit, FitSpec
from edge.learn.models.fragment_cae import FragmentCae, FragmentCaeConfig
from edge.preprocess import TileSpec

TILES = TileSpec(size_px=32, keep_px=32, step_px=16)
SPEC = FitSpec(loss="ssim+l2", learning_rate=2e-3, minutes=1, steps=24, seed=7)
Make = Callable[..., Fit]


class Dropping(nn.Module):
    """A small network with everything that must be repeatable: dropout and normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = FragmentCae(FragmentCaeConfig(channels=(4, 8, 8), latent=2))
        self.drop = nn.Dropout2d(0.2)

    def forward(self, tiles: Tensor) -> Tensor:
        answers: Tensor = self.inner(self.drop(tiles))
        return answers


@pytest.fixture
def make(tmp_path: Path) -> Make:
    rng = np.random.default_rng(0)
    planes = [rng.random((48, 64), dtype=np.float32).astype(np.float16) for _ in range(2)]

    def build(spec: FitSpec = SPEC, key: str = "k", network: nn.Module | None = None) -> Fit:
        torch.manual_seed(spec.seed)
        train = Windows(planes, TILES, 32, 4, "flips", spec.seed)
        held = Windows(planes, TILES, 32, 4, "none", 99)
        return Fit(network or Dropping(), spec, train, held, checkpoint=tmp_path / "c.pt", key=key)

    return build


def weights(fit: Fit) -> list[Tensor]:
    return [tensor.clone() for tensor in fit.network.state_dict().values()]


def interrupted(fit: Fit, after: int, number: signal.Signals = signal.SIGINT) -> Fit:
    """Run until a signal arrives in the middle of step `after`."""
    whole_loss = fit._loss

    def loss(windows: Tensor) -> Tensor:
        if fit.progress.step == after - 1:
            signal.raise_signal(number)
        return whole_loss(windows)

    fit._loss = loss  # type: ignore[method-assign]
    before = signal.getsignal(number)
    with pytest.raises(TryAgainError, match=f"interrupted after {after} steps"):
        fit.run()
    assert signal.getsignal(number) is before
    return fit


def test_same_seed_gives_the_same_weights_bit_for_bit(make: Make) -> None:
    first, second, other = make(), make(), make(replace(SPEC, seed=8))
    for fit in (first, second, other):
        fit.run()
    assert all(map(torch.equal, weights(first), weights(second)))
    assert not all(map(torch.equal, weights(first), weights(other)))


def test_second_signal_aborts_at_once_even_inside_a_step_that_never_returns(tmp_path: Path) -> None:
    script = (
        "import hashlib, sys\n"
        "from edge.learn.fit import _signals_between_steps\n"
        "with _signals_between_steps():\n"
        "    print('in the step', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"  # no Python handler runs in there
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "stopping after this step; Ctrl-C again stops at once\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_continues_to_the_same_weights(make: Make, number: signal.Signals) -> None:
    whole = make()
    whole.run()
    interrupted(make(), 13, number)
    continued = make()
    assert continued.resume()
    assert continued.progress.step == 13
    continued.run()
    assert all(map(torch.equal, weights(whole), weights(continued)))
    assert continued.progress.curve == whole.progress.curve


def test_other_data_or_arguments_start_afresh(make: Make) -> None:
    interrupted(make(), after=3)
    assert not make(key="other").resume()


def test_damaged_or_executable_checkpoint_is_no_checkpoint(make: Make) -> None:
    fit = interrupted(make(), after=3)
    assert fit.checkpoint is not None
    fit.checkpoint.write_bytes(fit.checkpoint.read_bytes()[:-100])
    assert not make().resume()
    torch.save({"key": "k", "network": print}, fit.checkpoint)  # a pickled function
    assert not make().resume()


def test_learning_lowers_the_validation_loss_and_keeps_the_best_weights(make: Make) -> None:
    fit = make(replace(SPEC, steps=60))
    progress = fit.run()
    losses = [point[2] for point in progress.curve]
    assert min(losses) < losses[0]
    assert progress.best_loss == min(losses)
    assert not fit.network.training
    assert all(map(torch.equal, weights(fit), fit.best.values()))


def test_no_improvement_stops_it_early(make: Make) -> None:
    fit = make(replace(SPEC, learning_rate=0.0, steps=400), network=nn.Conv2d(1, 1, 1))
    progress = fit.run()
    assert progress.stopped == f"no improvement in {PATIENCE} validations"
    assert progress.step < 400


def test_time_budget_is_kept(make: Make) -> None:
    fit = make(replace(SPEC, steps=0, minutes=0.5))
    ticks = iter(range(10_000))
    fit.clock = lambda: float(next(ticks))  # a second passes with every look at the clock
    progress = fit.run()
    assert progress.stopped == "budget used"
    assert 20 <= progress.elapsed_s <= 40


class Exploding(nn.Module):
    """Not a number from some call on; with `until`, only for so long."""

    def __init__(self, start: int, until: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.calls, self.start, self.until = 0, start, until

    def forward(self, tiles: Tensor) -> Tensor:
        self.calls += self.training
        broken = self.training and self.start <= self.calls < self.until
        return tiles * self.weight * (float("nan") if broken else 0.9)


def test_loss_that_is_not_finite_goes_back_and_slows_down(make: Make) -> None:
    progress = make(network=Exploding(5, 6)).run()
    assert progress.restarts == 1
    assert np.isfinite(progress.best_loss)


def test_loss_that_stays_not_finite_is_an_error(make: Make) -> None:
    with pytest.raises(DataError, match="not finite") as caught:
        make(network=Exploding(5, 10_000)).run()
    assert caught.value.reason == "learning_diverged"


def test_a_network_completed_after_its_run_is_not_learned_twice(make: Make) -> None:
    """What completes it may give tensors other shapes, which a checkpoint must not hold."""
    first = make()
    first.run()
    learned = weights(first)
    norm = next(m for m in first.network.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_mean = torch.zeros(3, 5)
    first.save()
    again = make()
    assert again.resume()
    again.run()
    assert all(map(torch.equal, learned, weights(again)))


def test_without_patience_it_never_stops_early(make: Make) -> None:
    still = replace(SPEC, learning_rate=0.0, steps=400)
    assert make(replace(still, patience=2)).run().stopped == "no improvement in 2 validations"
    assert make(replace(still, patience=0)).run().stopped == "budget used"
