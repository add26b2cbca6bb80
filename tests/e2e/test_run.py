"""The daemon as its user runs it: its own process, real files, a real Mosquitto."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from edge.publish.schema import verdict_schema
from edge.testing import write_frame
from tests.brokers import until
from tests.e2e.conftest import Site

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]


def arrive(site: Site, name: str, *, defect: bool = False, seed: int = 0) -> None:
    """A frame written as a well-behaved scanner does: under another name, then renamed."""
    temporary = write_frame(site.folder / "scratch.png", defect=defect, seed=seed)
    target = site.folder / "incoming" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, target)


def frames(site: Site) -> dict[str, dict[str, Any]]:
    """Frame verdicts by path; the last one of each."""
    verdicts = [json.loads(body) for body in site.subscriber.bodies("result/frame")]
    return {verdict["image"]["path"]: verdict for verdict in verdicts}


def parts(site: Site) -> list[dict[str, Any]]:
    return [json.loads(body) for body in site.subscriber.bodies("result/part")]


def retained(site: Site, topic: str) -> Any:
    bodies = site.subscriber.bodies(topic)
    return bodies[-1] if bodies else None


def test_frames_of_a_part_become_verdicts_on_the_broker(site: Site) -> None:
    daemon = site.start()
    arrive(site, "B1/P1_01.png")
    arrive(site, "B1/P1_02.png", defect=True, seed=1)
    until(lambda: len(frames(site)) == 2 and parts(site), "two frames and a part")
    good, bad = frames(site)["B1/P1_01.png"], frames(site)["B1/P1_02.png"]
    assert (good["resultEvaluation"], bad["resultEvaluation"]) == ("OK", "NotOK")
    assert (bad["partId"], bad["batchId"], bad["view"]) == ("P1", "B1", "02")
    x, y, w, h = bad["defects"][0]["bbox"]
    assert x < 26 < x + w
    assert y < 16 < y + h
    (part,) = parts(site)
    assert (part["resultEvaluation"], part["isPartial"]) == ("NotOK", False)
    for verdict in (good, bad, part):
        jsonschema.validate(verdict, verdict_schema())
    assert (site.folder / "var" / "evidence" / bad["evidence"] / "overlay.jpg").is_file()
    assert retained(site, "available") == b"online"
    assert json.loads(retained(site, "info"))["recipes"]["blur"]["bundleSha256"] == good["model"]["sha256"]
    exposition = daemon.get("/metrics")[1]
    assert 'edge_frames_total{evaluation="NotOK",recipe="blur",source="scanner"} 1.0' in exposition
    code, seconds = daemon.stop()
    assert code == 0
    assert seconds < 10
    until(lambda: retained(site, "available") == b"offline", "offline before disconnecting")


def test_slow_truncated_and_unnamed_frames_get_what_they_deserve(site: Site) -> None:
    site.start()
    whole = write_frame(site.folder / "scratch.png").read_bytes()
    incoming = site.folder / "incoming" / "B1"
    incoming.mkdir()
    (incoming / "P9_01.png").write_bytes(whole[: len(whole) // 2])
    (incoming / "nonsense.png").write_bytes(whole)
    slow = incoming / "P2_01.png"
    slow.write_bytes(whole[:100])
    for end in (300, 900, len(whole)):  # pauses longer than the settle time
        before = len(frames(site))
        until(lambda n=before: len(frames(site)) > n or _waited(site, 0.6), "a pause")
        assert "B1/P2_01.png" not in frames(site)
        with slow.open("ab") as stream:
            stream.write(whole[slow.stat().st_size : end])
    until(lambda: len(frames(site)) == 3, "three verdicts")
    seen = frames(site)
    assert seen["B1/P2_01.png"]["resultEvaluation"] == "OK"
    assert seen["B1/P9_01.png"]["reasons"] == ["truncated"]
    assert seen["B1/nonsense.png"]["reasons"] == ["name_unmatched"]
    assert seen["B1/P9_01.png"]["resultEvaluation"] == "NotDecidable"


_clock: dict[int, float] = {}


def _waited(site: Site, seconds: float) -> bool:
    """True once every `seconds`: lets the daemon see a pause in a slow write."""
    import time

    since = _clock.setdefault(id(site), time.monotonic())
    if time.monotonic() - since < seconds:
        return False
    del _clock[id(site)]
    return True


def test_a_missing_view_makes_the_part_partial(site: Site) -> None:
    site.start()
    arrive(site, "B1/P1_01.png")
    until(lambda: parts(site), "the part's timeout")
    assert parts(site)[0]["missingViews"] == ["02"]
    assert parts(site)[0]["isPartial"] is True


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_a_backlog_is_worked_off_in_the_configured_order(site: Site, order: str) -> None:
    for number in range(12):
        arrive(site, f"B1/P{number:02d}_01.png", seed=number)
        os.utime(site.folder / "incoming" / f"B1/P{number:02d}_01.png", (number, number))
    site.configure(order=order)
    site.start()
    until(lambda: len(frames(site)) == 12, "the backlog")
    seen = [json.loads(body)["partId"] for body in site.subscriber.bodies("result/frame")]
    assert seen == sorted(seen, reverse=order == "newest")


def test_a_burst_survives_a_restart_of_the_broker(site: Site) -> None:
    daemon = site.start()
    for number in range(120):
        arrive(site, f"B1/P{number:03d}_01.png", seed=number)
        if number == 40:
            until(lambda: len(frames(site)) > 3, "the first verdicts")
            site.broker.stop()
        if number == 90:
            site.broker.start()
    until(lambda: len(frames(site)) == 120, "all verdicts", 60)
    by_path: dict[str, set[str]] = {}
    for body in site.subscriber.bodies("result/frame"):
        verdict = json.loads(body)
        by_path.setdefault(verdict["image"]["path"], set()).add(verdict["resultId"])
    assert all(len(ids) == 1 for ids in by_path.values())
    until(lambda: daemon.status()["outbox"]["mqtt"]["depth"] == 0, "the outbox is empty")


def test_kill_9_costs_no_frame_and_gives_each_one_stored_verdict(site: Site) -> None:
    for number in range(60):
        arrive(site, f"B1/P{number:03d}_01.png", seed=number)
    for kills in range(3):
        daemon = site.start()
        until(lambda k=kills: len(frames(site)) > 10 * k, "some progress")
        daemon.kill()
    site.start()
    until(lambda: len(frames(site)) == 60, "all verdicts", 60)
    database = sqlite3.connect(f"file:{site.folder}/var/edge.sqlite3?mode=ro", uri=True)
    stored = database.execute(
        "SELECT path, count(*) FROM verdicts WHERE type='frame' GROUP BY path"
    ).fetchall()
    database.close()
    assert len(stored) == 60
    assert {count for _, count in stored} == {1}


def test_a_bad_reload_keeps_the_old_configuration_and_a_good_one_is_taken(site: Site) -> None:
    daemon = site.start()
    config: Path = site.folder / "config.toml"
    good = config.read_text()
    config.write_text(good.replace("settle_s", "setle_s"))
    daemon.signal(signal.SIGHUP)
    until(lambda: (daemon.status()["lastReload"] or {}).get("ok") is False, "the refusal is visible")
    assert "setle_s" in daemon.status()["lastReload"]["error"]
    assert daemon.status()["ready"]
    config.write_text(good.replace('"01", "02"', '"01"'))
    daemon.signal(signal.SIGHUP)
    until(lambda: _reloaded(daemon), "the new configuration")
    arrive(site, "B1/P1_01.png")
    until(lambda: parts(site), "a part of one view")
    assert parts(site)[0]["resultEvaluation"] == "OK"


def _reloaded(daemon: Any) -> bool:
    code, body = daemon.get("/api/v1/status")
    return code == 200 and (json.loads(body)["lastReload"] or {}).get("ok") is True


def test_requests_are_answered(site: Site) -> None:
    daemon = site.start()
    # it subscribes before it says so; a request that nobody is subscribed for is lost
    until(lambda: retained(site, "available") == b"online", "online")
    site.subscriber.publish("edge/st/request/status", b"")
    until(lambda: retained(site, "response/status"), "an answer")
    assert json.loads(retained(site, "response/status"))["ready"] is True
    site.subscriber.publish("edge/st/request/rescan", b"")
    until(lambda: retained(site, "response/rescan"), "an answer")
    site.subscriber.publish("edge/st/request/dance", b"")
    until(lambda: retained(site, "response/dance"), "an answer")
    assert json.loads(retained(site, "response/dance"))["ok"] is False
    site.subscriber.publish("edge/st/request/reload", b"")
    until(lambda: retained(site, "response/reload"), "an answer")
    until(lambda: _reloaded(daemon), "the reload")


def test_a_second_daemon_on_the_site_is_refused(site: Site) -> None:
    site.start()
    command = [sys.executable, "-m", "edge", "run", "--config", str(site.folder / "config.toml")]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 75
    assert "another edge daemon runs on this site" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_source_that_is_not_there_is_not_ready_until_it_is(site: Site) -> None:
    (site.folder / "incoming").rmdir()
    from tests.sites import DaemonProcess

    daemon = DaemonProcess(site.folder / "config.toml", site.http_port)
    site.daemons.append(daemon)
    until(lambda: daemon.get("/readyz")[0] == 503 and "incoming" in daemon.get("/readyz")[1], "not ready")
    (site.folder / "incoming").mkdir()
    daemon.ready()
    arrive(site, "B1/P1_01.png")
    until(lambda: frames(site), "a verdict")


def test_check_and_status_speak_to_a_person_and_to_programs(site: Site) -> None:
    def edge(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge", *arguments, "--config", str(site.folder / "config.toml")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert edge("check").returncode == 0
    assert edge("status").returncode == 69
    site.start()
    shown = edge("status")
    assert shown.returncode == 0
    assert "ready" in shown.stdout
    assert json.loads(edge("status", "--json").stdout)["station"] == "st"
    calibration = site.folder / "calibration"
    calibration.unlink()
    broken = edge("check", "--json")
    assert broken.returncode == 65
    (problem,) = json.loads(broken.stdout)["problems"]
    assert "blur.json: not there" in problem["message"]


def test_a_reload_that_cannot_start_goes_back_to_what_ran(site: Site) -> None:
    daemon = site.start()
    config: Path = site.folder / "config.toml"
    config.write_text(config.read_text().replace(str(site.http_port), str(site.broker.port)))
    daemon.signal(signal.SIGHUP)
    until(lambda: _refused(daemon), "the refusal is visible")
    daemon.ready()
    arrive(site, "B1/P1_01.png")
    until(lambda: frames(site), "it inspects as before")


def _refused(daemon: Any) -> bool:
    code, body = daemon.get("/api/v1/status")
    return code == 200 and (json.loads(body)["lastReload"] or {}).get("ok") is False


def test_a_stop_that_cannot_wait_for_a_frame_gives_it_no_verdict(site: Site) -> None:
    config: Path = site.folder / "config.toml"
    config.write_text(config.read_text().replace("decode_workers = 1", "decode_workers = 1\ndrain_s = 0.01"))
    daemon = site.start()
    rng = np.random.default_rng(0)
    big = rng.integers(0, 255, (6000, 6000), np.uint8)  # some seconds of decoding and inference
    cv2.imwrite(str(site.folder / "big.png"), big)
    os.replace(site.folder / "big.png", site.folder / "incoming" / "P1_01.png")
    until(lambda: "frames_total" in daemon.get("/metrics")[1] or _waited(site, 0.7), "the frame is taken")
    code, seconds = daemon.stop()
    assert code == 0
    assert seconds < 10
    database = sqlite3.connect(f"file:{site.folder}/var/edge.sqlite3?mode=ro", uri=True)
    reasons = [json.loads(p)["reasons"] for (p,) in database.execute("SELECT payload FROM verdicts")]
    database.close()
    assert ["unreadable"] not in reasons
    site.configure(template="{part}_{view}")
    site.start()
    until(lambda: frames(site), "the next start judges it", 60)
    assert frames(site)["P1_01.png"]["reasons"] != ["unreadable"]
