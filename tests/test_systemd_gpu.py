"""The template unit, one daemon for each GPU: as hardened as the other, but for what a GPU needs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.confined import lines
from tests.test_systemd import MOST_EXPOSURE, NETWORK, UNIT, _missing

TEMPLATE = UNIT.parent / "edge@.service"

# What may differ: where the site is, which GPU, how long a build may take, and the devices
OWN_KEYS = {
    "Description", "After", "Environment", "ExecStart", "TimeoutStartSec", "StateDirectory",
    "WorkingDirectory", "PrivateDevices", "DevicePolicy", "DeviceAllow",
}  # fmt: skip


@pytest.fixture
def analyze() -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        _missing("needs systemd-analyze (apt-get install systemd)")
    assert tool
    return tool


def settings(unit: Path) -> set[str]:
    """Its lines, without comments and headings."""
    return {line for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#")}


def test_it_verifies_for_a_gpu_with_a_broker_elsewhere(analyze: str, tmp_path: Path) -> None:
    unit = tmp_path / "edge@1.service"
    text = TEMPLATE.read_text().replace("/opt/edge/bin/edge", sys.executable)  # which must exist
    unit.write_text(f"{text}\n{NETWORK.read_text()}")
    result = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "edge@" not in result.stderr


def test_it_is_as_hardened_as_a_unit_with_devices_can_be(analyze: str) -> None:
    command = [analyze, "security", "--offline=yes", "--no-pager", TEMPLATE]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    match = re.search(r"Overall exposure level for edge@i?.service: ([0-9.]+)", output)
    assert match, output
    assert float(match[1]) <= MOST_EXPOSURE


def test_it_says_all_that_the_other_unit_says_but_for_the_gpu() -> None:
    ours, theirs = settings(TEMPLATE), settings(UNIT)
    assert {line.partition("=")[0] for line in ours ^ theirs} <= OWN_KEYS


def test_each_has_its_gpu_by_the_number_that_nvidia_smi_gives_and_its_own_site() -> None:
    text = TEMPLATE.read_text()
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=%i" in lines(text, "Environment")
    assert lines(text, "StateDirectory") == ["edge-%i"]
    assert lines(text, "WorkingDirectory") == ["/var/lib/edge-%i"]
    assert lines(text, "ExecStart")[0].endswith("--config /var/lib/edge-%i/config.toml")


def test_only_nvidias_devices_can_be_opened() -> None:
    text = TEMPLATE.read_text()
    assert lines(text, "DevicePolicy") == ["closed"]
    assert lines(text, "PrivateDevices") == []
    allowed = lines(text, "DeviceAllow")
    assert all(device.startswith("char-nvidia") for device in allowed)
    assert "char-nvidia-uvm rw" in allowed


def test_a_start_that_builds_engines_has_time_until_the_daemon_asks_for_more() -> None:
    """TensorRT's builds say every few seconds that they go on (`edge.infer.tensorrt.BEAT_S`)."""
    from edge.infer.tensorrt import BEAT_S

    assert float(lines(TEMPLATE.read_text(), "TimeoutStartSec")[0]) >= 10 * BEAT_S
