"""Every metric of the daemon, in one place; names and labels are a contract with dashboards and alerts.

Labels are only source, recipe, view, evaluation, stage, reason, runtime and sink (and those of the info and
disk gauges): never part ids or paths of frames, whose number has no end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from edge.types import Evaluation, Verdict

EVALUATIONS: tuple[Evaluation, ...] = ("OK", "NotOK", "NotDecidable")
STAGES = ("settle", "queue", "decode", "preprocess", "infer", "judge", "record", "total")
LATENCY_BUCKETS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0,
)  # fmt: skip
# four to the octave close to the threshold at 1.0, where it matters, one to the octave further out
SCORE_BUCKETS = (
    0.125, 0.25, 0.5, 0.5946, 0.7071, 0.8409, 1.0, 1.1892, 1.4142, 1.6818, 2.0, 4.0, 8.0, 16.0,
)  # fmt: skip


class Metrics:
    """All metrics, registered with `registry`; each attribute is a prometheus_client metric.

    prometheus_client appends `_total` to counters: `frames` is exposed as `edge_frames_total`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        self._inspection(registry)
        self._intake(registry)
        self._outbox(registry)
        self._daemon(registry)
        self._bundles: dict[str, tuple[str, str, str]] = {}

    def _inspection(self, registry: CollectorRegistry) -> None:
        self.frames = Counter(
            "edge_frames", "Frames judged.", ["source", "recipe", "evaluation"], registry=registry
        )
        self.parts = Counter("edge_parts", "Parts judged.", ["recipe", "evaluation"], registry=registry)
        self.frame_latency_seconds = Histogram(
            "edge_frame_latency_seconds",
            "Time a frame spent in each stage; total: from being complete to its verdict being recorded.",
            ["stage"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.score = Histogram(
            "edge_score",
            "Score of each frame; 1.0 is the threshold of its view.",
            ["recipe", "view"],
            buckets=SCORE_BUCKETS,
            registry=registry,
        )
        self.score_drift_ratio = Gauge(
            "edge_score_drift_ratio",
            "Median score of recent frames over that of the calibration.",
            ["recipe", "view"],
            registry=registry,
        )
        self.exchangeability_martingale = Gauge(
            "edge_exchangeability_martingale",
            "log10 of the evidence that recent scores are not like those of the calibration; 6: one in a "
            "million by chance.",
            ["recipe", "view"],
            registry=registry,
        )
        self._drift(registry)
        self.nqi = Gauge(
            "edge_nqi",
            "Quality index of the latest batch: mean score over that of the calibration.",
            ["recipe", "view"],
            registry=registry,
        )
        self.nqi_ewma = Gauge(
            "edge_nqi_ewma",
            "Exponentially weighted moving average of the quality index over batches.",
            ["recipe", "view"],
            registry=registry,
        )
        self.spc_out_of_control = Gauge(
            "edge_spc_out_of_control",
            "1 if the latest batch is beyond a control limit, else 0; absent where there are no limits.",
            ["recipe", "view"],
            registry=registry,
        )
        self.last_verdict_timestamp_seconds = Gauge(
            "edge_last_verdict_timestamp_seconds",
            "Unix time of the last verdict.",
            ["recipe"],
            registry=registry,
        )

    def _drift(self, registry: CollectorRegistry) -> None:
        view = ["recipe", "view"]
        self.score_psi = Gauge(
            "edge_score_psi",
            "Population stability index of recent scores against calibration: 0.25 is much.",
            view,
            registry=registry,
        )
        self.score_ks_pvalue = Gauge(
            "edge_score_ks_pvalue",
            "How likely chance alone makes recent scores differ as much from those of calibration.",
            view,
            registry=registry,
        )
        self.false_reject_forecast_ratio = Gauge(
            "edge_false_reject_forecast_ratio",
            "Share of good frames that is rejected as scores are now.",
            view,
            registry=registry,
        )
        self.drift_alarm = Gauge(
            "edge_drift_alarm", "1 while the scores of a view have left calibration.", view, registry=registry
        )
        self.picture_margin_ratio = Gauge(
            "edge_picture_margin_ratio",
            "How far recent pictures are from being undecidable for that reason: 1 in the middle, 0 there.",
            [*view, "reason"],
            registry=registry,
        )

    def _intake(self, registry: CollectorRegistry) -> None:
        self.intake_backlog = Gauge(
            "edge_intake_backlog", "Frames seen and not yet judged.", ["source"], registry=registry
        )
        self.source_reachable = Gauge(
            "edge_source_reachable",
            "1 while the folder can be listed, else 0.",
            ["source"],
            registry=registry,
        )
        self.intake_rejected = Counter(
            "edge_intake_rejected",
            "Files set aside without being judged.",
            ["source", "reason"],
            registry=registry,
        )
        self.worker_restarts = Counter(
            "edge_worker_restarts",
            "Decode workers that died or were ended for taking too long.",
            registry=registry,
        )

    def _outbox(self, registry: CollectorRegistry) -> None:
        sink = ["sink"]
        self.outbox_depth = Gauge("edge_outbox_depth", "Verdicts waiting.", sink, registry=registry)
        self.outbox_oldest_seconds = Gauge(
            "edge_outbox_oldest_seconds", "Age of the oldest verdict waiting.", sink, registry=registry
        )
        self.sink_connected = Gauge(
            "edge_sink_connected", "1 while connected, else 0.", sink, registry=registry
        )
        self.outbox_delivered_total = Counter(
            "edge_outbox_delivered", "Verdicts acknowledged by the receiver.", sink, registry=registry
        )
        self.outbox_refused_total = Counter(
            "edge_outbox_refused",
            "Refusals by the receiver; the verdict is kept and tried again.",
            sink,
            registry=registry,
        )

    def _daemon(self, registry: CollectorRegistry) -> None:
        self.bundle_info = Gauge(
            "edge_bundle_info",
            "1 for each engine in use.",
            ["recipe", "sha256", "runtime", "precision"],
            registry=registry,
        )
        self.engine_losses = Counter(
            "edge_engine_losses",
            "Engines that no longer gave their golden answers.",
            ["recipe"],
            registry=registry,
        )
        self.ready = Gauge(
            "edge_ready", "1 while /readyz says so: engines warm, sources reachable, …", registry=registry
        )
        self.build_info = Gauge("edge_build_info", "1 for this version.", ["version"], registry=registry)
        self.disk_free_bytes = Gauge(
            "edge_disk_free_bytes", "Free space where state is kept.", ["path"], registry=registry
        )
        self.database_set_aside = Gauge(
            "edge_database_set_aside", "Damaged databases that were set aside and still lie there.",
            registry=registry,
        )  # fmt: skip
        self.evidence_skipped = Counter(
            "edge_evidence_skipped", "Verdicts whose pictures were not kept.", ["reason"], registry=registry
        )
        for reason in ("disk_full", "failed"):
            self.evidence_skipped.labels(reason)
        self.reloads = Counter("edge_reloads", "Configurations taken over.", registry=registry)
        self.reload_failures = Counter(
            "edge_reload_failures", "Configurations refused; the old one stayed.", registry=registry
        )

    def set_bundle(self, recipe: str, *, sha256: str, runtime: str, precision: str) -> None:
        """Say which engine judges `recipe` now; the series of the one before it ends."""
        old = self._bundles.pop(recipe, None)
        if old is not None:
            self.bundle_info.remove(recipe, *old)
        self._bundles[recipe] = (sha256, runtime, precision)
        self.engine_losses.labels(recipe)
        self.bundle_info.labels(recipe, sha256, runtime, precision).set(1)

    def expect_frames(self, source: str, recipe: str) -> None:
        """Begin the series of a source at 0: a rate cannot see a counter that begins with its first event."""
        for evaluation in EVALUATIONS:
            self.frames.labels(source, recipe, evaluation)

    def expect_parts(self, recipe: str) -> None:
        """The same for the parts of a recipe."""
        for evaluation in EVALUATIONS:
            self.parts.labels(recipe, evaluation)

    def engine_lost(self, recipe: str) -> None:
        self.engine_losses.labels(recipe).inc()

    def forget_bundles(self, kept: Collection[str]) -> None:
        """After a reload: engines that are no longer in use end their series."""
        for recipe in self._bundles.keys() - set(kept):
            self.bundle_info.remove(recipe, *self._bundles.pop(recipe))

    # what edge.publish.outbox counts

    def outbox_state(self, sink: str, *, depth: int, oldest_s: float, connected: bool) -> None:
        self.outbox_delivered_total.labels(sink), self.outbox_refused_total.labels(sink)  # begin at 0
        self.outbox_depth.labels(sink).set(depth)
        self.outbox_oldest_seconds.labels(sink).set(oldest_s)
        self.sink_connected.labels(sink).set(connected)

    def outbox_delivered(self, sink: str, count: int) -> None:
        self.outbox_delivered_total.labels(sink).inc(count)

    def outbox_refused(self, sink: str, count: int) -> None:
        self.outbox_refused_total.labels(sink).inc(count)

    # what intake and the stages count

    def intake_state(self, source: str, *, backlog: int, reachable: bool) -> None:
        """The backlog of a source that cannot be listed is unknown; /readyz says that it is unreachable."""
        self.source_reachable.labels(source).set(reachable)
        if reachable:
            self.intake_backlog.labels(source).set(backlog)

    def rejected(self, source: str, reason: str) -> None:
        self.intake_rejected.labels(source, reason).inc()

    def recorded(self, source: str, verdict: Verdict, times_s: Mapping[str, float | None]) -> None:
        """A frame's verdict is stored; `times_s` has keys such as `decode_s`."""
        self.frames.labels(source, verdict.recipe, verdict.evaluation).inc()
        self.last_verdict_timestamp_seconds.labels(verdict.recipe).set(verdict.created_unix_s)
        for key, seconds in times_s.items():
            if seconds is not None:
                self.frame_latency_seconds.labels(key.removesuffix("_s")).observe(seconds)
        if verdict.payload["score"] is not None:
            self.score.labels(verdict.recipe, verdict.identity.view or "").observe(verdict.payload["score"])

    def drifted(self, recipe: str, view: str, ratio: float, martingale: float) -> None:
        """Recent scores against the calibration's: of medians, and log10 of a test martingale."""
        self.score_drift_ratio.labels(recipe, view).set(ratio)
        self.exchangeability_martingale.labels(recipe, view).set(martingale)

    def window_compared(
        self, recipe: str, view: str, *, psi: float, ks_p: float, forecast: float | None, alarm: bool
    ) -> None:
        """A window of scores against the calibration's; there is no forecast where scores do not vary."""
        self.score_psi.labels(recipe, view).set(psi)
        self.score_ks_pvalue.labels(recipe, view).set(ks_p)
        self.drift_alarm.labels(recipe, view).set(alarm)
        if forecast is not None:
            self.false_reject_forecast_ratio.labels(recipe, view).set(forecast)

    def picture_margin(self, recipe: str, view: str, reason: str, ratio: float) -> None:
        self.picture_margin_ratio.labels(recipe, view, reason).set(ratio)

    def forget_drift(self) -> None:
        """Windows begin anew: what is not known yet has no series."""
        for gauge in (self.score_psi, self.score_ks_pvalue, self.false_reject_forecast_ratio,
                      self.drift_alarm, self.picture_margin_ratio):  # fmt: skip
            gauge.clear()

    def quality(self, recipe: str, view: str, *, nqi: float, ewma: float, out: bool | None) -> None:
        """The latest batch of a view on its control chart; `out` is None where it has no limits."""
        self.nqi.labels(recipe, view).set(nqi)
        self.nqi_ewma.labels(recipe, view).set(ewma)
        if out is not None:
            self.spc_out_of_control.labels(recipe, view).set(out)

    def forget_quality(self) -> None:
        """After a reload: recipes that are gone end their series, and new limits begin."""
        for gauge in (self.nqi, self.nqi_ewma, self.spc_out_of_control):
            gauge.clear()

    def part_recorded(self, verdict: Verdict) -> None:
        self.parts.labels(verdict.recipe, verdict.evaluation).inc()

    def evidence_skipped_for(self, reason: str) -> None:
        self.evidence_skipped.labels(reason).inc()

    def workers_restarted(self, count: int) -> None:
        self.worker_restarts.inc(count)
