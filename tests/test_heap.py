"""Freed planes go back to the system, also where small things were made between them."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, numpy as np
from edge.heap import steady_heap
if sys.argv[1] == "steady":
    assert steady_heap()
def rss_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
np.ones(4_000_000 // 8); np.ones(16_000_000 // 8)  # freed: glibc now takes what is smaller from its heap
before, kept = rss_mb(), []
planes = []
for number in range(100):
    planes.append(np.ones(1_000_000 // 8))
    kept.append(np.ones(3000 // 8))
planes.clear()
print(rss_mb() - before)
"""


def growth_mb(how: str) -> float:
    command = [sys.executable, "-c", SCRIPT, how]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_planes_leave_nothing_behind() -> None:
    assert growth_mb("steady") < 10
    assert growth_mb("as it comes") > 50  # or there is nothing left to do for edge.heap
