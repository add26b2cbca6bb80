"""Decode workers with tasks that misbehave as decoders do."""

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge.decode import workers as workers_module
from edge.decode.workers import DecodeWorkers
from edge.errors import DataError, IncompleteError
from edge.types import Frame, ImageInfo
from tests.brokers import until

TIMEOUT_S = 2.0


class UnpicklableError(Exception):
    """Survives no way between processes."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def task(job: str, has_read: Callable[[], None]) -> list[Frame]:
    if job == "hanging mount":
        time.sleep(60)
    has_read()
    if job == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)  # not allowed to signal itself: see below
        raise AssertionError("a worker may signal nobody")
    if job == "half a message":
        os.write(max_fd_of_socket(), b"\0\0")
        time.sleep(60)
    if job == "no planes":
        connection_of_worker().send_bytes(b"F[]")
        time.sleep(60)
    if job == "out of memory":
        raise DataError("no memory", reason="out_of_memory")
    if job == "opencv out of memory":
        raise RuntimeError("(-4:Insufficient memory) Failed to allocate")
    if job == "abort":
        os.abort()
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
    if job.startswith("escape:"):
        return [Frame(ImageInfo(escape(job.removeprefix("escape:")), ""), np.zeros((1, 1), np.float32))]
    planes = [np.full((3, 5), 0.25, np.float32), np.arange(12, dtype=np.float32).reshape(4, 3)]
    mask = np.eye(3, 5, dtype=np.bool_)
    first = Frame(ImageInfo(job, "s", 5, 3, 8), planes[0], tags={"Name": "\udcff"}, foreground=mask)
    return [first, Frame(ImageInfo(job, "s", 3, 4, 8, 1), planes[1], to_frame=np.diag([1.0, 2.0, 1.0]))]


def max_fd_of_socket() -> int:
    """The worker's end of its connection to the core."""
    import stat

    return max(fd for fd in range(3, 64) if _is_socket(fd, stat.S_ISSOCK))


def _is_socket(fd: int, test: Callable[[int], bool]) -> bool:
    try:
        return test(os.fstat(fd).st_mode)
    except OSError:
        return False


def connection_of_worker() -> Connection:
    return Connection(os.dup(max_fd_of_socket()))


def escape(how: str) -> str:
    """Try to get out; gives the error that stopped it, or "" if it worked."""
    ways: dict[str, Callable[[], object]] = {
        "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "program": lambda: os.execv("/bin/true", ["true"]),
        "core": lambda: os.kill(os.getppid(), signal.SIGTERM),
        "write": lambda: Path("/dev/shm/edge-escaped").write_text("x"),
        "append": lambda: os.open(__file__, os.O_APPEND | os.O_WRONLY),
        "rename": lambda: os.rename(__file__, __file__ + ".gone"),
        "another process": os.fork,
        "permissions": lambda: os.chmod(__file__, 0o600),
        "times": lambda: os.utime(__file__),
        "limits of the core": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)),
        "a thread's signal": lambda: signal.pthread_kill(threading.main_thread().ident or 0, 0),
        "core dump": lambda: (_ for _ in ()).throw(OSError("none")) if _no_core() else None,
    }
    try:
        ways[how]()
    except OSError as error:
        return f"stopped: {error}"
    return ""


def _no_core() -> bool:
    return resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)


def die() -> None:
    os._exit(3)


def new_pool(timeout_s: float = TIMEOUT_S) -> DecodeWorkers[str]:
    return DecodeWorkers(task, workers=1, timeout_s=timeout_s, memory_bytes=3_000_000_000)


@pytest.fixture(scope="module")
def workers() -> Iterator[DecodeWorkers[str]]:
    pool = new_pool()
    yield pool
    pool.close()


def pid_of(workers: DecodeWorkers[str]) -> int:
    (frame,) = workers.submit("pid").result(30)
    return int(frame.image.path)


def test_planes_come_back_through_shared_memory(workers: DecodeWorkers[str]) -> None:
    first, second = workers.submit("a.tif").result(30)
    np.testing.assert_array_equal(first.plane, np.full((3, 5), 0.25))
    np.testing.assert_array_equal(second.plane, np.arange(12).reshape(4, 3))
    assert first.foreground is not None
    np.testing.assert_array_equal(first.foreground, np.eye(3, 5, dtype=bool))
    assert second.to_frame is not None
    np.testing.assert_array_equal(second.to_frame, np.diag([1.0, 2.0, 1.0]))
    assert (first.image.path, second.image.page) == ("a.tif", 1)
    assert first.tags == {"Name": "\\udcff"}
    with pytest.raises(ValueError, match="read-only"):
        first.plane[0, 0] = 1


@pytest.mark.parametrize(
    ("job", "reason", "retryable"),
    [
        ("abort", "decoder_crashed", True),
        ("hang", "decoder_timeout", True),
        ("hanging mount", "read_timeout", True),
        ("half a message", "decoder_timeout", True),
        ("no planes", "decoder_timeout", True),
        ("greedy", "out_of_memory", True),
        ("out of memory", "out_of_memory", True),
        ("opencv out of memory", "out_of_memory", True),
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
    assert isinstance(error, IncompleteError) == (job == "incomplete")
    assert len(workers.submit("after").result(30)) == 2


@pytest.mark.parametrize(
    "way",
    [
        "network",
        "unix socket",
        "program",
        "core",
        "write",
        "append",
        "rename",
        "core dump",
        "another process",
        "permissions",
        "times",
        "limits of the core",
        "a thread's signal",
    ],
)
def test_a_decoder_that_was_taken_over_gets_nowhere(workers: DecodeWorkers[str], way: str) -> None:
    (frame,) = workers.submit(f"escape:{way}").result(30)
    assert frame.image.path.startswith("stopped: "), way


def test_a_worker_that_is_killed_for_want_of_memory_costs_one_job(workers: DecodeWorkers[str]) -> None:
    pid = pid_of(workers)
    future = workers.submit("hang")
    until(lambda: psutil.Process(pid).status() == "sleeping", "the job has begun")
    time.sleep(0.2)  # the job is with the worker, not on its way
    os.kill(pid, signal.SIGKILL)  # as the kernel's OOM killer does
    error = future.exception(30)
    assert isinstance(error, DataError)
    assert error.reason == "decoder_crashed"
    assert "-9" in str(error)
    assert Path(f"/proc/{pid_of(workers)}/oom_score_adj").read_text().strip() == "800"


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_a_worker_that_is_stopped_is_replaced(
    workers: DecodeWorkers[str], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "TAKEN_S", 0.5)
    pid = pid_of(workers)
    workers.take_restarts()
    if when == "idle":
        os.kill(pid, signal.SIGSTOP)
        future = workers.submit("after")
        assert len(future.result(30)) == 2  # it had not begun: the job goes to the next one
    else:
        future = workers.submit("hang")
        time.sleep(0.2)
        os.kill(pid, signal.SIGSTOP)
        error = future.exception(30)
        assert isinstance(error, DataError)
        assert error.reason == "decoder_timeout"
    assert not psutil.pid_exists(pid)
    assert workers.take_restarts() == 1
    assert pid_of(workers) != pid


def test_a_stopped_maker_of_workers_is_replaced_as_well(
    workers: DecodeWorkers[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "FORK_S", 0.5)
    monkeypatch.setattr(workers_module, "TAKEN_S", 0.5)
    worker = psutil.Process(pid_of(workers))
    for process in (worker, worker.parent()):
        assert process is not None
        process.suspend()
    assert len(workers.submit("after").result(60)) == 2


def test_a_worker_that_dies_while_idle_costs_no_job(workers: DecodeWorkers[str]) -> None:
    os.kill(pid_of(workers), signal.SIGKILL)
    assert len(workers.submit("next").result(30)) == 2


def test_what_a_worker_answers_is_only_data(workers: DecodeWorkers[str]) -> None:
    from edge.decode.reply import NoAnswerError, pack_frames, unpack_fault, unpack_frames

    reply, descriptor = pack_frames([Frame(ImageInfo("x", ""), np.zeros((4, 4), np.float32))])
    try:
        for bad in (
            reply.replace(b'"height":4', b'"height":5', 1),  # would read beyond the planes
            reply.replace(b'"height":4', b'"height":-4', 1),
            reply.replace(b'"height":0', b'"height":"0"', 1),
            reply[:-1],
            b"F[]",
            b'F{"__reduce__": 1}',
        ):
            with pytest.raises(NoAnswerError):
                unpack_frames(bad, descriptor)
        os.ftruncate(descriptor, 10)
        with pytest.raises(NoAnswerError):
            unpack_frames(reply, descriptor)
    finally:
        os.close(descriptor)
    with pytest.raises(NoAnswerError):
        unpack_fault(b'E{"kind":"SystemExit"}')


def test_frames_that_wait_hold_no_descriptors(workers: DecodeWorkers[str]) -> None:
    workers.submit("a").result(30)
    before = psutil.Process().num_fds()
    waiting = [workers.submit("a").result(30) for _ in range(20)]
    assert len(waiting) == 20
    assert psutil.Process().num_fds() <= before


def test_what_holds_the_workers_is_said(workers: DecodeWorkers[str]) -> None:
    pid_of(workers)
    assert workers.confined_by == ("landlock", "seccomp")


def test_a_worker_makes_room_for_a_fresh_one_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "MOST_JOBS", 3)
    pool = new_pool()
    try:
        pids = [pid_of(pool) for _ in range(7)]
        assert len(set(pids)) == 3
        assert pool.take_restarts() == 0  # nothing was wrong
    finally:
        pool.close()


def test_a_job_that_nobody_foresaw_costs_no_thread(workers: DecodeWorkers[str]) -> None:
    future = workers.submit(threading.Lock())  # type: ignore[arg-type]  # cannot be pickled
    until(future.cancelled, "the job comes back")
    assert "decode workers fail" in workers.trouble
    assert len(workers.submit("after").result(30)) == 2
    assert workers.trouble == ""


def test_workers_that_die_as_they_start_are_trouble_and_no_file_is_condemned() -> None:
    pool: DecodeWorkers[str] = DecodeWorkers(
        task, workers=1, timeout_s=TIMEOUT_S, memory_bytes=3_000_000_000, warm_up=die
    )
    try:
        future = pool.submit("a")
        until(future.cancelled, "the job comes back")
        assert "before they are ready (exit code 3)" in pool.trouble
    finally:
        pool.close()


def test_workers_that_cannot_be_started_give_the_job_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = new_pool()
    try:
        monkeypatch.setattr(workers_module, "START_AGAIN_S", 0.0)

        def no_process(*_: object, **__: object) -> None:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        with monkeypatch.context() as broken:
            broken.setattr(pool._context.Process, "start", no_process)
            future = pool.submit("a")
            until(future.cancelled, "the job comes back")
        assert len(pool.submit("a").result(30)) == 2
    finally:
        pool.close()


def test_closing_cancels_what_is_in_flight_instead_of_condemning_it() -> None:
    pool = new_pool(timeout_s=60.0)
    futures = [pool.submit("hang"), pool.submit("waiting")]
    pool.close()
    until(lambda: all(future.cancelled() for future in futures), "the jobs come back")
    assert pool.submit("late").cancelled()


def test_closing_leaves_no_process() -> None:
    pool = new_pool()
    pid = pid_of(pool)
    pool.close()
    until(lambda: not psutil.pid_exists(pid), "the worker is gone")
