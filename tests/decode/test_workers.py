"""Decode workers with tasks that misbehave as decoders do."""

import os
import signal
import time
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest

from edge.decode.workers import DecodeWorkers
from edge.errors import DataError, IncompleteError
from edge.types import Frame, ImageInfo
from tests.brokers import until


class UnpicklableError(Exception):
    """Survives no way between processes."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def task(job: str) -> list[Frame]:
    if job == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job == "hang":
        time.sleep(60)
    if job == "greedy":
        return [Frame(ImageInfo("x", ""), np.ones((40_000, 40_000), np.float32))]
    if job == "incomplete":
        raise IncompleteError("half a file", hint="wait")
    if job == "pid":
        return [Frame(ImageInfo(str(os.getpid()), ""), np.zeros((1, 1), np.float32))]
    if job == "unpicklable":
        raise UnpicklableError("a", "b")
    if job == "bug":
        raise KeyError("unforeseen")
    planes = [np.full((3, 5), 0.25, np.float32), np.arange(12, dtype=np.float32).reshape(4, 3)]
    return [Frame(ImageInfo(job, "s", 5, 3, 8, page), plane) for page, plane in enumerate(planes)]


@pytest.fixture(scope="module")
def workers():
    pool: DecodeWorkers[str] = DecodeWorkers(task, workers=1, timeout_s=2.0, memory_bytes=3_000_000_000)
    yield pool
    pool.close()


def test_planes_come_back_through_shared_memory(workers: DecodeWorkers[str]) -> None:
    first, second = workers.submit("a.tif").result(30)
    np.testing.assert_array_equal(first.plane, np.full((3, 5), 0.25))
    np.testing.assert_array_equal(second.plane, np.arange(12).reshape(4, 3))
    assert second.image.page == 1
    assert list(workers._folder.iterdir()) == []  # unlinked while still mapped


@pytest.mark.parametrize(
    ("job", "reason", "retryable"),
    [
        ("crash", "decoder_crashed", True),
        ("hang", "decoder_timeout", True),
        ("greedy", "out_of_memory", False),
        ("incomplete", "truncated", True),
        ("bug", "unreadable", False),
        ("unpicklable", "unreadable", False),
    ],
)
def test_what_goes_wrong_in_a_worker_costs_one_job(
    workers: DecodeWorkers[str], job: str, reason: str, retryable: bool
) -> None:
    error = workers.submit(job).exception(30)
    assert isinstance(error, DataError)
    assert (error.reason, error.retryable) == (reason, retryable)
    assert len(workers.submit("after").result(30)) == 2


def test_closing_leaves_nothing_in_shared_memory() -> None:
    pool: DecodeWorkers[str] = DecodeWorkers(task, workers=1, timeout_s=5.0, memory_bytes=3_000_000_000)
    pool.submit("a").result(30)
    folder: Path = pool._folder
    pool.close()
    assert not folder.exists()


def test_a_worker_that_dies_while_idle_costs_no_job(workers: DecodeWorkers[str]) -> None:
    (frame,) = workers.submit("pid").result(30)
    os.kill(int(frame.image.path), signal.SIGKILL)
    future = workers.submit("next")
    wait([future], 30)
    outcome = None if future.cancelled() else future.exception()
    # lost with the pool (cancelled: given back to its source) or done by the new one; never "unreadable"
    assert outcome is None or outcome.reason == "decoder_crashed"
    until(lambda: _decodes(workers), "the pool is replaced")


def _decodes(workers: DecodeWorkers[str]) -> bool:
    future = workers.submit("after")
    wait([future], 30)
    return not future.cancelled() and future.exception() is None


def test_closing_cancels_what_is_in_flight_instead_of_condemning_it() -> None:
    pool: DecodeWorkers[str] = DecodeWorkers(task, workers=1, timeout_s=60.0, memory_bytes=3_000_000_000)
    futures = [pool.submit("hang"), pool.submit("waiting")]
    pool.close()
    wait(futures, 30)
    assert all(future.cancelled() for future in futures)
    assert pool.submit("late").cancelled()


def test_folders_of_dead_processes_are_swept(tmp_path: Path) -> None:
    base = Path("/dev/shm")
    dead = base / "edge-frames-999999999-left"
    dead.mkdir(exist_ok=True)
    pool: DecodeWorkers[str] = DecodeWorkers(task, workers=1, timeout_s=5.0, memory_bytes=3_000_000_000)
    pool.close()
    assert not dead.exists()
