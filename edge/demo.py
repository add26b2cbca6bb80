"""`edge demo`: simulated scanner, embedded broker and daemon, from nothing to verdicts in a terminal."""

from __future__ import annotations

import json
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from edge.errors import UnavailableError, UsageError
from edge.simulate.board import board, counts, plain_line, truth_line
from edge.simulate.broker import HOST, EmbeddedBroker, free_port
from edge.simulate.ledger import Entry, Ledger
from edge.simulate.process import Daemon, get
from edge.simulate.scanner import Scanner
from edge.simulate.shots import ALL_VIEWS, Mix, Shot, stream
from edge.simulate.signals import stop_on_signals
from edge.simulate.site import SETTLE_S, Site, shipped_site, write_site

SEED = 20_261  # not the one the demo recipe was learned from
MIX = Mix(defect=0.2, slow=0.1)
TRUNCATED_AT = 15  # this frame stays cut off
VERDICT_TIMEOUT_S = 60.0  # after the last frame was written
REFRESH_S = 0.25

Event = Shot | dict[str, Any] | Exception | None
"""A frame written, a verdict received, the scanner's fault, or None: the scanner has ended."""


def daemon_command(config: Path) -> list[str]:
    """How the demonstration starts the daemon."""
    return [sys.executable, "-m", "edge", "run", "--config", str(config)]


def run_demo(
    folder: Path | None,
    frames: int | None,
    rate: float = 5.0,
    *,
    http_port: int | None = None,
    mqtt_port: int | None = None,
    seed: int = SEED,
    console: Console | None = None,
    shipped: Path | None = None,
    command: Callable[[Path], list[str]] = daemon_command,
) -> int:
    """Run the demonstration until it is stopped, or until `frames` frames have their verdicts.

    Args:
        folder: of the site; None: a temporary one, deleted unless something failed.
        frames: to write; None: endless.
        rate: frames per second.
        http_port: of the daemon; None: a free one.
        mqtt_port: of the broker; None: a free one.
        seed: of the simulated parts.
        console: where to show it; None: stdout.
        shipped: the site that has the demo recipe; None: the one that came with edge.
        command: the daemon's command line, from its configuration file.

    Returns:
        0: all frames and parts had their verdicts, or the person ended it; 1: some had not, or a truncated
        frame was judged, or the daemon did not answer or end as it should.

    Raises:
        EdgeError: it cannot start, or cannot go on; the error says why.
    """
    if rate <= 0 or (frames is not None and frames < 1):
        raise UsageError("frames and rate must be more than 0", hint="edge demo --frames 60 --rate 5")
    recipes = shipped or shipped_site()
    console = console or Console()
    stop = threading.Event()
    with stop_on_signals(stop), EmbeddedBroker(mqtt_port) as broker:
        place = (folder or Path(tempfile.mkdtemp(prefix="edge-demo-"))).resolve()
        site = Site(place, http_port or free_port(), broker.port)
        write_site(site, recipes)
        shots = demo_shots(frames, seed, batch=f"D{datetime.now(UTC):%H%M%S}")
        scanner = Scanner(site.incoming, shots, frames_per_s=rate, settle_s=SETTLE_S)
        code = _demonstrate(site, scanner, Daemon(site, command(site.config)), stop, console)
    if folder is None and code == 0:
        shutil.rmtree(place, ignore_errors=True)
    else:
        console.print(f"kept: {place}", markup=False, highlight=False)
    return code


def demo_shots(frames: int | None, seed: int, batch: str) -> Iterator[Shot]:
    """What the demonstration's scanner writes: the usual mixture, and one frame that stays cut off."""
    cut = TRUNCATED_AT if frames is None else min(TRUNCATED_AT, frames // 2)
    for number, shot in enumerate(islice(stream(seed=seed, mix=MIX, batch=batch), frames)):
        yield replace(shot, style="truncated") if number == cut else shot


@contextmanager
def subscription(site: Site, inbox: queue.SimpleQueue[Event]) -> Iterator[None]:
    """While inside, verdicts from the broker go into `inbox`.

    Raises:
        UnavailableError: the broker does not take the subscription.
    """
    from paho.mqtt.client import Client, MQTTMessage, MQTTv311
    from paho.mqtt.enums import CallbackAPIVersion

    subscribed = threading.Event()

    def on_message(client: Client, userdata: object, message: MQTTMessage) -> None:
        inbox.put(json.loads(message.payload))

    client = Client(CallbackAPIVersion.VERSION2, client_id="edge-demo-table", protocol=MQTTv311)
    client.on_connect = lambda client, *_: client.subscribe("edge/demo/result/#", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = on_message
    client.connect(HOST, site.mqtt_port)
    client.loop_start()
    try:
        if not subscribed.wait(10):
            raise UnavailableError("the embedded broker does not answer")
        yield
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def scanning(scanner: Scanner, inbox: queue.SimpleQueue[Event]) -> Iterator[None]:
    """While inside, the scanner writes; what it wrote goes into `inbox`, and its end."""
    stop = threading.Event()

    def work() -> None:
        try:
            scanner.run(stop, lambda shot, capture: inbox.put(shot))
            inbox.put(None)
        except Exception as error:  # handed over to the loop that watches
            inbox.put(error)

    thread = threading.Thread(target=work, name="scanner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _demonstrate(
    site: Site, scanner: Scanner, daemon: Daemon, stop: threading.Event, console: Console
) -> int:
    """Daemon up, scanner on, verdicts counted, everything down again; the exit code."""
    ledger = Ledger(len(ALL_VIEWS))
    inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
    faults: list[str] = []
    daemon.start()
    try:
        daemon.wait_ready(stop)
        with subscription(site, inbox), scanning(scanner, inbox), _screen(site, console) as show:
            watch(ledger, inbox, stop, daemon.check, show)
        if not stop.is_set():
            faults = shortfalls(ledger)
            if "edge_frames_total" not in (get(site, "/metrics") or ""):
                faults.append(f"{site.url}/metrics does not answer with edge_frames_total")
    finally:
        end = daemon.stop()
    faults += [end] if end else []
    for line in (counts(ledger), truth_line(ledger.comparison()), *faults):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if faults else 0


def watch(
    ledger: Ledger,
    inbox: queue.SimpleQueue[Event],
    stop: threading.Event,
    check: Callable[[], None],
    show: Callable[[Ledger, Sequence[Entry]], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Book what comes in until all is complete, time is up, or `stop` is set.

    Raises:
        EdgeError: the scanner failed (it may fail with other errors too), or `check` found the daemon gone.
    """
    ended_s: float | None = None
    while not stop.is_set():
        fresh: list[Entry] = []
        for event in _arrived(inbox):
            if isinstance(event, Exception):
                raise event
            if event is None:
                ended_s = clock()
            elif isinstance(event, Shot):
                ledger.written(event)
            elif entry := ledger.verdict(event):
                fresh.append(entry)
        show(ledger, fresh)
        if ended_s is not None and (ledger.complete or clock() - ended_s > VERDICT_TIMEOUT_S):
            return
        check()


def _arrived(inbox: queue.SimpleQueue[Event]) -> list[Event]:
    """What is there within a refresh period; empty if nothing comes."""
    try:
        events = [inbox.get(timeout=REFRESH_S)]
        while not inbox.empty():
            events.append(inbox.get_nowait())
    except queue.Empty:
        return []
    return events


def shortfalls(ledger: Ledger) -> list[str]:
    """What keeps a demonstration from having succeeded, a line each."""
    return [
        *(f"no verdict for the frame {path}" for path in ledger.missing_frames()),
        *(f"no verdict for the part {part}" for part in ledger.missing_parts()),
        *(f"the truncated frame {path} was judged" for path in ledger.wrong()),
    ]


@contextmanager
def _screen(site: Site, console: Console) -> Iterator[Callable[[Ledger, Sequence[Entry]], None]]:
    """A live table on a terminal, otherwise a line a verdict."""
    urls = (f"page {site.url}/", f"metrics {site.url}/metrics", "Ctrl-C ends the demonstration")
    if not console.is_terminal:
        console.print("  ".join(urls[:2]), markup=False, highlight=False, soft_wrap=True)

        def show(ledger: Ledger, fresh: Sequence[Entry]) -> None:
            for entry in fresh:
                console.print(plain_line(entry), markup=False, highlight=False, soft_wrap=True)

        yield show
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda ledger, fresh: live.update(board(ledger, urls), refresh=True)
