"""`python -m tests.torture.fuzz --minutes M`: damaged files through the daemon's own decode workers.

Every execution damages one file (`mutations.py`), writes it, and has a worker read, decode and preprocess it
as the daemon would. Whatever comes of it must be frames or a recorded reason. A worker may die (that costs
one file); the core may not, nothing may hang, and a PNG whose bytes were changed in place must never come out
as another picture, since its checksums tell. Execution N of a seed is the same everywhere: `--only N`.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge.decode import Limits
from edge.decode.workers import DecodeWorkers
from edge.errors import EdgeError
from edge.pipeline import PrepareJob, prepare_file
from edge.preprocess import PreprocessSpec
from edge.types import Frame
from tests.torture.mutations import Mutated, mutate
from tests.torture.seeds import Seed, all_seeds

LIMITS = Limits(max_pixels=8_000_000, max_pages=16)
TIMEOUT_S = 10.0
MEMORY_BYTES = 3_000_000_000
HANG_S = 6 * TIMEOUT_S  # an answer that takes this long is a hang of the core, not of a decoder
PROGRESS_S = 60.0
KEPT_OF_A_KIND = 20  # files kept for each reason of interest
INTERESTING = ("decoder_crashed", "decoder_timeout", "out_of_memory")
REASONS = frozenset(
    {"truncated", "corrupt", "unreadable", "too_large", "no_pixels", "unsupported_format", "not_finite",
     "unsupported_transfer_syntax", "pixels_not_finite", "range_unusable", "empty", "read_timeout",
     "no_shared_memory", *INTERESTING}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Execution:
    """One damaged file."""

    number: int
    seed: Seed
    mutated: Mutated


@dataclass(slots=True)
class Tally:
    """What became of the executions."""

    outcomes: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    broken: list[str] = field(default_factory=list)  # invariants that did not hold
    restarts: int = 0
    elapsed_s: float = 0.0

    @property
    def executions(self) -> int:
        return self.outcomes.total()


class Fuzzer:
    """Damages seeds, has workers decode them, and holds what comes back against the promises."""

    def __init__(self, seeds: Sequence[Seed], seed: int, workers: int, keep: Path) -> None:
        self._seed, self._keep = seed, keep
        by_kind: dict[str, list[Seed]] = {}
        self._whole = functools.cache(self._decode_whole)
        for one in seeds:
            by_kind.setdefault(one.name.partition("-")[0], []).append(one)
        self._kinds = sorted(by_kind.items())
        self._folder = tempfile.TemporaryDirectory(prefix="edge-fuzz-", dir=_memory())
        self._most_out = 4 * workers
        self._workers: DecodeWorkers[PrepareJob] = DecodeWorkers(
            prepare_file, workers=workers, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES
        )
        self.tally = Tally()

    def close(self) -> None:
        self._workers.close()
        self._folder.cleanup()

    def execution(self, number: int) -> Execution:
        """The same for the same seed and number. Formats take equal shares, whatever variants each has."""
        rng = random.Random(f"{self._seed}:{number}")
        _, seeds = rng.choice(self._kinds)
        seed = rng.choice(seeds)
        _, others = rng.choice(self._kinds)
        return Execution(number, seed, mutate(seed.data, rng.choice(others).data, rng))

    def run(self, numbers: Iterator[int], until_s: float) -> None:
        """Until there are no more numbers, or the monotonic clock says `until_s`."""
        began_s = shown_s = time.monotonic()
        out: collections.deque[tuple[Execution, Path, Future[list[Frame]]]] = collections.deque()
        for number in numbers:
            if time.monotonic() >= until_s:
                break
            execution = self.execution(number)
            out.append((execution, *self._submit(execution)))
            if len(out) >= self._most_out:
                self._take(*out.popleft())
            if time.monotonic() - shown_s > PROGRESS_S:
                shown_s = time.monotonic()
                print(f"{shown_s - began_s:.0f} s: {self.tally.executions} executions, "
                      f"{self.tally.restarts} workers replaced, {len(self.tally.broken)} promises broken",
                      flush=True)  # fmt: skip
        while out:
            self._take(*out.popleft())
        self.tally.elapsed_s += time.monotonic() - began_s

    def _submit(self, execution: Execution) -> tuple[Path, Future[list[Frame]]]:
        folder = Path(self._folder.name) / str(execution.number)
        folder.mkdir()
        file = folder / execution.seed.file_name
        file.write_bytes(execution.mutated.data)
        return file, self._workers.submit(_job(file))

    def _take(self, execution: Execution, file: Path, future: Future[list[Frame]]) -> None:
        kind = execution.seed.name.partition("-")[0]
        try:
            error = None if future.cancelled() else future.exception(HANG_S)
        except FutureTimeout:
            self._break(execution, "no answer: the core hangs")
            return
        if future.cancelled():  # the pool ended, which says nothing of this file: the daemon postpones it too
            outcome = "pool_ended"
        elif error is None:
            outcome = self._decoded(execution, future.result())
        elif isinstance(error, EdgeError):
            outcome = error.reason
            if outcome not in REASONS:
                self._break(execution, f"a reason nobody knows: {error!r}")
        else:
            outcome = "no_edge_error"
            self._break(execution, f"not an EdgeError: {error!r}")
        self.tally.outcomes[kind, outcome] += 1
        self.tally.restarts += self._workers.take_restarts()
        if outcome in INTERESTING and self.tally.outcomes[kind, outcome] <= KEPT_OF_A_KIND:
            self._save(execution, outcome, str(error))
        file.unlink()
        file.parent.rmdir()

    def _decoded(self, execution: Execution, frames: list[Frame]) -> str:
        """Whether a damaged file that still decodes shows what it did before."""
        for frame in frames:
            plane = frame.plane
            if not (plane.size and np.isfinite(plane).all() and plane.min() >= 0 and plane.max() <= 1):
                self._break(execution, "a plane with values outside 0..1")
        if sum(frame.plane.size for frame in frames) > LIMITS.max_pixels or len(frames) > LIMITS.max_pages:
            self._break(execution, "more pixels than allowed")
        whole = self._whole(execution.seed)
        if len(whole) == len(frames) and all(map(np.array_equal, whole, (f.plane for f in frames))):
            return "ok_same_picture"
        if execution.seed.name.startswith("png") and execution.mutated.in_place:
            self._break(execution, "a PNG changed in place came out as another picture")
        return "ok_other_picture"

    def _decode_whole(self, seed: Seed) -> list[np.ndarray]:
        file = Path(self._folder.name) / seed.file_name
        file.write_bytes(seed.data)
        return [frame.plane for frame in prepare_file(_job(file))]

    def _break(self, execution: Execution, what: str) -> None:
        self.tally.broken.append(f"execution {execution.number}: {what}")
        print(f"BROKEN {self.tally.broken[-1]}", flush=True)
        self._save(execution, "broken", what)

    def _save(self, execution: Execution, outcome: str, detail: str) -> None:
        self._keep.mkdir(parents=True, exist_ok=True)
        name = f"{outcome}-{execution.seed.name.replace('/', '_')}-{self._seed}-{execution.number}"
        (self._keep / f"{name}.bin").write_bytes(execution.mutated.data)
        about = {
            "seed": self._seed,
            "execution": execution.number,
            "file": execution.seed.name,
            "mutations": execution.mutated.how,
            "outcome": outcome,
            "detail": detail,
        }
        (self._keep / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")


def table(tally: Tally) -> list[str]:
    """Markdown: a row an outcome, a column a format."""
    kinds = sorted({kind for kind, _ in tally.outcomes})
    outcomes = sorted({outcome for _, outcome in tally.outcomes}, key=lambda o: (not o.startswith("ok"), o))
    lines = [f"| outcome | {' | '.join(kinds)} | all |", f"|:--|{'--:|' * (len(kinds) + 1)}"]
    for outcome in outcomes:
        counts = [tally.outcomes[kind, outcome] for kind in kinds]
        lines.append(f"| `{outcome}` | {' | '.join(map(str, counts))} | {sum(counts)} |")
    sums = [sum(n for (k, _), n in tally.outcomes.items() if k == kind) for kind in kinds]
    return [*lines, f"| all | {' | '.join(map(str, sums))} | {tally.executions} |"]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", type=int, help="run this one execution")
    parser.add_argument(
        "--keep", type=Path, default=Path("var/fuzz"), help="where files of interest are kept"
    )
    asked = parser.parse_args(arguments)
    fuzzer = Fuzzer(all_seeds(), asked.seed, asked.workers, asked.keep)
    try:
        numbers = iter(range(10**12)) if asked.only is None else iter([asked.only])
        fuzzer.run(numbers, time.monotonic() + 60 * asked.minutes)
    finally:
        fuzzer.close()
    tally = fuzzer.tally
    print(*table(tally), sep="\n")
    print(
        f"\n{tally.executions} executions in {tally.elapsed_s / 60:.1f} minutes by {asked.workers} workers, "
        f"seed {asked.seed}: {tally.restarts} workers replaced, {len(tally.broken)} promises broken"
    )
    print(*tally.broken, sep="\n")
    return 1 if tally.broken else 0


def _job(file: Path) -> PrepareJob:
    return PrepareJob(file, file.name, None, PreprocessSpec(), LIMITS)


def _memory() -> Path | None:
    """Files of an execution live shorter than a disk needs to write them."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
