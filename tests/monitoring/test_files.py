"""The alerts and dashboards that are shipped: well formed, about metrics that exist, and explained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edge.observe.metrics import Metrics
from tests.monitoring.servers import require
from tests.observe.test_metrics import use_all

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
DASHBOARDS = sorted((MONITORING / "grafana/dashboards").glob("*.json"))
NAME = re.compile(r"\b((?:edge|process)_[a-z0-9_]+)\b")
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


def exposed() -> set[str]:
    metrics = Metrics(CollectorRegistry())
    use_all(metrics)
    text = generate_latest(metrics.registry).decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def expressions(document: Any) -> list[str]:
    """Everything under a key `expr` or a variable's `query`."""
    if isinstance(document, dict):
        own = [
            value for key, value in document.items() if key in ("expr", "query") and isinstance(value, str)
        ]
        return own + [one for value in document.values() for one in expressions(value)]
    return [one for item in document for one in expressions(item)] if isinstance(document, list) else []


def test_rules_and_configuration_are_valid_and_alerts_fire_when_they_must() -> None:
    promtool = require("promtool")
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            [promtool, *words], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_explained() -> None:
    tests = (MONITORING / "alerts_test.yml").read_text()
    page = (ROOT / "docs/monitoring.md").read_text()
    for alert in ALERTS:
        assert alert["alert"] in tests
        assert f"`{alert['alert']}`" in page
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert set(alert["annotations"]) == {"summary", "description"}


def test_rules_and_dashboards_ask_for_metrics_that_exist() -> None:
    known = exposed()
    asked = {name for rule in expressions(RULES) for name in NAME.findall(rule)}
    for file in DASHBOARDS:
        asked |= {name for query in expressions(json.loads(file.read_text())) for name in NAME.findall(query)}
    assert len(asked) > 20
    assert asked - known - {"edge_build_info", "edge_bundle_info"} == set()


def test_every_metric_is_on_a_dashboard() -> None:
    asked = {
        name
        for file in DASHBOARDS
        for query in expressions(json.loads(file.read_text()))
        for name in NAME.findall(query)
    }
    own = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed() if name.startswith("edge_")}
    own -= {name for name in own if name.endswith("_created")}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert own - shown == set()


def test_dashboards_are_those_that_their_script_makes(tmp_path: Path) -> None:
    shutil.copy(MONITORING / "make_dashboards.py", tmp_path)
    subprocess.run([sys.executable, str(tmp_path / "make_dashboards.py")], check=True, timeout=60)
    made = sorted((tmp_path / "grafana/dashboards").glob("*.json"))
    assert [file.name for file in made] == [file.name for file in DASHBOARDS]
    for new, kept in zip(made, DASHBOARDS, strict=True):
        assert new.read_text() == kept.read_text(), "run python monitoring/make_dashboards.py"


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_takes_any_data_source_and_no_two_panels_lie_on_each_other(file: Path) -> None:
    document = json.loads(file.read_text())
    assert document["templating"]["list"][0]["type"] == "datasource"
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"]
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
