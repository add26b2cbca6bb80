"""`python monitoring/make_dashboards.py`: writes grafana/dashboards/*.json, which are what Grafana is given.

JSON of Grafana is too long to be kept by hand; here each panel is a line. Grafana 10 and newer read it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24  # of Grafana's grid
BOX = 'instance=~"$instance"'
OF = f'{BOX},recipe=~"$recipe"'
VIEW = f'{OF},view=~"$view"'

GREEN, AMBER, RED, GREY = "green", "orange", "red", "text"
EVALUATIONS = {"OK": GREEN, "NotOK": RED, "NotDecidable": AMBER}


@dataclass(frozen=True)
class Panel:
    """One panel: a title, what it tells, and its queries with their legends."""

    title: str
    says: str
    queries: tuple[tuple[str, str], ...]  # PromQL, legend
    kind: str = "timeseries"  # timeseries | stat | table | bargauge
    unit: str = "short"
    width: int = 8
    height: int = 7
    steps: tuple[tuple[float | None, str], ...] = ((None, GREEN),)
    line_at: bool = False  # draw the thresholds into the picture
    stacked: bool = False
    colours: dict[str, str] = field(default_factory=dict)
    mappings: dict[str, tuple[str, str]] = field(default_factory=dict)  # value → text, colour
    least: float | None = 0
    most: float | None = None
    instant: bool = False


def json_of(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """A panel as Grafana stores it, at its place in the grid."""
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {
            "lineWidth": 2,
            "fillOpacity": 25 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": True,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.line_at else "off"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.instant or panel.kind in ("stat", "table", "bargauge"),
                "range": not (panel.instant or panel.kind in ("stat", "table", "bargauge")),
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for index, (query, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                **({} if panel.least is None else {"min": panel.least}),
                **({} if panel.most is None else {"max": panel.most}),
                "custom": custom,
                "color": {"mode": "thresholds" if panel.kind in ("stat", "bargauge") else "palette-classic"},
                "thresholds": {
                    "mode": "absolute",
                    "steps": [{"value": value, "color": colour} for value, colour in panel.steps],
                },
                "mappings": [
                    {
                        "type": "value",
                        "options": {
                            value: {"text": text, "color": colour, "index": index}
                            for index, (value, (text, colour)) in enumerate(panel.mappings.items())
                        },
                    }
                ]
                if panel.mappings
                else [],
            },
            "overrides": [
                {
                    "matcher": {"id": "byName", "options": name},
                    "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
                }
                for name, colour in panel.colours.items()
            ],
        },
        "options": options_of(panel),
    }


def options_of(panel: Panel) -> dict[str, Any]:
    """What a kind of panel shows beside its lines."""
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background",
            "graphMode": "none",
            "textMode": "auto",
        }
    if panel.kind == "bargauge":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "horizontal",
            "displayMode": "basic",
        }
    return {"showHeader": True}


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A choice over the values of a label; all of them at first."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard(uid: str, title: str, says: str, rows: dict[str, list[Panel]], *names: str) -> dict[str, Any]:
    """A dashboard of rows of panels, over variables of these names."""
    variables = {
        "instance": variable("instance", "Box", "label_values(edge_build_info, instance)"),
        "recipe": variable("recipe", "Recipe", "label_values(edge_bundle_info, recipe)"),
        "view": variable("view", "View", 'label_values(edge_score_count{recipe=~"$recipe"}, view)'),
    }
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, members in rows.items():
        panels.append(
            {
                "id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }
        )  # fmt: skip
        y, x, tallest = y + 1, 0, 0
        for panel in members:
            if x + panel.width > WIDTH:
                y, x, tallest = y + tallest, 0, 0
            panels.append(json_of(panel, len(panels) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return {
        "uid": uid,
        "title": title,
        "description": says,
        "tags": ["edge"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
                 "current": {}, "hide": 0, "refresh": 1},
                *(variables[name] for name in names),
            ]
        },
        "links": [
            {"type": "dashboards", "tags": ["edge"], "asDropdown": False, "includeVars": True,
             "keepTime": True, "title": "edge"}
        ],
        "panels": panels,
    }  # fmt: skip


def quantiles(metric: str, where: str, by: str) -> tuple[tuple[str, str], ...]:
    """Median and 99 % of a histogram."""
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{{where}}}[$__rate_interval])))",
            name,
        )
        for q, name in ((0.5, "median"), (0.99, "99 %"))
    )


SHARE = ((None, GREEN), (0.05, AMBER), (0.2, RED))
YES = {"1": ("yes", GREEN), "0": ("no", RED)}


def share_of(evaluation: str) -> str:
    """Of frames, in the range that the dashboard shows."""
    return (
        f'sum(increase(edge_frames_total{{{OF},evaluation="{evaluation}"}}[$__range]))'
        f" / (sum(increase(edge_frames_total{{{OF}}}[$__range])) > 0)"
    )


LINE = dashboard(
    "edge-line",
    "edge · line",
    "What a shift wants to know: is everything inspected, what comes of it, how fast.",
    {
        "Now": [
            Panel("Ready", "What /readyz says; the page's health view says why not.",
                  ((f"min(edge_ready{{{BOX}}})", "ready"),), kind="stat", width=4, height=4, mappings=YES),
            Panel("Frames a second", "Judged, over all sources.",
                  ((f"sum(rate(edge_frames_total{{{OF}}}[$__rate_interval]))", "frames/s"),),
                  kind="stat", width=4, height=4),
            Panel("NotOK", "Share of frames in the range shown.", ((share_of("NotOK"), "NotOK"),),
                  kind="stat", unit="percentunit", width=4, height=4, steps=SHARE),
            Panel("NotDecidable", "Share of frames in the range shown; their reasons are on the page.",
                  ((share_of("NotDecidable"), "NotDecidable"),), kind="stat", unit="percentunit", width=4,
                  height=4, steps=((None, GREEN), (0.01, AMBER), (0.05, RED))),
            Panel("Waiting", "Frames seen and not yet judged.",
                  ((f"sum(edge_intake_backlog{{{BOX}}})", "frames"),), kind="stat", width=4, height=4,
                  steps=((None, GREEN), (20, AMBER), (100, RED))),
            Panel("Last verdict", "Age of the newest.",
                  ((f"time() - max(edge_last_verdict_timestamp_seconds{{{OF}}})", "ago"),), kind="stat",
                  unit="s", width=4, height=4, steps=((None, GREEN), (300, AMBER), (3600, RED))),
        ],
        "Verdicts": [
            Panel("Frames", "A second, by evaluation.",
                  ((f"sum by (evaluation) (rate(edge_frames_total{{{OF}}}[$__rate_interval]))",
                    "{{evaluation}}"),), width=12, stacked=True, colours=EVALUATIONS),
            Panel("Parts", "In five minutes, by evaluation.",
                  ((f"sum by (evaluation) (increase(edge_parts_total{{{OF}}}[5m]))", "{{evaluation}}"),),
                  width=12, stacked=True, colours=EVALUATIONS),
            Panel("Share of NotOK by recipe", "A step is a batch, or the picture: see the quality dashboard.",
                  ((f'sum by (recipe) (rate(edge_frames_total{{{OF},evaluation="NotOK"}}[$__rate_interval]))'
                    f" / (sum by (recipe) (rate(edge_frames_total{{{OF}}}[$__rate_interval])) > 0)",
                    "{{recipe}}"),), unit="percentunit", width=12),
            Panel("Files set aside", "In five minutes, by reason: broken off, of another format, a name that "
                  "no rule reads.",
                  ((f"sum by (source, reason) (increase(edge_intake_rejected_total{{{BOX}}}[5m]))",
                    "{{source}}: {{reason}}"),), width=12),
        ],
        "How fast": [
            Panel("From complete to recorded", "The latency that a MES sees, without the broker's.",
                  quantiles("edge_frame_latency_seconds", f'{BOX},stage="total"', "le"), unit="s", width=12),
            Panel("Where the time goes", "Mean of each stage after the file was complete.",
                  ((f'sum by (stage) (rate(edge_frame_latency_seconds_sum{{{BOX},stage!~"total|settle"}}'
                    "[$__rate_interval])) / (sum by (stage) (rate(edge_frame_latency_seconds_count"
                    f'{{{BOX},stage!~"total|settle"}}[$__rate_interval])) > 0)', "{{stage}}"),),
                  unit="s", width=12, stacked=True),
            Panel("Backlog", "Frames seen and not yet judged, by source.",
                  ((f"edge_intake_backlog{{{BOX}}}", "{{source}}"),), width=12),
            Panel("Source reachable", "1 while its folder can be listed.",
                  ((f"edge_source_reachable{{{BOX}}}", "{{source}}"),), width=12, most=1),
        ],
    },
    "instance", "recipe",
)  # fmt: skip

QUALITY = dashboard(
    "edge-quality",
    "edge · quality",
    "What a quality engineer wants to know: do scores and pictures stay those of the calibration.",
    {
        "Scores": [
            Panel("Median score by view", "1.0 is the view's threshold.",
                  ((f"histogram_quantile(0.5, sum by (recipe, view, le) (rate(edge_score_bucket{{{VIEW}}}"
                    "[$__rate_interval])))", "{{recipe}} {{view}}"),), width=12, line_at=True,
                  steps=((None, GREEN), (1, RED))),
            Panel("95 % of scores are below", "By view; what comes near 1.0 will be rejected.",
                  ((f"histogram_quantile(0.95, sum by (recipe, view, le) (rate(edge_score_bucket{{{VIEW}}}"
                    "[$__rate_interval])))", "{{recipe}} {{view}}"),), width=12, line_at=True,
                  steps=((None, GREEN), (1, RED))),
            Panel("Share close to the threshold", "Scores from 0.84 to 1.0, of all: the first to be rejected "
                  "if the picture drifts on.",
                  ((f'(sum by (recipe, view) (rate(edge_score_bucket{{{VIEW},le="1.0"}}[$__rate_interval]))'
                    f' - sum by (recipe, view) (rate(edge_score_bucket{{{VIEW},le="0.8409"}}'
                    "[$__rate_interval]))) / (sum by (recipe, view) (rate(edge_score_count"
                    f"{{{VIEW}}}[$__rate_interval])) > 0)", "{{recipe}} {{view}}"),),
                  unit="percentunit", width=12),
            Panel("Share above the threshold", "By view.",
                  ((f'1 - sum by (recipe, view) (rate(edge_score_bucket{{{VIEW},le="1.0"}}'
                    "[$__rate_interval])) / (sum by (recipe, view) (rate(edge_score_count"
                    f"{{{VIEW}}}[$__rate_interval])) > 0)", "{{recipe}} {{view}}"),),
                  unit="percentunit", width=12),
        ],
        "Drift": [
            Panel("Alarm", "A window of scores is no longer like the calibration's; one alarm an episode.",
                  ((f"edge_drift_alarm{{{VIEW}}}", "{{recipe}} {{view}}"),), kind="bargauge", width=6,
                  most=1, steps=((None, GREEN), (1, RED))),
            Panel("False rejects to be expected", "Share of good frames above the threshold, if the window's "
                  "scores are what is normal now.",
                  ((f"edge_false_reject_forecast_ratio{{{VIEW}}}", "{{recipe}} {{view}}"),),
                  unit="percentunit", width=9),
            Panel("Median of recent scores over that of the calibration", "1 is no change.",
                  ((f"edge_score_drift_ratio{{{VIEW}}}", "{{recipe}} {{view}}"),), width=9, line_at=True,
                  steps=((None, GREEN), (1, GREY))),
            Panel("PSI", "Of a window against the calibration: 0.1 is little, 0.25 much.",
                  ((f"edge_score_psi{{{VIEW}}}", "{{recipe}} {{view}}"),), width=8, line_at=True,
                  steps=((None, GREEN), (0.1, AMBER), (0.25, RED)), least=None),
            Panel("Evidence by Kolmogorov and Smirnov", "-log10 of the p-value: 3 is one in a thousand.",
                  ((f"-log10(clamp_min(edge_score_ks_pvalue{{{VIEW}}}, 1e-12))", "{{recipe}} {{view}}"),),
                  width=8),
            Panel("Evidence that scores changed", "log10 of a test martingale: 6 is one in a million by "
                  "chance.",
                  ((f"edge_exchangeability_martingale{{{VIEW}}}", "{{recipe}} {{view}}"),), width=8,
                  line_at=True, steps=((None, GREEN), (3, AMBER), (6, RED)), least=None),
            Panel("How far the picture is from its gates", "1: in the middle of what the calibration allows; "
                  "0: the next frame is NotDecidable.",
                  ((f"min by (recipe, reason) (edge_picture_margin_ratio{{{VIEW}}})",
                    "{{recipe}} {{reason}}"),), unit="percentunit", width=24, most=1),
        ],
        "Batches": [
            Panel("nQI", "Mean score of the latest batch over that of the calibration's good frames.",
                  ((f"edge_nqi{{{VIEW}}}", "{{recipe}} {{view}}"),), width=8),
            Panel("nQI, weighted over batches (EWMA)", "Slow changes show here first.",
                  ((f"edge_nqi_ewma{{{VIEW}}}", "{{recipe}} {{view}}"),), width=8),
            Panel("Beyond a control limit", "Of the latest batch.",
                  ((f"edge_spc_out_of_control{{{VIEW}}}", "{{recipe}} {{view}}"),), kind="bargauge", width=8,
                  most=1, steps=((None, GREEN), (1, RED))),
        ],
    },
    "instance", "recipe", "view",
)  # fmt: skip

SERVICE = dashboard(
    "edge-service",
    "edge · service",
    "What an administrator wants to know: do verdicts arrive, does the box last.",
    {
        "Now": [
            Panel("Up", "Boxes that answer.", ((f"sum(up{{{BOX},job=\"edge\"}})", "up"),), kind="stat",
                  width=4, height=4, steps=((None, RED), (1, GREEN))),
            Panel("Sinks connected", "The worst of them.", ((f"min(edge_sink_connected{{{BOX}}})", "sinks"),),
                  kind="stat", width=4, height=4, mappings=YES),
            Panel("Verdicts to deliver", "Kept until the receiver has them.",
                  ((f"sum(edge_outbox_depth{{{BOX}}})", "verdicts"),), kind="stat", width=4, height=4,
                  steps=((None, GREEN), (100, AMBER), (10000, RED))),
            Panel("Disk free", "Where state is kept.",
                  ((f"min(edge_disk_free_bytes{{{BOX}}})", "free"),), kind="stat", unit="bytes", width=4,
                  height=4, steps=((None, RED), (2e9, AMBER), (1e10, GREEN))),
            Panel("Up for", "Since the last start.",
                  ((f'time() - max(process_start_time_seconds{{{BOX},job="edge"}})', "up"),), kind="stat",
                  unit="s", width=4, height=4),
            Panel("Damaged databases", "Set aside, and still there.",
                  ((f"sum(edge_database_set_aside{{{BOX}}})", "files"),), kind="stat", width=4, height=4,
                  steps=((None, GREEN), (1, RED))),
        ],
        "Delivery": [
            Panel("Delivered", "Verdicts a second, acknowledged.",
                  ((f"sum by (sink) (rate(edge_outbox_delivered_total{{{BOX}}}[$__rate_interval]))",
                    "{{sink}}"),), width=8),
            Panel("Waiting", "By sink.", ((f"edge_outbox_depth{{{BOX}}}", "{{sink}}"),), width=8),
            Panel("The oldest waits for", "By sink.",
                  ((f"edge_outbox_oldest_seconds{{{BOX}}}", "{{sink}}"),), unit="s", width=8),
            Panel("Refused", "In five minutes: an ACL, a limit, another format.",
                  ((f"increase(edge_outbox_refused_total{{{BOX}}}[5m])", "{{sink}}"),), width=8),
            Panel("Pictures not kept", "In five minutes, by reason.",
                  ((f"sum by (reason) (increase(edge_evidence_skipped_total{{{BOX}}}[5m]))", "{{reason}}"),),
                  width=8),
            Panel("Configurations", "Taken over and refused, in five minutes.",
                  ((f"increase(edge_reloads_total{{{BOX}}}[5m])", "taken over"),
                   (f"increase(edge_reload_failures_total{{{BOX}}}[5m])", "refused")), width=8),
        ],
        "Process": [
            Panel("Memory", "Resident, without the decode workers.",
                  ((f'process_resident_memory_bytes{{{BOX},job="edge"}}', "{{instance}}"),), unit="bytes",
                  width=8),
            Panel("CPU", "Cores, without the decode workers.",
                  ((f'rate(process_cpu_seconds_total{{{BOX},job="edge"}}[$__rate_interval])',
                    "{{instance}}"),), width=8),
            Panel("Open files", "", ((f'process_open_fds{{{BOX},job="edge"}}', "{{instance}}"),), width=8),
            Panel("Workers replaced", "In five minutes: died, or took too long.",
                  ((f"increase(edge_worker_restarts_total{{{BOX}}}[5m])", "{{instance}}"),), width=8),
            Panel("Engines lost", "In an hour.",
                  ((f"increase(edge_engine_losses_total{{{BOX}}}[1h])", "{{recipe}}"),), width=8),
            Panel("Disk free", "Where state is kept.",
                  ((f"edge_disk_free_bytes{{{BOX}}}", "{{path}}"),), unit="bytes", width=8),
            Panel("Engines", "Which judge now.", ((f"edge_bundle_info{{{BOX}}}", ""),), kind="table",
                  width=16, height=4),
            Panel("Versions", "", ((f"edge_build_info{{{BOX}}}", ""),), kind="table", width=8,
                  height=4),
        ],
    },
    "instance",
)  # fmt: skip

DASHBOARDS = {"line": LINE, "quality": QUALITY, "service": SERVICE}


def text_of(document: dict[str, Any]) -> str:
    """As it is kept in the repository."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, document in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(text_of(document))
