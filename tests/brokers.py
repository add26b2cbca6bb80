"""Real MQTT brokers for tests, each in its own process or thread on a free loopback port."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 60.0  # a loaded machine is slow, not wrong


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def until(condition: Callable[[], object], what: str = "", deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition()` is true; fails the test when it does not become so."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)


class Mosquitto:
    """Debian's mosquitto as `mosquitto -c FILE`; call `start` before use and `stop` after.

    `passwords` makes it ask for user and password; `acl` restricts topics; `tls` (CA, certificate, key) makes
    it speak TLS and ask for a client certificate of that CA. See mosquitto.conf(5).
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        passwords: dict[str, str] | None = None,
        acl: str = "",
        tls: tuple[Path, Path, Path] | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port() if port is None else port
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'false' if passwords else 'true'}",
            "persistence true",
            f"persistence_location {folder}/",
            f"acl_file {folder}/acl",
            "log_dest stderr",
            f"user {getpass.getuser()}",  # as root it would become `mosquitto`, who may not read our files
        ]
        if tls is not None:
            ca, certificate, key = tls
            lines += [f"cafile {ca}", f"certfile {certificate}", f"keyfile {key}", "require_certificate true"]
        if passwords:
            lines.append(f"password_file {folder}/passwords")
            for user, password in passwords.items():
                (folder / "passwords").touch(mode=0o600)
                command = ["mosquitto_passwd", "-b", str(folder / "passwords"), user, password]
                subprocess.run(command, check=True, capture_output=True)
        self.set_acl(acl)
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def set_acl(self, acl: str) -> None:
        """Rules for whoever gives no user name; empty allows all. A running broker reads them at once."""
        (self.folder / "acl").write_text(acl or "pattern readwrite #\n")
        if self._process is not None:
            seen = self._log().count("Reloading config.")
            self._process.send_signal(signal.SIGHUP)
            until(lambda: self._log().count("Reloading config.") > seen, "mosquitto reads its ACL")

    def start(self) -> Mosquitto:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_mosquitto(), "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        until(self._accepts, "mosquitto listens")
        return self

    def stop(self) -> None:
        """End it as an administrator would; it saves its persistence first."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
            self._process = None

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE_S)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self._process.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "mosquitto stands still")

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _log(self) -> str:
        return (self.folder / "log").read_text()

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"mosquitto ended:\n{self._log()}"
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


def _mosquitto() -> str:
    return (
        shutil.which("mosquitto", path=os.defpath + ":/usr/sbin:" + os.environ.get("PATH", "")) or "mosquitto"
    )


def require_mosquitto() -> None:
    """Skip the test where Debian's mosquitto is not installed; fail it where EDGE_REQUIRE_ALL=1."""
    if shutil.which(_mosquitto()) is None:
        reason = "mosquitto is not installed (apt-get install mosquitto)"
        if os.environ.get("EDGE_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


class Amqtt:
    """The demo's embedded broker (MQTT 3.1.1 only), in a thread with an event loop of its own."""

    def __init__(self, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._broker: Any = None

    def start(self) -> Amqtt:
        self._thread.start()
        self._call(self._start())
        return self

    def stop(self) -> None:
        self._call(self._broker.shutdown())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    async def _start(self) -> None:
        from amqtt.broker import Broker

        plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        listener = {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}
        self._broker = Broker({"listeners": {"default": listener}, "plugins": plugins})
        await self._broker.start()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_S)
