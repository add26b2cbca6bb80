"""`python -m tests.torture.kill_loop --kills 500`: frames stream in, the daemon is killed again and again.

Each time it is killed at a random moment after its start: while it starts, works, or waits. In the end it may
work off what is left; then every frame must have one stored verdict, and each must have reached the consumer,
copies with equal ids.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

from edge.testing import write_frame
from tests.brokers import Mosquitto, until
from tests.e2e.conftest import Site
from tests.publish.rigs import Subscriber
from tests.sites import VIEWS, DaemonProcess, free_port, make_recipe
from tests.torture.tally import count, reasons

LONGEST_LIFE_S = 3.0
PAUSE_S = 0.15  # between two frames, on average


class Loop:
    """A scanner that writes parts of good frames, and a daemon that is killed."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site, self._random = site, random.Random(seed)
        self.paths: list[str] = []
        self._stop = threading.Event()
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    @property
    def parts(self) -> int:
        return len(self.paths) // len(VIEWS)

    def kill_once(self) -> float:
        """Start the daemon, and kill it at some moment; gives how long it lived."""
        life_s = self._random.uniform(0.0, LONGEST_LIFE_S)
        daemon = DaemonProcess(self.site.folder / "config.toml", self.site.http_port)
        time.sleep(life_s)
        assert daemon.process.poll() is None, daemon.log.read_text()[-3000:]
        daemon.kill()
        return life_s

    def stop_feeding(self) -> None:
        """The scanner ends with a whole part."""
        self._stop.set()
        self._feeder.join()

    def _feed(self) -> None:
        draw = random.Random(7)
        while not self._stop.is_set():
            for view in VIEWS:
                number = len(self.paths)
                path = f"B{number // 1000}/P{number // len(VIEWS):05d}_{view}.png"
                scratch = write_frame(self.site.folder / "feeding.png", seed=number)
                target = self.site.folder / "incoming" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch, target)
                self.paths.append(path)
            self._stop.wait(draw.uniform(0, 2 * len(VIEWS) * PAUSE_S))


def main() -> int:
    """Run the loop and print what became of it; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.kill_loop", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-kills-") as name:
        folder = Path(name)
        make_recipe(folder)
        broker = Mosquitto(folder / "broker").start()
        subscriber = Subscriber(broker.port, session="consumer")
        site = Site(folder, broker, subscriber, free_port(), [])
        site.configure(part_timeout_s=None)
        try:
            return _run(site, asked.kills, asked.seed)
        finally:
            for daemon in site.daemons:
                daemon.process.kill()
            subscriber.close()
            broker.stop()


def _run(site: Site, kills: int, seed: int) -> int:
    loop, began_s = Loop(site, seed), time.monotonic()
    for number in range(kills):
        loop.kill_once()
        if number % 25 == 24:
            print(f"{number + 1} kills, {len(loop.paths)} frames", file=sys.stderr, flush=True)
    loop.stop_feeding()
    daemon = site.start()
    frames = len(loop.paths)
    until(lambda: sum(daemon.status()["verdicts"]["frame"].values()) >= frames, "all judged", 1200)
    until(lambda: daemon.status()["outbox"]["mqtt"]["depth"] == 0, "the outbox is empty", 300)
    until(lambda: sum(daemon.status()["verdicts"]["part"].values()) >= loop.parts, "all parts", 60)
    until(lambda: daemon.status()["outbox"]["mqtt"]["depth"] == 0, "the outbox is empty", 300)
    time.sleep(1.0)
    daemon.stop()
    received = [bytes(m.payload) for m in list(site.subscriber.messages) if "/result/" in m.topic]
    tally = count(site.folder / "var/edge.sqlite3", loop.paths, received)
    broken = tally.broken(loop.parts)
    print(f"{kills} kills in {(time.monotonic() - began_s) / 60:.1f} minutes, seed {seed}")
    for key, value in asdict(tally).items():
        print(f"{key.replace('_', ' ')}: {value}")
    print("reasons:", dict(reasons(site.folder / "var/edge.sqlite3")))
    print("broken:", "; ".join(broken) or "nothing")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
