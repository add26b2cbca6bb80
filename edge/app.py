"""The only place that wires parts together: settings in, a site that is ready to run out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from edge import __version__
from edge.buffer import Buffer
from edge.config import FileSink, Settings, Source, WebhookSink
from edge.decode import Limits
from edge.decode.workers import DecodeWorkers
from edge.drift_watch import DriftWatch
from edge.engine_loss import EngineLoss, EngineWatch
from edge.inflight import InFlight
from edge.intake.backlog import Backlog
from edge.intake.naming import compile_naming
from edge.intake.scan import FolderScan, ScanRule
from edge.intake.source import SourceIntake
from edge.judge.drift import DriftRule
from edge.observe.metrics import Metrics
from edge.pipeline import Inspector, PrepareJob, prepare_file, warm_up
from edge.preprocess import MaskSpec
from edge.publish import Sink
from edge.publish.fields import Selection
from edge.publish.jsonl import FileReceiver
from edge.publish.mqtt import MqttSink
from edge.publish.outbox import Delivery
from edge.publish.sparkplug import BirthCount, SparkplugSink
from edge.publish.threaded import Receiver, ThreadedSink
from edge.publish.webhook import WebhookReceiver, read_secret
from edge.recipes import open_on_cpu
from edge.record.keeping import FrameKeeper
from edge.record.store import Store
from edge.recording import EvidenceRule, PartRule, RecordStage
from edge.stages import MOST_PIXELS_WAITING, DecodeStage, InspectStage, Judged, Prepared, Route
from edge.types import KINDS, Candidate, Sinks, Verdict
from edge.wallclock import WallClock
from edge.web.events import Feed

DATABASE = "edge.sqlite3"
EVIDENCE = "evidence"
REPLAYS = "replays"
IN_FLIGHT = "in-flight"  # folder of notes, see edge.inflight
FAULTS = "fault.log"  # what the interpreter says as it dies of a fault in native code
# Files are out, each with a time limit to be read and one to be decoded, and none came back: the pool hangs
STUCK_AFTER_TIMEOUTS = 2.0
STUCK_SLACK_S = 20.0  # a worker that has to be started, or does not take its job
MQTT, SPARKPLUG = "mqtt", "sparkplug"  # these sinks' names in outbox and metrics
BIRTHS = "sparkplug-bdseq"  # the number of the last connection


@dataclass(slots=True)
class Line:
    """One configuration, wired: what the daemon's loops step through."""

    settings: Settings
    inspectors: Mapping[str, Inspector]
    intakes: list[SourceIntake]
    backlog: Backlog
    workers: DecodeWorkers[PrepareJob]
    prepared: Buffer[Prepared]
    judged: Buffer[Judged]
    decode: DecodeStage
    inspect: InspectStage
    record: RecordStage
    deliveries: list[Delivery]
    feed: Feed
    keeper: FrameKeeper | None  # where the configuration wants frames to be kept

    def wake_deliveries(self) -> None:
        """There are new rows in the outbox."""
        wake_all(self.deliveries)


def masks_of(inspectors: Iterable[Inspector]) -> tuple[tuple[Path, MaskSpec], ...]:
    """The masks of recipes that need files, with the folders these are in."""
    bundles = [inspector.bundle for inspector in inspectors]
    wanted = [(bundle.folder, bundle.manifest.preprocess.mask) for bundle in bundles]
    return tuple((folder, mask) for folder, mask in wanted if mask is not None and mask.needs_files)


def wire(
    settings: Settings,
    inspectors: Mapping[str, Inspector],
    store: Store,
    journal: InFlight,
    wall: WallClock,
    metrics: Metrics,
    *,
    describe: Callable[[], Mapping[str, Any]],
    state: Callable[[], Mapping[str, Any]],
    requests: Callable[[str, bytes], Mapping[str, Any]],
    log: Any,
) -> Line:
    """Put the stages of a site together; nothing runs yet."""
    orders = {source.name: source.order for source in settings.source}
    backlog = Backlog(orders)
    intakes = [_intake(source, store, backlog, metrics, log) for source in settings.source]
    routes = {source.name: _route(settings, source, inspectors[source.recipe]) for source in settings.source}
    runtime = settings.runtime
    workers = DecodeWorkers(
        prepare_file,
        workers=runtime.decode_workers or decode_workers(os.cpu_count() or 1),
        timeout_s=runtime.decode_timeout_s,
        memory_bytes=runtime.decode_memory,
        warm_up=partial(warm_up, masks_of(inspectors.values())),
    )
    prepared: Buffer[Prepared] = Buffer(MOST_PIXELS_WAITING)
    judged: Buffer[Judged] = Buffer(MOST_PIXELS_WAITING)
    deliveries = _deliveries(settings, store, metrics, describe, state, requests, log)
    drift = _drift_watch(settings, inspectors, store, metrics, log)
    feed = Feed()
    evidence_rule = EvidenceRule(
        settings.paths.state / EVIDENCE, settings.evidence.keep_ok_ratio, settings.evidence.min_free_bytes
    )
    keeper = None
    if settings.evidence.keep_frames != "none":
        skipped, root = metrics.evidence_skipped_for, evidence_rule.root
        keeper = FrameKeeper(root, evidence_rule.min_free_bytes, skipped, log)
    returns = {intake.name: intake for intake in intakes}

    def done(candidate: Candidate) -> None:
        journal.leave(candidate)
        returns[candidate.source].done(candidate)

    return Line(
        settings=settings,
        inspectors=inspectors,
        intakes=intakes,
        backlog=backlog,
        workers=workers,
        prepared=prepared,
        judged=judged,
        decode=DecodeStage(
            routes,
            backlog,
            workers,
            returns,
            prepared,
            journal=journal,
            stuck_s=STUCK_AFTER_TIMEOUTS * runtime.decode_timeout_s + STUCK_SLACK_S,
            meter=metrics,
            log=log,
        ),
        inspect=InspectStage(
            routes,
            prepared,
            judged,
            batch_frames=runtime.batch_frames,
            keeps=evidence_rule.keeps,
            watch=EngineWatch(EngineLoss(settings, open_on_cpu=open_on_cpu, meter=metrics, log=log)),
            log=log,
        ),
        record=RecordStage(
            judged,
            store,
            station=settings.station.name,
            parts={
                name: PartRule(recipe.views, recipe.part_timeout_s)
                for name, recipe in settings.recipe.items()
            },
            evidence_rule=evidence_rule,
            meter=metrics,
            drift=drift,
            wake_delivery=partial(wake_all, deliveries),
            done=done,
            announce=partial(announce, feed),
            keep_frame=keeper.add if keeper else None,
            wall=wall,
            log=log,
        ),
        deliveries=deliveries,
        feed=feed,
        keeper=keeper,
    )


def announce(feed: Feed, verdict: Verdict) -> None:
    """Tell the pages that listen of a new verdict."""
    who = verdict.identity
    feed.publish(
        "verdict",
        {
            "resultId": verdict.result_id, "resultType": verdict.result_type,
            "resultEvaluation": verdict.evaluation, "recipeId": verdict.recipe,
            "batchId": who.batch, "partId": who.part, "view": who.view,
        },
    )  # fmt: skip


def sinks(settings: Settings) -> Sinks:
    """Whom verdicts wait for."""
    brokers = ((MQTT, settings.mqtt.enabled), (SPARKPLUG, settings.sparkplug.enabled))
    of_all = {name: KINDS for name, enabled in brokers if enabled}
    return of_all | {sink.name: tuple(sorted(set(sink.kinds))) for sink in settings.sink}


def wake_all(deliveries: Sequence[Delivery]) -> None:
    """There are new rows in the outbox."""
    for delivery in deliveries:
        delivery.wake.set()


def decode_workers(cores: int) -> int:
    """Half the cores, since the engine needs the rest; but two where there are two.

    Inflating a large PNG takes as long as judging it, and what waits for room costs nothing.
    """
    return max(min(2, cores), cores // 2)


def _intake(source: Source, store: Store, backlog: Backlog, metrics: Metrics, log: Any) -> SourceIntake:
    rule = ScanRule(
        source=source.name,
        directory=source.directory,
        include=source.include,
        exclude=source.exclude + ((f"*{source.checksum}",) if source.checksum else ()),
        recursive=source.recursive,
        settle_s=source.settle_s,
        rescan_s=source.rescan_s,
        marker=source.marker,
        mount=source.mount,
    )
    scan = FolderScan(rule, recorded=lambda path, stamp: store.is_recorded(source.name, path, stamp))
    return SourceIntake(scan, backlog, watch=source.watch, meter=metrics, log=log)


def _route(settings: Settings, source: Source, inspector: Inspector) -> Route:
    dicom = source.dicom.model_dump() if source.dicom else None
    return Route(
        source=source.name,
        recipe=source.recipe,
        naming=compile_naming(source.template, source.pattern, dicom),
        inspector=inspector,
        limits=Limits(settings.runtime.max_pixels, settings.runtime.max_pages),
        incomplete_after_s=source.incomplete_after_s,
        value_range=source.value_range,
        same_content=source.same_content,
        checksum=source.checksum,
        holes=source.holes,
    )


def _drift_watch(
    settings: Settings, inspectors: Mapping[str, Inspector], store: Store, metrics: Metrics, log: Any
) -> DriftWatch:
    """With what is stored of each recipe taken up."""
    asked = settings.drift
    rule = DriftRule(asked.min_frames, asked.psi_alarm, asked.forecast_alarm, asked.alarm_share)
    metrics.forget_drift()
    watch = DriftWatch(rule, asked.window_s, meter=metrics, log=log)
    for recipe, inspector in inspectors.items():
        if inspector.calibration is not None:
            watch.restore(store, recipe, inspector.calibration)
    return watch


def _deliveries(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    describe: Callable[[], Mapping[str, Any]],
    state: Callable[[], Mapping[str, Any]],
    requests: Callable[[str, bytes], Mapping[str, Any]],
    log: Any,
) -> list[Delivery]:
    def delivery(make: Callable[[threading.Event], Sink], fields: Sequence[str] = ()) -> Delivery:
        wake, select = threading.Event(), Selection.of(fields).apply
        return Delivery(make(wake), store, wake=wake, meter=metrics, log=log, select=select)

    mqtt, sparkplug = settings.mqtt, settings.sparkplug
    made = []
    if mqtt.enabled:
        handle = requests if mqtt.requests else None
        make = partial(_mqtt, settings, describe, state, handle, log)
        made.append(delivery(make, mqtt.fields))
    if sparkplug.enabled:  # which selects fields by itself: it needs some to say whose they are
        made.append(delivery(partial(_sparkplug, settings, describe, log)))
    for one in settings.sink:
        made.append(delivery(partial(_threaded, one, log), one.fields))
    return made


def _mqtt(
    settings: Settings,
    describe: Callable[[], Mapping[str, Any]],
    state: Callable[[], Mapping[str, Any]],
    handle: Callable[[str, bytes], Mapping[str, Any]] | None,
    log: Any,
    wake: threading.Event,
) -> Sink:
    return MqttSink(
        settings.mqtt, station=settings.station.name, info=describe, state=state, handle=handle, wake=wake,
        log=log, environ=os.environ, name=MQTT,
    )  # fmt: skip


def _sparkplug(
    settings: Settings, describe: Callable[[], Mapping[str, Any]], log: Any, wake: threading.Event
) -> Sink:
    asked = settings.sparkplug
    return SparkplugSink(
        asked.broker(settings.mqtt),
        group=asked.group_id,
        node=asked.edge_node_id or settings.station.name,
        primary_host=asked.primary_host_id,
        info=describe,
        select=Selection.of(asked.fields).apply,
        count=BirthCount(settings.paths.state / BIRTHS),
        wake=wake,
        log=log,
        environ=os.environ,
        name=SPARKPLUG,
    )


def _threaded(sink: FileSink | WebhookSink, log: Any, wake: threading.Event) -> Sink:
    return ThreadedSink(sink.name, _receiver_of(sink), wake=wake, log=log)


def _receiver_of(sink: FileSink | WebhookSink) -> Callable[[], Receiver]:
    if isinstance(sink, FileSink):
        return partial(FileReceiver, sink.directory, max_age_days=sink.max_age_days)
    return partial(
        WebhookReceiver,
        sink.url,
        headers=sink.headers,
        secret=None if sink.secret_file is None else read_secret(sink.secret_file),
        ca_file=sink.ca_file,
        timeout_s=sink.timeout_s,
    )


def describe(settings: Settings, inspectors: Mapping[str, Inspector]) -> dict[str, Any]:
    """What `…/info` says: version, configuration, and which models judge."""
    return {
        "version": __version__,
        "station": settings.station.name,
        "configSha256": settings.digest,
        "recipes": {
            name: {
                "bundle": inspector.model.bundle,
                "bundleSha256": inspector.model.sha256,
                "calibrationSha256": inspector.model.calibration_sha256,
                "runtime": inspector.model.runtime,
                "precision": inspector.model.precision,
                "engineReplacedBecause": inspector.replaced_because or None,
                "views": {
                    view: {"basis": limits.basis, "falseRejectBound": limits.false_reject_bound}
                    for view, limits in (inspector.calibration.views if inspector.calibration else {}).items()
                },
            }
            for name, inspector in sorted(inspectors.items())
        },
        "sources": [source.name for source in settings.source],
    }


def status(line: Line, store: Store, started_unix_s: float) -> dict[str, Any]:
    """What `edge status` and the page show."""
    latest = store.latest(1)
    return {
        **describe(line.settings, line.inspectors),
        "startedAt": datetime.fromtimestamp(started_unix_s, UTC).isoformat(timespec="seconds"),
        "verdicts": store.counts(),
        "backlog": {
            intake.name: {
                "waiting": intake.waiting,
                "unavailable": intake.trouble(time.monotonic()) or None,
            }
            for intake in line.intakes
        },
        "decoders": {
            "trouble": line.workers.trouble or None,
            "confinedBy": line.workers.confined_by,
        },
        "outbox": {
            delivery.sink.name: {
                "depth": store.depth(delivery.sink.name),
                "connected": delivery.sink.connected,
                "lastError": delivery.sink.last_error or None,
            }
            for delivery in line.deliveries
        },
        "drift": line.record.drift.report(),
        "lastResult": _brief(latest[0]) if latest else None,
    }


def _brief(payload: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("resultId", "resultType", "creationTime", "partId", "batchId", "view", "recipeId",
            "resultEvaluation", "score")  # fmt: skip
    return {key: payload[key] for key in keys if key in payload}
