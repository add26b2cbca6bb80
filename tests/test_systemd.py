import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.running import SILENCE_ALLOWED_S

UNIT = Path(__file__).parent.parent / "systemd" / "edge.service"


@pytest.fixture
def analyze() -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        if os.environ.get("EDGE_REQUIRE_ALL") == "1":
            pytest.fail("systemd-analyze is missing: apt-get install systemd")
        pytest.skip("needs systemd-analyze (apt-get install systemd)")
    return tool


def test_the_unit_verifies(analyze: str, tmp_path: Path) -> None:
    # verify wants the command to exist; everything else is checked as it is
    unit = tmp_path / "edge.service"
    unit.write_text(UNIT.read_text().replace("/opt/edge/bin/edge", sys.executable))
    result = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "edge.service" not in result.stderr


def test_the_unit_is_hardened(analyze: str) -> None:
    command = [analyze, "security", "--offline=yes", "--no-pager", UNIT]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    match = re.search(r"Overall exposure level for edge.service: ([0-9.]+)", output)
    assert match, output
    assert float(match[1]) <= 1.6


def test_the_watchdog_is_fed_often_enough_to_notice_a_hang_soon() -> None:
    text = UNIT.read_text()
    watchdog = re.search(r"^WatchdogSec=(\d+)$", text, re.M)
    assert watchdog
    assert "Type=notify" in text
    # a hang is noticed by the daemon within the silence allowed, and ended one watchdog period later
    assert SILENCE_ALLOWED_S + float(watchdog[1]) <= 90
