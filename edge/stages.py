"""The daemon's stages after intake: decode → inspect → record. Each has a synchronous `step()`; the daemon's
loops only call it. Buffers between them are bounded by pixels, so a backlog costs no memory."""

from __future__ import annotations

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge.buffer import Buffer
from edge.decode import Limits
from edge.engine_loss import EngineWatch
from edge.errors import DataError, EdgeError, IncompleteError
from edge.intake.backlog import Backlog
from edge.intake.naming import Naming, printable
from edge.pipeline import Holes, Inspection, Inspector, PrepareJob
from edge.types import Candidate, Frame, Identity, ImageInfo, Judgement, ModelInfo, Score

MOST_PIXELS_WAITING = 8e6  # in each buffer: 32 MB of float32, or one frame
DECODE_TRIES = 2  # of a file on which the decoder crashed or hung
WAIT_S = 0.2
STREAM_S = 2.0  # frames of one source are judged without a break for so long
PUT_S = 1.0  # between two beats while the next stage has no room

# Faults of this machine or of the mount, or a recipe that waits for a reload: the file is tried again for as
# long as they last
NOT_THE_FILES_FAULT = {
    "permission_denied", "unreadable_now", "read_timeout", "no_shared_memory", "engine_replaced",
}  # fmt: skip
# A frame waits for its checksum file as for a marker, however long its copier takes; the backlog shows it
WAITED_FOR = {"checksum_missing"}
# A source whose files cannot be read in time rests, so that it does not keep workers from other sources
REST_S = (30.0, 300.0)  # at first, at most


Beat = Callable[[], None]
SameContent = Literal["auto", "link", "judge"]  # as the source's same_content
Item = TypeVar("Item")


def no_beat() -> None:
    """For steps by hand."""


@dataclass(frozen=True, slots=True)
class Route:
    """What happens to the frames of one source."""

    source: str
    recipe: str
    naming: Naming
    inspector: Inspector
    limits: Limits
    incomplete_after_s: float
    value_range: tuple[float, float] | None = None
    same_content: SameContent = "auto"
    checksum: str | None = None
    holes: Holes = "auto"


def pixels_of(frame: Frame, score: Score | None = None) -> int:
    """What a frame weighs in a buffer, in float32: its plane, foreground, map and classes."""
    pixels = frame.grey.nbytes // 4 + (frame.foreground.size // 4 if frame.foreground is not None else 0)
    if score is not None:
        pixels += score.map.size + (score.layers.size if score.layers is not None else 0)
    return pixels


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file that was decoded, or will not be: frames or the reason why there are none."""

    candidate: Candidate
    frames: tuple[Frame, ...]
    times_s: Mapping[str, float]
    error: DataError | None = None

    @property
    def pixels(self) -> int:
        return sum(pixels_of(frame) for frame in self.frames)


@dataclass(frozen=True, slots=True)
class FrameResult:
    """A judged frame; `frame` is None where it could not be decoded, `score` where it could not be scored."""

    image: ImageInfo
    identity: Identity
    judgement: Judgement
    frame: Frame | None = None
    score: Score | None = None
    times_s: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""  # for the log: what exactly was wrong
    reconstruction: NDArray[np.uint8] | None = None  # of the plane, where it is evidence


@dataclass(frozen=True, slots=True)
class Judged:
    """A file with a result for each of its pages."""

    candidate: Candidate
    route: Route
    results: tuple[FrameResult, ...]
    model: ModelInfo  # that judged them: the route's inspector may have another engine by the time of record

    @property
    def pixels(self) -> int:
        kept = sum(r.reconstruction.size // 4 for r in self.results if r.reconstruction is not None)
        return kept + sum(pixels_of(r.frame, r.score) for r in self.results if r.frame is not None)


class Returns(Protocol):
    """Where files go that are not ready or gone: back to their source."""

    def postpone(self, candidate: Candidate) -> None: ...

    def forget(self, candidate: Candidate) -> None: ...

    def stalled(self, why: str) -> None:
        """Its files cannot be read in time; empty: they can again."""
        ...


class Journal(Protocol):
    """Which files are under way, see `edge.inflight.InFlight`."""

    def is_condemned(self, candidate: Candidate) -> bool: ...

    def admits(self, candidate: Candidate) -> bool: ...

    def enter(self, candidate: Candidate) -> None: ...

    def leave(self, candidate: Candidate, *, judged: bool = True) -> None: ...


class Workers(Protocol):
    """Where files are decoded."""

    workers: int

    def submit(self, job: PrepareJob) -> Future[list[Frame]]: ...


class StageMeter(Protocol):
    """What the stages report."""

    def rejected(self, source: str, reason: str) -> None: ...


def put_patiently(buffer: Buffer[Item], item: Item, weight: float, beat: Beat) -> None:
    """Put an item, beating while there is no room: a slow next stage is no hang of this one."""
    while not buffer.put(item, max(1.0, weight), timeout_s=PUT_S):
        beat()


@dataclass(slots=True)
class _Rest:
    """A source whose files could not be read in time: after a while one of them is tried."""

    until_s: float
    for_s: float
    trying: bool = False


class DecodeStage:
    """Takes files from the backlog to the workers, and sorts what comes back."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        backlog: Backlog,
        workers: Workers,
        returns: Mapping[str, Returns],
        prepared: Buffer[Prepared],
        *,
        journal: Journal,
        stuck_s: float,
        meter: StageMeter,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal, self._stuck_s = journal, stuck_s
        self._routes, self._backlog, self._workers, self._returns = routes, backlog, workers, returns
        self._prepared, self._meter, self._log, self._clock = prepared, meter, log, clock
        self._finished: queue.SimpleQueue[tuple[Candidate, float, Future[list[Frame]]]] = queue.SimpleQueue()
        self._tries: Counter[tuple[str, str]] = Counter()  # (source, path)
        self._waiting: Candidate | None = None  # taken from the backlog, and not admitted yet
        self._resting: dict[str, _Rest] = {}  # by source
        self.in_flight = 0
        self._progress_s = clock()  # when a file last came back, or none was out

    def is_stuck(self) -> bool:
        """Whether files are out and none has come back for longer than their time limit explains."""
        if not self.in_flight:
            self._progress_s = self._clock()
        return self._clock() - self._progress_s > self._stuck_s

    def step(self, wait_s: float = WAIT_S, beat: Beat = no_beat, *, taking: bool = True) -> bool:
        """Submit what fits, wait a little for one file to finish, pass it on; says whether anything moved.

        With `taking=False` nothing new is submitted: the daemon is draining.
        """
        submitted = taking and self._submit()
        try:
            candidate, queue_s, future = self._finished.get(timeout=wait_s if self.in_flight else 0.02)
        except queue.Empty:
            return submitted
        self.in_flight -= 1
        self._progress_s = self._clock()
        prepared = self._sort(candidate, queue_s, future)
        if prepared is not None:
            put_patiently(self._prepared, prepared, prepared.pixels, beat)
        return True

    def _submit(self) -> bool:
        moved = False
        # one job more than there are workers, so that none waits for this loop
        while self.in_flight <= self._workers.workers and self._prepared.has_room():
            candidate = self._next()
            if candidate is None:
                break
            self._journal.enter(candidate)
            if self._journal.is_condemned(candidate):
                self._condemn(candidate)
            else:
                self._start(candidate)
            moved = True
        return moved

    def _next(self) -> Candidate | None:
        """The next file that may be taken."""
        now_s = self._clock()
        resting = [name for name, rest in self._resting.items() if now_s < rest.until_s or rest.trying]
        candidate = self._waiting or self._backlog.take(resting)
        self._waiting = None
        if candidate is not None and not self._journal.admits(candidate):
            self._waiting, candidate = candidate, None
        if candidate is not None and candidate.source in self._resting:
            self._resting[candidate.source].trying = True
        return candidate

    def _condemn(self, candidate: Candidate) -> None:
        """A file that ended the daemon again and again gets its verdict without being looked at."""
        future: Future[list[Frame]] = Future()
        future.set_exception(
            DataError(
                f"{printable(candidate.path)}: the daemon died each time it inspected this file",
                hint="keep the file and report it",
                reason="inspection_crashed",
            )
        )
        self.in_flight += 1
        self._tries[candidate.source, candidate.path] += 1
        self._finished.put((candidate, self._clock() - candidate.settled_s, future))

    def _start(self, candidate: Candidate) -> None:
        route = self._routes[candidate.source]
        queue_s = self._clock() - candidate.settled_s
        job = PrepareJob(
            file=candidate.file,
            path=printable(candidate.path),
            stamp=candidate.stamp,
            spec=route.inspector.bundle.manifest.preprocess,
            limits=route.limits,
            value_range=route.value_range,
            assets=route.inspector.bundle.folder,
            naming=route.naming,
            named=candidate.path,
            checksum=route.checksum,
            holes=route.holes,
        )
        self.in_flight += 1
        self._tries[candidate.source, candidate.path] += 1
        future = self._workers.submit(job)
        future.add_done_callback(lambda done: self._finished.put((candidate, queue_s, done)))

    def _sort(self, candidate: Candidate, queue_s: float, future: Future[list[Frame]]) -> Prepared | None:
        """What goes on to inspection; None if the file goes back or is tried again."""
        times = {"settle_s": candidate.settled_s - candidate.first_seen_s, "queue_s": queue_s}
        if future.cancelled():  # the workers ended, which is not the file's fault
            if candidate.source in self._resting:  # and says nothing of its source: another file is tried
                self._resting[candidate.source].trying = False
            self._give_back(candidate)
            return None
        error = future.exception()
        self._watch_reading(candidate.source, error)
        if error is not None and self._may_yet_work(candidate, error):
            return None
        del self._tries[candidate.source, candidate.path]
        if error is None:
            return Prepared(candidate, tuple(future.result()), times)
        if not isinstance(error, DataError):
            error = DataError(f"{type(error).__name__}: {error}")
        return Prepared(candidate, (), times, error)

    def _may_yet_work(self, candidate: Candidate, error: BaseException) -> bool:
        """Whether the file was given another chance (or is gone)."""
        if not (isinstance(error, EdgeError) and error.retryable):
            return False
        source = self._returns[candidate.source]
        if error.reason == "vanished":
            self._meter.rejected(candidate.source, error.reason)
            self._log.warning("frame.vanished", source=candidate.source, path=candidate.path)
            del self._tries[candidate.source, candidate.path]
            self._journal.leave(candidate, judged=False)
            source.forget(candidate)
            return True
        not_its_fault = error.reason in NOT_THE_FILES_FAULT
        if not_its_fault:
            self._meter.rejected(candidate.source, error.reason)
            self._log.warning("frame.postponed", source=candidate.source, path=candidate.path, error=error)
        if not_its_fault or isinstance(error, IncompleteError):
            age_s = self._clock() - candidate.unchanged_since_s
            if (
                not_its_fault
                or error.reason in WAITED_FOR
                or age_s < self._routes[candidate.source].incomplete_after_s
            ):
                self._give_back(candidate)
                return True
            return False
        if self._tries[candidate.source, candidate.path] < DECODE_TRIES:
            self._log.warning("frame.retried", source=candidate.source, path=candidate.path, why=str(error))
            self._start(candidate)
            return True
        return False

    def _give_back(self, candidate: Candidate) -> None:
        del self._tries[candidate.source, candidate.path]
        self._journal.leave(candidate, judged=False)
        self._returns[candidate.source].postpone(candidate)

    def _watch_reading(self, source: str, error: BaseException | None) -> None:
        """A mount that hangs costs a worker its whole time limit for each file: its source rests a while."""
        rest, now_s = self._resting.get(source), self._clock()
        if isinstance(error, EdgeError) and error.reason == "read_timeout":
            if rest is not None and not rest.trying:
                return  # it was under way when the rest began
            for_s = REST_S[0] if rest is None else min(REST_S[1], 2 * rest.for_s)
            self._resting[source] = _Rest(now_s + for_s, for_s)
            self._returns[source].stalled(error.message)
            self._log.error("source.stalled", source=source, error=error, next_try_s=for_s)
        elif rest is not None:
            del self._resting[source]
            self._returns[source].stalled("")
            self._log.info("source.reads_again", source=source)


class InspectStage:
    """Names frames and judges them, several at a time; a frame that cannot be judged gets its reason."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        prepared: Buffer[Prepared],
        judged: Buffer[Judged],
        *,
        batch_frames: int,
        watch: EngineWatch,
        keeps: Callable[[Frame, Judgement], bool] = lambda frame, judgement: False,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keeps` says which frames leave pictures behind."""
        self._keeps = keeps
        self._routes, self._prepared, self._judged, self._clock = routes, prepared, judged, clock
        self._batch_frames, self._watch, self._log = batch_frames, watch, log

    def step(self, wait_s: float = WAIT_S, beat: Beat = no_beat) -> bool:
        """Take some prepared files, judge them, pass them on; says whether there were any.

        Raises:
            EngineLostError: no frame can be judged any more; those that were taken have no verdict.
        """
        files = self._prepared.take(self._batch_frames, MOST_PIXELS_WAITING / 2, wait_s)
        for source in dict.fromkeys(file.candidate.source for file in files):
            route = self._routes[source]
            mine = [file for file in files if file.candidate.source == source]
            self._watch.check_now_and_then(route.recipe, route.inspector)
            left = self._stream(route, mine, beat)
            for judged in self._inspect(route, left, beat) if left else ():
                put_patiently(self._judged, judged, judged.pixels, beat)
        return bool(files)

    def _stream(self, route: Route, files: Sequence[Prepared], beat: Beat) -> list[Prepared]:
        """Judge files, and those of the source that come meanwhile, so that the engine never waits for this
        stage; pass each on when it is done. Gives those that are left when anything went wrong."""
        deadline_s = self._clock() + STREAM_S
        left = deque(files)  # taken, and not passed on
        named: deque[tuple[Prepared, list[FrameResult]]] = deque()  # of these: with the results so far

        def frames() -> Iterator[Frame]:
            more = list(files)
            while more:
                for file in more:
                    _, kept, failures = self._name(route, file)
                    named.append((file, failures))
                    yield from kept
                more = []
                if self._clock() < deadline_s:
                    more = self._prepared.take(1, wanted=lambda file: file.candidate.source == route.source)
                    left.extend(more)

        def pass_on_done() -> None:
            while named and len(named[0][1]) >= max(1, len(named[0][0].frames)):
                file, results = named[0]
                judged = Judged(file.candidate, route, tuple(results), route.inspector.model)
                put_patiently(self._judged, judged, judged.pixels, beat)
                named.popleft()
                left.popleft()

        try:
            for inspection in route.inspector.inspect(frames(), beat, self._keeps):
                if "score_not_finite" in inspection.judgement.reasons:
                    break
                pass_on_done()  # files before it that have no frames to judge
                named[0][1].append(self._result(named[0][0], inspection))
                pass_on_done()
            else:
                pass_on_done()
        except Exception as error:  # whatever engines, OpenCV and numpy raise: looked into one by one
            self._log.error("inference.failed", recipe=route.recipe, frames=len(left), error=str(error))
        return list(left)

    def _inspect(self, route: Route, files: Sequence[Prepared], beat: Beat) -> list[Judged]:
        named = [self._name(route, file) for file in files]
        frames = [frame for _, frames, _ in named for frame in frames]
        inspections = iter(self._judge(route, frames, beat))
        judged = []
        for file, kept, failures in named:
            results = [*failures, *(self._result(file, next(inspections)) for _ in kept)]
            judged.append(Judged(file.candidate, route, tuple(results), route.inspector.model))
        return judged

    def _name(self, route: Route, file: Prepared) -> tuple[Prepared, list[Frame], list[FrameResult]]:
        """The file's frames with their identities, and results for those that cannot go on."""
        path = file.candidate.path
        if file.error is not None:
            return (
                file,
                [],
                [_failed(ImageInfo(printable(path), ""), _try_name(route, path), file, file.error)],
            )
        kept, failures = [], []
        for frame in file.frames:
            try:
                identity = route.naming(path, frame.tags, frame.image.page, frame.image.pages)
            except DataError as error:
                failures.append(_failed(frame.image, Identity(), file, error, frame))
            else:
                kept.append(replace(frame, identity=identity))
        return file, kept, failures

    def _judge(
        self, route: Route, frames: Sequence[Frame], beat: Beat
    ) -> list[Inspection | tuple[Frame, EdgeError]]:
        """Judge all together; if that fails, one by one, so that one frame cannot spoil the others.

        Whenever it fails, or a score is no number, the engine is held to its golden pair: if it is the
        engine's fault, the frames are judged again by the one that takes its place.
        """
        failed, found = "", list[Inspection | tuple[Frame, EdgeError]]()
        try:
            inspections = list(route.inspector.inspect(frames, beat, self._keeps))
            found = [*inspections]
            if not any("score_not_finite" in one.judgement.reasons for one in inspections):
                return found
        except Exception as error:  # whatever engines, OpenCV and numpy raise costs the frame, not the daemon
            failed = str(error) or type(error).__name__
            self._log.error("inference.failed", recipe=route.recipe, frames=len(frames), error=failed)
        suspicion = f"inference failed: {failed}" if failed else "a score is no number"
        if self._watch.was_replaced(route.recipe, route.inspector, suspicion):
            return self._judge(route, frames, beat)
        if not failed:
            return found
        if len(frames) == 1:
            return [(frames[0], DataError(suspicion, reason="inference_failed"))]
        return [result for frame in frames for result in self._judge(route, [frame], beat)]

    @staticmethod
    def _result(file: Prepared, outcome: Inspection | tuple[Frame, EdgeError]) -> FrameResult:
        if isinstance(outcome, tuple):
            frame, error = outcome
            return _failed(frame.image, frame.identity, file, error, frame)
        frame = outcome.frame
        times = {**file.times_s, **frame.times_s, "infer_s": outcome.infer_s, "judge_s": outcome.judge_s}
        return FrameResult(
            frame.image, frame.identity, outcome.judgement, frame, outcome.score, times,
            reconstruction=outcome.reconstruction,
        )  # fmt: skip


def _failed(
    image: ImageInfo, identity: Identity, file: Prepared, error: EdgeError, frame: Frame | None = None
) -> FrameResult:
    judgement = Judgement("NotDecidable", (error.reason,))
    return FrameResult(image, identity, judgement, frame, times_s=file.times_s, detail=str(error))


def _try_name(route: Route, path: str) -> Identity:
    """What the path alone says of an unreadable file; nothing where naming needs its tags."""
    try:
        return route.naming(path, {}, 0, 1)
    except DataError:
        return Identity()
