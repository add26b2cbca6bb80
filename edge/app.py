"""The only place that wires parts together: settings in, a site that is ready to run out."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from edge import __version__
from edge.buffer import Buffer
from edge.config import Recipe, Settings, Source, Tls
from edge.decode import Limits
from edge.decode.workers import DecodeWorkers
from edge.errors import CannotWriteError, ConfigError, EdgeError, UsageError
from edge.infer.bundle import MANIFEST, load_bundle
from edge.infer.compile import open_runtime
from edge.intake.backlog import Backlog
from edge.intake.naming import Naming, compile_naming
from edge.intake.scan import FolderScan, ScanRule
from edge.intake.source import SourceIntake
from edge.judge.calibration import Calibration
from edge.observe.metrics import Metrics
from edge.options import check_recipe_name
from edge.pipeline import Inspector, PrepareJob, prepare_file
from edge.publish.mqtt import MqttSink
from edge.publish.outbox import Delivery
from edge.record.store import Store
from edge.recording import EvidenceRule, PartRule, RecordStage
from edge.renewal import calibration_to_load, engine_to_load
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
        CannotWriteError: the state folder, where compiled engines are kept, cannot be written.
    """
    recipe = find_recipe(settings, name)
    bundle = load_bundle(engine_to_load(settings.paths.engines / recipe.engine))
    calibration = None
    if calibrated:
        file = settings.paths.calibration / f"{recipe.calibration}.json"
        calibration = calibration_to_load(file, bundle.digest)
        _check_views(settings, name, calibration)
    check_state(settings)
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
        UsageError: not a recipe's name.
    """
    check_recipe_name(name)
    if name in settings.recipe:
        return settings.recipe[name]
    if (engine_to_load(settings.paths.engines / name) / MANIFEST).is_file():
        return Recipe(engine=name, calibration=name)
    learned = {file.parent.name for file in settings.paths.engines.glob(f"*/{MANIFEST}")}
    known = sorted({*settings.recipe, *(folder for folder in learned if not folder.startswith("."))})
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


def naming_of(settings: Settings, recipe: str) -> Naming:
    """How the sources of a recipe name frames, for frames given by hand; no rule where it has no source.

    Raises:
        UsageError: they do it differently.
    """
    rules = {(s.template, s.pattern, s.dicom) for s in settings.source if s.recipe == recipe}
    if len(rules) > 1:
        raise UsageError(
            f"{settings.file}: the sources of recipe {recipe!r} name frames in different ways",
            hint="say with --template or --pattern how these are named",
        )
    template, pattern, dicom = rules.pop() if rules else (None, None, None)
    return compile_naming(template, pattern, dicom.model_dump() if dicom else None)


def value_range_of(settings: Settings, recipe: str) -> tuple[float, float] | None:
    """The stored values that are black and white, as the sources of a recipe have it.

    Raises:
        UsageError: they differ.
    """
    ranges = {s.value_range for s in settings.source if s.recipe == recipe}
    if len(ranges) > 1:
        raise UsageError(
            f"{settings.file}: the sources of recipe {recipe!r} have different value ranges",
            hint="say with --value-range which one holds for these frames",
        )
    return ranges.pop() if ranges else None


def check_sources(settings: Settings) -> None:
    """A daemon without a source would run for ever and do nothing.

    Raises:
        ConfigError: there is no source.
    """
    if not settings.source:
        raise ConfigError(
            f"{settings.file}: no [[source]]: nothing to inspect",
            hint="add one with name, directory and recipe, as README shows",
        )


def check_state(settings: Settings) -> None:
    """Database, evidence and compiled engines go there; made if it is missing.

    Raises:
        CannotWriteError: it cannot be written.
    """
    state = settings.paths.state
    try:
        state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=state):
            pass
    except OSError as error:
        raise CannotWriteError(
            f"{state}: cannot be written: {error.strerror}",
            hint=f"set paths.state in {settings.file} to a folder this user may write, or free some space",
        ) from None


def check_secrets(settings: Settings) -> None:
    """Files that [mqtt] names, read as the connection will.

    Raises:
        ConfigError: one is missing or cannot be read.
    """
    tls = settings.mqtt.tls or Tls()
    named = {
        "mqtt.password_file": settings.mqtt.password_file,
        **{f"mqtt.tls.{key}": getattr(tls, key) for key in ("ca_file", "cert_file", "key_file")},
    }
    for key, file in named.items():
        try:
            if file is not None and settings.mqtt.enabled:
                file.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{settings.file}: {key} = {str(file)!r} cannot be read: {error.strerror}",
                hint="put the file there, readable for the user that edge runs as, or take the key out",
            ) from None


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
            done={intake.name: intake.done for intake in intakes},
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
    recipes = dict.fromkeys(source.recipe for source in settings.source)
    checks: list[Callable[[], object]] = [
        partial(check_state, settings),
        partial(check_sources, settings),
        partial(check_secrets, settings),
        *(partial(open_recipe, settings, name) for name in recipes),
    ]
    found: list[EdgeError] = []
    for check in checks:
        try:
            check()
        except EdgeError as error:
            if str(error) not in map(str, found):  # every recipe needs the state folder
                found.append(error)
    for source in settings.source:
        if not source.directory.is_dir():
            found.append(
                ConfigError(
                    f"{settings.file}: source {source.name!r}: {source.directory} is no folder",
                    hint="create or mount it; the daemon waits for it and is not ready until it is there",
                )
            )
    return found
