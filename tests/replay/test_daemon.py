"""A daemon that is asked for a replay over HTTP."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from edge.testing import write_frame
from tests.brokers import free_port, until
from tests.replay.sites import scaled_calibration
from tests.sites import DaemonProcess, make_recipe, write_config

pytestmark = pytest.mark.slow


def test_frames_of_a_running_daemon_are_replayed_while_it_goes_on(tmp_path: Path) -> None:
    from edge import config as configuration

    make_recipe(tmp_path)
    port = free_port()
    file = write_config(tmp_path, free_port(), port)
    file.write_text(file.read_text().replace("[mqtt]", "[mqtt]\nenabled = false"))
    scaled_calibration(configuration.load(file), "lax", 50.0)
    for number in range(3):
        write_frame(tmp_path / "incoming" / "B1" / f"P{number}_01.png", defect=number == 0, seed=number)
    daemon = DaemonProcess(file, port).ready()
    try:
        until(lambda: len(verdicts(daemon)) == 3, "three verdicts", 30)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/v1/replays",
            json.dumps({"recipe": "blur", "calibration": "lax"}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 202
            name = json.loads(answer.read())["id"]
        until(lambda: replay(daemon)["state"] != "running", "end of the replay", 60)
        assert replay(daemon) | {"createdAt": ""} == {
            "id": name, "recipe": "blur", "createdAt": "", "state": "done", "frames": 3, "flips": 1,
            "error": None,
        }  # fmt: skip
        status, report = daemon.get(f"/replays/{name}/report.html")
        assert status == 200
        assert "Would pass now" in report
        assert len(verdicts(daemon)) == 3  # nothing was added to the site
    finally:
        daemon.stop()


def verdicts(daemon: DaemonProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(daemon.get("/api/v1/verdicts?type=frame")[1])
    return [one for one in found if one["resultType"] == "frame"]


def replay(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.get("/api/v1/replays")[1])["replays"][0]
    return found
