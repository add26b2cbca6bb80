"""Replays as processes of their own: asked for over HTTP, ended at a terminal."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edge.testing import write_frame
from tests.brokers import free_port, until
from tests.replay.sites import make_site, scaled_calibration
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


def test_ctrl_c_at_a_terminal_leaves_a_whole_report(tmp_path: Path) -> None:
    """A real signal, to the command and its decode workers alike, as a terminal sends it."""
    settings = make_site(tmp_path, good=80, defects=0)
    out = tmp_path / "out"
    command = ["replay", "--config", str(settings.file), "--recipe", "blur", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, text=True,
    )  # fmt: skip
    lines = out.with_name(".out.unfinished") / "frames.jsonl"

    def has_begun() -> bool:
        try:
            return process.poll() is not None or lines.stat().st_size > 0
        except FileNotFoundError:  # not yet, or not any more
            return out.exists()

    until(has_begun, "frames on the disk", 60)
    with suppress(ProcessLookupError):  # it was quicker
        os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode in (0, 130), said
    assert not lines.parent.exists()
    if process.returncode == 130 and not out.exists():  # it came while the report was written: then nothing
        return
    document = json.loads((out / "replay.json").read_text())
    assert document["interrupted"] == (process.returncode == 130)
    assert len((out / "frames.jsonl").read_text().splitlines()) == document["frames"] > 0
    assert (out / "report.html").read_text().rstrip().endswith("</html>")
