"""Folders as scanners, networks and people leave them: every complete frame found once, all else said."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from edge.intake.backlog import Backlog
from edge.intake.scan import FolderScan, ScanRule
from edge.intake.source import SourceIntake
from edge.testing import write_frame
from tests.brokers import until
from tests.e2e.conftest import Site
from tests.e2e.test_run import arrive, frames
from tests.intake.test_source import Meter
from tests.sites import DaemonProcess
from tests.torture.shim import Shim

BURST = 50_000


def intake_of(folder: Path, **rule: object) -> tuple[SourceIntake, Backlog]:
    settings: dict[str, object] = {"source": "s", "directory": folder, "include": ("*.png",), "settle_s": 0.1}
    backlog = Backlog({"s": "oldest"})
    scan = FolderScan(ScanRule(**(settings | rule)), recorded=lambda path, stamp: False)  # type: ignore[arg-type]
    return SourceIntake(scan, backlog, watch="native", meter=Meter(), log=structlog.get_logger()), backlog


@pytest.mark.slow
def test_a_burst_of_fifty_thousand_files_is_found_to_the_last(tmp_path: Path) -> None:
    frame = write_frame(tmp_path / "frame.png")
    folder = tmp_path / "in"
    folder.mkdir()
    intake, backlog = intake_of(folder, rescan_s=1.0)
    stop = threading.Event()
    loop = threading.Thread(target=intake.run, args=(stop,))
    loop.start()
    try:
        for number in range(BURST):
            below = folder / f"B{number // 1000:02d}"
            if number % 1000 == 0:
                below.mkdir()
            os.link(frame, below / f"{number:05d}.png")
        until(lambda: len(backlog) >= BURST, "all are found", 120)
    finally:
        stop.set()
        intake.wake()
        loop.join()
    found = {candidate.path for candidate in iter(backlog.take, None)}
    assert len(found) == BURST
    assert len(backlog) == 0  # and none twice


def test_where_the_system_watches_no_more_folders_they_are_listed_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("edge.intake.source.NativeWatch", no_more)
    intake, backlog = intake_of(tmp_path, rescan_s=1.0, settle_s=0.0)
    with structlog.testing.capture_logs() as lines:
        intake._log = structlog.get_logger()
        intake.step(0.0)
        write_frame(tmp_path / "a.png")
        intake.step(1.0)
        intake.step(2.0)
    assert len(backlog) == 1
    (warning,) = [line for line in lines if line["event"] == "source.watch_failed"]
    assert "max_user_watches" in warning["hint"]


def test_a_folder_that_must_be_mounted_and_is_not_is_unavailable_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = {tmp_path}
    monkeypatch.setattr(os.path, "ismount", lambda path: path in mounted)
    intake, backlog = intake_of(tmp_path, rescan_s=1.0, settle_s=0.0, mount=tmp_path)
    write_frame(tmp_path / "a.png")
    intake.step(0.0)
    assert len(backlog) == 1
    mounted.clear()
    (tmp_path / "a.png").rename(tmp_path.parent / "away.png")  # an empty mount point
    with pytest.raises(Exception, match="nothing is mounted"):
        intake.step(2.0)
    assert "nothing is mounted" in intake.trouble(2.0)
    mounted.add(tmp_path)
    (tmp_path.parent / "away.png").rename(tmp_path / "a.png")
    intake.step(4.0)
    assert intake.trouble(4.0) == ""
    assert len(backlog) == 1


@pytest.mark.slow
@pytest.mark.mosquitto
@pytest.mark.parametrize("times", ["kept", "changed"])
def test_an_unmounted_folder_that_comes_back_brings_no_verdicts_a_second_time(
    site: Site,
    times: str,
) -> None:
    daemon = site.start()
    for number in range(10):
        arrive(site, f"B1/P{number}_01.png", seed=number)
    until(lambda: len(frames(site)) == 10, "ten verdicts")
    away, incoming = site.folder / "away", site.folder / "incoming"
    incoming.rename(away)
    incoming.mkdir()  # the mount point without its mount
    until(lambda: daemon.status()["backlog"]["scanner"]["waiting"] == 0, "an empty folder was listed")
    time.sleep(1.0)  # three rescans
    incoming.rmdir()
    if times == "changed":  # some network file systems round
        for file in away.rglob("*.png"):
            os.utime(file, (1e9, 1e9))
    away.rename(incoming)
    arrive(site, "B1/P99_01.png", seed=99)
    until(lambda: len(frames(site)) == 11, "the new frame")
    time.sleep(1.0)
    assert daemon.status()["verdicts"]["frame"] == {"OK": 11}
    assert len(site.subscriber.bodies("result/frame")) == 11


@pytest.fixture
def network(site: Site) -> Iterator[Shim]:
    """A second source, `ct`, on a network mount that may hang."""
    folder = site.folder / "network"
    folder.mkdir()
    with (site.folder / "config.toml").open("a") as config:
        config.write(
            '[[source]]\nname = "ct"\ndirectory = "network"\nrecipe = "blur"\nwatch = "polling"\n'
            'template = "{batch}/{part}_{view}"\nsettle_s = 0.2\nrescan_s = 0.3\n'
        )
    shim = Shim(folder)
    yield shim
    shim.close()


def start(site: Site, shim: Shim) -> DaemonProcess:
    daemon = DaemonProcess(site.folder / "config.toml", site.http_port, shim.env)
    site.daemons.append(daemon)
    return daemon.ready()


@pytest.mark.slow
@pytest.mark.mosquitto
def test_a_mount_that_hangs_while_it_is_listed_stops_no_other_source(site: Site, network: Shim) -> None:
    daemon = start(site, network)
    network.hang("*")
    network.hang("")
    for number in range(3):
        arrive(site, f"B1/P{number}_01.png", seed=number)
    until(lambda: len(frames(site)) == 3, "the other source's verdicts")
    until(lambda: daemon.get("/readyz")[0] == 503, "it is said", 30)
    assert "has not answered for" in daemon.get("/readyz")[1]
    assert daemon.get("/healthz")[0] == 200  # no reason to be started again
    network.clear()
    until(lambda: daemon.get("/readyz")[0] == 200, "the mount is back")
    code, seconds = daemon.stop()
    assert code == 0
    assert seconds < 10


@pytest.mark.slow
@pytest.mark.mosquitto
def test_a_mount_that_hangs_while_it_is_read_stops_no_other_source_and_condemns_no_file(
    site: Site,
    network: Shim,
) -> None:
    config = site.folder / "config.toml"
    config.write_text(
        config.read_text().replace("decode_workers = 1", "decode_workers = 1\ndecode_timeout_s = 2")
    )
    daemon = start(site, network)
    network.hang("*.png")  # folders can be listed; the scan's own look at a file does not come back either
    write_frame(network.folder / "scratch.png").rename(network.folder / "P7_01.png")
    for number in range(5):
        arrive(site, f"B1/P{number}_01.png", seed=number)
    until(lambda: len(frames(site)) == 5, "the other source's verdicts", 30)
    until(lambda: daemon.get("/readyz")[0] == 503, "it is said", 30)
    network.clear()
    until(lambda: daemon.get("/readyz")[0] == 200, "the mount is back", 60)


@pytest.mark.slow
@pytest.mark.mosquitto
def test_oddities_are_said_and_frames_among_them_are_judged(site: Site) -> None:
    site.configure(template="{part}_{view}")
    incoming = site.folder / "incoming"
    good = write_frame(site.folder / "scratch.png").read_bytes()
    other = write_frame(site.folder / "scratch.png", seed=5).read_bytes()
    outside = site.folder / "outside.png"
    outside.write_bytes(good)
    judged = {
        "caf\udce9_01.png": good,  # Latin-1
        "two\nlines_01.png": good,
        "n" * (255 - len("_01.png")) + "_01.png": good,
        "\t<b>&quot;_01.png": good,
        "UPPER_01.PNG": other,
    }
    for name, content in judged.items():
        (incoming / name).write_bytes(content)
    (incoming / "link_01.png").symlink_to("UPPER_01.PNG")  # inside: a frame under another name
    (incoming / "leaves_01.png").symlink_to(outside)
    (incoming / "dotted_01.png").symlink_to("../outside.png")
    (incoming / "loop_01.png").symlink_to("loop_01.png")
    (incoming / "etc_01.png").symlink_to("/etc/hostname")
    os.mkfifo(incoming / "pipe_01.png")
    (incoming / "folder_01.png").mkdir()
    (incoming / "null_01.png").symlink_to("/dev/zero")
    (incoming / "empty_01.png").touch()
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(incoming)  # the path of a socket must be short
        try:
            listening.bind("socket_01.png")
        finally:
            os.chdir(here)
        daemon = site.start()
        until(
            lambda: len(frames(site)) == len(judged) + 2, "verdicts"
        )  # and the inner link, and the empty one
    seen = frames(site)
    assert seen.pop("empty_01.png")["reasons"] == ["empty"]
    assert {verdict["resultEvaluation"] for verdict in seen.values()} == {"OK"}
    assert "caf\\udce9_01.png" in seen
    exposition = daemon.get("/metrics")[1]
    assert 'edge_intake_rejected_total{reason="link_leaves_source",source="scanner"} 4.0' in exposition
    assert 'edge_intake_rejected_total{reason="not_a_file",source="scanner"} 2.0' in exposition
    assert daemon.get("/readyz")[0] == 200


@pytest.mark.slow
@pytest.mark.mosquitto
def test_files_that_vanish_or_are_replaced_leave_only_what_was_really_there(site: Site) -> None:
    """A writer that replaces and removes files all the time; whatever is judged was once a whole file."""
    daemon = site.start()
    incoming = site.folder / "incoming/B1"
    incoming.mkdir()
    for round_ in range(60):
        for number in range(4):
            scratch = write_frame(site.folder / "scratch.png", seed=1000 * number + round_)
            os.replace(scratch, incoming / f"P{number}_01.png")
        if round_ % 3 == 2:
            (incoming / f"P{round_ % 4}_01.png").unlink(missing_ok=True)
        time.sleep(0.05)
    for number in range(4):
        scratch = write_frame(site.folder / "scratch.png", seed=77 + number)
        os.replace(scratch, incoming / f"P{number}_01.png")
    last = {f"B1/P{n}_01.png": _sha256(incoming / f"P{n}_01.png") for n in range(4)}
    until(
        lambda: {path: v["image"]["sha256"] for path, v in frames(site).items()} == last,
        "the last content of each is judged",
    )
    until(lambda: daemon.status()["backlog"]["scanner"]["waiting"] == 0, "nothing waits")
    database = sqlite3.connect(f"file:{site.folder}/var/edge.sqlite3?mode=ro", uri=True)
    rows = database.execute("SELECT payload FROM verdicts WHERE type = 'frame'").fetchall()
    database.close()
    contents = [(v["image"]["path"], v["image"]["sha256"]) for v in (json.loads(row[0]) for row in rows)]
    assert len(set(contents)) == len(contents)  # one verdict for a content
    assert all(json.loads(row[0])["resultEvaluation"] == "OK" for row in rows)


def _sha256(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.mosquitto
def test_a_copy_that_reserves_its_space_first_is_waited_for(site: Site) -> None:
    site.start()
    whole = write_frame(site.folder / "scratch.png").read_bytes()
    target = site.folder / "incoming/B1/P1_01.png"
    target.parent.mkdir()
    with target.open("wb") as stream:
        stream.truncate(len(whole))  # full size at once, zeros
        stream.flush()
        for start in range(0, len(whole), len(whole) // 4 + 1):
            time.sleep(0.5)  # longer than the settle time
            assert frames(site) == {}
            stream.write(whole[start : start + len(whole) // 4 + 1])
            stream.flush()
    until(lambda: frames(site), "the verdict")
    assert frames(site)["B1/P1_01.png"]["resultEvaluation"] == "OK"
    assert len(site.subscriber.bodies("result/frame")) == 1
