"""The demonstration around the daemon: its site, broker, accounting and ending; a stand-in is the daemon."""

import io
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

import edge.demo
import edge.simulate.site
from edge.config import load
from edge.demo import demo_shots, run_demo, subscription, watch
from edge.errors import CannotWriteError, DataError, MissingInputError, UnavailableError, UsageError
from edge.simulate.broker import HOST, EmbeddedBroker, free_port
from edge.simulate.ledger import Ledger
from edge.simulate.process import Daemon, get
from edge.simulate.shots import Capture, Shot
from edge.simulate.site import Site, shipped_site, write_site

FAKE = Path(__file__).with_name("fake_daemon.py")


def fake(mode: str) -> Callable[[Path], list[str]]:
    return lambda config: [sys.executable, str(FAKE), str(config), mode]


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A site that ships a demo recipe, as far as the demonstration looks."""
    for file in ("engines/demo/bundle.json", "calibration/demo.json"):
        (tmp_path / "shipped" / file).parent.mkdir(parents=True)
        (tmp_path / "shipped" / file).write_text("{}")
    return tmp_path / "shipped"


def demonstrate(folder: Path, recipes: Path, mode: str, frames: int = 13) -> tuple[int, str]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=False, width=300)
    code = run_demo(folder, frames, 60.0, console=console, shipped=recipes, command=fake(mode))
    return code, text.getvalue()


# --- the site ---------------------------------------------------------------------------------------------


def test_the_site_is_a_valid_configuration(tmp_path: Path, recipes: Path) -> None:
    site = Site(tmp_path / 'a "quoted" site', 9999, 1888)
    write_site(site, recipes)
    settings = load(site.config)
    assert settings.station.name == "demo"
    assert settings.paths.engines == recipes / "engines"
    assert settings.source[0].directory == site.incoming
    assert (settings.source[0].settle_s, settings.source[0].incomplete_after_s) == (0.5, 3.0)
    assert settings.source[0].template == "{batch}/{part}_{view}"
    assert settings.recipe["demo"].views == ("01", "02", "03", "04", "05", "06")
    assert (settings.mqtt.port, settings.mqtt.protocol) == (1888, 311)
    assert settings.http.address == (HOST, 9999)


def test_a_site_that_is_no_demonstration_is_left_alone(tmp_path: Path, recipes: Path) -> None:
    (tmp_path / "config.toml").write_text("schema_version = 1\n")
    with pytest.raises(CannotWriteError):
        write_site(Site(tmp_path, 1, 2), recipes)
    assert (tmp_path / "config.toml").read_text() == "schema_version = 1\n"


def test_a_demonstration_can_be_repeated_in_its_folder(tmp_path: Path, recipes: Path) -> None:
    write_site(Site(tmp_path, 1111, 2222), recipes)
    write_site(Site(tmp_path, 3333, 4444), recipes)
    assert load(tmp_path / "config.toml").mqtt.port == 4444


def test_the_shipped_recipe_is_looked_for_in_the_package_and_then_in_the_repository(
    recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.simulate.site, "__file__", str(recipes / "edge/simulate/site.py"))
    assert shipped_site() == recipes
    (recipes / "edge").mkdir()
    (recipes / "edge/_site").symlink_to(recipes)
    assert shipped_site() == recipes / "edge/_site"
    (recipes / "calibration/demo.json").unlink()
    with pytest.raises(MissingInputError, match="edge learn"):
        shipped_site()


# --- the broker -------------------------------------------------------------------------------------------


def test_verdicts_reach_the_inbox_through_the_embedded_broker(tmp_path: Path) -> None:
    inbox: queue.SimpleQueue[edge.demo.Event] = queue.SimpleQueue()
    with EmbeddedBroker() as broker, subscription(Site(tmp_path, 1, broker.port), inbox):
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv311)
        client.connect(HOST, broker.port)
        client.loop_start()
        client.publish("edge/demo/state", '{"not": "a verdict"}', qos=1, retain=True)
        for number in range(50):
            client.publish("edge/demo/result/frame", f'{{"resultId": "{number}"}}', qos=1)
        received = [inbox.get(timeout=10) for _ in range(50)]
        client.disconnect()
        client.loop_stop()
    assert received == [{"resultId": str(number)} for number in range(50)]


def test_the_broker_frees_its_port_even_with_a_client_connected() -> None:
    with EmbeddedBroker() as broker:
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv311)
        client.connect(HOST, broker.port)
        client.loop_start()
    client.loop_stop()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((HOST, broker.port))


def test_a_taken_port_is_an_error_not_a_hang() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(UnavailableError, match="did not start"), EmbeddedBroker(taken.getsockname()[1]):
            pass


def test_without_amqtt_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amqtt.broker", None)
    with pytest.raises(UnavailableError, match=r"edge-inspect\[demo\]"), EmbeddedBroker():
        pass


# --- what is written and booked ---------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 12, 60])
def test_exactly_one_frame_stays_truncated(frames: int) -> None:
    shots = list(demo_shots(frames, 1, "D1"))
    assert len(shots) == frames
    assert [shot.style for shot in shots].count("truncated") == 1


def test_sixty_frames_have_defective_parts_and_slow_frames() -> None:
    shots = list(demo_shots(60, edge.demo.SEED, "D1"))
    assert len({shot.part for shot in shots if shot.label == "defect"}) == 2
    assert [shot.style for shot in shots].count("slow") in (5, 6)


def booked(events: list[edge.demo.Event], clock: Callable[[], float]) -> Ledger:
    inbox: queue.SimpleQueue[edge.demo.Event] = queue.SimpleQueue()
    for event in events:
        inbox.put(event)
    ledger = Ledger(6)
    watch(ledger, inbox, threading.Event(), lambda: None, lambda *_: None, clock)
    return ledger


SHOT = Shot("B/P_01.png", lambda: Capture(b""), "good", "P", "01", "B", "direct")
VERDICT = {"resultId": "1", "resultType": "frame", "image": {"path": "B/P_01.png"}, "resultEvaluation": "OK"}


def test_watching_ends_when_everything_has_its_verdict() -> None:
    assert booked([SHOT, None, VERDICT], lambda: 0.0).complete


def test_watching_gives_up_a_minute_after_the_last_frame() -> None:
    times = iter((0.0, 61.0))
    assert booked([SHOT, None], lambda: next(times)).missing_frames() == ["B/P_01.png"]


def test_a_fault_of_the_scanner_ends_the_watching() -> None:
    with pytest.raises(DataError, match="disk"):
        booked([SHOT, DataError("disk full")], lambda: 0.0)


# --- the whole, with a stand-in for the daemon ------------------------------------------------------------


def test_all_verdicts_make_a_success(tmp_path: Path, recipes: Path) -> None:
    code, text = demonstrate(tmp_path / "site", recipes, "honest")
    assert code == 0, text
    assert "13 frames written, 13 frame verdicts (12 OK, 0 NotOK, 1 NotDecidable), 2 part verdicts" in text
    assert "1 of 1 truncated frames refused" in text
    assert "false alarms" in text
    assert re.search(r"P000001 view 01 OK", text)
    assert re.search(r"P000001 part +OK", text)


@pytest.mark.parametrize(
    ("mode", "complaint"),
    [
        ("forgetful", "no verdict for the frame D"),
        ("gullible", "was judged"),
        ("stubborn", "exit code 70"),
    ],
)
def test_what_falls_short_is_named_and_fails(
    tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch, mode: str, complaint: str
) -> None:
    monkeypatch.setattr(edge.demo, "VERDICT_TIMEOUT_S", 3.0)
    code, text = demonstrate(tmp_path / "site", recipes, mode, frames=7)
    assert code == 1
    assert complaint in text
    assert "kept: " in text


def test_a_daemon_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path, recipes: Path) -> None:
    with pytest.raises(UnavailableError, match=r"exit code 65[\s\S]*engine refused: just a test"):
        demonstrate(tmp_path / "site", recipes, "dead")


def test_nonsense_is_refused(recipes: Path) -> None:
    for frames, rate in ((0, 5.0), (5, 0.0)):
        with pytest.raises(UsageError):
            run_demo(None, frames, rate, shipped=recipes)


def test_a_temporary_site_is_deleted_after_a_success(
    tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    console = Console(file=io.StringIO())
    assert run_demo(None, 1, 60.0, console=console, shipped=recipes, command=fake("honest")) == 0
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_endless_demonstration_cleanly(
    tmp_path: Path, recipes: Path, number: signal.Signals
) -> None:
    code = (
        "import sys; from pathlib import Path; from edge.demo import run_demo\n"
        f"command = lambda config: [sys.executable, {str(FAKE)!r}, str(config), 'honest']\n"
        f"sys.exit(run_demo(Path({str(tmp_path / 'site')!r}), None, 30.0, shipped=Path({str(recipes)!r}), "
        "command=command))"
    )
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    root = Path(edge.demo.__file__).parents[1]
    demo = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root, env=environment, text=True
    )
    assert demo.stdout is not None
    with demo.stdout as lines:
        for line in lines:
            if " view " in line:
                break
        demo.send_signal(number)
        rest = lines.read()
    assert demo.wait(20) == 0
    assert "frames written" in rest
    port = load(tmp_path / "site/config.toml").http.address[1]
    assert get(Site(tmp_path, port, 1), "/readyz") is None, "the daemon is still there"


def test_a_daemon_that_does_not_stop_is_killed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.simulate.process.STOP_TIMEOUT_S", 0.2)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); "
        "time.sleep(60)"
    )
    site = Site(tmp_path, free_port(), 1)
    daemon = Daemon(site, [sys.executable, "-c", deaf])
    daemon.start()
    while "deaf" not in site.log.read_text():
        daemon.check()
    assert "was killed" in daemon.stop()
