"""Names and labels of the metrics are a contract: they are read as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edge.observe.metrics import STAGES, Metrics

CONTRACT = {
    "edge_frames_total": {"source", "recipe", "evaluation"},
    "edge_parts_total": {"recipe", "evaluation"},
    "edge_frame_latency_seconds_bucket": {"stage", "le"},
    "edge_score_bucket": {"recipe", "view", "le"},
    "edge_intake_backlog": {"source"},
    "edge_source_reachable": {"source"},
    "edge_ready": set(),
    "edge_intake_rejected_total": {"source", "reason"},
    "edge_outbox_depth": {"sink"},
    "edge_outbox_oldest_seconds": {"sink"},
    "edge_sink_connected": {"sink"},
    "edge_worker_restarts_total": set(),
    "edge_score_drift_ratio": {"recipe", "view"},
    "edge_exchangeability_martingale": {"recipe", "view"},
    "edge_score_psi": {"recipe", "view"},
    "edge_score_ks_pvalue": {"recipe", "view"},
    "edge_false_reject_forecast_ratio": {"recipe", "view"},
    "edge_drift_alarm": {"recipe", "view"},
    "edge_picture_margin_ratio": {"recipe", "view", "reason"},
    "edge_nqi": {"recipe", "view"},
    "edge_nqi_ewma": {"recipe", "view"},
    "edge_spc_out_of_control": {"recipe", "view"},
    "edge_bundle_info": {"recipe", "sha256", "runtime", "precision"},
    "edge_engine_losses_total": {"recipe"},
    "edge_build_info": {"version"},
    "edge_last_verdict_timestamp_seconds": {"recipe"},
    "edge_disk_free_bytes": {"path"},
    "edge_database_set_aside": set(),
    "edge_outbox_delivered_total": {"sink"},
    "edge_outbox_refused_total": {"sink"},
    "edge_evidence_skipped_total": {"reason"},
    "edge_reloads_total": set(),
    "edge_reload_failures_total": set(),
    "process_resident_memory_bytes": set(),
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def exposed(metrics: Metrics) -> list[tuple[str, dict[str, str], float]]:
    text = generate_latest(metrics.registry).decode()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def use_all(metrics: Metrics) -> None:
    metrics.frames.labels("ct", "bracket", "OK").inc()
    metrics.parts.labels("bracket", "OK").inc()
    metrics.frame_latency_seconds.labels("decode").observe(0.1)
    metrics.score.labels("bracket", "07").observe(0.9)
    metrics.drifted("bracket", "07", 1.0, 0.2)
    metrics.window_compared("bracket", "07", psi=0.1, ks_p=0.5, forecast=0.05, alarm=False)
    metrics.picture_margin("bracket", "07", "brightness_outside_calibration", 0.8)
    metrics.quality("bracket", "07", nqi=1.02, ewma=1.01, out=False)
    metrics.last_verdict_timestamp_seconds.labels("bracket").set(1.0)
    metrics.intake_state("ct", backlog=1, reachable=True)
    metrics.intake_rejected.labels("ct", "truncated").inc()
    metrics.disk_free_bytes.labels("/var").set(1)
    metrics.database_set_aside.set(0)
    metrics.build_info.labels("0.1.0").set(1)
    metrics.evidence_skipped.labels("disk_full").inc()
    metrics.set_bundle("bracket", sha256="ab", runtime="openvino", precision="int8")
    metrics.engine_lost("bracket")
    metrics.outbox_state("mqtt", depth=3, oldest_s=1.5, connected=True)
    metrics.outbox_delivered("mqtt", 2)
    metrics.outbox_refused("mqtt", 1)


def test_every_metric_of_the_contract_is_exposed_with_its_labels(metrics: Metrics) -> None:
    use_all(metrics)
    labels = {name: set(found) for name, found, _ in exposed(metrics)}
    assert {name: labels.get(name) for name in CONTRACT} == CONTRACT


def test_everything_exposed_is_in_the_contract(metrics: Metrics) -> None:
    use_all(metrics)
    suffixes = ("_sum", "_count", "_created")
    names = {name for name, _, _ in exposed(metrics) if not name.endswith(suffixes)}
    assert {name for name in names if name.startswith("edge_")} <= set(CONTRACT)


def test_counters_of_what_is_expected_begin_at_zero(metrics: Metrics) -> None:
    metrics.expect_frames("ct", "bracket")
    metrics.expect_parts("bracket")
    metrics.set_bundle("bracket", sha256="ab", runtime="openvino", precision="int8")
    found = [(name, labels.get("evaluation"), value) for name, labels, value in exposed(metrics)]
    for name in ("edge_frames_total", "edge_parts_total"):
        for evaluation in ("OK", "NotOK", "NotDecidable"):
            assert (name, evaluation, 0.0) in found
    assert ("edge_engine_losses_total", None, 0.0) in found


def test_a_source_that_cannot_be_listed_says_so_and_keeps_its_backlog(metrics: Metrics) -> None:
    metrics.intake_state("ct", backlog=3, reachable=True)
    metrics.intake_state("ct", backlog=0, reachable=False)
    found = {name: value for name, _, value in exposed(metrics)}
    assert found["edge_source_reachable"] == 0
    assert found["edge_intake_backlog"] == 3


def test_outbox_values(metrics: Metrics) -> None:
    use_all(metrics)
    values = {name: value for name, labels, value in exposed(metrics) if labels == {"sink": "mqtt"}}
    values = {name: value for name, value in values.items() if not name.endswith("_created")}
    assert values == {
        "edge_outbox_depth": 3,
        "edge_outbox_oldest_seconds": 1.5,
        "edge_sink_connected": 1,
        "edge_outbox_delivered_total": 2,
        "edge_outbox_refused_total": 1,
    }


def test_bundle_that_was_replaced_is_no_longer_exposed(metrics: Metrics) -> None:
    metrics.set_bundle("bracket", sha256="old", runtime="openvino", precision="fp32")
    metrics.set_bundle("bracket", sha256="new", runtime="openvino", precision="int8")
    bundles = [labels["sha256"] for name, labels, _ in exposed(metrics) if name == "edge_bundle_info"]
    assert bundles == ["new"]


def test_quality_ends_with_the_line_it_belongs_to(metrics: Metrics) -> None:
    metrics.quality("bracket", "07", nqi=1.3, ewma=1.1, out=True)
    assert ("edge_spc_out_of_control", {"recipe": "bracket", "view": "07"}, 1.0) in exposed(metrics)
    metrics.forget_quality()
    assert not [name for name, *_ in exposed(metrics) if name.startswith(("edge_nqi", "edge_spc"))]


def test_latency_is_told_apart_from_5_ms_to_a_minute(metrics: Metrics) -> None:
    for stage in STAGES:
        metrics.frame_latency_seconds.labels(stage).observe(0.3)
    edges = {
        float(labels["le"])
        for name, labels, _ in exposed(metrics)
        if name == "edge_frame_latency_seconds_bucket"
    }
    assert min(edges) == 0.005
    assert sorted(edges)[-2] == 60.0


def test_score_has_a_bucket_edge_at_the_threshold(metrics: Metrics) -> None:
    metrics.score.labels("r", "v").observe(1.0)
    edges = {float(labels["le"]) for name, labels, _ in exposed(metrics) if name == "edge_score_bucket"}
    assert 1.0 in edges


def test_two_registries_do_not_meet() -> None:
    Metrics(CollectorRegistry())
    Metrics(CollectorRegistry())
