"""`python -m bench.recovery`: how soon the daemon is ready after a death, and how soon a hang is noticed."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench import machine
from bench.section import table
from edge.record.store import Store
from edge.testing import write_frame
from edge.types import Identity, Verdict
from tests.brokers import Mosquitto, until
from tests.sites import DaemonProcess, free_port, make_recipe, write_config
from tests.torture.shim import Shim

STARTS = 10
HISTORY = 100_000  # verdicts that are stored already


class HangingDaemon(DaemonProcess):
    """Its engine never answers for frames 96 pixels wide."""

    module = "tests.torture.hanging_daemon"


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.parse_args(arguments)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, commit {machine.commit()}, {machine.describe()}. "
        f"`{shlex.join(['python', '-m', 'bench.recovery'])}`",
        "",
        *table(["what", "measured"], [[what, said] for what, said in measured()]),
    ]
    print(*lines, sep="\n")
    return 0


def measured() -> Iterator[tuple[str, str]]:
    """Rows of the table, each measured in a site of its own."""
    with site() as (folder, broker, port):
        _history(folder / "var/edge.sqlite3")
        starts = [_restart(folder, port) for _ in range(STARTS)]
        yield (
            f"`kill -9` to ready again, {STARTS} times, {HISTORY:,} verdicts stored",
            f"{statistics.median(starts):.1f} s (highest {max(starts):.1f} s)",
        )
        del broker
    for what, hang in (
        ("a decode worker is stopped (SIGSTOP) while it waits", _stopped_worker),
        ("the broker stands still while a verdict waits", _frozen_broker),
        ("the source's mount stops answering: `/readyz`", _hanging_mount),
        ("the engine does not answer: `/healthz`, and systemd's watchdog is not fed", _hanging_engine),
    ):
        with site() as (folder, broker, port):
            yield f"{what}: noticed after", f"{hang(folder, broker, port):.1f} s"


@contextmanager
def site() -> Iterator[tuple[Path, Mosquitto, int]]:
    """(folder, broker, HTTP port) with shipped settings."""
    with tempfile.TemporaryDirectory(prefix="edge-recovery-") as name:
        folder, port = Path(name), free_port()
        make_recipe(folder)
        broker = Mosquitto(folder / "broker").start()
        write_config(folder, broker.port, port)
        try:
            yield folder, broker, port
        finally:
            broker.kill()


@contextmanager
def running(daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """Ready, and killed in the end."""
    try:
        yield daemon.ready()
    finally:
        daemon.kill()


def _restart(folder: Path, port: int) -> float:
    with running(DaemonProcess(folder / "config.toml", port)):
        pass
    began_s = time.monotonic()
    with running(DaemonProcess(folder / "config.toml", port)):
        return time.monotonic() - began_s


def _since(hang: Callable[[], object], noticed: Callable[[], object]) -> float:
    hang()
    began_s = time.monotonic()
    until(noticed, "it is noticed", 120)
    return time.monotonic() - began_s


def _arrive(folder: Path, name: str, *, wide: bool = False) -> None:
    scratch = write_frame(folder / "scratch.png", size=(96, 48) if wide else (64, 48), seed=len(name))
    target = folder / "incoming/B1" / name
    target.parent.mkdir(exist_ok=True)
    scratch.replace(target)


def _judged(daemon: DaemonProcess) -> int:
    return sum(daemon.status()["verdicts"]["frame"].values())


def _stopped_worker(folder: Path, broker: Mosquitto, port: int) -> float:
    with running(DaemonProcess(folder / "config.toml", port)) as daemon:
        _arrive(folder, "P1_01.png")
        until(lambda: _judged(daemon) == 1, "the worker is there")
        for child in psutil.Process(daemon.process.pid).children(recursive=True):
            os.kill(child.pid, signal.SIGSTOP)
        return _since(lambda: _arrive(folder, "P22_01.png"), lambda: _judged(daemon) == 2)


def _frozen_broker(folder: Path, broker: Mosquitto, port: int) -> float:
    with running(DaemonProcess(folder / "config.toml", port)) as daemon:
        until(lambda: daemon.status()["outbox"]["mqtt"]["connected"], "connected")
        broker.freeze()
        try:
            return _since(
                lambda: _arrive(folder, "P1_01.png"),
                lambda: not daemon.status()["outbox"]["mqtt"]["connected"],
            )
        finally:
            broker.thaw()


def _hanging_mount(folder: Path, broker: Mosquitto, port: int) -> float:
    shim = Shim(folder / "incoming")
    try:
        with running(DaemonProcess(folder / "config.toml", port, shim.env)) as daemon:
            took_s = _since(lambda: (shim.hang("*"), shim.hang("")), lambda: daemon.get("/readyz")[0] == 503)
            shim.clear()
            return took_s
    finally:
        shim.close()


def _hanging_engine(folder: Path, broker: Mosquitto, port: int) -> float:
    """systemd is played by a socket: what it hears last says when it would begin to count."""
    heard = [time.monotonic()]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.settimeout(0.1)
        environ = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "10000000"}
        daemon = HangingDaemon(folder / "config.toml", port, environ)

        def silent() -> bool:
            try:
                if b"WATCHDOG=1" in systemd.recv(4096):
                    heard.append(time.monotonic())
            except TimeoutError:
                pass
            return daemon.get("/healthz")[0] == 503

        with running(daemon):
            took_s = _since(lambda: _arrive(folder, "P1_01.png", wide=True), silent)
        print(
            json.dumps({"last fed before /healthz said so, s": round(time.monotonic() - heard[-1], 1)}),
            file=sys.stderr,
        )
        return took_s


def _history(database: Path) -> None:
    store = Store(database)
    image = {"path": "B0/P.png", "sha256": "", "width": 64, "height": 48, "bits": 8}
    with store.transaction():
        for number in range(HISTORY):
            payload = {"image": image, "padding": "x" * 1000}
            result_id = f"01J{number:023d}"
            who = Identity(f"P{number}", "01", "B0")
            verdict = Verdict(result_id, "frame", "blur", "OK", who, 1.7e9 + number, payload)
            store.add_verdict(verdict, json.dumps(payload).encode(), "scanner")
    store.close()


if __name__ == "__main__":
    sys.exit(main())
