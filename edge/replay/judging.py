"""Frames on their way through a candidate, beside stored verdicts or another recipe."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, TextIO

from edge.config import Settings
from edge.decode import Limits
from edge.decode.workers import DecodeWorkers
from edge.errors import DataError, EdgeError, UnavailableError
from edge.inspect import Reading, verdicts
from edge.learn.progress import Event, Listener
from edge.pipeline import Inspection, Inspector, PrepareJob
from edge.record import evidence
from edge.replay.counts import Compared, Said, Shown, Tally
from edge.replay.stored import Held
from edge.stages import DECODE_TRIES, NOT_THE_FILES_FAULT
from edge.types import Frame

CANNOT_BE_READ_NOW = NOT_THE_FILES_FAULT | {"vanished"}
NO_SUCH_PAGE = "its file has no such page any more"
CHANGED_MEANWHILE = "its file changed while it was read"

Page = tuple[Mapping[str, Any], Inspection | None]
"""The payload on a page, and what it was made of; None where there was nothing to judge, or it is stored."""


class Replay:
    """A candidate, what it is held against, and what came of it so far."""

    def __init__(
        self,
        settings: Settings,
        recipe: str,
        candidate: Inspector,
        current: Inspector | None,
        workers: DecodeWorkers[PrepareJob],
        lines: TextIO,
    ) -> None:
        """`current` judges beside the candidate; None: stored verdicts are what it is held against. A line of
        JSON for each frame goes to `lines`."""
        self.settings, self.recipe, self.candidate, self.current = settings, recipe, candidate, current
        self.tally = Tally()
        self._workers, self._lines = workers, lines
        self._limits = Limits(settings.runtime.max_pixels, settings.runtime.max_pages)

    def run(self, items: Iterable[Held], total: int, listen: Listener) -> bool:
        """Judge all files; True if a person ended it (Ctrl-C) with some of them done."""
        try:
            for item, old, new in self._judged(items):
                self._compare(item, old, new)
                done = self.tally.frames + self.tally.gone_because.total()
                text = f"{self.tally.frames} frames, {self.tally.flips_count} flips"
                listen(Event("replay", text, min(1.0, done / max(1, total))))
        except KeyboardInterrupt:
            if self.tally.frames:
                return True
            raise
        return False

    def again(self, item: Held, page: int, inspector: Inspector) -> Inspection | None:
        """One frame once more, by another recipe; None where it is not there any more."""
        for _, pages in self._by_file([item], inspector):
            return pages.get(page, (None, None))[1]
        return None

    def _judged(self, items: Iterable[Held]) -> Iterator[tuple[Held, dict[int, Page], dict[int, Page]]]:
        """Each file with what was said of its pages, and what the candidate says."""
        if self.current is None:
            for item, new in self._by_file(items, self.candidate):
                yield item, {page: (said, None) for page, said in item.was.items()}, new
            return
        listed = list(items)
        both = (self._by_file(listed, inspector) for inspector in (self.current, self.candidate))
        for (item, old), (_, new) in zip(*both, strict=True):
            yield item, old, new

    def _by_file(self, items: Iterable[Held], inspector: Inspector) -> Iterator[tuple[Held, dict[int, Page]]]:
        """What a recipe says of the pages of each file that is there, in order."""
        waiting: deque[tuple[PrepareJob, Held]] = deque()

        def jobs() -> Iterator[PrepareJob]:
            for item in items:
                if item.file is None:
                    self._gone(item, item.was, item.why_gone)
                    continue
                bundle = inspector.bundle
                job = PrepareJob(
                    item.file, item.name, None, bundle.manifest.preprocess, self._limits, item.value_range,
                    bundle.folder, naming=item.naming, named=item.named,
                )  # fmt: skip
                waiting.append((job, item))
                yield job

        pages: dict[int, Page] = {}
        for job, payload, inspection in verdicts(
            jobs(), inspector, station=self.settings.station.name, recipe=self.recipe,
            read=partial(sandboxed, self._workers), is_historical=True,
        ):  # fmt: skip
            if waiting[0][0] is not job:  # not ==: a file may be there twice
                yield waiting.popleft()[1], pages
                pages = {}
            pages[int(payload["image"].get("page", 0))] = payload, inspection
        if waiting:
            yield waiting.popleft()[1], pages

    def _compare(self, item: Held, old: Mapping[int, Page], new: Mapping[int, Page]) -> None:
        # a file that gives no frame fails with all its pages
        failed = next((page for page in new.values() if page[1] is None), None)
        for number, (said, found) in sorted(old.items()):
            now = failed or new.get(number)
            why = _why_gone(item, now)
            if now is None or why:
                self._gone(item, {number: said}, why)
                continue
            one = _compared(item, number, said, now[0], is_stored=self.current is None)
            self.tally.add(one, partial(self._show, one, item, found, now[1]))
            if self.current is None:
                model = said["model"] or {}
                self.tally.models[model.get("sha256", ""), model.get("calibration_sha256", "")] += 1
            line = {"path": item.name, "page": number, "resultId": one.result_id, "review": one.review}
            self._write({**line, "old": one.old.document(), "new": now[0]})

    def _gone(self, item: Held, pages: Mapping[int, Mapping[str, Any]], why: str) -> None:
        for number, said in pages.items():
            result_id = said["resultId"] if self.current is None else None
            self.tally.add_gone(item.name, number, result_id, why)
            line = {"path": item.name, "page": number, "resultId": result_id}
            self._write({**line, "old": Said.of(said).document(), "new": None, "gone": why})

    def _write(self, line: Mapping[str, Any]) -> None:
        print(json.dumps(line, allow_nan=False), file=self._lines)

    def _show(self, one: Compared, item: Held, old: Inspection | None, new: Inspection | None) -> Shown:
        return Shown(one, item, drawn(old, self.current), drawn(new, self.candidate))


def drawn(found: Inspection | None, inspector: Inspector | None) -> str:
    """The picture that the daemon would keep of a frame, as a data: URL; empty where it was not judged."""
    if found is None or inspector is None:
        return ""
    from edge.report import data_url

    classes = inspector.bundle.manifest.classes
    pictures = evidence.pictures(found.frame, found.score, found.judgement, classes)
    return data_url(pictures[evidence.OVERLAY])


def sandboxed(workers: DecodeWorkers[PrepareJob], jobs: Iterable[PrepareJob]) -> Iterator[Reading]:
    """Files in order, decoded in worker processes; a decoder that crashed is asked once more, as the daemon
    does.

    Raises:
        UnavailableError: no worker can be started.
    """
    reading: deque[Reading] = deque()
    for job in jobs:
        reading.append((job, workers.submit(job)))
        if len(reading) > workers.workers:
            yield _settled(workers, *reading.popleft())
    while reading:
        yield _settled(workers, *reading.popleft())


def _settled(workers: DecodeWorkers[PrepareJob], job: PrepareJob, future: Future[list[Frame]]) -> Reading:
    for left in reversed(range(DECODE_TRIES)):
        try:
            error = future.exception()
        except CancelledError:
            raise UnavailableError(
                workers.trouble or "the decode workers ended", hint="see what edge doctor says"
            ) from None
        if not (left and isinstance(error, EdgeError) and error.retryable):
            break
        future = workers.submit(job)
    if error is not None and not isinstance(error, DataError):
        future = Future()
        future.set_exception(DataError(f"{type(error).__name__}: {error}"))
    return job, future


def _why_gone(item: Held, now: Page | None) -> str:
    """Why a frame could not be looked at; empty where it was, whatever came of it."""
    if now is None:
        return NO_SUCH_PAGE
    said, found = now
    if found is None and said["reasons"][0] in CANNOT_BE_READ_NOW:
        return f"its file cannot be read: {said['reasons'][0]}"
    if found is not None and item.sha256 and said["image"]["sha256"] != item.sha256:
        return CHANGED_MEANWHILE
    return ""


def _compared(
    item: Held, page: int, said: Mapping[str, Any], now: Mapping[str, Any], *, is_stored: bool
) -> Compared:
    return Compared(
        path=item.name,
        page=page,
        view=said["view"],
        batch=said["batchId"],
        part=said["partId"],
        result_id=said["resultId"] if is_stored else None,
        old=Said.of(said),
        new=Said.of(now),
        review=item.reviews.get(page),
    )
