"""The only place that wires parts together: settings in, a site that is ready to run out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge import __version__
from edge.buffer import Buffer
from edge.config import Recipe, Settings, Source
from edge.decode import Limits
from edge.decode.workers import DecodeWorkers
from edge.errors import ConfigError, EdgeError
from edge.infer.bundle import MANIFEST, load_bundle
from edge.infer.compile import open_runtime
from edge.intake.backlog import Backlog
from edge.intake.naming import compile_naming
from edge.intake.scan import FolderScan, ScanRule
from edge.intake.source import SourceIntake
from edge.judge.calibration import Calibration, load_calibration
from edge.observe.metrics import Metrics
from edge.pipeline import Inspector, PrepareJob, prepare_file
from edge.publish.mqtt import MqttSink
from edge.publish.outbox import Delivery
from edge.record.store import Store
from edge.recording import EvidenceRule, PartRule, RecordStage
from edge.stages import MOST_PIXELS_WAITING, DecodeStage, InspectStage, Judged, Prepared, Route

DATABASE = "edge.sqlite3"
EVIDENCE = "evidence"
COMPILED = "compiled"
STUCK_AFTER_TIMEOUTS = 3.0  # files are out, each with its time limit, and none came back: the pool hangs
MQTT = "mqtt"  # the sink's name in outbox and metrics


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
    delivery_wake: threading.Event


def open_recipe(settings: Settings, name: str, *, calibrated: bool = True) -> Inspector:
    """Load, compile and prove a recipe's engine, and bind its calibration.

    Raises:
        ConfigError: no such recipe, or it expects views that are not calibrated.
        BundleError: bundle or calibration is missing, damaged, or does not fit the other.
        UnavailableError: the device or precision cannot be had here.
    """
    recipe = find_recipe(settings, name)
    bundle = load_bundle(settings.paths.engines / recipe.engine)
    calibration = None
    if calibrated:
        file = settings.paths.calibration / f"{recipe.calibration}.json"
        calibration = load_calibration(file, bundle.digest)
        _check_views(settings, name, calibration)
    runtime = open_runtime(
        bundle,
        device=settings.runtime.device,
        precision=settings.runtime.precision,
        threads=settings.runtime.threads,
        cache=settings.paths.state / COMPILED,
    )
    return Inspector(bundle, runtime, calibration)


def find_recipe(settings: Settings, name: str) -> Recipe:
    """A recipe by its name: from config.toml, or as `edge learn` left it in engines/ and calibration/.

    Raises:
        ConfigError: there is neither.
    """
    if name in settings.recipe:
        return settings.recipe[name]
    if (settings.paths.engines / name / MANIFEST).is_file():
        return Recipe(engine=name, calibration=name)
    learned = sorted(file.parent.name for file in settings.paths.engines.glob(f"*/{MANIFEST}"))
    known = sorted({*settings.recipe, *learned})
    raise ConfigError(
        f"recipe {name!r}: neither in {settings.file} nor in {settings.paths.engines}",
        hint=f"known: {', '.join(known)}" if known else f"learn it: edge learn IMAGES --recipe {name}",
    )


def _check_views(settings: Settings, name: str, calibration: Calibration) -> None:
    missing = [view for view in find_recipe(settings, name).views if view not in calibration.views]
    if missing:
        raise ConfigError(
            f"{settings.file}: recipe.{name}.views expects {', '.join(missing)}, which the calibration does "
            f"not know; it knows {', '.join(calibration.views)}",
            hint="learn or calibrate with good frames of those views, or take them out of the list",
        )


def open_recipes(settings: Settings) -> dict[str, Inspector]:
    """All recipes that sources use, each opened once."""
    return {name: open_recipe(settings, name) for name in {source.recipe for source in settings.source}}


def wire(
    settings: Settings,
    inspectors: Mapping[str, Inspector],
    store: Store,
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
    )
    prepared: Buffer[Prepared] = Buffer(MOST_PIXELS_WAITING)
    judged: Buffer[Judged] = Buffer(MOST_PIXELS_WAITING)
    wake = threading.Event()
    returns = {intake.name: intake for intake in intakes}
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
            stuck_s=STUCK_AFTER_TIMEOUTS * runtime.decode_timeout_s,
            meter=metrics,
            log=log,
        ),
        inspect=InspectStage(routes, prepared, judged, batch_frames=runtime.batch_frames, log=log),
        record=RecordStage(
            judged,
            store,
            station=settings.station.name,
            parts={
                name: PartRule(recipe.views, recipe.part_timeout_s)
                for name, recipe in settings.recipe.items()
            },
            evidence_rule=EvidenceRule(settings.paths.state / EVIDENCE, settings.evidence.keep_ok_ratio),
            meter=metrics,
            wake_delivery=wake.set,
            log=log,
        ),
        deliveries=_deliveries(settings, store, metrics, wake, describe, state, requests, log),
        delivery_wake=wake,
    )


def sinks(settings: Settings) -> tuple[str, ...]:
    """Whom verdicts wait for."""
    return (MQTT,) if settings.mqtt.enabled else ()


def decode_workers(cores: int) -> int:
    """Half the cores: the engine needs the rest."""
    return max(1, cores // 2)


def _intake(source: Source, store: Store, backlog: Backlog, metrics: Metrics, log: Any) -> SourceIntake:
    rule = ScanRule(
        source=source.name,
        directory=source.directory,
        include=source.include,
        exclude=source.exclude,
        recursive=source.recursive,
        settle_s=source.settle_s,
        rescan_s=source.rescan_s,
        marker=source.marker,
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
    )


def _deliveries(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    wake: threading.Event,
    describe: Callable[[], Mapping[str, Any]],
    state: Callable[[], Mapping[str, Any]],
    requests: Callable[[str, bytes], Mapping[str, Any]],
    log: Any,
) -> list[Delivery]:
    if not settings.mqtt.enabled:
        return []
    sink = MqttSink(
        settings.mqtt,
        station=settings.station.name,
        info=describe,
        state=state,
        handle=requests if settings.mqtt.requests else None,
        wake=wake,
        log=log,
        environ=os.environ,
        name=MQTT,
    )
    return [Delivery(sink, store, wake=wake, meter=metrics, log=log)]


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
                "views": list(inspector.calibration.views) if inspector.calibration else [],
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
        "uptime_s": round(time.time() - started_unix_s, 1),
        "verdicts": store.counts(),
        "backlog": {
            intake.name: {
                "waiting": line.backlog.depth(intake.name),
                "unavailable": intake.unavailable or None,
            }
            for intake in line.intakes
        },
        "outbox": {
            delivery.sink.name: {
                "depth": store.depth(delivery.sink.name),
                "connected": delivery.sink.connected,
                "lastError": delivery.sink.last_error or None,
            }
            for delivery in line.deliveries
        },
        "lastResult": _brief(latest[0]) if latest else None,
    }


def _brief(payload: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("resultId", "resultType", "creationTime", "partId", "batchId", "view", "recipeId",
            "resultEvaluation", "score")  # fmt: skip
    return {key: payload[key] for key in keys if key in payload}


def problems(settings: Settings) -> list[EdgeError]:
    """Everything that would keep the site from running, for `edge check`; empty when all is well."""
    found: list[EdgeError] = []
    for name in dict.fromkeys(source.recipe for source in settings.source):
        try:
            open_recipe(settings, name)
        except EdgeError as error:
            found.append(error)
    for source in settings.source:
        if not source.directory.is_dir():
            found.append(
                ConfigError(
                    f"{settings.file}: source {source.name!r}: {source.directory} is no folder",
                    hint="create or mount it; the daemon waits for it and is not ready until it is there",
                )
            )
    if not settings.source:
        found.append(
            ConfigError(f"{settings.file}: no [[source]]: nothing to inspect", hint="add one, see README")
        )
    return found
