"""Every panel of every dashboard, asked of a real Prometheus that scrapes a real daemon under load."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.testing import write_frame
from tests.brokers import Mosquitto, require_mosquitto, until
from tests.monitoring.servers import Prometheus, filled_in
from tests.monitoring.test_files import DASHBOARDS, MONITORING
from tests.sites import VIEWS, DaemonProcess, free_port, make_recipe, write_config

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]

# of these nothing is to be seen where all is well, and a query over them may give no series
QUIET: frozenset[str] = frozenset()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    require_mosquitto()
    folder = tmp_path_factory.mktemp("site")
    make_recipe(folder)
    broker = Mosquitto(folder / "broker").start()
    port = free_port()
    config = write_config(folder, broker.port, port)
    config.write_text(config.read_text() + "[drift]\nmin_frames = 20\n")
    daemon = DaemonProcess(config, port).ready()
    stop = threading.Event()
    feeding = threading.Thread(target=feed, args=(folder, stop))
    server = Prometheus(folder / "prometheus", port, MONITORING / "alerts.yml")
    feeding.start()
    try:
        until(lambda: has_run(server), "twenty seconds of frames, parts and files set aside", 120)
        yield server
    finally:
        stop.set()
        feeding.join()
        server.stop()
        daemon.kill()
        broker.stop()


def feed(folder: Path, stop: threading.Event) -> None:
    """Parts of two views, some with a defect, and now and then a file that breaks off."""
    number = 0
    while not stop.wait(0.1):
        number += 1
        for view in VIEWS:
            frame = write_frame(folder / "scratch.png", defect=number % 10 == 0, seed=number)
            target = folder / f"incoming/B{number // 50}/P{number:04d}_{view}.png"
            target.parent.mkdir(exist_ok=True)
            if number % 15 == 0 and view == VIEWS[0]:
                frame.write_bytes(frame.read_bytes()[:-20])
            frame.rename(target)


def has_run(server: Prometheus) -> bool:
    wanted = (
        "edge_parts_total > 20",
        'edge_frames_total{evaluation="NotOK"} > 3',
        'edge_intake_rejected_total{reason="truncated"} > 1',
        "count_over_time(edge_intake_rejected_total[1m]) > 5",
        "edge_outbox_delivered_total > 50",
        "edge_nqi > 0",
        "edge_drift_alarm >= 0",
        "edge_false_reject_forecast_ratio >= 0",
        "edge_picture_margin_ratio >= 0",
        "count_over_time(edge_ready[1m]) >= 20",
    )
    return all(server.query(one) for one in wanted)


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_every_panel_shows_data(prometheus: Prometheus, file: Path) -> None:
    document = json.loads(file.read_text())
    asked, empty = 0, []
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            asked += 1
            query = filled_in(target["expr"])
            assert "$" not in query
            if not prometheus.query(query) and panel["title"] not in QUIET:
                empty.append(f"{panel['title']}: {query}")
    assert asked > 8
    assert empty == []


def test_the_choices_of_the_dashboards_have_values(prometheus: Prometheus) -> None:
    for query in ("edge_build_info", "edge_bundle_info", 'edge_score_count{recipe=~".*"}'):
        assert prometheus.query(query)


def test_a_line_that_runs_well_is_not_alerted_of(prometheus: Prometheus) -> None:
    firing = {series["metric"]["alertname"] for series in prometheus.query('ALERTS{alertstate="firing"}')}
    # files are set aside on purpose, and frames that no calibration ever saw come by the dozen
    assert firing <= {"EdgeFilesSetAside", "EdgeScoresDrift", "EdgeBatchOutOfControl", "EdgeDriftAlarm"}
