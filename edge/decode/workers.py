"""Worker processes for untrusted bytes: a time limit, a memory limit, and a crash that costs one frame.

Planes come back through files in shared memory that the core maps and unlinks; only records are pickled.
"""

from __future__ import annotations

import ctypes
import dataclasses
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from pebble import ProcessExpired, ProcessPool

from edge.errors import CannotWriteError, DataError, EdgeError
from edge.types import FloatImage, Frame

Job = TypeVar("Job")
_PR_SET_PDEATHSIG = 1
_SHARED_MEMORY = Path("/dev/shm")
_FOLDER = "edge-frames-"


@dataclasses.dataclass(frozen=True, slots=True)
class _Mapped:
    """Frames whose planes lie one after the other in a file."""

    frames: tuple[Frame, ...]  # without their planes and foregrounds
    shapes: tuple[tuple[int, int], ...]
    masked: tuple[bool, ...]  # whether a foreground lies behind the frame's plane, a byte a pixel
    file: str


class DecodeWorkers(Generic[Job]):
    """Runs `task(job) -> list[Frame]` in worker processes."""

    def __init__(
        self,
        task: Callable[[Job], list[Frame]],
        *,
        workers: int,
        timeout_s: float,
        memory_bytes: int,
        warm_up: Callable[[], None] | None = None,
    ) -> None:
        """`warm_up` is called in each worker before its first job, outside the time limit."""
        self._warm_up = warm_up
        self.workers = workers
        self._task, self._timeout_s, self._memory_bytes = task, timeout_s, memory_bytes
        self._restarts = 0
        self._count = 0
        self._out: set[Future[list[Frame]]] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._folder = _shared_folder()
        self._pool = self._new_pool()

    def submit(self, job: Job) -> Future[list[Frame]]:
        """The future's result is the frames, its exception an `EdgeError`.

        A worker that crashed gives DataError "decoder_crashed" (retryable), one that took too long
        "decoder_timeout". The future is cancelled if the pool itself ended: that says nothing of the file.
        """
        with self._lock:
            self._count += 1
            file = str(self._folder / f"{self._count}")
            outer: Future[list[Frame]] = Future()
            if self._closed:
                outer.cancel()
                return outer
            arguments = (self._task, job, file)
            try:
                inner = self._pool.schedule(_work, args=arguments, timeout=self._timeout_s)
            except RuntimeError:  # a worker that died while idle takes pebble's whole pool with it
                self._end_pool()
                for lost in list(self._out):  # nobody else settles them any more
                    lost.cancel()
                self._out.clear()
                self._restarts += 1
                self._pool = self._new_pool()
                inner = self._pool.schedule(_work, args=arguments, timeout=self._timeout_s)
            self._out.add(outer)
        inner.add_done_callback(lambda done: self._finish(done, outer, file))
        return outer

    def take_restarts(self) -> int:
        """How many workers were replaced since the last call."""
        with self._lock:
            count, self._restarts = self._restarts, 0
            return count

    def close(self) -> None:
        """Stop the workers at once and remove what they left in shared memory."""
        with self._lock:
            self._closed = True
            self._end_pool()
            for outer in list(self._out):  # what we end says nothing of the files
                outer.cancel()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _new_pool(self) -> ProcessPool:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([self._task.__module__])
        return ProcessPool(
            max_workers=self.workers,
            context=context,
            initializer=_start_worker,
            initargs=(self._memory_bytes, self._warm_up),
        )

    def _end_pool(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble types only part of itself
        self._pool.join()

    def _finish(self, inner: Future[_Mapped], outer: Future[list[Frame]], file: str) -> None:
        outcome = self._outcome(inner)
        Path(file).unlink(missing_ok=True)  # what is mapped stays, what a crash left goes
        self._out.discard(outer)
        if self._closed or outer.cancelled():
            return
        if outcome is None:
            outer.cancel()
        elif isinstance(outcome, EdgeError):
            outer.set_exception(outcome)
        else:
            outer.set_result(outcome)

    def _outcome(self, inner: Future[_Mapped]) -> list[Frame] | EdgeError | None:
        """Frames, or what is wrong with the file; None where only the pool failed."""
        try:
            return _map(inner.result())
        except EdgeError as error:
            return error
        except (CancelledError, BrokenExecutor):
            return None
        except FutureTimeout:
            self._restarts += 1
            message = f"decoding took longer than {self._timeout_s:g} s"
            return DataError(message, reason="decoder_timeout", retryable=True)
        except ProcessExpired as error:
            self._restarts += 1
            message = f"the decoder crashed (exit code {error.exitcode})"
            return DataError(message, reason="decoder_crashed", retryable=True)
        except MemoryError:
            message = "decoding needs more memory than a worker may use"
            return DataError(message, hint="raise runtime.decode_memory", reason="out_of_memory")
        except Exception as error:  # whatever a decoder raises costs one frame, never the daemon
            return DataError(f"the decoder failed: {type(error).__name__}: {error}")


def _shared_folder() -> Path:
    """A folder of our own in shared memory, named by our process; what dead processes left is removed."""
    base = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    for old in base.glob(f"{_FOLDER}*"):
        owner = old.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(old, ignore_errors=True)
    try:
        return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=base))
    except OSError as error:
        raise CannotWriteError(
            f"{base}: {error.strerror}", hint="planes need space in shared memory"
        ) from None


def _start_worker(memory_bytes: int, warm_up: Callable[[], None] | None = None) -> None:
    """Limits of a worker; it dies with its parent and leaves Ctrl-C to the core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # pebble's own handler would wait for Python code, which native decoders do not run
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    import cv2

    cv2.setNumThreads(1)  # parallelism is the number of workers
    if warm_up is not None:
        warm_up()


def _work(task: Callable[[Job], list[Frame]], job: Job, file: str) -> _Mapped:
    try:
        frames = task(job)
    except (EdgeError, MemoryError):
        raise
    except Exception as error:  # only our own errors are known to survive pickling
        raise DataError(f"the decoder failed: {type(error).__name__}: {error}") from None
    try:
        with open(file, "wb") as stream:
            for frame in frames:
                stream.write(np.ascontiguousarray(frame.plane, np.float32).data)
                if frame.foreground is not None:
                    stream.write(np.ascontiguousarray(frame.foreground, np.bool_).data)
                    stream.write(bytes(-frame.foreground.size % 4))  # so that the next plane is aligned
    except OSError as error:  # full: a fault of this machine, not of the file
        raise DataError(
            f"{file}: {error.strerror}",
            hint="give /dev/shm more space",
            reason="no_shared_memory",
            retryable=True,
        ) from None
    empty = np.empty((0, 0), np.float32)
    return _Mapped(
        frames=tuple(dataclasses.replace(frame, plane=empty, foreground=None) for frame in frames),
        shapes=tuple((frame.plane.shape[0], frame.plane.shape[1]) for frame in frames),
        masked=tuple(frame.foreground is not None for frame in frames),
        file=file,
    )


def _map(mapped: _Mapped) -> list[Frame]:
    """Frames with their planes mapped from the file, which may then be unlinked."""
    whole = np.memmap(mapped.file, np.uint8, mode="r").view(np.ndarray)
    frames, start = [], 0
    for frame, (height, width), has_mask in zip(mapped.frames, mapped.shapes, mapped.masked, strict=True):
        pixels = height * width
        plane: FloatImage = whole[start : start + 4 * pixels].view(np.float32).reshape(height, width)
        start += 4 * pixels
        foreground = None
        if has_mask:
            foreground = whole[start : start + pixels].view(np.bool_).reshape(height, width)
            start += pixels + -pixels % 4
        frames.append(dataclasses.replace(frame, plane=plane, foreground=foreground))
    return frames
