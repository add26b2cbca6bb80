"""The unit file: how much it leaves open, how soon a hang ends, and that the daemon works inside it."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.observe.notify import WATCHDOG_SHARE
from edge.running import SILENCE_ALLOWED_S
from edge.testing import write_frame
from tests.brokers import free_port, until
from tests.confined import allowed, lines
from tests.sites import make_recipe, write_config

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "systemd" / "edge.service"
NETWORK = UNIT.parent / "edge.service.d" / "network.conf.example"
MOST_EXPOSURE = 1.2


def _missing(what: str) -> None:
    if os.environ.get("EDGE_REQUIRE_ALL") == "1":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture
def analyze() -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        _missing("needs systemd-analyze (apt-get install systemd)")
    assert tool
    return tool


def _with_network(folder: Path) -> Path:
    """The unit as a site has it whose broker is elsewhere: systemd reads a drop-in after the unit."""
    unit = folder / "edge.service"
    # verify wants the command to exist; everything else is checked as it is
    text = UNIT.read_text().replace("/opt/edge/bin/edge", sys.executable)
    unit.write_text(f"{text}\n{NETWORK.read_text()}")
    return unit


def _exposure(analyze: str, unit: Path) -> float:
    command = [analyze, "security", "--offline=yes", "--no-pager", unit]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    match = re.search(r"Overall exposure level for edge.service: ([0-9.]+)", output)
    assert match, output
    return float(match[1])


def test_the_unit_and_the_example_drop_in_verify(analyze: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [analyze, "verify", _with_network(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "edge.service" not in result.stderr


def test_the_unit_is_hardened(analyze: str) -> None:
    assert _exposure(analyze, UNIT) <= MOST_EXPOSURE


def test_the_unit_is_hardened_with_a_broker_elsewhere(analyze: str, tmp_path: Path) -> None:
    assert _exposure(analyze, _with_network(tmp_path)) <= MOST_EXPOSURE


def test_sysusers_and_tmpfiles_are_taken(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for tool, name, more in (
        ("systemd-sysusers", "edge.sysusers", []),
        ("systemd-tmpfiles", "edge.tmpfiles", ["--create"]),
    ):
        if shutil.which(tool) is None:
            _missing(f"needs {tool} (apt-get install systemd)")
        command = [tool, f"--root={tmp_path}", *more, UNIT.parent / name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Failed" not in done.stderr
    assert "edge-frames:" in (tmp_path / "etc/group").read_text()
    assert (tmp_path / "etc/edge").is_dir()
    assert (
        "SupplementaryGroups=edge-frames" in (UNIT.parent / "edge.service.d/frames.conf.example").read_text()
    )


def test_a_hang_is_noticed_and_ended_soon() -> None:
    text = UNIT.read_text()
    (watchdog,) = lines(text, "WatchdogSec")
    assert lines(text, "Type") == ["notify"]
    # silent for so long, a loop is hung: /healthz says so at once, the status at the next pulse, and systemd
    # ends it one period after the last
    assert SILENCE_ALLOWED_S + WATCHDOG_SHARE * float(watchdog) <= 30
    assert SILENCE_ALLOWED_S + float(watchdog) <= 35


def test_it_starts_again_for_ever_but_not_with_a_wrong_configuration() -> None:
    text = UNIT.read_text()
    assert lines(text, "StartLimitIntervalSec") == ["0"]
    assert lines(text, "Restart") == ["always"]
    assert float(lines(text, "RestartSec")[0]) <= 5
    assert lines(text, "RestartPreventExitStatus") == ["78"]  # of ConfigError
    assert lines(text, "OOMPolicy") == ["continue"]  # a worker that is too big does not end the daemon


def test_workers_may_lock_themselves_in(analyze: str) -> None:
    calls = allowed(UNIT.read_text())
    assert {"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"} <= calls
    assert {"prctl", "setrlimit", "prlimit64", "sched_setaffinity"} <= calls
    assert not {"ptrace", "mount", "bpf", "setuid", "chown", "init_module"} & calls


# What the unit forbids, done with the kernel's own means: see tests/confined.py


@pytest.fixture
def confined(analyze: str) -> list[str]:
    """The beginning of a command that runs as confined as the unit says."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        _missing("needs root and unshare(1) to make a mount namespace")
    return ["unshare", "--mount", sys.executable, "-m", "tests.confined", str(UNIT)]


FORBIDDEN = """
import os
for attempt in (lambda: os.chroot("/"), lambda: os.setuid(1), lambda: os.chown("/", 1, 1)):
    try:
        attempt()
        print("allowed")
    except PermissionError:
        print("refused")
"""


def test_confined_as_the_unit_says_nothing_privileged_can_be_done(confined: list[str]) -> None:
    command = [*confined, sys.executable, "-c", FORBIDDEN]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.stdout.split() == ["refused"] * 3, result.stderr


@pytest.fixture
def answer_port(tmp_path: Path) -> int:
    make_recipe(tmp_path)
    port = free_port()
    config = write_config(tmp_path, free_port(), port)
    config.write_text(config.read_text().replace("[mqtt]", "[mqtt]\nenabled = false"))
    return port


@pytest.fixture
def confined_daemon(
    confined: list[str], answer_port: int, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*confined, sys.executable, "-m", "edge", "run", "--config", str(tmp_path / "config.toml")],
            stdout=log, stderr=log, cwd=ROOT,
        )  # fmt: skip
    yield process
    process.kill()
    process.wait(30)


def _evaluations(port: int) -> dict[str, str]:
    """What was found for each view; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/verdicts", timeout=5) as answer:
            verdicts = json.loads(answer.read())
    except OSError:
        return {}
    return {v["view"]: v["resultEvaluation"] for v in verdicts if v["resultType"] == "frame"}


@pytest.mark.slow
def test_the_daemon_inspects_while_confined_as_the_unit_says(
    confined_daemon: subprocess.Popen[bytes], answer_port: int, tmp_path: Path
) -> None:
    def judged() -> bool:
        assert confined_daemon.poll() is None, (tmp_path / "log").read_text()
        return len(_evaluations(answer_port)) == 2

    for view, defect in (("01", False), ("02", True)):
        incoming = tmp_path / "incoming" / "B1" / f"P1_{view}.png"
        incoming.parent.mkdir(parents=True, exist_ok=True)
        os.replace(write_frame(tmp_path / "scratch.png", defect=defect), incoming)
    until(judged, "two verdicts")
    assert _evaluations(answer_port) == {"01": "OK", "02": "NotOK"}, (tmp_path / "log").read_text()


WITHOUT_NEW_CODE = """
import ctypes, sys
import numpy as np, openvino as ov
from tests.sites import blurring_network
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
core = ov.Core()
core.compile_model(core.read_model(blurring_network()), "CPU")
"""


@pytest.mark.slow
def test_the_engine_cannot_work_without_making_code(analyze: str) -> None:
    """Why MemoryDenyWriteExecute is off: once this fails, turn it on."""
    assert not lines(UNIT.read_text(), "MemoryDenyWriteExecute")
    command = [sys.executable, "-c", WITHOUT_NEW_CODE]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if "AssertionError" in result.stderr:
        _missing("needs a kernel with PR_SET_MDWE (6.3)")
    assert result.returncode != 0
    assert "can't protect" in result.stderr, result.stderr
