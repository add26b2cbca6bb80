"""The last stage: results become verdicts, verdicts become rows, in one transaction, and
parts are closed. Nothing is published from here: that is the outbox's business."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ulid import ULID

from edge.buffer import Buffer
from edge.drift_watch import DriftWatch
from edge.errors import CannotWriteError
from edge.judge import spc
from edge.judge.judgement import IN_REVIEW_BAND
from edge.judge.parts import ViewResult, is_complete, judge_part, starts_new_round, worse
from edge.publish.payload import encode, frame_payload, part_payload
from edge.record import evidence
from edge.record.batches import ChartRow
from edge.record.keeping import Wanted
from edge.record.store import PartKey, PartRow, Store
from edge.stages import Beat, FrameResult, Judged, SameContent, no_beat
from edge.types import Candidate, Frame, Identity, Judgement, ModelInfo, Verdict
from edge.wallclock import WallClock

SAME_CONTENT = "same_content"
MOST_FILES = 16  # in one transaction: the first verdict waits for the evidence of all of them
EXPIRE_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class PartRule:
    """How the frames of a recipe make parts."""

    views: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class EvidenceRule:
    """Which frames leave pictures behind, and where."""

    root: Path
    keep_ok_ratio: float
    min_free_bytes: int | None = 0  # None: as `evidence.wanted_free` says

    def keeps(self, frame: Frame, judgement: Judgement) -> bool:
        """Everything that is not OK or for review, and a fixed share of OK frames, chosen by content."""
        return wants_a_look(judgement) or zlib.crc32(frame.image.sha256.encode()) / 2**32 < self.keep_ok_ratio


def wants_a_look(judgement: Judgement) -> bool:
    """Whether a frame is not OK, or for review."""
    return judgement.evaluation != "OK" or IN_REVIEW_BAND in judgement.reasons


@dataclass(frozen=True, slots=True)
class Draft:
    """A file whose verdicts are made but not yet written; none where its content already has them."""

    file: Judged
    verdicts: tuple[tuple[FrameResult, Verdict], ...]
    linked_to: str = ""  # resultId of the same content under another name, which stands for this one as well


class RecordMeter(Protocol):
    """What the record stage reports."""

    def recorded(self, source: str, verdict: Verdict, times_s: Mapping[str, float]) -> None: ...

    def part_recorded(self, verdict: Verdict) -> None: ...

    def rejected(self, source: str, reason: str) -> None: ...

    def evidence_skipped_for(self, reason: str) -> None: ...


class RecordStage:
    """Takes judged files and writes what must never be lost."""

    def __init__(
        self,
        judged: Buffer[Judged],
        store: Store,
        *,
        station: str,
        parts: Mapping[str, PartRule],
        evidence_rule: EvidenceRule,
        meter: RecordMeter,
        drift: DriftWatch,
        wake_delivery: Callable[[], None],
        done: Callable[[Candidate], None],
        announce: Callable[[Verdict], None] = lambda verdict: None,
        keep_frame: Callable[[Wanted], None] | None = None,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
        wall: WallClock | None = None,
    ) -> None:
        """`wall` has watched the clock since the parts' clocks were last right; `announce` is told of every
        verdict that is written, and never waits."""
        self._judged, self._store, self._station = judged, store, station
        self._parts, self._evidence, self._meter = parts, evidence_rule, meter
        self._wake_delivery, self._done, self._log = wake_delivery, done, log
        self._announce, self._keep_frame = announce, keep_frame
        self._clock, self._unix_clock = clock, unix_clock
        self._taken: list[Judged] = []  # not yet drafted: the disk did not answer
        self._held: list[Draft] = []  # made, but not yet written: the disk refused
        self._expire_at_s = float("-inf")
        self.drift = drift
        self._wall = wall or WallClock(clock, unix_clock)
        self._charts: dict[tuple[str, str, str], ChartRow | None] = {}  # by recipe, view and calibration

    def step(self, wait_s: float = 0.2, beat: Beat = no_beat) -> bool:
        """Write what was judged, and close parts that have waited long enough; says whether it wrote.

        Raises:
            CannotWriteError, UnavailableError: the database refused; a later step writes what is held.
        """
        if not self._held:
            if not self._taken:
                self._taken = self._judged.take(MOST_FILES, timeout_s=wait_s)
            self._held = self._draft(self._taken, beat)
            self._taken = []
        self._watch_clock()
        wrote = bool(self._held)
        if wrote:
            self._write(self._held, beat)
            self._held = []
        if self._clock() >= self._expire_at_s:
            wrote |= self._expire()
            self._expire_at_s = self._clock() + EXPIRE_EVERY_S
        if wrote:
            self._wake_delivery()
        return wrote

    @property
    def holding(self) -> int:
        """Files taken from the buffer and not yet written."""
        return len(self._held) + len(self._taken)

    def _draft(self, files: Sequence[Judged], beat: Beat) -> list[Draft]:
        """Verdicts and evidence, before the transaction: encoding pictures must not hold the database."""
        drafts: list[Draft] = []
        latest: dict[tuple[str, str], str] = {}  # content of a name, by the drafts so far
        for file in files:
            beat()
            source, path, sha256 = file.candidate.source, file.candidate.path, file.results[0].image.sha256
            if sha256 and (source, path) in latest:
                known = latest[source, path] == sha256
            else:
                known = self._store.has_verdict(source, path, sha256)
            latest[source, path] = sha256
            # touched but not changed: the verdict it has stands
            linked_to = "" if known else self._linked_to(file, drafts)
            results = () if known or linked_to else file.results
            verdicts = tuple((result, self._verdict(file, result)) for result in results)
            drafts.append(Draft(file, verdicts, linked_to))
        return drafts

    def _linked_to(self, file: Judged, drafts: Sequence[Draft]) -> str:
        """The resultId of a verdict on the same content under another name that stands for this file as well.

        By the source's rule: usually only where both names say the same part, batch and view.
        """
        recipe, rule, sha256 = file.route.recipe, file.route.same_content, file.results[0].image.sha256
        source, path = file.candidate.source, file.candidate.path
        if rule == "judge" or not sha256 or self._store.is_known(source, path):
            return ""  # new content under a known name is a new frame, whatever it was before
        drafted = [
            verdict.payload
            for draft in drafts
            if (draft.file.candidate.source, draft.file.route.recipe) == (source, recipe)
            for _, verdict in draft.verdicts
            if verdict.payload["image"]["sha256"] == sha256 and draft.file.candidate.path != path
        ]
        found = []
        for result in file.results:
            who = None if rule == "link" else result.identity
            stored = self._store.verdicts_on(source, recipe, sha256, who)
            stands = partial(_stands_for, result=result, rule=rule, model=file.route.inspector.model)
            found.append(next((p["resultId"] for p in (*drafted, *stored) if stands(p)), ""))
        return found[0] if all(found) else ""

    def _write(self, drafts: Sequence[Draft], beat: Beat) -> None:
        began = self._clock()
        parts: list[Verdict] = []
        written: list[Draft] = []
        with self._store.transaction():
            beat()  # raises in a line that was given up on, whose frames its successor judges
            for draft in drafts:
                candidate, sha256 = draft.file.candidate, draft.file.results[0].image.sha256
                known = self._store.has_verdict(candidate.source, candidate.path, sha256)
                self._store.add_file(candidate, sha256, self._unix_clock())
                if known:
                    continue
                written.append(draft)
                for result, verdict in draft.verdicts:
                    self._store.add_verdict(verdict, encode(verdict.payload), candidate.source)
                    self._add_to_batch(draft.file, result, verdict)
                    if part := self._add_to_part(draft.file.route.recipe, verdict):
                        parts.append(part)
        record_s = (self._clock() - began) / len(drafts)
        for draft in drafts:
            self._done(draft.file.candidate)
        for draft in written:
            if draft.linked_to:
                self._report_link(draft)
            for result, verdict in draft.verdicts:
                self._report(draft.file, result, verdict, record_s)
                self._order_copy(draft.file, result, verdict)
        self._report_parts(parts)

    def _verdict(self, file: Judged, result: FrameResult) -> Verdict:
        created = self._unix_clock()
        result_id = str(ULID.from_timestamp(created))
        total_s = self._clock() - file.candidate.settled_s
        model = file.model
        payload = frame_payload(
            result_id=result_id,
            created_unix_s=created,
            station=self._station,
            recipe=file.route.recipe,
            identity=result.identity,
            image=result.image,
            judgement=result.judgement,
            score=result.score,
            model=model,
            times_s={**result.times_s, "total_s": total_s},
            evidence=self._save_evidence(file, result, result_id, created),
        )
        return Verdict(
            result_id,
            "frame",
            file.route.recipe,
            result.judgement.evaluation,
            result.identity,
            created,
            payload,
        )

    def _save_evidence(self, file: Judged, result: FrameResult, result_id: str, created: float) -> str | None:
        """Pictures of the frames that the rule keeps."""
        if result.frame is None or not self._evidence.keeps(result.frame, result.judgement):
            return None
        try:
            classes = file.route.inspector.bundle.manifest.classes
            pictures = evidence.pictures(result.frame, result.score, result.judgement, classes)
            pictures |= evidence.layers(result.frame, result.reconstruction)
            tables = {evidence.GEOMETRY: evidence.geometry(result.frame, pictures)}
            if result.score is not None and result.score.fragments is not None:
                tables[evidence.FRAGMENTS] = evidence.fragments_csv(result.score)
            rule = self._evidence
            return evidence.save(
                rule.root, result_id, created, pictures, tables, min_free_bytes=rule.min_free_bytes
            )
        except Exception as error:  # no picture is worth a verdict
            reason = error.reason if isinstance(error, CannotWriteError) else "failed"
            self._meter.evidence_skipped_for(reason)
            self._log.error("evidence.skipped", result_id=result_id, error=error)
            return None

    def _add_to_batch(self, file: Judged, result: FrameResult, verdict: Verdict) -> None:
        """Count a decided frame in the quality of its batch and view; in the transaction of its verdict.

        A frame that was not decidable, or is judged again from the archive, says nothing of the process.
        """
        if result.score is None or verdict.evaluation == "NotDecidable" or verdict.payload["isHistorical"]:
            return
        chart = self._chart(file, verdict.identity.view)
        if chart is not None:
            batch, day = spc.batch_key(verdict.identity.batch, verdict.created_unix_s)
            score = result.score.raw / chart.mean
            self._store.add_to_batch(chart, batch, day, score, verdict.created_unix_s)

    def _chart(self, file: Judged, view: str | None) -> ChartRow | None:
        """What a view's scores are held against; None without calibration scores of its own."""
        calibration = file.route.inspector.calibration
        limits = calibration.of(view) if calibration else None
        if calibration is None or limits is None:
            return None
        key = file.route.recipe, view or "", calibration.digest
        if key not in self._charts:
            found = spc.reference(limits.scores)
            row = None if found is None else ChartRow(*key, found.mean, found.sigma, found.frames)
            self._charts[key] = row
        return self._charts[key]

    def _add_to_part(self, recipe: str, verdict: Verdict) -> Verdict | None:
        """Enter a frame into its part; the part's verdict if that completed it."""
        rule, who = self._parts.get(recipe), verdict.identity
        if rule is None or not rule.views or who.part is None or who.view is None:
            return None
        key = PartKey(recipe, who.batch or "", who.part)
        row = self._store.part(key)
        results = self._views(key)
        if row is not None and starts_new_round(row.closed, row.is_partial, who.view, results):
            self._store.clear_part_views(key)
            results = {}
        score = verdict.payload["score"]
        result = ViewResult(who.view, verdict.result_id, verdict.evaluation, score)
        if who.view in results:
            result = worse(results[who.view], result)
        results[who.view] = result
        self._store.save_part_view(key, *astuple(result))
        complete = is_complete(rule.views, results)
        self._store.save_part(PartRow(key, verdict.created_unix_s, complete, False))
        return self._close_part(key, rule, results) if complete else None

    def _watch_clock(self) -> None:
        """When the wall clock is set, parts that wait go with it: they have waited no longer for that."""
        if jump_s := self._wall.jump_s():
            self._store.shift_part_clocks(jump_s)
            self._wall.taken(jump_s)
            self._log.warning("clock.jumped", seconds=round(jump_s, 1))

    def _expire(self) -> bool:
        """Close the parts whose missing views did not come in time."""
        overdue = [
            (row, rule)
            for recipe, rule in self._parts.items()
            if rule.views
            for row in self._store.open_parts(recipe, self._unix_clock() - rule.timeout_s)
        ]
        if not overdue:
            return False
        closed = []
        with self._store.transaction():
            for row, rule in overdue:
                self._store.save_part(PartRow(row.key, row.updated_unix_s, True, True))
                closed.append(self._close_part(row.key, rule, self._views(row.key)))
        self._report_parts(closed)
        return True

    def _close_part(self, key: PartKey, rule: PartRule, results: Mapping[str, ViewResult]) -> Verdict:
        created = self._unix_clock()
        result_id = str(ULID.from_timestamp(created))
        judgement = judge_part(rule.views, results)
        identity = Identity(part=key.part, batch=key.batch or None)
        payload = part_payload(
            result_id=result_id,
            created_unix_s=created,
            station=self._station,
            recipe=key.recipe,
            identity=identity,
            evaluation=judgement.evaluation,
            reasons=judgement.reasons,
            views=[results[view] for view in sorted(results)],
            missing_views=judgement.missing,
            is_partial=judgement.is_partial,
        )
        verdict = Verdict(result_id, "part", key.recipe, judgement.evaluation, identity, created, payload)
        self._store.add_verdict(verdict, encode(payload))
        return verdict

    def _views(self, key: PartKey) -> dict[str, ViewResult]:
        return {row[0]: ViewResult(*row) for row in self._store.part_views(key)}

    def _report_link(self, draft: Draft) -> None:
        candidate = draft.file.candidate
        self._meter.rejected(candidate.source, SAME_CONTENT)
        self._log.info(
            "frame.linked", source=candidate.source, path=candidate.path, result_id=draft.linked_to
        )

    def _order_copy(self, file: Judged, result: FrameResult, verdict: Verdict) -> None:
        """Of the files of frames that are not OK, or for review, where they are kept."""
        said = verdict.payload["evidence"]
        if self._keep_frame is not None and said is not None and wants_a_look(result.judgement):
            folder = self._evidence.root / said
            self._keep_frame(Wanted(folder, file.candidate.file, result.image.sha256))

    def _report_parts(self, parts: Sequence[Verdict]) -> None:
        for verdict in parts:
            self._meter.part_recorded(verdict)
            self._announce(verdict)

    def _report(self, file: Judged, result: FrameResult, verdict: Verdict, record_s: float) -> None:
        total_s = self._clock() - file.candidate.settled_s
        times = {**verdict.payload["processingTimes"], "record_s": record_s, "total_s": total_s}
        self._meter.recorded(file.candidate.source, verdict, times)
        self.drift.recorded(verdict, file.route.inspector.calibration, result.score)
        self._announce(verdict)
        said = {"source": file.candidate.source, "path": file.candidate.path, "result_id": verdict.result_id}
        if result.score is None:
            (reason,) = result.judgement.reasons
            self._meter.rejected(file.candidate.source, reason)
            self._log.warning("frame.rejected", **said, reason=reason, why=result.detail)
        else:
            log = self._log.info if verdict.evaluation == "OK" else self._log.warning
            who = verdict.identity
            log(
                "frame.judged", **said, part=who.part, view=who.view, evaluation=verdict.evaluation,
                score=verdict.payload["score"], reasons=verdict.payload["reasons"],
            )  # fmt: skip


def _stands_for(payload: Mapping[str, Any], result: FrameResult, rule: SameContent, model: ModelInfo) -> bool:
    """Whether a stored verdict on the same bytes is one on this result as well."""
    judged_by = payload.get("model") or {}
    same_model = (judged_by.get("sha256"), judged_by.get("calibration_sha256")) == (
        model.sha256,
        model.calibration_sha256,
    )
    same_page = payload["image"].get("page", 0) == result.image.page
    if not (same_model and same_page and payload["resultType"] == "frame"):
        return False
    who = result.identity
    said = payload["partId"], payload["batchId"], payload["view"]
    return rule == "link" or (who.part is not None and said == (who.part, who.batch, who.view))
