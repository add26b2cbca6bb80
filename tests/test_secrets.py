"""Passwords, tokens and passphrases are in no log, answer, message or file that edge writes."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge import config
from edge.check import notes
from edge.testing import write_frame
from tests.brokers import Mosquitto, free_port, require_mosquitto, until
from tests.publish.certificates import Authority
from tests.sites import DaemonProcess, make_recipe, write_config

PASSWORD = "pa55word-of-the-broker"
WRONG = "wr0ng-pa55word"
ENVIRONMENT = "env1ronment-pa55word"
TOKEN = "t0ken-of-the-page-0123456789"
OTHER_TOKEN = "other-t0ken-of-the-page-0123456789"
GUESS = "gue55ed-t0ken-0123456789"
PASSPHRASE = "pa55phrase-of-the-key"
MISPLACED = "m1splaced-pa55word"
SHORT = "sh0rt-t0ken"
SECRETS = (PASSWORD, WRONG, ENVIRONMENT, TOKEN, OTHER_TOKEN, GUESS, PASSPHRASE, MISPLACED, SHORT)


def leaks(text: str | bytes) -> list[str]:
    """The secrets in it, as they are or as Basic authentication writes them."""
    data = text.encode() if isinstance(text, str) else text
    written = {
        secret: (secret, base64.b64encode(f":{secret}".encode()).decode().strip("=")) for secret in SECRETS
    }
    return [secret for secret, forms in written.items() if any(form.encode() in data for form in forms)]


class Listener:
    """Hears everything on the broker, with a user name of its own."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.username_pw_set("listener", "listener")
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_message = lambda _c, _u, one: self.heard.append((one.topic, one.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def bodies(self, topic: str) -> list[bytes]:
        return [body for heard, body in list(self.heard) if heard == f"edge/st/{topic}"]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class GuardedSite:
    """A daemon with a password and a token, logging all it can."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_recipe(folder)
        self.broker = Mosquitto(
            folder / "broker", passwords={"edge": PASSWORD, "listener": "listener"}
        ).start()
        self.listener = Listener(self.broker.port)
        self.port = free_port()
        self.config = write_config(folder, self.broker.port, self.port)
        text = self.config.read_text()
        text = text.replace("[mqtt]", '[mqtt]\nusername = "edge"\npassword_file = "password"')
        text = text.replace("[http]", '[http]\ntoken_file = "token"')
        self.config.write_text(text + '[log]\nlevel = "debug"\n')
        self.write("password", PASSWORD)
        self.write("token", TOKEN)
        self.daemon = DaemonProcess(self.config, self.port)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text + "\n")
        (self.folder / name).chmod(0o600)

    def ask(self, path: str, authorization: str = f"Bearer {TOKEN}") -> tuple[int, str]:
        headers = {"Authorization": authorization} if authorization else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> dict[str, dict[str, dict[str, str]]]:
        found: dict[str, dict[str, dict[str, str]]] = json.loads(self.ask("/api/v1/status")[1])
        return found

    def edge(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge", *arguments, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def close(self) -> None:
        if self.daemon.process.poll() is None:
            self.daemon.kill()
        self.listener.close()
        self.broker.stop()


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedSite]:
    require_mosquitto()
    monkeypatch.setenv("EDGE_MQTT_PASSWORD", ENVIRONMENT)
    site = GuardedSite(tmp_path)
    yield site
    site.close()


@pytest.mark.slow
@pytest.mark.mosquitto
def test_a_daemon_tells_its_secrets_to_nobody(guarded: GuardedSite) -> None:
    said: list[str] = []
    guarded.daemon.ready()
    write_frame(guarded.folder / "incoming" / "B1" / "P1_01.png", defect=True)
    until(lambda: guarded.listener.bodies("result/frame"), "a verdict")
    until(lambda: guarded.listener.bodies("info") and guarded.listener.bodies("state"), "info and state")
    paths = (
        "/",
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/status",
        "/api/v1/verdicts",
        "/api/v1/spc",
        "/nowhere",
    )
    wrong = base64.b64encode(f"edge:{GUESS}".encode()).decode()
    for shown in (f"Bearer {TOKEN}", f"Bearer {GUESS}", f"Basic {wrong}", ""):
        said += [guarded.ask(path, shown)[1] for path in paths]

    # the broker changes its mind about us
    guarded.write("password", WRONG)
    guarded.broker.restart()
    until(lambda: "authori" in (guarded.status()["outbox"]["mqtt"]["lastError"] or "").lower(), "a refusal")
    said += [json.dumps(guarded.status()), guarded.ask("/readyz")[1]]

    # configurations that are no good: a password, a token in the wrong place, a token that is none
    good = guarded.config.read_text()
    for bad in (f'[mqtt]\npassword = "{MISPLACED}"', f'[mqtt]\nusername = ["{MISPLACED}"'):
        guarded.config.write_text(good.replace("[mqtt]", bad))
        before = guarded.ask("/metrics")[1]
        guarded.daemon.signal(signal.SIGHUP)
        until(lambda seen=before: _refusals(guarded.ask("/metrics")[1]) > _refusals(seen), "a refusal")
        said += [json.dumps(guarded.status())]
        for result in (guarded.edge("check"), guarded.edge("check", "--json"), guarded.edge("status")):
            assert result.returncode == 78
            said += [result.stdout, result.stderr]
    guarded.config.write_text(good)
    for token, code in ((OTHER_TOKEN, 78), (SHORT, 78), (TOKEN, 0)):
        guarded.write("token", token)
        results = [guarded.edge("status"), guarded.edge("status", "--json"), guarded.edge("check")]
        assert results[0].returncode == code, results[0].stderr
        said += [text for result in results for text in (result.stdout, result.stderr)]
    guarded.daemon.stop()

    assert [leak for text in said for leak in leaks(text)] == []
    assert [leak for _, body in guarded.listener.heard for leak in leaks(body)] == []
    log = guarded.daemon.log.read_text()
    assert '"level": "debug"' in log
    assert leaks(log) == []
    written = [file for file in (guarded.folder / "var").rglob("*") if file.is_file()]
    assert any(file.name.endswith(".sqlite3") for file in written)
    assert [(file, leak) for file in written for leak in leaks(file.read_bytes())] == []
    assert (
        b'"level": "debug"' in guarded.daemon.log.read_bytes() or b"debug" in guarded.daemon.log.read_bytes()
    )


def _refusals(exposition: str) -> float:
    (line,) = [line for line in exposition.splitlines() if line.startswith("edge_reload_failures_total")]
    return float(line.split()[1])


def test_a_key_with_a_passphrase_is_refused_without_asking_or_telling(tmp_path: Path) -> None:
    from edge.config import Tls
    from tests.publish.rigs import new_sink, step_until

    ca = Authority(tmp_path)
    own = ca.issue("st", passphrase=PASSPHRASE)
    tls = Tls(ca_file=ca.ca_file, cert_file=own.cert_file, key_file=own.key_file)
    sink = new_sink(free_port(), tls=tls)
    step_until(sink, lambda: sink.last_error, "it is refused")
    assert "passphrase" in sink.last_error
    assert leaks(sink.last_error) == []
    sink.close(1.0)


# what is weak is said, though it keeps nothing from running


def site(folder: Path, text: str) -> config.Settings:
    file = folder / "config.toml"
    file.write_text(f"schema_version = 1\n{text}")
    return config.load(file)


def test_nothing_is_noted_of_a_site_that_lets_nobody_in(tmp_path: Path) -> None:
    assert notes(site(tmp_path, "")) == []
    assert notes(site(tmp_path, '[mqtt]\nhost = "broker.plant"\nusername = "edge"\n[mqtt.tls]\n')) == []
    assert notes(site(tmp_path, '[mqtt]\nhost = "localhost"\nusername = "edge"\n')) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[mqtt]\nhost = "broker.plant"\nusername = "edge"',
            "the password and verdicts cross the network in clear",
        ),
        ('[mqtt]\nhost = "192.0.2.1"', "[mqtt.tls]: verdicts cross"),
        ('[http]\nlisten = "192.0.2.1:9470"\ntoken_file = "t"', "http.listen = '192.0.2.1:9470'"),
    ],
)
def test_what_crosses_the_network_in_clear_is_noted(tmp_path: Path, text: str, said: str) -> None:
    (note,) = notes(site(tmp_path, text))
    assert said in note


def test_secrets_that_everybody_can_read_are_noted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(PASSWORD)
    settings = site(tmp_path, '[mqtt]\npassword_file = "secret"\n')
    (tmp_path / "secret").chmod(0o644)
    (note,) = notes(settings)
    assert "mqtt.password_file" in note
    assert leaks(note) == []
    (tmp_path / "secret").chmod(0o640)
    assert notes(settings) == []


def test_sparkplug_in_clear_and_its_secrets_are_noted(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    (tmp_path / "secret").write_text(PASSWORD)
    (tmp_path / "secret").chmod(0o644)
    text = '[mqtt]\nenabled = false\n[sparkplug]\nenabled = true\nhost = "scada"\n'
    file.write_text(text + 'password_file = "secret"\n')
    found = notes(config.load(file))
    assert any("[sparkplug]" in note and "in clear" in note for note in found)
    assert any("sparkplug.password_file" in note and "chmod" in note for note in found)
    assert leaks("\n".join(found)) == []
