"""Worker processes for untrusted bytes: a time limit, a memory limit, no network, nothing to write to; a
crash costs one frame.

Each worker has a thread of the core that hands it one job at a time and waits for the answer, the end of the
process or the end of its time, whichever comes first. A worker that is late is killed, whatever it does or
however it is stopped, and the next job has a new one.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.forkserver as forkserver
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, Generic, Protocol, TypeVar

from edge.decode.confine import confine, limit
from edge.decode.reply import (
    MOST_REPLY_BYTES,
    NoAnswerError,
    pack_fault,
    pack_frames,
    unpack_fault,
    unpack_frames,
)
from edge.errors import DataError, EdgeError
from edge.types import Frame

Job = TypeVar("Job")
JobIn = TypeVar("JobIn", contravariant=True)

FORK_S = 10.0  # until the process that makes workers has made another one
START_S = 120.0  # imports and warm-up of a worker, on a machine that has other things to do
TAKEN_S = 10.0  # until a worker that is ready says that it has a job
LATE_S = 1.0  # what waits for a whole message is given up this much later than what waits for any
WATCH_S = 0.25
KILLED_S = 1.0  # until a killed process is gone; one that waits for a dead mount may never be
CLOSE_S = 5.0
START_AGAIN_S = 1.0  # after a worker that could not be started
MOST_JOBS = 20_000  # of one worker: what decoders leak goes with it
MOST_LOST = 3  # workers that died under a job without having begun it, before the job is given back

OUT_OF_MEMORY = "out_of_memory"
_READY, _TAKEN, _READ, _MEMORY = b"R", b"T", b"D", b"M"


class Task(Protocol[JobIn]):
    """What a worker does with a job; `has_read` is to be called when all bytes of the file are there."""

    @property
    def __module__(self) -> str: ...  # type: ignore[override]

    def __call__(self, job: JobIn, has_read: Callable[[], None]) -> list[Frame]: ...


class _LostError(Exception):
    """A worker is gone, and that says nothing of the job."""


@dataclass(slots=True, eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    jobs: int = 0
    kill_at_s: float = float("inf")  # when `_watch` ends it
    late: bool = False  # it did
    ended: bool = False


class DecodeWorkers(Generic[Job]):
    """Runs `task(job, has_read) -> list[Frame]` in worker processes."""

    def __init__(
        self,
        task: Task[Job],
        *,
        workers: int,
        timeout_s: float,
        memory_bytes: int,
        warm_up: Callable[[], None] | None = None,
    ) -> None:
        """`timeout_s` is for reading a file, and again for decoding it. `warm_up` is called in each worker
        before its first job, outside the time limit."""
        self.workers = workers
        self.trouble = ""  # why no worker can be started; empty when all is well
        self.confined_by: tuple[str, ...] | None = None  # what holds the workers; None: none has started yet
        self._task, self._timeout_s = task, timeout_s
        self._memory_bytes, self._warm_up = memory_bytes, warm_up
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([task.__module__])
        self._jobs: queue.SimpleQueue[tuple[Job, Future[list[Frame]]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._restarts = 0
        self._closed = False
        self._made_one = False
        self._alive: set[_Worker] = set()
        self._stop = threading.Event()
        threading.Thread(target=self._watch, name="decode-watch", daemon=True).start()
        self._threads = [
            threading.Thread(target=self._serve, name=f"decode-worker-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> Future[list[Frame]]:
        """The future's result is the frames, its exception an `EdgeError`.

        A worker that crashed gives DataError "decoder_crashed" (retryable), one that took too long to decode
        "decoder_timeout", to read "read_timeout". The future is cancelled if the workers ended or cannot be
        started: that says nothing of the file.
        """
        future: Future[list[Frame]] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
            else:
                self._jobs.put((job, future))
        return future

    def take_restarts(self) -> int:
        """How many workers were replaced since the last call."""
        with self._lock:
            count, self._restarts = self._restarts, 0
            return count

    def close(self) -> None:
        """End the workers at once; jobs without an answer are cancelled."""
        with self._lock:
            self._closed = True
            alive = list(self._alive)
        for worker in alive:
            worker.process.kill()
        for _ in self._threads:
            self._jobs.put(None)
        deadline_s = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        self._stop.set()
        with suppress(queue.Empty):
            while True:
                if left := self._jobs.get_nowait():
                    left[1].cancel()

    # in the threads

    def _watch(self) -> None:
        """Kill what is late, even in the middle of a message."""
        while not self._stop.wait(WATCH_S):
            with self._lock:
                alive = list(self._alive)
            for worker in alive:
                if time.monotonic() > worker.kill_at_s:
                    worker.late = True
                    worker.process.kill()

    def _serve(self) -> None:
        worker: _Worker | None = None
        while (item := self._jobs.get()) is not None:
            job, future = item
            outcome: list[Frame] | EdgeError | None = None
            for _ in range(MOST_LOST):
                if self._closed:
                    break
                try:
                    if worker is None or worker.ended or not worker.process.is_alive():
                        self._end(worker)
                        worker = self._started()
                    outcome = self._run(worker, job)
                    break
                except _LostError:
                    self._end(worker)
                except Exception as error:  # no process or memory to be had: a fault of this machine
                    self._end(worker)
                    self.trouble = f"decode workers fail: {type(error).__name__}: {error}"
                    self._stop.wait(START_AGAIN_S)
            _settle(future, None if self._closed else outcome)
            if worker is not None and worker.jobs >= MOST_JOBS:
                self._end(worker, counted=False)
        self._end(worker)

    def _started(self) -> _Worker:
        """A worker that has said that it is ready.

        Raises:
            OSError, _LostError: it cannot be started.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._task, self._memory_bytes, self._warm_up), daemon=True
        )
        worker = _Worker(process, ours)
        # the process that makes workers imports what they need before its first one
        rescue = threading.Timer(FORK_S if self._made_one else START_S, _kill_fork_server)
        rescue.start()
        try:
            process.start()
        except EOFError:  # the maker of workers died, or was killed for being late
            ours.close()
            rescue.cancel()
            rescue.join()
            self._made_one = False
            raise _LostError from None
        except BaseException:
            ours.close()
            raise
        finally:
            rescue.cancel()
            theirs.close()
        with self._lock:
            self._alive.add(worker)
            closed = self._closed
        said = None if closed else self._answer(worker, START_S)
        worker.kill_at_s = float("inf")
        if said is None or not said.startswith(_READY):
            code = worker.process.exitcode
            if not closed:
                late = code is None or worker.late
                how = (
                    f"are not ready after {START_S:g} s"
                    if late
                    else f"end before they are ready (exit code {code})"
                )
                self.trouble = f"decode workers {how}"
            self._end(worker)
            raise _LostError
        self.confined_by = tuple(said[1:].decode().split())
        self.trouble = ""
        self._made_one = True
        return worker

    def _end(self, worker: _Worker | None, *, counted: bool = True) -> None:
        """Kill a worker and forget it, even one that cannot die yet."""
        if worker is None or worker.ended:
            return
        worker.ended = True
        worker.process.kill()
        worker.process.join(KILLED_S)
        worker.connection.close()
        with self._lock:
            self._alive.discard(worker)
            self._restarts += counted and not self._closed

    def _run(self, worker: _Worker, job: Job) -> list[Frame] | EdgeError:
        """What became of a job. After a fault of the worker that worker is ended.

        Raises:
            _LostError: the worker had not begun.
        """
        try:
            worker.connection.send(job)
        except (BrokenPipeError, ConnectionResetError):
            raise _LostError from None
        if self._answer(worker, TAKEN_S) != _TAKEN:
            raise _LostError
        late = DataError(
            f"reading took longer than {self._timeout_s:g} s",
            hint="look at the disk or the network mount", reason="read_timeout", retryable=True,
        )  # fmt: skip
        answer = self._answer(worker, self._timeout_s)
        if answer == _READ:
            message = f"decoding took longer than {self._timeout_s:g} s"
            late = DataError(message, reason="decoder_timeout", retryable=True)
            answer = self._answer(worker, self._timeout_s)
        try:
            return self._understood(worker, answer, late)
        except NoAnswerError as error:
            self._end(worker)
            return late if worker.late else _crashed(f"it answered nonsense: {error}")
        finally:
            worker.kill_at_s = float("inf")
            worker.jobs += 1

    def _understood(self, worker: _Worker, answer: bytes | None, late: DataError) -> list[Frame] | EdgeError:
        if answer is None:
            code = worker.process.exitcode
            self._end(worker)
            return late if code is None or worker.late else _crashed(f"exit code {code}")
        if answer == _MEMORY:
            self._end(worker)  # a new one tries again: it may have been what earlier files left behind
            message = "decoding needs more memory than a worker may use"
            hint = "raise runtime.decode_memory"
            return DataError(message, hint=hint, reason=OUT_OF_MEMORY, retryable=True)
        if answer.startswith(b"E"):
            return unpack_fault(answer)
        if not answer.startswith(b"F"):
            raise NoAnswerError("no kind of answer")
        try:
            descriptor = recv_handle(worker.connection)
        except (OSError, EOFError, RuntimeError, AssertionError) as error:
            raise NoAnswerError("no planes came with it") from error
        try:
            return unpack_frames(answer, descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _answer(worker: _Worker, timeout_s: float) -> bytes | None:
        """The next message; None if the process ended or the time did."""
        deadline_s = time.monotonic() + timeout_s
        worker.kill_at_s = deadline_s + LATE_S  # for a message that does not come to its end
        while (left_s := deadline_s - time.monotonic()) > 0:
            ready: list[Any] = wait([worker.connection, worker.process.sentinel], left_s)
            try:
                if worker.connection in ready:
                    return worker.connection.recv_bytes(MOST_REPLY_BYTES)
            except (EOFError, OSError):
                worker.process.join(KILLED_S)  # so that its exit code is known
                return None
            if ready:  # it ended; what it had said last is read first
                return None
        return None


def _kill_fork_server() -> None:
    """The process that makes workers hangs: without it, whoever waits goes on, and the next start makes a new
    one. multiprocessing has no public way to say so."""
    pid = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if pid is not None:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and left for multiprocessing to notice


def _settle(future: Future[list[Frame]], outcome: list[Frame] | EdgeError | None) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile
        if outcome is None:
            future.cancel()
        elif isinstance(outcome, EdgeError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _crashed(how: str) -> DataError:
    return DataError(f"the decoder crashed ({how})", reason="decoder_crashed", retryable=True)


# in the workers


def _work(
    connection: Connection, task: Task[Any], memory_bytes: int, warm_up: Callable[[], None] | None
) -> None:
    """A worker's life. It ends with the core, whose end of the connection closes, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)  # parallelism is the number of workers
    limit(memory_bytes)
    held = confine()
    if warm_up is not None:
        warm_up()
    gc.collect()
    gc.freeze()  # what is there now stays, so that looking for cycles after each file is quick
    connection.send_bytes(_READY + " ".join(held).encode())
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job = connection.recv()
            connection.send_bytes(_TAKEN)
            _do(connection, task, job)
            gc.collect()  # decoders hold a file's bytes in cycles; left alone, a dozen large ones pile up


def _do(connection: Connection, task: Task[Any], job: Any) -> None:
    try:
        frames = task(job, lambda: connection.send_bytes(_READ))
    except MemoryError:
        connection.send_bytes(_MEMORY)
        return
    except EdgeError as error:
        connection.send_bytes(_MEMORY if error.reason == OUT_OF_MEMORY else pack_fault(error))
        return
    except Exception as error:  # whatever a decoder raises costs one frame, never the daemon
        if "Insufficient memory" in str(error):  # as OpenCV says it
            connection.send_bytes(_MEMORY)
            return
        connection.send_bytes(pack_fault(DataError(f"the decoder failed: {type(error).__name__}: {error}")))
        return
    try:
        reply, descriptor = pack_frames(frames)
    except OSError as error:  # a fault of this machine, not of the file
        what = f"no memory for decoded planes: {error.strerror or error}"
        hint = "give this machine more memory, or lower runtime.max_pixels"
        fault = DataError(what, hint=hint, reason="no_shared_memory", retryable=True)
        connection.send_bytes(pack_fault(fault))
        return
    try:
        connection.send_bytes(reply)
        send_handle(connection, descriptor, None)
    finally:
        os.close(descriptor)
