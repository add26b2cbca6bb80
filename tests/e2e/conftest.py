from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.brokers import Mosquitto, require_mosquitto
from tests.publish.rigs import Subscriber
from tests.sites import DaemonProcess, free_port, make_recipe, write_config


@dataclass
class Site:
    """A folder with a recipe, a broker with a consumer, and daemons that are ended with the test."""

    folder: Path
    broker: Mosquitto
    subscriber: Subscriber
    http_port: int
    daemons: list[DaemonProcess]

    def configure(self, **source: object) -> Path:
        return write_config(self.folder, self.broker.port, self.http_port, **source)

    def broker_log(self) -> str:
        """What Mosquitto says of who came and went."""
        return (self.folder / "broker/log").read_text()

    def start(self) -> DaemonProcess:
        daemon = DaemonProcess(self.folder / "config.toml", self.http_port)
        self.daemons.append(daemon)
        return daemon.ready()


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    make_recipe(folder)
    return folder


@pytest.fixture
def site(tmp_path: Path, recipe: Path) -> Iterator[Site]:
    require_mosquitto()
    for name in ("engines", "calibration"):
        (tmp_path / name).symlink_to(recipe / name)
    broker = Mosquitto(tmp_path / "broker").start()
    # a session that the broker keeps: a consumer that was away misses nothing
    subscriber = Subscriber(broker.port, session="consumer")
    site = Site(tmp_path, broker, subscriber, free_port(), [])
    site.configure()
    yield site
    for daemon in site.daemons:
        if daemon.process.poll() is None:
            daemon.kill()
    subscriber.close()
    broker.stop()
